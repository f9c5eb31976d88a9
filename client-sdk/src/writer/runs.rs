//! Runs: opened, kept alive, halted, closed.

use std::sync::Arc;

use sift_rules::ledger;
use sift_rules::{LedgerError, RunState};
use sift_spec::meter::Amounts;
use sift_spec::record::{Beat, Body, Call, CloseReason, HaltCause, Open, Parent};
use sift_spec::types::{AgentName, RunId, Text};
use tokio::sync::oneshot;

use super::line::Waits;
use super::{Close, Line, LiveCall, OpenRun, Writer};
use crate::delegation::Delegated;
use crate::error::{OpenRunError, RunError, Stop};
use crate::shared::RunShared;

impl Writer {
    /// Opens a run.
    pub(super) fn open_run(&mut self, mut open: OpenRun) {
        let (unused, _) = oneshot::channel();
        let reply = std::mem::replace(&mut open.reply, unused);
        let opened = self.try_open_run(open);
        self.reply(reply, opened);
    }

    fn try_open_run(&mut self, open: OpenRun) -> Result<Arc<RunShared>, OpenRunError> {
        let OpenRun { agent, labels, parent, delegation, run, build, reply: _ } = open;
        let time = self.now();
        if let Some(stop) = self.shared.stopped() {
            return Err(stop.into());
        }
        // One run for one identifier, and a sub-agent's only while the call that starts it is under way.
        if self.lines.contains_key(&run) || self.batch.closed.contains(&run) || self.is_stored(run)? {
            return Err(LedgerError::RunExists(run).into());
        }
        // Asked here, because this thread learns of a revocation, and no run slips through.
        delegation.as_ref().map_or(Ok(()), |delegation| delegation.counts(&self.shared.revocations))?;
        let here = parent.filter(|_| delegation.is_none());
        let above = here.map(|parent| self.parent_of(&parent, run, &agent)).transpose()?;
        // What is in force now decides for the run to its end.
        let rules = self.shared.bundles.in_force();
        let bundle = rules.bundle();
        let limits = match &delegation {
            Some(delegation) => delegation.limits(bundle.budget().limits(), time)?,
            None => bundle.budget().limits().clone(),
        };
        let body = Body::Open(Box::new(Open {
            build,
            delegation: delegation.as_ref().map(Delegated::note),
            engine: Text::cut(bundle.engine()),
            labels: labels.clone(),
            limits: limits.clone(),
            log: self.shared.log.clone(),
            parent,
            policy: bundle.digest(),
        }));
        let draft = self.fitting(run, &agent, body, time)?;
        let depth = parent.map_or(0, |parent| parent.depth);
        let state = RunState::new(agent.clone(), run, depth, time, labels, bundle.facts());
        let place = (depth, limits.clone());
        let shared = Arc::new(RunShared::new(run, agent.clone(), above, state, time, place, rules));
        self.shared.roll().enter(&shared)?;
        let above = here.map(|parent| parent.run);
        let open = ledger::Open { agent, depth, limits, parent: above, run, time };
        if let Err(error) = self.ledger.open(&open) {
            self.shared.roll().leave(run);
            return Err(error.into());
        }
        if let Some(call) = here.and_then(|parent| self.live_call(&parent)) {
            call.opened = true;
        }
        self.lines.insert(run, Line::new(Arc::clone(&shared), delegation.is_some()));
        self.append_draft(draft, |_| {})?;
        Ok(shared)
    }

    fn is_stored(&mut self, run: RunId) -> Result<bool, Stop> {
        self.store.has_run(run).map_err(|error| self.contradiction(&error.to_string()))
    }

    fn live_call(&mut self, parent: &Parent) -> Option<&mut LiveCall> {
        self.lines.get_mut(&parent.run)?.calls.get_mut(&parent.seq)
    }

