//! How the kernel stands each way in which a log can misbehave, in both modes: as a table.
//!
//! Whatever the log does, nothing counts as logged that is not proven, nothing is lost, and only what the log signed
//! stops the kernel for good. Everything else is a log that is behind: mode `log` permits nothing, mode `spool` goes on
//! until its limits halt the runs; and when the log is honest again everything reaches it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sift_client::{
    DispatchError, HaltCause, Mode, OpenError, Payload, ProposeError, Report, Run, Stop, Verdict,
};

use crate::harness::{House, Lie, eventually, open_run, tool};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Lies(Lie),
    /// 503 with a problem.
    Down,
    /// Every record is put off.
    PutsOff,
    /// A longer tree with another beginning.
    Rewrites,
    /// A smaller tree.
    RollsBack,
}

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Calls go on, late.
    GoesOn,
    /// As if it did not answer, and all is well once it is honest.
    Behind,
    /// As if it did not answer, for good: the other history never becomes the one that was seen.
    NeverAgain,
    /// The kernel stops for good and keeps both heads.
    Fork,
}

const TABLE: [(&str, Manner, Expected); 16] = [
    ("unreachable", Manner::Lies(Lie::Unreachable), Expected::Behind),
    ("slow: 1.5 s", Manner::Lies(Lie::Slow(1500)), Expected::GoesOn),
    ("503, not writing", Manner::Down, Expected::Behind),
    ("500, no problem", Manner::Lies(Lie::Status(500)), Expected::Behind),
    ("429, rate limited", Manner::Lies(Lie::Busy), Expected::Behind),
    ("404, no problem", Manner::Lies(Lie::Status(404)), Expected::Behind),
    ("puts records off", Manner::PutsOff, Expected::Behind),
    ("garbage", Manner::Lies(Lie::Garbage), Expected::Behind),
    ("a huge answer", Manner::Lies(Lie::Huge), Expected::Behind),
    ("wrong proof", Manner::Lies(Lie::WrongProof), Expected::Behind),
    ("proof of another leaf", Manner::Lies(Lie::OtherLeaf), Expected::Behind),
    ("another run's receipt", Manner::Lies(Lie::OtherRun), Expected::Behind),
    ("another log's receipt", Manner::Lies(Lie::OtherLog), Expected::Behind),
    ("forged consistency", Manner::Lies(Lie::ForgedConsistency), Expected::Behind),
    ("forks, longer tree", Manner::Rewrites, Expected::NeverAgain),
    ("rolls back", Manner::RollsBack, Expected::Fork),
];

const SAME_SIZE: (&str, Manner, Expected) = ("forks, same size", Manner::Lies(Lie::SameSize), Expected::Fork);

fn behave(house: &House, manner: Manner, on: bool) {
    let behaviour = &house.log.behaviour;
    match manner {
        Manner::Lies(lie) => *behaviour.lie.lock().unwrap() = on.then_some(lie),
        Manner::Down => behaviour.down.store(on, Ordering::SeqCst),
        Manner::PutsOff => behaviour.put_off.store(on, Ordering::SeqCst),
        Manner::Rewrites => behaviour.rewrite.store(on, Ordering::SeqCst),
        Manner::RollsBack => behaviour.roll_back.store(on, Ordering::SeqCst),
    }
}

/// One call; `Err` says why it did not happen.
async fn call(run: &Run) -> Result<(), Stop> {
    let permit = match run.propose(tool("read", "{}")).await {
        Ok(Verdict::Permitted(permit)) => permit,
        Err(ProposeError::Stopped(stop)) => return Err(stop),
        other => panic!("{other:?}"),
    };
    match permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await {
        Ok(_) => Ok(()),
        Err(DispatchError::NotDispatched(stop) | DispatchError::Cut(stop)) => Err(stop),
        Err(error) => panic!("{error}"),
    }
}

