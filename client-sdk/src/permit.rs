//! Permits: the right to make one call, once.
//!
//! A [`Permit`] exists only after its intent is durable (and, in log mode, in the log). Starting the call consumes it;
//! what is then under way is an [`InFlight`], and finishing consumes that. So a call cannot be made without a permit,
//! made twice, or settled twice:
//!
//! ```
//! # use sift_client::{DispatchError, Done, Held, Permit, Report, WaitError};
//! async fn once(permit: Permit, report: Report) -> Result<Done, DispatchError> {
//!     permit.start()?.finish(report).await
//! }
//! ```
//!
//! None of these compiles. A verdict that nobody looked at is not a permit:
//!
//! ```compile_fail
//! async fn unasked(verdict: sift_client::Verdict, report: sift_client::Report) {
//!     verdict.dispatch(|| async { report }).await;
//! }
//! ```
//!
//! nor is a call that waits for an approval:
//!
//! ```compile_fail
//! async fn unapproved(held: sift_client::Held, report: sift_client::Report) {
//!     held.dispatch(|| async { report }).await;
//! }
//! ```
//!
//! Nobody makes one, or a second one of the first:
//!
//! ```compile_fail
//! fn forge(permit: sift_client::Permit) -> sift_client::Permit {
//!     sift_client::Permit { ..permit }
//! }
//! ```
//!
//! ```compile_fail
//! fn copy(permit: &sift_client::Permit) -> sift_client::Permit {
//!     permit.clone()
//! }
//! ```
//!
//! It starts one call, which is settled once:
//!
//! ```compile_fail
//! async fn twice(permit: sift_client::Permit) {
//!     let first = permit.start();
//!     let second = permit.start();
//! }
//! ```
//!
//! ```compile_fail
//! async fn settle(call: sift_client::InFlight, report: sift_client::Report) {
//!     let first = call.finish(report.clone()).await;
//!     let second = call.finish(report).await;
//! }
//! ```
//!
//! A permit that is dropped before the call started is recorded as `cancelled` and settles nothing. Whatever is dropped
//! after that is recorded as `unknown`, and its hold is settled in full.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::VerifierKey;
use sift_spec::record::{Call, Parent};
use sift_spec::types::{AgentName, RunId, Seq, UnixMillis};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::call::Report;
use crate::capability::{CapabilityError, Issue};
use crate::error::{DelegateError, DispatchError, Stop};
use crate::failpoint;
use crate::shared::{OpenCall, Shared, UnderWay};
use crate::span;
use crate::stream::{StreamFormat, StreamMeter};
use crate::writer::Op;

/// The right to make one call, once.
#[must_use = "the call of a permit that is dropped is cancelled"]
pub struct Permit {
    open: OpenCall,
    call: Call,
    reserved: Amounts,
    bytes: Vec<u8>,
    /// Until when approvers let it go.
    deadline: Option<UnixMillis>,
    /// On whose word it was released.
    approvers: Vec<VerifierKey>,
}

/// A call under way.
#[must_use = "a call without a report counts as one with unknown outcome"]
pub struct InFlight {
    open: OpenCall,
    child: Option<Child>,
    /// The call, until its capability token was made.
    untokened: Option<Call>,
    _under_way: UnderWay,
}

/// The start of a sub-agent that was permitted: opens its run, once.
///
/// ```
/// # use sift_client::{Child, Kernel, OpenRun, OpenRunError, Run};
/// async fn once(kernel: &Kernel, open: OpenRun, child: Child) -> Result<Run, OpenRunError> {
///     kernel.open_run(OpenRun { parent: Some(child), ..open }).await
/// }
/// ```
///
/// ```compile_fail
/// # use sift_client::{Child, Kernel, OpenRun};
/// async fn twice(kernel: &Kernel, open: OpenRun, again: OpenRun, child: Child) {
///     let first = kernel.open_run(OpenRun { parent: Some(child), ..open }).await;
///     let second = kernel.open_run(OpenRun { parent: Some(child), ..again }).await;
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Child {
    pub(crate) agent: AgentName,
    pub(crate) run: RunId,
    pub(crate) parent: Parent,
}

/// A call that was made, and its outcome recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Seq of the intent.
    pub intent: Seq,
    /// Seq of the outcome.
    pub outcome: Seq,
    /// What came back.
    pub report: Report,
    /// What the hold was replaced with.
    pub settled: Amounts,
    /// The first meter of which more was billed than held. The run is halted then.
    pub overspent: Option<Meter>,
}

impl Permit {
    pub(crate) const fn new(open: OpenCall, call: Call, reserved: Amounts, bytes: Vec<u8>) -> Self {
        Self { open, call, reserved, bytes, deadline: None, approvers: Vec::new() }
    }

    /// The same, released by these keys until a deadline.
    pub(crate) fn approved(self, deadline: UnixMillis, approvers: Vec<VerifierKey>) -> Self {
        Self { deadline: Some(deadline), approvers, ..self }
    }

