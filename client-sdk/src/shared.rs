//! What callers, writer and uploader share: the run states that decisions are made on, and who has stopped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sift_rules::{CallInput, PolicyBundle, ResultRead, RunState, Verdict};
use sift_spec::payload::{Commitment, Object, SALT_BYTES};
use sift_spec::record::{HaltCause, HoldProgress, Limits};
use sift_spec::types::{AgentName, KeyName, RunId, Seq, Text, UnixMillis};
use tokio::sync::{oneshot, watch};

use crate::bundles::{Bundles, Rules};
use crate::call::{Payload, Report};
use crate::capability::Issuer;
use crate::clock::Clock;
use crate::config::{Approver, Mode, Peer, SpoolLimits};
use crate::error::{CallError, Stop, WaitError};
use crate::halt::Roll;
use crate::hook::Hook;
use crate::operator::Revocations;
use crate::resume::Waiting;
use crate::timings::Stopwatch;
use crate::writer::{Finish, Op};

/// How far records have come. Sent after every commit, and whenever something stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Every record below this position is on disk.
    pub(crate) committed: u64,
    /// Every record below this position is in the log, or was refused by it.
    pub(crate) logged: u64,
    /// Whether records come no further: the writer has ended, or its disk has failed.
    pub(crate) over: bool,
    /// How far the log is behind.
    pub(crate) lag: Lag,
}

/// What the log has neither taken nor refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lag {
    pub(crate) records: u64,
    /// Of the records, and of the payload objects that they commit to.
    pub(crate) bytes: u64,
    /// Time of the oldest record.
    pub(crate) oldest: Option<UnixMillis>,
}

/// What belongs to the kernel as a whole.
pub(crate) struct Shared {
    pub(crate) clock: Box<dyn Clock>,
    /// Which bundle decides for runs that are opened now.
    pub(crate) bundles: Bundles,
    pub(crate) log: KeyName,
    pub(crate) mode: Mode,
    pub(crate) spool: SpoolLimits,
    pub(crate) approvers: Vec<Approver>,
    pub(crate) hook: Option<Hook>,
    pub(crate) issuer: Issuer,
    /// Other kernels, whose delegations and closes count.
    pub(crate) kernels: Vec<Peer>,
    /// Which keys the operator is known to have revoked.
    pub(crate) revocations: Revocations,
    /// Name of this kernel's key.
    pub(crate) signer: KeyName,
    /// Folder of requests and answers.
    pub(crate) approvals: PathBuf,
    pub(crate) poll: Duration,
    pub(crate) ops: Sender<Op>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Set once, when the whole kernel stops.
    pub(crate) stop: OnceLock<Stop>,
    /// Where the time goes.
    pub(crate) stopwatch: Stopwatch,
    /// Whether the uploader has tried once. Until then the age of a backlog says nothing about the log.
    pub(crate) tried: AtomicBool,
    /// Why the log took nothing when it was last tried.
    pub(crate) trouble: Mutex<Option<String>>,
    pub(crate) roll: Mutex<Roll>,
    /// How long runs of an earlier process wait to be resumed; 0 for not at all.
    pub(crate) resume_ms: u64,
    pub(crate) waiting: Mutex<Waiting>,
    /// Sent after every halt, so that calls under way look whether it is theirs.
    pub(crate) halts: watch::Sender<()>,
}

/// One run, as its callers see it.
pub(crate) struct RunShared {
    pub(crate) id: RunId,
    pub(crate) agent: AgentName,
    /// The run above it, also when that is closed.
    above: Option<Arc<RunShared>>,
    /// Time of its `open` record.
    pub(crate) started: UnixMillis,
    /// Its limits, as its `open` record states them.
    pub(crate) limits: Limits,
    /// Nesting depth: 0 for a run without parent.
    pub(crate) depth: u32,
    /// Calls that were started and have not ended.
    under_way: AtomicU64,
    /// What decides for it, from its `open` record to its end.
    rules: Arc<Rules>,
    view: Mutex<RunView>,
}

