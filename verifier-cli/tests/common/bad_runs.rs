//! Ways to falsify an honest run, each as small as it can be, with the one finding that it must give.

use std::sync::Arc;

use sift_rules::{CallInput, PolicyBundle, PolicyInput};
use sift_spec::evidence::Pack;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::note::Note;
use sift_spec::payload::{Commitment, Object};
use sift_spec::record::{
    Body, Call, Halt, HaltCause, Intent, KeyRole, OperatorBody, Outcome, Refusal, Statement, Status,
};
use sift_spec::types::{Hash, Text};
use sift_verify::Code;

use super::kernel::{approval, beat, honest};
use super::{Draft, Scenario, checkpoint, grant, millis, seq, spoil_signature};
use crate::common;

/// What is changed, and where on the way from what a kernel means to the bytes of a pack.
pub enum Change {
    /// Before records are chained and signed.
    Draft(fn(&mut Scenario)),
    /// In a pack whose log is honest.
    Pack(fn(&mut Pack)),
    /// In the bytes.
    Bytes(fn(&mut Vec<u8>)),
}

impl Change {
    /// The bytes of the honest pack with this change.
    pub fn made(&self) -> Vec<u8> {
        let mut scenario = honest();
        if let Self::Draft(change) = self {
            change(&mut scenario);
        }
        let mut pack = scenario.pack();
        if let Self::Pack(change) = self {
            change(&mut pack);
        }
        let mut bytes = pack.write().unwrap();
        if let Self::Bytes(change) = self {
            change(&mut bytes);
        }
        bytes
    }
}

pub fn intent(scenario: &mut Scenario, at: usize) -> &mut Intent {
    match &mut scenario.drafts[at].body {
        Body::Intent(intent) => intent,
        other => panic!("{at} is a {}", other.kind()),
    }
}

pub fn outcome(scenario: &mut Scenario, at: usize) -> &mut Outcome {
    match &mut scenario.drafts[at].body {
        Body::Outcome(outcome) => outcome,
        other => panic!("{at} is a {}", other.kind()),
    }
}

/// Replaces the statement of the approval at `at`, properly signed.
fn restate(scenario: &mut Scenario, at: usize, change: fn(&mut Statement)) {
    let Body::Approval(approved) = &scenario.drafts[at].body else { panic!("no approval") };
    let note = approved.statement.as_str().to_owned();
    let mut statement = Statement::parse(Note::parse(note.as_bytes(), 8192).unwrap().text).unwrap();
    let intent = statement.intent;
    change(&mut statement);
    scenario.drafts[at].body = approval(intent, &statement);
}

/// Replaces the policy input of the intent at `at`.
pub fn reinput(scenario: &mut Scenario, at: usize, change: fn(&mut PolicyInput)) {
    let old = intent(scenario, at).decision.input.clone();
    let object = scenario.objects.remove(&old.digest).unwrap();
    let mut input = PolicyInput::from_bytes(object.content()).unwrap();
    change(&mut input);
    let object = Object::new([0xee; 16], &input.to_bytes()).unwrap();
    let input: Commitment = object.commit(old.name, old.media);
    scenario.objects.insert(input.digest, object);
    intent(scenario, at).decision.input = input;
}

/// Replaces a part of the request or the result of the record at `at` with one as long.
fn reword(scenario: &mut Scenario, at: usize, from: &str, to: &str) {
    let commitment = match &mut scenario.drafts[at].body {
        Body::Intent(intent) => match &mut intent.call {
            Call::Model(call) => &mut call.request,
            other => panic!("{other:?}"),
        },
        Body::Outcome(outcome) => outcome.result.as_mut().unwrap(),
        other => panic!("{at} is a {}", other.kind()),
    };
    let old = scenario.objects.remove(&commitment.digest).unwrap();
    let text = String::from_utf8(old.content().to_vec()).unwrap();
    assert!(text.contains(from) && from.len() == to.len());
    let object = Object::new([0xdd; 16], text.replace(from, to).as_bytes()).unwrap();
    commitment.digest = object.digest();
    scenario.objects.insert(commitment.digest, object);
}

fn propose(scenario: &mut Scenario, at: usize, by: u64) {
    let Call::Tool(call) = &mut intent(scenario, at).call else { panic!("no tool call") };
    call.proposed_by = Some(seq(by));
}