/// One row: what calls meet while the log misbehaves, what ends it, and what happens when the log is honest again.
async fn row(mode: Mode, manner: Manner, expected: Expected) -> [String; 3] {
    let mut house = House::new("").await;
    house.config.mode = mode;
    let kernel = house.open().await;
    let (run, other) = (open_run(&kernel).await, open_run(&kernel).await);
    for run in [&run, &other] {
        call(run).await.unwrap();
    }
    assert!(kernel.drain(PATIENCE).await);
    behave(&house, manner, true);
    let (calling, clock) = (run.clone(), house.clock.clone());
    let task = tokio::spawn(async move { call(&calling).await });
    if expected == Expected::GoesOn {
        let done = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        done.unwrap();
        behave(&house, manner, false);
        assert!(kernel.drain(PATIENCE).await);
        return ["goes on, late".into(), "-".into(), "all logged".into()];
    }
    if expected == Expected::Fork {
        let _ = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        eventually("a halt", || kernel.stopped().is_some()).await;
        assert!(matches!(kernel.stopped(), Some(Stop::Halted { cause: HaltCause::LogFork, .. })));
        assert!(matches!(call(&other).await, Err(Stop::Halted { cause: HaltCause::LogFork, .. })));
        eventually("both heads are kept", || kernel.store().fork().unwrap().is_some()).await;
        let fork = kernel.store().fork().unwrap().unwrap();
        assert_ne!(fork.seen, fork.shown);
        for head in [&fork.seen, &fork.shown] {
            house.config.trust.verify(head.as_bytes()).expect("signed by the log");
        }
        kernel.close().await;
        behave(&house, manner, false);
        assert!(matches!(house.try_open().await, Err(OpenError::Fork { .. })));
        return ["kernel halts".into(), "log_fork, both heads kept".into(), "does not start again".into()];
    }
    // A while in which the log is tried several times.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(kernel.stopped().is_none() && kernel.store().fork().unwrap().is_none(), "{manner:?}");
    assert!(kernel.unlogged() > 0, "{manner:?}: nothing counts that is not proven");
    let meanwhile = match mode {
        Mode::Spool => {
            task.await.unwrap().unwrap();
            call(&other).await.unwrap();
            clock.advance_ms(61_000);
            "goes on"
        }
        Mode::Log => {
            assert!(!task.is_finished(), "{manner:?}: no permit without a receipt");
            clock.advance_ms(61_000);
            let stop = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap_err();
            assert!(matches!(stop, Stop::Halted { cause: HaltCause::LogBehind, .. }), "{stop}");
            "no permit"
        }
    };
    let stop = call(&run).await.unwrap_err();
    assert!(matches!(stop, Stop::Halted { cause: HaltCause::LogBehind, .. }), "{manner:?}: {stop}");
    assert!(stop.to_string().contains("; the log: "), "it says why: {stop}");
    behave(&house, manner, false);
    let after = if expected == Expected::NeverAgain {
        assert!(!kernel.drain(Duration::from_secs(2)).await);
        assert!(kernel.store().shown().unwrap().is_some() && kernel.store().fork().unwrap().is_none());
        "never logged, both heads kept"
    } else {
        assert!(kernel.drain(PATIENCE).await, "{manner:?}");
        assert!(kernel.store().shown().unwrap().is_none());
        call(&open_run(&kernel).await).await.unwrap();
        "all logged, new runs go on"
    };
    kernel.close().await;
    [meanwhile.into(), "after 60 s: log_behind".into(), after.into()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_misbehave_in_both_modes() {
    let mut rows = Vec::new();
    for (name, manner, expected) in TABLE.into_iter().chain([SAME_SIZE]) {
        for mode in [Mode::Log, Mode::Spool] {
            rows.push((name, mode, tokio::spawn(row(mode, manner, expected))));
        }
    }
    println!("\n{:22} {:6} {:14} {:26} then", "the log", "mode", "calls", "ends in");
    for (name, mode, row) in rows {
        let mode = format!("{mode:?}").to_lowercase();
        let [calls, end, after] = row.await.unwrap_or_else(|error| panic!("{name} {mode}: {error}"));
        println!("{name:22} {mode:6} {calls:14} {end:26} {after}");
    }
}
