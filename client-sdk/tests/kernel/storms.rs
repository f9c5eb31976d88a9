//! 256 callers at once against every limit: exactly as many pass as the limit has room for, and never one more.

use std::sync::Arc;

use sift_client::{AgentCall, ModelCall, OpenRun, Payload, Permit, Proposal, Report, Run, Verdict};
use sift_spec::meter::{Meter, Usage};
use sift_spec::record::Refusal;

use crate::harness::{House, open_run, tool};

const CALLERS: usize = 256;

/// Calls that a limit has room for.
const ROOM: u64 = 37;

/// Bytes of every request, and so the most input tokens of each class.
const REQUEST_BYTES: u64 = 100;

/// Most output tokens of every request.
const MAX_OUTPUT: u64 = 50;

/// Everyone proposes at once and keeps what they get until all have an answer; the permits.
async fn storm(runs: &[Run], proposal: impl Fn(usize) -> Proposal) -> Vec<Permit> {
    let start = Arc::new(tokio::sync::Barrier::new(CALLERS));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (run, proposal) = (runs[caller % runs.len()].clone(), proposal(caller));
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                start.wait().await;
                match run.propose(proposal).await.unwrap() {
                    Verdict::Permitted(permit) => Some(permit),
                    Verdict::Denied(denial) => {
                        let refused = denial.refusal;
                        assert!(
                            matches!(refused, Some(Refusal::Limit(_) | Refusal::Identical(_))),
                            "{refused:?}"
                        );
                        None
                    }
                    Verdict::Held(held) => panic!("{held:?}"),
                }
            })
        })
        .collect();
    let mut permits = Vec::new();
    for task in tasks {
        permits.extend(task.await.unwrap());
    }
    permits
}

/// A call that draws on a meter.
fn call(meter: Meter, caller: usize) -> Proposal {
    match meter {
        Meter::ToolCalls => tool("read", &format!("{{\"n\":{caller}}}")).into(),
        Meter::Agents => AgentCall::new("airline/helper".parse().unwrap(), Payload::text("help")).into(),
        _ => ModelCall {
            provider: "openai".to_owned(),
            model: "gpt-4o".to_owned(),
            request: vec![b' '; REQUEST_BYTES as usize],
            max_output: Some(MAX_OUTPUT),
        }
        .into(),
    }
}

/// What a call holds of a meter, and what [`bill`] settles of it.
fn needs(meter: Meter) -> (u64, u64) {
    match meter {
        Meter::ToolCalls | Meter::ModelCalls | Meter::Agents => (1, 1),
        Meter::InputTokens | Meter::CacheReadTokens | Meter::CacheWriteTokens => (REQUEST_BYTES, 20),
        Meter::OutputTokens | Meter::ReasoningTokens => (MAX_OUTPUT, 10),
        Meter::Tokens => (REQUEST_BYTES + MAX_OUTPUT, 80),
        // 2.5 micro-dollars for a token of the prompt, whatever its class, and 10 for one of the answer.
        Meter::MicroUsd => (250 + 500, 150 + 200),
    }
}

fn bill() -> Report {
    let usage = Usage { cache_read: 20, cache_write: 20, input: 20, output: 10, reasoning: 10 };
    Report::ok(Payload::text("x")).with_model("gpt-4o", None, "provider", usage)
}

/// The runs that share a limit of this scope.
async fn runs(house: &House, scope: &str) -> (sift_client::Kernel, Vec<Run>) {
    let kernel = house.open().await;
    let mut runs = Vec::new();
    let count = if scope.starts_with("run") { 1 } else { 16 };
    for number in 0..count {
        let agent = if scope.starts_with("kernel") { number } else { 0 };
        let open = OpenRun::of(format!("airline/{agent}").parse().unwrap());
        runs.push(kernel.open_run(open).await.unwrap());
    }
    (kernel, runs)
}

async fn exactly(meter: Meter, scope: &str) {
    let (held, billed) = needs(meter);
    // Room for so many calls, and for all but one of the units that one more would hold.
    let limit = ROOM * held + held - 1;
    let house = House::new(&format!("[{scope}]\n{} = {limit}\n", meter.name())).await;
    let (kernel, runs) = runs(&house, scope).await;
    let mut settled = 0;
    // What is billed below its hold comes free, and then as many more pass as there is room for again.
    for round in 0..2 {
        let passed = storm(&runs, |caller| call(meter, caller)).await;
        assert_eq!(passed.len() as u64, (limit - settled) / held, "{meter} in [{scope}], round {round}");
        for permit in passed {
            assert_eq!(permit.reserved().get(meter), held, "{meter}");
            let is_model = !matches!(meter, Meter::ToolCalls | Meter::Agents);
            let report = if is_model { bill() } else { Report::ok(Payload::text("x")) };
            let done = permit.dispatch(|| async { report }).await.unwrap();
            assert_eq!((done.settled.get(meter), done.overspent), (billed, None), "{meter}");
            settled += billed;
        }
    }
    assert!(settled <= limit);
    kernel.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_meter_of_a_run_passes_exactly_its_limit() {
    for meter in Meter::ALL {
        exactly(meter, "run").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_meter_of_an_agent_passes_exactly_its_limit() {
    for meter in Meter::ALL {
        exactly(meter, "agent").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_meter_of_the_kernel_passes_exactly_its_limit() {
    for meter in Meter::ALL {
        exactly(meter, "kernel").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trailing_windows_pass_exactly_their_limit() {
    for scope in ["run.hour", "agent.day", "kernel.hour"] {
        for meter in [Meter::MicroUsd, Meter::ToolCalls, Meter::Tokens] {
            exactly(meter, scope).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn identical_calls_pass_exactly_their_limit() {
    let house = House::new(&format!("[run]\nidentical_calls = {ROOM}\n")).await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let passed = storm(std::slice::from_ref(&run), |_| tool("read", "{\"n\":1}").into()).await;
    assert_eq!(passed.len() as u64, ROOM);
    // Others are not identical.
    let others =
        storm(std::slice::from_ref(&run), |caller| tool("read", &format!("{{\"n\":{}}}", caller + 2)).into());
    assert_eq!(others.await.len(), CALLERS);
}

/// The tightest of several limits rules, whichever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_limits_the_tightest_passes_exactly() {
    for (run, agent, kernel) in [(5, 100, 200), (100, 41, 200), (100, 200, 43)] {
        let budget = format!(
            "[run]\ntool_calls = {run}\n[agent.hour]\ntool_calls = {agent}\n[kernel.day]\ntool_calls = {kernel}\n"
        );
        let house = House::new(&budget).await;
        let (open, runs) = runs(&house, "agent").await;
        let passed = storm(&runs, |caller| call(Meter::ToolCalls, caller)).await;
        let room = (run * runs.len()).min(agent).min(kernel);
        assert_eq!(passed.len(), room, "{budget}");
        drop(passed);
        open.close().await;
    }
}