fn bill(scenario: &mut Scenario, usage: Usage) {
    let billed = PolicyBundle::compile(&scenario.bundle).unwrap().billed("openai", "gpt-4o", &usage);
    let outcome = outcome(scenario, 2);
    outcome.settled = billed;
    outcome.model.as_mut().unwrap().usage = usage;
}

/// Each mutation and the one finding that it must give.
pub const MUTATIONS: &[(&str, Code, Change)] = &[
    ("the last byte is missing", Code::PackMalformed, Change::Bytes(|bytes| bytes.truncate(bytes.len() - 1))),
    ("bytes follow", Code::PackMalformed, Change::Bytes(|bytes| bytes.push(0))),
    ("an empty file", Code::PackMalformed, Change::Bytes(Vec::clear)),
    (
        "the checkpoint is signed by another key of the log's name",
        Code::CheckpointInvalid,
        Change::Pack(|pack| {
            let note = Note::parse(pack.checkpoint.as_bytes(), 1 << 20).unwrap();
            pack.checkpoint =
                common::key(common::LOG, sift_spec::note::KeyType::Ed25519, 77).sign_note(note.text);
        }),
    ),
    (
        "the checkpoint's signature is spoilt",
        Code::CheckpointInvalid,
        Change::Pack(|pack| {
            let mut note = pack.checkpoint.clone().into_bytes();
            spoil_signature(&mut note);
            pack.checkpoint = String::from_utf8(note).unwrap();
        }),
    ),
    (
        "a hash of the proof is another",
        Code::NotIncluded,
        Change::Pack(|pack| {
            pack.proof.0[0] = Hash::from_bytes([9; 32]);
        }),
    ),
    (
        "a hash is added to the proof",
        Code::NotIncluded,
        Change::Pack(|pack| {
            pack.proof.0.push(Hash::from_bytes([9; 32]));
        }),
    ),
    (
        "the checkpoint is of a tree with other entries",
        Code::NotIncluded,
        Change::Pack(|pack| {
            let mut sealed = honest().seal();
            sealed.entries.push(b"one more".to_vec());
            pack.checkpoint = checkpoint(sealed.head(), &common::log_key());
        }),
    ),
    (
        "an entry is no record",
        Code::RecordMalformed,
        Change::Pack(|pack| {
            add_entry(pack, b"sift/record@v1\n{}\n\n\xe2\x80\x94 a AAAAAAAA\n".to_vec());
        }),
    ),
    (
        "the open record of another run is in the pack",
        Code::EntryStray,
        Change::Pack(|pack| {
            let sealed = honest().seal();
            let missing = (0..sealed.entries.len()).find(|at| !sealed.in_pack.contains(at)).unwrap();
            let mut sealed = sealed;
            sealed.in_pack.push(missing);
            sealed.in_pack.sort_unstable();
            *pack = sealed.pack(&honest());
        }),
    ),
    ("a record's signature is spoilt", Code::SignatureInvalid, Change::Draft(|s| s.drafts[16].spoilt = true)),
    (
        "an approver's signature is spoilt",
        Code::SignatureInvalid,
        Change::Draft(|s| {
            let Body::Approval(approval) = &mut s.drafts[10].body else { panic!() };
            let mut note = approval.statement.as_str().as_bytes().to_vec();
            spoil_signature(&mut note);
            approval.statement = String::from_utf8(note).unwrap().parse().unwrap();
        }),
    ),
    (
        "a key is granted twice",
        Code::OperatorInvalid,
        Change::Draft(|s| {
            s.operator_after.push(s.operator_before[0].clone());
        }),
    ),
    (
        "a record is signed by a key that was never granted",
        Code::KeyNotGranted,
        Change::Draft(|s| {
            s.drafts[16].stranger = true;
        }),
    ),
    (
        "the approver's key is granted for another role",
        Code::KeyNotGranted,
        Change::Draft(|s| {
            s.operator_before[1] =
                grant(&common::approver_key(), KeyRole::Approver("clerk".parse().unwrap()));
            // The one that was approved falls, so nothing may have run on it.
            cancel(s, 7);
            s.drafts[10] = Draft::new(beat(10), s.drafts[10].time);
        }),
    ),
    ("a record in the middle is left out", Code::ChainGap, Change::Draft(|s| s.drafts[12].dropped = true)),
    ("the open record is left out", Code::ChainGap, Change::Draft(|s| s.drafts[0].dropped = true)),
    (
        "two records claim one seq",
        Code::ChainFork,
        Change::Draft(|s| {
            let mut second = Draft::new(beat(5), s.drafts[16].time);
            second.seq = Some(5);
            s.drafts.push(second);
        }),
    ),
    (
        "a record names another predecessor",
        Code::PrevDiffers,
        Change::Draft(|s| {
            s.drafts[12].prev = Some(Hash::from_bytes([9; 32]));
        }),
    ),
    (
        "time goes back",
        Code::TimeBackwards,
        Change::Draft(|s| {
            s.drafts[12].time = millis(common::START_MS);
        }),
    ),
    (
        "a record is by another agent",
        Code::RunMismatch,
        Change::Draft(|s| {
            s.drafts[12].agent = "airline/other".parse().unwrap();
        }),
    ),
    (
        "a record follows the close",
        Code::AfterClose,
        Change::Draft(|s| {
            let time = s.drafts[16].time;
            s.drafts.push(Draft::new(beat(17), time));
        }),
    ),
    ("the close is left out", Code::TailMissing, Change::Draft(|s| s.drafts[16].dropped = true)),
    (
        "the tail is left out",
        Code::TailMissing,
        Change::Draft(|s| {
            s.drafts[12..].iter_mut().for_each(|draft| draft.dropped = true);
            forget_payloads(s, 12);
        }),
    ),
    (
        "the close of a halted run is left out",
        Code::TailMissing,
        Change::Draft(|s| {
            s.drafts[15].body = halt();
            s.drafts[16].dropped = true;
            forget_payloads(s, 17);
        }),
    ),
    (
        "a payload is changed",
        Code::PayloadDiffers,
        Change::Pack(|pack| {
            let object = pack.objects.values_mut().next().unwrap();
            *object.last_mut().unwrap() ^= 1;
        }),
    ),
    (
        "a payload of nobody",
        Code::PayloadUnknown,
        Change::Pack(|pack| {
            let object = Object::new([1; 16], b"look here").unwrap();
            pack.objects.insert(object.digest(), object.as_bytes().to_vec());
        }),
    ),
    (
        "a bundle of nobody",
        Code::PayloadUnknown,
        Change::Pack(|pack| {
            let bundle = common::kernel::bundle("");
            pack.bundles.insert(bundle.digest(), bundle.encode());
        }),
    ),
    (
        "the bundle was never published",
        Code::PolicyNotPublished,
        Change::Draft(|s| drop(s.operator_before.pop())),
    ),
    (
        "the bundle was published after the run",
        Code::PolicyNotPublished,
        Change::Draft(|s| {
            let publish = s.operator_before.pop().unwrap();
            s.operator_after.push(publish);
        }),
    ),
    (
        "the bundle's bytes are others",
        Code::BundleDiffers,
        Change::Pack(|pack| {
            let bytes = pack.bundles.values_mut().next().unwrap();
            *bytes = common::kernel::bundle("").encode();
        }),
    ),
    (
        "the bundle was published with another size",
        Code::BundleDiffers,
        Change::Draft(|s| {
            let Some(OperatorBody::Policy(policy)) = s.operator_before.last_mut() else { panic!() };
            policy.size += 1;
        }),
    ),
    (
        "a tool call is settled with a close",
        Code::DelegationInvalid,
        Change::Draft(|s| outcome(s, 4).close = Some(Text::cut("a close"))),
    ),
    (
        "the open record states a softer limit",
        Code::LimitsDiffer,
        Change::Draft(|s| {
            let Body::Open(open) = &mut s.drafts[0].body else { panic!() };
            open.limits.wall_clock_ms = Some(millis(99_000_000));
        }),
    ),
    ("another model was asked", Code::RequestDiffers, Change::Draft(|s| reword(s, 1, "gpt-4o", "gpt-5o"))),
    (
        "a model was asked for more output",
        Code::RequestDiffers,
        Change::Draft(|s| reword(s, 1, "100", "101")),
    ),
    ("a call is proposed by no model call", Code::ProposalDiffers, Change::Draft(|s| propose(s, 13, 0))),
    ("a call is proposed by a tool call", Code::ProposalDiffers, Change::Draft(|s| propose(s, 13, 3))),
    (
        "a call is proposed by a model call without an answer",
        Code::ProposalDiffers,
        Change::Draft(|s| {
            // The answer comes after the call that it is said to propose.
            s.drafts.truncate(5);
            s.drafts.swap(2, 3);
            outcome(s, 4).intent = seq(2);
            reinput(s, 2, |input| input.run.seq = seq(2));
            for at in [2, 3] {
                s.drafts[at].time = millis(common::START_MS + 1000 * at as u64);
            }
            reinput(s, 2, |input| input.time = millis(common::START_MS + 2000));
            s.drafts.push(Draft::new(honest().drafts[16].body.clone(), s.drafts[4].time));
            forget_payloads(s, 6);
        }),
    ),
    (
        "the answer proposes the call with other arguments",
        Code::ProposalDiffers,
        Change::Draft(|s| reword(s, 2, "R1", "R7")),
    ),
    (
        "the answer proposes a call of another tool",
        Code::ProposalDiffers,
        Change::Draft(|s| reword(s, 2, "lookup", "lockup")),
    ),
    (
        "the answer proposes a call with another id",
        Code::ProposalDiffers,
        Change::Draft(|s| reword(s, 2, "\"call\"", "\"cell\"")),
    ),
    (
        "the policy was asked about another time",
        Code::InputDiffers,
        Change::Draft(|s| {
            reinput(s, 13, |input| input.time = millis(1));
        }),
    ),
    (
        "the policy was not told a fact",
        Code::InputDiffers,
        Change::Draft(|s| {
            reinput(s, 5, |input| input.facts.clear());
        }),
    ),
    (
        "the policy was told smaller counters",
        Code::InputDiffers,
        Change::Draft(|s| {
            reinput(s, 13, |input| input.run.calls.denied = 0);
        }),
    ),
    (
        "a reason is invented",
        Code::DecisionDiffers,
        Change::Draft(|s| {
            intent(s, 8).decision.reasons = vec![Text::cut("because")];
        }),
    ),
    (
        "another rule is named",
        Code::DecisionDiffers,
        Change::Draft(|s| {
            intent(s, 13).decision.rules = vec![Text::cut("anything")];
        }),
    ),
    (
        "a longer deadline",
        Code::DecisionDiffers,
        Change::Draft(|s| {
            // The answer to it goes with it, so that only the decision is wrong.
            intent(s, 9).decision.hold.as_mut().unwrap().deadline = millis(common::START_MS + 9_999_999);
            s.drafts[10] = Draft::new(beat(10), s.drafts[10].time);
        }),
    ),
    (
        "an approval is about another action",
        Code::ApprovalInvalid,
        Change::Draft(|s| {
            restate(s, 10, |statement| statement.action = Hash::from_bytes([9; 32]));
        }),
    ),
    (
        "an approval is about another log",
        Code::ApprovalInvalid,
        Change::Draft(|s| {
            restate(s, 10, |statement| statement.log = "other.example".parse().unwrap());
        }),
    ),
    (
        "an approval answers a call that is not held",
        Code::ApprovalInvalid,
        Change::Draft(|s| {
            let Body::Approval(approval) = &mut s.drafts[10].body else { panic!() };
            approval.intent = seq(3);
        }),
    ),
    (
        "a held call is approved twice",
        Code::ApprovalInvalid,
        Change::Draft(|s| {
            let body = s.drafts[10].body.clone();
            s.drafts[11] = Draft::new(body, s.drafts[11].time);
            insert_cancelled(s, 9);
        }),
    ),
    (
        "a refused call ran",
        Code::ApprovalMissing,
        Change::Draft(|s| {
            outcome(s, 11).status = Status::Error;
            outcome(s, 11).settled = Amounts::ZERO.with(Meter::ToolCalls, 1);
        }),
    ),
    (
        "a held call ran without an answer",
        Code::ApprovalMissing,
        Change::Draft(|s| {
            s.drafts[6] = Draft::new(beat(6), s.drafts[6].time);
        }),
    ),
    (
        "more was held than the worst case",
        Code::ReservationDiffers,
        Change::Draft(|s| {
            let two = Amounts::ZERO.with(Meter::ToolCalls, 2);
            intent(s, 13).reserved = two;
            outcome(s, 14).settled = two;
        }),
    ),
    (
        "an input is bounded below the bytes of its request",
        Code::ReservationDiffers,
        Change::Draft(|s| {
            let Call::Model(call) = &mut intent(s, 1).call else { panic!() };
            call.input.tokens = 30;
            let input = CallInput::of(&intent(s, 1).call, b"");
            intent(s, 1).reserved = PolicyBundle::compile(&s.bundle).unwrap().need(&input).unwrap();
            reinput(s, 1, |input| {
                let CallInput::Model { input_tokens, .. } = &mut input.call else { panic!() };
                *input_tokens = 30;
            });
        }),
    ),
    (
        "a call ran that the budget refuses",
        Code::BudgetExceeded,
        Change::Draft(|s| {
            intent(s, 15).refusal = None;
            intent(s, 15).reserved = Amounts::ZERO.with(Meter::ToolCalls, 1);
            insert_cancelled(s, 15);
        }),
    ),
    (
        "the budget refused for another reason",
        Code::RefusalDiffers,
        Change::Draft(|s| {
            let Some(Refusal::Identical(refusal)) = &mut intent(s, 15).refusal else { panic!() };
            refusal.have = 3;
        }),
    ),
    (
        "a call cost another sum",
        Code::CostDiffers,
        Change::Draft(|s| {
            let settled = outcome(s, 2).settled;
            outcome(s, 2).settled = settled.with(Meter::MicroUsd, settled.get(Meter::MicroUsd) - 1);
        }),
    ),
    (
        "an unknown outcome settles less than the hold",
        Code::CostDiffers,
        Change::Draft(|s| {
            outcome(s, 7).status = Status::Unknown;
            outcome(s, 7).error = Some(Text::cut("nobody knows"));
            outcome(s, 7).settled = Amounts::ZERO;
            // Not ok, so later inputs count one less.
            reinput(s, 8, |i| Arc::make_mut(&mut i.run.tools).get_mut(&Text::cut("refund")).unwrap().ok = 0);
            reinput(s, 9, |i| Arc::make_mut(&mut i.run.tools).get_mut(&Text::cut("refund")).unwrap().ok = 0);
            reinput(s, 13, |i| Arc::make_mut(&mut i.run.tools).get_mut(&Text::cut("refund")).unwrap().ok = 0);
            reinput(s, 15, |i| Arc::make_mut(&mut i.run.tools).get_mut(&Text::cut("refund")).unwrap().ok = 0);
        }),
    ),
    (
        "a cancelled call settles something",
        Code::CostDiffers,
        Change::Draft(|s| {
            outcome(s, 11).settled = Amounts::ZERO.with(Meter::ToolCalls, 1);
        }),
    ),
    (
        "more was billed than held, and the run went on",
        Code::Overspent,
        Change::Draft(|s| {
            bill(s, Usage { input: 21, output: 10_000, ..Usage::default() });
        }),
    ),
    (
        "a call has no outcome",
        Code::OutcomeMissing,
        Change::Draft(|s| {
            s.drafts[11] = Draft::new(beat(11), s.drafts[11].time);
        }),
    ),
    (
        "a denied call has an outcome",
        Code::OutcomeUnexpected,
        Change::Draft(|s| {
            s.drafts[12].body = cancelled(8);
        }),
    ),
    (
        "a tool answers as a model",
        Code::OutcomeUnexpected,
        Change::Draft(|s| {
            let model = outcome(s, 2).model.clone();
            outcome(s, 4).model = model;
        }),
    ),
    ("a call has two outcomes", Code::OutcomeUnexpected, Change::Draft(|s| s.drafts[12].body = cancelled(9))),
    (
        "an outcome answers nothing",
        Code::OutcomeUnexpected,
        Change::Draft(|s| s.drafts[12].body = cancelled(0)),
    ),
    ("a call follows a halt", Code::HaltIgnored, Change::Draft(|s| s.drafts[12].body = halt())),
    ("a call is approved and runs after a halt", Code::HaltIgnored, Change::Draft(approve_after_halt)),
    (
        "a call is approved after a halt and nobody knows whether it ran",
        Code::HaltIgnored,
        Change::Draft(|s| {
            approve_after_halt(s);
            let outcome = outcome(s, 8);
            (outcome.status, outcome.error) = (Status::Unknown, Some(Text::cut("nobody knows")));
            outcome.result = None;
            forget_payloads(s, s.drafts.len());
        }),
    ),
    (
        "the close states another sum",
        Code::CloseDiffers,
        Change::Draft(|s| {
            set_close(s, |close| close.settled = Amounts::ZERO);
        }),
    ),
    (
        "the close states another census",
        Code::CloseDiffers,
        Change::Draft(|s| {
            set_close(s, |close| {
                *close.census.get_mut(&sift_spec::record::Kind::Beat).unwrap() += 1;
                *close.census.get_mut(&sift_spec::record::Kind::Approval).unwrap() -= 1;
            });
        }),
    ),
    (
        "the close invents a halt",
        Code::CloseDiffers,
        Change::Draft(|s| {
            set_close(s, |close| close.reason = sift_spec::record::CloseReason::Halted);
        }),
    ),
];

