//! Answers: media type, how long they may be kept, and the tag by which a reader asks whether they changed.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Answered;
use crate::error::RequestError;

/// What never changes may be kept for a year.
pub(crate) const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// What changes with every commit may be kept, and is asked for each time.
pub(crate) const FRESH: &str = "no-cache";
/// What was said to one caller is not kept.
pub(crate) const UNSTORED: &str = "no-store";

pub(crate) fn answer(media: &'static str, caching: &'static str, body: impl Into<Body>) -> Response {
    let mut response = (StatusCode::OK, body.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}

pub(crate) fn json(caching: &'static str, value: &impl Serialize) -> Answered {
    Ok(answer("application/json", caching, encode(value)?))
}

/// JSON that a reader may hold already.
pub(crate) fn tagged_json(request: &HeaderMap, caching: &'static str, value: &impl Serialize) -> Answered {
    Ok(tagged(request, "application/json", caching, encode(value)?))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, RequestError> {
    serde_json::to_vec(value).map_err(|_| RequestError::Internal("an answer has no JSON"))
}

/// Bytes that a reader may hold already.
pub(crate) fn tagged(
    request: &HeaderMap,
    media: &'static str,
    caching: &'static str,
    body: impl Into<Vec<u8>>,
) -> Response {
    let body = body.into();
    let tag = Tag::of(&body);
    tag.not_modified(request, caching).unwrap_or_else(|| tag.on(answer(media, caching, body)))
}

/// An entity tag (RFC 9110 §8.8.3): half a SHA-256 of what determines the answer. It is weak, because the same answer
/// may be sent compressed or not.
pub(crate) struct Tag(String);

impl Tag {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes);
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("W/\"{hex}\""))
    }

    /// The answer 304, when the reader holds what this tag stands for (RFC 9110 §13.1.2).
    pub(crate) fn not_modified(&self, request: &HeaderMap, caching: &'static str) -> Option<Response> {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let held = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|tags| tags.to_str().ok())
            .flat_map(|tags| tags.split(','))
            .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(&self.0));
        let not_modified = || {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
            self.on(response)
        };
        held.then(not_modified)
    }

    /// The answer with this tag.
    pub(crate) fn on(&self, mut response: Response) -> Response {
        if let Ok(tag) = HeaderValue::try_from(&self.0) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// How a reader asks whether something changed.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document's side of `Tag::not_modified`, which reads the header itself")]
pub(crate) struct Conditional {
    /// Tags of what the reader holds. One that is still right is answered with 304 and no body.
    #[param(rename = "If-None-Match", value_type = String, required = false, example = "W/\"0123456789abcdef0123456789abcdef\"")]
    if_none_match: Option<String>,
}

/// The answer to that, in the document.
pub(crate) struct NotModified;

impl utoipa::IntoResponses for NotModified {
    fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
        let response =
            utoipa::openapi::ResponseBuilder::new().description("What the reader holds is still right");
        [("304".to_owned(), utoipa::openapi::RefOr::T(response.build()))].into()
    }
}
