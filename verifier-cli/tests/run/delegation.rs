//! Delegated runs, and runs that delegate: what their packs prove, and each way to falsify one.

use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{Body, Delegation, Halt, HaltCause};
use sift_spec::types::{Seq, Text};
use sift_verify::{Code, Gap, Verdict};

use crate::common::bad_runs::intent;
use crate::common::delegated::{calls, child, closed, delegation, note, parent, signed};
use crate::common::kernel::Kernel;
use crate::common::{Draft, START_MS, Scenario, kernel_key, millis, other_kernel_key, run_id, stranger_key};
use crate::{claims, gaps, rejections, verify};

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
    let last = scenario.operator_after.pop().unwrap();
    scenario.left_out = std::mem::take(&mut scenario.other_entries);
    let report = verify(&scenario.pack());
    assert_eq!(rejections(&report), []);
    assert!(gaps(&report).contains(&Gap::DelegatorUnproven) && !claims(&report).contains(&"delegations"));
    scenario.operator_after.push(last);
    assert_eq!(rejections(&verify(&scenario.pack())), [Code::KeyNotGranted]);
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
