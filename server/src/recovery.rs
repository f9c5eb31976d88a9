//! Recovery: how every start begins, after a crash or not.
//!
//! 1. The store is of this log: its origin is that of the configuration.
//! 2. The newest checkpoint is signed by a key of the configuration. While the log changes its key there are several,
//!    and from the first start with a new key on, the same checkpoint has its signature too.
//! 3. The right edge, read from the tiles, has that checkpoint's root.
//! 4. The last entry is the one before its size.
//! 5. Keys and bundles are what the operator's entries, verified again, make them; none is missing.
//! 6. The tree extends every head that is known to have been signed, by a key of today or of before: the high-water
//!    mark, and what others have seen.
//!
//! Any difference refuses the start. Nothing is repaired: a store that is not what was signed is evidence. What has been
//! published, and what witnesses have seen, is compared in [`crate::publish`].

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
use sift_spec::trust::{TrustError, TrustPolicy};
use sift_spec::types::{KeyName, TreeSize};
use tokio::sync::watch;

use crate::mark::HighWaterMark;
use crate::sequencer::{Sequencer, sign};
use crate::store::{ChainId, Commit, Store, StoreConfig, StoreError};
use crate::tile::EdgeTiles;
use crate::view::View;

/// Name of the list of all keys this log has had, in the store's named values. There once it has changed its key.
const KEYS_EVER: &str = "vkeys";

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
    let empty = TreeHead { size: TreeSize::ZERO, root: EMPTY_ROOT };
    let checkpoint = sign(std::slice::from_ref(key), origin, empty)?;
    store.set_meta(&[("vkey", vkey.as_bytes()), ("checkpoint", checkpoint.as_bytes())])?;
    Ok(store.commit(&Commit { checkpoint: Some((TreeSize::ZERO, checkpoint, true)), ..Commit::default() })?)
}

/// Opens the store of an existing log and rebuilds what the sequencer knows. `log_keys` are the log's own, of one name,
/// the one of today first. `seen` are checkpoints of this log that others hold; their heads, verified, are given back.
pub(crate) fn open(
    dir: &Path,
    config: &StoreConfig,
    log_keys: Vec<SignerKey>,
    operator: VerifierKey,
    seen: &[Vec<u8>],
) -> Result<(Sequencer, Vec<TreeHead>), RecoveryError> {
    let store = Store::open(dir, config, false)?;
    let vkeys: Vec<VerifierKey> = log_keys.iter().map(|key| key.verifier().clone()).collect();
    let Identity { log, last_key, signed, checkpoint } = identify(&store, &vkeys)?;
    let head = signed.head;
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
    let mut keys = KeyRing::new(log, operator.clone());
    let chain = recover_operator(&store, &operator, &mut keys, head.size)?;
    let (found, expected) = (chain.next_seq().get(), store.operator_records()?);
    if found != expected {
        let why = format!("{found} operator entries are stored, {expected} were written");
        return Err(RecoveryError::TreeDiffers(why));
    }
    // 6. Every head that is known to have been signed.
    let ever = every_key(&store, &vkeys, &last_key)?;
    let trust = TrustPolicy::of_keys(ever.clone(), None);
    let mark = HighWaterMark::read(dir, &trust)?;
    let seen = seen.iter().map(|note| Ok(trust.verify(note)?.checkpoint().head));
    let seen = seen.collect::<Result<Vec<_>, RecoveryError>>()?;
    for known in mark.iter().chain(&seen) {
        check_extends(&store, &head, known)?;
    }
    // The keys of today sign what stands, so that those of yesterday can be left out from the next start on.
    let today = signed.sign_all(&log_keys);
    if today != checkpoint || vkeys.first() != Some(&last_key) {
        let ever: String = ever.iter().map(|key| format!("{key}\n")).collect();
        let first = vkeys.first().unwrap_or(&last_key).to_string();
        let values =
            [(KEYS_EVER, ever.as_bytes()), ("vkey", first.as_bytes()), ("checkpoint", today.as_bytes())];
        store.set_meta(&values)?;
    }
    let mut mark = HighWaterMark::open(dir)?;
    mark.set(&today);
    let keys = Arc::new(keys);
    let partial = tiles.partial().collect();
    let view = Arc::new(View { head, checkpoint: today, keys: Arc::clone(&keys), tiles: partial });
    let (views, _) = watch::channel(view);
    let store = Arc::new(store);
    let sequencer = Sequencer {
        store,
        log_keys,
        keys,
        operator: chain,
        edge,
        tiles,
        heads: HashMap::new(),
        views,
        mark,
        keeps_checkpoints: true,
        metrics: Arc::default(),
        limits: Arc::default(),
    };
    Ok((sequencer, seen))
}

