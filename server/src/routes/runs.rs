//! `/v1/runs`, `/v1/operator` and `/v1/policies`: what the log knows of its chains.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use serde::Deserialize;
use sift_spec::api::{
    MEDIA_PACK, OPERATOR_PAGE_MAX, OperatorAnswer, OperatorRecordsAnswer, PolicyAnswer, RUNS_PAGE_MAX,
    RunAnswer, RunSummary, RunsAnswer,
};
use sift_spec::entry::{Content, Entry};
use sift_spec::record::Body as RecordBody;
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};

use super::answer::{FRESH, answer, json};
use super::extract::{Path, Query, page_limit};
use super::{Answered, Shared, blocking, from_view};
use crate::error::RequestError;
use crate::evidence::{EvidenceError, pack};
use crate::openapi::{Binary, problems};
use crate::store::{ChainId, Store, StoreError};
use crate::view::View;

page_limit!(RunsLimit, RUNS_PAGE_MAX, 100);
page_limit!(OperatorLimit, OPERATOR_PAGE_MAX, 100);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// The last run of the page before.
    #[param(value_type = RunId, required = false)]
    after: Option<RunId>,
    /// Runs in a page, at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: RunsLimit,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OperatorQuery {
    /// Seq of the first record.
    #[serde(default)]
    #[param(value_type = Seq, required = false)]
    from: Seq,
    /// Records in a page, at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: OperatorLimit,
}

problems!(RunsProblems: MalformedRequest, Internal);
problems!(RunProblems: MalformedRequest, NotFound, Internal);
problems!(OperatorProblems: Internal);
problems!(OperatorRecordsProblems: MalformedRequest, Internal);
problems!(PolicyProblems: MalformedRequest, NotFound);

/// Runs, in the order of their start
#[utoipa::path(
    get,
    path = "/v1/runs",
    params(RunsQuery),
    responses((status = 200, description = "A page", body = RunsAnswer), RunsProblems)
)]
pub(super) async fn runs(
    State(app): Shared,
    Query(RunsQuery { after, limit }): Query<RunsQuery>,
) -> Answered {
    let limit = limit.get();
    let page = move || -> Result<RunsAnswer, StoreError> {
        let view = app.published();
        let found = app.store.runs(after, limit)?;
        let next = (found.len() == limit).then(|| found.last().copied()).flatten();
        // A run of a later commit than the view's is listed the next time.
        let known =
            found.into_iter().map(|run| summary(&app.store, &view, run)).collect::<Result<Vec<_>, _>>()?;
        Ok(RunsAnswer { runs: known.into_iter().flatten().collect(), next })
    };
    json(FRESH, &blocking(page).await??)
}

/// A run
#[utoipa::path(
    get,
    path = "/v1/runs/{run}",
    params(("run" = RunId, Path, description = "The run")),
    responses((status = 200, description = "What the log knows of it", body = RunAnswer), RunProblems)
)]
pub(super) async fn run(State(app): Shared, Path(run): Path<RunId>) -> Answered {
    let find = move || -> Result<Option<RunAnswer>, StoreError> {
        let view = app.published();
        let Some(summary) = summary(&app.store, &view, run)? else { return Ok(None) };
        let rows = app.store.rows(ChainId::Run(run))?;
        let rows = rows.get(..summary.records as usize).unwrap_or_default();
        let Some(last) = rows.last() else { return Ok(None) };
        Ok(Some(RunAnswer { summary, head: last.leaf, indices: rows.iter().map(|row| row.index).collect() }))
    };
    match blocking(find).await?? {
        Some(run) => json(FRESH, &run),
        None => Err(RequestError::NotFound(format!("run {run}"))),
    }
}

/// A run's evidence pack
///
/// A ZIP archive (SPEC §9) with the run's entries, those they rest on, and one proof for all of them.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/evidence",
    params(("run" = RunId, Path, description = "The run")),
    responses(
        (status = 200, description = "The pack", body = inline(Binary), content_type = "application/zip"),
        RunProblems,
    )
)]
pub(super) async fn evidence(State(app): Shared, Path(run): Path<RunId>) -> Answered {
    let _turn = app.packs.acquire().await.map_err(|_| RequestError::Internal("no turn"))?;
    let app = Arc::clone(&app);
    match blocking(move || pack(&app.store, &app.published(), run)).await? {
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

/// What the operator's next record must say
#[utoipa::path(
    get,
    path = "/v1/operator",
    responses((status = 200, description = "The end of the operator's chain", body = OperatorAnswer), OperatorProblems)
)]
pub(super) async fn operator(State(app): Shared) -> Answered {
    let find = move || -> Result<OperatorAnswer, StoreError> {
        let log = app.published().keys.log().clone();
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
    json(FRESH, &blocking(find).await??)
}

/// Where the operator's records stand
#[utoipa::path(
    get,
    path = "/v1/operator/records",
    params(OperatorQuery),
    responses(
        (status = 200, description = "A page; an empty one is the end", body = OperatorRecordsAnswer),
        OperatorRecordsProblems,
    )
)]
pub(super) async fn operator_records(
    State(app): Shared,
    Query(OperatorQuery { from, limit }): Query<OperatorQuery>,
) -> Answered {
    let page = move || -> Result<OperatorRecordsAnswer, StoreError> {
        let size = app.published().head.size;
        let mut indices = Vec::new();
        let mut seq = Some(from);
        while let Some(place) = seq.filter(|_| indices.len() < limit.get()) {
            // One of a later commit than the view's is listed the next time.
            match app.store.row(ChainId::Operator, place)? {
                Some(row) if row.index.is_in(size) => indices.push(row.index),
                _ => break,
            }
            seq = place.next();
        }
        Ok(OperatorRecordsAnswer { from, indices })
    };
    json(FRESH, &blocking(page).await??)
}

/// Where the operator has published a policy bundle
#[utoipa::path(
    get,
    path = "/v1/policies/{digest}",
    params(("digest" = String, Path, pattern = "^[0-9a-f]{64}$",
        description = "The bundle's digest, in hexadecimal")),
    responses((status = 200, description = "The operator's record", body = PolicyAnswer), PolicyProblems)
)]
pub(super) async fn policy(State(app): Shared, Path(digest): Path<String>) -> Answered {
    let bundle = Hash::from_hex(&digest).map_err(|error| RequestError::Malformed(error.to_string()))?;
    // The ring is that of the published tree: the record and its receipt are to be had.
    match app.published().keys.published(&bundle) {
        Some(index) => json(FRESH, &PolicyAnswer { bundle, index }),
        None => Err(RequestError::NotFound(format!("publication of the bundle {digest}"))),
    }
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
