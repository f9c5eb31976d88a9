//! Evidence packs: an honest one verifies, and each way to falsify one gives its own finding.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod delegation;
mod several;
mod sums;

use common::bad_runs::{MUTATIONS, insert_cancelled, intent, outcome, reinput};
use common::kernel::{BUDGET, Kernel, honest, tiny};
use common::{Draft, index, seq, trust};
use sift_spec::evidence::Pack;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::proof::prove_multi_inclusion;
use sift_spec::record::{
    Body, Call, Halt, HaltCause, LimitRefusal, OperatorBody, Refusal, Scope, Status, Window,
};
use sift_spec::types::{Hash, LeafIndex, Text};
use sift_verify::run::{self, Options};
use sift_verify::{Code, Gap, Report, Severity, Verdict};

fn verify(pack: &Pack) -> Report {
    run::verify(&pack.write().unwrap(), &trust(), &Options::default())
}

fn rejections(report: &Report) -> Vec<Code> {
    let rejects = report.findings().iter().filter(|finding| finding.severity == Severity::Rejects);
    rejects.map(|finding| finding.code).collect()
}

fn gaps(report: &Report) -> Vec<Gap> {
    report.unchecked().iter().map(|gap| gap.code).collect()
}

fn claims(report: &Report) -> Vec<&str> {
    report.verified().iter().map(|claim| claim.what).collect()
}

#[test]
fn an_honest_run_verifies_strictly() {
    let report = verify(&honest().pack()).judged(true);
    assert_eq!(report.verdict(), Verdict::Verified, "{}", sift_verify::text::render(&report));
    let all = [
        "checkpoint",
        "inclusion",
        "authority",
        "signatures",
        "chain",
        "payloads",
        "bundle",
        "decisions",
        "approvals",
        "budget",
        "outcomes",
    ];
    assert_eq!(claims(&report), all);
    assert_eq!(report.counts()["calls_held"], 2);
    assert_eq!(gaps(&report), [Gap::ShownUnchecked]);
}

