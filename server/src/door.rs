//! The door: what stands between the listener, which lives as long as the process, and the log behind it, which may be
//! opened again while requests come in.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::error::RequestError;

/// How long a request waits while the store is being opened again.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Who answers requests at the moment; nobody while the door is shut.
pub(crate) struct Door {
    behind: watch::Sender<Option<Router>>,
}

impl Door {
    /// A door that is shut.
    pub(crate) fn new() -> Self {
        Self { behind: watch::Sender::new(None) }
    }

    /// Lets requests through to `router`.
    pub(crate) fn open(&self, router: Router) {
        self.behind.send_replace(Some(router));
    }

    /// Lets nobody through: who comes waits for a while.
    pub(crate) fn shut(&self) {
        self.behind.send_replace(None);
    }

    /// The router for the listener.
    pub(crate) fn router(&self) -> Router {
        let behind = self.behind.subscribe();
        Router::new().fallback(move |request: Request| pass(behind.clone(), request))
    }
}

async fn pass(mut behind: watch::Receiver<Option<Router>>, request: Request) -> Response {
    let waited = tokio::time::timeout(WAIT_MAX, behind.wait_for(Option::is_some)).await;
    let router = waited.ok().and_then(Result::ok).and_then(|router| router.clone());
    match router {
        Some(router) => router.oneshot(request).await.into_response(),
        None => RequestError::NotWriting.into_response(),
    }
}
