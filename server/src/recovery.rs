//! Recovery: how every start begins, after a crash or not.
//!
//! 1. The store is of this log: origin and log key are those of the configuration.
//! 2. The newest checkpoint is signed by the log's key.
//! 3. The right edge, read from the tiles, has that checkpoint's root.
//! 4. The last entry is the one before its size.
//! 5. Keys and bundles are what the operator's entries, verified again, make them; none is missing.
//! 6. The tree extends every head that is known to have been signed: the high-water mark, and what others have seen.
//!
//! Any difference refuses the start. Nothing is repaired: a store that is not what was signed is evidence.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use sift_spec::chain::OperatorHead;
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::hash::EMPTY_ROOT;
use sift_spec::keys::KeyRing;
use sift_spec::note::{SignerKey, VerifierKey};
use sift_spec::proof::TreeHead;
use sift_spec::tile::{TiledTree, Tiles as _};
use sift_spec::tree::{Nodes as _, RightEdge};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{KeyName, TreeSize};
use tokio::sync::watch;

use crate::mark::HighWaterMark;
use crate::sequencer::{Sequencer, sign};
use crate::store::{ChainId, Commit, Store, StoreConfig, StoreError};
use crate::tile::EdgeTiles;
use crate::view::View;

/// Why the log does not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store belongs to another log or key.
    #[error(
        "the store is that of {found}, not of {expected}: check \"data\" and \"log_key\" in the configuration"
    )]
    OtherLog {
        /// What the configuration says.
        expected: String,
        /// What the store says.
        found: String,
    },
    /// The stored checkpoint is not one of this log.
    #[error("the stored checkpoint is not believed: {0}")]
    Checkpoint(#[from] sift_spec::trust::TrustError),
    /// The high-water mark could not be read or written.
    #[error("the high-water mark beside the store: {0}")]
    Mark(#[from] std::io::Error),
    /// The log signed more than the store holds.
    #[error(
        "the log signed a tree of {known} entries, and the store holds {stored} that do not extend it: this is an old \
         or damaged copy, and going on from it would show two histories; restore the store from where it is whole"
    )]
    Behind {
        /// Entries in the store.
        stored: TreeSize,
        /// Size of the head that was signed.
        known: TreeSize,
    },
    /// The stored tree is not the one that was signed.
    #[error(
        "the stored tree is not the one that was signed: {0}; restore the whole store from where it is intact, \
         never a part of it"
    )]
    TreeDiffers(String),
}

/// Makes the store of a new log: its identity and the signed empty tree.
pub(crate) fn create(
    dir: &Path,
    config: &StoreConfig,
    key: &SignerKey,
    origin: &KeyName,
) -> Result<(), RecoveryError> {
    let store = Store::open(dir, config, true)?;
    let vkey = key.verifier().to_string();
    if let Some(found) = store.meta("vkey")? {
        let found = String::from_utf8_lossy(&found).into_owned();
        return Err(RecoveryError::OtherLog { expected: "a new log".to_owned(), found });
    }
    let checkpoint = sign(key, origin, TreeHead { size: TreeSize::ZERO, root: EMPTY_ROOT })?;
    store.set_meta(&[("vkey", vkey.as_bytes()), ("checkpoint", checkpoint.as_bytes())])?;
    Ok(store.commit(&Commit { checkpoint: Some((TreeSize::ZERO, checkpoint, true)), ..Commit::default() })?)
}

