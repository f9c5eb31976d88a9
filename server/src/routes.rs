//! The HTTP interface (SPEC §10): thin handlers over views, store and admission.

mod records;
mod runs;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};

use crate::admission::Admission;
use crate::disk::Disk;
use crate::error::RequestError;
use crate::store::Store;
use crate::view::{View, ViewError};

/// Memory for the bodies of all requests together, in kibibytes: 128 MiB. More is answered with 429.
const BODIES_KIB_MAX: usize = 128 << 10;

/// Evidence packs that are made at a time; each may take some hundred megabytes.
const PACKS_MAX: usize = 2;

/// What never changes may be kept for a year.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// What changes with every commit.
const FRESH: &str = "no-cache";

/// What handlers work with.
pub(crate) struct App {
    store: Arc<Store>,
    /// The tree as of the last commit: what writers are answered with.
    committed: watch::Receiver<Arc<View>>,
    /// The tree as of the published checkpoint: what readers are told.
    published: watch::Receiver<Arc<View>>,
    admission: Admission,
    /// Set while the log takes no more records.
    stopping: Arc<AtomicBool>,
    disk: Arc<Disk>,
    /// Memory for bodies that are arriving or waiting, in kibibytes.
    bodies: Semaphore,
    /// Packs that are being made.
    packs: Semaphore,
}

type Shared = State<Arc<App>>;
type Answered = Result<Response, RequestError>;

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/checkpoint", get(tree::checkpoint))
        .route("/tile/{*path}", get(tree::tile))
        .route("/v1/records", post(records::add))
        .route("/v1/records/{index}", get(records::record))
        .route("/v1/proof/inclusion", get(tree::inclusion))
        .route("/v1/proof/consistency", get(tree::consistency))
        .route("/v1/runs", get(runs::runs))
        .route("/v1/runs/{run}", get(runs::run))
        .route("/v1/runs/{run}/evidence", get(runs::run_evidence))
        .route("/v1/operator", get(runs::operator))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { RequestError::NotFound("such path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            RequestError::MethodNotAllowed("this path does not take this method")
        })
        .with_state(app)
}

impl App {
    pub(crate) fn new(
        store: Arc<Store>,
        committed: watch::Receiver<Arc<View>>,
        published: watch::Receiver<Arc<View>>,
        admission: Admission,
        stopping: Arc<AtomicBool>,
        disk: Arc<Disk>,
    ) -> Self {
        let (bodies, packs) = (Semaphore::new(BODIES_KIB_MAX), Semaphore::new(PACKS_MAX));
        Self { store, committed, published, admission, stopping, disk, bodies, packs }
    }

    /// Refuses while the log takes no records.
    fn is_writing(&self) -> Result<(), RequestError> {
        if self.disk.is_full() {
            Err(RequestError::DiskFull)
        } else if self.stopping.load(Ordering::Relaxed) {
            Err(RequestError::NotWriting)
        } else {
            Ok(())
        }
    }

    fn committed(&self) -> Arc<View> {
        Arc::clone(&self.committed.borrow())
    }

    fn published(&self) -> Arc<View> {
        Arc::clone(&self.published.borrow())
    }
}

async fn ready(State(app): Shared) -> Answered {
    app.is_writing()?;
    Ok("ready\n".into_response())
}

type QueryOf<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn query_error(error: axum::extract::rejection::QueryRejection) -> RequestError {
    RequestError::Malformed(error.body_text())
}

fn from_view(error: ViewError) -> RequestError {
    match error {
        ViewError::Request(error) => RequestError::Malformed(error.to_string()),
        ViewError::Store(error) => error.into(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RequestError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RequestError::Internal("a task failed"))
}

fn answer(media: &'static str, caching: &'static str, body: impl Into<Body>) -> Response {
    let mut response = (StatusCode::OK, body.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}
