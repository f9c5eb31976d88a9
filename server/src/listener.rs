//! Connections: so many at a time, handshakes, headers and answers in time, and an end that does not wait for ever.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::Service;

use crate::patience::Patient;
use crate::tls::Tls;

/// How long a request's headers may take to arrive.
const HEADERS_SECONDS_MAX: u64 = 10;

/// How long a request's headers may be in bytes: what each connection may hold in memory, beside its body.
const HEADERS_BYTES_MAX: usize = 64 << 10;

/// How long requests may take to finish once the log is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Pause after the operating system refused a connection, for example because no file handle is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end: an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// The address of the connection: a proxy's, where there is one.
    pub(crate) address: IpAddr,
    /// Whether a good client certificate was shown.
    pub(crate) certified: bool,
}

/// Serves until `shutdown` ends, then lets open requests finish for a while and cuts off the others.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    tls: Option<Arc<Tls>>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(connections_max));
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADERS_SECONDS_MAX))
        .max_buf_size(HEADERS_BYTES_MAX);
    let builder = Arc::new(builder);
    // Handshakes that are under way when this closes are given up.
    let (open, closing) = watch::channel(());
    let mut connected = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        while connected.try_join_next().is_some() {}
        let accept = async {
            // The permit comes first: who is over the limit waits in the operating system's queue.
            let permit = Arc::clone(&connections).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?, permit))
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        let ((stream, address), permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let served =
            Served { router: router.clone(), builder: Arc::clone(&builder), watcher: graceful.watcher() };
        let (tls, closing, address) = (tls.clone(), closing.clone(), address.ip());
        connected.spawn(async move {
            serve_connection(stream, address, tls, served, closing).await;
            drop(permit);
        });
    }
    drop((listener, open));
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("stopped with requests still open");
    }
    // Whoever is still there is cut off, and holds nothing of the log any more when this returns.
    connected.shutdown().await;
    Ok(())
}

/// What every connection is served with.
struct Served {
    router: Router,
    builder: Arc<Builder<TokioExecutor>>,
    watcher: Watcher,
}

/// Shakes hands where that is due, and serves. The handshake is here, so that no other connection waits for it.
async fn serve_connection(
    stream: TcpStream,
    address: IpAddr,
    tls: Option<Arc<Tls>>,
    served: Served,
    mut closing: watch::Receiver<()>,
) {
    let Some(tls) = tls else {
        return served.run(stream, Peer { address, certified: false }).await;
    };
    let shaken = tokio::select! {
        shaken = tls.accept(stream) => shaken,
        _ = closing.changed() => return,
    };
    match shaken {
        Ok((stream, certified)) => served.run(stream, Peer { address, certified }).await,
        Err(error) => tracing::debug!(%error, "a connection was refused"),
    }
}

impl Served {
    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let service = TowerToHyperService::new(FromPeer { router: self.router, peer });
        let connection = self.builder.serve_connection(TokioIo::new(Patient::new(stream)), service);
        if let Err(error) = self.watcher.watch(connection.into_owned()).await {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// The router, told who asks.
#[derive(Clone)]
struct FromPeer {
    router: Router,
    peer: Peer,
}

impl<B> Service<Request<B>> for FromPeer
where
    Router: Service<Request<B>>,
{
    type Response = <Router as Service<Request<B>>>::Response;
    type Error = <Router as Service<Request<B>>>::Error;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.router.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}
