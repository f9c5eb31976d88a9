//! `/v1/records`: records in, entries and receipts out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use sift_spec::api::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BatchAnswer, BatchResult, MEDIA_NOTE};
use sift_spec::entry::Entry;
use sift_spec::record::ENTRY_BYTES_MAX;
use sift_spec::tile::{BundleBytesError, parse_entries};
use sift_spec::types::LeafIndex;

use super::answer::{Conditional, FRESH, IMMUTABLE, NotModified, UNSTORED, answer, json, tagged};
use super::extract::{Path, Query};
use super::{Answered, App, Shared, blocking, from_view};
use crate::admission::{AdmitError, key_of};
use crate::error::{Refusal, RequestError};
use crate::listener::Peer;
use crate::openapi::{Binary, problems};
use crate::sequencer::Answer;
use crate::store::StoreError;
use crate::view::View;

/// How long a body may take to arrive.
const BODY_SECONDS_MAX: u64 = 30;

/// How much of a body that is too long is read before it is cut off, in bytes.
const DISCARD_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

problems!(AddProblems:
    MalformedRecord, MalformedRequest, SignatureInvalid, KeyNotGranted, PolicyNotPublished, WrongLog, CertificateNeeded,
    TooSlow, ChainBroken, Equivocation, GrantRefused, TooLarge, UnsupportedMedia, Busy, RateLimited, Internal,
    NotWriting, DiskFull, NotWitnessed);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AddQuery {
    /// What the answer waits for beyond being durable.
    #[param(inline, required = false)]
    wait: Option<Wait>,
}

/// `witnessed`: a checkpoint that covers the records and that the log's quorum of witnesses has cosigned.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Wait {
    Witnessed,
}

/// Add records
///
/// An answer means: durable, sequenced, and in a signed tree. The same bytes again get the same index and a fresh proof.
/// A bundle is answered with 200 also where some of its records were refused: each result says which.
#[utoipa::path(
    post,
    path = "/v1/records",
    params(AddQuery),
    request_body(description = "One signed record, or a bundle of at most 1,024: 16 bits of length and a record, for each. \
        No content coding", content(
        (String = "text/plain; charset=utf-8"),
        (inline(Binary) = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "The record's receipt, or the results of a bundle", content(
            (String = "text/plain; charset=utf-8"),
            (BatchAnswer = "application/json"),
        )),
        AddProblems,
    )
)]
pub(super) async fn add(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Query(AddQuery { wait }): Query<AddQuery>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let failures = &app.protection.failures;
    failures.look(peer.address, Instant::now()).map_err(RequestError::RateLimited)?;
    let bytes_max = match media(&headers)?.as_str() {
        "text/plain" => ENTRY_BYTES_MAX,
        "application/octet-stream" => BATCH_BYTES_MAX,
        _ => {
            return Err(RequestError::UnsupportedMedia(
                "Content-Type must be text/plain for one note, or application/octet-stream for a bundle: 16 bits of \
                 length and a note, for each",
            ));
        }
    };
    // What the body may take is set aside before it is read, and until it is answered.
    let stated =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let stated = stated.unwrap_or(bytes_max);
    if stated > bytes_max {
        discard(body).await;
        return Err(RequestError::TooLarge(bytes_max));
    }
    let kib = u32::try_from(stated.div_ceil(1024)).unwrap_or(u32::MAX);
    let room = app.bodies.try_acquire_many(kib).map_err(|_| RequestError::Busy)?;
    let body = collect(body, bytes_max).await?;
    let single = bytes_max == ENTRY_BYTES_MAX;
    let entries = if single {
        vec![Entry::parse(body.into()).map_err(Refusal::Malformed)]
    } else {
        parse(body).await?
    };
    let mut answer = submit(&app, peer, entries).await?;
    // What waits for witnesses holds nothing that others need.
    drop(room);
    if wait == Some(Wait::Witnessed) {
        answer.view = witnessed(&app, &answer.results).await?;
    }
    if single { answer_one(&app, answer) } else { answer_many(&app, answer) }
}

