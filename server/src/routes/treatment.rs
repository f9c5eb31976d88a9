//! What is done to answers on their way out, route by route: a POST of a record passes none of it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use super::App;

/// Shorter answers are sent as they are, in bytes: compressed they would hardly save a packet.
const COMPRESS_BYTES_MIN: u16 = 1024;

/// What a script of another origin may do here: read, and be told when to come again. It sends no cookies, as there are
/// none.
const METHODS: &str = "GET, HEAD, OPTIONS";
const REQUEST_HEADERS: &str = "authorization, if-none-match, last-event-id";
const ANSWER_HEADERS: &str = "etag, retry-after";
const PREFLIGHT_SECONDS: &str = "86400";

/// What is done to a route's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Nothing.
    Plain,
    /// A read: scripts of every origin may have it.
    Read,
    /// A read of something that compresses.
    Text,
}

impl Treatment {
    pub(crate) fn apply(self, route: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
        match self {
            Self::Plain => route,
            Self::Read => route.on(MethodFilter::OPTIONS, preflight).layer(map_response(shared)),
            Self::Text => route
                .on(MethodFilter::OPTIONS, preflight)
                .layer::<_, Infallible>(map_response(shared))
                .layer::<_, Infallible>(map_response(varied))
                .layer(
                    CompressionLayer::new()
                        .quality(CompressionLevel::Fastest)
                        .compress_when(SizeAbove::new(COMPRESS_BYTES_MIN)),
                ),
        }
    }
}

async fn preflight() -> Response {
    let headers = [
        (header::ALLOW, METHODS),
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Any origin may read, and no browser is to guess that what an agent wrote were a page.
async fn shared(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Caches are told of the difference also where an answer was not compressed.
async fn varied(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}
