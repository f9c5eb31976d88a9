//! The ledger against a plain model that keeps every event and adds everything up each time.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use sift_rules::ledger::{Applied, Close, Event, Ledger, LedgerError, Open, Reserve, Settle};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{Limits, MeterLimit, Refusal, Scope, Window};
use sift_spec::types::{Hash, INTEGER_MAX, RunId, Seq, UnixMillis};

fn at(ms: u64) -> UnixMillis {
    UnixMillis::new(ms).unwrap()
}

fn run(n: u8) -> RunId {
    RunId::from_parts(at(1), &[n; 10])
}

fn calls(n: u64) -> Amounts {
    Amounts::ZERO.with(Meter::ToolCalls, n)
}

fn limit(scope: Scope, window: Window, limit: u64) -> MeterLimit {
    MeterLimit { limit, meter: Meter::ToolCalls, scope, window }
}

fn limits(meters: Vec<MeterLimit>) -> Limits {
    Limits { meters, ..Limits::default() }
}

fn open(n: u8, parent: Option<u8>, limits: Limits, time: u64) -> Open {
    Open {
        agent: "a".parse().unwrap(),
        depth: 0,
        limits,
        parent: parent.map(run),
        run: run(n),
        time: at(time),
    }
}

fn reserve(n: u8, seq: u64, amounts: Amounts, time: u64) -> Reserve {
    Reserve { amounts, identity: None, run: run(n), seq: Seq::new(seq).unwrap(), time: at(time) }
}

fn settle(n: u8, seq: u64, settled: Amounts, time: u64) -> Settle {
    Settle { run: run(n), seq: Seq::new(seq).unwrap(), settled, time: at(time) }
}

#[test]
fn a_sub_agent_draws_on_the_runs_above_it() {
    let mut ledger = Ledger::default();
    ledger.open(&open(1, None, limits(vec![limit(Scope::Run, Window::Run, 3)]), 10)).unwrap();
    ledger.open(&open(2, Some(1), limits(vec![limit(Scope::Run, Window::Run, 100)]), 11)).unwrap();
    assert_eq!(ledger.reserve(&reserve(2, 1, calls(2), 12)), Ok(Ok(())));
    assert_eq!(ledger.reserve(&reserve(1, 1, calls(1), 12)), Ok(Ok(())));
    let Ok(Err(Refusal::Limit(refusal))) = ledger.reserve(&reserve(2, 2, calls(1), 12)) else { panic!() };
    assert_eq!((refusal.have, refusal.need, refusal.limit), (3, 1, 3));
    // A refusal has changed nothing: the same seq may ask again once there is room.
    ledger.settle(&settle(1, 1, calls(0), 13)).unwrap();
    assert_eq!(ledger.reserve(&reserve(2, 2, calls(1), 14)), Ok(Ok(())));
    assert_eq!(ledger.held(run(1)), Some(calls(3)));
    assert_eq!(ledger.held(run(2)), Some(calls(3)));
}

#[test]
fn windows_let_go() {
    let mut ledger = Ledger::default();
    let bounded = limits(vec![limit(Scope::Agent, Window::Hour, 2)]);
    ledger.open(&open(1, None, bounded.clone(), 0)).unwrap();
    ledger.reserve(&reserve(1, 1, calls(2), 0)).unwrap().unwrap();
    ledger.settle(&settle(1, 1, calls(2), 60_000)).unwrap();
    ledger.close(&Close { run: run(1), time: at(60_000) }).unwrap();
    // Another run of the same agent: the bucket of minute 1 counts until its newest millisecond is out.
    ledger.open(&open(2, None, bounded, 60_000)).unwrap();
    assert!(ledger.reserve(&reserve(2, 1, calls(1), 119_999 + 3_600_000 - 1)).unwrap().is_err());
    assert!(ledger.reserve(&reserve(2, 1, calls(1), 119_999 + 3_600_000)).unwrap().is_ok());
}