/// From seq 6 on: halt, approval, outcome, close.
fn approve_after_halt(s: &mut Scenario) {
    let answered = [s.drafts[6].clone(), s.drafts[7].clone(), s.drafts[16].clone()];
    s.drafts.truncate(6);
    s.drafts.push(Draft::new(halt(), answered[0].time));
    s.drafts.extend(answered);
    forget_payloads(s, s.drafts.len());
}

fn halt() -> Body {
    Body::Halt(Halt { cause: HaltCause::Operator, detail: Text::cut("stop") })
}

fn cancelled(intent: u64) -> Body {
    let error = Some(Text::cut("cancelled"));
    let (settled, status) = (Amounts::ZERO, Status::Cancelled);
    Body::Outcome(Box::new(Outcome {
        close: None,
        error,
        intent: seq(intent),
        model: None,
        result: None,
        settled,
        status,
    }))
}

/// Turns the outcome at `at` into one of a call that was not dispatched, and later inputs with it.
fn cancel(s: &mut Scenario, at: usize) {
    let intent = outcome(s, at).intent.get();
    let result = outcome(s, at).result.clone().unwrap();
    s.objects.remove(&result.digest);
    s.drafts[at].body = cancelled(intent);
    for at in [8, 9, 13, 15] {
        reinput(s, at, |input| {
            Arc::make_mut(&mut input.run.tools).get_mut(&Text::cut("refund")).unwrap().ok = 0
        });
    }
}

