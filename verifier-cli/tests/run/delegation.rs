//! Delegated runs, and runs that delegate: what their packs prove, and each way to falsify one.

use sift_spec::entry::Entry;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::SignerKey;
use sift_spec::record::{
    Body, Close, CloseReason, Delegate, Delegation, Delegator, Halt, HaltCause, KeyRole, Kind, Record, Status,
};
use sift_spec::types::{Seq, Text};
use sift_verify::{Code, Gap, Verdict};

use crate::common::kernel::Kernel;
use crate::common::{
    Draft, LOG, START_MS, Scenario, agent, bytes_hash, grant, kernel_key, millis, other_kernel_key, run_id,
    seq, stranger_key,
};
use crate::mutations::{intent, outcome};
use crate::{claims, gaps, rejections, verify};

fn calls(n: u64) -> Amounts {
    Amounts::ZERO.with(Meter::ToolCalls, n)
}

fn delegation() -> Delegation {
    Delegation {
        agent: agent(),
        budget: calls(2),
        deadline: millis(START_MS + 600_000),
        depth: 1,
        depth_limit: Some(1),
        kernel: kernel_key().verifier().name().clone(),
        log: LOG.parse().unwrap(),
        parent: Delegator { agent: "airline/boss".parse().unwrap(), run: run_id(5), seq: seq(3) },
        run: run_id(1),
    }
}

fn signed(delegation: &Delegation, by: &SignerKey) -> String {
    by.sign_note(&delegation.text().unwrap())
}

/// A run that another kernel delegated, with this note.
fn child(delegation: &Delegation, note: &str) -> Scenario {
    let mut kernel = Kernel::delegated("[run]\ntool_calls = 6\ndepth = 4\n", delegation, note);
    for _ in 0..2 {
        let call = kernel.tool("lookup", b"{}");
        kernel.finish(call, Status::Ok, b"{}", None);
    }
    // Refused by what was delegated: too many calls, too deep.
    kernel.tool("lookup", b"{}");
    kernel.agent();
    let mut scenario = kernel.close();
    scenario.operator_before.push(grant(&other_kernel_key(), KeyRole::Kernel));
    scenario
}

/// A delegated run as it should be.
pub(crate) fn delegated() -> Scenario {
    child(&delegation(), &note())
}

fn note() -> String {
    signed(&delegation(), &other_kernel_key())
}

#[test]
fn a_delegated_run_verifies_with_its_delegation() {
    let report = verify(&child(&delegation(), &note()).pack());
    assert_eq!(rejections(&report), [], "{}", sift_verify::text::render(&report));
    assert!(claims(&report).contains(&"delegations") && claims(&report).contains(&"budget"));
    assert!(gaps(&report).contains(&Gap::ParentUnchecked), "its parent's pack shows the hold");
}

