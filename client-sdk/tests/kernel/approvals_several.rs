//! Calls that several people must approve: every role, every count, nobody twice, and a refusal by anybody.

use std::sync::Arc;

use sift_client::approval::{APPROVALS_DIR, ApprovalError, Request};
use sift_client::{
    Answered, Approver, CloseReason, Held, Kernel, Payload, Report, Run, Status, Verdict, WaitError,
    write_new,
};
use sift_spec::note::SignerKey;
use sift_spec::record::{Answer, CountError};

use crate::harness::{
    House, auditor, boss, bundle_of, eventually, key, kinds, last_outcome, open_run, second_boss, tool,
    wire_policy,
};

/// Boss and second boss are supervisors, the boss may audit as well, and another key has the boss's name.
async fn house() -> (House, Kernel, Run) {
    let mut house = House::new("").await;
    house.config.bundle = bundle_of(&wire_policy(), "");
    house.config.spool.seconds_max = 3_600;
    let listed = [
        ("supervisor", boss()),
        ("supervisor", second_boss()),
        ("supervisor", other_boss()),
        ("supervisor", key("third@acme.example", 31)),
        ("auditor", boss()),
        ("auditor", auditor()),
    ];
    let listed = listed.map(|(role, key)| Approver {
        role: role.parse().unwrap(),
        key: key.verifier().clone(),
        agents: Vec::new(),
    });
    house.config.approvers = listed.to_vec();
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    (house, kernel, run)
}

fn other_boss() -> SignerKey {
    key("boss@acme.example", 30)
}

async fn hold(run: &Run) -> Held {
    match run.propose(tool("wire", "{\"amount\":900}")).await.unwrap() {
        Verdict::Held(held) => held,
        other => panic!("{other:?}"),
    }
}

fn approve(request: &Request, role: &str, key: &SignerKey) -> String {
    request.sign_as(Answer::Approve, &role.parse().unwrap(), key).unwrap()
}

async fn counts(held: Held, role: &str, key: &SignerKey) -> Held {
    let note = approve(held.request(), role, key);
    match held.answer(&note).await {
        Err((Some(held), WaitError::More(_))) => held,
        other => panic!("{other:?}"),
    }
}

