//! Calls of many runs, interleaved at random, with kills in between: what is held and settled stays within every limit,
//! and what comes back from a snapshot and the records since is what was there.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sift_rules::ledger::{Applied, Close, Event, Ledger, Open, Reserve, Settle};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{Limits, MeterLimit, Scope, Window};
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};

const METERS: [Meter; 3] = [Meter::MicroUsd, Meter::Tokens, Meter::ToolCalls];

fn at(ms: u64) -> UnixMillis {
    UnixMillis::new(ms).unwrap()
}

fn run(n: usize) -> RunId {
    RunId::from_parts(at(0), &[n as u8; 10])
}

/// What a kernel has on disk: a snapshot, and the records since. A kill leaves this and nothing else.
struct Disk {
    snapshot: String,
    since: Vec<Event>,
}

/// A kernel's ledger, and everything that ever happened to it.
struct World {
    ledger: Ledger,
    disk: Disk,
    /// Limits of each run, and the run above it.
    runs: Vec<(Limits, Option<usize>)>,
    open: BTreeSet<usize>,
    holds: BTreeMap<(usize, Seq), Amounts>,
    /// What was settled: by which run, of what, when.
    settled: Vec<(usize, Amounts, u64)>,
    /// Meters of which more was billed than held.
    over: BTreeSet<Meter>,
    seq: u64,
    time: u64,
}

impl World {
    fn apply(&mut self, event: Event) -> Applied {
        let applied = self.ledger.apply(&event).unwrap();
        // A refused call is a record as well, and changes nothing when it is folded again.
        if !matches!(applied, Applied::Refused(_)) {
            self.disk.since.push(event);
        }
        applied
    }

    fn open(&mut self, limits: Limits, parent: Option<usize>) {
        let (n, time) = (self.runs.len(), at(self.time));
        let agent = format!("agent-{}", n % 2).parse().unwrap();
        let above = parent.map(run);
        self.apply(Event::Open(Open {
            agent,
            depth: 0,
            limits: limits.clone(),
            parent: above,
            run: run(n),
            time,
        }));
        self.runs.push((limits, parent));
        self.open.insert(n);
    }

    fn reserve(&mut self, n: usize, amounts: Amounts, identity: u8) {
        self.seq += 1;
        let (seq, time) = (Seq::new(self.seq).unwrap(), at(self.time));
        let identity = Some(Hash::from_bytes([identity; 32]));
        let before = self.ledger.clone();
        match self.apply(Event::Reserve(Reserve { amounts, identity, run: run(n), seq, time })) {
            Applied::Reserved => drop(self.holds.insert((n, seq), amounts)),
            _ => assert_eq!(
                self.ledger.kernel_total(Window::Run, time),
                before.kernel_total(Window::Run, time)
            ),
        }
    }

    fn settle(&mut self, which: usize, settled: impl FnOnce(&Amounts) -> Amounts) {
        let Some((&(n, seq), &held)) = self.holds.iter().nth(which % self.holds.len().max(1)) else { return };
        let (settled, time) = (settled(&held), at(self.time));
        let first = settled.first_above(&held);
        let Applied::Settled(found) = self.apply(Event::Settle(Settle { run: run(n), seq, settled, time }))
        else {
            panic!()
        };
        assert_eq!(found.over, first, "what is above the hold is said");
        self.over.extend(Meter::ALL.iter().filter(|meter| settled.get(**meter) > held.get(**meter)));
        self.holds.remove(&(n, seq));
        self.settled.push((n, settled, self.time));
    }

    fn close(&mut self, n: usize) {
        if self.open.contains(&n) && !self.holds.keys().any(|(run, _)| *run == n) {
            self.apply(Event::Close(Close { run: run(n), time: at(self.time) }));
            self.open.remove(&n);
        }
    }

    /// Kill and restart: what is not on disk is gone, and what was under way is settled in full.
    fn restart(&mut self) {
        let mut ledger: Ledger = serde_json::from_str(&self.disk.snapshot).unwrap();
        for event in &self.disk.since {
            assert!(
                !matches!(ledger.apply(event).unwrap(), Applied::Refused(_)),
                "what was held is held again"
            );
        }
        // All but the time of the last call that was refused, of which nothing is kept.
        let kept = |ledger: &Ledger| {
            let mut kept = serde_json::to_value(ledger).unwrap();
            kept["time"].take();
            kept
        };
        assert_eq!(kept(&ledger), kept(&self.ledger));
        self.ledger = ledger;
        while !self.holds.is_empty() {
            self.settle(0, |held| *held);
        }
    }

    fn is_below(&self, n: usize, above: usize) -> bool {
        n == above || self.runs[n].1.is_some_and(|parent| self.is_below(parent, above))
    }

