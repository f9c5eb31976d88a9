//! The uploader: sends records to the log in their order, and checks what comes back.
//!
//! It reads what is committed and not logged, and reports to the writer: what is proven to be in the log, what the log
//! refused, and a log that contradicts itself. It holds no state that a restart needs: records that were sent twice
//! have the same place.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sift_spec::api::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BatchAnswer, BatchResult};
use sift_spec::record::HaltCause;
use sift_spec::types::RunId;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::error::OpenError;
use crate::follow::{FollowError, Follower};
use crate::log::{LogClient, LogError, is_passing};
use crate::shared::Shared;
use crate::store::{Fork, Store, StoreError, Unlogged};
use crate::writer::{Logged, Op};

/// Shortest and longest pause before the log is tried again.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 50..=5_000;

/// Longest pause that a log may ask for.
const RETRY_AFTER_SECONDS_MAX: u64 = 60;

/// Sends records to the log.
pub(crate) struct Uploader {
    shared: Arc<Shared>,
    store: Arc<Store>,
    client: LogClient,
    follower: Follower,
    dir: PathBuf,
    /// Every record below this position was sent, and taken or refused.
    position: u64,
    /// Runs of which the log refused a record: what follows cannot be taken either.
    refused: HashSet<RunId>,
}

/// Why a round did not succeed.
enum Trouble {
    /// Try again after a pause.
    Later(String, Option<Duration>),
    /// The log contradicts itself; both heads.
    Fork(Fork),
    /// Nothing that is sent is taken, or the store fails.
    Final(HaltCause, String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Final(HaltCause::Spool, error.to_string())
    }
}

impl Uploader {
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: Arc<Store>,
        client: LogClient,
        config: &Config,
    ) -> Result<Self, OpenError> {
        let follower = Follower::new(config.trust.clone(), store.checkpoint()?)
            .map_err(|why| OpenError::Contradiction { position: 0, why })?;
        let dir = config.dir.clone();
        Ok(Self { shared, store, client, follower, dir, position: 0, refused: HashSet::new() })
    }

    /// Runs until the kernel stops. A kernel that halted still uploads what it has: that is evidence.
    pub(crate) async fn run(mut self) {
        let mut progress = self.shared.progress.subscribe();
        let mut pause_ms = *PAUSE_MS.start();
        loop {
            match self.round().await {
                Ok(true) => pause_ms = *PAUSE_MS.start(),
                Ok(false) => {
                    let position = self.position;
                    if progress.wait_for(|progress| progress.committed > position).await.is_err() {
                        return;
                    }
                }
                Err(Trouble::Later(why, after)) => {
                    tracing::warn!(why, pause_ms, "the log did not take records; trying again");
                    let asked = after.map(|after| after.min(Duration::from_secs(RETRY_AFTER_SECONDS_MAX)));
                    tokio::time::sleep(asked.unwrap_or(Duration::from_millis(pause_ms))).await;
                    pause_ms = (pause_ms * 2).min(*PAUSE_MS.end());
                }
                Err(Trouble::Fork(fork)) => {
                    self.keep(&fork);
                    let _ = self.shared.send(Op::Fork(fork));
                    return;
                }
                Err(Trouble::Final(cause, detail)) => {
                    let _ = self.shared.send(Op::Halt { run: None, cause, detail, reply: None });
                    return;
                }
            }
        }
    }

    /// Sends one batch; `false` when there was nothing to send.
    async fn round(&mut self) -> Result<bool, Trouble> {
        // Read before the store, so that what is committed meanwhile is not taken for sent.
        let committed = self.shared.progress.borrow().committed;
        let refused = &self.refused;
        let batch = self
            .store
            .unlogged(self.position, BATCH_RECORDS_MAX, BATCH_BYTES_MAX, |run| !refused.contains(&run))?;
        let Some(last) = batch.last() else {
            self.position = self.position.max(committed);
            return Ok(false);
        };
        let next = last.position + 1;
        let entries: Vec<&[u8]> = batch.iter().map(|record| record.entry.as_slice()).collect();
        let answer = self.client.add(&entries).await.map_err(|error| trouble(&error))?;
        // 1. The answer proves what it says.
        let proven = self.follower.check(&entries, &answer).map_err(|error| self.doubt(&answer, error))?;
        // 2. Its tree extends the one that was seen before.
        let consistency = match self.follower.needs(&proven) {
            None => None,
            Some((old, new)) => {
                Some(self.client.consistency(old.size, new.size).await.map_err(|error| trouble(&error))?)
            }
        };
        let seen = self.follower.seen().unwrap_or_default().to_owned();
        let checkpoint = self.follower.advance(proven, consistency).map_err(|error| {
            Trouble::Fork(Fork { seen, shown: answer.checkpoint.clone(), why: error.to_string() })
        })?;
        // 3. Only now it counts.
        let again = self.report(&batch, answer, checkpoint).await?;
        self.position = again.unwrap_or(next);
        Ok(true)
    }

    /// Tells the writer what is in the log and what was refused. Returns the first position to be sent again.
    async fn report(
        &mut self,
        batch: &[Unlogged],
        answer: BatchAnswer,
        checkpoint: String,
    ) -> Result<Option<u64>, Trouble> {
        let mut places = Vec::with_capacity(batch.len());
        let mut again = None;
        let gone = |_| Trouble::Final(HaltCause::Spool, "the writer is gone".to_owned());
        for (record, result) in batch.iter().zip(answer.results) {
            match result {
                BatchResult::Index(index) => places.push((record.position, index)),
                BatchResult::Problem(problem) if is_passing(problem.kind) => {
                    again.get_or_insert(record.position);
                }
                // What follows a refused record is refused for that alone.
                BatchResult::Problem(_) if self.refused.contains(&record.run) => {}
                BatchResult::Problem(problem) => {
                    self.refused.insert(record.run);
                    let why = format!("{}: {}", problem.title, problem.detail);
                    let (run, position) = (record.run, record.position);
                    self.shared.send(Op::Refused { run, position, why }).map_err(gone)?;
                }
            }
        }
        let (reply, answer) = oneshot::channel();
        self.shared.send(Op::Logged(Logged { places, checkpoint, reply })).map_err(gone)?;
        self.shared.answer(answer).await.map_err(gone)?;
        Ok(again)
    }

    /// What to do about an answer that does not hold.
    fn doubt(&self, answer: &BatchAnswer, error: FollowError) -> Trouble {
        if error.is_passing() {
            return Trouble::Later(error.to_string(), None);
        }
        let seen = self.follower.seen().unwrap_or_default().to_owned();
        Trouble::Fork(Fork { seen, shown: answer.checkpoint.clone(), why: error.to_string() })
    }

    /// Leaves the two heads where people find them; they are in the store as well.
    fn keep(&self, fork: &Fork) {
        for (name, note) in [("fork-seen.checkpoint", &fork.seen), ("fork-shown.checkpoint", &fork.shown)] {
            if let Err(error) = std::fs::write(self.dir.join(name), note) {
                tracing::error!(name, %error, "a head of the log could not be written to a file");
            }
        }
    }
}

fn trouble(error: &LogError) -> Trouble {
    if error.is_passing() {
        Trouble::Later(error.to_string(), error.retry_after())
    } else {
        Trouble::Final(HaltCause::LogRefused, error.to_string())
    }
}
