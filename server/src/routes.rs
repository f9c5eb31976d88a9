//! The HTTP interface (SPEC §10): thin handlers over views, store and admission.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use sift_spec::api::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BatchAnswer, BatchResult, ConsistencyAnswer, InclusionAnswer,
    MEDIA_BYTES, MEDIA_NOTE, MEDIA_PACK, OperatorAnswer, PAGE_MAX, RunAnswer, RunSummary, RunsAnswer,
};
use sift_spec::entry::{Content, Entry};
use sift_spec::record::{Body as RecordBody, ENTRY_BYTES_MAX};
use sift_spec::tile::{
    BundleBytesError, TILE_WIDTH, TileId, TilePath, Tiles as _, parse_entries, push_entry,
};
use sift_spec::types::{LeafIndex, RunId, Seq, TreeSize, UnixMillis};
use tokio::sync::{Semaphore, watch};

use crate::admission::{Admission, AdmitError, key_of};
use crate::error::{Refusal, RequestError};
use crate::evidence::{self, EvidenceError};
use crate::sequencer::Answer;
use crate::store::{ChainId, Store, StoreError};
use crate::view::{View, ViewError};

/// How long a body may take to arrive.
const BODY_SECONDS_MAX: u64 = 30;

/// How much of a body that is too long is read before it is cut off, in bytes.
const DISCARD_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

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
    pub(crate) store: Arc<Store>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) admission: Admission,
    /// Set while the log takes no more records.
    pub(crate) stopping: Arc<AtomicBool>,
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
        .route("/checkpoint", get(checkpoint))
        .route("/tile/{*path}", get(tile))
        .route("/v1/records", post(add))
        .route("/v1/records/{index}", get(record))
        .route("/v1/proof/inclusion", get(inclusion))
        .route("/v1/proof/consistency", get(consistency))
        .route("/v1/runs", get(runs))
        .route("/v1/runs/{run}", get(run))
        .route("/v1/runs/{run}/evidence", get(run_evidence))
        .route("/v1/operator", get(operator))
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
        views: watch::Receiver<Arc<View>>,
        admission: Admission,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        let (bodies, packs) = (Semaphore::new(BODIES_KIB_MAX), Semaphore::new(PACKS_MAX));
        Self { store, views, admission, stopping, bodies, packs }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }
}

async fn checkpoint(State(app): Shared) -> Response {
    answer(MEDIA_NOTE, FRESH, app.view().checkpoint.clone())
}

async fn ready(State(app): Shared) -> Answered {
    if app.stopping.load(Ordering::Relaxed) {
        Err(RequestError::NotWriting)
    } else {
        Ok("ready\n".into_response())
    }
}

async fn tile(State(app): Shared, Path(path): Path<String>) -> Answered {
    let path = format!("tile/{path}");
    let missing = || RequestError::NotFound(format!("{path} in this tree"));
    let parsed = TilePath::parse(&path).ok_or_else(missing)?;
    let size = app.view().head.size;
    let bytes = match parsed {
        TilePath::Hashes { tile, width } if width <= tile.width(size) => {
            let hashes = app.store.tile(tile, width)?;
            hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
        }
        TilePath::Entries { index, width } if width <= (TileId { level: 0, index }).width(size) => {
            let mut bundle = Vec::new();
            for entry in app.store.entries(index * TILE_WIDTH, width)? {
                if !push_entry(&mut bundle, &entry) {
                    return Err(StoreError::Damaged("an entry is too long".to_owned()).into());
                }
            }
            bundle
        }
        _ => return Err(missing()),
    };
    Ok(answer(MEDIA_BYTES, IMMUTABLE, bytes))
}

