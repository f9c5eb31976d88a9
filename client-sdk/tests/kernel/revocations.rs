//! Revocations: what the operator takes back does not count from the moment the kernel knows, and it forgets nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sift_client::approval::{APPROVALS_DIR, ApprovalError};
use sift_client::{
    Answered, Approver, CloseReason, DelegationRefused, DispatchError, HaltCause, Held, Kernel, Mode,
    OpenError, OpenRun, OpenRunError, OperatorStatus, Payload, ProposeError, Report, Run, Status, Stop,
    Verdict, WaitError, write_new,
};
use sift_spec::entry::Entry;
use sift_spec::meter::Amounts;
use sift_spec::note::SignerKey;
use sift_spec::record::{Answer, Erase, KeyRole, OperatorBody, OperatorRecord};
use sift_spec::types::{Seq, Text};

use crate::delegation::{calls, key_of, peer, start};
use crate::harness::{
    FakeLog, House, Lie, auditor, boss, bundle_of, eventually, grant, grant_supervisor, kernel_key, key,
    kinds, last_outcome, open_run, operator, revoke, tool, wire_policy,
};

/// Not the harness's second boss, whose key is the operator's and is never granted.
fn second() -> SignerKey {
    key("deputy@acme.example", 30)
}

fn third() -> SignerKey {
    key("third@acme.example", 31)
}

/// Three supervisors and an auditor, all granted; and this kernel.
async fn house() -> House {
    let mut house = House::new("").await;
    house.config.bundle = bundle_of(&wire_policy(), "");
    house.config.spool.seconds_max = 3_600;
    let listed =
        [("supervisor", boss()), ("supervisor", second()), ("supervisor", third()), ("auditor", auditor())];
    house.log.operate(grant(&kernel_key(), KeyRole::Kernel), &operator());
    for (role, key) in &listed {
        house.log.operate(grant(key, KeyRole::Approver(role.parse().unwrap())), &operator());
    }
    house.config.approvers = listed
        .map(|(role, key)| Approver {
            role: role.parse().unwrap(),
            key: key.verifier().clone(),
            agents: Vec::new(),
        })
        .to_vec();
    house
}

/// How many records of the operator the house's log starts with.
const GRANTED: u64 = 5;

fn followed(kernel: &Kernel) -> OperatorStatus {
    kernel.status().operator
}

/// Waits until the kernel knows so many records of the operator.
async fn knows(kernel: &Kernel, records: u64) {
    eventually("the kernel knows", || followed(kernel).records == records).await;
}

/// Waits until the kernel says what is wrong with the log's answers.
async fn complains(kernel: &Kernel, of: &str) {
    let trouble = || followed(kernel).trouble.unwrap_or_default();
    eventually(&format!("a complaint about {of}"), || trouble().contains(of)).await;
}

async fn hold(run: &Run, name: &str) -> Held {
    match run.propose(tool(name, "{\"amount\":900}")).await.unwrap() {
        Verdict::Held(held) => held,
        other => panic!("{other:?}"),
    }
}

fn sign(held: &Held, answer: Answer, role: &str, by: &SignerKey) -> String {
    held.request().sign_as(answer, &role.parse().unwrap(), by).unwrap()
}

async fn refused(held: Held, note: &str) -> (Held, ApprovalError) {
    match held.answer(note).await {
        Err((Some(held), WaitError::Statement(error))) => (held, error),
        other => panic!("{other:?}"),
    }
}

/// The boss's answers do not count, and the second boss's does.
async fn the_boss_is_out(run: &Run) {
    let mut held = hold(run, "pay").await;
    for answer in [Answer::Approve, Answer::Refuse] {
        let note = sign(&held, answer, "supervisor", &boss());
        let (still, error) = refused(held, &note).await;
        assert!(matches!(error, ApprovalError::Revoked { .. }), "{error}");
        held = still;
    }
    let note = sign(&held, Answer::Approve, "supervisor", &second());
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
}

/// The boss's answer releases a call.
async fn the_boss_counts(run: &Run) {
    let held = hold(run, "pay").await;
    let note = sign(&held, Answer::Approve, "supervisor", &boss());
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
}

