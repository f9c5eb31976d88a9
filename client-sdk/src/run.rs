//! A run: what one agent does from its start to its end.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use sift_rules::PolicyBundle;
use sift_spec::meter::Amounts;
use sift_spec::record::{Call, CloseReason, Effect, HaltCause, Refusal};
use sift_spec::types::{AgentName, RunId, Seq, Text, ValueError};
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};

use crate::call::{AgentCall, Prepared, Proposal};
use crate::config::Peer;
use crate::error::{CallError, ProposeError, RunError, Stop};
use crate::failpoint;
use crate::held::Held;
use crate::permit::Permit;
use crate::shared::{RunShared, Shared};
use crate::span;
use crate::writer::{Close, Op, Propose, Recorded};

/// A run. Clones are the same run, so several tasks can propose at once.
#[derive(Clone)]
pub struct Run {
    shared: Arc<Shared>,
    run: Arc<RunShared>,
}

/// What becomes of a proposal. Its intent is recorded and durable, whatever it is.
#[must_use = "a call is not made by proposing it, and the call of a permit that is dropped is cancelled"]
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // matched at once, never kept
pub enum Verdict {
    /// Go ahead, once.
    Permitted(Permit),
    /// Do not.
    Denied(Denial),
    /// An approver has to answer first.
    Held(Held),
}

/// A call that does not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Seq of the intent.
    pub intent: Seq,
    /// The policy's rules that decided.
    pub rules: Vec<Text<128>>,
    /// Why, in words for people.
    pub reasons: Vec<Text<512>>,
    /// Why the budget refused what the policy would have let through.
    pub refusal: Option<Refusal>,
    /// What became of a held call: refused, too late, or nobody waited.
    pub unapproved: Option<String>,
}

/// In words that may be given to the agent.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.unapproved {
            return write!(f, "not approved: {why}");
        }
        match &self.refusal {
            Some(Refusal::Depth(limit)) => {
                return write!(f, "over budget: nested {} deep, of {} allowed", limit.have, limit.limit);
            }
            Some(Refusal::Identical(limit)) => {
                return write!(f, "over budget: {} identical calls were made, the limit", limit.have);
            }
            Some(Refusal::Limit(limit)) => {
                return write!(
                    f,
                    "over budget: {} {} needed, {} of {} used",
                    limit.need, limit.meter, limit.have, limit.limit
                );
            }
            Some(Refusal::Unpriced(unpriced)) => {
                return write!(f, "over budget: the model {} has no price", unpriced.model);
            }
            Some(Refusal::WallClock(limit)) => {
                return write!(
                    f,
                    "over budget: the run has lasted {} ms of {}",
                    limit.have_ms, limit.limit_ms
                );
            }
            None => {}
        }
        let reasons: Vec<&str> = self.reasons.iter().map(Text::as_str).collect();
        write!(f, "denied by policy: {}", reasons.join("; "))
    }
}

impl Run {
    pub(crate) const fn new(shared: Arc<Shared>, run: Arc<RunShared>) -> Self {
        Self { shared, run }
    }

