//! What the writer keeps of a run that has no `close`.

use std::collections::BTreeMap;
use std::sync::Arc;

use sift_rules::CallInput;
use sift_spec::chain::RunHead;
use sift_spec::entry::EntryError;
use sift_spec::meter::Amounts;
use sift_spec::record::{Call, Kind, Needed, Record, RecordError};
use sift_spec::types::{Hash, KeyName, Seq, UnixMillis};

use crate::approval::Waiting;
use crate::shared::RunShared;

/// A run without a `close`.
pub(crate) struct Line {
    pub(crate) run: Arc<RunShared>,
    /// The end of its chain, without the records of the round; `None` only until its `open` record is signed.
    pub(crate) head: Option<RunHead>,
    /// Seq of the next record, and time of the last one, those of the round included.
    pub(crate) next: Seq,
    pub(crate) time: UnixMillis,
    /// Position of its last record in the store.
    pub(crate) last: Option<u64>,
    /// How many records of each kind it has.
    pub(crate) census: BTreeMap<Kind, u64>,
    /// Sum of all that was settled.
    pub(crate) settled: Amounts,
    /// Calls that were let through or held and have no outcome, by seq of their intent.
    pub(crate) calls: BTreeMap<Seq, LiveCall>,
    /// Whether another kernel delegated it.
    pub(crate) delegated: bool,
    /// Whether it has a `halt`.
    pub(crate) halted: bool,
    /// Whether the log refused one of its records: what follows cannot be logged either.
    pub(crate) refused: bool,
}

/// A call without an outcome.
pub(crate) struct LiveCall {
    pub(crate) call: Call,
    /// What the policy saw; not kept across a restart, which closes the run.
    pub(crate) input: Option<CallInput>,
    pub(crate) reserved: Amounts,
    pub(crate) waits: Waits,
    /// Whether the sub-agent that it starts has opened its run, or its run was delegated, which is done once.
    pub(crate) opened: bool,
}

/// Whether a call waits for an approval.
pub(crate) enum Waits {
    /// It may start.
    No,
    /// It waits for answers.
    For(Waiting),
    /// It waited for these approvals when an earlier process stopped.
    Since(Vec<Needed>),
}

impl Line {
    pub(crate) fn new(run: Arc<RunShared>, delegated: bool) -> Self {
        Self {
            next: Seq::ZERO,
            time: run.started,
            run,
            delegated,
            head: None,
            last: None,
            census: BTreeMap::new(),
            settled: Amounts::ZERO,
            calls: BTreeMap::new(),
            halted: false,
            refused: false,
        }
    }

    /// Continues the chain with a record of an earlier process.
    pub(crate) fn extend(
        &mut self,
        record: &Record,
        signer: &KeyName,
        leaf: Hash,
        log: &KeyName,
    ) -> Result<(), EntryError> {
        let followed = match &mut self.head {
            Some(head) => head.extend(record, signer, leaf),
            None => RunHead::open(record, signer, leaf, log).map(|head| self.head = Some(head)),
        };
        self.passed(record.seq, record.time);
        followed.map_err(|error| EntryError::Record(RecordError::Json { why: error.to_string(), at: None }))
    }

    /// Notes that it has one more record.
    pub(crate) fn passed(&mut self, seq: Seq, time: UnixMillis) {
        // The last seq there is has none after it; the chain's rules refuse what comes then.
        (self.next, self.time) = (seq.next().unwrap_or(seq), time);
    }
}
