//! A call that needs several approvals: every way in which one is missing or counts for nothing gives its finding.

use sift_spec::note::{Note, SignerKey};
use sift_spec::record::{Answer, Body, Hold, KeyRole, Needed, Statement};
use sift_verify::{Code, Verdict};

use super::{claims, rejections, verify};
use crate::common::bad_runs::intent;
use crate::common::kernel::{approval_by, beat, wired};
use crate::common::{Draft, Scenario, approver_key, auditor_key, grant, key, second_key};

#[test]
fn a_call_with_all_its_approvals_verifies() {
    let report = verify(&wired().pack()).judged(true);
    assert_eq!(report.verdict(), Verdict::Verified, "{}", sift_verify::text::render(&report));
    assert!(claims(&report).contains(&"approvals"));
    assert_eq!(report.counts()["calls_held"], 1);
}

/// The approval at `at` is made by another key, or says something else.
fn again(s: &mut Scenario, at: usize, key: &SignerKey, change: fn(&mut Statement)) {
    let Body::Approval(approved) = &s.drafts[at].body else { panic!("no approval") };
    let intent = approved.intent;
    let note = approved.statement.as_str().to_owned();
    let mut statement = Statement::parse(Note::parse(note.as_bytes(), 8192).unwrap().text).unwrap();
    change(&mut statement);
    s.drafts[at].body = approval_by(intent, &statement, key);
}

/// A record that says nothing stands where the approval at `at` was.
fn without(s: &mut Scenario, at: usize) {
    s.drafts[at] = Draft::new(beat(at as u64), s.drafts[at].time);
}

fn hold(s: &mut Scenario) -> &mut Hold {
    intent(s, 1).decision.hold.as_mut().unwrap()
}

type Case = (&'static str, &'static [Code], &'static str, fn(&mut Scenario));

const BOTH: &[Code] = &[Code::ApprovalInvalid, Code::ApprovalMissing];

/// Each change of the honest run, what it is found to be, and a word of the finding.
const CASES: &[Case] = &[
    ("the first approval is missing", &[Code::ApprovalMissing], "1 supervisor", |s| without(s, 2)),
    ("the other role's approval is missing", &[Code::ApprovalMissing], "1 auditor", |s| without(s, 3)),
    ("the last approval is missing", &[Code::ApprovalMissing], "1 supervisor", |s| without(s, 4)),
    ("one key approves twice", BOTH, "counts once", |s| again(s, 4, &approver_key(), |_| {})),
    ("the same name has two keys", BOTH, "counts once", |s| {
        let other = key("acme.example/ann", approver_key().verifier().key_type(), 40);
        s.operator_before.push(grant(&other, KeyRole::Approver("supervisor".parse().unwrap())));
        again(s, 4, &other, |_| {});
    }),
    (
        "an auditor answers as supervisor",
        &[Code::KeyNotGranted, Code::ApprovalMissing],
        "another role",
        |s| {
            again(s, 4, &auditor_key(), |_| {});
        },
    ),
    ("a supervisor answers as auditor", &[Code::KeyNotGranted, Code::ApprovalMissing], "another role", |s| {
        again(s, 3, &second_key(), |_| {});
        without(s, 4);
    }),
    ("an answer in a role that is not needed", BOTH, "another role", |s| {
        again(s, 4, &second_key(), |statement| statement.role = "clerk".parse().unwrap());
    }),
    ("one approval too many of a role", BOTH, "complete", |s| {
        // Ann, Bob, and a third supervisor instead of the auditor.
        let third = key("acme.example/dee", approver_key().verifier().key_type(), 41);
        s.operator_before.push(grant(&third, KeyRole::Approver("supervisor".parse().unwrap())));
        s.drafts.swap(3, 4);
        let (three, four) = (s.drafts[3].time, s.drafts[4].time);
        (s.drafts[3].time, s.drafts[4].time) = (four, three);
        again(s, 4, &third, |statement| statement.role = "supervisor".parse().unwrap());
    }),
    ("a refusal among approvals", &[Code::ApprovalMissing], "refused", |s| {
        again(s, 4, &second_key(), |statement| statement.answer = Answer::Refuse);
    }),
    ("an approval after a refusal", BOTH, "answered already", |s| {
        again(s, 3, &auditor_key(), |statement| statement.answer = Answer::Refuse);
    }),
    ("an approval after the last one needed", &[Code::ApprovalInvalid], "answered already", |s| {
        let third = key("acme.example/dee", approver_key().verifier().key_type(), 41);
        s.operator_before.push(grant(&third, KeyRole::Approver("supervisor".parse().unwrap())));
        let more = Draft::new(s.drafts[4].body.clone(), s.drafts[4].time);
        s.drafts.insert(5, more);
        again(s, 5, &third, |_| {});
    }),
    ("the last approval came late", &[Code::ApprovalMissing], "after the deadline", |s| {
        let late = crate::common::millis(hold(s).deadline.get() + 1);
        for draft in &mut s.drafts[4..] {
            draft.time = late;
        }
    }),
    (
        "the record names fewer approvals than the policy",
        &[Code::DecisionDiffers, Code::ApprovalInvalid],
        "another approver",
        |s| {
            hold(s).approvals = vec![Needed { count: 1, role: "supervisor".parse().unwrap() }];
            without(s, 3);
        },
    ),
];

#[test]
fn each_shortage_gives_its_findings() {
    let mut failures = String::new();
    for (name, codes, word, change) in CASES {
        let mut scenario = wired();
        change(&mut scenario);
        let report = verify(&scenario.pack());
        let mut found = rejections(&report);
        found.sort();
        let mut expected = codes.to_vec();
        expected.sort();
        let said = report.findings().iter().any(|finding| finding.detail.contains(word));
        if found != expected || !said {
            let text = anstream::adapter::strip_str(&sift_verify::text::render(&report)).to_string();
            failures += &format!("\n== {name}: expected {codes:?} with \"{word}\"\n{text}");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