    /// The run's identifier.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.run.id
    }

    /// The run's agent.
    #[must_use]
    pub fn agent(&self) -> &AgentName {
        &self.run.agent
    }

    /// Resolves when the run is halted, or one above it or the kernel is, for whatever reason. It never resolves for a run
    /// that goes on.
    pub fn halted(&self) -> impl Future<Output = Stop> + Send + use<> {
        Arc::clone(&self.shared).until(Arc::clone(&self.run), Shared::halted)
    }

    /// The bundle that decides for this run, from its opening to its end.
    #[must_use]
    pub fn bundle(&self) -> &PolicyBundle {
        self.run.bundle()
    }

    /// Whether another kernel delegated the run to this one.
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.run.depth > 0 && self.run.lineage().nth(1).is_none()
    }

    /// Nesting depth: 0 for a run without parent.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.run.depth
    }

    /// Why the run has stopped, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<Stop> {
        self.shared.check(&self.run).err()
    }

    /// Proposes a call: the policy decides, the budget holds the worst case, and the intent is durable when this
    /// returns. In log mode a permit waits for the log's verified receipt as well.
    ///
    /// # Errors
    /// When the call cannot be recorded, or the run has stopped. Then nothing may be dispatched.
    pub async fn propose(&self, proposal: impl Into<Proposal>) -> Result<Verdict, ProposeError> {
        let proposal = proposal.into();
        let call = span::call(&proposal, &self.run);
        let proposed = self.try_propose(proposal, &call).instrument(span::propose(&call)).await;
        if proposed.is_err() {
            span::failed(&call, "not_proposed");
        }
        proposed
    }

    async fn try_propose(&self, proposal: Proposal, span: &Span) -> Result<Verdict, ProposeError> {
        failpoint::pass("before-decide");
        self.shared.check(&self.run)?;
        let next = self.run.view().next;
        if matches!(&proposal, Proposal::Tool(tool) if tool.proposed_by.is_some_and(|by| by >= next)) {
            let (what, why) = ("proposed_by", "not an earlier record of this run");
            return Err(CallError::Value(ValueError { what, why }).into());
        }
        self.check_delegate(&proposal)?;
        let prepared = Prepared::new(&proposal, self.run.bundle(), self.shared.clock.now())?;
        let (call, bytes) = (prepared.call.clone(), proposal.into_bytes());
        let decided = self.shared.decide(&self.run, &prepared.input)?;
        failpoint::pass("after-decide");
        let (reply, answer) = oneshot::channel();
        let propose = Propose { run: Arc::clone(&self.run), prepared, decided, sent: Instant::now(), reply };
        let recorded = self.shared.ask(Op::Propose(Box::new(propose)), answer).await??;
        self.verdict(recorded, call, bytes, span).await
    }

    /// Whether a sub-agent's run can be delegated at all: its close must be checked here one day.
    fn check_delegate(&self, proposal: &Proposal) -> Result<(), CallError> {
        let Proposal::Agent(AgentCall { agent, delegate: Some(delegate), .. }) = proposal else {
            return Ok(());
        };
        let refuse = |what, why| Err(CallError::Value(ValueError { what, why }));
        let known = |peer: &Peer| *peer.key.name() == delegate.kernel && peer.may(agent);
        if !self.shared.kernels.iter().any(known) {
            return refuse("delegate.kernel", "not listed in kernel.toml as a kernel for this agent");
        }
        if delegate.deadline <= self.shared.clock.now() {
            return refuse("delegate.deadline", "not in the future");
        }
        Ok(())
    }

    async fn verdict(
        &self,
        recorded: Recorded,
        call: Call,
        bytes: Vec<u8>,
        span: &Span,
    ) -> Result<Verdict, ProposeError> {
        let Recorded { seq, effect, rules, reasons, refusal, reserved, open, waiting } = recorded;
        tracing::debug!(run = %self.run.id, %seq, %effect, ?rules, "decided");
        let denial = Denial { intent: seq, rules, reasons, refusal, unapproved: None };
        span::decided(span, effect, &denial, &reserved);
        let Some(mut open) = open else { return Ok(Verdict::Denied(denial)) };
        open.span = span.clone();
        match waiting {
            Some(waiting) => {
                let held = Held::new(open, waiting, denial, call, reserved, bytes);
                Ok(Verdict::Held(held.map_err(ProposeError::Request)?))
            }
            None => {
                let permit = Permit::new(open, call, reserved, bytes);
                permit.await_receipt().await?;
                Ok(Verdict::Permitted(permit))
            }
        }
    }

    /// Stops the run: nothing new is dispatched after this.
    ///
    /// # Errors
    /// When the kernel is closed already.
    pub async fn halt(&self, detail: &str) -> Result<(), Stop> {
        match self.shared.halt_run(&self.run, HaltCause::Operator, detail.to_owned()).await {
            Stop::Halted { .. } | Stop::Closed => Ok(()),
            Stop::Gone => Err(Stop::Gone),
        }
    }

    /// Ends the run with a census of its records and the sum of what it settled, which is returned. A run that was
    /// halted ends as halted, whatever the reason given.
    ///
    /// # Errors
    /// When calls have no outcome yet, the run is closed already, or the kernel has stopped.
    pub async fn close(&self, reason: CloseReason) -> Result<Amounts, RunError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Op::Close(Close { run: self.run.id, reason, reply }))?;
        self.shared.answer(answer).await?
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("id", &self.run.id)
            .field("agent", &self.run.agent)
            .finish_non_exhaustive()
    }
}

impl Verdict {
    /// What the policy and the budget said.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Permitted(_) => Effect::Allow,
            Self::Denied(_) => Effect::Deny,
            Self::Held(_) => Effect::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use sift_rules::CallInput;
    use sift_spec::bundle::Bundle;
    use sift_spec::note::{KeyType, SignerKey};
    use sift_spec::trust::TrustPolicy;

    use crate::{Config, Kernel, OpenRun, SystemClock, ToolCall, Verdict};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_looks_sees_seq_and_counters_of_the_same_record() {
        let dir = tempfile::tempdir().unwrap();
        let key =
            |name: &str| SignerKey::from_seed(name.parse().unwrap(), KeyType::Ed25519, &[1; 32]).unwrap();
        let trust = TrustPolicy::of_log(key("log.example").verifier().clone(), None);
        let policy = "package sift\nallow contains {\"rule\": \"none\"} if input.call.name == \"none\"\n";
        let files = [("policy.rego", policy), ("budget.toml", "")];
        let bundle = Bundle::new(files.map(|(path, text)| (path.to_owned(), text.into()))).unwrap();
        let config = Config::new(dir.path(), "http://127.0.0.1:9", trust, bundle);
        let kernel = Kernel::open(config, key("acme.example/kernel"), SystemClock).await.unwrap();
        let run = kernel.open_run(OpenRun::of("airline/gpt-4o".parse().unwrap())).await.unwrap();
        let (looked, done) = (Arc::clone(&run.run), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&done);
        let look = std::thread::spawn(move || {
            let call = CallInput::Agent { delegate: None, name: "a".parse().unwrap() };
            while !over.load(Ordering::Relaxed) {
                let view = looked.view();
                let denied = view.state.input(call.clone(), view.next, view.time).run.calls.denied;
                // The open record, and a denied intent for each call.
                assert_eq!(view.next.get(), 1 + denied);
            }
        });
        for _ in 0..300 {
            let (name, id, args) = ("read".to_owned(), "call".to_owned(), b"{}".to_vec());
            let verdict = run.propose(ToolCall { name, id, args, proposed_by: None }).await.unwrap();
            assert!(matches!(verdict, Verdict::Denied(_)));
        }
        done.store(true, Ordering::Relaxed);
        look.join().unwrap();
        kernel.close().await;
    }
}