#[tokio::test]
async fn an_approver_who_is_revoked_while_a_call_waits_does_not_release_it() {
    for mode in [Mode::Spool, Mode::Log] {
        let mut house = house().await;
        house.config.mode = mode;
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        knows(&kernel, GRANTED).await;
        the_boss_counts(&run).await;
        let held = hold(&run, "pay").await;
        let at = house.log.operate(revoke(&boss()), &operator()) as u64;
        knows(&kernel, GRANTED + 1).await;
        assert_eq!(followed(&kernel).revoked, [boss().verifier().name().clone()]);
        // Given directly.
        let note = sign(&held, Answer::Approve, "supervisor", &boss());
        let (held, error) = refused(held, &note).await;
        let ApprovalError::Revoked { key, at: said } = &error else { panic!("{error}") };
        assert_eq!((key, said.get()), (boss().verifier().name(), at));
        assert!(error.to_string().contains("another approver may answer"), "{error}");
        // As files: it is put aside, the call waits on, and another approver releases it.
        let dir = house.dir.path().join(APPROVALS_DIR);
        let path = held.request().answer_path(&dir, 1);
        let good = sign(&held, Answer::Approve, "supervisor", &second());
        let waiting = tokio::spawn(held.wait());
        write_new(&path, note.as_bytes()).unwrap();
        eventually("put aside", || path.with_extension("rejected").exists()).await;
        assert!(!waiting.is_finished());
        write_new(&path, good.as_bytes()).unwrap();
        let Answered::Permitted(permit) = waiting.await.unwrap().unwrap() else { panic!() };
        permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
        the_boss_is_out(&run).await;
        run.close(CloseReason::Done).await.unwrap();
        kernel.close().await;
    }
}

#[tokio::test]
async fn an_approval_that_counted_does_not_help_to_release_once_it_is_revoked() {
    let house = house().await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "wire").await;
    let note = sign(&held, Answer::Approve, "supervisor", &boss());
    let Err((Some(held), WaitError::More(_))) = held.answer(&note).await else { panic!() };
    let other = hold(&run, "wire").await;
    house.log.operate(revoke(&boss()), &operator());
    // The call is over at once, and says why and what to do. One that he has not answered waits on.
    let answered = tokio::time::timeout(std::time::Duration::from_secs(20), held.wait()).await;
    let Answered::Denied(denial) = answered.expect("it is over").unwrap() else { panic!() };
    let why = denial.unapproved.unwrap();
    assert!(why.contains("boss@acme.example approved") && why.contains("propose the call again"), "{why}");
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent", "approval", "intent", "outcome"]);
    let outcome = last_outcome(&kernel, run.id()).await;
    assert_eq!((outcome.status, outcome.settled), (Status::Cancelled, Amounts::ZERO));
    let mut held = other;
    for (role, by) in [("supervisor", second()), ("auditor", auditor())] {
        let note = sign(&held, Answer::Approve, role, &by);
        let Err((Some(still), WaitError::More(_))) = held.answer(&note).await else { panic!() };
        held = still;
    }
    let note = sign(&held, Answer::Approve, "supervisor", &third());
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
}

#[tokio::test]
async fn what_was_learnt_outlives_restarts_and_a_log_that_hides_it() {
    let house = house().await;
    let kernel = house.open().await;
    let place = house.log.operate(revoke(&boss()), &operator());
    knows(&kernel, GRANTED + 1).await;
    kernel.close().await;
    // The log is not reached: what is known is known from the start on.
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let kernel = house.open().await;
    assert_eq!(followed(&kernel).records, GRANTED + 1);
    let run = open_run(&kernel).await;
    the_boss_is_out(&run).await;
    complains(&kernel, "could not be asked for").await;
    // It shows fewer records than it has proven, or none, and nothing is forgotten; with a restart between.
    for shown in [GRANTED as usize, 0] {
        *house.log.behaviour.shows.lock().unwrap() = Some(shown);
        house.log.behaviour.down.store(false, Ordering::SeqCst);
        complains(&kernel, &format!("it shows {shown} of them and has proven 6")).await;
        the_boss_is_out(&run).await;
    }
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
    let kernel = house.open().await;
    complains(&kernel, "it was rolled back, or hides some").await;
    let run = open_run(&kernel).await;
    the_boss_is_out(&run).await;
    assert!(kernel.stopped().is_none());
    // It has grown again with another record in the place of the revocation.
    house.log.operate(grant_supervisor(&key("new@acme.example", 50)), &operator());
    let other = OperatorRecord {
        time: crate::harness::at(crate::harness::NOW + 1),
        ..house.log.next_record(revoke(&third()))
    };
    let other = Entry::sign_operator(&other, &operator()).unwrap().into_bytes();
    house.log.behaviour.disguise.lock().unwrap().insert(place, other);
    *house.log.behaviour.shows.lock().unwrap() = Some(GRANTED as usize + 1);
    complains(&kernel, "not the one that it has proven").await;
    the_boss_is_out(&run).await;
    // It is as it was, and goes on.
    house.log.behaviour.disguise.lock().unwrap().clear();
    *house.log.behaviour.shows.lock().unwrap() = None;
    knows(&kernel, GRANTED + 2).await;
    eventually("no trouble", || followed(&kernel).trouble.is_none()).await;
    kernel.close().await;
}

