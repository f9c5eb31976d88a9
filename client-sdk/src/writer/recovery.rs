//! The start: what an earlier process left is folded from the records, and its runs are closed or wait to be resumed.
//!
//! Every record that was answered is in the store, but for outcomes of the last moment (see [`super`]). A call that was let through and has no
//! outcome may have acted: its outcome is `unknown` and its hold is settled in full. A call that still waited for an
//! approval cannot have acted: it is cancelled. Then the runs are closed as abandoned; or, where [`crate::Config`] grants
//! a grace time, those that can go on wait for somebody who resumes them, and are closed when nobody has come.
//!
//! A run goes on only as the same run: its counters, facts and counts of identical calls are folded from the records and
//! the payload objects, as an auditor folds them. What needs an object that was erased cannot be folded.

use std::collections::BTreeMap;
use std::sync::Arc;

use sift_rules::ledger::{self, Ledger};
use sift_rules::{CallInput, LedgerError, RunState};
use sift_spec::entry::Entry;
use sift_spec::meter::Amounts;
use sift_spec::note::Note;
use sift_spec::payload::{Commitment, SALT_BYTES};
use sift_spec::record::{Answer, Body, Call, CloseReason, Effect, HaltCause, Record, Statement, Status};
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};

use super::line::Waits;
use super::{Finish, Line, LiveCall, Pending, Writer};
use crate::approval::ANSWER_BYTES_MAX;
use crate::bundles::{self, Rules};
use crate::call::Report;
use crate::clock::STEP_BACK_MS_MAX;
use crate::error::{OpenError, Stop};
use crate::shared::RunShared;
use crate::store::StoredRecord;

impl Writer {
    /// Rebuilds what an earlier process knew, then closes the runs that it left open.
    pub(crate) fn recover(&mut self) -> Result<(), OpenError> {
        self.position = self.store.next_position()?;
        let live = self.store.live_runs()?;
        let resumes = self.shared.resume_ms > 0;
        let mut missing = self.fold_ledger(if resumes { &live } else { &[] })?;
        let mut runs = Vec::new();
        for run in live {
            let records = self.store.run(run)?;
            runs.push((opened(run, records.first())?, run, records));
        }
        // Runs above others come first, so that those below find them.
        runs.sort_by_key(|(depth, run, _)| (*depth, *run));
        for (_, run, records) in runs {
            if let Some(why) = self.fold_run(run, records, resumes)? {
                missing.entry(run).or_insert(why);
            }
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
        self.take_over(&missing, time)
    }

    /// Applies the records since the last snapshot to the ledger, in the order in which they were made. For runs that may
    /// go on it counts identical calls too; returns those for which it cannot.
    fn fold_ledger(&mut self, resumable: &[RunId]) -> Result<BTreeMap<RunId, String>, OpenError> {
        let from = self.snapshot;
        let (mut failure, mut missing) = (None, BTreeMap::new());
        self.time = self.time.max(self.ledger.time());
        let (ledger, time, store) = (&mut self.ledger, &mut self.time, &self.store);
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
                let mut identity = None;
                if let (Body::Intent(intent), true) = (&record.body, resumable.contains(&record.run))
                    && let Call::Tool(tool) = &intent.call
                {
                    match content(&store.objects(position)?, &tool.args) {
                        Some(args) => identity = Some(sift_rules::identity(tool.name.as_str(), args)),
                        None => drop(missing.insert(record.run, erased(record.seq))),
                    }
                }
                // The ledger counts at the latest time of all runs, as it did when the record was made.
                apply(ledger, &record, identity, *time)
                    .map_err(|why| OpenError::Contradiction { position, why })
            });
            failure = folded.err();
        })?;
        failure.map_or(Ok(missing), Err)
    }

    /// Rebuilds the end of a run from its records, and what policies see of it where it may go on. Returns why it cannot.
    fn fold_run(
        &mut self,
        run: RunId,
        records: Vec<StoredRecord>,
        resumes: bool,
    ) -> Result<Option<String>, OpenError> {
        let mut line: Option<Line> = None;
        let (mut cannot, mut inputs) = (None, BTreeMap::new());
        for stored in records {
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
                let here = open.parent.filter(|_| open.delegation.is_none());
                let above = here.and_then(|parent| self.lines.get(&parent.run));
                let above = above.map(|line| Arc::clone(&line.run));
                if here.is_some() && above.is_none() {
                    cannot = Some("the run above it is closed".to_owned());
                }
                let shared = RunShared::new(run, agent, above, state, record.time, place, rules);
                // Nothing is decided by a bundle that was not in force at its `open`.
                if let Some(stop) = stop {
                    cannot = Some(stop.to_string());
                    shared.stop(stop);
                }
                line = Some(Line::new(Arc::new(shared), open.delegation.is_some()));
            }
            let line = line.as_mut().ok_or_else(|| wrong("a run does not start with its open record"))?;
            let leaf = entry.leaf();
            let followed = line.extend(&record, entry.signer(), leaf, &self.shared.log);
            followed.map_err(|error| wrong(&error.to_string()))?;
            line.last = Some(position);
            *line.census.entry(record.body.kind()).or_default() += 1;
            fold_body(line, &record).ok_or_else(|| wrong("an outcome without a call"))?;
            if resumes && cannot.is_none() {
                cannot = fold_state(line, &record, &self.store.objects(position)?, &mut inputs);
            }
        }
        let line = line.ok_or(OpenError::Contradiction {
            position: 0,
            why: format!("run {run} is open and has no records"),
        })?;
        if line.halted {
            cannot = Some("it was halted".to_owned());
        }
        {
            let mut view = line.run.view();
            (view.next, view.time) = (line.next, line.time);
        }
        self.lines.insert(run, line);
        Ok(cannot)
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

    /// Ends what was under way in every run that an earlier process left open; then closes it, or lets it wait.
    fn take_over(&mut self, missing: &BTreeMap<RunId, String>, now: UnixMillis) -> Result<(), OpenError> {
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
            let line = self.lines.get(&run).map(|line| Arc::clone(&line.run));
            let waits = line.filter(|_| self.shared.resume_ms > 0 && !missing.contains_key(&run));
            if let Some(shared) = waits {
                self.shared.roll().enter(&shared).map_err(|stop| failed(&stop))?;
                let until = now.get().saturating_add(self.shared.resume_ms);
                let until = UnixMillis::new(until).unwrap_or(now);
                self.shared.waiting().insert(run, Ok(until));
                tracing::info!(%run, "a run that an earlier process left open waits to be resumed");
                continue;
            }
            if let Some(why) = missing.get(&run).filter(|_| self.shared.resume_ms > 0) {
                tracing::warn!(%run, why, "a run that an earlier process left open cannot be resumed");
                self.shared.waiting().insert(run, Err(why.clone()));
            }
            self.try_close(run, CloseReason::Abandoned).map_err(|error| failed(&error))?;
            tracing::info!(%run, "a run that an earlier process left open is closed as abandoned");
        }
        self.commit(false);
        self.shared.stopped().map_or(Ok(()), |stop| Err(failed(&stop)))
    }
}

