//! Approvals: the right keys, all that are needed, for exactly this action, in time, once, before the call ran.

use std::collections::{BTreeMap, BTreeSet};

use sift_spec::note::Note;
use sift_spec::record::{
    Approval, Approvals, Body, CountError, Counted, Effect, Hold, HoldProgress, Intent, Needed, Statement,
    Status, action_of,
};
use sift_spec::types::{KeyName, Seq};

use super::authority::Authority;
use super::entries::RunEntry;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Longest statement: what [`Approval::statement`] can hold.
const STATEMENT_BYTES_MAX: usize = 8192;

/// Approvals that answer what they are recorded for; every held call that ran has all that it needs.
#[derive(Debug)]
pub(super) struct VerifiedApprovals {
    held: u64,
    ran: u64,
    answers: u64,
    _assertion: (),
}

impl Proven for VerifiedApprovals {
    fn claim(&self) -> Claim {
        let (held, answers) = (Many(self.held, "held call"), Many(self.answers, "approver's answer"));
        let detail = format!("{held}, {answers}; each of the {} that ran was approved before", self.ran);
        Claim { what: "approvals", count: self.answers, detail }
    }
}

/// Held calls that their approvers released in time: nothing but a halt keeps them from being dispatched.
pub(super) type Released = BTreeSet<Seq>;

/// Checks every approval, and that no held call ran without one.
pub(super) fn verify(
    story: &Story<'_>,
    authority: &Authority,
    report: &mut Report,
) -> (Released, Option<VerifiedApprovals>) {
    let mark = report.mark();
    let mut calls: BTreeMap<Seq, Answers> = BTreeMap::new();
    for record in story.records {
        let Body::Approval(approval) = &record.record.body else { continue };
        match judge(story, record, approval, authority) {
            Ok((hold, counted, late)) => {
                if let Err(error) = calls.entry(approval.intent).or_default().count(hold, counted, late) {
                    let detail = format!("of call {}: {error}", approval.intent);
                    report.reject(Code::ApprovalInvalid, record.concern(), detail);
                }
            }
            Err((code, detail)) => report.reject(code, record.concern(), detail),
        }
    }
    let (mut held_calls, mut ran) = (0, 0);
    for (seq, (record, intent)) in &story.intents {
        let Some(hold) = held(intent) else { continue };
        held_calls += 1;
        // A call of which nobody knows whether it ran is one that may have. What was approved after the outcome is
        // found above.
        if story.outcomes.get(seq).is_none_or(|(_, outcome)| outcome.status == Status::Cancelled) {
            continue;
        }
        ran += 1;
        if let Some(why) = calls.entry(*seq).or_default().missing(hold) {
            report.reject(Code::ApprovalMissing, record.concern(), why);
        }
    }
    let answers = calls.values().map(|answers| answers.all.counted().len() as u64).sum();
    if answers > 0 {
        report.leave(Gap::ShownUnchecked, Concern::run(story.run), Many(answers, "approver's answer"));
    }
    let verified = report.clean_since(mark) && held_calls > 0;
    let is_released = |seq: &Seq| {
        let hold = story.intents.get(seq).and_then(|(_, intent)| held(intent));
        let in_time = calls.get(seq).map(|answers| &answers.in_time);
        hold.zip(in_time).is_some_and(|(hold, in_time)| in_time.progress(hold) == HoldProgress::Released)
    };
    let released = calls.keys().copied().filter(is_released).collect();
    let verified = verified.then_some(VerifiedApprovals { held: held_calls, ran, answers, _assertion: () });
    (released, verified)
}

/// The genuine answers to one call.
#[derive(Default)]
struct Answers {
    all: Approvals,
    /// Those that were recorded in time. A late answer is no lie; it does not count.
    in_time: Approvals,
}

impl Answers {
    fn count(&mut self, hold: &Hold, counted: Counted, late: bool) -> Result<(), CountError> {
        self.all.count(hold, counted.clone())?;
        // What counts among all counts among fewer, too: the same keys, and no more of a role.
        if late { Ok(()) } else { self.in_time.count(hold, counted).map(drop) }
    }

