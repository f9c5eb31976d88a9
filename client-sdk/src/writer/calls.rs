//! Calls: proposed, answered by an approver, finished.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sift_rules::ledger::{Reserve, Settle};
use sift_rules::window::BUCKET_MS;
use sift_rules::{LedgerError, RunState};
use sift_spec::meter::Amounts;
use sift_spec::record::{
    Approval, Body, Call, Decision, Effect, HaltCause, HoldProgress, Intent, Outcome, Refusal, Status,
};
use sift_spec::types::{RunId, Seq, Text, UnixMillis, ValueError};
use tokio::sync::oneshot;

use super::line::Waits;
use super::{Finish, Finished, LiveCall, Propose, Recorded, Writer};
use crate::approval::{ANSWER_BYTES_MAX, ApprovalError, End, Request, Waiting};
use crate::call::{Prepared, Report};
use crate::error::{CallError, ProposeError, Stop, WaitError};
use crate::failpoint;
use crate::shared::{Decided, OpenCall};

/// Longest time in milliseconds by which a decision may be older than the last record of another run.
const DECISION_MS_MAX: u64 = 1000;

impl Writer {
    /// Records a proposal with its decision and holds its worst case.
    pub(super) fn propose(&mut self, propose: Propose) {
        let Propose { run, prepared, decided, sent, reply } = propose;
        let recorded = self.timed(sent, |writer| writer.try_propose(&run, prepared, decided));
        self.waiting += 1;
        self.reply(reply, recorded);
    }

    fn try_propose(
        &mut self,
        run: &Arc<crate::shared::RunShared>,
        prepared: Prepared,
        decided: Decided,
    ) -> Result<Recorded, ProposeError> {
        // 1. Kernel, clock and run are in order, and the log is not too far behind.
        let now = self.now();
        self.shared.check(run)?;
        if let Some(stop) = self.shared.behind(&self.lag(), 1, now) {
            return Err(self.halt_for(run.id, stop).into());
        }
        // 2. The decision was made on the run as it is now; else it is made again, so that rules over counters are exact.
        let fresh = decided.seq == run.view().next && self.is_timely(decided.time);
        let decided = if fresh { decided } else { self.decide_again(run, &prepared)? };
        match self.record_proposal(run, prepared, decided)? {
            Ok(recorded) => Ok(recorded),
            // 5. What is refused is refused at the time of the record, to the millisecond.
            Err(prepared) => {
                let decided = self.decide_again(run, &prepared)?;
                let recorded = self.record_proposal(run, prepared, decided)?;
                recorded.map_err(|_| self.contradiction("a proposal is later than itself").into())
            }
        }
    }

    /// Whether a decision of this time may be recorded now, though records of other runs are younger.
    ///
    /// A record's time is that of its decision, and only within its run it never decreases. The ledger counts at the
    /// latest time of all runs, which [`Writer::record_proposal`] gives it: within one minute that makes no difference to
    /// any sum, because its windows are made of whole minutes.
    fn is_timely(&self, time: UnixMillis) -> bool {
        let late_ms = self.time.get().saturating_sub(time.get());
        late_ms <= DECISION_MS_MAX && time.get() / BUCKET_MS == self.time.get() / BUCKET_MS
    }

