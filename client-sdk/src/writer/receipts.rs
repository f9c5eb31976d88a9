//! What the log answered: receipts that were verified, refusals, and a log that contradicts itself.

use sift_spec::record::HaltCause;
use sift_spec::types::{LeafIndex, RunId};
use tokio::sync::oneshot;

use super::Writer;
use crate::store::Fork;

/// Records whose place in the log is proven.
pub(crate) struct Logged {
    /// Positions with their index.
    pub(crate) places: Vec<(u64, LeafIndex)>,
    /// The note of the verified checkpoint.
    pub(crate) checkpoint: String,
    pub(crate) reply: oneshot::Sender<()>,
}

impl Writer {
    /// Keeps receipts, and the checkpoint that later ones must extend.
    pub(super) fn logged(&mut self, logged: Logged) {
        let Logged { places, checkpoint, reply } = logged;
        for (position, _) in &places {
            self.forget(*position);
        }
        self.batch.logged.extend(places);
        self.batch.checkpoint = Some(checkpoint);
        self.reply(reply, ());
    }

    /// Keeps a head that the log signed.
    pub(super) fn shown(&mut self, shown: String, reply: oneshot::Sender<()>) {
        self.batch.shown = Some(shown);
        self.reply(reply, ());
    }

    /// The log will not take this record: its run halts. Its records stay in the queue on disk, so that the next start
    /// offers them again, when the operator may have granted what was missing.
    pub(super) fn refused(&mut self, run: RunId, position: u64, why: &str) {
        self.forget(position);
        if let Some(line) = self.lines.get_mut(&run) {
            line.refused = true;
            let detail = format!("the log refused record {position} of this store: {why}");
            self.halt_run(run, HaltCause::LogRefused, &detail);
        }
        let behind: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.run == run)
            .map(|(position, _)| *position)
            .collect();
        behind.into_iter().for_each(|position| self.forget(position));
    }

    /// The log showed two histories: both heads are kept, and nothing goes on.
    pub(super) fn fork(&mut self, fork: Fork) {
        let detail = format!("the log contradicts itself: {}", fork.why);
        self.batch.fork = Some(fork);
        self.halt_all(HaltCause::LogFork, &detail);
    }

    fn forget(&mut self, position: u64) {
        if let Some(pending) = self.pending.remove(&position) {
            self.pending_bytes = self.pending_bytes.saturating_sub(pending.bytes as u64);
        }
    }
}
