//! `/v1/payloads/{digest}`: objects in and out, and gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use http_body_util::BodyExt as _;
use sift_spec::api::MEDIA_BYTES;
use sift_spec::types::Hash;
use tokio::io::AsyncReadExt as _;

use super::answer::answer;
use super::extract::Path;
use super::{Answered, App, Shared, blocking};
use crate::access::Tokens;
use crate::error::RequestError;
use crate::openapi::{Binary, problems};
use crate::payloads::{OBJECT_BYTES, Part, Payloads};

/// An object never changes under its name, and is nobody's but the reader's.
const PRIVATE: &str = "private, max-age=31536000, immutable";

/// How long an object may take to arrive: so long, and a second for each [`BYTES_PER_SECOND_MIN`].
const ARRIVAL: Duration = Duration::from_secs(30);

/// See [`ARRIVAL`].
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Bytes of an object that are read from the disk and sent at a time.
const CHUNK_BYTES: usize = 64 << 10;

problems!(PutProblems:
    MalformedRequest, Unauthorized, CertificateNeeded, NotFound, TooSlow, Erased, TooLarge, UnsupportedMedia,
    PayloadDiffers, Internal, StorageFull);

problems!(GetProblems: MalformedRequest, Unauthorized, NotFound, Erased, Internal);

problems!(DeleteProblems: MalformedRequest, Unauthorized, CertificateNeeded, NotFound, NotErased, Internal);

/// Put a payload object
///
/// An answer means: durable. The body is 16 random bytes and the content. Needs a token for putting.
#[utoipa::path(
    put,
    path = "/v1/payloads/{digest}",
    params(("digest" = String, Path, pattern = "^[0-9a-f]{64}$",
        description = "SHA-256 of the object, in hexadecimal")),
    request_body(description = "The object", content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is stored"),
        (status = 204, description = "It was stored before"),
        PutProblems,
    )
)]
pub(super) async fn put_payload(
    State(app): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let (payloads, digest) = open(&app, &digest, &headers, |payloads| payloads.tokens.put.as_ref())?;
    not_erased(&app, &digest)?;
    // Its media type is nobody's business, but an object is stored as it is sent.
    super::records::media(&headers)?;
    let stated =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let bytes_max = payloads.bytes_max;
    let stated = stated.unwrap_or(bytes_max);
    if stated > bytes_max {
        super::records::discard(body).await;
        return Err(too_large(bytes_max));
    }
    // Room on the disk is set aside before anything arrives.
    let part = blocking(move || payloads.begin(digest, stated)).await??;
    let part = receive(part, body, bytes_max).await?;
    let app = Arc::clone(&app);
    let new = blocking(move || part.finish(|digest| app.committed().keys.is_erased(digest))).await??;
    Ok(if new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }.into_response())
}

/// A payload object
///
/// Checked before it is sent. Needs a token for getting.
#[utoipa::path(
    get,
    path = "/v1/payloads/{digest}",
    params(("digest" = String, Path, pattern = "^[0-9a-f]{64}$",
        description = "SHA-256 of the object, in hexadecimal")),
    responses(
        (status = 200, description = "The object", body = inline(Binary), content_type = "application/octet-stream"),
        GetProblems,
    )
)]
pub(super) async fn get_payload(
    State(app): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Answered {
    let (payloads, digest) = open(&app, &digest, &headers, |payloads| payloads.tokens.get.as_ref())?;
    not_erased(&app, &digest)?;
    // One of a few at a time: it is read whole, to see that it is.
    let found = {
        let _turn = payloads.turns.acquire().await.map_err(|_| RequestError::Internal("no turn"))?;
        let payloads = Arc::clone(&payloads);
        blocking(move || payloads.read(&digest)).await??
    };
    let Some((file, length)) = found else {
        return Err(RequestError::NotFound(format!("payload {} here", digest.hex())));
    };
    let file = tokio::fs::File::from_std(file);
    let chunks = futures_util::stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    let mut response = answer(MEDIA_BYTES, PRIVATE, Body::from_stream(chunks));
    // A file that shrinks while it is sent ends the connection, and is not taken for whole.
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// Delete a payload object
///
/// Only one that the operator has erased. Needs a token for deleting.
#[utoipa::path(
    delete,
    path = "/v1/payloads/{digest}",
    params(("digest" = String, Path, pattern = "^[0-9a-f]{64}$",
        description = "SHA-256 of the object, in hexadecimal")),
    responses((status = 204, description = "It is gone"), DeleteProblems)
)]
pub(super) async fn delete_payload(
    State(app): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Answered {
    let (payloads, digest) = open(&app, &digest, &headers, |payloads| payloads.tokens.delete.as_ref())?;
    let app = Arc::clone(&app);
    let was_there =
        blocking(move || payloads.delete(&digest, |digest| app.committed().keys.is_erased(digest))).await??;
    tracing::info!(digest = %digest.hex(), was_there, "an erased payload was deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The store and the object's name, for a request with one of the tokens that it needs.
fn open(
    app: &App,
    digest: &str,
    headers: &HeaderMap,
    tokens: impl Fn(&Payloads) -> Option<&Tokens>,
) -> Result<(Arc<Payloads>, Hash), RequestError> {
    let payloads = app.protection.payloads.as_ref();
    let payloads = payloads.ok_or_else(|| RequestError::NotFound("payload store at this log".to_owned()))?;
    // The token first: who has none learns nothing.
    match tokens(payloads) {
        Some(tokens) => tokens.check(headers)?,
        None => {
            return Err(RequestError::Unauthorized { shown: headers.contains_key(header::AUTHORIZATION) });
        }
    };
    let digest = Hash::from_hex(digest).map_err(|error| RequestError::Malformed(error.to_string()))?;
    Ok((Arc::clone(payloads), digest))
}

fn not_erased(app: &App, digest: &Hash) -> Result<(), RequestError> {
    if app.committed().keys.is_erased(digest) {
        return Err(crate::payloads::PayloadError::Erased.into());
    }
    Ok(())
}

/// Writes a body to its part as it arrives.
async fn receive(mut part: Part, mut body: Body, bytes_max: u64) -> Result<Part, RequestError> {
    let (begun, mut received) = (Instant::now(), 0_u64);
    loop {
        let end = begun + ARRIVAL + Duration::from_secs(received / BYTES_PER_SECOND_MIN);
        let frame = tokio::time::timeout_at(end.into(), body.frame()).await;
        let frame = match frame.map_err(|_| RequestError::TooSlow(ARRIVAL.as_secs()))? {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                return Err(RequestError::Malformed(format!("the body did not arrive whole: {error}")));
            }
        };
        let Ok(bytes) = frame.into_data() else { continue };
        received += bytes.len() as u64;
        if received > bytes_max {
            super::records::discard(body).await;
            return Err(too_large(bytes_max));
        }
        part = blocking(move || part.write(&bytes).map(|()| part)).await??;
    }
    if received < *OBJECT_BYTES.start() {
        return Err(RequestError::Malformed("an object is 16 random bytes and its content".to_owned()));
    }
    Ok(part)
}

fn too_large(bytes_max: u64) -> RequestError {
    RequestError::TooLarge(usize::try_from(bytes_max).unwrap_or(usize::MAX))
}
