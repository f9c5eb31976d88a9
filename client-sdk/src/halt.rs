//! Halts: what stops, at once, and who is told.
//!
//! Whoever pulls a switch sets it here, in memory, under the lock under which calls start; no queue, policy or disk is
//! waited for. The `halt` records follow. Calls that are under way are told ([`crate::InFlight::halted`]), and
//! [`crate::Permit::dispatch`] cuts them where the switch, the wall clock or an overspending call stopped the run.
//!
//! A kernel that was halted as a whole, and an agent that was halted, stay so until the kernel is opened again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sift_spec::record::HaltCause;
use sift_spec::types::{AgentName, AgentScope, RunId, UnixMillis};
use tokio::sync::oneshot;

use crate::error::Stop;
use crate::failpoint;
use crate::shared::{RunShared, Shared};
use crate::writer::Op;

/// What a halt stops, and with each run those below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltScope {
    /// Every open run of these agents; and none of them opens another until the kernel is opened again.
    Agent(AgentScope),
    /// Everything. The kernel stays halted until it is opened again.
    All,
    /// One run.
    Run(RunId),
}

/// What a halt came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halted {
    /// Whether the `halt` records are durable. Where they cannot be made, the runs have stopped all the same.
    pub recorded: bool,
    /// The runs that were open and have stopped, without those below them.
    pub runs: Vec<RunId>,
}

/// The open runs, and the agents of which none opens any more.
#[derive(Default)]
pub(crate) struct Roll {
    open: BTreeMap<RunId, Arc<RunShared>>,
    barred: Vec<(AgentScope, Stop)>,
}

impl Roll {
    /// Enters a run, unless its agent was halted. Under the same lock as [`Shared::pull`], so that no run slips through.
    pub(crate) fn enter(&mut self, run: &Arc<RunShared>) -> Result<(), Stop> {
        if let Some(stop) = self.bar(&run.agent) {
            return Err(stop.clone());
        }
        self.open.insert(run.id, Arc::clone(run));
        Ok(())
    }

    /// Takes a run off that has its `close`.
    pub(crate) fn leave(&mut self, run: RunId) {
        self.open.remove(&run);
    }

    /// The open runs, in the order of their start.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Arc<RunShared>> {
        self.open.values()
    }

    /// Why an agent opens no run any more.
    pub(crate) fn bar(&self, agent: &AgentName) -> Option<&Stop> {
        self.barred.iter().find(|(scope, _)| scope.covers(agent)).map(|(_, stop)| stop)
    }

    /// The agents that were halted.
    pub(crate) fn barred(&self) -> impl Iterator<Item = &(AgentScope, Stop)> {
        self.barred.iter()
    }
}

impl Shared {
    pub(crate) fn roll(&self) -> std::sync::MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every call under way to look whether it was halted.
    pub(crate) fn rouse(&self) {
        self.halts.send_replace(());
    }

    /// Pulls a switch. When this returns nothing of the scope starts any more; returns the runs that it stopped.
    pub(crate) fn pull(&self, scope: &HaltScope, detail: &str) -> Vec<RunId> {
        let stop = Stop::Halted { cause: HaltCause::Operator, detail: detail.to_owned() };
        if *scope == HaltScope::All {
            let _ = self.stop.set(stop.clone());
        }
        let mut roll = self.roll();
        if let HaltScope::Agent(agents) = scope {
            roll.barred.push((agents.clone(), stop.clone()));
        }
        let within = |run: &&Arc<RunShared>| match scope {
            HaltScope::Agent(agents) => agents.covers(&run.agent),
            HaltScope::All => true,
            HaltScope::Run(id) => run.id == *id,
        };
        let runs: Vec<Arc<RunShared>> = roll.runs().filter(within).map(Arc::clone).collect();
        drop(roll);
        let stopped = runs.into_iter().filter(|run| run.stop(stop.clone()).is_halt());
        let stopped = stopped.map(|run| run.id).collect();
        self.rouse();
        failpoint::pass("after-switch");
        stopped
    }

    /// Pulls a switch and waits for the records.
    pub(crate) async fn halt(&self, scope: &HaltScope, detail: &str) -> Halted {
        let runs = self.pull(scope, detail);
        let (cause, detail) = (HaltCause::Operator, detail.to_owned());
        let (reply, answer) = oneshot::channel();
        let sent = match scope {
            HaltScope::All => self.send(Op::Halt { run: None, cause, detail, reply: Some(reply) }),
            HaltScope::Agent(_) | HaltScope::Run(_) => self.send_halts(&runs, cause, &detail, reply),
        };
        let recorded = sent.is_ok() && self.answer(answer).await.is_ok();
        Halted { recorded, runs }
    }

    /// Has the records made. The last one's answer says that all are durable, because they are made in their order.
    fn send_halts(
        &self,
        runs: &[RunId],
        cause: HaltCause,
        detail: &str,
        reply: oneshot::Sender<()>,
    ) -> Result<(), Stop> {
        let Some((last, before)) = runs.split_last() else {
            let _ = reply.send(());
            return Ok(());
        };
        let halt = |run: RunId, reply| Op::Halt { run: Some(run), cause, detail: detail.to_owned(), reply };
        for run in before {
            self.send(halt(*run, None))?;
        }
        self.send(halt(*last, Some(reply)))
    }

    /// Why the run was halted: itself, with a run above it, or with the kernel.
    pub(crate) fn halted(&self, run: &RunShared) -> Option<Stop> {
        self.check(run).err().filter(Stop::is_halt)
    }

    /// Returns when `look` finds that the run was halted, and sees to it that its wall clock halts it in time.
    pub(crate) async fn until(
        self: Arc<Self>,
        run: Arc<RunShared>,
        look: fn(&Self, &RunShared) -> Option<Stop>,
    ) -> Stop {
        let mut halts = self.halts.subscribe();
        loop {
            halts.borrow_and_update();
            if let Some(stop) = look(&self, &run) {
                return stop;
            }
            let now = self.clock.now();
            if let Some(stop) = self.expired(&run, now) {
                if let Err(stop) = self.begin_halt(&run, stop, None) {
                    return stop;
                }
                continue;
            }
            match self.left(&run, now) {
                // The clock may be set, or a simulated one, so it is looked at now and then.
                Some(left) => drop(tokio::time::timeout(left.min(self.poll), halts.changed()).await),
                None => drop(halts.changed().await),
            }
        }
    }

    /// How long the run may still last, by its own wall clock and those of the runs above it.
    fn left(&self, run: &RunShared, now: UnixMillis) -> Option<Duration> {
        let left_ms = run.lineage().filter_map(|run| {
            let limit_ms = run.wall_clock_ms()?;
            let lasted_ms = now.get().saturating_sub(run.started.get());
            // Longer than the limit, not as long, is too long.
            Some(limit_ms.saturating_sub(lasted_ms).saturating_add(1))
        });
        left_ms.min().map(Duration::from_millis)
    }
}