#[test]
fn identical_calls_wall_clock_and_depth() {
    let mut ledger = Ledger::default();
    let bounded = Limits {
        depth: Some(1),
        identical_calls: Some(2),
        wall_clock_ms: Some(at(1000)),
        ..Limits::default()
    };
    ledger.open(&open(1, None, bounded, 500)).unwrap();
    let same =
        |seq, time| Reserve { identity: Some(Hash::from_bytes([7; 32])), ..reserve(1, seq, calls(1), time) };
    ledger.reserve(&same(1, 500)).unwrap().unwrap();
    ledger.settle(&settle(1, 1, calls(1), 500)).unwrap();
    ledger.reserve(&same(2, 500)).unwrap().unwrap();
    assert!(matches!(ledger.reserve(&same(3, 500)), Ok(Err(Refusal::Identical(found))) if found.have == 2));
    let agent = Amounts::ZERO.with(Meter::Agents, 1);
    ledger.reserve(&reserve(1, 3, agent, 500)).unwrap().unwrap();
    ledger.open(&open(2, Some(1), Limits::default(), 600)).unwrap();
    assert!(
        matches!(ledger.reserve(&reserve(2, 1, agent, 600)), Ok(Err(Refusal::Depth(found))) if (found.have, found.limit) == (1, 1)),
        "the depth allowed by the run above counts"
    );
    let deeper = ledger.open(&open(3, Some(2), Limits::default(), 600));
    assert_eq!(deeper, Err(LedgerError::Depth { depth: 2, limit: 1 }));
    ledger.reserve(&reserve(2, 1, calls(1), 1500)).unwrap().unwrap();
    assert!(matches!(ledger.reserve(&reserve(2, 2, calls(1), 1501)), Ok(Err(Refusal::WallClock(_)))));
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let mut ledger = Ledger::default();
    ledger.open(&open(1, None, Limits::default(), 100)).unwrap();
    ledger.reserve(&reserve(1, 5, calls(1), 100)).unwrap().unwrap();
    let before = ledger.clone();
    let seq = |n| Seq::new(n).unwrap();
    let huge = calls(INTEGER_MAX);
    for (event, error) in [
        (Event::Open(open(1, None, Limits::default(), 100)), LedgerError::RunExists(run(1))),
        (Event::Open(open(2, Some(3), Limits::default(), 100)), LedgerError::RunUnknown(run(3))),
        (
            Event::Open(open(2, None, Limits::default(), 99)),
            LedgerError::TimeBackwards { time: at(99), latest: at(100) },
        ),
        (
            Event::Reserve(reserve(1, 5, calls(1), 100)),
            LedgerError::SeqNotAfter { seq: seq(5), last: seq(5) },
        ),
        (
            Event::Reserve(reserve(1, 4, calls(1), 100)),
            LedgerError::SeqNotAfter { seq: seq(4), last: seq(5) },
        ),
        (Event::Reserve(reserve(2, 1, calls(1), 100)), LedgerError::RunUnknown(run(2))),
        (Event::Reserve(reserve(1, 6, huge, 100)), LedgerError::Overflow),
        (Event::Settle(settle(1, 6, calls(1), 100)), LedgerError::NoHold { run: run(1), seq: seq(6) }),
        (Event::Settle(settle(2, 5, calls(1), 100)), LedgerError::RunUnknown(run(2))),
        (Event::Close(Close { run: run(1), time: at(100) }), LedgerError::HoldsOpen(1)),
        (Event::Close(Close { run: run(9), time: at(100) }), LedgerError::RunUnknown(run(9))),
    ] {
        assert_eq!(ledger.apply(&event), Err(error), "{event:?}");
        assert_eq!(ledger, before, "{event:?}");
    }
    ledger.settle(&settle(1, 5, calls(1), 100)).unwrap();
    let settled = ledger.clone();
    assert!(matches!(ledger.settle(&settle(1, 5, calls(1), 100)), Err(LedgerError::NoHold { .. })));
    assert_eq!(ledger, settled);
}

