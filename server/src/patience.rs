//! A stream that is patient with its reader for a while only: an answer that nobody takes must not hold memory and a
//! place among the connections for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a reader may take for [`BYTES_MIN`] of an answer: 17 kilobits a second.
const WAIT: Duration = Duration::from_secs(30);

/// See [`WAIT`].
const BYTES_MIN: usize = 64 << 10;

/// A stream whose writes fail once its reader is too slow.
pub(crate) struct Patient<S> {
    stream: S,
    wait: Duration,
    /// Ends when the reader has been waited for too long; there while it is waited for.
    patience: Option<Pin<Box<Sleep>>>,
    /// Bytes taken since then.
    taken: usize,
}

impl<S> Patient<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, wait: WAIT, patience: None, taken: 0 }
    }

    /// Takes note of what a write came to.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.wait(context).map(Err),
            Poll::Ready(Ok(bytes)) => {
                self.taken = self.taken.saturating_add(bytes);
                // One byte now and then is no progress.
                if self.taken >= BYTES_MIN {
                    (self.patience, self.taken) = (None, 0);
                }
                Poll::Ready(Ok(bytes))
            }
            failed => failed,
        }
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.patience.is_none() {
            self.taken = 0;
        }
        let wait = self.wait;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        ready!(patience.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read in time"))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.wait(context).map(Err),
            Poll::Ready(flushed) => {
                // Everything is with the operating system: nobody is waited for.
                (self.patience, self.taken) = (None, 0);
                Poll::Ready(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.wait(context).map(Err),
            ready => ready,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn patient(wait_ms: u64, buffer: usize) -> (Patient<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(buffer);
        (Patient { wait: Duration::from_millis(wait_ms), ..Patient::new(near) }, far)
    }

    #[tokio::test]
    async fn a_reader_that_reads_nothing_is_given_up() {
        let (mut near, _far) = patient(100, 1024);
        let error = near.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_not_enough() {
        let (mut near, mut far) = patient(300, 1024);
        let reader = tokio::spawn(async move {
            let mut bytes = 0;
            while far.read_u8().await.is_ok() {
                bytes += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bytes
        });
        let error = near.write_all(&[0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(near);
        println!("given up, with {} bytes read", reader.await.unwrap());
    }

    #[tokio::test]
    async fn a_slow_reader_gets_all_of_it() {
        // Takes longer than the wait altogether, and much less for each part.
        let (mut near, mut far) = patient(2_000, BYTES_MIN);
        let reader = tokio::spawn(async move {
            let (mut bytes, mut buffer) = (0, vec![0; BYTES_MIN]);
            while let Ok(read @ 1..) = far.read(&mut buffer).await {
                bytes += read;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            bytes
        });
        near.write_all(&vec![0; 10 * BYTES_MIN]).await.unwrap();
        near.shutdown().await.unwrap();
        drop(near);
        assert_eq!(reader.await.unwrap(), 10 * BYTES_MIN);
    }
}