/// Depth of a run, by its first record.
fn opened(run: RunId, first: Option<&StoredRecord>) -> Result<u32, OpenError> {
    let (position, entry) = first.map_or((0, Vec::new()), |stored| (stored.position, stored.entry.clone()));
    match parse(position, entry)?.1.body {
        Body::Open(open) => Ok(open.parent.map_or(0, |parent| parent.depth)),
        _ => Err(OpenError::Contradiction { position, why: format!("run {run} does not start with open") }),
    }
}

fn erased(seq: Seq) -> String {
    format!("the payload of record {seq} was erased, and what policies see depends on it")
}

/// What a commitment names among the objects of its record.
fn content<'a>(objects: &'a BTreeMap<Hash, Vec<u8>>, commitment: &Commitment) -> Option<&'a [u8]> {
    objects.get(&commitment.digest)?.get(SALT_BYTES..)
}

/// Takes in what a record changes about what policies see. Returns why it cannot.
fn fold_state(
    line: &Line,
    record: &Record,
    objects: &BTreeMap<Hash, Vec<u8>>,
    inputs: &mut BTreeMap<Seq, CallInput>,
) -> Option<String> {
    match &record.body {
        Body::Intent(intent) => {
            let args = match &intent.call {
                Call::Tool(tool) => content(objects, &tool.args),
                Call::Agent(_) | Call::Model(_) => Some(&b""[..]),
            };
            let Some(args) = args else { return Some(erased(record.seq)) };
            let input = CallInput::of(&intent.call, args);
            line.run.view().state.on_intent(&input, intent.effect());
            inputs.insert(record.seq, input);
        }
        Body::Outcome(outcome) => {
            let result = outcome.result.as_ref().map(|result| content(objects, result));
            let Some(result) = result.unwrap_or(Some(&b""[..])) else { return Some(erased(record.seq)) };
            if let Some(input) = inputs.remove(&outcome.intent) {
                line.run.view().state.on_outcome(&input, outcome.status, result);
            }
        }
        _ => {}
    }
    None
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
fn apply(
    ledger: &mut Ledger,
    record: &Record,
    identity: Option<Hash>,
    time: UnixMillis,
) -> Result<(), String> {
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
            let reserve = ledger::Reserve { amounts: intent.reserved, identity, run, seq, time };
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