#[test]
fn overspending_is_recorded_in_full_and_reported() {
    let mut ledger = Ledger::default();
    ledger.open(&open(1, None, limits(vec![limit(Scope::Run, Window::Run, 5)]), 0)).unwrap();
    ledger.reserve(&reserve(1, 1, calls(1), 0)).unwrap().unwrap();
    assert_eq!(ledger.settle(&settle(1, 1, calls(9), 0)).unwrap().over, Some(Meter::ToolCalls));
    assert_eq!(ledger.settled(run(1)), Some(calls(9)));
    assert!(ledger.reserve(&reserve(1, 2, calls(1), 0)).unwrap().is_err());
    // What needs none of the meter is not refused for it.
    assert!(ledger.reserve(&reserve(1, 2, Amounts::ZERO.with(Meter::ModelCalls, 1), 0)).unwrap().is_ok());
}

#[test]
fn a_run_is_forgotten_with_the_runs_below_it() {
    let mut ledger = Ledger::default();
    ledger.open(&open(1, None, limits(vec![limit(Scope::Run, Window::Run, 2)]), 0)).unwrap();
    ledger.open(&open(2, Some(1), Limits::default(), 0)).unwrap();
    ledger.close(&Close { run: run(1), time: at(0) }).unwrap();
    assert!(ledger.reserve(&reserve(1, 1, calls(1), 0)).is_err(), "a closed run takes nothing");
    assert!(ledger.reserve(&reserve(2, 1, calls(3), 0)).unwrap().is_err(), "but its limits still hold");
    ledger.close(&Close { run: run(2), time: at(0) }).unwrap();
    assert_eq!(ledger.runs().count(), 0);
}

#[test]
fn a_cap_is_never_passed_by_256_interleaved_callers() {
    let mut ledger = Ledger::default();
    let cap = 1000;
    let bounded = limits(vec![limit(Scope::Agent, Window::Day, cap), limit(Scope::Kernel, Window::Day, cap)]);
    for n in 0..=255 {
        ledger.open(&open(n, None, bounded.clone(), 0)).unwrap();
    }
    // A small generator: the order is arbitrary but the same in every run of this test.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let mut seqs = [0_u64; 256];
    let mut under_way: Vec<(u8, u64, u64)> = Vec::new();
    let (mut granted, mut refused, mut billed) = (0, 0, 0);
    for time in 0..40_000 {
        if next(2) == 0 || under_way.is_empty() {
            let n = next(256) as u8;
            let need = 1 + next(9);
            let seq = seqs[usize::from(n)] + 1;
            match ledger.reserve(&reserve(n, seq, calls(need), time)).unwrap() {
                Ok(()) => {
                    seqs[usize::from(n)] = seq;
                    under_way.push((n, seq, need));
                    granted += 1;
                }
                Err(_) => refused += 1,
            }
        } else {
            let (n, seq, need) = under_way.swap_remove(next(under_way.len() as u64) as usize);
            let actual = next(need + 1);
            billed += actual;
            assert_eq!(ledger.settle(&settle(n, seq, calls(actual), time)).unwrap().over, None);
        }
        let held: u64 = under_way.iter().map(|(_, _, need)| need).sum();
        let total = ledger.kernel_total(Window::Day, at(time)).get(Meter::ToolCalls);
        assert_eq!(total, held + billed, "conservation");
        assert!(total <= cap, "overshoot: {total}");
        assert_eq!(
            ledger.agent_total(&"a".parse().unwrap(), Window::Day, at(time)).get(Meter::ToolCalls),
            total
        );
    }
    assert!(granted > 200 && refused > 1000, "{granted} {refused}");
}

/// Keeps every event; sums are recomputed from all of them.
#[derive(Default)]
struct Model {
    runs: BTreeMap<u8, (Option<u8>, Limits)>,
    holds: BTreeMap<(u8, u64), u64>,
    settled: Vec<(u8, u64, u64)>,
}

impl Model {
    fn is_below(&self, run: u8, above: u8) -> bool {
        run == above || self.runs[&run].0.is_some_and(|parent| self.is_below(parent, above))
    }

