//! Rounds become durable: on the disk first, answered after that.
//!
//! While a round is on its way to the disk, in a thread of its own, the writer makes the next one. It is handed over only
//! when the one before is durable; so at most two rounds are in memory alone, nothing of either is answered, and when a
//! commit fails nothing that was made after it reaches the disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use sift_spec::record::{HaltCause, Kind};

use super::Op;
use crate::error::Stop;
use crate::failpoint;
use crate::shared::{Progress, Shared};
use crate::store::{Batch, Store};

/// What is committed in one transaction, and then answered.
pub(super) struct Round {
    pub(super) batch: Batch,
    /// Told once it is committed; dropped if it is not.
    pub(super) replies: Vec<Box<dyn FnOnce() + Send>>,
    /// When the calls that somebody waits for were ready to be committed.
    pub(super) ready: Vec<Instant>,
    /// Kinds of its records: which failpoints its commit passes.
    pub(super) kinds: BTreeSet<Kind>,
    /// How far records have come with it.
    pub(super) progress: Progress,
}

/// Makes rounds durable.
#[derive(Clone)]
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<Store>,
}

/// Tells the writer what became of a round, also if the committer ends in the middle of it.
struct Told<'a> {
    shared: &'a Shared,
    failure: Option<String>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let _ = self.shared.send(Op::Committed { failure: self.failure.take() });
    }
}

impl Committer {
    /// Commits the rounds that come, in their order, until none can come any more.
    pub(super) fn work(self, rounds: &Receiver<Round>) {
        while let Ok(round) = rounds.recv() {
            let mut told =
                Told { shared: &self.shared, failure: Some("the committer ended in a round".to_owned()) };
            told.failure = self.commit(round).err();
        }
    }

    /// Makes a round durable, then answers.
    pub(super) fn commit(&self, round: Round) -> Result<(), String> {
        let Round { batch, replies, ready, kinds, progress } = round;
        if !batch.is_empty() {
            let start = Instant::now();
            let pass = |when: &str| kinds.iter().for_each(|kind| failpoint::pass_commit(when, kind.name()));
            pass("before");
            if let Err(error) = self.store.commit(&batch) {
                let detail = format!("the store cannot be written: {error}");
                // The reason stands before anybody learns that there is no answer.
                let stop = Stop::Halted { cause: HaltCause::Spool, detail: detail.clone() };
                let _ = self.shared.stop.set(stop);
                drop(replies);
                return Err(detail);
            }
            pass("after");
            let stopwatch = &self.shared.stopwatch;
            stopwatch.commits.fetch_add(1, Ordering::Relaxed);
            ready.iter().for_each(|ready| stopwatch.round.add(start - *ready));
            stopwatch.commit.add(start.elapsed() * u32::try_from(ready.len()).unwrap_or(u32::MAX));
        }
        // Progress first: who is answered may ask how far records have come.
        self.shared.progress.send_modify(|known| *known = Progress { over: known.over, ..progress });
        replies.into_iter().for_each(|reply| reply());
        Ok(())
    }
}
