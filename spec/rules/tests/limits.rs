//! Every meter in every scope and window: reached exactly, never passed, and nothing held by what was refused.
#![allow(clippy::unwrap_used)]

use sift_rules::budget::Budget;
use sift_rules::ledger::{Ledger, Open, Reserve, Settle};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{DepthRefusal, Identical, LimitRefusal, Refusal, Scope, WallClock, Window};
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};

const LIMIT: u64 = 7;
const HOUR_MS: u64 = 3_600_000;

fn at(ms: u64) -> UnixMillis {
    UnixMillis::new(ms).unwrap()
}

fn run(n: u8) -> RunId {
    RunId::from_parts(at(0), &[n; 10])
}

fn open(ledger: &mut Ledger, n: u8, agent: &str, budget: &Budget, parent: Option<u8>) {
    let (agent, limits) = (agent.parse().unwrap(), budget.limits().clone());
    let parent = parent.map(run);
    ledger.open(&Open { agent, depth: 0, limits, parent, run: run(n), time: at(0) }).unwrap();
}

fn reserve(n: u8, seq: u64, amounts: Amounts, time: u64) -> Reserve {
    Reserve { amounts, identity: None, run: run(n), seq: Seq::new(seq).unwrap(), time: at(time) }
}

fn settle(n: u8, seq: u64, settled: Amounts, time: u64) -> Settle {
    Settle { run: run(n), seq: Seq::new(seq).unwrap(), settled, time: at(time) }
}

/// All that a ledger counts, seen through every door.
fn sums(ledger: &Ledger, time: u64) -> Vec<Option<Amounts>> {
    let windows = [Window::Run, Window::Hour, Window::Day];
    let mut sums = Vec::new();
    for n in 1..=3 {
        sums.extend([ledger.held(run(n)), ledger.settled(run(n))]);
    }
    for window in windows {
        sums.push(Some(ledger.kernel_total(window, at(time))));
        for agent in ["a", "b"] {
            sums.push(Some(ledger.agent_total(&agent.parse().unwrap(), window, at(time))));
        }
    }
    sums
}

#[test]
fn every_meter_in_every_scope_and_window_is_reached_and_not_passed() {
    let scopes = [("run", Scope::Run), ("agent", Scope::Agent), ("kernel", Scope::Kernel)];
    let windows = [("", Window::Run), (".hour", Window::Hour), (".day", Window::Day)];
    let mut rows = 0;
    for (scope_name, scope) in scopes {
        for (window_name, window) in windows {
            for meter in Meter::ALL {
                rows += 1;
                let name = format!("[{scope_name}{window_name}] {meter}");
                let text = format!("[{scope_name}{window_name}]\n{meter} = {LIMIT}\n");
                let budget = Budget::parse("budget.toml", &text).unwrap();
                let amount = |n: u64| Amounts::ZERO.with(meter, n);
                let mut ledger = Ledger::default();
                // 1 and 2 are of one agent, 2 below 1; 3 is of another agent.
                open(&mut ledger, 1, "a", &budget, None);
                open(&mut ledger, 2, "a", &budget, Some(1));
                open(&mut ledger, 3, "b", &budget, None);
                // Up to the limit: settled in part, the rest held, by two runs that both count in all three scopes.
                ledger.reserve(&reserve(1, 1, amount(4), 0)).unwrap().unwrap();
                assert_eq!(ledger.settle(&settle(1, 1, amount(3), 1)).unwrap().over, None);
                ledger.reserve(&reserve(2, 1, amount(LIMIT - 3), 2)).unwrap().unwrap();
                // One above is refused, whoever of them asks, and whatever else the call needs; and nothing is held.
                let before = sums(&ledger, 2);
                for n in [1, 2] {
                    let more = Amounts::ZERO.with(Meter::ToolCalls, 1).with(Meter::Tokens, 1);
                    // The child's own run has room where its limit is on the run; that of the run above has not.
                    let have = match (scope, n) {
                        (Scope::Run, 2) => LIMIT - 3,
                        _ => LIMIT,
                    };
                    let need = if have == LIMIT { 1 } else { 4 };
                    let refused = ledger.reserve(&reserve(n, 9, more.with(meter, need), 2)).unwrap();
                    let expected = LimitRefusal { have, limit: LIMIT, meter, need, scope, window };
                    assert_eq!(refused, Err(Refusal::Limit(expected)), "{name}, run {n}");
                    assert_eq!(sums(&ledger, 2), before, "{name}: nothing is held");
                }
                let up = ledger.reserve(&reserve(2, 10, amount(1), 2)).unwrap();
                assert!(up.is_err(), "{name}: the run above has no room, or the scope has none");
                assert_eq!(sums(&ledger, 2), before, "{name}: nothing is held");
                // Another meter is free.
                let other = if meter == Meter::Agents { Meter::ToolCalls } else { Meter::Agents };
                let free = reserve(1, 11, Amounts::ZERO.with(other, 1), 2);
                assert_eq!(ledger.reserve(&free).unwrap(), Ok(()), "{name}");
                // Outside of the scope there is room.
                let outside = ledger.reserve(&reserve(3, 1, amount(1), 2)).unwrap();
                assert_eq!(outside.is_ok(), scope != Scope::Kernel, "{name}");
                // A window forgets what was settled, and never what is held.
                let later = match window {
                    Window::Run => 100 * 24 * HOUR_MS,
                    Window::Hour => HOUR_MS + 60_000,
                    Window::Day => 24 * HOUR_MS + 60_000,
                };
                let forgotten = if window == Window::Run { 0 } else { 3 };
                let over = ledger.reserve(&reserve(1, 12, amount(forgotten + 1), later)).unwrap();
                assert!(over.is_err(), "{name}: what is held counts in every window");
                if forgotten > 0 {
                    let room = ledger.reserve(&reserve(1, 13, amount(forgotten), later)).unwrap();
                    assert_eq!(room, Ok(()), "{name}: what was settled has left the window");
                }
            }
        }
    }
    println!("{rows} rows: {} meters x 3 scopes x 3 windows", Meter::COUNT);
}