    fn have(&self, scope: Scope, window: Window, of: u8, time: u64) -> u64 {
        let counts = |run: u8| scope != Scope::Run || self.is_below(run, of);
        let in_window = |settled: u64| {
            let newest = settled / 60_000 * 60_000 + 59_999;
            match window {
                Window::Run => true,
                Window::Hour => newest + 3_600_000 > time,
                Window::Day => newest + 86_400_000 > time,
            }
        };
        let held: u64 = self.holds.iter().filter(|((run, _), _)| counts(*run)).map(|(_, n)| n).sum();
        let settled = self.settled.iter().filter(|(run, _, when)| counts(*run) && in_window(*when));
        held + settled.map(|(_, n, _)| n).sum::<u64>()
    }

    fn allows(&self, run: u8, need: u64, time: u64) -> bool {
        let (parent, limits) = &self.runs[&run];
        let fits = |owner: u8, limit: &MeterLimit| {
            self.have(limit.scope, limit.window, owner, time) + need <= limit.limit
        };
        let mut above = *parent;
        let mut fine = limits.meters.iter().all(|limit| fits(run, limit));
        while let Some(owner) = above {
            let (parent, limits) = &self.runs[&owner];
            fine &= limits
                .meters
                .iter()
                .filter(|limit| limit.scope == Scope::Run)
                .all(|limit| fits(owner, limit));
            above = *parent;
        }
        fine
    }
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let scopes = [Scope::Agent, Scope::Kernel, Scope::Run];
    let windows = [Window::Day, Window::Hour, Window::Run];
    proptest::collection::btree_map((0..3_usize, 0..3_usize), 5..60_u64, 0..5).prop_map(move |map| {
        limits(map.into_iter().map(|((s, w), n)| limit(scopes[s], windows[w], n)).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_ledger_agrees_with_the_model(
        runs in proptest::collection::vec((any_limits(), proptest::option::of(0..8_u8)), 1..8),
        steps in proptest::collection::vec((0..8_u8, 1..12_u64, 0..4_u8, 0..20_u64, 0..600_000_u64), 1..120),
    ) {
        let mut ledger = Ledger::default();
        let mut model = Model::default();
        let mut time = 0;
        for (n, (limits, parent)) in runs.iter().enumerate() {
            let n = n as u8;
            let parent = parent.filter(|parent| *parent < n);
            ledger.open(&open(n, parent, limits.clone(), time)).unwrap();
            model.runs.insert(n, (parent, limits.clone()));
        }
        for (seq, (n, need, kind, actual, later)) in steps.into_iter().enumerate() {
            let (n, seq) = (n % runs.len() as u8, seq as u64);
            time += later;
            if kind < 2 {
                let expected = model.allows(n, need, time);
                let applied = ledger.apply(&Event::Reserve(reserve(n, seq, calls(need), time))).unwrap();
                prop_assert_eq!(applied == Applied::Reserved, expected);
                if expected {
                    model.holds.insert((n, seq), need);
                }
            } else if let Some((&(n, seq), &held)) = model.holds.iter().next() {
                let found = ledger.settle(&settle(n, seq, calls(actual), time)).unwrap();
                prop_assert_eq!(found.over.is_some(), actual > held);
                model.holds.remove(&(n, seq));
                model.settled.push((n, actual, time));
            }
            // The state survives being stored.
            let stored = serde_json::to_string(&ledger).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Ledger>(&stored).unwrap(), &ledger);
            for window in [Window::Run, Window::Hour, Window::Day] {
                let total = ledger.kernel_total(window, at(time)).get(Meter::ToolCalls);
                prop_assert_eq!(total, model.have(Scope::Kernel, window, 0, time));
            }
            for n in 0..runs.len() as u8 {
                let total = ledger.held(run(n)).unwrap().checked_add(&ledger.settled(run(n)).unwrap()).unwrap();
                prop_assert_eq!(total.get(Meter::ToolCalls), model.have(Scope::Run, Window::Run, n, time));
            }
        }
    }
}
