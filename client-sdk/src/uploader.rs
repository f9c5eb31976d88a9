//! The uploader: sends records to the log in their order, and checks what comes back.
//!
//! It reads what is committed and not logged, and reports to the writer: what is proven to be in the log, what the log
//! refused, and a log that contradicts itself. It holds no state that a restart needs: records that were sent twice
//! have the same place.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sift_spec::api::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BatchResult};
use sift_spec::record::HaltCause;
use sift_spec::types::{LeafIndex, RunId};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::error::{OpenError, Stop};
use crate::follow::{FollowError, Follower, Proven};
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
    /// A head that the log signed and that was not proven to extend the last one seen.
    unreconciled: Option<Proven>,
}

/// A record that the log will take later.
struct PutOff {
    position: u64,
    after: Option<Duration>,
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
        let unreconciled = store.shown()?.map(Follower::resume).transpose();
        let unreconciled = unreconciled.map_err(|why| OpenError::Contradiction { position: 0, why })?;
        let (dir, refused) = (config.dir.clone(), HashSet::new());
        Ok(Self { shared, store, client, follower, dir, position: 0, refused, unreconciled })
    }

    /// Runs until the kernel stops. A kernel that halted still uploads what it has: that is evidence.
    pub(crate) async fn run(mut self) {
        let mut progress = self.shared.progress.subscribe();
        let mut pause_ms = *PAUSE_MS.start();
        loop {
            let round = self.round().await;
            self.shared.tried.store(true, Ordering::Relaxed);
            self.shared.set_trouble(match &round {
                Err(Trouble::Later(why, _)) => Some(why.clone()),
                _ => None,
            });
            match round {
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
        // A head that the log signed comes first.
        if let Some(proven) = self.unreconciled.clone() {
            self.reconcile(proven).await?;
            self.report(&[], Vec::new()).await?;
        }
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
        // 1. The answer proves what it says. Anybody on the way can spoil one that does not, so it is asked for again.
        let proven = self.follower.check(&entries, &answer).map_err(|error| {
            tracing::error!(%error, "an answer of the log is not believed");
            Trouble::Later(error.to_string(), None)
        })?;
        // 2. Its tree extends the one that was seen before.
        self.check_places(&proven, &answer.results)?;
        self.reconcile(proven).await?;
        // 3. Only now it counts.
        let again = self.report(&batch, answer.results).await?;
        self.position = again.as_ref().map_or(next, |put_off| put_off.position);
        match again {
            None => Ok(true),
            Some(PutOff { position, after }) => {
                Err(Trouble::Later(format!("it put off record {position} of this store"), after))
            }
        }
    }

    /// Checks that no record is proven in a place where the log has proven another of this kernel before.
    fn check_places(&self, proven: &Proven, results: &[BatchResult]) -> Result<(), Trouble> {
        let places = results.iter().filter_map(|result| match result {
            BatchResult::Index(index) => Some(*index),
            BatchResult::Problem(_) => None,
        });
        // Records that were sent twice have a place in the tree that was seen, and nobody else's.
        let known: BTreeSet<LeafIndex> = places.filter(|place| self.follower.covers(*place)).collect();
        match self.store.holder(&known)? {
            None => Ok(()),
            Some((position, place)) => {
                let why = format!(
                    "record {position} of this store was proven at index {place}, and now another one is: the log was \
                     rolled back or rewritten"
                );
                Err(self.forked(proven, why))
            }
        }
    }

    fn forked(&self, proven: &Proven, why: String) -> Trouble {
        let seen = self.follower.seen().unwrap_or_default().to_owned();
        Trouble::Fork(Fork { seen, shown: proven.note().to_owned(), why })
    }

    /// Takes a head that the log signed as the last one seen, once it is proven to extend that.
    ///
    /// It is kept before the proof is asked for, and nothing goes on without it: a log that signed two histories
    /// cannot make the kernel forget one of them by not answering. Only what is signed is evidence: two heads of one size
    /// that differ, or a head under which another record has the place that a record of this kernel had. A proof that is
    /// missing or wrong is not, because whoever is on the way can spoil it. Until the heads are reconciled nothing counts as
    /// logged, and the log is behind.
    async fn reconcile(&mut self, proven: Proven) -> Result<(), Trouble> {
        let mut consistency = None;
        if let Some((old, new)) = self.follower.needs(&proven) {
            if self.unreconciled.as_ref().is_none_or(|kept| kept.note() != proven.note()) {
                let (reply, answer) = oneshot::channel();
                let shown = proven.note().to_owned();
                self.shared.send(Op::Shown { shown, reply }).map_err(gone)?;
                self.shared.answer(answer).await.map_err(gone)?;
            }
            consistency = match self.client.consistency(old, new).await {
                Ok(answer) => Some(answer),
                Err(error) if error.is_passing() => {
                    self.unreconciled = Some(proven);
                    return Err(trouble(&error));
                }
                // A log that has not got a tree that it signed proves nothing about it.
                Err(error) => {
                    tracing::error!(%error, "the log proves no consistency");
                    None
                }
            };
        }
        match self.follower.advance(&proven, consistency) {
            Ok(()) => {
                self.unreconciled = None;
                Ok(())
            }
            Err(error @ FollowError::Stale) => {
                self.unreconciled = None;
                Err(Trouble::Later(error.to_string(), None))
            }
            Err(error) => {
                if self.follower.contradicts(&proven) {
                    return Err(self.forked(&proven, error.to_string()));
                }
                tracing::error!(%error, "the log misbehaves");
                self.unreconciled = Some(proven);
                Err(Trouble::Later(format!("it misbehaves: {error}"), None))
            }
        }
    }

    /// Tells the writer what is in the log and what was refused. Returns the first one to be sent again.
    async fn report(
        &mut self,
        batch: &[Unlogged],
        results: Vec<BatchResult>,
    ) -> Result<Option<PutOff>, Trouble> {
        let mut places = Vec::with_capacity(batch.len());
        let mut again = None;
        let mut put_off = HashSet::new();
        for (record, result) in batch.iter().zip(results) {
            match result {
                BatchResult::Index(index) => places.push((record.position, index)),
                BatchResult::Problem(problem) if is_passing(problem.kind) => {
                    put_off.insert(record.run);
                    let after = problem.retry_after.map(Duration::from_secs);
                    again.get_or_insert(PutOff { position: record.position, after });
                }
                // What follows a record that was put off could not be taken.
                BatchResult::Problem(_) if put_off.contains(&record.run) => {}
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
        let checkpoint = self.follower.seen().unwrap_or_default().to_owned();
        let (reply, answer) = oneshot::channel();
        self.shared.send(Op::Logged(Logged { places, checkpoint, reply })).map_err(gone)?;
        self.shared.answer(answer).await.map_err(gone)?;
        Ok(again)
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

fn gone(_: Stop) -> Trouble {
    Trouble::Final(HaltCause::Spool, "the writer is gone".to_owned())
}

fn trouble(error: &LogError) -> Trouble {
    if error.is_passing() {
        Trouble::Later(error.to_string(), error.retry_after())
    } else {
        Trouble::Final(HaltCause::LogRefused, error.to_string())
    }
}