/// Opens the store of an existing log and rebuilds what the sequencer knows. `seen` are checkpoints of this log that
/// others hold.
pub(crate) fn open(
    dir: &Path,
    config: &StoreConfig,
    key: SignerKey,
    operator: VerifierKey,
    seen: &[Vec<u8>],
) -> Result<Sequencer, RecoveryError> {
    let store = Store::open(dir, config, false)?;
    let log = key.verifier().clone();
    // 1. The store is of this log.
    let found =
        store.meta("vkey")?.map(|vkey| String::from_utf8_lossy(&vkey).into_owned()).unwrap_or_default();
    if found != log.to_string() {
        return Err(RecoveryError::OtherLog { expected: log.to_string(), found });
    }
    // 2. The checkpoint is this log's.
    let checkpoint = store.meta("checkpoint")?.unwrap_or_default();
    let trust = TrustPolicy::of_log(log.clone(), None);
    let Checkpoint { head, .. } = trust.verify(&checkpoint)?.checkpoint().clone();
    let checkpoint = String::from_utf8(checkpoint)
        .map_err(|_| RecoveryError::TreeDiffers("the checkpoint is not UTF-8".to_owned()))?;
    // 3. The right edge has that root.
    let row = TiledTree::new(head.size, &store).read(&RightEdge::nodes(head.size));
    let row = row.map_err(|error| RecoveryError::TreeDiffers(error.to_string()))?;
    let edge = RightEdge::from_row(head.size, row).filter(|edge| edge.root() == head.root);
    let edge = edge.ok_or_else(|| {
        RecoveryError::TreeDiffers(format!(
            "its tiles lead to another root than the checkpoint of size {}",
            head.size
        ))
    })?;
    let widths = EdgeTiles::ids(head.size.get());
    let tiles = widths
        .into_iter()
        .map(|id| match id.width(head.size) {
            0 => Ok(Vec::new()),
            width => store.tile(id, width),
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    let tiles = EdgeTiles::restore(head.size.get(), &tiles).ok_or_else(|| {
        RecoveryError::TreeDiffers("the tiles of the right edge have other widths".to_owned())
    })?;
    // 4. As many entries.
    let last = store.last_index()?;
    if last != head.size.last().map(sift_spec::types::LeafIndex::get) {
        let stored = last.map_or(0, |last| last + 1);
        return Err(RecoveryError::TreeDiffers(format!(
            "{stored} entries are stored and {} are signed",
            head.size
        )));
    }
    // 5. Keys and bundles.
    let mut keys = KeyRing::new(log.name().clone(), operator.clone());
    let chain = recover_operator(&store, &operator, &mut keys)?;
    // 6. Every head that is known to have been signed.
    let mark = HighWaterMark::read(dir, &trust)?;
    let seen = seen.iter().map(|note| Ok(trust.verify(note)?.checkpoint().head));
    for known in mark.into_iter().map(Ok).chain(seen).collect::<Result<Vec<_>, RecoveryError>>()? {
        check_extends(&store, &head, &known)?;
    }
    let mut mark = HighWaterMark::open(dir)?;
    mark.set(&checkpoint);
    let keys = Arc::new(keys);
    let partial = tiles.partial().map(|(id, tile)| (id, Arc::new(tile.clone()))).collect();
    let view = Arc::new(View { head, checkpoint, keys: Arc::clone(&keys), tiles: partial });
    let (views, _) = watch::channel(view);
    let store = Arc::new(store);
    let (heads, metrics, limits) = (HashMap::new(), Arc::default(), Arc::default());
    Ok(Sequencer { store, key, keys, operator: chain, edge, tiles, heads, views, mark, metrics, limits })
}

/// Checks that the stored tree extends a head that was signed before.
fn check_extends(store: &Store, stored: &TreeHead, known: &TreeHead) -> Result<(), RecoveryError> {
    let behind = || RecoveryError::Behind { stored: stored.size, known: known.size };
    if known.size > stored.size {
        return Err(behind());
    }
    let row = TiledTree::new(stored.size, store).read(&RightEdge::nodes(known.size));
    let row = row.map_err(|error| RecoveryError::TreeDiffers(error.to_string()))?;
    match RightEdge::from_row(known.size, row) {
        Some(edge) if edge.root() == known.root => Ok(()),
        _ => Err(behind()),
    }
}

fn recover_operator(
    store: &Store,
    operator: &VerifierKey,
    keys: &mut KeyRing,
) -> Result<OperatorHead, RecoveryError> {
    let mut chain = OperatorHead::default();
    for row in store.rows(ChainId::Operator)? {
        let differs =
            |why: String| RecoveryError::TreeDiffers(format!("operator entry {}: {why}", row.index));
        let bytes = store.entry(row.index)?.ok_or_else(|| differs("it is missing".to_owned()))?;
        let entry = Entry::parse(bytes).map_err(|error| differs(error.to_string()))?;
        entry.verify(operator).map_err(|error| differs(error.to_string()))?;
        if entry.leaf() != row.leaf {
            return Err(differs("its row names another leaf hash".to_owned()));
        }
        let Content::Operator(record) = entry.content() else {
            return Err(differs("it is not the operator's".to_owned()));
        };
        chain.extend(record, entry.leaf(), keys.log()).map_err(|error| differs(error.to_string()))?;
        keys.apply(row.index, &record.body).map_err(|error| differs(error.to_string()))?;
    }
    let (found, expected) = (chain.next_seq().get(), store.operator_records()?);
    if found != expected {
        let why = format!("{found} operator entries are stored, {expected} were written");
        return Err(RecoveryError::TreeDiffers(why));
    }
    Ok(chain)
}