#[test]
fn a_false_delegation_is_found() {
    let changed = |change: fn(&mut Delegation)| {
        let mut delegation = delegation();
        change(&mut delegation);
        signed(&delegation, &other_kernel_key())
    };
    let invalid = [Code::DelegationInvalid];
    for (name, note, codes) in [
        ("another agent", changed(|d| d.agent = "airline/other".parse().unwrap()), &invalid[..]),
        ("another run", changed(|d| d.run = run_id(2)), &invalid),
        ("another log", changed(|d| d.log = "other.example".parse().unwrap()), &invalid),
        ("another kernel", changed(|d| d.kernel = "acme.example/third".parse().unwrap()), &invalid),
        ("another parent", changed(|d| d.parent.seq = Seq::new(4).unwrap()), &invalid),
        (
            "another depth",
            changed(|d| (d.depth, d.depth_limit) = (2, Some(2))),
            &[Code::LimitsDiffer, Code::DelegationInvalid],
        ),
        (
            "too late",
            changed(|d| d.deadline = millis(START_MS - 1)),
            &[Code::LimitsDiffer, Code::DelegationInvalid],
        ),
        ("a smaller budget", changed(|d| d.budget = calls(1)), &[Code::LimitsDiffer, Code::Overspent]),
        ("an earlier deadline", changed(|d| d.deadline = millis(START_MS + 5)), &[Code::LimitsDiffer]),
        ("no note at all", "a delegation".to_owned(), &[Code::LimitsDiffer, Code::DelegationInvalid]),
        ("a key that nobody granted", signed(&delegation(), &stranger_key()), &[Code::KeyNotGranted]),
        (
            "a key for other agents",
            changed(|d| d.parent.agent = "railway/boss".parse().unwrap()),
            &[Code::KeyNotGranted],
        ),
        (
            "changed after it was signed",
            note().replace("gpt-4o", "gpt-5o"),
            &[Code::DelegationInvalid, Code::SignatureInvalid],
        ),
        (
            "the signature of another note",
            format!("{}\n\n{}", note().rsplit_once("\n\n").unwrap().0, {
                let other = other_kernel_key().sign_note("another\n");
                other.rsplit_once("\n\n").unwrap().1.to_owned()
            }),
            &[Code::SignatureInvalid],
        ),
    ] {
        let report = verify(&child(&delegation(), &note).pack());
        assert_eq!(rejections(&report), codes, "{name}: {}", sift_verify::text::render(&report));
        assert_eq!(report.verdict(), Verdict::Rejected, "{name}");
        // Limits and budget have claims of their own.
        let own = codes.iter().all(|code| matches!(code, Code::LimitsDiffer));
        assert_eq!(claims(&report).contains(&"delegations"), own, "{name}");
    }
}

#[test]
fn limits_wider_than_delegated_are_found() {
    for widen in [
        |open: &mut sift_spec::record::Open| open.limits.depth = Some(4),
        |open: &mut sift_spec::record::Open| open.limits.wall_clock_ms = None,
        |open: &mut sift_spec::record::Open| {
            open.limits.meters.iter_mut().for_each(|limit| limit.limit = limit.limit.max(6));
        },
        |open: &mut sift_spec::record::Open| open.limits.meters.retain(|limit| limit.limit > 0),
    ] {
        let mut scenario = child(&delegation(), &note());
        let Body::Open(open) = &mut scenario.drafts[0].body else { panic!() };
        widen(open);
        assert!(rejections(&verify(&scenario.pack())).contains(&Code::LimitsDiffer));
    }
}

#[test]
fn what_runs_below_used_counts_and_needs_a_delegation() {
    let close = |scenario: &mut Scenario, below| {
        let Some(Body::Close(close)) = scenario.drafts.last_mut().map(|draft| &mut draft.body) else {
            panic!()
        };
        close.below = below;
    };
    let mut scenario = child(&delegation(), &note());
    close(&mut scenario, calls(1));
    let report = verify(&scenario.pack());
    assert_eq!(rejections(&report), [Code::Overspent], "two of its own, and two delegated");
    // A run that was halted for it says what happened.
    let halt = Halt { cause: HaltCause::Overspend, detail: Text::cut("more than was held") };
    let at = scenario.drafts.len() - 1;
    scenario.drafts.insert(at, Draft::new(Body::Halt(halt), scenario.drafts[at].time));
    let report = verify(&scenario.pack());
    assert_eq!(rejections(&report), []);
    assert!(report.findings().iter().any(|finding| finding.code == Code::Overspent));
    let mut scenario = Kernel::open("").close();
    close(&mut scenario, calls(1));
    assert_eq!(rejections(&verify(&scenario.pack())), [Code::CloseDiffers]);
}

#[test]
fn a_grant_that_the_pack_leaves_out_is_said() {
    let mut scenario = child(&delegation(), &note());
    scenario.operator_before.pop();
    // Whether it was granted can then not be told: the operator's chain may hold more.
    let revoke = scenario.operator_after.pop().unwrap();
    let report = verify(&scenario.pack());
    assert_eq!(rejections(&report), []);
    assert!(gaps(&report).contains(&Gap::DelegatorUnproven) && !claims(&report).contains(&"delegations"));
    scenario.operator_after.push(revoke);
    assert_eq!(rejections(&verify(&scenario.pack())), [Code::KeyNotGranted]);
}

fn delegate() -> Delegate {
    let kernel = other_kernel_key().verifier().name().clone();
    Delegate { budget: calls(3), deadline: millis(START_MS + 600_000), kernel }
}

