//! Sums where the pack does not hold everything: other runs at the same kernel, a bundle or arguments that are withheld.
//! What can be told is told, and the rest is said to be unchecked.

use sift_spec::evidence::Pack;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::record::{
    Call, DepthRefusal, Identical, LimitRefusal, Refusal, Scope, Status, Unpriced, WallClock, Window,
};
use sift_spec::types::Text;
use sift_verify::{Code, Gap};

use crate::common::bad_runs::{intent, outcome};
use crate::common::kernel::{BUDGET, Kernel, honest};
use crate::common::{Scenario, millis};
use crate::{gaps, rejections, verify};

fn calls(have: u64, limit: u64, need: u64) -> Refusal {
    let (scope, window) = (Scope::Run, Window::Run);
    Refusal::Limit(LimitRefusal { have, limit, meter: Meter::ToolCalls, need, scope, window })
}

fn wall_clock(have: u64, limit: u64) -> Refusal {
    Refusal::WallClock(WallClock { have_ms: millis(have), limit_ms: millis(limit) })
}

/// A run in which one call ran, and then a call of each kind: the one of `kind` refused as stated.
fn refused(mut kernel: Kernel, kind: &str, stated: Refusal) -> Scenario {
    let call = kernel.tool("lookup", b"{}");
    kernel.finish(call, Status::Ok, b"{}", None);
    kernel.elsewhere = Some(stated);
    match kind {
        "agent" => kernel.agent(),
        "model" => kernel.model(b"{}"),
        _ => kernel.tool("lookup", b"{}"),
    };
    kernel.close()
}

/// Limits that this run does not have, and sums of which its own use is only a part: a run above it may have refused so.
#[test]
fn a_run_above_may_refuse_what_this_run_alone_would_not() {
    for (kind, stated, possible) in [
        ("tool", calls(2, 2, 1), true),
        ("tool", calls(1, 1, 1), true),
        ("tool", calls(0, 0, 1), false), // one call of this run alone has settled more
        ("tool", calls(2, 2, 2), false), // a call needs one
        ("tool", wall_clock(9_000, 8_000), true),
        ("tool", wall_clock(2_000, 1_000), false), // the run above is no younger
        ("tool", Refusal::Identical(Identical { have: 1, limit: 1 }), false),
        ("agent", Refusal::Depth(DepthRefusal { have: 1, limit: 1 }), true),
        ("agent", Refusal::Depth(DepthRefusal { have: 2, limit: 1 }), false),
        ("tool", Refusal::Depth(DepthRefusal { have: 1, limit: 1 }), false),
        ("model", Refusal::Unpriced(Unpriced { model: Text::cut("gpt-4o") }), false), // it has a price
        ("model", Refusal::Unpriced(Unpriced { model: Text::cut("other") }), false),
    ] {
        let report = verify(&refused(Kernel::below(""), kind, stated.clone()).pack());
        let expected = if possible { vec![] } else { vec![Code::RefusalDiffers] };
        assert_eq!(rejections(&report), expected, "{stated:?}: {}", sift_verify::text::render(&report));
        assert!(gaps(&report).contains(&Gap::SumUnchecked));
        // A run that nobody started is refused by its own limits alone.
        let report = verify(&refused(Kernel::open(""), kind, stated.clone()).pack());
        assert_eq!(rejections(&report), [Code::RefusalDiffers], "{stated:?}");
    }
}

#[test]
fn what_this_run_alone_refuses_comes_before_the_runs_above() {
    for stated in [calls(5, 2, 1), calls(1, 1, 1)] {
        let kernel = Kernel::below("[run]\ntool_calls = 1\n");
        let mine = stated == calls(1, 1, 1);
        let report = verify(&refused(kernel, "tool", stated).pack());
        assert_eq!(rejections(&report).is_empty(), mine);
    }
}

fn without_bundle(scenario: &Scenario) -> Vec<Code> {
    let report = verify(&Pack { bundles: Default::default(), ..scenario.pack() });
    assert!(gaps(&report).contains(&Gap::BundleMissing));
    rejections(&report)
}