/// A call that was started and has not ended.
pub(crate) struct UnderWay(Arc<RunShared>);

impl UnderWay {
    pub(crate) fn new(run: &Arc<RunShared>) -> Self {
        run.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(run))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What decisions are made on. INVARIANT: only the writer changes `state`, `next` and `time`, and all three under one
/// guard, so what is read with the same `next` is the same state.
pub(crate) struct RunView {
    pub(crate) state: RunState,
    /// Seq of the next record.
    pub(crate) next: Seq,
    /// Time of the last record.
    pub(crate) time: UnixMillis,
    /// Set once, when the run stops, by whoever stops it and before the record is made. A call starts under this
    /// lock, so none starts after it is set.
    pub(crate) stop: Option<Stop>,
    /// Set once, by the first halt that calls under way are given up for; that may be a later one than `stop`.
    cut: Option<Stop>,
}

impl RunShared {
    pub(crate) fn new(
        id: RunId,
        agent: AgentName,
        above: Option<Arc<Self>>,
        state: RunState,
        started: UnixMillis,
        (depth, limits): (u32, Limits),
        rules: Arc<Rules>,
    ) -> Self {
        let view = RunView { state, next: Seq::ZERO, time: started, stop: None, cut: None };
        let under_way = AtomicU64::new(0);
        Self { id, agent, above, started, limits, depth, under_way, rules, view: Mutex::new(view) }
    }

    /// How many calls were started and have not ended.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// The bundle that decides for it.
    pub(crate) fn bundle(&self) -> &PolicyBundle {
        self.rules.bundle()
    }

    /// How long it may last.
    pub(crate) fn wall_clock_ms(&self) -> Option<u64> {
        self.limits.wall_clock_ms.map(UnixMillis::get)
    }

    /// The run and the runs above it, nearest first.
    pub(crate) fn lineage(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |run| run.above.as_deref())
    }

    /// Whether a limit of the run, or of one above it, is on money.
    pub(crate) fn limits_money(&self) -> bool {
        self.lineage().any(|run| run.limits.limits_money())
    }

    /// Whether `run` is above this one.
    pub(crate) fn is_below(&self, run: RunId) -> bool {
        self.lineage().skip(1).any(|above| above.id == run)
    }

    /// Stops the run, unless it has stopped before. Returns why it has.
    pub(crate) fn stop(&self, stop: Stop) -> Stop {
        let mut view = self.view();
        if stop.cuts_calls() && view.cut.is_none() {
            view.cut = Some(stop.clone());
        }
        view.stop.get_or_insert(stop).clone()
    }

    /// Why its calls under way are to be given up: for itself, or for a run above it.
    pub(crate) fn cut(&self) -> Option<Stop> {
        self.lineage().find_map(|run| run.view().cut.clone())
    }