async fn add(State(app): Shared, headers: HeaderMap, body: Body) -> Answered {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let bytes_max = match media.as_str() {
        "text/plain" => ENTRY_BYTES_MAX,
        "application/octet-stream" => BATCH_BYTES_MAX,
        _ => return Err(RequestError::Malformed(
            "Content-Type must be text/plain for one note, or application/octet-stream for a bundle: 16 bits of \
             length and a note, for each"
                .to_owned(),
        )),
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
    let _room = app.bodies.try_acquire_many(kib).map_err(|_| RequestError::Busy)?;
    let body = collect(body, bytes_max).await?;
    if bytes_max == ENTRY_BYTES_MAX { add_one(&app, body).await } else { add_many(&app, body).await }
}

async fn add_one(app: &App, body: Bytes) -> Answered {
    let entry = Entry::parse(body.into()).map_err(Refusal::Malformed)?;
    let Answer { results, view } = submit(app, vec![Ok(entry)]).await?;
    let index = results.into_iter().next().ok_or(RequestError::Internal("no result"))??;
    let receipt = view.receipt(&app.store, index).map_err(from_view)?;
    Ok(answer(MEDIA_NOTE, "no-store", receipt.to_string()))
}

async fn add_many(app: &App, body: Bytes) -> Answered {
    let parse = move || {
        let entries = parse_entries(&body, BATCH_RECORDS_MAX)?;
        let parse = |entry: &[u8]| Entry::parse(entry.to_vec()).map_err(Refusal::Malformed);
        Ok::<Vec<_>, BundleBytesError>(entries.into_iter().map(parse).collect())
    };
    // A thousand records take a while to read: others are not to wait for it.
    let entries = blocking(parse).await?.map_err(|error| RequestError::Malformed(error.to_string()))?;
    let Answer { results, view } = submit(app, entries).await?;
    let indices: BTreeSet<LeafIndex> =
        results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
    let indices: Vec<LeafIndex> = indices.into_iter().collect();
    let proof = view.multi_inclusion(&app.store, &indices).map_err(from_view)?.0;
    let result = |result: Result<LeafIndex, Refusal>| match result {
        Ok(index) => BatchResult::Index(index),
        Err(refusal) => BatchResult::Problem(Box::new(refusal.problem())),
    };
    let results = results.into_iter().map(result).collect();
    Ok(Json(BatchAnswer { checkpoint: view.checkpoint.clone(), proof, results }).into_response())
}

async fn submit(app: &App, entries: Vec<Result<Entry, Refusal>>) -> Result<Answer, RequestError> {
    if app.stopping.load(Ordering::Relaxed) {
        return Err(RequestError::NotWriting);
    }
    // Who names no known key is refused here, without a place in the queue.
    let view = app.view();
    let known = |entry: Entry| key_of(&entry, &view).map(|_| ()).map(|()| entry);
    let entries: Vec<Result<Entry, Refusal>> =
        entries.into_iter().map(|entry| entry.and_then(known)).collect();
    if entries.iter().all(Result::is_err) {
        let results = entries.into_iter().map(|entry| entry.map(|_| LeafIndex::default())).collect();
        return Ok(Answer { results, view });
    }
    let answer = app.admission.submit(entries).map_err(|error| match error {
        AdmitError::Busy => RequestError::Busy,
        AdmitError::Stopped => RequestError::NotWriting,
    })?;
    // A sequencer that stopped drops what it has not written.
    answer.await.map_err(|_| RequestError::NotWriting)
}

/// Reads a body that is not wanted, for a while and keeping nothing: most clients read an answer only once they have
/// sent what they have.
async fn discard(mut body: Body) {
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

async fn record(State(app): Shared, Path(name): Path<String>) -> Answered {
    let view = app.view();
    let (index, receipt) = match name.strip_suffix(".tlog-proof") {
        Some(index) => (index, true),
        None => (name.as_str(), false),
    };
    let index = sift_spec::checkpoint::parse_size(index).and_then(|index| LeafIndex::new(index.get()).ok());
    let index = index.filter(|index| index.is_in(view.head.size));
    let index = index.ok_or_else(|| RequestError::NotFound(format!("entry {name} in this tree")))?;
    if receipt {
        return Ok(answer(
            MEDIA_NOTE,
            FRESH,
            view.receipt(&app.store, index).map_err(from_view)?.to_string(),
        ));
    }
    let entry =
        app.store.entry(index)?.ok_or_else(|| StoreError::Damaged(format!("entry {index} is missing")))?;
    Ok(answer(MEDIA_NOTE, IMMUTABLE, entry))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InclusionQuery {
    index: LeafIndex,
    size: Option<TreeSize>,
}

async fn inclusion(State(app): Shared, query: QueryOf<InclusionQuery>) -> Answered {
    let Query(InclusionQuery { index, size }) = query.map_err(query_error)?;
    let view = app.view();
    let size = within(size, &view)?;
    let hashes = view.inclusion(&app.store, index, size).map_err(from_view)?.0;
    Ok(Json(InclusionAnswer { index, size, hashes }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsistencyQuery {
    old: TreeSize,
    new: Option<TreeSize>,
}

async fn consistency(State(app): Shared, query: QueryOf<ConsistencyQuery>) -> Answered {
    let Query(ConsistencyQuery { old, new }) = query.map_err(query_error)?;
    let view = app.view();
    let new = within(new, &view)?;
    let hashes = view.consistency(&app.store, old, new).map_err(from_view)?.0;
    Ok(Json(ConsistencyAnswer { old, new, hashes }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    after: Option<RunId>,
    limit: Option<usize>,
}

async fn runs(State(app): Shared, query: QueryOf<RunsQuery>) -> Answered {
    let Query(RunsQuery { after, limit }) = query.map_err(query_error)?;
    let limit = limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let page = move || -> Result<RunsAnswer, StoreError> {
        let view = app.view();
        let found = app.store.runs(after, limit)?;
        let next = (found.len() == limit).then(|| found.last().copied()).flatten();
        // A run of a later commit than the view's is listed the next time.
        let known =
            found.into_iter().map(|run| summary(&app.store, &view, run)).collect::<Result<Vec<_>, _>>()?;
        Ok(RunsAnswer { runs: known.into_iter().flatten().collect(), next })
    };
    Ok(Json(blocking(page).await??).into_response())
}

async fn run(State(app): Shared, Path(run): Path<String>) -> Answered {
    let run = parse_run(&run)?;
    let find = move || -> Result<Option<RunAnswer>, StoreError> {
        let view = app.view();
        let Some(summary) = summary(&app.store, &view, run)? else { return Ok(None) };
        let rows = app.store.rows(ChainId::Run(run))?;
        let rows = rows.get(..summary.records as usize).unwrap_or_default();
        let Some(last) = rows.last() else { return Ok(None) };
        Ok(Some(RunAnswer { summary, head: last.leaf, indices: rows.iter().map(|row| row.index).collect() }))
    };
    match blocking(find).await?? {
        Some(run) => Ok(Json(run).into_response()),
        None => Err(RequestError::NotFound(format!("run {run}"))),
    }
}

async fn run_evidence(State(app): Shared, Path(run): Path<String>) -> Answered {
    let run = parse_run(&run)?;
    let _turn = app.packs.acquire().await.map_err(|_| RequestError::Internal("no turn"))?;
    let app = Arc::clone(&app);
    match blocking(move || evidence::pack(&app.store, &app.view(), run)).await? {
        Ok(pack) => {
            let mut response = answer(MEDIA_PACK, FRESH, pack);
            if let Ok(name) = HeaderValue::try_from(format!("attachment; filename=\"{run}.sift\"")) {
                response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
            }
            Ok(response)
        }
        Err(EvidenceError::NoRun) => Err(RequestError::NotFound(format!("run {run}"))),
        Err(EvidenceError::View(error)) => Err(from_view(error)),
        Err(EvidenceError::Pack(_)) => {
            Err(RequestError::Internal("the run does not fit into a pack of 1 GiB"))
        }
    }
}

async fn operator(State(app): Shared) -> Answered {
    let find = move || -> Result<OperatorAnswer, StoreError> {
        let log = app.view().keys.log().clone();
        let Some((seq, row)) = app.store.last_row(ChainId::Operator)? else {
            return Ok(OperatorAnswer {
                log,
                next_seq: Seq::ZERO,
                index: None,
                prev: None,
                time: UnixMillis::ZERO,
            });
        };
        let damaged = || StoreError::Damaged(format!("entry {} is not the operator's", row.index));
        let entry = Entry::parse(app.store.entry(row.index)?.ok_or_else(damaged)?).map_err(|_| damaged())?;
        let Content::Operator(record) = entry.content() else { return Err(damaged()) };
        let next_seq = Seq::new(seq + 1).map_err(|_| damaged())?;
        Ok(OperatorAnswer { log, next_seq, index: Some(row.index), prev: Some(row.leaf), time: record.time })
    };
    Ok(Json(blocking(find).await??).into_response())
}

/// What a view knows of a run: nothing of records that came after it.
fn summary(store: &Store, view: &View, run: RunId) -> Result<Option<RunSummary>, StoreError> {
    let Some((mut seq, mut last)) = store.last_row(ChainId::Run(run))? else { return Ok(None) };
    while !last.index.is_in(view.head.size) {
        let Some(before) = seq.checked_sub(1) else { return Ok(None) };
        seq = before;
        let place = Seq::new(seq).map_err(|error| StoreError::Damaged(error.to_string()))?;
        last = store
            .row(ChainId::Run(run), place)?
            .ok_or_else(|| StoreError::Damaged(format!("seq {seq} of {run}")))?;
    }
    let damaged = || StoreError::Damaged(format!("entry {} is not a record of run {run}", last.index));
    let entry = Entry::parse(store.entry(last.index)?.ok_or_else(damaged)?).map_err(|_| damaged())?;
    let record = entry.record().ok_or_else(damaged)?;
    Ok(Some(RunSummary {
        run,
        agent: record.agent.clone(),
        signer: entry.signer().clone(),
        records: seq + 1,
        time: record.time,
        closed: matches!(record.body, RecordBody::Close(_)),
    }))
}

type QueryOf<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn query_error(error: axum::extract::rejection::QueryRejection) -> RequestError {
    RequestError::Malformed(error.body_text())
}

fn within(size: Option<TreeSize>, view: &View) -> Result<TreeSize, RequestError> {
    let size = size.unwrap_or(view.head.size);
    if size > view.head.size {
        return Err(RequestError::NotFound(format!(
            "tree of size {size} yet; the newest has {}",
            view.head.size
        )));
    }
    Ok(size)
}

fn parse_run(run: &str) -> Result<RunId, RequestError> {
    run.parse().map_err(|error: sift_spec::types::ValueError| RequestError::Malformed(error.to_string()))
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
