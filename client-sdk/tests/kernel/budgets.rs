//! Budgets and counters, exact whatever runs at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use sift_client::{
    AgentCall, CloseReason, Kernel, ModelCall, OpenRun, OpenRunError, Payload, Report, Run, Verdict,
};
use sift_rules::{CallInput, PolicyBundle, RunState};
use sift_spec::meter::Meter;
use sift_spec::payload::Commitment;
use sift_spec::record::{Body, Call, Refusal, Scope};
use sift_spec::types::RunId;

use crate::harness::{House, kinds, open_run, records, tool};

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
    derive(&kernel, run.id(), run.bundle());
    // Where all are allowed, intents and outcomes of different calls come close to one another.
    for _ in 0..8 {
        let run = open_run(&kernel).await;
        assert_eq!(storm(vec![run.clone()], 64, "read").await, 64);
        derive(&kernel, run.id(), run.bundle());
    }
}

/// Decisions of many runs are recorded in another order than they were made. Each record has the time of its decision,
/// and ledger and restart count as if all were made in one order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_runs_on_takes_nothing_from_exactness() {
    let house = House::new("[agent.hour]\ntool_calls = 1500\n[run]\nwall_clock_seconds = 100\n").await;
    let kernel = house.open().await;
    let (clock, over) = (Arc::clone(&house.clock), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stop = Arc::clone(&over);
    let tick = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            clock.advance_ms(1);
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    });
    let mut runs = Vec::new();
    for _ in 0..32 {
        runs.push(open_run(&kernel).await);
    }
    let tasks: Vec<_> = runs.iter().cloned().map(|run| tokio::spawn(storm(vec![run], 50, "read"))).collect();
    let mut allowed = 0;
    for task in tasks {
        allowed += task.await.unwrap();
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    tick.join().unwrap();
    assert_eq!(allowed, 1500, "exactly as many as the hour has");
    let mut times = BTreeMap::new();
    for run in &runs {
        derive(&kernel, run.id(), run.bundle());
        let of_run = records(&kernel, run.id());
        assert!(of_run.windows(2).all(|two| two[0].time <= two[1].time), "within a run it never goes back");
        let places = kernel.store().run(run.id()).unwrap().into_iter().map(|stored| stored.position);
        times.extend(places.zip(of_run.iter().map(|record| record.time)));
    }
    let times: Vec<_> = times.into_values().collect();
    assert!(
        times.windows(2).any(|two| two[0] > two[1]),
        "some were recorded after younger ones of other runs"
    );
    // The records alone give the same sums.
    kernel.close().await;
    let kernel = house.open().await;
    let Verdict::Denied(denial) = open_run(&kernel).await.propose(tool("read", "{}")).await.unwrap() else {
        panic!("the hour is used up")
    };
    assert!(matches!(denial.refusal, Some(Refusal::Limit(limit)) if limit.have == 1500));
    kernel.close().await;
}