/// Whose store it is.
pub(crate) struct Identity {
    /// The log's origin.
    log: KeyName,
    /// The first of the keys that the log signed with when it was served last.
    pub(crate) last_key: VerifierKey,
    /// The newest checkpoint, verified, and its note.
    signed: Checkpoint,
    checkpoint: String,
}

/// Steps 1 and 2: the store is of the log with these keys, and one of them signed its newest checkpoint.
pub(crate) fn identify(store: &Store, vkeys: &[VerifierKey]) -> Result<Identity, RecoveryError> {
    let Some(log) = vkeys.first().map(|key| key.name().clone()) else {
        return Err(StoreError::Damaged("a log without a key".to_owned()).into());
    };
    // 1. The store is of this log.
    let found =
        store.meta("vkey")?.map(|vkey| String::from_utf8_lossy(&vkey).into_owned()).unwrap_or_default();
    let last_key: Option<VerifierKey> = found.parse().ok();
    let other_log = || {
        let expected: Vec<String> = vkeys.iter().map(ToString::to_string).collect();
        RecoveryError::OtherLog { expected: expected.join(" or "), found: found.clone() }
    };
    let Some(last_key) = last_key.filter(|key| *key.name() == log) else { return Err(other_log()) };
    // 2. The checkpoint is this log's.
    let checkpoint = store.meta("checkpoint")?.unwrap_or_default();
    let verified = TrustPolicy::of_keys(vkeys.to_vec(), None).verify(&checkpoint);
    let verified = verified.map_err(|error| match error {
        TrustError::UnknownLog(_) if !vkeys.contains(&last_key) => other_log(),
        error => error.into(),
    })?;
    let signed = verified.checkpoint().clone();
    let checkpoint = String::from_utf8(checkpoint)
        .map_err(|_| RecoveryError::TreeDiffers("the checkpoint is not UTF-8".to_owned()))?;
    Ok(Identity { log, last_key, signed, checkpoint })
}

/// Every key that this log has signed with, as far as the store knows: what others have seen may be signed by one that
/// is no longer in the configuration.
pub(crate) fn every_key(
    store: &Store,
    vkeys: &[VerifierKey],
    last: &VerifierKey,
) -> Result<Vec<VerifierKey>, StoreError> {
    let damaged = || StoreError::Damaged("the list of the log's former keys".to_owned());
    let stored = String::from_utf8(store.meta(KEYS_EVER)?.unwrap_or_default()).map_err(|_| damaged())?;
    let former = stored.lines().map(|line| line.parse::<VerifierKey>().map_err(|_| damaged()));
    let mut ever = vkeys.to_vec();
    for key in former.chain([Ok(last.clone())]) {
        let key = key?;
        if key.name() == last.name() && !ever.contains(&key) {
            ever.push(key);
        }
    }
    Ok(ever)
}

/// Checks that the stored tree extends a head that was signed before.
pub(crate) fn check_extends(store: &Store, stored: &TreeHead, known: &TreeHead) -> Result<(), RecoveryError> {
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

/// Reads the operator's entries in the tree of `size` into `keys`, each verified again.
pub(crate) fn recover_operator(
    store: &Store,
    operator: &VerifierKey,
    keys: &mut KeyRing,
    size: TreeSize,
) -> Result<OperatorHead, RecoveryError> {
    let mut chain = OperatorHead::default();
    for row in store.rows(ChainId::Operator)?.into_iter().filter(|row| row.index.is_in(size)) {
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
    Ok(chain)
}
