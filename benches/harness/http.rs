//! An HTTP/1.1 client that costs next to nothing: it shares the machine with the log that it measures.
//!
//! Requests are whole buffers, framed before the clock starts; answers must carry `content-length`. Keep-alive, no TLS,
//! one request at a time.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::AnyError;

/// Longest head of an answer in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Longest body of an answer in bytes: an entry bundle of 256 entries of 64 KiB, and to spare.
const BODY_BYTES_MAX: usize = 32 << 20;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// The bytes of a POST request; the body starts at the returned position.
#[must_use]
pub fn post(host: &str, path: &str, media: &str, body: &[u8]) -> (Vec<u8>, usize) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    ([head.as_bytes(), body].concat(), head.len())
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(host: &str) -> Result<Self, AnyError> {
        let stream = TcpStream::connect(host).await.map_err(|error| format!("{host}: {error}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(HEAD_BYTES_MAX) })
    }

    /// Fetches a path; anything but status 200 is an error.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Vec<u8>, AnyError> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let Answer { status, body } = self.send(request.as_bytes()).await?;
        if status == 200 {
            return Ok(body);
        }
        Err(format!("{path}: status {status}: {}", String::from_utf8_lossy(&body)).into())
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not one that this client reads.
    pub async fn send(&mut self, request: &[u8]) -> Result<Answer, AnyError> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err("the head of an answer is too long".into());
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
        };
        let (status, length) = parse_head(&self.buffer[..head]).ok_or("not an answer with content-length")?;
        if length > BODY_BYTES_MAX {
            return Err("the body of an answer is too long".into());
        }
        let start = head + 4;
        self.buffer.reserve((start + length).saturating_sub(self.buffer.len()));
        while self.buffer.len() < start + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection within an answer".into());
            }
        }
        Ok(Answer { status, body: self.buffer[start..start + length].to_vec() })
    }
}

/// Status and `content-length`.
fn parse_head(head: &[u8]) -> Option<(u16, usize)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.filter_map(|line| line.split_once(':'));
    let length = length.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Some((status, length?.1.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{parse_head, post};

    #[test]
    fn heads() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Length: 12"), Some((200, 12)));
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"), None);
        let (request, body) = post("h:1", "/p", "text/plain", b"abc");
        assert_eq!(&request[body..], b"abc");
    }
}
