//! Budgets and counters, exact whatever runs at the same time.

use std::sync::Arc;

use sift_client::{AgentCall, CloseReason, ModelCall, OpenRun, OpenRunError, Payload, Report, Verdict};
use sift_spec::meter::Meter;
use sift_spec::record::{Body, Refusal, Scope};

use crate::harness::{House, object, open_run, records, tool};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Proposes and dispatches `callers` calls at once; returns how many were allowed.
async fn storm(runs: Vec<sift_client::Run>, callers: usize, name: &'static str) -> usize {
    let runs = Arc::new(runs);
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let runs = Arc::clone(&runs);
            tokio::spawn(async move {
                let run = &runs[caller % runs.len()];
                match run.propose(tool(name, &format!("{{\"n\":{caller}}}"))).await.unwrap() {
                    Verdict::Permitted(permit) => {
                        permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
                        true
                    }
                    Verdict::Denied(_) => false,
                    Verdict::Held(held) => panic!("{held:?}"),
                }
            })
        })
        .collect();
    let mut allowed = 0;
    for task in tasks {
        allowed += usize::from(task.await.unwrap());
    }
    allowed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_at_once_never_pass_a_cap() {
    let house = House::new("[kernel.hour]\ntool_calls = 100\n").await;
    let kernel = house.open().await;
    let mut runs = Vec::new();
    for _ in 0..16 {
        runs.push(open_run(&kernel).await);
    }
    assert_eq!(storm(runs.clone(), 256, "read").await, 100);
    for run in &runs {
        run.close(CloseReason::Done).await.unwrap();
    }
    let intents = runs.iter().flat_map(|run| records(&kernel, run.id()));
    let held: u64 = intents
        .filter_map(|record| match record.body {
            Body::Intent(intent) => Some(intent.reserved.get(Meter::ToolCalls)),
            _ => None,
        })
        .sum();
    assert_eq!(held, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rule_over_a_counter_is_exact() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    assert_eq!(storm(vec![run.clone()], 256, "write").await, 2);
    // Every committed input names the seq and the time of its own intent, and decides the same again.
    for record in records(&kernel, run.id()) {
        let Body::Intent(intent) = &record.body else { continue };
        let object = object(&kernel, run.id(), &intent.decision.input);
        let input = sift_rules::PolicyInput::from_bytes(&object[16..]).unwrap();
        assert_eq!((input.run.seq, input.time), (record.seq, record.time));
        assert_eq!(sift_rules::decide(kernel.bundle(), &object[16..]).effect, intent.decision.effect);
    }
}

#[tokio::test]
async fn limits_stand_in_the_open_record_and_refusals_in_the_intent() {
    let house = House::new("[run]\nidentical_calls = 1\nmicro_usd = 9\n[agent.day]\ntool_calls = 2\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Body::Open(open) = &records(&kernel, run.id())[0].body else { panic!() };
    assert_eq!(open.limits, *kernel.bundle().budget().limits());
    assert_eq!(open.policy, kernel.bundle().digest());

    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::error("no such thing") }).await.unwrap();
    let refusal = |verdict: Verdict| match verdict {
        Verdict::Denied(denial) => denial.refusal.unwrap(),
        other => panic!("{other:?}"),
    };
    let refused = refusal(run.propose(tool("read", "{}")).await.unwrap());
    assert!(matches!(refused, Refusal::Identical(_)));
    let other = open_run(&kernel).await;
    let Verdict::Permitted(permit) = other.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    let refused = refusal(other.propose(tool("read", "{\"x\":1}")).await.unwrap());
    assert!(matches!(refused, Refusal::Limit(limit) if limit.scope == Scope::Agent && limit.have == 2));
    let unpriced = ModelCall {
        provider: "openai".to_owned(),
        model: "unheard-of".to_owned(),
        request: b"{}".to_vec(),
        max_output: None,
    };
    assert!(matches!(refusal(run.propose(unpriced).await.unwrap()), Refusal::Unpriced(_)));
    // The trailing day ends.
    assert!(kernel.drain(PATIENCE).await);
    house.clock.advance_ms(25 * 3_600_000);
    let Verdict::Permitted(permit) = other.propose(tool("read", "{\"x\":1}")).await.unwrap() else {
        panic!()
    };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

#[tokio::test]
async fn a_run_that_lasts_too_long_is_refused_and_halted() {
    let house = House::new("[run]\nwall_clock_seconds = 60\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    assert!(kernel.drain(PATIENCE).await);
    house.clock.advance_ms(60_001);
    let Verdict::Denied(denial) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::WallClock(_))));
    assert!(run.stopped().is_some());
}

#[tokio::test]
async fn a_sub_agent_counts_in_the_run_above() {
    let house = House::new("[run]\ndepth = 1\nagents = 5\ntool_calls = 2\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let agent = || AgentCall { agent: "airline/helper".parse().unwrap(), task: Payload::text("help") };
    let Verdict::Permitted(permit) = run.propose(agent()).await.unwrap() else { panic!() };
    let in_flight = permit.start().unwrap();
    let parent = in_flight.child();
    let wrong = OpenRun { parent: parent.clone(), ..OpenRun::of("airline/other".parse().unwrap()) };
    assert!(matches!(kernel.open_run(wrong).await, Err(OpenRunError::OtherAgent { .. })));
    let open = OpenRun { parent: parent.clone(), ..OpenRun::of("airline/helper".parse().unwrap()) };
    let child = kernel.open_run(open.clone()).await.unwrap();
    assert!(matches!(kernel.open_run(open).await, Err(OpenRunError::Ledger(_))), "a child opens once");

    for _ in 0..2 {
        let Verdict::Permitted(permit) = child.propose(tool("read", "{}")).await.unwrap() else { panic!() };
        permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    }
    let Verdict::Denied(denial) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::Limit(_))), "the calls of the child count above");
    let Verdict::Denied(denial) = child.propose(agent()).await.unwrap() else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::Limit(_))), "nested too deeply");
    child.close(CloseReason::Done).await.unwrap();
    in_flight.finish(Report::ok(Payload::text("helped"))).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn a_model_call_without_usage_is_settled_in_full() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let call = ModelCall {
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        request: vec![b' '; 10],
        max_output: None,
    };
    let Verdict::Permitted(permit) = run.propose(call).await.unwrap() else { panic!() };
    let reserved = permit.reserved();
    assert_eq!(reserved.get(Meter::OutputTokens), 4096, "the bundle's default");
    let done = permit.dispatch(|| async { Report::error("status 500") }).await.unwrap();
    assert_eq!(done.settled, reserved);
}
