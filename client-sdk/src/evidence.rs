//! Evidence: the log's pack of a run, completed with what only the kernel has.

use std::collections::BTreeMap;

use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::proof::{Proof, verify_multi_inclusion};
use sift_spec::record::Body;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::RunId;

use crate::error::EvidenceError;
use crate::follow::{between, head_of, verify_either_way};
use crate::log::LogClient;
use crate::store::Store;

/// Which payload objects go into a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disclosure {
    /// All that the store has.
    Everything,
    /// None: proofs and decisions stay, contents are withheld.
    Nothing,
}

/// Fetches the pack of a run and completes it with its bundle and payload objects. The log's part is checked: the
/// trust file believes its checkpoint, which is of the tree that the kernel has followed, all entries are proven, and those of the run are the ones this kernel signed.
///
/// # Errors
/// When the log does not answer, records are not in it yet, or its pack is not what the kernel signed.
pub async fn collect(
    run: RunId,
    store: &Store,
    log: &LogClient,
    trust: &TrustPolicy,
    disclosure: Disclosure,
) -> Result<Pack, EvidenceError> {
    let records = store.run(run)?;
    let missing = records.iter().filter(|record| record.index.is_none()).count() as u64;
    if missing > 0 {
        return Err(EvidenceError::NotLogged { missing, records: records.len() as u64 });
    }
    let bytes = log.evidence(run).await?;
    let wrong = |why: String| EvidenceError::Wrong(why);
    let mut pack = Pack::read(&bytes).map_err(|error| wrong(error.to_string()))?;
    if pack.run != run {
        return Err(wrong(format!("it is about run {}", pack.run)));
    }
    let checkpoint = trust.verify(pack.checkpoint.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let leaves: Vec<_> = pack.entries.iter().map(|(index, entry)| (*index, leaf_hash(entry))).collect();
    verify_multi_inclusion(&leaves, &checkpoint.checkpoint().head, &pack.proof)
        .map_err(|error| wrong(error.to_string()))?;
    // A log that shows others another history must not show it here unnoticed.
    if let Some(seen) = store.checkpoint()? {
        let (seen, head) = (head_of(&seen).map_err(wrong)?, checkpoint.checkpoint().head);
        let proof = match between(&seen, &head) {
            Some((old, new)) => log.consistency(old, new).await?.hashes,
            None => Vec::new(),
        };
        verify_either_way(&seen, &head, &Proof(proof))
            .map_err(|error| wrong(format!("its tree is not that of the kernel's receipts: {error}")))?;
    }
    let mut bundles = BTreeMap::new();
    let mut objects = BTreeMap::new();
    for stored in records {
        let logged = stored.index.and_then(|index| pack.entries.get(&index));
        if logged != Some(&stored.entry) {
            return Err(wrong(format!("record {} is not the one this kernel signed", stored.position)));
        }
        let entry = Entry::parse(stored.entry).map_err(|error| wrong(error.to_string()))?;
        let Some(record) = entry.record() else { continue };
        if let Body::Open(open) = &record.body {
            let bundle = store.bundle(&open.policy)?.ok_or(EvidenceError::NoBundle(open.policy))?;
            bundles.insert(open.policy, bundle);
        }
        if disclosure == Disclosure::Everything {
            // What was erased is missing, and its proofs hold all the same.
            objects.append(&mut store.objects(stored.position)?);
        }
    }
    pack.bundles = bundles;
    pack.objects = objects;
    Ok(pack)
}