    /// The run above a new one: it goes on, and its permitted call starts just this run, which it has not yet.
    fn parent_of(
        &mut self,
        parent: &Parent,
        run: RunId,
        agent: &AgentName,
    ) -> Result<Arc<RunShared>, OpenRunError> {
        let permitted = self.live_call(parent).is_some_and(|live| {
            let starts = matches!(
                &live.call,
                Call::Agent(call) if call.run == run && call.agent == *agent && call.delegate.is_none()
            );
            starts && !live.opened && matches!(live.waits, Waits::No)
        });
        let above = self.lines.get(&parent.run).filter(|_| permitted).map(|line| Arc::clone(&line.run));
        let above = above.ok_or(OpenRunError::NotPermitted { run })?;
        self.shared.check(&above)?;
        Ok(above)
    }

    /// Halts what the time has run out for, whether or not anything is proposed.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        let over =
            |line: &&Line| line.run.stopped().is_none() && self.shared.expired(&line.run, now).is_some();
        // Runs above others are older, and take those below them along.
        let mut runs: Vec<RunId> = self.lines.values().filter(over).map(|line| line.run.id).collect();
        runs.sort_unstable();
        for run in runs {
            self.halt_run(run, HaltCause::WallClock, "the run has lasted as long as its limits allow");
        }
        self.give_up_waiting(now);
    }

    /// Records that runs are alive which have been silent for a while.
    pub(super) fn beat(&mut self, silent_ms: u64) {
        let now = self.now();
        let silent = |line: &&Line| {
            let silent = now.get().saturating_sub(line.time.get()) >= silent_ms;
            !line.halted && !self.shared.waits(line.run.id) && silent
        };
        let runs: Vec<RunId> = self.lines.values().filter(silent).map(|line| line.run.id).collect();
        for run in runs {
            let records = self.lines.get(&run).map_or(0, |line| line.next.get());
            // A failure halts the kernel, which is all there is to do.
            let _ = self.append(run, Body::Beat(Beat { records }), now);
        }
    }

    /// Halts one run, or all of them.
    pub(super) fn halt(
        &mut self,
        run: Option<RunId>,
        cause: HaltCause,
        detail: &str,
        reply: Option<oneshot::Sender<()>>,
    ) {
        match run {
            Some(run) => self.halt_run(run, cause, detail),
            None => self.halt_all(cause, detail),
        }
        if let Some(reply) = reply {
            self.reply(reply, ());
        }
    }

    /// Closes a run.
    pub(super) fn close_run(&mut self, close: Close) {
        let Close { run, reason, reply } = close;
        let closed = self.try_close(run, reason);
        self.reply(reply, closed);
    }

    pub(super) fn try_close(&mut self, run: RunId, reason: CloseReason) -> Result<Amounts, RunError> {
        let time = self.now();
        let line = self.lines.get(&run).ok_or(RunError::Stopped(Stop::Closed))?;
        if let Some(first) = line.calls.keys().next() {
            return Err(RunError::CallsOutstanding { run, count: line.calls.len(), first: *first });
        }
        let reason = match reason {
            CloseReason::Abandoned => reason,
            _ if line.halted => CloseReason::Halted,
            _ => reason,
        };
        let (census, settled) = (line.census.clone(), line.settled);
        let mut below = Amounts::ZERO;
        if line.delegated {
            // The kernel that delegated the run settles with its close, so nothing below it may come later.
            if self.ledger.has_below(run) {
                return Err(RunError::RunsBelow { run });
            }
            let all = self.ledger.settled(run).and_then(|all| all.checked_sub(&settled));
            let wrong = "a run has settled more than the ledger knows";
            below = all.ok_or_else(|| RunError::Stopped(self.contradiction(wrong)))?;
        }
        // An end never waits: what is signed and not on the disk are records of runs that go on.
        self.urgent = true;
        let closed = self.ledger.close(&ledger::Close { run, time });
        closed.map_err(|error: LedgerError| RunError::Stopped(self.contradiction(&error.to_string())))?;
        let body = Body::Close(Box::new(sift_spec::record::Close { below, census, reason, settled }));
        self.append(run, body, time)?;
        if let Some(line) = self.lines.remove(&run) {
            line.run.stop(Stop::Closed);
            self.shared.roll().leave(run);
        }
        self.batch.closed.push(run);
        Ok(settled)
    }
}
