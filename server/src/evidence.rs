//! Evidence packs of runs, as far as the log can fill them: entries and proof. Bundles and payload objects
//! are added by whoever holds them.

use std::collections::{BTreeMap, BTreeSet};

use sift_spec::entry::Entry;
use sift_spec::evidence::{PACK_BYTES_MAX, Pack, PackError};
use sift_spec::keys::KeyRing;
use sift_spec::note::{KeyId, Note};
use sift_spec::record::{Body, ENTRY_BYTES_MAX, Record, SignedDelegation};
use sift_spec::types::{KeyName, LeafIndex, RunId};

use crate::store::{ChainId, Store, StoreError};
use crate::view::{View, ViewError};

/// Most entries of the operator that a pack holds for the sake of completeness. Where the operator's chain is longer,
/// a pack holds only those that the run rests on.
const OPERATOR_ENTRIES_MAX: usize = 1024;

/// Why there is no pack.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvidenceError {
    #[error("no such run")]
    NoRun,
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Pack(#[from] PackError),
}

impl From<StoreError> for EvidenceError {
    fn from(error: StoreError) -> Self {
        Self::View(error.into())
    }
}

/// The pack of a run under a view's checkpoint: its entries, and the operator's entries that they rest on.
pub(crate) fn pack(store: &Store, view: &View, run: RunId) -> Result<Vec<u8>, EvidenceError> {
    let rows = store.rows(ChainId::Run(run))?;
    let mut entries = BTreeMap::new();
    let mut rests_on = BTreeSet::new();
    let mut bytes = 0;
    // Rows of later commits than the view's are not in its tree.
    for row in rows.into_iter().filter(|row| row.index.is_in(view.head.size)) {
        let entry = read(store, row.index)?;
        bytes += entry.len();
        if bytes > PACK_BYTES_MAX {
            return Err(PackError::TooLarge.into());
        }
        let entry = Entry::parse(entry).map_err(|error| damaged(row.index, &error.to_string()))?;
        authority(&entry, &view.keys, &mut rests_on);
        entries.insert(row.index, entry.into_bytes());
    }
    let Some(last) = entries.keys().next_back().copied() else { return Err(EvidenceError::NoRun) };
    // The operator's chain from its start to the first entry after the run shows that nothing was left out:
    // no key that signed was revoked before.
    let chain: Vec<LeafIndex> = store
        .rows(ChainId::Operator)?
        .into_iter()
        .map(|row| row.index)
        .filter(|index| index.is_in(view.head.size))
        .collect();
    let chain = chain.get(..=chain.partition_point(|index| *index <= last)).unwrap_or(&chain);
    if chain.len() <= OPERATOR_ENTRIES_MAX {
        rests_on.extend(chain);
    }
    for index in rests_on {
        entries.insert(index, read(store, index)?);
    }
    let indices: Vec<LeafIndex> = entries.keys().copied().collect();
    let proof = view.multi_inclusion(store, &indices)?;
    let checkpoint = view.checkpoint.clone();
    let (bundles, objects) = (BTreeMap::new(), BTreeMap::new());
    Ok(Pack { run, checkpoint, entries, proof, bundles, objects }.write()?)
}

/// Collects the operator's entries that `entry` rests on: grants, revocations, the published bundle; and those
/// that erased its payloads.
fn authority(entry: &Entry, keys: &KeyRing, indices: &mut BTreeSet<LeafIndex>) {
    let commitments = entry.record().map(Record::commitments).unwrap_or_default();
    indices.extend(commitments.iter().filter_map(|payload| keys.erasure(&payload.digest)));
    if let Some(Body::Open(open)) = entry.record().map(|record| &record.body) {
        indices.extend(keys.published(&open.policy));
    }
    let mut key = |name: &KeyName, id: KeyId| {
        if let Some(known) = keys.get(name, id) {
            indices.insert(known.granted);
            indices.extend(known.revoked);
        }
    };
    key(entry.signer(), entry.key_id());
    match entry.record().map(|record| &record.body) {
        Some(Body::Open(open)) => {
            // Who delegated the run. What is not a delegation is the verifier's to find.
            let note = open.delegation.as_ref().and_then(|note| SignedDelegation::parse(note.as_str()).ok());
            note.iter().for_each(|signed| key(&signed.signer, signed.key_id));
        }
        Some(Body::Outcome(outcome)) => {
            let close = outcome.close.as_ref().map(|close| Entry::parse(close.as_str().as_bytes().to_vec()));
            close.into_iter().flatten().for_each(|entry| key(entry.signer(), entry.key_id()));
        }
        Some(Body::Approval(approval)) => {
            // A statement that is no note is the verifier's to find; here it only has no key.
            if let Ok(note) = Note::parse(approval.statement.as_str().as_bytes(), ENTRY_BYTES_MAX) {
                for line in &note.signatures {
                    if let Ok(name) = line.name.parse() {
                        key(&name, line.id);
                    }
                }
            }
        }
        _ => {}
    }
}

fn read(store: &Store, index: LeafIndex) -> Result<Vec<u8>, EvidenceError> {
    store.entry(index)?.ok_or_else(|| damaged(index, "it is missing"))
}

fn damaged(index: LeafIndex, why: &str) -> EvidenceError {
    StoreError::Damaged(format!("entry {index}: {why}")).into()
}
