//! The start: what an earlier process left is folded from the records, and its runs are closed.
//!
//! Every signed record that was answered is in the store, so nothing is lost. A call that was let through and has no
//! outcome may have acted: its outcome is `unknown` and its hold is settled in full. A call that still waited for an
//! approval cannot have acted: it is cancelled. The runs are closed as abandoned.

use std::sync::Arc;

use sift_rules::ledger::{self, Ledger};
use sift_rules::{LedgerError, RunState};
use sift_spec::entry::Entry;
use sift_spec::meter::Amounts;
use sift_spec::note::Note;
use sift_spec::record::{Answer, Body, CloseReason, Effect, HaltCause, Record, Statement, Status};
use sift_spec::types::{Hash, RunId, UnixMillis};

use super::line::Waits;
use super::{Finish, Line, LiveCall, Pending, Writer};
use crate::approval::ANSWER_BYTES_MAX;
use crate::bundles::{self, Rules};
use crate::call::Report;
use crate::clock::STEP_BACK_MS_MAX;
use crate::error::{OpenError, Stop};
use crate::shared::RunShared;

impl Writer {
    /// Rebuilds what an earlier process knew, then closes the runs that it left open.
    pub(crate) fn recover(&mut self) -> Result<(), OpenError> {
        self.position = self.store.next_position()?;
        self.fold_ledger()?;
        for run in self.store.live_runs()? {
            self.fold_run(run)?;
        }
        let time = self.shared.clock.now();
        for unlogged in self.store.unlogged(0, usize::MAX, usize::MAX, |_| true)? {
            // An earlier process may have stopped long ago: the log gets its time from now on.
            let objects = self.store.objects(unlogged.position)?;
            let bytes = unlogged.entry.len() + objects.values().map(Vec::len).sum::<usize>();
            self.pending.insert(unlogged.position, Pending { run: unlogged.run, time, bytes });
            self.pending_bytes += bytes as u64;
        }
        let behind_ms = self.time.get().saturating_sub(time.get());
        if behind_ms > STEP_BACK_MS_MAX {
            return Err(OpenError::Clock { behind_ms });
        }
        self.abandon()
    }