    /// Why the run has stopped: itself, or a halted run above it.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        let own = self.view().stop.clone();
        own.or_else(|| self.halted_above())
    }

    /// Why a run above it was halted, if one was. One that is closed stops nothing, and hides none above it.
    pub(crate) fn halted_above(&self) -> Option<Stop> {
        self.lineage().skip(1).find_map(|run| run.view().stop.clone().filter(Stop::is_halt))
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, RunView> {
        // A panic while it is held is the writer's, and ends all records.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the policy said about a call, on a state of the run that may have moved on since.
pub(crate) struct Decided {
    /// Seq that the intent would have.
    pub(crate) seq: Seq,
    /// Time in the policy's input.
    pub(crate) time: UnixMillis,
    pub(crate) verdict: Verdict,
    /// The policy's input.
    pub(crate) object: Object,
    pub(crate) commitment: Commitment,
}

impl Shared {
    /// Why the kernel has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stop.get().cloned()
    }

    /// Why the run, or the kernel, has stopped.
    pub(crate) fn check(&self, run: &RunShared) -> Result<(), Stop> {
        match run.stopped().or_else(|| self.stopped()) {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why the log took nothing when it was last tried, in words that follow others.
    fn because(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|why| format!("; the log: {why}")).unwrap_or_default()
    }

    /// Whether the log is further behind than allowed, with so many more records.
    pub(crate) fn behind(&self, lag: &Lag, more: u64, now: UnixMillis) -> Option<Stop> {
        let halted = |cause, detail| Some(Stop::Halted { cause, detail });
        if lag.records.saturating_add(more) > self.spool.records_max {
            let detail = format!("{} records are not in the log{}", lag.records, self.because());
            return halted(HaltCause::LogBehind, detail);
        }
        if lag.bytes.saturating_add(more) > self.spool.bytes_max {
            let detail =
                format!("the spool is full: {} bytes are not in the log{}", lag.bytes, self.because());
            return halted(HaltCause::Spool, detail);
        }
        let age_ms = now.get().saturating_sub(lag.oldest?.get());
        let late = age_ms > self.spool.seconds_max.saturating_mul(1000) && self.tried.load(Ordering::Relaxed);
        late.then(|| Stop::Halted {
            cause: HaltCause::LogBehind,
            detail: format!("a record has not been in the log for {} s{}", age_ms / 1000, self.because()),
        })
    }

    /// Whether the run, or one above it, has lasted longer than its limits allow.
    pub(crate) fn expired(&self, run: &RunShared, now: UnixMillis) -> Option<Stop> {
        let is_over = |run: &RunShared| {
            let lasted_ms = now.get().saturating_sub(run.started.get());
            run.wall_clock_ms().is_some_and(|limit_ms| lasted_ms > limit_ms)
        };
        run.lineage().any(is_over).then(|| Stop::Halted {
            cause: HaltCause::WallClock,
            detail: "the run has lasted as long as its limits allow".to_owned(),
        })
    }

    /// Decides on the run as it is now.
    pub(crate) fn decide(&self, run: &RunShared, call: &CallInput) -> Result<Decided, CallError> {
        let start = Instant::now();
        let (input, seq, time) = {
            let view = run.view();
            let time = self.clock.now().max(view.time);
            (view.state.input(call.clone(), view.next, time), view.next, time)
        };
        let (object, commitment) = Payload::json(input.to_bytes()).commit("policy-input")?;
        let start = self.stopwatch.input.add_since(start);
        let verdict = run.rules.decide(object.content());
        self.stopwatch.decide.add_since(start);
        Ok(Decided { seq, time, verdict, object, commitment })
    }

    /// Gives the writer something to do.
    pub(crate) fn send(&self, op: Op) -> Result<(), Stop> {
        self.ops.send(op).map_err(|_| self.stopped().unwrap_or(Stop::Gone))
    }

    /// Waits for the writer's answer.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, Stop> {
        answer.await.map_err(|_| self.stopped().unwrap_or(Stop::Gone))
    }

    /// Sends something about a call, and waits for the answer.
    pub(crate) async fn ask<T>(&self, op: Op, answer: oneshot::Receiver<T>) -> Result<T, Stop> {
        let start = Instant::now();
        self.send(op)?;
        let answer = self.answer(answer).await?;
        self.stopwatch.turnaround.add_since(start);
        self.stopwatch.records.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// Gives the writer an approver's answer to a held call.
    pub(crate) async fn give_answer(
        &self,
        run: RunId,
        intent: Seq,
        note: &str,
    ) -> Result<HoldProgress, WaitError> {
        let (reply, answer) = oneshot::channel();
        self.send(Op::Answer { run, intent, note: note.to_owned(), reply })?;
        self.answer(answer).await?
    }

    /// Waits until the log's receipt for the record at `position` is verified, where the mode asks for it.
    pub(crate) async fn await_receipt(&self, run: &RunShared, position: u64) -> Result<(), Stop> {
        if self.mode == Mode::Spool {
            return Ok(());
        }
        let start = self.clock.now().get();
        let mut progress = self.progress.subscribe();
        loop {
            // A refused record counts as processed, so the stop is looked at first.
            self.check(run)?;
            if progress.borrow_and_update().logged > position {
                return self.check(run);
            }
            let waited_ms = self.clock.now().get().saturating_sub(start);
            if waited_ms > self.spool.seconds_max.saturating_mul(1000) {
                let (limit, because) = (self.spool.seconds_max, self.because());
                let detail = format!("the log gave no receipt within {limit} seconds{because}");
                return Err(self.halt_run(run, HaltCause::LogBehind, detail).await);
            }
            // The clock may be a simulated one, so it is looked at now and then.
            let _ = tokio::time::timeout(self.poll, progress.changed()).await;
        }
    }

    /// Stops one run at once; the record follows.
    pub(crate) fn begin_halt(
        &self,
        run: &RunShared,
        stop: Stop,
        reply: Option<oneshot::Sender<()>>,
    ) -> Result<(), Stop> {
        let stop = run.stop(stop);
        self.rouse();
        match stop {
            Stop::Halted { cause, detail } => self.send(Op::Halt { run: Some(run.id), cause, detail, reply }),
            closed => Err(closed),
        }
    }

    /// Stops one run at once, waits for the record, and says how it stopped.
    pub(crate) async fn halt_run(&self, run: &RunShared, cause: HaltCause, detail: String) -> Stop {
        let (reply, answer) = oneshot::channel();
        let begun = self.begin_halt(run, Stop::Halted { cause, detail }, Some(reply));
        if let Err(stop) = begun.and(self.answer(answer).await) {
            return stop;
        }
        self.check(run).err().unwrap_or(Stop::Gone)
    }
}

/// A call whose intent is durable and whose outcome is not recorded. Dropping it records the outcome that is then true.
pub(crate) struct OpenCall {
    pub(crate) shared: Arc<Shared>,
    pub(crate) run: Arc<RunShared>,
    pub(crate) intent: Seq,
    /// Position of the record that must be in the log before the call starts.
    pub(crate) position: u64,
    /// The tool, if it is one that is called.
    pub(crate) tool: Option<Text<128>>,
    /// The random bytes of the payload object that the call commits to.
    pub(crate) salt: [u8; SALT_BYTES],
    /// What a drop records; `None` once an outcome is on its way.
    pub(crate) if_dropped: Option<Report>,
    /// What observers see of the call: its own span, and once it is made that of its dispatch.
    pub(crate) span: tracing::Span,
}

impl OpenCall {
    /// Records the outcome; returns what was settled.
    pub(crate) async fn finish(
        mut self,
        report: &Report,
    ) -> Result<Result<crate::writer::Finished, Stop>, CallError> {
        let result = report.result.as_ref().map(|result| result.commit("result")).transpose();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                self.if_dropped = Some(Report::unknown(&format!("the result cannot be kept: {error}")));
                return Err(error);
            }
        };
        let (reply, answer) = oneshot::channel();
        let mut finish = Finish::new(self.run.id, self.intent, report, result, Some(reply));
        // Read here, because the writer has everybody's calls to see to.
        finish.read = finish.result.as_ref().zip(self.tool.as_ref()).map(|((object, _), tool)| {
            ResultRead::of(self.run.bundle().facts(), tool.as_str(), object.content())
        });
        self.if_dropped = None;
        let shared = Arc::clone(&self.shared);
        Ok(shared.ask(Op::Finish(finish), answer).await.and_then(|finished| finished))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(report) = self.if_dropped.take() {
            crate::span::failed(&self.span, &crate::policy::word(&report.status));
            // When the writer is gone the next start of the kernel records the same.
            let _ = self.shared.send(Op::Finish(Finish::new(self.run.id, self.intent, &report, None, None)));
        }
    }
}
