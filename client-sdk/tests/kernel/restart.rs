//! A kernel that comes back: nothing is lost, nothing is guessed.

use std::sync::Arc;

use sift_client::{
    CloseReason, HaltCause, Kernel, OpenError, Payload, ProposeError, Report, Status, Stop, Verdict,
};
use sift_spec::chain::RunHead;
use sift_spec::meter::Meter;
use sift_spec::record::Body;
use sift_spec::trust::TrustPolicy;

use crate::harness::{House, eventually, kernel_key, key, kinds, open_run, records, tool};

/// Leaves a kernel as kill -9 would: permits and runs are not closed, only the store is let go.
async fn crash(kernel: Kernel, permits: Vec<sift_client::Permit>) {
    permits.into_iter().for_each(std::mem::forget);
    kernel.close().await;
}

#[tokio::test]
async fn what_was_under_way_is_unknown_and_keeps_its_hold() {
    let house = House::new("[agent]\ntool_calls = 4\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Verdict::Permitted(done) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    done.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    let Verdict::Permitted(lost) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    let Verdict::Held(held) = run.propose(tool("pay", "{}")).await.unwrap() else { panic!() };
    std::mem::forget(held);
    crash(kernel, vec![lost]).await;

    house.clock.advance_ms(1000);
    let kernel = house.open().await;
    let all = records(&kernel, run.id());
    assert_eq!(
        kinds(&kernel, run.id()),
        ["open", "intent", "outcome", "intent", "intent", "outcome", "outcome", "close"]
    );
    let outcomes: Vec<_> = all
        .iter()
        .filter_map(|record| match &record.body {
            Body::Outcome(outcome) => {
                Some((outcome.intent.get(), outcome.status, outcome.settled.get(Meter::ToolCalls)))
            }
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [(1, Status::Ok, 1), (3, Status::Unknown, 1), (4, Status::Cancelled, 0)]);
    let Some(Body::Close(close)) = all.last().map(|record| &record.body) else { panic!() };
    assert_eq!((close.reason, close.settled.get(Meter::ToolCalls)), (CloseReason::Abandoned, 2));
    // The whole chain is what the log demands.
    let mut head: Option<RunHead> = None;
    for stored in kernel.store().run(run.id()).unwrap() {
        let entry = sift_spec::entry::Entry::parse(stored.entry).unwrap();
        let record = entry.record().unwrap();
        match &mut head {
            None => {
                let log = "log.example".parse().unwrap();
                head = Some(RunHead::open(record, entry.signer(), entry.leaf(), &log).unwrap());
            }
            Some(head) => head.extend(record, entry.signer(), entry.leaf()).unwrap(),
        }
    }
    assert!(head.unwrap().is_closed());
    // The agent has used 2 of 4, and the ledger knows it.
    let run = open_run(&kernel).await;
    for allowed in [true, true, false] {
        let verdict = run.propose(tool("read", "{}")).await.unwrap();
        assert_eq!(matches!(verdict, Verdict::Permitted(_)), allowed);
        if let Verdict::Permitted(permit) = verdict {
            permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
        }
    }
    // And again, from the snapshot and the records since.
    kernel.close().await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    assert!(matches!(run.propose(tool("read", "{}")).await.unwrap(), Verdict::Denied(_)));
}

#[tokio::test]
async fn an_outcome_is_answered_at_once_and_is_on_the_disk_soon_or_with_what_follows() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let act = async || {
        let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
        permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    };
    // Soon, by itself.
    act().await;
    eventually("on the disk", || kinds(&kernel, run.id()) == ["open", "intent", "outcome"]).await;
    // At once, for who asks.
    act().await;
    kernel.sync().await.unwrap();
    assert_eq!(kinds(&kernel, run.id()).len(), 5);
    // With the next intent, which is on the disk when it is answered, and the commit is one for both.
    let before = kernel.timings();
    for _ in 0..100 {
        act().await;
        let Verdict::Denied(_) = run.propose(tool("steal", "{}")).await.unwrap() else { panic!() };
        let kinds = kinds(&kernel, run.id());
        assert_eq!(kinds[kinds.len() - 3..], ["intent", "outcome", "intent"]);
    }
    let since = kernel.timings().since(&before);
    assert_eq!(since.records, 300);
    assert!((200..300).contains(&since.commits), "{} commits", since.commits);
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
}

#[tokio::test]
async fn records_that_waited_are_uploaded() {
    let house = House::new("").await;
    house.log.behaviour.down.store(true, std::sync::atomic::Ordering::SeqCst);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
    assert_eq!(house.log.len(), 0);
    house.log.behaviour.down.store(false, std::sync::atomic::Ordering::SeqCst);
    let kernel = house.open().await;
    assert!(kernel.drain(std::time::Duration::from_secs(20)).await);
    assert_eq!(house.log.len(), 2);
}

#[tokio::test]
async fn a_store_has_one_owner() {
    let mut house = House::new("").await;
    let kernel = house.open().await;
    assert!(matches!(house.try_open().await, Err(OpenError::Store(_))), "in use");
    kernel.close().await;
    let other = key("acme.example/other", 7);
    let opened = Kernel::open(house.config.clone(), other, Arc::clone(&house.clock)).await;
    assert!(matches!(opened.err(), Some(OpenError::OtherKey { .. })));
    // Another key under the same name is a rotation, and the store stays.
    let rotated = key("acme.example/kernel", 8);
    Kernel::open(house.config.clone(), rotated, Arc::clone(&house.clock)).await.unwrap().close().await;
    house.config.trust = TrustPolicy::of_log(key("other.example", 9).verifier().clone(), None);
    let opened = Kernel::open(house.config.clone(), kernel_key(), Arc::clone(&house.clock)).await;
    assert!(matches!(opened.err(), Some(OpenError::OtherLog { .. })));
}

#[tokio::test]
async fn what_does_not_start_lets_go_of_its_store() {
    let house = House::new("").await;
    let in_the_way = house.config.dir.join(sift_client::control::SOCKET_FILE);
    std::fs::create_dir_all(&in_the_way).unwrap();
    for _ in 0..20 {
        // The last thing that can fail: the writer is at work by then.
        let opened = house.try_open().await;
        assert!(matches!(opened.as_ref().err(), Some(OpenError::System { .. })), "{:?}", opened.err());
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    house.open().await.close().await;
}

#[tokio::test]
async fn no_policy_no_kernel() {
    let mut house = House::new("").await;
    house.config.bundle = sift_spec::bundle::Bundle::new([]).unwrap();
    assert!(matches!(house.try_open().await, Err(OpenError::Bundle(_))));
    house.config.bundle =
        sift_spec::bundle::Bundle::new([("p.rego".to_owned(), b"package sift\nallow {".to_vec())]).unwrap();
    assert!(matches!(house.try_open().await, Err(OpenError::Bundle(_))));
}

#[tokio::test]
async fn beats_say_that_a_silent_run_is_alive() {
    let mut house = House::new("").await;
    house.config.beat = Some(std::time::Duration::from_secs(60));
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    house.clock.advance_ms(60_000);
    eventually("a beat", || kinds(&kernel, run.id()) == ["open", "beat"]).await;
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn a_backlog_of_yesterday_does_not_halt_today() {
    let house = House::new("").await;
    house.log.behaviour.down.store(true, std::sync::atomic::Ordering::SeqCst);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
    house.clock.advance_ms(24 * 3_600_000);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    // Its age counts once the log was asked.
    house.clock.advance_ms(61_000);
    let refused = loop {
        match run.propose(tool("read", "{}")).await {
            Err(error) => break error,
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    assert!(matches!(refused, ProposeError::Stopped(Stop::Halted { cause: HaltCause::LogBehind, .. })));
}