#[tokio::test]
async fn a_revocation_while_the_log_is_down_is_learnt_when_it_is_back() {
    let house = house().await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    knows(&kernel, GRANTED).await;
    let held = hold(&run, "pay").await;
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    house.log.operate(revoke(&boss()), &operator());
    complains(&kernel, "could not be asked for").await;
    // What is not known is not in force; and nothing stops for want of an answer.
    the_boss_counts(&run).await;
    house.log.behaviour.down.store(false, Ordering::SeqCst);
    knows(&kernel, GRANTED + 1).await;
    let note = sign(&held, Answer::Approve, "supervisor", &boss());
    let (_held, error) = refused(held, &note).await;
    assert!(matches!(error, ApprovalError::Revoked { .. }), "{error}");
}

/// A log that tells something of the operator that is not so, and what the kernel says of it.
struct Liar {
    name: &'static str,
    says: &'static str,
    lie: fn(&FakeLog),
    /// Whether the log can tell the truth again.
    heals: bool,
}

/// A record of the operator that is changed before it is signed.
fn forge(log: &FakeLog, by: &SignerKey, change: impl FnOnce(&mut OperatorRecord)) {
    let mut record = log.next_record(revoke(&boss()));
    change(&mut record);
    log.admit(Entry::sign_operator(&record, by).unwrap().into_bytes());
}

const LIARS: [Liar; 11] = [
    Liar {
        name: "a record that the operator did not sign",
        says: "signature of boss@acme.example does not verify",
        lie: |log| forge(log, &boss(), |_| {}),
        heals: false,
    },
    Liar {
        name: "a record by another key of the operator's name",
        says: "signature of operator.example does not verify",
        lie: |log| forge(log, &key("operator.example", 66), |_| {}),
        heals: false,
    },
    Liar {
        name: "a gap in the chain",
        says: "does not follow",
        lie: |log| forge(log, &operator(), |record| record.seq = Seq::new(GRANTED + 1).unwrap()),
        heals: false,
    },
    Liar {
        name: "a record that follows another one",
        says: "is not the leaf hash",
        lie: |log| {
            forge(log, &operator(), |record| record.prev = Some(sift_spec::hash::leaf_hash(b"another")));
        },
        heals: false,
    },
    Liar {
        name: "a record for another log",
        says: "for the log other.example",
        lie: |log| forge(log, &operator(), |record| record.log = "other.example".parse().unwrap()),
        heals: false,
    },
    Liar {
        name: "a revocation of a key that was never granted",
        says: "it cannot be applied",
        lie: |log| forge(log, &operator(), |record| record.body = revoke(&key("nobody", 90))),
        heals: false,
    },
    Liar {
        name: "a record that is not in its tree",
        says: "root",
        lie: |log| {
            let record = Entry::sign_operator(&log.next_record(revoke(&boss())), &operator()).unwrap();
            let index = log.operate(revoke(&boss()), &operator());
            let other = OperatorRecord {
                time: crate::harness::at(crate::harness::NOW + 7),
                ..match record.content() {
                    sift_spec::entry::Content::Operator(record) => record.clone(),
                    sift_spec::entry::Content::Run(_) => panic!("the operator's"),
                }
            };
            let other = Entry::sign_operator(&other, &operator()).unwrap().into_bytes();
            log.behaviour.disguise.lock().unwrap().insert(index, other);
        },
        heals: true,
    },
    Liar {
        name: "a tree that another key signed",
        says: "not believed",
        lie: |log| {
            *log.behaviour.lie.lock().unwrap() = Some(Lie::OtherLog);
            log.operate(revoke(&boss()), &operator());
        },
        heals: true,
    },
    Liar {
        name: "a record in the middle that it hides",
        says: "seq 6 does not follow",
        lie: |log| {
            let index = log.operate(revoke(&boss()), &operator());
            log.behaviour.hidden.lock().unwrap().insert(index);
            log.operate(grant_supervisor(&key("new@acme.example", 50)), &operator());
        },
        heals: true,
    },
    Liar {
        name: "records that it does not name",
        says: "in no published tree yet",
        lie: |log| {
            for _ in 0..2 {
                let index = log.operate(
                    OperatorBody::Erase(Erase {
                        digest: sift_spec::hash::leaf_hash(b"x"),
                        reason: Text::cut("x"),
                    }),
                    &operator(),
                );
                log.behaviour.hidden.lock().unwrap().insert(index);
            }
        },
        heals: true,
    },
    Liar {
        name: "an entry that is none",
        says: "is not believed: entry",
        lie: |log| {
            let index = log.operate(revoke(&boss()), &operator());
            log.behaviour.disguise.lock().unwrap().insert(index, b"nothing".to_vec());
        },
        heals: true,
    },
];

