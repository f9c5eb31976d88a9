//! What goes into the store in one transaction, and what comes out of it.

use sift_spec::payload::Object;
use sift_spec::types::{LeafIndex, RunId, Seq};

/// A record of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place among all records of this kernel.
    pub position: u64,
    /// The exact bytes of the entry.
    pub entry: Vec<u8>,
    /// Where it is in the log, once a receipt was verified.
    pub index: Option<LeafIndex>,
}

/// A record on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unlogged {
    pub(crate) position: u64,
    pub(crate) run: RunId,
    pub(crate) entry: Vec<u8>,
}

/// Two checkpoints of the log that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fork {
    /// The checkpoint this kernel believed.
    pub seen: String,
    /// What the log showed then: a checkpoint's note, or whatever stood in its place.
    pub shown: String,
    /// Why the two contradict each other.
    pub why: String,
}

/// What one transaction changes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// New records, by position.
    pub(crate) records: Vec<NewRecord>,
    /// Payload objects with the position of the record that commits to them, those of one record together.
    pub(crate) objects: Vec<(u64, Object)>,
    pub(crate) closed: Vec<RunId>,
    /// Positions that are in the log, with their index.
    pub(crate) logged: Vec<(u64, LeafIndex)>,
    /// The checkpoint under which they are proven.
    pub(crate) checkpoint: Option<String>,
    /// A head that the log signed, and that is not proven to extend the last checkpoint.
    pub(crate) shown: Option<String>,
    pub(crate) fork: Option<Fork>,
    /// The ledger after all records below a position.
    pub(crate) ledger: Option<(u64, Vec<u8>)>,
    /// Records of the operator that the log has proven.
    pub(crate) operator: Vec<OperatorEntry>,
}

/// A record of the operator that the log has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OperatorEntry {
    /// Its place in the operator's chain.
    pub(crate) seq: Seq,
    pub(crate) index: LeafIndex,
    /// The exact bytes of the entry.
    pub(crate) entry: Vec<u8>,
}

/// A record that was just signed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewRecord {
    pub(crate) position: u64,
    /// Position of the run's record before.
    pub(crate) before: Option<u64>,
    pub(crate) run: RunId,
    pub(crate) entry: Vec<u8>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        let records = self.records.is_empty() && self.objects.is_empty() && self.logged.is_empty();
        records && self.operator.is_empty() && !self.states_more()
    }

    /// Whether it has more than records.
    pub(super) fn states_more(&self) -> bool {
        let heads = self.checkpoint.is_some() || self.shown.is_some() || self.fork.is_some();
        heads || self.ledger.is_some()
    }
}
