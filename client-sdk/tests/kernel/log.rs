//! The log: uploaded to, verified, and never trusted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sift_client::{
    CloseReason, DispatchError, HaltCause, Mode, OpenError, Payload, ProposeError, Report, Status, Stop,
    Verdict,
};

use crate::harness::{House, Lie, eventually, kinds, last_outcome, open_run, tool};

const PATIENCE: Duration = Duration::from_secs(20);

async fn call(run: &sift_client::Run) {
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

#[tokio::test]
async fn every_record_gets_its_place_in_the_log() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    for _ in 0..20 {
        call(&run).await;
    }
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(PATIENCE).await);
    assert_eq!((house.log.len(), kernel.unlogged()), (42, 0));
    let stored = kernel.store().run(run.id()).unwrap();
    let places: Vec<u64> = stored.iter().filter_map(|record| record.index.map(|index| index.get())).collect();
    assert_eq!(places, (0..42).collect::<Vec<_>>());
    assert!(kernel.store().checkpoint().unwrap().is_some());
}

#[tokio::test]
async fn in_log_mode_nothing_is_dispatched_without_a_receipt() {
    let mut house = House::new("").await;
    house.config.mode = Mode::Log;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    call(&run).await;
    assert!(house.log.len() >= 2, "open and intent are in the log");
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let (waiting, clock) = (run.clone(), house.clock.clone());
    let proposal = tokio::spawn(async move { waiting.propose(tool("read", "{}")).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!proposal.is_finished(), "no receipt, no permit");
    clock.advance_ms(61_000);
    let refused = proposal.await.unwrap();
    assert!(matches!(refused, Err(ProposeError::Stopped(Stop::Halted { cause: HaltCause::LogBehind, .. }))));
    // The intent was not dispatched.
    eventually("an outcome", || kinds(&kernel, run.id()).last() == Some(&"outcome")).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    // What waits is uploaded when the log is back.
    house.log.behaviour.down.store(false, Ordering::SeqCst);
    assert!(kernel.drain(PATIENCE).await);
}

#[tokio::test]
async fn a_log_that_falls_behind_halts_runs() {
    for (records_max, advance_ms) in [(7, 0), (1000, 61_000)] {
        let mut house = House::new("").await;
        house.config.spool.records_max = records_max;
        house.log.behaviour.down.store(true, Ordering::SeqCst);
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        for _ in 0..3 {
            call(&run).await;
        }
        house.clock.advance_ms(advance_ms);
        let refused = run.propose(tool("read", "{}")).await;
        assert!(matches!(
            refused,
            Err(ProposeError::Stopped(Stop::Halted { cause: HaltCause::LogBehind, .. }))
        ));
        assert_eq!(kinds(&kernel, run.id()).last(), Some(&"halt"));
        assert!(run.propose(tool("read", "{}")).await.is_err());
        run.close(CloseReason::Done).await.unwrap();
        // A new run goes on once the log has caught up.
        house.log.behaviour.down.store(false, Ordering::SeqCst);
        assert!(kernel.drain(PATIENCE).await);
        call(&open_run(&kernel).await).await;
    }
}

#[tokio::test]
async fn a_refused_record_halts_its_run_and_is_offered_again_after_a_restart() {
    let house = House::new("").await;
    house.log.behaviour.refuse.store(true, Ordering::SeqCst);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    eventually("a halt", || run.stopped().is_some()).await;
    assert!(matches!(run.stopped(), Some(Stop::Halted { cause: HaltCause::LogRefused, .. })));
    assert!(matches!(run.propose(tool("read", "{}")).await, Err(ProposeError::Stopped(_))));
    assert!(kernel.stopped().is_none(), "other runs go on");
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
    house.log.behaviour.refuse.store(false, Ordering::SeqCst);
    let kernel = house.open().await;
    eventually("all in the log", || house.log.len() == 3).await;
    assert!(kernel.drain(PATIENCE).await);
    kernel.close().await;
}

#[tokio::test]
async fn a_log_that_contradicts_itself_halts_the_kernel_for_good() {
    for same_size in [true, false] {
        let house = House::new("").await;
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        for _ in 0..3 {
            call(&run).await;
        }
        assert!(kernel.drain(PATIENCE).await);
        let behaviour = &house.log.behaviour;
        if same_size {
            *behaviour.lie.lock().unwrap() = Some(Lie::SameSize);
        } else {
            behaviour.roll_back.store(true, Ordering::SeqCst);
        }
        let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
        // The log may be caught while the call is under way.
        let _ = permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await;
        eventually("a halt", || kernel.stopped().is_some()).await;
        assert!(matches!(kernel.stopped(), Some(Stop::Halted { cause: HaltCause::LogFork, .. })));
        assert!(matches!(run.propose(tool("read", "{}")).await, Err(ProposeError::Stopped(_))));
        let fork = || kernel.store().fork().unwrap();
        eventually("both heads are kept", || fork().is_some()).await;
        let fork = fork().unwrap();
        assert!(fork.seen.starts_with("log.example\n") && fork.shown.starts_with("log.example\n"));
        assert_ne!(fork.seen, fork.shown);
        assert!(house.dir.path().join("fork-shown.checkpoint").exists());
        kernel.close().await;
        assert!(matches!(house.try_open().await, Err(OpenError::Fork { .. })));
    }
}

#[tokio::test]
async fn a_spoilt_answer_is_asked_for_again() {
    let house = House::new("").await;
    house.log.behaviour.spoil.store(3, Ordering::SeqCst);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    call(&run).await;
    assert!(kernel.drain(PATIENCE).await);
    assert!(kernel.stopped().is_none() && kernel.store().fork().unwrap().is_none());
    kernel.close().await;
    house.open().await.close().await;
}

#[tokio::test]
async fn a_signed_head_is_kept_until_it_is_reconciled() {
    for honest in [true, false] {
        let house = House::new("").await;
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        assert!(kernel.drain(PATIENCE).await);
        let behaviour = &house.log.behaviour;
        behaviour.mute.store(true, Ordering::SeqCst);
        behaviour.rewrite.store(!honest, Ordering::SeqCst);
        call(&run).await;
        eventually("the head is kept", || kernel.store().shown().unwrap().is_some()).await;
        assert!(kernel.stopped().is_none() && kernel.unlogged() > 0);
        let shown = kernel.store().shown().unwrap().unwrap();
        kernel.close().await;
        // The next process has not forgotten it, whatever the log shows then.
        behaviour.mute.store(false, Ordering::SeqCst);
        let kernel = house.open().await;
        if honest {
            assert!(kernel.drain(PATIENCE).await);
            assert!(kernel.store().shown().unwrap().is_none());
        } else {
            // A longer tree that nothing proves to extend the last one is no evidence, and never counts.
            let run = open_run(&kernel).await;
            assert!(!kernel.drain(Duration::from_secs(1)).await);
            assert_eq!(kernel.store().shown().unwrap(), Some(shown));
            assert!(kernel.store().fork().unwrap().is_none() && kernel.stopped().is_none());
            house.clock.advance_ms(61_000);
            let Err(ProposeError::Stopped(stop)) = run.propose(tool("read", "{}")).await else { panic!() };
            assert!(stop.to_string().contains("it misbehaves"), "{stop}");
        }
    }
}

#[tokio::test]
async fn a_record_that_is_put_off_is_not_sent_again_at_once() {
    let house = House::new("").await;
    house.log.behaviour.put_off.store(true, Ordering::SeqCst);
    let kernel = house.open().await;
    open_run(&kernel).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let requests = house.log.behaviour.requests.load(Ordering::SeqCst);
    assert!((1..10).contains(&requests), "{requests} requests");
    house.log.behaviour.put_off.store(false, Ordering::SeqCst);
    assert!(kernel.drain(PATIENCE).await);
}

#[tokio::test]
async fn a_permit_that_waited_starts_only_if_the_log_is_not_too_far_behind() {
    let mut house = House::new("").await;
    house.config.spool.bytes_max = 5_000;
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    // Payloads count as long as their record is not in the log.
    let large = format!("\"{}\"", "x".repeat(10_000));
    let Verdict::Permitted(second) = run.propose(tool("read", &large)).await.unwrap() else { panic!() };
    for permit in [permit, second] {
        let refused = permit.dispatch(|| async { panic!("dispatched with a full spool") }).await;
        let Err(DispatchError::NotDispatched(Stop::Halted { cause, .. })) = refused else { panic!() };
        assert_eq!(cause, HaltCause::Spool);
    }
    run.close(CloseReason::Done).await.unwrap();
}