#[tokio::test]
async fn what_is_not_proven_changes_nothing_and_is_said() {
    for Liar { name, says, lie, heals } in LIARS {
        println!("{name}");
        let house = house().await;
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        knows(&kernel, GRANTED).await;
        lie(&house.log);
        complains(&kernel, says).await;
        assert_eq!((followed(&kernel).records, followed(&kernel).revoked.len()), (GRANTED, 0), "{name}");
        the_boss_counts(&run).await;
        assert!(kernel.stopped().is_none());
        if heals {
            house.log.behaviour.disguise.lock().unwrap().clear();
            house.log.behaviour.hidden.lock().unwrap().clear();
            *house.log.behaviour.lie.lock().unwrap() = None;
            eventually("the truth", || followed(&kernel).records > GRANTED).await;
        }
        kernel.close().await;
        // Nothing of a lie is on the disk.
        let kernel = house.open().await;
        assert_eq!(followed(&kernel).records > GRANTED, heals, "{name}");
        kernel.close().await;
    }
}

#[tokio::test]
async fn a_long_chain_is_read_in_parts() {
    let house = house().await;
    // More records than one look takes, and others' entries between them.
    let erase = |n: u64| {
        OperatorBody::Erase(Erase {
            digest: sift_spec::hash::leaf_hash(&n.to_be_bytes()),
            reason: Text::cut("asked for"),
        })
    };
    for n in 0..260 {
        house.log.operate(erase(n), &operator());
        house.log.pad(usize::from(n % 3 == 0));
    }
    house.log.operate(revoke(&boss()), &operator());
    house.log.pad(10);
    let kernel = house.open().await;
    // Each with its proof, which takes a while here.
    for part in [80, 160, 240] {
        eventually("a part of it", || followed(&kernel).records >= part).await;
    }
    knows(&kernel, GRANTED + 261).await;
    let run = open_run(&kernel).await;
    the_boss_is_out(&run).await;
    kernel.close().await;
    let kernel = house.open().await;
    assert_eq!(followed(&kernel).records, GRANTED + 261);
    house.log.pad(300);
    house.log.operate(erase(300), &operator());
    house.log.operate(revoke(&third()), &operator());
    knows(&kernel, GRANTED + 263).await;
    assert_eq!(followed(&kernel).revoked.len(), 2);
    kernel.close().await;
}