    /// Seq of the intent.
    #[must_use]
    pub const fn intent(&self) -> Seq {
        self.open.intent
    }

    /// What is held for the call in every scope.
    #[must_use]
    pub const fn reserved(&self) -> Amounts {
        self.reserved
    }

    /// The call, as its intent states it.
    #[must_use]
    pub const fn call(&self) -> &Call {
        &self.call
    }

    /// The exact bytes that were decided on: arguments, request or task. What is sent must be these.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Counts a streamed answer against the output that is held for this call; `None` if it asks no model.
    #[must_use]
    pub fn meter(&self, format: StreamFormat) -> Option<StreamMeter> {
        let Call::Model(call) = &self.call else { return None };
        let (shared, run) = (Arc::clone(&self.open.shared), Arc::clone(&self.open.run));
        Some(StreamMeter::new(call.max_output, format, shared, run))
    }

    /// Waits until the log has what must be in it.
    pub(crate) async fn await_receipt(&self) -> Result<(), Stop> {
        self.open.shared.await_receipt(&self.open.run, self.open.position).await
    }

    /// Makes the call with the bytes that were decided on, and records its outcome: see [`Permit::dispatch`].
    ///
    /// When the run is halted meanwhile, by the switch, its wall clock or a call that was billed too much, the call's
    /// future is dropped and its outcome recorded as unknown. What it handed to another thread goes on by itself.
    ///
    /// # Errors
    /// As [`Permit::dispatch`].
    pub async fn dispatch_with<F, R>(mut self, call: F) -> Result<Done, DispatchError>
    where
        F: FnOnce(Vec<u8>) -> R,
        R: Future<Output = Report>,
    {
        let bytes = std::mem::take(&mut self.bytes);
        self.dispatch(|| call(bytes)).await
    }

    /// Makes the call and records its outcome. The caller sees to it that what is sent is [`Permit::bytes`];
    /// [`Permit::dispatch_with`] hands them over.
    ///
    /// The outcome is settled and counts for what is decided from then on. It is on the disk with the run's next intent,
    /// or some milliseconds later; [`Kernel::sync`] waits for that. If the process dies before, the outcome is unknown and the
    /// whole hold settled.
    ///
    /// [`Kernel::sync`]: crate::Kernel::sync
    ///
    /// # Errors
    /// When the run was halted before the call started or while it was under way, or its outcome could not be recorded.
    pub async fn dispatch<F, R>(self, call: F) -> Result<Done, DispatchError>
    where
        F: FnOnce() -> R,
        R: Future<Output = Report>,
    {
        let in_flight = self.start()?;
        let span = in_flight.open.span.clone();
        async {
            let halted = in_flight.cut();
            let report = tokio::select! {
                // A report that is there is worth more than a halt.
                biased;
                report = call() => Ok(report),
                stop = halted => Err(stop),
            };
            match report {
                Ok(report) => in_flight.finish(report).await,
                Err(stop) => {
                    // Where it cannot be recorded, the next start of the kernel records the same.
                    let _ = in_flight.finish(Report::unknown(&format!("given up: {stop}"))).await;
                    Err(DispatchError::Cut(stop))
                }
            }
        }
        .instrument(span)
        .await
    }

    /// Does not make the call: it is recorded as cancelled, and nothing is settled.
    ///
    /// # Errors
    /// When the outcome could not be recorded; the next start of the kernel records the same.
    pub async fn cancel(self, why: &str) -> Result<Done, DispatchError> {
        let intent = self.open.intent;
        let report = Report::cancelled(why);
        let finished = self.open.finish(&report).await?.map_err(DispatchError::NotDispatched)?;
        let (outcome, settled, overspent) = (finished.seq, finished.settled, finished.over);
        Ok(Done { intent, outcome, report, settled, overspent })
    }

    /// Starts the call. From here on it may have acted.
    ///
    /// # Errors
    /// When the run was halted first, has lasted too long by now, the log is too far behind, the deadline of an approval
    /// has passed, or an approver's key is known to be revoked: the call is recorded as cancelled, and nothing is settled.
    pub fn start(self) -> Result<InFlight, DispatchError> {
        failpoint::pass("before-dispatch");
        let Self { mut open, call, deadline, approvers, .. } = self;
        let (shared, run) = (Arc::clone(&open.shared), Arc::clone(&open.run));
        // A permit may have waited: what was true of its intent must be true now.
        let now = shared.clock.now();
        let lag = shared.progress.borrow().lag;
        if let Some(stop) = shared.behind(&lag, 0, now).or_else(|| shared.expired(&run, now)) {
            // When the writer is gone, nothing starts anyway.
            let _ = shared.begin_halt(&run, stop, None);
        } else if let Some(deadline) = deadline.filter(|deadline| now > *deadline) {
            open.if_dropped = Some(Report::cancelled("the deadline passed before the call started"));
            span::failed(&open.span, "too_late");
            return Err(DispatchError::Late(deadline));
        }
        // Under the run's lock, which a halt takes too: no call starts after the halt.
        let view = run.view();
        if let Some(stop) = view.stop.clone().or_else(|| run.halted_above()).or_else(|| open.shared.stopped())
        {
            open.if_dropped = Some(Report::cancelled(&format!("not dispatched: {stop}")));
            drop(view);
            span::failed(&open.span, "not_dispatched");
            return Err(DispatchError::NotDispatched(stop));
        }
        let revoked = approvers.iter().find_map(|key| Some((key, shared.revocations.at(key)?)));
        if let Some((key, at)) = revoked {
            let error = DispatchError::Revoked { key: key.name().clone(), at };
            open.if_dropped = Some(Report::cancelled(&error.to_string()));
            drop(view);
            span::failed(&open.span, "not_dispatched");
            return Err(error);
        }
        open.if_dropped = Some(Report::unknown("the call was given up without a report"));
        drop(view);
        open.span = span::dispatch(&open.span, &call, &run, open.intent);
        let (child, under_way) = (child(&call, &open), UnderWay::new(&open.run));
        Ok(InFlight { child, untokened: Some(call), _under_way: under_way, open })
    }
}