/// The tree that covers what was admitted, under a checkpoint that the quorum has cosigned.
async fn witnessed(app: &App, results: &[Result<LeafIndex, Refusal>]) -> Result<Arc<View>, RequestError> {
    let mut views = app.witnessed.clone();
    let Some(index) = results.iter().flatten().max().copied() else { return Ok(app.published()) };
    let covers = views.wait_for(|view| index.is_in(view.head.size));
    match tokio::time::timeout(app.publishing.wait, covers).await {
        Ok(Ok(view)) => Ok(Arc::clone(&view)),
        // Too late, or the log is stopping.
        Err(_) | Ok(Err(_)) => {
            Err(RequestError::NotWitnessed { index, count: results.iter().flatten().count() })
        }
    }
}

/// The media type of a body, without parameters and in lower case. A body is what it is: decompressing what strangers
/// send would cost more than they did.
pub(super) fn media(headers: &HeaderMap) -> Result<String, RequestError> {
    let coding = headers.get(header::CONTENT_ENCODING).map(|coding| coding.as_bytes());
    if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(RequestError::UnsupportedMedia("bodies are taken without a Content-Encoding"));
    }
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    Ok(media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Counts a refusal of a single record.
fn counted(app: &App, refusal: Refusal) -> Refusal {
    app.metrics.requests.refused(refusal.problem().kind);
    refusal
}

fn answer_one(app: &App, Answer { results, view }: Answer) -> Answered {
    let result = results.into_iter().next().ok_or(RequestError::Internal("no result"))?;
    let index = result.map_err(|refusal| counted(app, refusal))?;
    let receipt = view.receipt(&app.store, index).map_err(from_view)?;
    Ok(answer(MEDIA_NOTE, UNSTORED, receipt.to_string()))
}

/// Reads a bundle. A thousand records take a while to read: others are not to wait for it.
async fn parse(body: Bytes) -> Result<Vec<Result<Entry, Refusal>>, RequestError> {
    let parse = move || {
        let entries = parse_entries(&body, BATCH_RECORDS_MAX)?;
        let parse = |entry: &[u8]| Entry::parse(entry.to_vec()).map_err(Refusal::Malformed);
        Ok::<Vec<_>, BundleBytesError>(entries.into_iter().map(parse).collect())
    };
    blocking(parse).await?.map_err(|error| RequestError::Malformed(error.to_string()))
}

fn answer_many(app: &App, Answer { results, view }: Answer) -> Answered {
    let indices: BTreeSet<LeafIndex> =
        results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
    let indices: Vec<LeafIndex> = indices.into_iter().collect();
    let proof = view.multi_inclusion(&app.store, &indices).map_err(from_view)?.0;
    let result = |result: Result<LeafIndex, Refusal>| match result {
        Ok(index) => BatchResult::Index(index),
        Err(refusal) => {
            let problem = refusal.problem();
            app.metrics.requests.refused(problem.kind);
            BatchResult::Problem(Box::new(problem))
        }
    };
    let results = results.into_iter().map(result).collect();
    json(UNSTORED, &BatchAnswer { checkpoint: view.checkpoint.clone(), proof, results })
}

/// Decides about entries, and counts those that are nobody's against the address that sent them.
async fn submit(app: &App, peer: Peer, entries: Vec<Result<Entry, Refusal>>) -> Result<Answer, RequestError> {
    let answer = decide(app, entries).await?;
    let failures = answer.results.iter().flat_map(|result| result.as_ref().err());
    let failures = failures.filter(|refusal| refusal.is_by_nobody()).count();
    app.protection.failures.failed(peer.address, u32::try_from(failures).unwrap_or(u32::MAX), Instant::now());
    Ok(answer)
}

async fn decide(app: &App, entries: Vec<Result<Entry, Refusal>>) -> Result<Answer, RequestError> {
    app.is_writing()?;
    // Who names no known key, or one whose rate is used up, is refused here: no place in the queue, no signature
    // checked. One instant for all, so that of a key's records in this request all are refused here or none.
    let (view, now) = (app.committed(), Instant::now());
    let known = |entry: Entry| {
        key_of(&entry, &view)?;
        if app.protection.keys.any()
            && let Some(known) = view.keys.get(entry.signer(), entry.key_id())
        {
            app.protection.keys.look(known.granted, now).map_err(Refusal::RateLimited)?;
        }
        Ok(entry)
    };
    let entries: Vec<Result<Entry, Refusal>> =
        entries.into_iter().map(|entry| entry.and_then(known)).collect();
    if entries.iter().all(Result::is_err) {
        let results = entries.into_iter().map(|entry| entry.map(|_| LeafIndex::default())).collect();
        return Ok(Answer { results, view });
    }
    let answer = app.admission.submit(entries).map_err(|error| match error {
        AdmitError::Busy => RequestError::Busy,
        AdmitError::Stopped => not_written(app),
    })?;
    // A sequencer that cannot write, or stopped, drops what it has not written.
    answer.await.map_err(|_| not_written(app))
}

/// Why a request that was taken was not written. A sequencer that goes on drops requests for one reason only.
fn not_written(app: &App) -> RequestError {
    app.is_writing().err().unwrap_or(RequestError::DiskFull)
}

/// Reads a body that is not wanted, for a while and keeping nothing: most clients read an answer only once they have
/// sent what they have.
pub(super) async fn discard(mut body: Body) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), read).await;
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, RequestError> {
    let body = axum::body::to_bytes(body, bytes_max);
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), body).await {
        Err(_) => Err(RequestError::TooSlow(BODY_SECONDS_MAX)),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let error = error.into_inner();
            if error.is::<http_body_util::LengthLimitError>() {
                Err(RequestError::TooLarge(bytes_max))
            } else {
                Err(RequestError::Malformed(format!("the body did not arrive whole: {error}")))
            }
        }
    }
}

