//! Permits: one call each, and nothing without a record.

use sift_client::{
    CloseReason, DispatchError, HaltCause, ModelCall, Payload, ProposeError, Report, Run, RunError, Status,
    Stop, Verdict,
};
use sift_spec::meter::{Meter, Usage};
use sift_spec::record::{Body, Effect};

use crate::harness::{House, NOW, at, eventually, kinds, last_outcome, object, open_run, records, tool};

async fn permit(run: &Run, name: &str) -> sift_client::Permit {
    match run.propose(tool(name, "{}")).await.unwrap() {
        Verdict::Permitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_is_recorded_before_and_after() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let permit = permit(&run, "read").await;
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent"]);
    let done = permit.dispatch(|| async { Report::ok(Payload::text("42")) }).await.unwrap();
    assert_eq!(done.report.result().unwrap().bytes, b"42");
    assert_eq!((done.settled.get(Meter::ToolCalls), done.overspent), (1, None));
    let settled = run.close(CloseReason::Done).await.unwrap();
    assert_eq!(settled.get(Meter::ToolCalls), 1);

    let records = records(&kernel, run.id());
    let Body::Close(close) = &records[3].body else { panic!() };
    assert_eq!(close.census.values().sum::<u64>(), 3);
    let Body::Intent(intent) = &records[1].body else { panic!() };
    for commitment in records.iter().flat_map(sift_spec::record::Record::commitments) {
        let object = object(&kernel, run.id(), commitment);
        sift_spec::payload::Object::from_bytes(object).unwrap().check(commitment).unwrap();
    }
    // The policy's input is the one that decided: the same bytes give the same verdict.
    let input = object(&kernel, run.id(), &intent.decision.input);
    let again = sift_rules::decide(run.bundle(), &input[16..]);
    assert_eq!((again.effect, &again.rules), (Effect::Allow, &intent.decision.rules));
    assert!(matches!(run.propose(tool("read", "{}")).await, Err(ProposeError::Stopped(Stop::Closed))));
}

#[tokio::test]
async fn a_dropped_permit_is_cancelled_and_a_dropped_call_is_unknown() {
    let house = House::new("[run]\ntool_calls = 2\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    drop(permit(&run, "read").await);
    eventually("an outcome", || kinds(&kernel, run.id()).len() == 3).await;
    let outcome = last_outcome(&kernel, run.id()).await;
    assert_eq!((outcome.status, outcome.settled.get(Meter::ToolCalls)), (Status::Cancelled, 0));
    assert!(outcome.model.is_none() && outcome.result.is_none());
    // Nobody takes the verdict: the caller gave up while the intent was being made.
    let given_up = {
        let propose = run.propose(tool("read", "{}"));
        tokio::pin!(propose);
        std::future::poll_fn(|cx| std::task::Poll::Ready(propose.as_mut().poll(cx).is_pending())).await
    };
    assert!(given_up);
    eventually("an outcome", || kinds(&kernel, run.id()).len() == 5).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    for _ in 0..2 {
        let in_flight = permit(&run, "read").await.start().unwrap();
        drop(in_flight);
    }
    let Verdict::Denied(denial) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    assert!(denial.refusal.is_some(), "both holds count in full");
    let outcome = last_outcome(&kernel, run.id()).await;
    assert_eq!((outcome.status, outcome.settled.get(Meter::ToolCalls)), (Status::Unknown, 1));
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_given_up_is_unknown() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let permit = permit(&run, "read").await;
    let never = permit.dispatch(std::future::pending::<Report>);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), never).await.is_err());
    eventually("an outcome", || kinds(&kernel, run.id()).len() == 3).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Unknown);
}

#[tokio::test]
async fn nothing_starts_after_a_halt() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let waiting = permit(&run, "read").await;
    let under_way = permit(&run, "read").await.start().unwrap();
    run.halt("enough").await.unwrap();
    let refused = waiting.dispatch(|| async { panic!("dispatched after the halt") }).await;
    assert!(matches!(
        refused,
        Err(DispatchError::NotDispatched(Stop::Halted { cause: HaltCause::Operator, .. }))
    ));
    assert!(matches!(run.propose(tool("read", "{}")).await, Err(ProposeError::Stopped(Stop::Halted { .. }))));
    // What was under way still gets its outcome, and the run closes as halted.
    under_way.finish(Report::ok(Payload::text("done"))).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
    let records = records(&kernel, run.id());
    let statuses: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Outcome(outcome) => Some((outcome.status, outcome.settled.get(Meter::ToolCalls))),
            _ => None,
        })
        .collect();
    assert_eq!(statuses, [(Status::Cancelled, 0), (Status::Ok, 1)]);
    let Some(Body::Close(close)) = records.last().map(|record| &record.body) else { panic!() };
    assert_eq!(close.reason, CloseReason::Halted);
}

#[tokio::test]
async fn a_halt_does_not_wait_for_its_record() {
    for whole in [false, true] {
        let house = House::new("").await;
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        let waiting = permit(&run, "read").await;
        // Polled once, and then left alone: the switch is pulled all the same.
        {
            let (of_kernel, of_run) = (kernel.halt("enough"), run.halt("enough"));
            tokio::pin!(of_kernel, of_run);
            let poll = |cx: &mut std::task::Context<'_>| {
                let _ = if whole { of_kernel.as_mut().poll(cx) } else { of_run.as_mut().poll(cx) };
                std::task::Poll::Ready(())
            };
            std::future::poll_fn(poll).await;
        }
        assert!(run.stopped().is_some());
        assert!(matches!(waiting.start(), Err(DispatchError::NotDispatched(_))));
        eventually("the records", || {
            let kinds = kinds(&kernel, run.id());
            kinds.contains(&"halt") && kinds.contains(&"outcome")
        })
        .await;
        assert_eq!(kinds(&kernel, run.id()).iter().filter(|kind| **kind == "halt").count(), 1);
    }
}

