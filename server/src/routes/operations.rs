//! `/healthz`, `/readyz` and `/metrics`: for whoever runs the log.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::{Answered, Shared, answer, blocking};
use crate::error::RequestError;
use crate::health::Check;
use crate::metrics::MEDIA_METRICS;

/// The process lives and answers; no more is said.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether a record would be admitted now. With `?verbose` every check is listed as JSON, whatever the answer.
pub(super) async fn readyz(State(app): Shared, RawQuery(query): RawQuery) -> Answered {
    let checks = app.load().checks();
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.ok).collect();
    if query.as_deref() == Some("verbose") {
        let status = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let ready = failed.is_empty();
        return Ok((status, Json(serde_json::json!({ "ready": ready, "checks": checks }))).into_response());
    }
    if failed.is_empty() {
        return Ok("ready\n".into_response());
    }
    let failed: Vec<String> =
        failed.iter().map(|check| format!("{}: {}", check.check, check.detail)).collect();
    Err(RequestError::NotReady(failed.join("; ")))
}

pub(super) async fn metrics(State(app): Shared) -> Answered {
    // Some numbers are read from files.
    let text = blocking(move || app.metrics.render()).await?;
    let text = text.map_err(|_| RequestError::Internal("the metrics have no text"))?;
    let response: Response = answer(MEDIA_METRICS, "no-store", text);
    Ok(response)
}
