//! How things end: each call with one outcome, a halted run with no further call, a closed run with a true census.

use std::collections::BTreeMap;

use sift_spec::meter::Amounts;
use sift_spec::record::{Body, Call, Close, CloseReason, Effect, Kind, Outcome, Status};

use super::approval::Released;
use super::budget::list;
use super::entries::RunEntry;
use super::record::Story;
use crate::finding::{Code, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Calls with exactly one outcome each, no call after a halt, and a close that adds up.
#[derive(Debug)]
pub(super) struct VerifiedEnding {
    outcomes: u64,
    closed: bool,
    _assertion: (),
}

impl Proven for VerifiedEnding {
    fn claim(&self) -> Claim {
        let outcomes = Many(self.outcomes, "outcome");
        let end = if self.closed { "; the close states the run's census and sums" } else { "" };
        let detail = format!("{outcomes}, one for each call that was let through{end}");
        Claim { what: "outcomes", count: self.outcomes, detail }
    }
}

/// Checks outcomes, halts and the close.
pub(super) fn verify(story: &Story<'_>, released: &Released, report: &mut Report) -> Option<VerifiedEnding> {
    let mark = report.mark();
    let mut census: BTreeMap<Kind, u64> = BTreeMap::new();
    // `None` once it passes all that a sum can hold.
    let mut settled = Some(Amounts::ZERO);
    for record in story.records {
        match &record.record.body {
            Body::Outcome(outcome) => {
                verify_outcome(story, record, outcome, report);
                settled = settled.and_then(|sum| sum.checked_add(&outcome.settled));
            }
            Body::Close(close) => verify_close(story, record, close, &census, settled, report),
            Body::Intent(_) | Body::Approval(_) | Body::Beat(_) | Body::Halt(_) | Body::Open(_) => {}
        }
        *census.entry(record.record.body.kind()).or_default() += 1;
    }
    for (seq, (record, intent)) in &story.intents {
        if intent.effect() == Effect::Deny {
            continue;
        }
        if !story.outcomes.contains_key(seq) {
            // Of a run whose end is missing, that is the finding; what else is missing is part of it.
            if story.closed {
                report.reject(Code::OutcomeMissing, record.concern(), "let through, and no outcome follows");
            } else {
                report.leave(Gap::OutcomePending, record.concern(), "let through, and no outcome yet");
            }
        }
        if story.halt.is_some_and(|(halt, _)| halt < *seq) {
            let detail = format!("{} after the run was halted", intent.effect());
            report.reject(Code::HaltIgnored, record.concern(), detail);
        }
    }
    verify_released_after_halt(story, report);
    leave_cancelled(story, released, report);
    let outcomes = story.outcomes.len() as u64;
    report.clean_since(mark).then_some(VerifiedEnding { outcomes, closed: story.closed, _assertion: () })
}

fn verify_outcome(story: &Story<'_>, record: &RunEntry, outcome: &Outcome, report: &mut Report) {
    let seq = record.record.seq;
    let why = match story.intent_before(outcome.intent, seq) {
        None => "no earlier call of the run has this seq",
        Some((_, intent)) if intent.effect() == Effect::Deny => "the call was denied",
        Some(_) if story.outcomes.get(&outcome.intent).is_some_and(|(first, _)| first.record.seq < seq) => {
            "the call has an outcome already"
        }
        Some((_, intent)) if outcome.model.is_some() && !matches!(intent.call, Call::Model(_)) => {
            "it says what a model answered, and the call asks none"
        }
        Some(_) => return,
    };
    report.reject(Code::OutcomeUnexpected, record.concern(), format!("of call {}: {why}", outcome.intent));
}

/// A held call may be approved after a halt, but it is dispatched no more.
fn verify_released_after_halt(story: &Story<'_>, report: &mut Report) {
    let Some((halt, _)) = story.halt else { return };
    for record in story.records.iter().filter(|record| record.record.seq > halt) {
        let Body::Approval(approval) = &record.record.body else { continue };
        // A call of which nobody knows whether it ran is one that may have.
        let ran = |outcome: &Outcome| outcome.status != Status::Cancelled;
        if story.outcomes.get(&approval.intent).is_some_and(|(_, outcome)| ran(outcome)) {
            let detail = format!("call {} was approved and ran after the run was halted", approval.intent);
            report.reject(Code::HaltIgnored, record.concern(), detail);
        }
    }
}

/// A call may be given up before it is dispatched. Where neither a halt nor a missing approval says so, that is said.
fn leave_cancelled(story: &Story<'_>, released: &Released, report: &mut Report) {
    for (seq, (record, outcome)) in &story.outcomes {
        let Some((_, intent)) = story.intents.get(seq) else { continue };
        let stopped = story.halt.is_some_and(|(halt, _)| halt < record.record.seq);
        let waited = intent.effect() == Effect::Hold && !released.contains(seq);
        if outcome.status == Status::Cancelled && !stopped && !waited {
            let detail = format!("the kernel says that call {seq} was not dispatched");
            report.leave(Gap::CancelledUnproven, record.concern(), detail);
        }
    }
}

fn verify_close(
    story: &Story<'_>,
    record: &RunEntry,
    close: &Close,
    census: &BTreeMap<Kind, u64>,
    settled: Option<Amounts>,
    report: &mut Report,
) {
    if close.census != *census {
        let counted: Vec<String> = census.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
        let detail = format!("\"census\" is wrong: the records before it are {}", counted.join(", "));
        report.reject(Code::CloseDiffers, record.concern(), detail);
    }
    if settled != Some(close.settled) {
        let sum = settled.as_ref().map_or_else(|| "more than a sum can hold".to_owned(), list);
        let detail = format!("\"settled\" is {}, the outcomes add up to {sum}", list(&close.settled));
        report.reject(Code::CloseDiffers, record.concern(), detail);
    }
    let contradicts = match close.reason {
        CloseReason::Halted => story.halt.is_none(),
        CloseReason::Done | CloseReason::Failed => story.halt.is_some(),
        CloseReason::Abandoned => false,
    };
    if contradicts {
        let halts = if story.halt.is_some() { "was halted" } else { "was never halted" };
        report.reject(Code::CloseDiffers, record.concern(), format!("\"reason\" is wrong: the run {halts}"));
    }
}