    /// Records a proposal. Gives it back if the ledger refuses it at a later time than that of its decision.
    fn record_proposal(
        &mut self,
        run: &Arc<crate::shared::RunShared>,
        prepared: Prepared,
        decided: Decided,
    ) -> Result<Result<Recorded, Prepared>, ProposeError> {
        let Decided { seq, time, verdict, object, commitment } = decided;
        // 3. A record can state it.
        let Prepared { call, input, identity, object: payload } = prepared;
        let decision = verdict.into_decision(commitment, time);
        let need = match decision.effect {
            Effect::Deny => Ok(Amounts::ZERO),
            Effect::Allow | Effect::Hold => run.bundle().need_where(run.limits_money(), &input),
        };
        let (reserved, refusal) =
            need.map_or_else(|refusal| (Amounts::ZERO, Some(refusal)), |need| (need, None));
        let intent = Intent { call: call.clone(), decision: decision.clone(), refusal, reserved };
        let (effect, refusal) = (intent.effect(), intent.refusal.clone());
        let body = Body::Intent(Box::new(intent));
        let draft = self.fitting(run.id, &run.agent, body, time).map_err(CallError::from)?;
        // 4. The worst case is held in every scope, or the budget refuses.
        let mut refused = None;
        if effect != Effect::Deny {
            let at = time.max(self.time);
            let reserve = Reserve { amounts: reserved, identity, run: run.id, seq, time: at };
            match self.ledger.reserve(&reserve) {
                Ok(Ok(())) => {}
                Ok(Err(_)) if at > time => {
                    return Ok(Err(Prepared { call, input, identity, object: payload }));
                }
                Ok(Err(refusal)) => refused = Some(refusal),
                Err(LedgerError::Overflow) => {
                    let (what, why) = ("call", "a sum of the ledger would pass 2^53 - 1");
                    return Err(CallError::Value(ValueError { what, why }).into());
                }
                Err(error) => return Err(self.contradiction(&error.to_string()).into()),
            }
        }
        failpoint::pass("after-reserve");
        // 6. The intent.
        let (draft, effect, reserved) = match &refused {
            None => (draft, effect, reserved),
            Some(refusal) => {
                let (refusal, reserved) = (Some(refusal.clone()), Amounts::ZERO);
                let intent = Intent { call: call.clone(), decision: decision.clone(), refusal, reserved };
                let (effect, body) = (intent.effect(), Body::Intent(Box::new(intent)));
                let draft = self.draft(run.id, run.agent.clone(), body, time);
                let draft = draft
                    .map_err(|error| self.contradiction(&format!("a refusal has no encoding: {error}")))?;
                (draft, effect, reserved)
            }
        };
        let refusal = refused.or(refusal);
        let (intent_seq, position) = self.append_draft(draft, |state| state.on_intent(&input, effect))?;
        // 7. What is asked of approvers.
        let hold = decision.hold.clone().filter(|_| effect == Effect::Hold);
        let waiting = hold.map(|hold| {
            Waiting::new(Box::new(Request {
                agent: run.agent.clone(),
                call: call.clone(),
                approved: Vec::new(),
                hold,
                intent: intent_seq,
                log: self.shared.log.clone(),
                object: STANDARD.encode(payload.as_bytes()),
                reasons: decision.reasons.clone(),
                rules: decision.rules.clone(),
                run: run.id,
            }))
        });
        // An object starts with its salt.
        let salt = payload.as_bytes().first_chunk().copied().unwrap_or_default();
        self.keep(position, [object, payload]);
        let open = (effect != Effect::Deny).then(|| {
            let why = if waiting.is_some() {
                Report::cancelled("nobody waits for the approval any more")
            } else {
                Report::cancelled("the permit was dropped before the call started")
            };
            let waits = waiting.clone().map_or(Waits::No, Waits::For);
            let tool = match &call {
                Call::Tool(tool) => Some(tool.name.clone()),
                _ => None,
            };
            if let Some(line) = self.lines.get_mut(&run.id) {
                let live = LiveCall { call, input: Some(input), reserved, waits, opened: false };
                line.calls.insert(intent_seq, live);
            }
            OpenCall {
                shared: Arc::clone(&self.shared),
                run: Arc::clone(run),
                intent: intent_seq,
                position,
                tool,
                salt,
                if_dropped: Some(why),
                span: tracing::Span::none(),
            }
        });
        if matches!(refusal, Some(Refusal::WallClock(_))) {
            self.halt_run(run.id, HaltCause::WallClock, "the run has lasted as long as its limits allow");
        }
        let Decision { rules, reasons, .. } = decision;
        Ok(Ok(Recorded { seq: intent_seq, effect, rules, reasons, refusal, reserved, open, waiting }))
    }

