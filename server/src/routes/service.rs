//! The service itself: whether it lives, whether it takes records, and what it can be asked.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use sift_spec::api::MEDIA_NOTE;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as OpenApiResponse};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answer::{Conditional, FRESH, NotModified, UNSTORED, answer, json, tagged};
use super::extract::Query;
use super::{Answered, Shared, blocking, document};
use crate::error::RequestError;
use crate::health::Check;
use crate::metrics::MEDIA_METRICS;
use crate::openapi::{problems, serve};

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "It does", body = String)))]
pub(super) async fn healthz() -> Response {
    answer(MEDIA_NOTE, UNSTORED, "ok\n")
}

problems!(ReadyProblems: MalformedRequest, NotWriting, DiskFull);

/// What `/readyz?verbose=true` answers, with either status.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// Whether a record that came now would be taken.
    ready: bool,
    /// Everything that has to hold for that.
    checks: Vec<Check>,
}

/// The answers of `/readyz` when the log is not ready: a problem, or all checks.
struct NotReady;

impl IntoResponses for NotReady {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        let mut responses = ReadyProblems::responses();
        if let Some(RefOr::T(response)) = responses.get_mut("503") {
            let checks = ContentBuilder::new().schema(Some(Ref::from_schema_name("Readiness"))).build();
            response.content.insert("application/json".to_owned(), RefOr::T(checks));
        }
        responses
    }
}

/// Parameter of `/readyz`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Verbose {
    /// Lists every check as JSON, whatever the answer
    #[serde(default)]
    verbose: bool,
}

/// Whether the log takes records
#[utoipa::path(
    get,
    path = "/readyz",
    params(Verbose),
    responses(
        (status = 200, description = "A record that came now would be taken", content(
            (String = "text/plain; charset=utf-8"),
            (Readiness = "application/json"),
        )),
        NotReady,
    )
)]
pub(super) async fn readyz(State(app): Shared, Query(Verbose { verbose }): Query<Verbose>) -> Answered {
    let load = app.load();
    let checks = load.checks();
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.ok).collect();
    if verbose {
        let ready = failed.is_empty();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut response = json(UNSTORED, &Readiness { ready, checks })?;
        *response.status_mut() = status;
        if !ready {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        return Ok(response);
    }
    if failed.is_empty() {
        return Ok(answer(MEDIA_NOTE, UNSTORED, "ready\n"));
    }
    if load.disk_full {
        return Err(RequestError::DiskFull);
    }
    let failed: Vec<String> =
        failed.iter().map(|check| format!("{}: {}", check.check, check.detail)).collect();
    Err(RequestError::NotReady(failed.join("; ")))
}

problems!(MetricsProblems: Internal);

/// What the log tells about itself, as OpenMetrics text
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text"),
        MetricsProblems
    )
)]
pub(super) async fn metrics(State(app): Shared) -> Answered {
    // Some numbers are read from files.
    let text = blocking(move || app.metrics.render()).await?;
    let text = text.map_err(|_| RequestError::Internal("the metrics have no text"))?;
    let headers = [(header::CONTENT_TYPE, MEDIA_METRICS), (header::CACHE_CONTROL, UNSTORED)];
    Ok((headers, text).into_response())
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
