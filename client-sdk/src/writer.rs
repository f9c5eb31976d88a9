//! The writer: one thread that owns ledger and run heads, and makes every record.
//!
//! It takes everything that is queued, applies it in order, signs what came of it, commits all of that in one
//! transaction, and only then answers (group commit). What is in memory runs ahead of the disk within a round; if the
//! commit fails, the kernel halts, and the next start rebuilds from the disk.
//!
//! An outcome alone is answered before its commit, and waits [`OUTCOME_WAITS`] for a record whose commit it can share:
//! the next intent, when an agent makes one call after the other. Lost, it is `unknown`, with its hold settled in full, as
//! if the kernel had died a moment earlier. And nothing is let through on what a lost record says: records become
//! durable in their order, so an intent that is on the disk has everything before it there.
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
mod seal;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use sift_rules::{Ledger, RunState};
use sift_spec::chain::RunHead;
use sift_spec::entry::Draft;
use sift_spec::note::signature_line;
use sift_spec::payload::Object;
use sift_spec::record::{Body, ENTRY_BYTES_MAX, Halt, HaltCause, Kind, Record, RecordError};
use sift_spec::types::{AgentName, Hash, RunId, Seq, Text, UnixMillis};

use crate::clock::STEP_BACK_MS_MAX;
use crate::error::{Stop, cause_name};
use crate::failpoint;
use crate::shared::{Lag, Progress, Shared};
use crate::signer::Signer;
use crate::store::{Batch, Store, StoreError};

pub(crate) use learnt::Learnt;
pub(crate) use line::{Line, LiveCall};
pub(crate) use ops::{Close, Finish, Finished, Op, OpenRun, Propose, Recorded};
pub(crate) use receipts::Logged;
use seal::{Chain, SealError, Sealed, Sealer, Unsigned};

/// Most operations in one commit. Bounds how long the first of them waits for the last.
const ROUND_OPS_MAX: usize = 1024;

