//! The service itself: whether it lives, whether it takes records, and what it can be asked.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};

use super::answer::{Conditional, FRESH, NotModified, tagged};
use super::{Answered, Shared, document};
use crate::openapi::{problems, serve};

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "It does", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

problems!(ReadyProblems: NotWriting, DiskFull);

/// Whether the log takes records
#[utoipa::path(
    get,
    path = "/readyz",
    responses((status = 200, description = "It does", body = String), ReadyProblems)
)]
pub(super) async fn readyz(State(app): Shared) -> Answered {
    app.is_writing()?;
    Ok("ready\n".into_response())
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    params(Conditional),
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"), NotModified)
)]
pub(super) async fn openapi(headers: HeaderMap) -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| serve(document()).into());
    tagged(&headers, "application/json", FRESH, DOCUMENT.to_vec())
}