problems!(RecordProblems: MalformedRequest, NotFound, Internal);

/// An entry, or its receipt
///
/// An entry never changes. A receipt is under the newest checkpoint.
#[utoipa::path(
    get,
    path = "/v1/records/{name}",
    params(
        ("name" = String, Path, pattern = "^(0|[1-9][0-9]{0,15})([.]tlog-proof)?$",
            description = "Index of the entry; with `.tlog-proof` behind it, its receipt", example = "0"),
        Conditional,
    ),
    responses(
        (status = 200, description = "The entry's bytes, or a receipt (C2SP tlog-proof)", body = String,
            content_type = "text/plain; charset=utf-8"),
        NotModified, RecordProblems,
    )
)]
pub(super) async fn record(State(app): Shared, Path(name): Path<String>, headers: HeaderMap) -> Answered {
    let view = app.published();
    let (index, receipt) = match name.strip_suffix(".tlog-proof") {
        Some(index) => (index, true),
        None => (name.as_str(), false),
    };
    let index = sift_spec::checkpoint::parse_size(index).and_then(|index| LeafIndex::new(index.get()).ok());
    let published = index.filter(|index| index.is_in(view.head.size));
    let index = published.ok_or_else(|| {
        let is_committed = index.is_some_and(|index| index.is_in(app.committed().head.size));
        let unpublished = if is_committed { ": it is in the log, and not published yet" } else { "" };
        RequestError::NotFound(format!("entry {name} in this tree{unpublished}"))
    })?;
    if receipt {
        let receipt = view.receipt(&app.store, index).map_err(from_view)?.to_string();
        return Ok(tagged(&headers, MEDIA_NOTE, FRESH, receipt));
    }
    let entry =
        app.store.entry(index)?.ok_or_else(|| StoreError::Damaged(format!("entry {index} is missing")))?;
    Ok(tagged(&headers, MEDIA_NOTE, IMMUTABLE, entry))
}
