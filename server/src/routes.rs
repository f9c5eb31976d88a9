//! The HTTP interface (SPEC §10): thin handlers over views, store and admission.
//!
//! To add a path: write its handler with `#[utoipa::path]`, which is both where it is served and what the document says
//! of it, and name the handler in the table below. Parameters come in through [`extract`], answers go out through
//! [`answer`], errors are [`RequestError`]s; the problems that a handler may answer with are listed with `problems!`.

pub(crate) mod answer;
pub(crate) mod extract;
pub(crate) mod treatment;

mod equivocations;
mod feed;
mod payloads;
mod records;
mod runs;
mod service;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use sift_spec::api::Publish;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use crate::access;
use crate::admission::Admission;
use crate::disk::Disk;
use crate::error::RequestError;
use crate::feed::Feed;
use crate::health::Load;
use crate::metrics::{Metrics, count_requests};
use crate::openapi::{places, routes};
use crate::protection::Protection;
use crate::publish::{Outlets, PublishStatus};
use crate::store::Store;
use crate::view::{View, ViewError};
use crate::witness::WitnessLag;

routes! {
    // What nobody reads from a browser.
    Plain {
        records::add,
        payloads::put_payload,
        payloads::get_payload,
        payloads::delete_payload,
        service::healthz,
        service::readyz,
        service::metrics,
    }
    // What does not compress, or must not wait for its end to be.
    Read {
        tree::hash_tile,
        runs::evidence,
        feed::checkpoint_stream,
    }
    Text {
        tree::checkpoint,
        tree::entry_bundle,
        tree::inclusion,
        tree::consistency,
        records::record,
        runs::runs,
        runs::run,
        runs::operator,
        runs::operator_records,
        runs::policy,
        feed::checkpoints,
        equivocations::equivocations,
        service::openapi,
    }
}

/// Memory for the bodies of all requests together, in kibibytes: 128 MiB. More is answered with 429.
const BODIES_KIB_MAX: usize = 128 << 10;

/// Evidence packs that are made at a time; each may take some hundred megabytes.
const PACKS_MAX: usize = 2;

/// What handlers work with.
pub(crate) struct App {
    store: Arc<Store>,
    /// The tree as of the last commit: what writers are answered with.
    committed: watch::Receiver<Arc<View>>,
    /// The tree as of the published checkpoint: what readers are told.
    published: watch::Receiver<Arc<View>>,
    /// The newest tree whose checkpoint the quorum of witnesses has cosigned; any committed one, where there are none.
    witnessed: watch::Receiver<Arc<View>>,
    /// How and when checkpoints are published, and how far each witness is behind.
    publishing: Arc<PublishStatus>,
    admission: Admission,
    /// Set while the log takes no more records.
    stopping: Arc<AtomicBool>,
    disk: Arc<Disk>,
    /// Memory for bodies that are arriving or waiting, in kibibytes.
    bodies: Semaphore,
    /// Packs that are being made.
    packs: Semaphore,
    /// Streams of checkpoints.
    feed: Feed,
    metrics: Arc<Metrics>,
    /// What stands before all this.
    pub(crate) protection: Arc<Protection>,
}

pub(crate) type Shared = State<Arc<App>>;
type Answered = Result<Response, RequestError>;

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Router {
    let document = document();
    let mut router = Router::new();
    for route in table() {
        for (method, path) in places(&document, route.operation) {
            router = router.route(path, route.treatment.apply((route.on)(method)));
        }
    }
    router
        .fallback(|| async { RequestError::NotFound("such path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            RequestError::MethodNotAllowed("this path does not take this method")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), access::guard))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app.metrics.requests), count_requests))
        .with_state(app)
}

/// What the handlers say of themselves.
pub(crate) fn document() -> OpenApi {
    Document::openapi()
}

impl App {
    #[expect(clippy::too_many_arguments, reason = "one for each thing that handlers work with")]
    pub(crate) fn new(
        store: Arc<Store>,
        committed: watch::Receiver<Arc<View>>,
        outlets: Outlets,
        admission: Admission,
        stopping: Arc<AtomicBool>,
        disk: Arc<Disk>,
        feed: Feed,
        metrics: Arc<Metrics>,
        protection: Arc<Protection>,
    ) -> Self {
        let (bodies, packs) = (Semaphore::new(BODIES_KIB_MAX), Semaphore::new(PACKS_MAX));
        let Outlets { published, witnessed, status: publishing } = outlets;
        Self {
            store,
            committed,
            published,
            witnessed,
            publishing,
            admission,
            stopping,
            disk,
            bodies,
            packs,
            feed,
            metrics,
            protection,
        }
    }

    /// The store, for those who look after it.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// How far each witness is behind.
    pub(crate) fn witness_lags(&self) -> Vec<WitnessLag> {
        self.publishing.lags()
    }

    /// What the log has to do at the moment.
    pub(crate) fn load(&self) -> Load {
        let (admission_waiting, admission_max) = self.admission.waiting();
        Load {
            committed: self.committed().head.size,
            published: self.published().head.size,
            admission_waiting,
            admission_max,
            body_bytes: BODIES_KIB_MAX.saturating_sub(self.bodies.available_permits()) << 10,
            packs: PACKS_MAX.saturating_sub(self.packs.available_permits()),
            stopping: self.stopping.load(Ordering::Relaxed),
            disk_full: self.disk.is_full(),
            disk_free_bytes: self.disk.free(),
        }
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

    /// What readers are told. Where nothing waits for witnesses that is never older than what a writer was answered.
    fn published(&self) -> Arc<View> {
        let published = Arc::clone(&self.published.borrow());
        if self.publishing.mode() == Publish::Signed {
            let committed = self.committed();
            if committed.head.size > published.head.size {
                return committed;
            }
        }
        published
    }
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
