//! `/v1/equivocations`: two records for one place, both signed.

use std::collections::BTreeSet;

use axum::extract::State;
use serde::Deserialize;
use sift_spec::api::{EQUIVOCATIONS_PAGE_MAX, Equivocation, EquivocationsAnswer, Place};
use sift_spec::entry::Entry;
use sift_spec::keys::KeyRing;
use sift_spec::types::{LeafIndex, Seq};

use super::answer::{FRESH, json};
use super::extract::{Query, page_limit};
use super::{Answered, Shared, blocking};
use crate::openapi::problems;
use crate::store::{ChainId, Store, StoreError};
use crate::view::View;

page_limit!(EquivocationsLimit, EQUIVOCATIONS_PAGE_MAX, 16);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EquivocationsQuery {
    /// `next` of the page before.
    #[param(value_type = Place, required = false)]
    after: Option<Place>,
    /// Equivocations in a page, at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: EquivocationsLimit,
}

problems!(EquivocationsProblems: MalformedRequest, Internal);

/// Evidence of equivocation
///
/// For each place of a chain for which a key that counts signed two records: the one that the log admitted, and the first
/// other one. SPEC §10.4 says how to check them without believing the log.
#[utoipa::path(
    get,
    path = "/v1/equivocations",
    params(EquivocationsQuery),
    responses((status = 200, description = "A page", body = EquivocationsAnswer), EquivocationsProblems)
)]
pub(super) async fn equivocations(
    State(app): Shared,
    Query(EquivocationsQuery { after, limit }): Query<EquivocationsQuery>,
) -> Answered {
    let view = app.published();
    let page = move || -> Result<EquivocationsAnswer, StoreError> {
        let after = after.map(|place| (place.run.map_or(ChainId::Operator, ChainId::Run), place.seq));
        let found = app.store.equivocations(after, limit.get())?;
        let next =
            (found.len() == limit.get()).then(|| found.last().map(|(chain, seq, _)| place(*chain, *seq)));
        let items =
            found.into_iter().map(|(chain, seq, refused)| item(&app.store, &view, chain, seq, refused));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        Ok(EquivocationsAnswer { equivocations: items.into_iter().flatten().collect(), next: next.flatten() })
    };
    json(FRESH, &blocking(page).await??)
}

/// What a view knows of an equivocation: nothing, where the admitted entry came after it.
fn item(
    store: &Store,
    view: &View,
    chain: ChainId,
    seq: Seq,
    refused: Vec<u8>,
) -> Result<Option<Equivocation>, StoreError> {
    let damaged = || StoreError::Damaged(format!("the equivocation at seq {seq} of {chain:?}"));
    let index = store.row(chain, seq)?.ok_or_else(damaged)?.index;
    if !index.is_in(view.head.size) {
        return Ok(None);
    }
    let admitted = store.entry(index)?.ok_or_else(damaged)?;
    let mut grants = BTreeSet::new();
    for entry in [&admitted, &refused] {
        let entry = Entry::parse(entry.clone()).map_err(|_| damaged())?;
        grants.extend(grant(&view.keys, &entry));
    }
    let text = |entry: Vec<u8>| String::from_utf8(entry).map_err(|_| damaged());
    Ok(Some(Equivocation {
        run: place(chain, seq).run,
        seq,
        index,
        admitted: text(admitted)?,
        refused: text(refused)?,
        grants: grants.into_iter().collect(),
    }))
}

/// The entry that granted the key which signed.
fn grant(keys: &KeyRing, entry: &Entry) -> Option<LeafIndex> {
    keys.get(entry.signer(), entry.key_id()).map(|key| key.granted)
}

fn place(chain: ChainId, seq: Seq) -> Place {
    match chain {
        ChainId::Operator => Place { run: None, seq },
        ChainId::Run(run) => Place { run: Some(run), seq },
    }
}