/// Derives every policy input of a run from its records, as an auditor does: the kernel decided on exactly these.
pub(crate) fn derive(kernel: &Kernel, run: RunId, bundle: &PolicyBundle) {
    // The records first: an outcome that was answered may come onto the disk meanwhile.
    let records = records(kernel, run);
    let objects: BTreeMap<_, _> = kernel
        .store()
        .run(run)
        .unwrap()
        .into_iter()
        .flat_map(|stored| kernel.store().objects(stored.position).unwrap())
        .collect();
    let content = |commitment: &Commitment| &objects[&commitment.digest][16..];
    let (agent, time) = (records[0].agent.clone(), records[0].time);
    let mut state = RunState::new(agent, run, 0, time, BTreeMap::new(), bundle.facts());
    let mut calls = BTreeMap::new();
    for record in &records {
        match &record.body {
            Body::Intent(intent) => {
                let Call::Tool(tool) = &intent.call else { panic!() };
                let call = CallInput::of(&intent.call, content(&tool.args));
                let input = state.input(call.clone(), record.seq, record.time).to_bytes();
                let decided = content(&intent.decision.input);
                let (decided, input) = (String::from_utf8_lossy(decided), String::from_utf8(input).unwrap());
                assert_eq!(decided, input);
                assert_eq!(sift_rules::decide(bundle, input.as_bytes()).effect, intent.decision.effect);
                state.on_intent(&call, intent.effect());
                calls.insert(record.seq, call);
            }
            Body::Outcome(outcome) => {
                let result = outcome.result.as_ref().map(content).unwrap_or_default();
                state.on_outcome(&calls[&outcome.intent], outcome.status, result);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn limits_stand_in_the_open_record_and_refusals_in_the_intent() {
    let house = House::new("[run]\nidentical_calls = 1\nmicro_usd = 9\n[agent.day]\ntool_calls = 2\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Body::Open(open) = &records(&kernel, run.id())[0].body else { panic!() };
    assert_eq!(open.limits, *run.bundle().budget().limits());
    assert_eq!(open.policy, kernel.bundle_status().in_force);

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
    let mut house = House::new("[run]\nwall_clock_seconds = 60\n").await;
    // The timer comes later than the call.
    house.config.poll = std::time::Duration::from_secs(3600);
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
    let agent = || AgentCall::new("airline/helper".parse().unwrap(), Payload::text("help"));
    let Verdict::Permitted(permit) = run.propose(agent()).await.unwrap() else { panic!() };
    let mut in_flight = permit.start().unwrap();
    let open = OpenRun { parent: in_flight.child(), ..OpenRun::of("airline/helper".parse().unwrap()) };
    assert!(in_flight.child().is_none(), "a child opens once");
    let child = kernel.open_run(open).await.unwrap();

    for _ in 0..2 {
        let Verdict::Permitted(permit) = child.propose(tool("read", "{}")).await.unwrap() else { panic!() };
        permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    }
    let Verdict::Denied(denial) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::Limit(_))), "the calls of the child count above");
    let Verdict::Denied(denial) = child.propose(agent()).await.unwrap() else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::Depth(_))), "nested too deeply");
    child.close(CloseReason::Done).await.unwrap();
    in_flight.finish(Report::ok(Payload::text("helped"))).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn a_sub_agent_opens_while_its_call_is_under_way_and_under_its_own_name() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let helper = "airline/helper";
    let start = async || {
        let call = AgentCall::new(helper.parse().unwrap(), Payload::text("help"));
        let Verdict::Permitted(permit) = run.propose(call).await.unwrap() else { panic!() };
        permit.start().unwrap()
    };
    let mut in_flight = start().await;
    let wrong = OpenRun { parent: in_flight.child(), ..OpenRun::of("airline/other".parse().unwrap()) };
    assert!(matches!(kernel.open_run(wrong).await, Err(OpenRunError::OtherAgent { .. })));
    in_flight.finish(Report::error("the wrong agent")).await.unwrap();
    let mut in_flight = start().await;
    let late = OpenRun { parent: in_flight.child(), ..OpenRun::of(helper.parse().unwrap()) };
    in_flight.finish(Report::error("never mind")).await.unwrap();
    assert!(matches!(kernel.open_run(late).await, Err(OpenRunError::NotPermitted { .. })));
}

#[tokio::test]
async fn a_halt_reaches_every_run_below() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let helper = "airline/helper";
    let start = async |run: Run| {
        let call = AgentCall::new(helper.parse().unwrap(), Payload::text("help"));
        let Verdict::Permitted(permit) = run.propose(call).await.unwrap() else { panic!() };
        permit.start().unwrap()
    };
    let open = |parent| OpenRun { parent, ..OpenRun::of(helper.parse().unwrap()) };
    let mut first = start(run.clone()).await;
    let child = kernel.open_run(open(first.child())).await.unwrap();
    let mut second = start(child.clone()).await;
    let grandchild = kernel.open_run(open(second.child())).await.unwrap();
    // A run that is closed stands between them all the same.
    second.finish(Report::ok(Payload::text("started"))).await.unwrap();
    child.close(CloseReason::Done).await.unwrap();
    assert!(grandchild.stopped().is_none());
    let mut third = start(run.clone()).await;
    let permit = match grandchild.propose(tool("read", "{}")).await.unwrap() {
        Verdict::Permitted(permit) => permit,
        other => panic!("{other:?}"),
    };
    {
        // The switch is pulled when it is first polled, before the writer has heard of it.
        let halt = run.halt("enough");
        tokio::pin!(halt);
        std::future::poll_fn(|cx| std::task::Poll::Ready(halt.as_mut().poll(cx).is_ready())).await;
    }
    assert!(permit.start().is_err());
    run.halt("enough").await.unwrap();
    assert!(grandchild.propose(tool("read", "{}")).await.is_err());
    let below = open(third.child());
    assert!(matches!(kernel.open_run(below).await, Err(OpenRunError::Stopped(_))));
    assert!(kinds(&kernel, grandchild.id()).contains(&"halt"));
    assert!(!kinds(&kernel, child.id()).contains(&"halt"));
    assert!(kernel.stopped().is_none());
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
