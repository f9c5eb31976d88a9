//! Retention: what may be erased, in which order, and what never is.

use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use sift_client::control::{Answer, Question, ask};
use sift_client::store::{Erasure, Retention};
use sift_client::{CloseReason, HaltScope, Kernel, Payload, Report, Run, Verdict};
use sift_spec::types::RunId;

use crate::harness::{House, NOW, at, eventually, kinds, open_run, tool};

const DAY_MS: u64 = 86_400_000;

/// Keeps nothing.
const NOTHING: Retention = Retention { days: Some(0), bytes: Some(0) };

async fn call(run: &Run) {
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

async fn done(kernel: &Kernel) -> RunId {
    let run = open_run(kernel).await;
    call(&run).await;
    run.close(CloseReason::Done).await.unwrap();
    run.id()
}

async fn logged(kernel: &Kernel) {
    assert!(kernel.drain(Duration::from_secs(20)).await);
}

fn objects(kernel: &Kernel, run: RunId) -> usize {
    let records = kernel.store().run(run).unwrap().into_iter();
    records.map(|record| kernel.store().objects(record.position).unwrap().len()).sum()
}

fn program(house: &House, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sift-kernel"));
    command.args(args).arg("--dir").arg(house.dir.path()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pass_holds_up_neither_calls_nor_the_switch() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let long = open_run(&kernel).await;
    for _ in 0..300 {
        call(&long).await;
    }
    long.close(CloseReason::Done).await.unwrap();
    for _ in 0..30 {
        done(&kernel).await;
    }
    logged(&kernel).await;
    house.clock.advance_ms(DAY_MS);
    let (acts, halted) = (open_run(&kernel).await, open_run(&kernel).await);
    let dir = house.dir.path().to_owned();
    let asks: Vec<_> = (0..32)
        .map(|_| {
            let (dir, question) = (dir.clone(), Question::Prune { retention: NOTHING, apply: true });
            tokio::task::spawn_blocking(move || {
                (Instant::now(), ask(&dir, &question).unwrap(), Instant::now())
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let mut during = 0;
    while !asks.iter().all(|ask| ask.is_finished()) {
        let started = Instant::now();
        call(&acts).await;
        slowest = slowest.max(started.elapsed());
        during += 1;
        if during == 3 {
            let scope = HaltScope::Run(halted.id());
            assert!(kernel.halt_scope(&scope, "enough").await.recorded);
        }
    }
    let (mut objects_erased, mut took) = (0, Duration::ZERO);
    for ask in asks {
        let (from, answer, to) = ask.await.unwrap();
        let Some(Answer::Pruned(pruned)) = answer else { panic!("{answer:?}") };
        objects_erased += pruned.objects;
        took = took.max(to - from);
    }
    println!(
        "32 asked at once, {objects_erased} objects went in {took:?}; {during} calls meanwhile, slowest {slowest:?}"
    );
    kernel.sync().await.unwrap();
    assert_eq!(objects_erased, 300 * 3 + 30 * 3, "each once");
    assert_eq!((objects(&kernel, long.id()), objects(&kernel, acts.id())), (0, 3 * during));
    assert!(during >= 3, "calls went on");
}

/// The program beside a kernel that has to answer it.
async fn beside(house: &House, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sift-kernel"));
    command.args(args).arg("--dir").arg(house.dir.path());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_of_what_is_closed_and_logged_goes_first() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let mut closed = Vec::new();
    for _ in 0..3 {
        closed.push(done(&kernel).await);
        logged(&kernel).await;
        house.clock.advance_ms(DAY_MS);
    }
    let open = open_run(&kernel).await;
    call(&open).await;
    logged(&kernel).await;
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let unlogged = done(&kernel).await;
    let counts = |kernel: &Kernel| closed.iter().map(|run| objects(kernel, *run)).collect::<Vec<_>>();
    assert_eq!(counts(&kernel), [3, 3, 3]);
    let store = kernel.store();
    // The first has ended three days ago, the last one.
    let days = |days| Retention { days: Some(days), bytes: None };
    let now = at(NOW + 3 * DAY_MS);
    assert_eq!(store.prune(days(3), now, true).unwrap().objects, 0, "as long as that is not longer");
    let would = store.prune(days(2), now, false).unwrap();
    assert_eq!((would.runs.clone(), would.objects), (vec![closed[0]], 3));
    assert_eq!(counts(&kernel), [3, 3, 3], "said, not done");
    assert_eq!(store.prune(days(2), now, true).unwrap(), would);
    assert_eq!(counts(&kernel), [0, 3, 3]);
    assert_eq!(store.prune(Retention::default(), now, true).unwrap().kept_bytes, would.kept_bytes);
    // By size: one run is enough to come below.
    let limit = Retention { days: None, bytes: Some(would.kept_bytes - 1) };
    assert_eq!(store.prune(limit, now, true).unwrap().runs, [closed[1]]);
    // What is open or not in the log stays, whatever the limits say.
    let later = at(NOW + 1000 * DAY_MS);
    let last = store.prune(NOTHING, later, true).unwrap();
    assert_eq!((last.runs, objects(&kernel, open.id()), objects(&kernel, unlogged)), (vec![closed[2]], 3, 3));
    assert!(last.kept_bytes > 0);
    assert_eq!(store.run(closed[0]).unwrap().len(), 4, "records stay");
    // Once it is in the log it goes too.
    house.log.behaviour.down.store(false, Ordering::SeqCst);
    logged(&kernel).await;
    assert_eq!(store.prune(NOTHING, later, true).unwrap().runs, [unlogged]);
    open.close(CloseReason::Done).await.unwrap();
    logged(&kernel).await;
    let all = store.prune(NOTHING, later, true).unwrap();
    assert_eq!((all.runs, all.kept_bytes), (vec![open.id()], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_erases_by_itself_and_calls_go_on_meanwhile() {
    let mut house = House::new("").await;
    house.config.retention = Retention { days: Some(1), bytes: None };
    let kernel = house.open().await;
    let mut closed = Vec::new();
    for _ in 0..20 {
        closed.push(done(&kernel).await);
    }
    let open = open_run(&kernel).await;
    call(&open).await;
    logged(&kernel).await;
    // A pass is every 300 polls, here of 5 ms.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(closed.iter().all(|run| objects(&kernel, *run) == 3), "young");
    house.clock.advance_ms(DAY_MS + 1);
    let caller = tokio::spawn({
        let open = open.clone();
        async move {
            for _ in 0..50 {
                call(&open).await;
            }
        }
    });
    eventually("erased", || closed.iter().all(|run| objects(&kernel, *run) == 0)).await;
    caller.await.unwrap();
    assert_eq!(objects(&kernel, open.id()), 51 * 3);
    assert!(kernel.stopped().is_none());
    // Its thread lets go of the store with it.
    kernel.close().await;
    let kernel = house.open().await;
    assert_eq!(kinds(&kernel, closed[0]), ["open", "intent", "outcome", "close"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_to_be_resumed_keeps_what_it_needs() {
    let mut house = House::new("").await;
    house.config.resume = Duration::from_secs(60);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    call(&run).await;
    logged(&kernel).await;
    kernel.close().await;
    let kernel = house.open().await;
    let store = kernel.store();
    assert_eq!(store.prune(NOTHING, at(NOW + 1000 * DAY_MS), true).unwrap().objects, 0);
    assert_eq!(store.erase(run.id(), None).unwrap(), Erasure::Open);
    let run = kernel.resume_run(run.id()).await.unwrap();
    call(&run).await;
    kernel.sync().await.unwrap();
    assert_eq!(objects(&kernel, run.id()), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_erases_with_a_kernel_and_without() {
    let house = House::new("").await;
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let complains = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let kernel = house.open().await;
    let (first, second, open) = (done(&kernel).await, done(&kernel).await, open_run(&kernel).await);
    call(&open).await;
    logged(&kernel).await;
    house.clock.advance_ms(DAY_MS);
    // The running kernel does it.
    let would = beside(&house, &["prune", "--days", "0"]).await;
    assert!(said(&would).contains("would erase 6 objects of 2 runs"), "{would:?}");
    assert_eq!((objects(&kernel, first), objects(&kernel, second)), (3, 3));
    let refused = beside(&house, &["erase", &open.id().to_string()]).await;
    assert_eq!((refused.status.code(), objects(&kernel, open.id())), (Some(1), 3));
    assert!(complains(&refused).contains("close it first"), "{refused:?}");
    let one = kernel.store().run(first).unwrap()[1].position;
    let one = *kernel.store().objects(one).unwrap().keys().next().unwrap();
    let erased = beside(&house, &["--json", "erase", &first.to_string(), "--digest", &one.hex()]).await;
    let json: Value = serde_json::from_slice(&erased.stdout).unwrap();
    assert_eq!((json["erased"][0].as_str(), objects(&kernel, first)), (Some(one.hex().as_str()), 2));
    let json = beside(&house, &["--json", "prune", "--days", "0", "--apply"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["objects"], &json["applied"]), (&Value::from(5), &Value::Bool(true)));
    assert_eq!((objects(&kernel, first), objects(&kernel, second)), (0, 0));
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let unlogged = done(&kernel).await.to_string();
    kernel.close().await;
    // Nobody runs: the program does it itself.
    let unlimited = program(&house, &["prune"]);
    assert_eq!(unlimited.status.code(), Some(2), "no limit is no order");
    std::fs::write(house.dir.path().join("kernel.toml"), "log_url = \"x\"\n").unwrap();
    let unlimited = program(&house, &["prune"]);
    assert!(complains(&unlimited).contains("[retention]"), "{unlimited:?}");
    std::fs::write(house.dir.path().join("kernel.toml"), "log_url = \"x\"\n[retention]\nbytes = 0\n")
        .unwrap();
    let would = program(&house, &["prune"]);
    assert!(said(&would).contains("would erase 0 objects"), "open or not in the log: {would:?}");
    assert_eq!(program(&house, &["erase", &open.id().to_string()]).status.code(), Some(1));
    assert_eq!(program(&house, &["erase", &unlogged, "--digest", "x"]).status.code(), Some(2));
    // Whoever asks for it gets it, in the log or not.
    let erased = program(&house, &["erase", &unlogged]);
    assert_eq!(said(&erased).matches("erased  ").count(), 3, "{erased:?}");
    assert!(said(&erased).contains("sift-server operator erase --key operator.key --digest"), "{erased:?}");
    assert_eq!(program(&house, &["erase", &unlogged]).status.code(), Some(1), "once");
    let kernel = house.open().await;
    assert_eq!(objects(&kernel, unlogged.parse().unwrap()), 0);
    // A kernel that was halted keeps what it has.
    kernel.halt("enough").await.unwrap();
    let refused = beside(&house, &["prune", "--days", "0", "--apply"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(complains(&refused).contains("has halted"), "{refused:?}");
}