#[tokio::test]
async fn a_kernel_whose_key_is_revoked_halts_and_does_not_start_again() {
    let house = house().await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let index = house.log.operate(revoke(&kernel_key()), &operator()) as u64;
    eventually("it stops", || kernel.stopped().is_some()).await;
    let Some(Stop::Halted { cause, detail }) = kernel.stopped() else { panic!() };
    assert_eq!(cause, HaltCause::LogRefused);
    let says = format!("revoked this kernel's key acme.example/kernel at index {index}");
    assert!(detail.contains(&says), "{detail}");
    assert!(detail.contains("have a new key granted"), "{detail}");
    let refused = run.propose(tool("read", "{}")).await;
    assert!(matches!(refused, Err(ProposeError::Stopped(Stop::Halted { .. }))));
    eventually("the record", || kinds(&kernel, run.id()).last() == Some(&"halt")).await;
    kernel.close().await;
    // Also when the log is not to be reached. With the next key of that name it starts.
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let Err(OpenError::Revoked { at, .. }) = house.try_open().await else { panic!() };
    assert_eq!(at.get(), index);
    let next = key("acme.example/kernel", 88);
    let kernel = Kernel::open(house.config.clone(), next, Arc::clone(&house.clock)).await.unwrap();
    kernel.close().await;
}