    /// Applies the records since the last snapshot to the ledger, in the order in which they were made.
    fn fold_ledger(&mut self) -> Result<(), OpenError> {
        let from = self.snapshot;
        let mut failure = None;
        self.time = self.time.max(self.ledger.time());
        let (ledger, time) = (&mut self.ledger, &mut self.time);
        // The last record says what time it was, also when the snapshot is as new as it.
        let look_from = from.min(self.position.saturating_sub(1));
        self.store.records_from(look_from, |position, entry| {
            if failure.is_some() {
                return;
            }
            let folded = parse(position, entry).and_then(|(_, record)| {
                *time = (*time).max(record.time);
                if position < from {
                    return Ok(());
                }
                // The ledger counts at the latest time of all runs, as it did when the record was made.
                apply(ledger, &record, *time).map_err(|why| OpenError::Contradiction { position, why })
            });
            failure = folded.err();
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Rebuilds the end of a run from its records.
    fn fold_run(&mut self, run: RunId) -> Result<(), OpenError> {
        let mut line: Option<Line> = None;
        for stored in self.store.run(run)? {
            let position = stored.position;
            let (entry, record) = parse(position, stored.entry)?;
            let wrong = |why: &str| OpenError::Contradiction { position, why: why.to_owned() };
            if let (None, Body::Open(open)) = (&line, &record.body) {
                let depth = open.parent.map_or(0, |parent| parent.depth);
                let agent = record.agent.clone();
                let labels = open.labels.clone();
                let (rules, stop) = self.rules_of(&open.policy);
                let state =
                    RunState::new(agent.clone(), run, depth, record.time, labels, rules.bundle().facts());
                let place = (depth, open.limits.clone());
                let shared = RunShared::new(run, agent, None, state, record.time, place, rules);
                // Nothing is decided by a bundle that was not in force at its `open`.
                stop.into_iter().for_each(|stop| drop(shared.stop(stop)));
                line = Some(Line::new(Arc::new(shared), open.delegation.is_some()));
            }
            let line = line.as_mut().ok_or_else(|| wrong("a run does not start with its open record"))?;
            let leaf = entry.leaf();
            let followed = line.extend(&record, entry.signer(), leaf, &self.shared.log);
            followed.map_err(|error| wrong(&error.to_string()))?;
            line.last = Some(position);
            *line.census.entry(record.body.kind()).or_default() += 1;
            fold_body(line, &record).ok_or_else(|| wrong("an outcome without a call"))?;
        }
        let line = line.ok_or(OpenError::Contradiction {
            position: 0,
            why: format!("run {run} is open and has no records"),
        })?;
        self.lines.insert(run, line);
        Ok(())
    }

    /// The rules that decide for a run that an earlier process opened. Where its bundle does not load, those in force
    /// stand in for the limits and the run is to be stopped: it can still be closed.
    fn rules_of(&self, policy: &Hash) -> (Arc<Rules>, Option<Stop>) {
        let in_force = self.shared.bundles.in_force();
        if in_force.bundle().digest() == *policy {
            return (in_force, None);
        }
        match bundles::stored(&self.store, policy) {
            Ok(rules) => (rules, None),
            Err(error) => {
                let detail = format!("the bundle that decides for the run does not load: {error}");
                tracing::error!(detail, "a run cannot go on");
                (in_force, Some(Stop::Halted { cause: HaltCause::Policy, detail }))
            }
        }
    }

    /// Closes every run that an earlier process left open.
    fn abandon(&mut self) -> Result<(), OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Recovery(error.to_string());
        // Runs below others are closed first: what they settle may count in the close of those above.
        let mut runs: Vec<(u32, RunId)> =
            self.lines.values().map(|line| (line.run.depth, line.run.id)).collect();
        runs.sort_unstable_by(|a, b| b.cmp(a));
        for (_, run) in runs {
            let calls: Vec<_> = self.lines.get(&run).into_iter().flat_map(|line| &line.calls).collect();
            let reports: Vec<_> = calls
                .into_iter()
                .map(|(seq, call)| match call.waits {
                    Waits::For(_) | Waits::Since(_) => {
                        (*seq, Report::cancelled("the kernel stopped before an approval"))
                    }
                    Waits::No => {
                        (*seq, Report::unknown("the kernel stopped before the outcome was recorded"))
                    }
                })
                .collect();
            for (seq, report) in reports {
                self.finish(Finish::new(run, seq, &report, None, None));
            }
            self.try_close(run, CloseReason::Abandoned).map_err(|error| failed(&error))?;
            tracing::info!(%run, "a run that an earlier process left open is closed as abandoned");
        }
        self.commit(false);
        self.shared.stopped().map_or(Ok(()), |stop| Err(failed(&stop)))
    }
}

/// A record of this store. Its signature was made here, so it is not checked again.
fn parse(position: u64, entry: Vec<u8>) -> Result<(Entry, Record), OpenError> {
    let wrong = |why: String| OpenError::Contradiction { position, why };
    let entry = Entry::parse(entry).map_err(|error| wrong(error.to_string()))?;
    let record = entry.record().cloned();
    record.map(|record| (entry, record)).ok_or_else(|| wrong("not a record of a run".to_owned()))
}

/// Takes in what a record changes about its run.
fn fold_body(line: &mut Line, record: &Record) -> Option<()> {
    match &record.body {
        Body::Intent(intent) if intent.effect() != Effect::Deny => {
            let hold = intent.decision.hold.as_ref().filter(|_| intent.effect() == Effect::Hold);
            let waits = hold.map_or(Waits::No, |hold| Waits::Since(hold.approvals.clone()));
            let (call, reserved) = (intent.call.clone(), intent.reserved);
            line.calls.insert(record.seq, LiveCall { call, input: None, reserved, waits, opened: false });
        }
        Body::Approval(approval) => {
            let call = line.calls.get_mut(&approval.intent)?;
            let Waits::Since(missing) = &mut call.waits else { return None };
            // Only what counts was recorded. If it was refused, the outcome is in the same transaction and follows.
            let statement = approval.statement.as_str();
            let note = Note::parse(statement.as_bytes(), ANSWER_BYTES_MAX).ok()?;
            let Statement { answer, role, .. } = Statement::parse(note.text).ok()?;
            for needed in missing.iter_mut().filter(|needed| needed.role == role) {
                needed.count = needed.count.saturating_sub(1);
            }
            missing.retain(|needed| needed.count > 0);
            if answer == Answer::Refuse || missing.is_empty() {
                call.waits = Waits::No;
            }
        }
        Body::Outcome(outcome) => {
            line.calls.remove(&outcome.intent)?;
            line.settled = line.settled.checked_add(&outcome.settled)?;
        }
        Body::Halt(_) => line.halted = true,
        Body::Intent(_) | Body::Open(_) | Body::Beat(_) | Body::Close(_) => {}
    }
    Some(())
}

/// What a record did to the ledger when it was made.
fn apply(ledger: &mut Ledger, record: &Record, time: UnixMillis) -> Result<(), String> {
    let (run, seq) = (record.run, record.seq);
    let text = |error: LedgerError| error.to_string();
    match &record.body {
        Body::Open(open) => {
            let (agent, limits) = (record.agent.clone(), open.limits.clone());
            // What a delegated run may spend is held where it was delegated.
            let depth = open.parent.map_or(0, |parent| parent.depth);
            let parent = open.parent.filter(|_| open.delegation.is_none()).map(|parent| parent.run);
            ledger.open(&ledger::Open { agent, depth, limits, parent, run, time }).map_err(text)
        }
        Body::Intent(intent) if intent.effect() != Effect::Deny => {
            // Counts of identical calls are of no use to runs that are about to be closed.
            let reserve = ledger::Reserve { amounts: intent.reserved, identity: None, run, seq, time };
            let reserved = ledger.reserve(&reserve).map_err(text)?;
            reserved.map_err(|refusal| format!("the ledger refuses what it held before: {refusal:?}"))
        }
        Body::Outcome(outcome) => {
            let settled = if outcome.status == Status::Cancelled { Amounts::ZERO } else { outcome.settled };
            let settle = ledger::Settle { run, seq: outcome.intent, settled, time };
            ledger.settle(&settle).map(drop).map_err(text)
        }
        Body::Close(_) => ledger.close(&ledger::Close { run, time }).map_err(text),
        Body::Intent(_) | Body::Approval(_) | Body::Halt(_) | Body::Beat(_) => Ok(()),
    }
}
