//! Approvals: the right key, for exactly this action, in time, once, before the call ran.

use std::collections::{BTreeMap, BTreeSet};

use sift_spec::note::Note;
use sift_spec::record::{Answer, Approval, Body, Effect, Hold, Intent, Statement, Status, action_of};
use sift_spec::types::{KeyName, Seq};

use super::authority::Authority;
use super::entries::RunEntry;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Longest statement: what [`Approval::statement`] can hold.
const STATEMENT_BYTES_MAX: usize = 8192;

/// Approvals that answer what they are recorded for; every held call that ran has one.
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

/// Held calls that an approver released in time: nothing but a halt keeps them from being dispatched.
pub(super) type Released = BTreeSet<Seq>;

/// Checks every approval, and that no held call ran without one.
pub(super) fn verify(
    story: &Story<'_>,
    authority: &Authority,
    report: &mut Report,
) -> (Released, Option<VerifiedApprovals>) {
    let mark = report.mark();
    let mut answered: BTreeMap<Seq, Answered> = BTreeMap::new();
    for record in story.records {
        let Body::Approval(approval) = &record.record.body else { continue };
        match judge(story, record, approval, authority) {
            Ok(_) if answered.contains_key(&approval.intent) => {
                let detail = format!("call {} is answered already: an answer counts once", approval.intent);
                report.reject(Code::ApprovalInvalid, record.concern(), detail);
            }
            Ok(answer) => {
                answered.insert(approval.intent, answer);
            }
            Err((code, detail)) => report.reject(code, record.concern(), detail),
        }
    }
    let (mut held, mut ran) = (0, 0);
    for (seq, (record, intent)) in &story.intents {
        if intent.effect() != Effect::Hold {
            continue;
        }
        held += 1;
        // A call of which nobody knows whether it ran is one that may have.
        let Some((outcome, _)) = story.outcomes.get(seq).filter(|(_, o)| o.status != Status::Cancelled)
        else {
            continue;
        };
        ran += 1;
        let why = match answered.get(seq) {
            None => "it ran without a valid approval",
            Some(answer) if answer.answer == Answer::Refuse => "it ran although the approver refused",
            Some(answer) if answer.late => "it ran although the approval came after the deadline",
            Some(answer) if answer.seq > outcome.record.seq => "it ran before the approval",
            Some(_) => continue,
        };
        report.reject(Code::ApprovalMissing, record.concern(), why);
    }
    let answers = answered.len() as u64;
    if answers > 0 {
        report.leave(Gap::ShownUnchecked, Concern::run(story.run), Many(answers, "approver's answer"));
    }
    let verified = report.clean_since(mark) && held > 0;
    let released =
        answered.into_iter().filter(|(_, answer)| answer.answer == Answer::Approve && !answer.late);
    let released = released.map(|(seq, _)| seq).collect();
    (released, verified.then_some(VerifiedApprovals { held, ran, answers, _assertion: () }))
}

struct Answered {
    seq: Seq,
    answer: Answer,
    late: bool,
}

fn judge(
    story: &Story<'_>,
    record: &RunEntry,
    approval: &Approval,
    authority: &Authority,
) -> Result<Answered, (Code, String)> {
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
        ("role", statement.role == hold.role),
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
    let key = authority.ring.approver(&name, line.id, &hold.role, &record.record.agent, record.index);
    let key = key.map_err(|error| (Code::KeyNotGranted, error.to_string()))?;
    let signature = <&[u8; 64]>::try_from(line.signature.as_slice());
    if !signature.is_ok_and(|signature| key.verify(note.text.as_bytes(), signature)) {
        return Err((
            Code::SignatureInvalid,
            format!("the approver's signature, of {name}, does not verify"),
        ));
    }
    // 4. In time, by the kernel's clock. A late answer is no lie; it does not count.
    Ok(Answered { seq, answer: statement.answer, late: record.record.time > hold.deadline })
}

/// What a call waits for, if it does.
fn held(intent: &Intent) -> Option<&Hold> {
    intent.decision.hold.as_ref().filter(|_| intent.effect() == Effect::Hold)
}
