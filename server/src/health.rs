//! Health: whether a record that came now would be admitted, and what stands against it.
//!
//! `/healthz` says that the process lives; whoever restarts processes asks that. `/readyz` says that the log would
//! take a record; whoever routes requests asks that. A log that is not ready still serves readers.

use serde::Serialize;
use sift_spec::types::TreeSize;

/// What a log has to do at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Size of the tree of the last commit.
    pub(crate) committed: TreeSize,
    /// Size of the tree that readers are told.
    pub(crate) published: TreeSize,
    /// Requests in the admission queue.
    pub(crate) admission_waiting: usize,
    /// Requests that the queue takes.
    pub(crate) admission_max: usize,
    /// Memory set aside for bodies.
    pub(crate) body_bytes: usize,
    /// Evidence packs that are being made.
    pub(crate) packs: usize,
    /// The log takes no more records.
    pub(crate) stopping: bool,
    /// Less than the reserve is free, or a write failed for want of space.
    pub(crate) disk_full: bool,
    /// Free space of the disk below the store.
    pub(crate) disk_free_bytes: u64,
}

/// One thing that has to hold for records to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Check {
    /// A stable name.
    pub(crate) check: &'static str,
    /// Whether it holds.
    pub(crate) ok: bool,
    /// What was seen, in a few words.
    pub(crate) detail: String,
}

impl Load {
    /// Everything that has to hold, whether it does or not.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let writing =
            if self.stopping { "stopping, or stopped after a failed write" } else { "taking records" };
        let queue = format!("{} of {} requests wait", self.admission_waiting, self.admission_max);
        vec![
            Check { check: "sequencer", ok: !self.stopping, detail: writing.to_owned() },
            Check { check: "queue", ok: self.admission_waiting < self.admission_max, detail: queue },
            Check {
                check: "disk",
                ok: !self.disk_full,
                detail: format!("{} bytes are free", self.disk_free_bytes),
            },
        ]
    }
}