#[test]
fn each_mutation_gives_exactly_its_finding() {
    let mut failures = String::new();
    for (name, code, change) in MUTATIONS {
        let report = run::verify(&change.made(), &trust(), &Options::default());
        if rejections(&report) != [*code] || report.verdict() != Verdict::Rejected {
            let text = anstream::adapter::strip_str(&sift_verify::text::render(&report)).to_string();
            failures += &format!("\n== {name}: expected {code}\n{text}");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn every_code_of_a_run_has_a_mutation() {
    let elsewhere = [
        Code::ReceiptMalformed,
        Code::NotWitnessed, // below
        Code::HeadsInconsistent,
        Code::ConsistencyUnproven,
        Code::BundleMalformed,
        Code::TileDiffers,
        Code::RootDiffers,
        Code::CopiesDiffer,
        Code::HeadOlder,
        Code::HeadStale,
    ];
    for code in Code::ALL.iter().filter(|code| !elsewhere.contains(code)) {
        assert!(MUTATIONS.iter().any(|(_, given, _)| given == code), "{code} has no mutation");
    }
}

#[test]
fn a_checkpoint_without_its_witness_is_rejected() {
    let bytes = honest().pack().write().unwrap();
    let report = run::verify(&bytes, &common::witnessed_trust(), &Options::default());
    assert_eq!(rejections(&report), [Code::NotWitnessed]);
    assert!(claims(&report).is_empty(), "nothing is claimed under a checkpoint that is not believed");
}

#[test]
fn what_is_not_in_the_pack_is_said() {
    // Payloads withheld: decisions rest on them.
    let mut pack = honest().pack();
    pack.objects.clear();
    let report = verify(&pack);
    assert_eq!(report.verdict(), Verdict::Verified);
    let expected = [
        Gap::PayloadWithheld,
        Gap::ProposalUnchecked,
        Gap::DecisionUnchecked,
        Gap::ShownUnchecked,
        Gap::SumUnchecked,
    ];
    assert_eq!(gaps(&report), expected);
    assert_eq!(verify(&pack).judged(true).verdict(), Verdict::Rejected);
    // The bundle.
    let mut pack = honest().pack();
    pack.bundles.clear();
    let report = verify(&pack);
    assert_eq!(
        (report.verdict(), gaps(&report)),
        (Verdict::Verified, vec![Gap::BundleMissing, Gap::ShownUnchecked])
    );
    assert!(!claims(&report).contains(&"decisions") && !claims(&report).contains(&"budget"));
    // What the operator did after the run.
    let mut scenario = honest();
    scenario.operator_after.clear();
    assert_eq!(gaps(&verify(&scenario.pack())), [Gap::ShownUnchecked], "no entry before its end is missing");
    scenario.left_out = std::mem::take(&mut scenario.other_entries);
    let report = verify(&scenario.pack());
    assert_eq!(report.verdict(), Verdict::Verified);
    assert_eq!(gaps(&report), [Gap::RevocationUnproven, Gap::ShownUnchecked]);
    // Another engine.
    let mut scenario = honest();
    let Body::Open(open) = &mut scenario.drafts[0].body else { panic!() };
    open.engine = Text::cut("rego/another-1.0");
    assert_eq!(gaps(&verify(&scenario.pack())), [Gap::EngineDiffers, Gap::ShownUnchecked]);
    // A method of counting tokens that only the kernel knows.
    let mut scenario = honest();
    let Call::Model(call) = &mut intent(&mut scenario, 1).call else { panic!() };
    call.input.method = Text::cut("a-tokenizer");
    assert_eq!(gaps(&verify(&scenario.pack())), [Gap::BoundUnchecked, Gap::ShownUnchecked]);
}

#[test]
fn withheld_arguments_leave_what_can_be_compared_compared() {
    // Only the inputs are given: what they say of the run is still derived.
    let mut scenario = honest();
    let inputs: Vec<Hash> =
        [1, 3, 5, 8, 9, 13, 15].map(|at| intent(&mut scenario, at).decision.input.digest).into();
    let mut pack = scenario.pack();
    pack.objects.retain(|digest, _| inputs.contains(digest));
    assert_eq!(verify(&pack).verdict(), Verdict::Verified);
    let mut scenario = honest();
    reinput(&mut scenario, 13, |input| input.run.calls.denied = 0);
    let inputs: Vec<Hash> =
        [1, 3, 5, 8, 9, 13, 15].map(|at| intent(&mut scenario, at).decision.input.digest).into();
    let mut pack = scenario.pack();
    pack.objects.retain(|digest, _| inputs.contains(digest));
    assert_eq!(rejections(&verify(&pack)), [Code::InputDiffers]);
}

#[test]
fn a_run_in_progress_is_accepted_only_when_asked_for() {
    let mut kernel = Kernel::open(BUDGET);
    kernel.tool("lookup", b"{}");
    let mut scenario = kernel.close();
    scenario.drafts.pop();
    let bytes = scenario.pack().write().unwrap();
    let closed = run::verify(&bytes, &trust(), &Options::default());
    assert_eq!(rejections(&closed), [Code::TailMissing]);
    let open = run::verify(&bytes, &trust(), &Options { allow_open: true });
    assert_eq!(open.verdict(), Verdict::Verified);
    assert_eq!(gaps(&open), [Gap::RunOpen, Gap::OutcomePending]);
}

#[test]
fn an_overspend_that_halted_the_run_is_a_warning() {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.model(b"{}");
    kernel.finish(call, Status::Ok, b"{}", Some(Usage { output: 9_999, ..Usage::default() }));
    let mut scenario = kernel.close();
    let time = scenario.drafts[3].time;
    let halt = Halt { cause: HaltCause::Overspend, detail: Text::cut("billed too much") };
    scenario.drafts.insert(3, Draft::new(Body::Halt(halt), time));
    let report = verify(&scenario.pack());
    assert_eq!(report.verdict(), Verdict::Verified);
    assert_eq!(report.findings()[0].code, Code::Overspent);
}

#[test]
fn an_overspend_excuses_nothing_after_it() {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.model(b"{}");
    kernel.finish(call, Status::Ok, b"{}", Some(Usage { output: 9_999, ..Usage::default() }));
    let call = kernel.tool("lookup", b"{}");
    kernel.finish(call, Status::Ok, b"{}", None);
    let mut scenario = kernel.close();
    let halt = Halt { cause: HaltCause::Overspend, detail: Text::cut("late") };
    scenario.drafts.insert(5, Draft::new(Body::Halt(halt), scenario.drafts[5].time));
    assert_eq!(rejections(&verify(&scenario.pack())), [Code::Overspent]);
}

#[test]
fn a_sum_that_nothing_holds_is_rejected() {
    let mut kernel = Kernel::open("[run]\ntool_calls = 3\n");
    kernel.max_output = sift_spec::types::INTEGER_MAX - 2;
    let calls = [kernel.model(b"{}"), kernel.model(b"{}")];
    for call in calls {
        kernel.finish(call, Status::Cancelled, b"", None);
    }
    let report = verify(&kernel.close().pack());
    assert_eq!(rejections(&report), [Code::BudgetExceeded]);
    assert!(!claims(&report).contains(&"budget"));
}

#[test]
fn a_call_that_other_runs_refused_counts_for_nothing() {
    let mut kernel = Kernel::open("[run]\ntool_calls = 2\nidentical_calls = 2\n[agent]\ntool_calls = 9\n");
    let refusal = |have| LimitRefusal {
        have,
        limit: 9,
        meter: Meter::ToolCalls,
        need: 1,
        scope: Scope::Agent,
        window: Window::Run,
    };
    for have in [9, 10, 11] {
        kernel.elsewhere = Some(Refusal::Limit(refusal(have)));
        kernel.tool("lookup", b"{}");
    }
    for _ in 0..2 {
        let call = kernel.tool("lookup", b"{}");
        kernel.finish(call, Status::Ok, b"{}", None);
    }
    let mut scenario = kernel.close();
    assert_eq!(rejections(&verify(&scenario.pack())), []);
    intent(&mut scenario, 2).refusal = Some(Refusal::Limit(LimitRefusal { limit: 8, ..refusal(9) }));
    assert_eq!(rejections(&verify(&scenario.pack())), [Code::RefusalDiffers]);
}

#[test]
fn a_run_alone_can_pass_a_limit_over_its_agent_or_kernel() {
    for scope in ["agent", "agent.hour", "kernel", "kernel.day"] {
        let mut kernel = Kernel::open(&format!("[{scope}]\ntool_calls = 2\n"));
        for _ in 0..2 {
            let call = kernel.tool("lookup", b"{}");
            kernel.finish(call, Status::Ok, b"{}", None);
        }
        kernel.tool("lookup", b"{}");
        let mut scenario = kernel.close();
        let report = verify(&scenario.pack());
        assert_eq!((rejections(&report), gaps(&report)), (vec![], vec![Gap::SumUnchecked]));
        let third = intent(&mut scenario, 5);
        (third.refusal, third.reserved) = (None, Amounts::ZERO.with(Meter::ToolCalls, 1));
        insert_cancelled(&mut scenario, 5);
        assert_eq!(rejections(&verify(&scenario.pack())), [Code::BudgetExceeded], "{scope}");
    }
}

#[test]
fn a_call_that_nothing_kept_from_running_is_not_silently_cancelled() {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.tool("lookup", b"{}");
    kernel.finish(call, Status::Cancelled, b"", None);
    let call = kernel.tool("refund", b"{}");
    kernel.answer(call, sift_spec::record::Answer::Approve);
    kernel.finish(call, Status::Cancelled, b"", None);
    let mut scenario = kernel.close();
    let report = verify(&scenario.pack());
    assert_eq!(report.verdict(), Verdict::Verified);
    let cancelled = [Gap::ShownUnchecked, Gap::CancelledUnproven, Gap::CancelledUnproven];
    assert_eq!(gaps(&report), cancelled);
    assert_eq!(report.judged(true).verdict(), Verdict::Rejected);
    // After a halt it needs no other word.
    let halt = Halt { cause: HaltCause::Operator, detail: Text::cut("stop") };
    scenario.drafts.insert(5, Draft::new(Body::Halt(halt), scenario.drafts[5].time));
    assert_eq!(gaps(&verify(&scenario.pack())), cancelled[..2]);
}

#[test]
fn a_timeout_costs_the_hold_or_what_the_provider_billed() {
    let mut kernel = Kernel::open(BUDGET);
    let usage = Usage { input: 1, output: 1, ..Usage::default() };
    let call = kernel.model(b"{}");
    kernel.finish(call, Status::Timeout, b"", Some(usage));
    let mut scenario = kernel.close();
    assert_eq!(rejections(&verify(&scenario.pack())), []);
    let bundle = sift_rules::PolicyBundle::compile(&scenario.bundle).unwrap();
    outcome(&mut scenario, 2).settled = bundle.billed("openai", "gpt-4o", &usage);
    assert_eq!(rejections(&verify(&scenario.pack())), []);
    outcome(&mut scenario, 2).model.as_mut().unwrap().method = Text::cut("a-guess");
    assert_eq!(rejections(&verify(&scenario.pack())), [Code::CostDiffers]);
}

#[test]
fn refusals_over_limits_are_reproduced() {
    let mut kernel = Kernel::open("[run]\ntool_calls = 1\nagents = 0\n[agent.hour]\ntool_calls = 9\n");
    let call = kernel.tool("lookup", b"{}");
    kernel.finish(call, Status::Ok, b"{}", None);
    kernel.tool("lookup", b"{}");
    kernel.agent();
    let scenario = kernel.close();
    let report = verify(&scenario.pack());
    assert_eq!((rejections(&report), gaps(&report)), (vec![], vec![Gap::SumUnchecked]));
    // The same refusal before the limit is reached.
    let mut early = scenario.clone();
    let Some(Refusal::Limit(refusal)) = intent(&mut early, 3).refusal.clone() else { panic!() };
    let wrong = sift_spec::record::LimitRefusal { have: 7, ..refusal };
    intent(&mut early, 3).refusal = Some(Refusal::Limit(wrong));
    assert_eq!(rejections(&verify(&early.pack())), [Code::RefusalDiffers]);
}

#[test]
fn a_revoked_key_signs_nothing_more() {
    let mut scenario = honest();
    let revoke = sift_spec::record::Revoke {
        reason: Text::cut("lost"),
        vkey: Text::cut(&common::kernel_key().verifier().to_string()),
    };
    let revoke = OperatorBody::Key(sift_spec::record::KeyChange::Revoke(revoke));
    scenario.operator_after.push(revoke.clone());
    assert_eq!(rejections(&verify(&scenario.pack())), []);
    scenario.operator_after.pop();
    scenario.operator_before.push(revoke);
    let report = verify(&scenario.pack());
    assert!(rejections(&report).iter().all(|code| *code == Code::KeyNotGranted));
    assert_eq!(rejections(&report).len(), scenario.drafts.len());
}

/// The operator's chain may have gaps in a pack. A key that is revoked behind one was granted in it, once, and never again.
#[test]
fn a_key_that_is_revoked_behind_a_gap_does_not_come_back() {
    let other = common::stranger_key();
    let vkey = Text::cut(&other.verifier().to_string());
    let revoke = sift_spec::record::Revoke { reason: Text::cut("lost"), vkey };
    let revoke = OperatorBody::Key(sift_spec::record::KeyChange::Revoke(revoke));
    let grant = common::grant(&other, sift_spec::record::KeyRole::Kernel);
    let first = OperatorBody::Erase(sift_spec::record::Erase {
        digest: sift_spec::types::Hash::from_bytes([1; 32]),
        reason: Text::cut("the pack goes without this entry"),
    });
    let after_gap = |bodies: &[&OperatorBody]| {
        let mut scenario = honest();
        let bodies = [&[&first], bodies].concat();
        scenario.operator_before.splice(0..0, bodies.into_iter().cloned());
        let mut sealed = scenario.seal();
        sealed.in_pack.remove(0);
        rejections(&verify(&sealed.pack(&scenario)))
    };
    assert_eq!(after_gap(&[&revoke]), []);
    assert_eq!(after_gap(&[&grant, &revoke]), []);
    for comes_back in
        [&[&revoke, &grant][..], &[&revoke, &revoke], &[&grant, &revoke, &revoke], &[&grant, &revoke, &grant]]
    {
        assert_eq!(after_gap(comes_back), [Code::OperatorInvalid]);
    }
}

#[test]
fn an_edited_step_is_named() {
    // Someone edits a stored record and cannot sign it again.
    let mut pack = honest().pack();
    let at = *pack.entries.keys().nth(3 + 8).unwrap();
    let entry = pack.entries.get_mut(&at).unwrap();
    let text = String::from_utf8(entry.clone()).unwrap().replace("accounts stay", "accounts went");
    *entry = text.into_bytes();
    let report = verify(&pack);
    assert_eq!(rejections(&report), [Code::NotIncluded, Code::SignatureInvalid, Code::PrevDiffers]);
    assert_eq!(report.findings()[1].concern.seq, Some(seq(8)));
    assert_eq!(claims(&report), ["checkpoint"]);
}

#[test]
fn swapped_entries_are_rejected() {
    let mut pack = honest().pack();
    let (a, b) = (index(5), index(6));
    let (first, second) = (pack.entries[&a].clone(), pack.entries[&b].clone());
    pack.entries.insert(a, second);
    pack.entries.insert(b, first);
    assert_eq!(rejections(&verify(&pack))[0], Code::NotIncluded);
}

#[test]
fn another_operator_grants_nothing() {
    let other = common::key("operator.example", sift_spec::note::KeyType::Ed25519, 99);
    let text = common::trust_text()
        .replace(&common::operator_key().verifier().to_string(), &other.verifier().to_string());
    let trust = sift_spec::trust::TrustPolicy::parse(&text).unwrap();
    let report = run::verify(&honest().pack().write().unwrap(), &trust, &Options::default());
    assert_eq!(report.verdict(), Verdict::Rejected);
    assert!(rejections(&report).contains(&Code::SignatureInvalid));
    assert!(!claims(&report).contains(&"signatures"));
}

/// Every byte of a pack, flipped, with and without making the archive whole again.
#[test]
fn no_flipped_byte_verifies_with_the_same_claims() {
    let pack = tiny().pack();
    let honest = verify(&pack);
    assert_eq!(honest.verdict(), Verdict::Verified);
    let same =
        |report: &Report| report.verdict() == Verdict::Verified && report.verified() == honest.verified();
    let bytes = pack.write().unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(!same(&run::verify(&flipped, &trust(), &Options::default())), "byte {at}");
    }
    // Inside of the members, with the archive written again around the change.
    let try_pack = |changed: Pack, what: &str| {
        let Ok(bytes) = changed.write() else { return };
        assert!(!same(&run::verify(&bytes, &trust(), &Options::default())), "{what}");
    };
    let indices: Vec<LeafIndex> = pack.entries.keys().copied().collect();
    for index in indices {
        for at in 0..pack.entries[&index].len() {
            let mut changed = pack.clone();
            changed.entries.get_mut(&index).unwrap()[at] ^= 1;
            try_pack(changed, &format!("entry {index} byte {at}"));
        }
        let mut changed = pack.clone();
        changed.entries.remove(&index);
        try_pack(changed, &format!("entry {index} removed"));
    }
    for at in 0..pack.checkpoint.len() {
        let mut note = pack.checkpoint.clone().into_bytes();
        note[at] ^= 1;
        let Ok(note) = String::from_utf8(note) else { continue };
        try_pack(Pack { checkpoint: note, ..pack.clone() }, &format!("checkpoint byte {at}"));
    }
    for at in 0..pack.proof.0.len() {
        let mut changed = pack.clone();
        changed.proof.0.remove(at);
        try_pack(changed, &format!("proof hash {at} removed"));
    }
    let digest = *pack.bundles.keys().next().unwrap();
    for at in 0..pack.bundles[&digest].len() {
        let mut changed = pack.clone();
        changed.bundles.get_mut(&digest).unwrap()[at] ^= 1;
        try_pack(changed, &format!("bundle byte {at}"));
    }
}

#[test]
fn a_report_of_a_pack_rests_on_its_tree() {
    // The same entries under a proof for another subset of the tree.
    let scenario = tiny();
    let sealed = scenario.seal();
    let tree = sealed.tree();
    let mut pack = sealed.pack(&scenario);
    pack.proof = prove_multi_inclusion(&[index(0)], tree.size(), &tree).unwrap();
    assert_eq!(rejections(&verify(&pack)), [Code::NotIncluded]);
}