/// Longest time that outcomes wait for another record to share its commit.
const OUTCOME_WAITS: Duration = Duration::from_millis(2);

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
    /// When the first record of this round was made, and whether the round waits for no other.
    begun: Option<Instant>,
    urgent: bool,
    /// Its records that are not signed yet, by run.
    chains: BTreeMap<RunId, Chain>,
    sealer: Sealer,
    /// What a signature adds to the length of a record's text.
    signature_bytes: usize,
    /// What this round answers once it is signed, and once it is committed.
    signed_replies: Vec<Box<dyn FnOnce() + Send>>,
    replies: Vec<Box<dyn FnOnce() + Send>>,
    /// When those were ready to be signed that somebody waits for, and for how many of them until the commit.
    ready: Vec<Instant>,
    waiting: u32,
    /// How long the operation at hand has decided, which is counted elsewhere.
    deciding: Duration,
    /// Kinds of this round's records: which failpoints its commit passes.
    kinds: BTreeSet<Kind>,
    /// Whether nothing is written any more: the disk failed, memory contradicts it, or the kernel was closed.
    over: bool,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: Arc<Store>,
        signer: Arc<dyn Signer>,
        ledger: (u64, Ledger),
    ) -> std::io::Result<Self> {
        let (snapshot, ledger) = ledger;
        let signature_bytes = "\n".len() + signature_line(signer.verifier(), &[0; 64]).len();
        let sealer = Sealer::new(Arc::clone(&signer), shared.log.clone())?;
        Ok(Self {
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
            begun: None,
            urgent: false,
            chains: BTreeMap::new(),
            sealer,
            signature_bytes,
            signed_replies: Vec::new(),
            replies: Vec::new(),
            ready: Vec::new(),
            waiting: 0,
            deciding: Duration::ZERO,
            kinds: BTreeSet::new(),
            over: false,
        })
    }

    /// Works until it is told to stop.
    pub(crate) fn work(mut self, ops: &Receiver<Op>) {
        let mut stop = false;
        while !stop {
            let first = match self.begun {
                None => ops.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(begun) => ops.recv_timeout(OUTCOME_WAITS.saturating_sub(begun.elapsed())),
            };
            stop = first.as_ref().is_err_and(|error| *error == RecvTimeoutError::Disconnected);
            for op in first.into_iter().chain(ops.try_iter()).take(ROUND_OPS_MAX) {
                stop |= matches!(op, Op::Stop);
                // After a failed commit nothing is applied any more; who waits learns it from the closed channel.
                if !self.over {
                    self.apply(op);
                }
            }
            self.seal();
            if stop || !self.may_wait() {
                self.commit(stop);
            }
        }
        let _ = self.shared.stop.set(Stop::Gone);
        self.over = true;
        self.wake();
    }

    /// Whether all that the round has may wait for a record that shares its commit.
    fn may_wait(&self) -> bool {
        !self.urgent && self.begun.is_some_and(|begun| begun.elapsed() < OUTCOME_WAITS)
    }

    fn apply(&mut self, op: Op) {
        self.urgent |= !matches!(op, Op::Finish(_) | Op::Tick | Op::Beat { .. });
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
            Op::Sync { reply } => self.reply(reply, ()),
            Op::Stop => {}
        }
    }

    /// Signs the records of the round, and answers whoever waits for that alone. A failure halts the kernel: a record that
    /// cannot be signed must not be missing.
    fn seal(&mut self) {
        let chains = std::mem::take(&mut self.chains);
        let (ready, replies) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.signed_replies));
        if !chains.is_empty() && !self.over {
            let start = Instant::now();
            let first = chains.values().filter_map(Chain::first).min();
            let sealed = match self.sealer.seal(chains) {
                Ok(sealed) => sealed,
                Err(error) => return self.unsignable(&error, first),
            };
            let stopwatch = &self.shared.stopwatch;
            ready.iter().for_each(|ready| stopwatch.round.add(start - *ready));
            stopwatch.sign.add(start.elapsed() * u32::try_from(ready.len()).unwrap_or(u32::MAX));
            for Sealed { run, head, records } in sealed {
                // A run that is closed goes on nowhere.
                if let Some(line) = self.lines.get_mut(&run) {
                    line.head = head;
                }
                self.batch.records.extend(records);
            }
            self.batch.records.sort_unstable_by_key(|record| record.position);
        }
        if !self.over {
            replies.into_iter().for_each(|reply| reply());
        }
    }

    /// Makes the round durable, then answers what was not answered yet.
    fn commit(&mut self, last: bool) {
        self.seal();
        (self.begun, self.urgent) = (None, false);
        let waiting = std::mem::take(&mut self.waiting);
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
            stopwatch.commit.add(start.elapsed() * waiting);
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

    /// The key failed. What was signed before may be answered already, and so becomes durable first: the records of the
    /// round below the first that was not signed, which are those of earlier calls.
    fn unsignable(&mut self, error: &SealError, first: Option<u64>) {
        let first = first.or_else(|| self.chains.values().filter_map(Chain::first).min());
        let (records, mut objects) =
            (std::mem::take(&mut self.batch.records), std::mem::take(&mut self.batch.objects));
        objects.retain(|(position, _)| first.is_none_or(|first| *position < first));
        let signed = Batch { records, objects, ..Batch::default() };
        if let Err(error) = self.store.commit(&signed) {
            tracing::error!(%error, "what was signed before the key failed is not on the disk");
        }
        self.die(&error.to_string());
    }

    fn unwritable(&mut self, error: &StoreError) {
        self.die(&format!("the store cannot be written: {error}"));
    }

    /// Does something about a call, and counts how long that took.
    fn timed<T>(&mut self, sent: Instant, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = self.shared.stopwatch.queue.add_since(sent);
        self.deciding = Duration::ZERO;
        let done = work(self);
        let ready = Instant::now();
        self.shared.stopwatch.apply.add((ready - start).saturating_sub(self.deciding));
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
        (self.over, self.urgent) = (true, true);
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

    /// The next record of a run.
    fn draft(
        &self,
        run: RunId,
        agent: AgentName,
        body: Body,
        time: UnixMillis,
    ) -> Result<Draft, RecordError> {
        let line = self.lines.get(&run);
        let seq = line.map_or(Seq::ZERO, |line| line.next);
        // That of a record of this round is known when it is signed.
        let known = line.and_then(|line| line.head.as_ref()).map(RunHead::leaf);
        let prev = (seq > Seq::ZERO).then(|| known.unwrap_or(Hash::from_bytes([0; 32])));
        Draft::new(Record { agent, body, prev, run, seq, time })
    }

    /// The same where it states what a caller gave. Asked for before anything is held for it or changed by it; whatever
    /// fails after that is nobody's fault but the kernel's.
    fn fitting(
        &self,
        run: RunId,
        agent: &AgentName,
        body: Body,
        time: UnixMillis,
    ) -> Result<Draft, RecordError> {
        let draft = self.draft(run, agent.clone(), body, time)?;
        let length = draft.text().len();
        if length > ENTRY_BYTES_MAX - SPARE_BYTES {
            return Err(RecordError::TooLong(length));
        }
        Ok(draft)
    }

    /// Adds a record of a run to the round. A failure halts the kernel: a record that cannot be made must not be missing.
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
        let agent = self.lines.get(&run).map(|line| line.run.agent.clone());
        let agent = agent.ok_or_else(|| self.contradiction("a record of a run that is closed"))?;
        match self.draft(run, agent, body, time) {
            Ok(draft) => self.append_draft(draft, change),
            Err(error) => Err(self.contradiction(&format!("a record has no encoding: {error}"))),
        }
    }

    /// The same for the next record of a run, as [`Writer::draft`] made it a moment ago.
    fn append_draft(&mut self, draft: Draft, change: impl FnOnce(&mut RunState)) -> Result<(Seq, u64), Stop> {
        let Record { run, seq, time, .. } = *draft.record();
        let kind = draft.record().body.kind();
        let Some(line) = self.lines.get_mut(&run) else {
            return Err(self.contradiction("a record of a run that is closed"));
        };
        line.passed(seq, time);
        *line.census.entry(kind).or_default() += 1;
        {
            // One change under one guard: a decision made on the new `next` is made on the new state.
            let mut view = line.run.view();
            change(&mut view.state);
            (view.next, view.time) = (line.next, time);
        }
        let position = self.position;
        if !line.refused {
            let bytes = draft.text().len() + self.signature_bytes;
            self.pending.insert(position, Pending { run, time, bytes });
            self.pending_bytes += bytes as u64;
        }
        self.kinds.insert(kind);
        let before = line.last.replace(position);
        let chain = self.chains.entry(run);
        let chain = chain.or_insert_with(|| Chain { head: line.head.clone(), drafts: Vec::new() });
        chain.drafts.push(Unsigned { position, before, draft });
        self.begun.get_or_insert_with(Instant::now);
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
        self.urgent = true;
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