    fn decide_again(&mut self, run: &crate::shared::RunShared, prepared: &Prepared) -> Result<Decided, Stop> {
        let start = Instant::now();
        // Nothing comes in between now: only this thread makes records.
        let mut decided = self.shared.decide(run, &prepared.input);
        if decided.as_ref().is_ok_and(|decided| decided.time < self.time) {
            // The clock stepped back a little, or another run's record is from the same moment.
            run.view().time = self.time;
            decided = self.shared.decide(run, &prepared.input);
        }
        self.deciding += start.elapsed();
        decided.map_err(|error| Stop::Halted {
            cause: HaltCause::Policy,
            detail: format!("the policy input cannot be kept: {error}"),
        })
    }

    /// Halts a run for a reason that was found elsewhere.
    fn halt_for(&mut self, run: RunId, stop: Stop) -> Stop {
        if let Stop::Halted { cause, detail } = &stop {
            self.halt_run(run, *cause, detail);
        }
        stop
    }

    /// Takes an approver's answer. The last one needed releases the call, in the transaction that records it; a refusal
    /// cancels it. Then it waits no more.
    pub(super) fn answer(
        &mut self,
        run: RunId,
        intent: Seq,
        note: &str,
        reply: oneshot::Sender<Result<HoldProgress, WaitError>>,
    ) {
        let answer = self.try_answer(run, intent, note);
        self.reply(reply, answer);
    }

    fn try_answer(&mut self, run: RunId, intent: Seq, note: &str) -> Result<HoldProgress, WaitError> {
        let now = self.now();
        // What may have changed since the call was held.
        let of_run = Arc::clone(&self.lines.get(&run).ok_or(ApprovalError::NotWaiting)?.run);
        self.shared.check(&of_run)?;
        let stop = self.shared.behind(&self.lag(), 1, now).or_else(|| self.shared.expired(&of_run, now));
        if let Some(stop) = stop {
            return Err(self.halt_for(run, stop).into());
        }
        let line = self.lines.get_mut(&run).ok_or(ApprovalError::NotWaiting)?;
        let call = line.calls.get_mut(&intent).ok_or(ApprovalError::NotWaiting)?;
        let Waits::For(waiting) = &mut call.waits else { return Err(ApprovalError::NotWaiting.into()) };
        let statement: Text<ANSWER_BYTES_MAX> = note.parse().map_err(|_| ApprovalError::About("length"))?;
        let progress = waiting.take(note, &self.shared.approvers, &self.shared.revocations, now)?;
        let told = waiting.told.clone();
        let counted = waiting.approvals.counted().iter().map(|counted| counted.key.clone());
        let approvers: Vec<_> = counted.collect();
        if !matches!(progress, HoldProgress::Waits(_)) {
            call.waits = Waits::No;
        }
        let body = Body::Approval(Approval { intent, statement: statement.clone() });
        let (_, position) = self.append(run, body, now)?;
        if progress == HoldProgress::Refused {
            let report = Report::cancelled("an approver refused");
            let _ = self.try_finish(Finish::new(run, intent, &report, None, None));
        }
        let end = match &progress {
            HoldProgress::Waits(_) => None,
            HoldProgress::Refused => Some(End::Refused),
            HoldProgress::Released => Some(End::Released { position, approvers }),
        };
        self.replies.push(Box::new(move || {
            told.send_modify(|told| {
                told.approved.extend((end != Some(End::Refused)).then_some(statement));
                told.end = end;
            });
        }));
        Ok(progress)
    }