impl InFlight {
    /// Records the outcome and settles the hold: see [`Permit::dispatch`].
    ///
    /// # Errors
    /// When the outcome could not be recorded; it then counts as unknown.
    pub async fn finish(self, report: Report) -> Result<Done, DispatchError> {
        failpoint::pass("after-dispatch");
        let (intent, span) = (self.open.intent, self.open.span.clone());
        let finished = self.open.finish(&report).await?.map_err(DispatchError::NotRecorded);
        let finished = finished.inspect_err(|_| span::failed(&span, "not_recorded"))?;
        let (outcome, settled, overspent) = (finished.seq, finished.settled, finished.over);
        let done = Done { intent, outcome, report, settled, overspent };
        span::done(&span, &done);
        Ok(done)
    }

    /// Makes the token that this tool call carries to the tool's side, once: see [`crate::capability`]. The audience is
    /// the name that side goes by; `ttl` is how long the token counts, [`crate::capability::TTL_DEFAULT`] as a rule.
    ///
    /// # Errors
    /// When the call is none of a tool or has its token already, audience or `ttl` are out of bounds, the run was
    /// halted, or the kernel's key cannot sign.
    pub fn capability(&mut self, audience: &str, ttl: Duration) -> Result<String, CapabilityError> {
        let OpenCall { shared, run, intent, salt, .. } = &self.open;
        shared.check(run).map_err(|_| CapabilityError::Asked("the run was halted"))?;
        let call = self.untokened.take().ok_or(CapabilityError::Issued)?;
        let now = shared.clock.now();
        let issue = Issue {
            agent: &run.agent,
            call: &call,
            run: run.id,
            seq: *intent,
            salt: *salt,
            audience,
            ttl,
            now,
        };
        let token = shared.issuer.issue(&issue);
        if token.is_err() {
            self.untokened = Some(call);
        }
        token
    }

    /// Resolves when the run is halted, for whatever reason; for those who drive a call themselves, and who should then
    /// give it up: drop it, and this with it. It never resolves for a run that goes on.
    pub fn halted(&self) -> impl Future<Output = Stop> + Send + use<> {
        Arc::clone(&self.open.shared).until(Arc::clone(&self.open.run), Shared::halted)
    }

    /// Resolves when the run is halted for a reason that calls under way are given up for.
    fn cut(&self) -> impl Future<Output = Stop> + Send + use<> {
        Arc::clone(&self.open.shared).until(Arc::clone(&self.open.run), |_, run| run.cut())
    }

    /// Lets the kernel that the call names open the sub-agent's run, once: the signed note to hand over to it.
    ///
    /// What that kernel lets the sub-agent use is held here already. When its run has ended, hand its `close` entry to
    /// [`Report::with_close`]; without it the whole hold is settled.
    ///
    /// # Errors
    /// When the call does not delegate or was delegated before, or the run has stopped.
    pub async fn delegate(&mut self) -> Result<String, DelegateError> {
        let (reply, answer) = oneshot::channel();
        let (run, intent) = (self.open.run.id, self.open.intent);
        self.open.shared.check(&self.open.run)?;
        self.open.shared.send(Op::Delegate { run, intent, reply })?;
        self.open.shared.answer(answer).await?
    }

    /// The start of the sub-agent, if the call is one that runs under this kernel; once.
    #[must_use]
    pub const fn child(&mut self) -> Option<Child> {
        self.child.take()
    }
}

fn child(call: &Call, open: &OpenCall) -> Option<Child> {
    let Call::Agent(call) = call else { return None };
    if call.delegate.is_some() {
        return None;
    }
    let depth = open.run.depth.saturating_add(1);
    let parent = Parent { depth, run: open.run.id, seq: open.intent };
    Some(Child { agent: call.agent.clone(), run: call.run, parent })
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("intent", &self.open.intent)
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("intent", &self.open.intent).finish_non_exhaustive()
    }
}