async fn refused(held: Held, note: &str) -> (Held, ApprovalError) {
    match held.answer(note).await {
        Err((Some(held), WaitError::Statement(error))) => (held, error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn all_must_approve_and_nobody_counts_twice() {
    let (_house, kernel, run) = house().await;
    let held = hold(&run).await;
    let shown = held.request().shown();
    let held = counts(held, "supervisor", &boss()).await;
    // What is signed stays the same; who has approved is told beside it.
    assert_eq!(held.request().shown(), shown);
    let status = held.request().status();
    assert!(status.contains("approved  boss@acme.example as supervisor"), "{status}");
    assert!(status.contains("missing   auditor, supervisor\n"), "{status}");
    // The same key again, in the other role that it has, and another key under its name.
    let mut held = held;
    for (role, by) in [("supervisor", boss()), ("auditor", boss()), ("supervisor", other_boss())] {
        let note = approve(held.request(), role, &by);
        let (still, error) = refused(held, &note).await;
        assert!(matches!(error, ApprovalError::Count(CountError::Again(_))), "{error}");
        held = still;
    }
    // In a role that is not needed, and by a key that is not listed for it.
    let note = approve(held.request(), "clerk", &second_boss());
    let (held, error) = refused(held, &note).await;
    assert_eq!(error, ApprovalError::About("role"));
    let note = approve(held.request(), "auditor", &second_boss());
    let (held, error) = refused(held, &note).await;
    assert!(matches!(error, ApprovalError::Approver { .. }));
    let held = counts(held, "supervisor", &second_boss()).await;
    let note = approve(held.request(), "supervisor", &key("third@acme.example", 31));
    let (held, error) = refused(held, &note).await;
    assert!(matches!(error, ApprovalError::Count(CountError::Complete(_))), "{error}");
    let note = approve(held.request(), "auditor", &auditor());
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
    let expected = ["open", "intent", "approval", "approval", "approval", "outcome", "close"];
    assert_eq!(kinds(&kernel, run.id()), expected);
}

#[tokio::test]
async fn a_refusal_by_anybody_cancels_the_call() {
    let (_house, kernel, run) = house().await;
    let held = counts(hold(&run).await, "supervisor", &boss()).await;
    let held = counts(held, "supervisor", &second_boss()).await;
    // The supervisors have approved all they can; a third one may still refuse.
    let role = "supervisor".parse().unwrap();
    let note = held.request().sign_as(Answer::Refuse, &role, &key("third@acme.example", 31)).unwrap();
    let Ok(Answered::Denied(denial)) = held.answer(&note).await else { panic!() };
    assert!(denial.unapproved.is_some());
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn answers_come_as_files_side_by_side() {
    let (house, kernel, run) = house().await;
    let held = hold(&run).await;
    let dir = house.dir.path().join(APPROVALS_DIR);
    let file = dir.join(format!("{}.request", held.request().stem()));
    let read = || Request::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let asked = read();
    assert_eq!(asked.slots(), 4);
    // All lie there before the kernel looks; none overwrites another.
    for (slot, (role, by)) in [("supervisor", boss()), ("auditor", auditor())].into_iter().enumerate() {
        let path = asked.answer_path(&dir, slot as u32 + 1);
        write_new(&path, approve(&asked, role, &by).as_bytes()).unwrap();
        assert!(write_new(&path, b"another").is_err());
    }
    let waiting = tokio::spawn(held.wait());
    eventually("two count", || read().approved.len() == 2).await;
    assert!(read().status().contains("missing   supervisor\n"));
    assert_eq!(read().shown(), asked.shown());
    write_new(&asked.answer_path(&dir, 1), approve(&asked, "supervisor", &second_boss()).as_bytes()).unwrap();
    let Answered::Permitted(permit) = waiting.await.unwrap().unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
}

#[tokio::test]
async fn some_approvals_are_not_enough_in_time_or_after_a_crash() {
    let (house, kernel, run) = house().await;
    let held = counts(hold(&run).await, "supervisor", &boss()).await;
    house.clock.set(held.request().hold.deadline);
    house.clock.advance_ms(1);
    let Answered::Denied(_) = held.wait().await.unwrap() else { panic!() };
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Cancelled);
    // A kernel that stops with two of three approvals has not let the call go.
    let run = open_run(&kernel).await;
    let held = counts(hold(&run).await, "supervisor", &boss()).await;
    let held = counts(held, "auditor", &auditor()).await;
    let id = run.id();
    kernel.close().await;
    drop(held);
    let kernel = house.open().await;
    assert_eq!(last_outcome(&kernel, id).await.status, Status::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_256_answers_at_once_only_as_many_count_as_are_needed() {
    let (house, kernel, run) = house().await;
    let held = hold(&run).await;
    let asked = Arc::new(held.request().clone());
    let mut givers = Vec::new();
    for n in 0..256 {
        let (kernel, asked) = (kernel.clone(), Arc::clone(&asked));
        givers.push(tokio::spawn(async move {
            let (role, by) = match n % 4 {
                0 => ("supervisor", boss()),
                1 => ("auditor", auditor()),
                2 => ("supervisor", second_boss()),
                _ => ("supervisor", other_boss()),
            };
            kernel.answer(asked.run, asked.intent, &approve(&asked, role, &by)).await.is_ok()
        }));
    }
    let mut counted = 0;
    for giver in givers {
        counted += u32::from(giver.await.unwrap());
    }
    assert_eq!(counted, 3);
    let Answered::Permitted(permit) = held.wait().await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    kernel.sync().await.unwrap();
    let expected = ["open", "intent", "approval", "approval", "approval", "outcome"];
    assert_eq!(kinds(&kernel, run.id()), expected);
    drop(house);
}