#[test]
fn depth_identical_calls_and_wall_clock_are_reached_and_not_passed() {
    let text = "[run]\ndepth = 1\nidentical_calls = 2\nwall_clock_seconds = 5\n";
    let budget = Budget::parse("budget.toml", text).unwrap();
    let mut ledger = Ledger::default();
    open(&mut ledger, 1, "a", &budget, None);
    let agent = Amounts::ZERO.with(Meter::Agents, 1);
    ledger.reserve(&reserve(1, 1, agent, 0)).unwrap().unwrap();
    open(&mut ledger, 2, "a", &budget, Some(1));
    let before = sums(&ledger, 0);
    let deep = ledger.reserve(&reserve(2, 1, agent, 0)).unwrap();
    assert_eq!(deep, Err(Refusal::Depth(DepthRefusal { have: 1, limit: 1 })));
    assert_eq!(sums(&ledger, 0), before);
    // Identical calls are counted in the whole run, whatever comes between them: A, B, A, B, A.
    let call = |seq, identity: u8, time| Reserve {
        identity: Some(Hash::from_bytes([identity; 32])),
        ..reserve(2, seq, Amounts::ZERO.with(Meter::ToolCalls, 1), time)
    };
    for (seq, identity) in [(2, 1), (3, 2), (4, 1), (5, 2)] {
        ledger.reserve(&call(seq, identity, 0)).unwrap().unwrap();
    }
    let before = sums(&ledger, 0);
    for identity in [1, 2] {
        let looped = ledger.reserve(&call(6, identity, 0)).unwrap();
        assert_eq!(looped, Err(Refusal::Identical(Identical { have: 2, limit: 2 })));
        assert_eq!(sums(&ledger, 0), before);
    }
    ledger.reserve(&call(6, 3, 5_000)).unwrap().unwrap();
    let before = sums(&ledger, 5_001);
    let late = ledger.reserve(&call(7, 4, 5_001)).unwrap();
    assert_eq!(late, Err(Refusal::WallClock(WallClock { have_ms: at(5_001), limit_ms: at(5_000) })));
    assert_eq!(sums(&ledger, 5_001), before);
}