#[tokio::test]
async fn another_kernel_that_is_revoked_neither_delegates_nor_settles() {
    let (mut upper, mut lower) =
        (House::new("[run]\ntool_calls = 10\nagents = 4\ndepth = 1\n").await, House::new("").await);
    (upper.config.kernels, lower.config.kernels) = (vec![peer(1)], vec![peer(0)]);
    for house in [&upper, &lower] {
        for number in [0, 1] {
            house.log.operate(grant(&key_of(number), KeyRole::Kernel), &operator());
        }
    }
    let above = upper.open().await;
    let below = Kernel::open(lower.config.clone(), key_of(1), Arc::clone(&lower.clock)).await.unwrap();
    let run = open_run(&above).await;
    let budget = Amounts::ZERO.with(sift_spec::meter::Meter::ToolCalls, 3);
    let (first, note) = start(&run, 1, budget).await;
    let (_second, later) = start(&run, 1, budget).await;
    let open = |note: &str| OpenRun::delegated("airline/helper".parse().unwrap(), note);
    let child = below.open_run(open(&note)).await.unwrap();
    assert_eq!(calls(&child, 1).await, 1);
    child.close(CloseReason::Done).await.unwrap();
    let close = below.closing(child.id()).unwrap().unwrap();
    // The upper kernel's key is revoked: what it delegates opens nothing here any more.
    lower.log.operate(revoke(&key_of(0)), &operator());
    knows(&below, 3).await;
    match below.open_run(open(&later)).await {
        Err(OpenRunError::Delegation(error @ DelegationRefused::Revoked { .. })) => {
            assert!(error.to_string().contains("needs a new key"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // The lower kernel's key is revoked: its word settles nothing, and the whole hold is.
    upper.log.operate(revoke(&key_of(1)), &operator());
    knows(&above, 3).await;
    let report = Report::ok(Payload::text("helped")).with_close(&close);
    let settled = first.finish(report).await.unwrap().settled;
    assert_eq!(settled.get(sift_spec::meter::Meter::ToolCalls), 3, "{settled:?}");
    assert!(last_outcome(&above, run.id()).await.close.is_none());
}

#[tokio::test]
async fn status_says_how_far_the_operators_records_are_followed() {
    let house = house().await;
    let stranger = key("stranger@acme.example", 70);
    let mut config = house.config.clone();
    config.approvers.push(Approver {
        role: "supervisor".parse().unwrap(),
        key: stranger.verifier().clone(),
        agents: Vec::new(),
    });
    let kernel = Kernel::open(config, kernel_key(), Arc::clone(&house.clock)).await.unwrap();
    house.log.operate(revoke(&boss()), &operator());
    knows(&kernel, GRANTED + 1).await;
    eventually("all of it", || followed(&kernel).asked.is_some()).await;
    assert_eq!(followed(&kernel).ungranted, [stranger.verifier().name().clone()]);
    // Who is listed and not granted counts as before: the configuration says who may answer.
    let run = open_run(&kernel).await;
    let held = hold(&run, "pay").await;
    let note = sign(&held, Answer::Approve, "supervisor", &stranger);
    assert!(matches!(held.answer(&note).await, Ok(Answered::Permitted(_))));
    let dir = house.dir.path().to_owned();
    let shown = tokio::task::spawn_blocking(move || {
        std::process::Command::new(env!("CARGO_BIN_EXE_sift-kernel"))
            .arg("status")
            .arg("--dir")
            .arg(&dir)
            .output()
    });
    let shown = String::from_utf8(shown.await.unwrap().unwrap().stdout).unwrap();
    for line in
        ["operator  6 records known", "revoked   boss@acme.example", "ungranted stranger@acme.example"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    kernel.close().await;
}

#[tokio::test]
async fn records_of_another_operator_are_not_taken_over() {
    let house = house().await;
    let kernel = house.open().await;
    knows(&kernel, GRANTED).await;
    kernel.close().await;
    let mut other = house.config.clone();
    let named = key("operator.example", 5);
    other.trust = sift_spec::trust::TrustPolicy::of_log(
        crate::harness::log_key().verifier().clone(),
        Some(named.verifier().clone()),
    );
    let opened = Kernel::open(other, kernel_key(), Arc::clone(&house.clock)).await;
    assert!(matches!(opened, Err(OpenError::OtherOperator { .. })));
    // As it was, it starts.
    house.open().await.close().await;
}

#[tokio::test]
async fn without_an_operator_in_the_trust_file_nothing_is_followed() {
    let mut house = house().await;
    house.config.trust =
        sift_spec::trust::TrustPolicy::of_log(crate::harness::log_key().verifier().clone(), None);
    // Whoever runs the log says that this kernel's key is revoked.
    house.log.operate(revoke(&kernel_key()), &boss());
    let kernel = house.open().await;
    complains(&kernel, "names no operator").await;
    let run = open_run(&kernel).await;
    the_boss_counts(&run).await;
    assert_eq!((followed(&kernel).records, kernel.stopped()), (0, None));
    kernel.close().await;
}

#[tokio::test]
async fn a_released_call_does_not_start_once_its_approver_is_revoked() {
    let house = house().await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let held = hold(&run, "wire").await;
    let mut held = Some(held);
    for (role, by) in [("supervisor", boss()), ("auditor", auditor())] {
        let waiting = held.take().unwrap();
        let note = sign(&waiting, Answer::Approve, role, &by);
        let Err((still, WaitError::More(_))) = waiting.answer(&note).await else { panic!() };
        held = still;
    }
    let waiting = held.take().unwrap();
    let note = sign(&waiting, Answer::Approve, "supervisor", &second());
    let Ok(Answered::Permitted(permit)) = waiting.answer(&note).await else { panic!() };
    // And one whose approvers stay.
    let other = hold(&run, "pay").await;
    let note = sign(&other, Answer::Approve, "supervisor", &third());
    let Ok(Answered::Permitted(good)) = other.answer(&note).await else { panic!() };
    let at = house.log.operate(revoke(&boss()), &operator()) as u64;
    knows(&kernel, GRANTED + 1).await;
    let error = permit.dispatch(|| async { panic!("it runs") }).await.unwrap_err();
    assert!(matches!(&error, DispatchError::Revoked { at: said, .. } if said.get() == at), "{error}");
    assert!(error.to_string().contains("boss@acme.example approved it"), "{error}");
    good.dispatch(|| async { Report::ok(Payload::text("paid")) }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
    let outcomes = kinds(&kernel, run.id()).iter().filter(|kind| **kind == "outcome").count();
    assert_eq!(outcomes, 2, "the one that did not start is recorded as cancelled");
    kernel.close().await;
}

#[tokio::test]
async fn a_record_under_another_tree_than_the_one_seen_before_changes_nothing() {
    let house = house().await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    knows(&kernel, GRANTED).await;
    assert!(kernel.drain(std::time::Duration::from_secs(20)).await);
    // A log that rewrites what it had: each answer is signed and proven, under another history.
    house.log.rewrite_first();
    house.log.operate(revoke(&boss()), &operator());
    complains(&kernel, "not proven to be the one seen before").await;
    assert_eq!((followed(&kernel).records, followed(&kernel).revoked.len()), (GRANTED, 0));
    assert!(kernel.stopped().is_none());
    drop(run);
    kernel.close().await;
}