    /// What counts by the records alone, without the ledger.
    fn have(&self, limit: &MeterLimit, of: usize) -> u64 {
        let counts = |n: usize| match limit.scope {
            Scope::Run => self.is_below(n, of),
            Scope::Agent => n % 2 == of % 2,
            Scope::Kernel => true,
        };
        let in_window = |when: u64| {
            let newest = when / 60_000 * 60_000 + 59_999;
            match limit.window {
                Window::Run => true,
                Window::Hour => newest + 3_600_000 > self.time,
                Window::Day => newest + 86_400_000 > self.time,
            }
        };
        let held = self.holds.iter().filter(|((n, _), _)| counts(*n)).map(|(_, held)| held.get(limit.meter));
        let settled = self.settled.iter().filter(|(n, _, when)| counts(*n) && in_window(*when));
        held.sum::<u64>() + settled.map(|(_, settled, _)| settled.get(limit.meter)).sum::<u64>()
    }

    /// INVARIANT: held + settled is within every limit, of every scope and window, unless more was billed than held.
    fn check(&self) {
        for n in &self.open {
            for limit in self.runs[*n].0.meters.iter().filter(|limit| !self.over.contains(&limit.meter)) {
                let have = self.have(limit, *n);
                assert!(have <= limit.limit, "run {n}: {have} of {limit:?}");
            }
        }
        for (position, window) in [Window::Run, Window::Hour, Window::Day].into_iter().enumerate() {
            let total = self.ledger.kernel_total(window, at(self.time));
            let limit = |meter| MeterLimit { limit: 0, meter, scope: Scope::Kernel, window };
            for meter in METERS {
                assert_eq!(total.get(meter), self.have(&limit(meter), position % self.runs.len()));
            }
        }
    }
}

fn meter_limits(scopes: &'static [Scope]) -> impl Strategy<Value = Vec<MeterLimit>> {
    let windows = [Window::Day, Window::Hour, Window::Run];
    let keys = (0..scopes.len(), 0..3_usize, 0..3_usize);
    proptest::collection::btree_map(keys, 5..80_u64, 0..6).prop_map(move |map| {
        let limits = map.into_iter().map(|((scope, window, meter), limit)| MeterLimit {
            limit,
            meter: METERS[meter],
            scope: scopes[scope],
            window: windows[window],
        });
        limits.collect()
    })
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { run: usize, amounts: [u64; 3], identity: u8 },
    Settle { which: usize, part: u64 },
    Overbilled { which: usize, more: u64 },
    Close { run: usize },
    Snapshot,
    Kill,
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8_usize, [0..9_u64, 0..9, 0..9], 0..4_u8)
            .prop_map(|(run, amounts, identity)| Step::Reserve { run, amounts, identity }),
        5 => (0..64_usize, 0..=100_u64).prop_map(|(which, part)| Step::Settle { which, part }),
        1 => (0..64_usize, 1..9_u64).prop_map(|(which, more)| Step::Overbilled { which, more }),
        1 => (0..8_usize).prop_map(|run| Step::Close { run }),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Kill),
        3 => prop_oneof![1..60_000_u64, Just(3_600_000), Just(43_200_000)].prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn limits_hold_through_interleavings_and_kills(
        wide in meter_limits(&[Scope::Agent, Scope::Kernel]),
        own in proptest::collection::vec(
            (meter_limits(&[Scope::Run]), proptest::option::of(0..8_usize), proptest::option::of(1..5_u32)),
            1..8,
        ),
        overbilled in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let ledger = Ledger::default();
        let disk = Disk { snapshot: serde_json::to_string(&ledger).unwrap(), since: Vec::new() };
        let mut world = World {
            ledger, disk, runs: Vec::new(), open: BTreeSet::new(), holds: BTreeMap::new(), settled: Vec::new(),
            over: BTreeSet::new(), seq: 0, time: 0,
        };
        for (own, parent, identical_calls) in own {
            // Limits over agents and the kernel are the bundle's, and so the same for all.
            let mut meters: Vec<MeterLimit> = wide.iter().copied().chain(own).collect();
            meters.sort_by_key(MeterLimit::key);
            let parent = parent.filter(|parent| *parent < world.runs.len());
            world.open(Limits { identical_calls, meters, ..Limits::default() }, parent);
        }
        for step in steps {
            match step {
                Step::Reserve { run, amounts, identity } => {
                    let n = run % world.runs.len();
                    if world.open.contains(&n) {
                        let amounts = METERS.into_iter().zip(amounts);
                        let amounts = amounts.fold(Amounts::ZERO, |sum, (meter, n)| sum.with(meter, n));
                        world.reserve(n, amounts, identity);
                    }
                }
                Step::Settle { which, part } => world.settle(which, |held| {
                    METERS.into_iter().fold(*held, |sum, meter| sum.with(meter, held.get(meter) * part / 100))
                }),
                Step::Overbilled { which, more } if overbilled => world.settle(which, |held| {
                    held.with(Meter::MicroUsd, held.get(Meter::MicroUsd) + more)
                }),
                Step::Overbilled { .. } => {}
                Step::Close { run } => world.close(run % world.runs.len()),
                Step::Snapshot => {
                    world.disk = Disk { snapshot: serde_json::to_string(&world.ledger).unwrap(), since: Vec::new() };
                }
                Step::Kill => world.restart(),
                Step::Wait { ms } => world.time += ms,
            }
            world.check();
        }
    }
}
