//! `/v1/runs` and `/v1/operator`: what the log knows of its chains.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use sift_spec::api::{MEDIA_PACK, OperatorAnswer, PAGE_MAX, RunAnswer, RunSummary, RunsAnswer};
use sift_spec::entry::{Content, Entry};
use sift_spec::record::Body as RecordBody;
use sift_spec::types::{RunId, Seq, UnixMillis};

use super::{Answered, FRESH, QueryOf, Shared, answer, blocking, from_view, query_error};
use crate::error::RequestError;
use crate::evidence::{self, EvidenceError};
use crate::store::{ChainId, Store, StoreError};
use crate::view::View;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    after: Option<RunId>,
    limit: Option<usize>,
}

pub(super) async fn runs(State(app): Shared, query: QueryOf<RunsQuery>) -> Answered {
    let Query(RunsQuery { after, limit }) = query.map_err(query_error)?;
    let limit = limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let page = move || -> Result<RunsAnswer, StoreError> {
        let view = app.published();
        let found = app.store.runs(after, limit)?;
        let next = (found.len() == limit).then(|| found.last().copied()).flatten();
        // A run of a later commit than the view's is listed the next time.
        let known =
            found.into_iter().map(|run| summary(&app.store, &view, run)).collect::<Result<Vec<_>, _>>()?;
        Ok(RunsAnswer { runs: known.into_iter().flatten().collect(), next })
    };
    Ok(Json(blocking(page).await??).into_response())
}

pub(super) async fn run(State(app): Shared, Path(run): Path<String>) -> Answered {
    let run = parse_run(&run)?;
    let find = move || -> Result<Option<RunAnswer>, StoreError> {
        let view = app.published();
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

pub(super) async fn run_evidence(State(app): Shared, Path(run): Path<String>) -> Answered {
    let run = parse_run(&run)?;
    let _turn = app.packs.acquire().await.map_err(|_| RequestError::Internal("no turn"))?;
    let app = Arc::clone(&app);
    match blocking(move || evidence::pack(&app.store, &app.published(), run)).await? {
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

fn parse_run(run: &str) -> Result<RunId, RequestError> {
    run.parse().map_err(|error: sift_spec::types::ValueError| RequestError::Malformed(error.to_string()))
}
