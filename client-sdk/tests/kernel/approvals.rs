//! Approvals: one answer, by the right person, to the right call, in time.

use sift_client::approval::{ANSWER_SUFFIX, APPROVALS_DIR, ApprovalError, REQUEST_SUFFIX, Request};
use sift_client::{
    Answered, CloseReason, DispatchError, HaltCause, Held, Payload, Report, Run, Status, Stop, Verdict,
    WaitError, write_whole,
};
use sift_spec::meter::Meter;
use sift_spec::record::{Answer, Body, Effect};

use crate::harness::{House, boss, bundle, eventually, key, kinds, last_outcome, open_run, records, tool};

async fn hold(run: &Run, args: &str) -> Held {
    match run.propose(tool("pay", args)).await.unwrap() {
        Verdict::Held(held) => held,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_approved_call_runs_once() {
    let house = House::new("[run]\ntool_calls = 1\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "{\"amount\":5}").await;
    // It holds its worst case while it waits.
    let Verdict::Denied(denial) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    assert!(denial.refusal.is_some());
    let note = held.request().sign(Answer::Approve, &boss()).unwrap();
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
    let records = records(&kernel, run.id());
    let Body::Intent(intent) = &records[1].body else { panic!() };
    assert_eq!(intent.effect(), Effect::Hold);
    let Body::Approval(approval) = &records[3].body else { panic!() };
    assert_eq!((approval.intent, approval.statement.as_str()), (records[1].seq, note.as_str()));
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent", "intent", "approval", "outcome", "close"]);
}

#[tokio::test]
async fn the_answer_may_come_as_a_file() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "{}").await;
    let dir = house.dir.path().join(APPROVALS_DIR);
    let request = dir.join(format!("{}{REQUEST_SUFFIX}", held.request().stem()));
    let answer = dir.join(format!("{}{ANSWER_SUFFIX}", held.request().stem()));
    let asked = Request::parse(&std::fs::read_to_string(&request).unwrap()).unwrap();
    assert_eq!(asked, *held.request());
    let waiting = tokio::spawn(held.wait());
    // What does not count is put aside, and the call waits on.
    write_whole(&answer, b"yes, do it").unwrap();
    eventually("put aside", || !answer.exists()).await;
    write_whole(&answer, asked.sign(Answer::Approve, &key("mallory", 9)).unwrap().as_bytes()).unwrap();
    eventually("put aside", || !answer.exists()).await;
    write_whole(&answer, asked.sign(Answer::Approve, &boss()).unwrap().as_bytes()).unwrap();
    let Answered::Permitted(permit) = waiting.await.unwrap().unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    assert!(!request.exists() && !answer.exists());
}

#[tokio::test]
async fn a_refused_call_is_cancelled_and_settles_nothing() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "{}").await;
    let note = held.request().sign(Answer::Refuse, &boss()).unwrap();
    let Ok(Answered::Denied(denial)) = held.answer(&note).await else { panic!() };
    assert!(denial.unapproved.is_some());
    let outcome = last_outcome(&kernel, run.id()).await;
    assert_eq!((outcome.status, outcome.settled.get(Meter::ToolCalls)), (Status::Cancelled, 0));
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent", "approval", "outcome"]);
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn no_answer_in_time_is_a_denial() {
    let mut house = House::new("").await;
    house.config.spool.seconds_max = 3_600;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "{}").await;
    let note = held.request().sign(Answer::Approve, &boss()).unwrap();
    let deadline = held.request().hold.deadline;
    house.clock.set(deadline);
    house.clock.advance_ms(1);
    let Err((Some(held), WaitError::Statement(ApprovalError::Late(_)))) = held.answer(&note).await else {
        panic!()
    };
    let Answered::Denied(denial) = held.wait().await.unwrap() else { panic!() };
    assert!(denial.to_string().contains("deadline"));
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn what_changed_while_a_call_was_held_counts() {
    let mut house = House::new("[run]\nwall_clock_seconds = 30\n").await;
    house.config.spool.seconds_max = 3_600;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "{}").await;
    let note = held.request().sign(Answer::Approve, &boss()).unwrap();
    house.clock.advance_ms(31_000);
    let Err((None, WaitError::Stopped(stop))) = held.answer(&note).await else { panic!() };
    assert!(matches!(stop, Stop::Halted { cause: HaltCause::WallClock, .. }));
    eventually("an outcome", || kinds(&kernel, run.id()).last() == Some(&"outcome")).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    kernel.close().await;

    // The deadline of an approval is one for the call as well.
    house.config.bundle = bundle("");
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "{}").await;
    let note = held.request().sign(Answer::Approve, &boss()).unwrap();
    let deadline = held.request().hold.deadline;
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!() };
    house.clock.set(deadline);
    house.clock.advance_ms(1);
    assert!(matches!(permit.start(), Err(DispatchError::Late(late)) if late == deadline));
    eventually("an outcome", || kinds(&kernel, run.id()).last() == Some(&"outcome")).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
}

#[tokio::test]
async fn an_answer_counts_for_one_call_only() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let (first, second) = (hold(&run, "{}").await, hold(&run, "{}").await);
    let note = first.request().sign(Answer::Approve, &boss()).unwrap();
    let Err((Some(second), WaitError::Statement(ApprovalError::About(_)))) = second.answer(&note).await
    else {
        panic!()
    };
    let stranger = second.request().sign(Answer::Approve, &key("mallory", 9)).unwrap();
    let Err((Some(second), WaitError::Statement(ApprovalError::Approver { .. }))) =
        second.answer(&stranger).await
    else {
        panic!()
    };
    drop(second);
    eventually("the dropped call is cancelled", || kinds(&kernel, run.id()).contains(&"outcome")).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    let Ok(Answered::Permitted(permit)) = first.answer(&note).await else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
}