/// The close entry of the delegated run: two calls of its own, one below it.
fn closed(by: &SignerKey, change: impl FnOnce(&mut Record)) -> String {
    let census = [(Kind::Intent, 2), (Kind::Open, 1), (Kind::Outcome, 2)].into();
    let close = Close { below: calls(1), census, reason: CloseReason::Done, settled: calls(2) };
    let mut record = Record {
        agent: agent(),
        body: Body::Close(close),
        prev: Some(bytes_hash(1)),
        run: run_id(9),
        seq: seq(5),
        time: millis(START_MS + 1500),
    };
    change(&mut record);
    String::from_utf8(Entry::sign(&record, by).unwrap().into_bytes()).unwrap()
}

/// A run that delegates, and settles with this close.
///
/// ```text
/// 0 open  1 intent agent  2 outcome  3 close
/// ```
fn parent(close: Option<&str>, settled: Amounts) -> Scenario {
    let mut kernel = Kernel::open("[run]\ntool_calls = 6\nagents = 2\n");
    let call = kernel.delegate(&delegate());
    kernel.finish(call, Status::Ok, b"helped", None);
    let mut scenario = kernel.close();
    let outcome = outcome(&mut scenario, 2);
    outcome.close = close.map(Text::cut);
    outcome.settled = settled;
    scenario.operator_before.push(grant(&other_kernel_key(), KeyRole::Kernel));
    scenario
}

#[test]
fn a_run_that_delegates_holds_the_budget_and_settles_with_the_close() {
    let used = calls(3).with(Meter::Agents, 1);
    let close = closed(&other_kernel_key(), |_| {});
    let scenario = parent(Some(&close), used);
    let report = verify(&scenario.pack());
    assert_eq!(rejections(&report), [], "{}", sift_verify::text::render(&report));
    assert!(claims(&report).contains(&"delegations"));
    let held = calls(3).with(Meter::Agents, 1);
    assert_eq!(rejections(&verify(&parent(None, held).pack())), [], "without a close, all of it");

    let invalid = vec![Code::DelegationInvalid];
    let other = other_kernel_key();
    let spoilt = {
        let mut bytes = close.clone().into_bytes();
        crate::common::spoil_signature(&mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    let stranger = crate::common::key("acme.example/other", sift_spec::note::KeyType::Ed25519, 66);
    for (name, close, settled, codes) in [
        ("less than the close says", close.clone(), calls(1).with(Meter::Agents, 1), vec![Code::CostDiffers]),
        ("another run's", closed(&other, |record| record.run = run_id(8)), used, invalid.clone()),
        (
            "another agent's",
            closed(&other, |record| record.agent = "airline/other".parse().unwrap()),
            used,
            invalid.clone(),
        ),
        ("another kernel's", closed(&kernel_key(), |_| {}), used, invalid.clone()),
        (
            "not a close",
            closed(&other, |record| record.body = crate::common::kernel::beat(5)),
            used,
            invalid.clone(),
        ),
        ("not an entry", "a close".to_owned(), used, invalid),
        ("spoilt", spoilt, used, vec![Code::SignatureInvalid]),
        ("of a key that nobody granted", closed(&stranger, |_| {}), used, vec![Code::KeyNotGranted]),
    ] {
        let report = verify(&parent(Some(&close), settled).pack());
        assert_eq!(rejections(&report), codes, "{name}: {}", sift_verify::text::render(&report));
        assert_eq!(claims(&report).contains(&"delegations"), codes == [Code::CostDiffers], "{name}");
    }
    assert_eq!(
        rejections(&verify(&parent(None, calls(2).with(Meter::Agents, 1)).pack())),
        [Code::CostDiffers],
        "less than the hold with nobody's word for it"
    );
    // The budget must be held.
    let mut scenario = parent(Some(&close), used);
    intent(&mut scenario, 1).reserved = Amounts::ZERO.with(Meter::Agents, 1);
    let codes = rejections(&verify(&scenario.pack()));
    assert!(codes.contains(&Code::ReservationDiffers), "{codes:?}");
}