/// All but prices is checked without the bundle.
#[test]
fn sums_are_added_again_without_the_bundle() {
    type Case = (&'static str, Code, fn(&mut Scenario));
    let cases: &[Case] = &[
        ("a tool call that holds two", Code::ReservationDiffers, |s| {
            let two = Amounts::ZERO.with(Meter::ToolCalls, 2);
            (intent(s, 13).reserved, outcome(s, 14).settled) = (two, two);
        }),
        ("a model call that holds fewer tokens", Code::ReservationDiffers, |s| {
            let held = intent(s, 1).reserved;
            intent(s, 1).reserved = held.with(Meter::Tokens, held.get(Meter::Tokens) - 1);
        }),
        ("usage that is not what is settled", Code::CostDiffers, |s| {
            outcome(s, 2).model.as_mut().unwrap().usage = Usage { input: 20, output: 8, ..Usage::default() };
        }),
        ("more money settled than held", Code::Overspent, |s| {
            let settled = outcome(s, 2).settled;
            outcome(s, 2).settled = settled.with(Meter::MicroUsd, 9_000_000);
        }),
        ("a refusal of a later call", Code::RefusalDiffers, |s| {
            intent(s, 15).refusal = Some(calls(7, 6, 1));
        }),
        ("a refusal for want of a price, of a call that has none", Code::RefusalDiffers, |s| {
            intent(s, 15).refusal = Some(Refusal::Unpriced(Unpriced { model: Text::cut("gpt-4o") }));
        }),
    ];
    assert_eq!(without_bundle(&honest()), []);
    for (name, code, change) in cases {
        let mut scenario = honest();
        change(&mut scenario);
        assert_eq!(without_bundle(&scenario), [*code], "{name}");
    }
}

/// What a model call would have needed in money is then the record's word, and so is that a model has no price.
#[test]
fn a_refusal_over_money_is_as_good_as_its_sums() {
    let money = |have, limit, need| {
        let (scope, window) = (Scope::Run, Window::Run);
        Refusal::Limit(LimitRefusal { have, limit, meter: Meter::MicroUsd, need, scope, window })
    };
    let unpriced = Refusal::Unpriced(Unpriced { model: Text::cut("gpt-4o") });
    for (budget, stated, found) in [
        ("[run]\nmicro_usd = 10\n", money(0, 10, 11), vec![]),
        ("[run]\nmicro_usd = 10\n", money(5, 10, 11), vec![Code::RefusalDiffers]),
        ("[run]\nmicro_usd = 10\n", money(0, 9, 11), vec![Code::RefusalDiffers]),
        ("[run]\nmicro_usd = 10\n", unpriced.clone(), vec![]),
        ("[run]\ntool_calls = 10\n", unpriced, vec![Code::RefusalDiffers]),
    ] {
        assert_eq!(
            without_bundle(&refused(Kernel::open(budget), "model", stated.clone())),
            found,
            "{stated:?}"
        );
    }
}

#[test]
fn limits_wider_than_what_was_delegated_are_found_without_the_bundle() {
    let scenario = crate::common::delegated::delegated();
    assert_eq!(without_bundle(&scenario), []);
    let mut wider = scenario;
    let sift_spec::record::Body::Open(open) = &mut wider.drafts[0].body else { panic!() };
    open.limits.depth = Some(4);
    assert!(without_bundle(&wider).contains(&Code::LimitsDiffer));
}

/// Gives the tool calls at these places one object of arguments, and takes all arguments out of the pack.
fn share_arguments(scenario: &mut Scenario, places: &[usize]) -> Pack {
    let args = |scenario: &mut Scenario, at| match &mut intent(scenario, at).call {
        Call::Tool(call) => call.args.clone(),
        other => panic!("{other:?}"),
    };
    let shared = args(scenario, places[0]);
    for at in places {
        let Call::Tool(call) = &mut intent(scenario, *at).call else { panic!() };
        call.args = shared.clone();
    }
    let withheld: Vec<_> = [3, 5, 8, 9, 13, 15].map(|at| args(scenario, at).digest).into();
    let known: Vec<_> =
        scenario.drafts.iter().flat_map(|draft| format!("{:?}", draft.body).into_bytes()).collect();
    let known = String::from_utf8(known).unwrap();
    let mut pack = scenario.pack();
    pack.objects.retain(|digest, _| !withheld.contains(digest) && known.contains(&digest.to_string()));
    pack
}

#[test]
fn withheld_arguments_with_one_digest_are_the_same() {
    let said = |pack: &Pack| {
        let report = verify(pack);
        let unchecked = report.unchecked().iter().any(|gap| gap.detail.contains("identical"));
        (rejections(&report), unchecked)
    };
    // Calls 3 and 13 ran, and 15 was refused as the third of its kind.
    let mut scenario = honest();
    assert_eq!(said(&share_arguments(&mut scenario, &[3, 13, 15])), (vec![], false));
    // Of other objects nobody can tell whether they say the same.
    let mut scenario = honest();
    assert_eq!(said(&share_arguments(&mut scenario, &[3, 13])), (vec![], true));
    // But no more than all that ran.
    let mut scenario = honest();
    intent(&mut scenario, 15).refusal = Some(Refusal::Identical(Identical { have: 3, limit: 2 }));
    assert_eq!(said(&share_arguments(&mut scenario, &[3, 13])).0, [Code::RefusalDiffers]);
    // A third one that is let through is found.
    let mut scenario = honest();
    intent(&mut scenario, 15).refusal = None;
    intent(&mut scenario, 15).reserved = Amounts::ZERO.with(Meter::ToolCalls, 1);
    crate::insert_cancelled(&mut scenario, 15);
    assert_eq!(said(&share_arguments(&mut scenario, &[3, 13, 15])).0, [Code::BudgetExceeded]);
}

/// Arguments of another size are others.
#[test]
fn withheld_arguments_of_other_sizes_decide_nothing() {
    let mut kernel = Kernel::open(BUDGET);
    for args in [&b"{}"[..], b"{ }", b"{  }", b"{   }"] {
        let call = kernel.tool("lookup", args);
        kernel.finish(call, Status::Ok, b"{}", None);
    }
    let mut pack = kernel.close().pack();
    pack.objects.clear();
    assert!(!gaps(&verify(&pack)).contains(&Gap::SumUnchecked));
}