#[tokio::test]
async fn a_run_with_calls_under_way_does_not_close() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let in_flight = permit(&run, "read").await.start().unwrap();
    let refused = run.close(CloseReason::Done).await;
    assert!(matches!(refused, Err(RunError::CallsOutstanding { count: 1, .. })));
    in_flight.finish(Report::timeout("no answer in 30 s")).await.unwrap();
    assert_eq!(last_outcome(&kernel, run.id()).await.settled.get(Meter::ToolCalls), 1);
    run.close(CloseReason::Failed).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_goes_back_halts_everything() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let (run, other) = (open_run(&kernel).await, open_run(&kernel).await);
    house.clock.advance_ms(10_000);
    let permit = permit(&run, "read").await;
    house.clock.set(at(NOW + 9_950));
    let under_way = permit.start().unwrap();
    assert!(run.stopped().is_none(), "a step that time servers make is bridged");
    house.clock.set(at(NOW + 5_000));
    let refused = run.propose(tool("read", "{}")).await;
    assert!(matches!(refused, Err(ProposeError::Stopped(Stop::Halted { cause: HaltCause::Clock, .. }))));
    assert!(matches!(other.stopped(), Some(Stop::Halted { cause: HaltCause::Clock, .. })));
    under_way.finish(Report::ok(Payload::text("x"))).await.unwrap();
    let times: Vec<u64> = records(&kernel, run.id()).iter().map(|record| record.time.get()).collect();
    assert_eq!(times, [NOW, NOW + 10_000, NOW + 10_000, NOW + 10_000]);
    kernel.close().await;
    assert!(matches!(house.try_open().await, Err(sift_client::OpenError::Clock { behind_ms: 5_000 })));
}

#[tokio::test]
async fn more_billed_than_held_halts_the_run() {
    let house = House::new("[run]\nmicro_usd = 1_000_000\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let call = || ModelCall {
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        request: vec![b' '; 1000],
        max_output: Some(100),
    };
    let Verdict::Permitted(permit) = run.propose(call()).await.unwrap() else { panic!() };
    // 1000 bytes at 2.5 and 100 tokens at 10 dollars a million.
    assert_eq!(permit.reserved().get(Meter::MicroUsd), 3_500);
    let usage = Usage { input: 400, output: 50, ..Usage::default() };
    let report = Report::ok(Payload::json("{}")).with_model(
        "gpt-4o-2024-08-06",
        Some("chatcmpl-1"),
        "provider",
        usage,
    );
    let done = permit.dispatch(|| async { report }).await.unwrap();
    assert_eq!((done.settled.get(Meter::MicroUsd), done.overspent), (1_500, None));

    let Verdict::Permitted(permit) = run.propose(call()).await.unwrap() else { panic!() };
    let usage = Usage { input: 400, output: 101, ..Usage::default() };
    let report = Report::ok(Payload::json("{}")).with_model("gpt-4o", None, "provider", usage);
    let done = permit.dispatch(|| async { report }).await.unwrap();
    assert_eq!(done.overspent, Some(Meter::OutputTokens));
    assert!(matches!(run.stopped(), Some(Stop::Halted { cause: HaltCause::Overspend, .. })));
    assert_eq!(kinds(&kernel, run.id()).last(), Some(&"halt"));
    let settled = run.close(CloseReason::Done).await.unwrap();
    assert_eq!(settled.get(Meter::MicroUsd), 1_500 + 2_010);
}

/// A key in a module that is pulled out after some signatures.
struct Pulled {
    key: sift_spec::note::SignerKey,
    left: std::sync::atomic::AtomicU32,
}

impl sift_client::Signer for Pulled {
    fn verifier(&self) -> &sift_spec::note::VerifierKey {
        self.key.verifier()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], sift_client::SignError> {
        let left = self.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        if left == 0 {
            Err(sift_client::SignError("no module".to_owned()))
        } else {
            Ok(self.key.sign_bytes(message))
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_sign_halts_the_kernel() {
    let house = House::new("").await;
    let signer = Pulled { key: crate::harness::kernel_key(), left: 2.into() };
    let clock = std::sync::Arc::clone(&house.clock);
    let kernel = sift_client::Kernel::open(house.config.clone(), signer, clock).await.unwrap();
    let run = open_run(&kernel).await;
    let permit = permit(&run, "read").await;
    let refused = run.propose(tool("read", "{}")).await;
    assert!(matches!(refused, Err(ProposeError::Stopped(Stop::Halted { .. }))));
    assert!(kernel.stopped().unwrap().to_string().contains("no module"));
    let not_started = permit.dispatch(|| async { panic!("dispatched by a halted kernel") }).await;
    assert!(matches!(not_started, Err(DispatchError::NotDispatched(_))));
    kernel.close().await;
    // What was signed is there; the call that never started counts in full, as nobody can tell any more.
    let kernel = house.open().await;
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent", "outcome", "close"]);
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Unknown);
}
