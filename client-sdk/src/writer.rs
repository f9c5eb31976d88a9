//! The writer: one thread that owns ledger and run heads, and makes every record.
//!
//! It takes everything that is queued, applies it in order, signs what came of it, commits all of that in one
//! transaction, and only then answers (group commit). What is in memory runs ahead of the disk within a round; if the
//! commit fails, nothing of the round was answered, the kernel halts, and the next start rebuilds from the disk.
//!
//! This file holds the loop and what every operation shares. Operations on calls are in [`calls`], those on runs in
//! [`runs`], those on the log's answers in [`receipts`], and what the operator's records change in [`learnt`].

mod calls;
mod delegate;
mod learnt;
mod line;
mod ops;
mod receipts;
mod recovery;
mod resume;
mod runs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use sift_rules::{Ledger, RunState};
use sift_spec::entry::{Entry, EntryError};
use sift_spec::payload::Object;
use sift_spec::record::{Body, ENTRY_BYTES_MAX, Halt, HaltCause, Kind, Record, RecordError};
use sift_spec::types::{AgentName, RunId, Seq, Text, UnixMillis};

use crate::clock::STEP_BACK_MS_MAX;
use crate::error::{Stop, cause_name};
use crate::failpoint;
use crate::shared::{Lag, Progress, Shared};
use crate::signer::{SignError, Signer};
use crate::store::{Batch, NewRecord, Store, StoreError};

pub(crate) use learnt::Learnt;
pub(crate) use line::{Line, LiveCall};
pub(crate) use ops::{Close, Finish, Finished, Op, OpenRun, Propose, Recorded};
pub(crate) use receipts::Logged;

/// Most operations in one commit. Bounds how long the first of them waits for the last.
const ROUND_OPS_MAX: usize = 1024;

/// Room in an entry for what is added to the text that a caller's values make: the signature, and a refusal.
const SPARE_BYTES: usize = 2048;

/// A snapshot of the ledger is kept every so many records, which bounds what a start has to fold.
const SNAPSHOT_RECORDS: u64 = 8192;

/// A record that is not in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    run: RunId,
    time: UnixMillis,
    bytes: usize,
}

/// The writer's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    store: Arc<Store>,
    signer: Arc<dyn Signer>,
    ledger: Ledger,
    /// Runs without a `close`.
    lines: HashMap<RunId, Line>,
    /// Position of the next record.
    position: u64,
    /// Latest time of all records. That of a run's records never decreases; that of all may a little.
    time: UnixMillis,
    /// Records that the log has neither taken nor refused, by position.
    pending: BTreeMap<u64, Pending>,
    pending_bytes: u64,
    /// Position up to which the last snapshot of the ledger counts.
    snapshot: u64,
    /// What this round changes.
    batch: Batch,
    /// What this round answers once it is committed.
    replies: Vec<Box<dyn FnOnce() + Send>>,
    /// When the calls of this round that somebody waits for were ready to be committed.
    ready: Vec<Instant>,
    /// How long the operation at hand has signed.
    signing: Duration,
    /// How long it has decided, which is counted elsewhere.
    deciding: Duration,
    /// Kinds of this round's records: which failpoints its commit passes.
    kinds: BTreeSet<Kind>,
    /// Whether nothing is written any more: the disk failed, memory contradicts it, or the kernel was closed.
    over: bool,
}

