//! Runs that go on after the kernel was gone: the same chain, counters, holds and counts, or not at all.

use std::time::Duration;

use sift_client::{
    AgentCall, CloseReason, HaltCause, Kernel, OpenRun, Payload, Permit, Report, ResumeError, Run, Status,
    Stop, ToolCall, Verdict,
};
use sift_spec::meter::Meter;
use sift_spec::record::{Body, Refusal};

use crate::budgets::derive;
use crate::harness::{House, eventually, kinds, last_outcome, open_run, records, tool};

/// Leaves a kernel as kill -9 would: permits and runs are not closed, only the store is let go.
async fn crash(kernel: Kernel, permits: Vec<Permit>) {
    permits.into_iter().for_each(std::mem::forget);
    kernel.close().await;
}

async fn house(budget: &str) -> House {
    let mut house = House::new(budget).await;
    house.config.resume = Duration::from_secs(60);
    house
}

async fn done(run: &Run, call: ToolCall) {
    let Verdict::Permitted(permit) = run.propose(call).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

async fn permit(run: &Run, call: ToolCall) -> Permit {
    match run.propose(call).await.unwrap() {
        Verdict::Permitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn refusal(verdict: Verdict) -> Refusal {
    let Verdict::Denied(denial) = verdict else { panic!("{verdict:?}") };
    denial.refusal.unwrap()
}

#[tokio::test]
async fn a_run_goes_on_as_if_nothing_had_happened_to_its_counters() {
    let house = house("[run]\nidentical_calls = 2\ntool_calls = 6\n").await;
    let kernel = house.open().await;
    let (run, other) = (open_run(&kernel).await, open_run(&kernel).await);
    done(&run, tool("write", "{\"n\":1}")).await;
    done(&run, tool("read", "{\"n\":2}")).await;
    assert!(matches!(run.propose(tool("unknown", "{}")).await.unwrap(), Verdict::Denied(_)));
    let lost = permit(&run, tool("read", "{\"n\":2}")).await;
    let Verdict::Held(held) = run.propose(tool("pay", "{}")).await.unwrap() else { panic!() };
    std::mem::forget(held);
    let before = kinds(&kernel, run.id());
    crash(kernel, vec![lost]).await;

    house.clock.advance_ms(1000);
    let kernel = house.open().await;
    let waiting = kernel.resumable();
    let ids: Vec<_> = waiting.iter().map(|waiting| waiting.run).collect();
    assert_eq!((ids.len(), ids.contains(&run.id()), ids.contains(&other.id())), (2, true, true));
    let id = run.id();
    let run = kernel.resume_run(id).await.unwrap();
    assert_eq!((run.id(), run.agent().as_str()), (id, "airline/gpt-4o"));
    assert!(matches!(kernel.resume_run(id).await, Err(ResumeError::NotWaiting(_))), "once");
    let after = kinds(&kernel, id);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after[before.len()..], ["outcome", "outcome", "beat"]);
    let outcomes: Vec<_> = records(&kernel, id)
        .iter()
        .filter_map(|record| match &record.body {
            Body::Outcome(outcome) => Some((outcome.status, outcome.settled.get(Meter::ToolCalls))),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes[2..], [(Status::Unknown, 1), (Status::Cancelled, 0)]);
    // Identical calls are counted over the crash, and so are writes, which the policy allows twice.
    let refused = refusal(run.propose(tool("read", "{\"n\":2}")).await.unwrap());
    assert!(matches!(refused, Refusal::Identical(_)), "{refused:?}");
    done(&run, tool("write", "{\"n\":3}")).await;
    assert!(matches!(run.propose(tool("write", "{\"n\":4}")).await.unwrap(), Verdict::Denied(_)));
    // Three of six are used, with the unknown one four; two are left.
    done(&run, tool("read", "{\"n\":5}")).await;
    done(&run, tool("read", "{\"n\":6}")).await;
    assert!(matches!(refusal(run.propose(tool("read", "{\"n\":7}")).await.unwrap()), Refusal::Limit(_)));
    let settled = run.close(CloseReason::Done).await.unwrap();
    assert_eq!(settled.get(Meter::ToolCalls), 6);
    // An auditor derives every input of it, before and after.
    derive(&kernel, id, run.bundle());
    // Twice in a row, from a snapshot.
    kernel.close().await;
    let kernel = house.open().await;
    assert_eq!(kernel.resumable().iter().map(|waiting| waiting.run).collect::<Vec<_>>(), [other.id()]);
    let other = kernel.resume_run(other.id()).await.unwrap();
    done(&other, tool("read", "{}")).await;
    other.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn what_nobody_resumes_in_time_is_closed() {
    let house = house("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    done(&run, tool("read", "{}")).await;
    crash(kernel, Vec::new()).await;
    let kernel = house.open().await;
    house.clock.advance_ms(60_000);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(kernel.resumable().len(), 1);
    house.clock.advance_ms(1);
    eventually("closed", || kinds(&kernel, run.id()).last() == Some(&"close")).await;
    let all = records(&kernel, run.id());
    let Some(Body::Close(close)) = all.last().map(|record| &record.body) else { panic!() };
    assert_eq!(close.reason, CloseReason::Abandoned);
    assert!(kernel.resumable().is_empty());
    assert!(matches!(kernel.resume_run(run.id()).await, Err(ResumeError::NotWaiting(_))));
    // Without a grace time a restart closes at once.
    let run = open_run(&kernel).await;
    kernel.close().await;
    let mut house = house;
    house.config.resume = Duration::ZERO;
    let kernel = house.open().await;
    assert!(kernel.resumable().is_empty());
    assert_eq!(kinds(&kernel, run.id()), ["open", "close"]);
}

#[tokio::test]
async fn what_cannot_be_folded_is_not_resumed() {
    let house = house("").await;
    let kernel = house.open().await;
    let (erased, halted, whole) = (open_run(&kernel).await, open_run(&kernel).await, open_run(&kernel).await);
    for run in [&erased, &halted, &whole] {
        done(run, tool("read", "{\"a\":1}")).await;
    }
    halted.halt("enough").await.unwrap();
    // The policy's input is derived, so that its loss is no hindrance; the arguments are not.
    for (run, index) in [(&whole, true), (&erased, false)] {
        let intent = kernel.store().run(run.id()).unwrap().remove(1);
        let Body::Intent(body) = records(&kernel, run.id()).remove(1).body else { panic!() };
        let sift_spec::record::Call::Tool(call) = body.call.clone() else { panic!() };
        let digest = if index { body.decision.input.digest } else { call.args.digest };
        assert!(kernel.store().erase_object(intent.position, &digest).unwrap());
    }
    crash(kernel, Vec::new()).await;
    let kernel = house.open().await;
    assert_eq!(kernel.resumable().len(), 1);
    let Err(ResumeError::Cannot { why, .. }) = kernel.resume_run(erased.id()).await else { panic!() };
    assert!(why.contains("record 1 was erased"), "{why}");
    let Err(ResumeError::Cannot { why, .. }) = kernel.resume_run(halted.id()).await else { panic!() };
    assert!(why.contains("halted"), "{why}");
    for run in [&erased, &halted] {
        assert_eq!(kinds(&kernel, run.id()).last(), Some(&"close"));
    }
    done(&kernel.resume_run(whole.id()).await.unwrap(), tool("read", "{}")).await;
}

#[tokio::test]
async fn a_sub_agent_goes_on_below_its_parent_and_a_halt_reaches_those_that_wait() {
    let house = house("[run]\ntool_calls = 3\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let call = AgentCall::new("airline/helper".parse().unwrap(), Payload::text("help"));
    let Verdict::Permitted(start) = run.propose(call).await.unwrap() else { panic!() };
    let mut start = start.start().unwrap();
    let open = OpenRun { parent: start.child(), ..OpenRun::of("airline/helper".parse().unwrap()) };
    let below = kernel.open_run(open).await.unwrap();
    done(&below, tool("read", "{}")).await;
    std::mem::forget(start);
    crash(kernel, Vec::new()).await;
    let kernel = house.open().await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Unknown, "the start of the sub-agent");
    let below = kernel.resume_run(below.id()).await.unwrap();
    let run = kernel.resume_run(run.id()).await.unwrap();
    // What it spends counts above.
    done(&below, tool("read", "{\"n\":1}")).await;
    done(&run, tool("read", "{\"n\":2}")).await;
    assert!(matches!(refusal(below.propose(tool("read", "{\"n\":3}")).await.unwrap()), Refusal::Limit(_)));
    crash(kernel, Vec::new()).await;
    let kernel = house.open().await;
    assert_eq!(kernel.resumable().len(), 2);
    // The switch reaches runs that wait: nobody resumes them.
    let scope = sift_client::HaltScope::Run(run.id());
    assert!(kernel.halt_scope(&scope, "enough").await.recorded);
    for id in [run.id(), below.id()] {
        let refused = kernel.resume_run(id).await;
        assert!(matches!(
            refused,
            Err(ResumeError::Stopped(Stop::Halted { cause: HaltCause::Operator, .. }))
        ));
        assert!(kinds(&kernel, id).contains(&"halt"));
    }
}