    /// Why the call may not have run, if so.
    fn missing(&self, hold: &Hold) -> Option<String> {
        let list = |needed: &[Needed]| needed.iter().map(Needed::to_string).collect::<Vec<_>>().join(", ");
        match (self.in_time.progress(hold), self.all.progress(hold)) {
            (HoldProgress::Released, _) => None,
            (HoldProgress::Refused, _) | (_, HoldProgress::Refused) => {
                Some("it ran although an approver refused".to_owned())
            }
            (_, HoldProgress::Released) => {
                Some("it ran although an approval came after the deadline".to_owned())
            }
            (HoldProgress::Waits(missing), _) if missing == hold.approvals => {
                Some("it ran without a valid approval".to_owned())
            }
            (HoldProgress::Waits(missing), _) => {
                Some(format!("it ran with too few approvals: missing are {}", list(&missing)))
            }
        }
    }
}

/// A genuine answer, what its call waits for, and whether it came late.
fn judge<'s>(
    story: &'s Story<'_>,
    record: &RunEntry,
    approval: &Approval,
    authority: &Authority,
) -> Result<(&'s Hold, Counted, bool), (Code, String)> {
    let invalid = |why: String| (Code::ApprovalInvalid, why);
    // 1. It answers an earlier call of this run that was held and has no outcome yet.
    let seq = record.record.seq;
    let held =
        story.intent_before(approval.intent, seq).and_then(|(_, intent)| Some((intent, held(intent)?)));
    let (intent, hold) = held.ok_or_else(|| invalid(format!("call {} is not held", approval.intent)))?;
    if story.outcomes.get(&approval.intent).is_some_and(|(outcome, _)| outcome.record.seq < seq) {
        return Err(invalid(format!("call {} has its outcome already", approval.intent)));
    }
    // 2. The statement is a note with one signature, about exactly this call.
    let note = Note::parse(approval.statement.as_str().as_bytes(), STATEMENT_BYTES_MAX);
    let note = note.map_err(|error| invalid(format!("the statement is not a note: {error}")))?;
    let statement = Statement::parse(note.text).map_err(|error| invalid(format!("no statement: {error}")))?;
    let action = action_of(&record.record.agent, &intent.call, story.run, approval.intent);
    let same = [
        ("log", statement.log == story.log),
        ("run", statement.run == story.run),
        ("call", statement.intent == approval.intent),
        ("action", Some(statement.action) == action),
        ("role", hold.count(&statement.role) > 0),
        ("deadline", statement.deadline == hold.deadline),
    ];
    if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
        return Err(invalid(format!("the statement is about another {what}")));
    }
    // 3. The key counts for this role and agent where the approval is recorded, and it signed.
    let [line] = note.signatures.as_slice() else {
        return Err(invalid("the statement has more than one signature".to_owned()));
    };
    let name: KeyName =
        line.name.parse().map_err(|_| invalid("the signer's name is no key name".to_owned()))?;
    let key = authority.ring.approver(&name, line.id, &statement.role, &record.record.agent, record.index);
    let key = key.map_err(|error| (Code::KeyNotGranted, error.to_string()))?;
    let signature = <&[u8; 64]>::try_from(line.signature.as_slice());
    if !signature.is_ok_and(|signature| key.verify(note.text.as_bytes(), signature)) {
        return Err((
            Code::SignatureInvalid,
            format!("the approver's signature, of {name}, does not verify"),
        ));
    }
    // 4. In time, by the kernel's clock.
    let counted = Counted { answer: statement.answer, key: key.clone(), role: statement.role };
    Ok((hold, counted, record.record.time > hold.deadline))
}

/// What a call waits for, if it does.
fn held(intent: &Intent) -> Option<&Hold> {
    intent.decision.hold.as_ref().filter(|_| intent.effect() == Effect::Hold)
}