    /// Records an outcome and settles the hold. That is answered when it is signed, unless it halts the run: then with the
    /// halt. Nor is a refusal answered before what it rests on, such as an approver's word.
    pub(super) fn finish(&mut self, mut finish: Finish) {
        let (reply, run) = (finish.reply.take(), finish.run);
        let finished = match &reply {
            Some(_) => self.timed(finish.sent, |writer| writer.try_finish(finish)),
            None => self.try_finish(finish),
        };
        match (reply, finished) {
            (Some(reply), finished) => {
                if finished.is_err() || self.lines.get(&run).is_some_and(|line| line.halted) {
                    self.waiting += 1;
                    self.reply(reply, finished);
                } else {
                    self.signed_replies.push(Box::new(move || drop(reply.send(finished))));
                }
            }
            // Refused by an approver a moment ago, or the run is closed: the outcome is recorded already.
            (None, Err(stop)) => tracing::debug!(%stop, "an outcome came late"),
            (None, Ok(_)) => {}
        }
    }

    pub(super) fn try_finish(&mut self, finish: Finish) -> Result<Finished, Stop> {
        let Finish { run, intent, status, error, model, result, read, sent: _, close, reply: _ } = finish;
        let line = self.lines.get_mut(&run).ok_or(Stop::Closed)?;
        let live = line.calls.remove(&intent).ok_or(Stop::Closed)?;
        let of_run = Arc::clone(&line.run);
        let time = self.now();
        let mut model = model.filter(|_| matches!(live.call, Call::Model(_)));
        // What another kernel's word shows that a sub-agent there has used.
        let mut closed = close.and_then(|entry| Some((self.closed(&live, entry.as_str())?, entry)));
        closed = closed.filter(|_| !matches!(status, Status::Cancelled | Status::Unknown));
        // What is not known to be less counts in full: an error or a timeout may have been billed.
        let mut settled = match (&live.call, &model, status) {
            (_, _, Status::Cancelled) => Amounts::ZERO,
            (Call::Agent(_), ..) => closed.as_ref().map_or(live.reserved, |(settled, _)| *settled),
            (Call::Model(asked), Some(answer), Status::Ok | Status::Error) => {
                of_run.bundle().billed(asked.provider.as_str(), asked.model.as_str(), &answer.usage)
            }
            _ => live.reserved,
        };
        let mut over = self.ledger.settle(&Settle { run, seq: intent, settled, time });
        let uncountable = (model.is_some() || closed.is_some()) && matches!(over, Err(LedgerError::Overflow));
        if uncountable {
            // No sum can hold what it says: the call counts as one that said nothing, and the run halts.
            (model, closed, settled) = (None, None, live.reserved);
            over = self.ledger.settle(&Settle { run, seq: intent, settled, time });
        }
        let over = over.map_err(|error| self.contradiction(&error.to_string()))?.over;
        failpoint::pass("after-settle");
        let (object, commitment) = result.unzip();
        let close = closed.map(|(_, entry)| entry);
        let outcome = Outcome { close, error, intent, model, result: commitment, settled, status };
        let learn = |state: &mut RunState| {
            let Some(input) = &live.input else { return };
            match read {
                Some(read) => state.on_result(input, status, read),
                None => state.on_outcome(input, status, b""),
            }
        };
        let (seq, position) = self.append_and(run, Body::Outcome(Box::new(outcome)), time, learn)?;
        self.keep(position, object);
        if let Some(line) = self.lines.get_mut(&run) {
            match line.settled.checked_add(&settled) {
                Some(sum) => line.settled = sum,
                None => return Err(self.contradiction("a sum of the run passes 2^53 - 1")),
            }
        }
        if uncountable {
            let detail = format!("call {intent} was billed more than can be counted");
            self.halt_run(run, HaltCause::Overspend, &detail);
        }
        if let Some(meter) = over {
            let (billed, held) = (settled.get(meter), live.reserved.get(meter));
            let detail = format!("call {intent} was billed {billed} {meter} where {held} were held");
            self.halt_run(run, HaltCause::Overspend, &detail);
        }
        Ok(Finished { seq, settled, over })
    }

    /// Ledger and records contradict each other: the kernel must not go on.
    pub(super) fn contradiction(&mut self, why: &str) -> Stop {
        self.die(why);
        self.shared.stopped().unwrap_or(Stop::Gone)
    }
}