/// Why a record was not made.
#[derive(Debug, thiserror::Error)]
enum AppendError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("a record has no encoding: {0}")]
    Entry(#[from] EntryError),
    #[error("a delegation has no encoding: {0}")]
    Record(#[from] RecordError),
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: Arc<Store>,
        signer: Arc<dyn Signer>,
        ledger: (u64, Ledger),
    ) -> Self {
        let (snapshot, ledger) = ledger;
        Self {
            shared,
            store,
            signer,
            ledger,
            lines: HashMap::new(),
            position: 0,
            time: UnixMillis::ZERO,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            snapshot,
            batch: Batch::default(),
            replies: Vec::new(),
            ready: Vec::new(),
            signing: Duration::ZERO,
            deciding: Duration::ZERO,
            kinds: BTreeSet::new(),
            over: false,
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn work(mut self, ops: &Receiver<Op>) {
        while let Ok(first) = ops.recv() {
            let mut stop = false;
            for op in std::iter::once(first).chain(ops.try_iter()).take(ROUND_OPS_MAX) {
                stop |= matches!(op, Op::Stop);
                // After a failed commit nothing is applied any more; who waits learns it from the closed channel.
                if !self.over {
                    self.apply(op);
                }
            }
            self.commit(stop);
            if stop {
                break;
            }
        }
        let _ = self.shared.stop.set(Stop::Gone);
        self.over = true;
        self.wake();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open(open) => self.open_run(open),
            Op::Propose(propose) => self.propose(*propose),
            Op::Finish(finish) => self.finish(finish),
            Op::Answer { run, intent, note, reply } => self.answer(run, intent, &note, reply),
            Op::Delegate { run, intent, reply } => self.delegate(run, intent, reply),
            Op::Halt { run, cause, detail, reply } => self.halt(run, cause, &detail, reply),
            Op::Tick => self.tick(),
            Op::Resume { run, reply } => self.resume(run, reply),
            Op::Beat { silent_ms } => self.beat(silent_ms),
            Op::Close(close) => self.close_run(close),
            Op::Logged(logged) => self.logged(logged),
            Op::Refused { run, position, why } => self.refused(run, position, &why),
            Op::Shown { shown, reply } => self.shown(shown, reply),
            Op::Fork(fork) => self.fork(fork),
            Op::Learnt(learnt) => self.learnt(learnt),
            Op::Stop => {}
        }
    }

    /// Makes the round durable, then answers.
    fn commit(&mut self, last: bool) {
        if self.over {
            self.replies.clear();
            return;
        }
        if last || self.position - self.snapshot >= SNAPSHOT_RECORDS {
            match serde_json::to_vec(&self.ledger) {
                Ok(ledger) => {
                    self.batch.ledger = Some((self.position, ledger));
                    self.snapshot = self.position;
                }
                // The records hold all of it; only the next start takes longer.
                Err(error) => tracing::warn!(%error, "the ledger was not snapshot"),
            }
        }
        let batch = std::mem::take(&mut self.batch);
        let replies = std::mem::take(&mut self.replies);
        let ready = std::mem::take(&mut self.ready);
        let kinds = std::mem::take(&mut self.kinds);
        let start = Instant::now();
        if !batch.is_empty() {
            let pass = |when: &str| kinds.iter().for_each(|kind| failpoint::pass_commit(when, kind.name()));
            pass("before");
            if let Err(error) = self.store.commit(&batch) {
                // The reason stands before anybody learns that there is no answer.
                self.unwritable(&error);
                drop(replies);
                return;
            }
            pass("after");
            let stopwatch = &self.shared.stopwatch;
            stopwatch.commits.fetch_add(1, Ordering::Relaxed);
            ready.iter().for_each(|ready| stopwatch.round.add(start - *ready));
            stopwatch.commit.add(start.elapsed() * u32::try_from(ready.len()).unwrap_or(u32::MAX));
        }
        // Progress first: who is answered may ask how far records have come.
        self.wake();
        for reply in replies {
            reply();
        }
        if let Err(error) = self.store.tidy() {
            self.unwritable(&error);
        }
    }

    fn unwritable(&mut self, error: &StoreError) {
        self.die(&format!("the store cannot be written: {error}"));
    }

    /// Does something about a call, and counts how long that took.
    fn timed<T>(&mut self, sent: Instant, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = self.shared.stopwatch.queue.add_since(sent);
        (self.signing, self.deciding) = (Duration::ZERO, Duration::ZERO);
        let done = work(self);
        let ready = Instant::now();
        self.shared.stopwatch.sign.add(self.signing);
        self.shared.stopwatch.apply.add((ready - start).saturating_sub(self.signing + self.deciding));
        self.ready.push(ready);
        done
    }

    /// Tells who waits how far records have come.
    fn wake(&self) {
        let logged = self.pending.keys().next().copied().unwrap_or(self.position);
        let committed = self.position;
        let lag = self.lag();
        self.shared.progress.send_replace(Progress { committed, logged, over: self.over, lag });
    }

    /// How far the log is behind.
    fn lag(&self) -> Lag {
        let oldest = self.pending.first_key_value().map(|(_, pending)| pending.time);
        Lag { records: self.pending.len() as u64, bytes: self.pending_bytes, oldest }
    }

    /// Adds the payload objects of a record to the round. They count as long as the record is not in the log.
    fn keep(&mut self, position: u64, objects: impl IntoIterator<Item = Object>) {
        for object in objects {
            if let Some(pending) = self.pending.get_mut(&position) {
                pending.bytes += object.as_bytes().len();
                self.pending_bytes += object.as_bytes().len() as u64;
            }
            self.batch.objects.push((position, object));
        }
    }

    /// The disk failed: what is on it is not known, so nothing goes on, not even a `halt` record.
    fn die(&mut self, detail: &str) {
        tracing::error!(detail, "the kernel halts");
        self.over = true;
        let stop = Stop::Halted { cause: HaltCause::Spool, detail: detail.to_owned() };
        let _ = self.shared.stop.set(stop.clone());
        for line in self.lines.values() {
            line.run.stop(stop.clone());
        }
        self.shared.rouse();
        self.wake();
    }

    /// The time for a record: the clock's, but never less than that of the record before.
    ///
    /// A clock that goes back halts the kernel; the records that still have to be made get the last time.
    fn now(&mut self) -> UnixMillis {
        let now = self.shared.clock.now();
        let behind_ms = self.time.get().saturating_sub(now.get());
        if behind_ms > STEP_BACK_MS_MAX && self.shared.stopped().is_none() {
            let detail = format!("the clock went back {behind_ms} ms; set it, then start the kernel again");
            self.halt_all(HaltCause::Clock, &detail);
        }
        now.max(self.time)
    }

    /// Whether a record can state what a caller gave. Asked before anything is held for it or changed by it; whatever
    /// fails after that is nobody's fault but the kernel's.
    fn fits(&self, run: RunId, agent: &AgentName, body: Body, time: UnixMillis) -> Result<(), RecordError> {
        let head = self.lines.get(&run).and_then(|line| line.head.as_ref());
        let seq = head.and_then(|head| head.seq().next()).unwrap_or_default();
        let prev = head.map(sift_spec::chain::RunHead::leaf);
        let length = Record { agent: agent.clone(), body, prev, run, seq, time }.text()?.len();
        if length > ENTRY_BYTES_MAX - SPARE_BYTES {
            return Err(RecordError::TooLong(length));
        }
        Ok(())
    }

    /// Signs a record of a run and adds it to the round. A failure halts the kernel: a record that cannot be made
    /// must not be missing.
    fn append(&mut self, run: RunId, body: Body, time: UnixMillis) -> Result<(Seq, u64), Stop> {
        self.append_and(run, body, time, |_| {})
    }

    /// The same, and what the record changes about the run's state: whoever decides sees both or neither.
    fn append_and(
        &mut self,
        run: RunId,
        body: Body,
        time: UnixMillis,
        change: impl FnOnce(&mut RunState),
    ) -> Result<(Seq, u64), Stop> {
        match self.try_append(run, body, time, change) {
            Ok(place) => Ok(place),
            Err(error) => {
                self.die(&error.to_string());
                Err(self.shared.stopped().unwrap_or(Stop::Gone))
            }
        }
    }

    fn try_append(
        &mut self,
        run: RunId,
        body: Body,
        time: UnixMillis,
        change: impl FnOnce(&mut RunState),
    ) -> Result<(Seq, u64), AppendError> {
        let kind = body.kind();
        let closed = || AppendError::Entry(EntryError::Header);
        let line = self.lines.get_mut(&run).ok_or_else(closed)?;
        let seq = line.next_seq();
        let prev = line.head.as_ref().map(sift_spec::chain::RunHead::leaf);
        let record = Record { agent: line.run.agent.clone(), body, prev, run, seq, time };
        let key = self.signer.verifier();
        failpoint::pass("before-sign");
        let signing = &mut self.signing;
        let entry = Entry::sign_with(&record, key, |text| {
            let start = Instant::now();
            let signature = self.signer.sign(text).map_err(AppendError::from);
            *signing += start.elapsed();
            signature
        })?;
        failpoint::pass("after-sign");
        line.extend(&record, key.name(), entry.leaf(), &self.shared.log)?;
        *line.census.entry(kind).or_default() += 1;
        {
            // One change under one guard: a decision made on the new `next` is made on the new state.
            let mut view = line.run.view();
            change(&mut view.state);
            view.next = line.next_seq();
            view.time = time;
        }
        let position = self.position;
        let entry = entry.into_bytes();
        if !line.refused {
            self.pending.insert(position, Pending { run, time, bytes: entry.len() });
            self.pending_bytes += entry.len() as u64;
        }
        self.kinds.insert(kind);
        let before = line.last.replace(position);
        self.batch.records.push(NewRecord { position, before, run, entry });
        self.position += 1;
        self.time = self.time.max(time);
        Ok((seq, position))
    }

    /// Stops a run and all runs below it. No call starts after this; the records say why.
    fn halt_run(&mut self, run: RunId, cause: HaltCause, detail: &str) {
        let stop = Stop::Halted { cause, detail: detail.to_owned() };
        let Some(line) = self.lines.get(&run) else { return };
        // Whoever pulled the switch may have set it already: then its reason stands.
        let stop = line.run.stop(stop);
        self.record_halt(run, &stop);
        let Stop::Halted { cause, detail } = stop else { return };
        self.shared.rouse();
        let below = self.lines.values().filter(|line| line.run.is_below(run)).map(|line| line.run.id);
        let mut below: Vec<RunId> = below.collect();
        below.sort_unstable();
        for id in below {
            let stop = Stop::Halted { cause, detail: format!("run {run} above it was halted: {detail}") };
            let stop = self.lines.get(&id).map(|line| line.run.stop(stop));
            stop.into_iter().for_each(|stop| self.record_halt(id, &stop));
        }
    }

    /// Makes the `halt` record of a run that has stopped, once.
    fn record_halt(&mut self, run: RunId, stop: &Stop) {
        let Stop::Halted { cause, detail } = stop else { return };
        let Some(line) = self.lines.get_mut(&run).filter(|line| !line.halted) else { return };
        line.halted = true;
        tracing::warn!(%run, cause = cause_name(*cause), detail, "the run halts");
        let time = self.shared.clock.now().max(self.time);
        // Where the record cannot be made the kernel has halted as a whole.
        let _ = self.append(run, Body::Halt(Halt { cause: *cause, detail: Text::cut(detail) }), time);
    }

    /// Stops every run, and the kernel with them.
    fn halt_all(&mut self, cause: HaltCause, detail: &str) {
        let stop = Stop::Halted { cause, detail: detail.to_owned() };
        let Stop::Halted { cause, detail } = self.shared.stop.get_or_init(|| stop).clone() else { return };
        tracing::error!(cause = cause_name(cause), detail, "the kernel halts");
        let runs: Vec<RunId> = self.lines.keys().copied().collect();
        for run in runs {
            self.halt_run(run, cause, &detail);
        }
    }

    /// Answers once the round is committed. Who gave up waiting is told nothing.
    fn reply<T: Send + 'static>(&mut self, reply: tokio::sync::oneshot::Sender<T>, answer: T) {
        self.replies.push(Box::new(move || drop(reply.send(answer))));
    }
}
