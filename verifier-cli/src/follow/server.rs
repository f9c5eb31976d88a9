//! The witness's door: `POST /add-checkpoint` and `GET /<hex sha256(origin)>/checkpoint` over HTTP/1.1.
//!
//! Anybody may ask, so everything has a limit: bytes, connections, and time. TLS and rates are a proxy's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use sift_spec::api::MEDIA_NOTE;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::book::Book;
use super::clock::now;
use super::tell::{Teller, Told};
use super::witness::{Answer, Refused, add_checkpoint};
use super::{CHECKPOINT_BYTES_MAX, Message, judge};
use crate::error::CannotCheck;
use crate::finding::{Code, Concern, Finding};

/// Largest request in bytes: a checkpoint, 63 hashes of 45 bytes, and to spare.
const BODY_BYTES_MAX: usize = CHECKPOINT_BYTES_MAX + (4 << 10);

/// Connections at a time; further ones wait in the operating system's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long headers, and then a body, may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long a connection may last: longer than any request takes, and none is held for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Pause after the operating system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the door needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) book: Arc<Book>,
    pub(super) teller: Teller,
    /// Where heads go that could not be proven, to be looked into; and where the end is told.
    pub(super) messages: SyncSender<Message>,
}

/// A door that is not open yet: who comes waits before it.
pub(super) struct Closed {
    runtime: Runtime,
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl Closed {
    /// The door at this address.
    pub(super) fn at(listen: SocketAddr) -> Result<Self, CannotCheck> {
        let fail = |error: io::Error| CannotCheck::Setup(format!("cannot listen at {listen}: {error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .enable_all()
            .build()
            .map_err(fail)?;
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { runtime, listener, address })
    }

    /// Opens it, in threads of its own.
    pub(super) fn open(self, door: Door) {
        std::thread::spawn(move || self.runtime.block_on(serve(self.listener, door)));
    }
}

async fn serve(listener: TcpListener, door: Door) {
    let router = Router::new()
        .route("/add-checkpoint", post(add))
        .route("/{log}/checkpoint", get(latest))
        .with_state(door);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(ARRIVAL).max_buf_size(16 << 10);
    let builder = Arc::new(builder);
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (builder, router) = (Arc::clone(&builder), router.clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CONNECTION_AGE_MAX, connection(&builder, stream, router)).await;
            drop(permit);
        });
    }
}

async fn connection(builder: &Builder<TokioExecutor>, stream: TcpStream, router: Router) {
    let _ = stream.set_nodelay(true);
    // How a connection ends is its caller's business.
    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

async fn add(State(door): State<Door>, body: Body) -> Response {
    let body: Bytes = match tokio::time::timeout(ARRIVAL, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long, or broke off\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n"),
    };
    let asked = door.clone();
    let decided = tokio::task::spawn_blocking(move || {
        let answer = add_checkpoint(&asked.book, &body, now());
        asked.look_into(&answer, &body);
        answer
    });
    match decided.await {
        Ok(Ok(answer)) => door.answer(answer),
        Ok(Err(error)) => {
            door.teller.trouble(&error);
            text(StatusCode::INTERNAL_SERVER_ERROR, "this witness cannot write, and signs nothing\n")
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "this witness failed\n"),
    }
}

async fn latest(State(door): State<Door>, Path(log): Path<String>) -> Response {
    match door.book.cosigned_note(&log) {
        Some(note) => {
            let headers = [(CONTENT_TYPE, MEDIA_NOTE), (CACHE_CONTROL, "no-cache")];
            (headers, note).into_response()
        }
        None => text(StatusCode::NOT_FOUND, "no checkpoint of this log was cosigned\n"),
    }
}

impl Door {
    /// Hands on a head that could not be proven; and where nothing can be written any more, says that this is the end.
    fn look_into(&self, answer: &Result<Answer, CannotCheck>, body: &[u8]) {
        let message = match answer {
            Ok(Answer::Inconsistent(Refused::Unproven(_))) => {
                let at = body.windows(2).position(|pair| pair == b"\n\n");
                at.and_then(|at| body.get(at + 2..)).map(|note| Message::Suspect(note.to_vec()))
            }
            Err(_) => Some(Message::Broken),
            Ok(_) => None,
        };
        // Where too many wait already, this one may be sent again.
        message.map(|message| self.messages.try_send(message));
    }

    fn answer(&self, answer: Answer) -> Response {
        match answer {
            Answer::Cosigned { line, new } => {
                if let Some((origin, head)) = new {
                    self.teller.tell(&Told::Cosigned { origin: &origin, size: head.size, root: head.root });
                }
                text(StatusCode::OK, line)
            }
            Answer::Malformed(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
            Answer::NotSigned => {
                text(StatusCode::FORBIDDEN, "no key that is trusted for this log signed it\n")
            }
            Answer::UnknownLog => text(StatusCode::NOT_FOUND, "this witness does not know the log\n"),
            Answer::Conflict(size) => {
                (StatusCode::CONFLICT, [(CONTENT_TYPE, "text/x.tlog.size")], format!("{size}\n"))
                    .into_response()
            }
            Answer::Forgot => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "this witness has forgotten what it cosigned of this log, and cosigns nothing of it any more\n",
            ),
            Answer::Inconsistent(refused) => self.refuse(refused),
        }
    }

    fn refuse(&self, refused: Refused) -> Response {
        let why = match refused {
            Refused::Unproven(why) => why,
            Refused::Empty(why) => why.to_owned(),
            Refused::AfterSplit => {
                "this log has shown two histories: nothing of it is cosigned any more".to_owned()
            }
            Refused::Split { ours, theirs, origin, evidence } => {
                let detail = judge::split_detail(&ours, &theirs);
                let finding = Finding::rejects(Code::HeadsInconsistent, Concern::whole(), &detail);
                let evidence = evidence.as_deref();
                self.teller.tell(&Told::Finding { origin: &origin, finding: &finding, evidence });
                detail
            }
        };
        text(StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n"))
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    const PLAIN: (HeaderName, &str) = (CONTENT_TYPE, "text/plain; charset=utf-8");
    (status, [PLAIN], body.into()).into_response()
}