/// Puts the outcome of a call that was not dispatched before the close.
pub fn insert_cancelled(s: &mut Scenario, intent: u64) {
    let close = s.drafts.len() - 1;
    let time = s.drafts[close].time;
    s.drafts.insert(close, Draft::new(cancelled(intent), time));
}

/// Removes the payload objects that only drafts from `from` on, or none, commit to.
fn forget_payloads(s: &mut Scenario, from: usize) {
    let text: String = s.drafts[..from].iter().map(|draft| format!("{:?}", draft.body)).collect();
    s.objects.retain(|digest, _| text.contains(&digest.to_string()));
}

/// Makes the close true, then changes it.
fn set_close(s: &mut Scenario, change: fn(&mut sift_spec::record::Close)) {
    let sealed = s.seal();
    let at = s.operator_before.len() + 16;
    let entry = sift_spec::entry::Entry::parse(sealed.entries[at].clone()).unwrap();
    let Body::Close(mut close) = entry.record().unwrap().body.clone() else { panic!() };
    change(&mut close);
    s.drafts[16].body = Body::Close(close);
    s.true_close = false;
}

/// Appends an entry to the log and the pack.
fn add_entry(pack: &mut Pack, entry: Vec<u8>) {
    let scenario = honest();
    let mut sealed = scenario.seal();
    sealed.in_pack.push(sealed.entries.len());
    sealed.entries.push(entry);
    *pack = sealed.pack(&scenario);
}
