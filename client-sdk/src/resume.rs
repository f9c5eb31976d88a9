//! Runs that an earlier process left open: they wait for somebody who goes on with them, for a time.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use sift_spec::types::{AgentName, RunId, UnixMillis};

use crate::shared::{RunShared, Shared};

/// Runs of an earlier process: until when they wait, or why they cannot be resumed.
pub(crate) type Waiting = BTreeMap<RunId, Result<UnixMillis, String>>;

/// A run that an earlier process left open and that waits to be resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumable {
    /// The run.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// Time of its `open` record.
    pub opened: UnixMillis,
    /// How many records it has.
    pub records: u64,
    /// Until when it waits; then it is closed as abandoned.
    pub until: UnixMillis,
}

impl Shared {
    pub(crate) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a run waits to be resumed.
    pub(crate) fn waits(&self, run: RunId) -> bool {
        self.resume_ms > 0 && matches!(self.waiting().get(&run), Some(Ok(_)))
    }

    pub(crate) fn resumable(&self) -> Vec<Resumable> {
        let (waiting, roll) = (self.waiting(), self.roll());
        let resumable = |run: &Arc<RunShared>| {
            let until = *waiting.get(&run.id)?.as_ref().ok()?;
            let (agent, records) = (run.agent.clone(), run.view().next.get());
            Some(Resumable { run: run.id, agent, opened: run.started, records, until })
        };
        roll.runs().filter_map(resumable).collect()
    }
}
