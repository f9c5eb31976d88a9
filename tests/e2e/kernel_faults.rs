//! The kernel's disk fails: every kind of system call that its store's writes are made of is made to fail, by `strace`
//! on a real kernel, and a real file system fills up. The kernel then dispatches nothing more and says why; started
//! again on a disk that works, no call ran without a record or without a hold.
//!
//! `SIFT_FAULTS=all` injects at every call and not only at some of each kind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use sift_client::store::STORE_FILE;
use sift_client::{
    CloseReason, HaltCause, Kernel, OpenRun, Payload, Report, Stop, SystemClock, ToolCall, Verdict,
};
use tokio::sync::Semaphore;

use crate::disk_full::Disk;
use crate::faults::{injected, strace_works};
use crate::kernel_life::{Found, Stage, act};

/// Calls that change the store's file. Some do not exist on every architecture: `?` says so to strace.
const CALLS: [&str; 9] = [
    "openat",
    "write",
    "pwrite64",
    "pwritev",
    "fallocate",
    "ftruncate",
    "fdatasync",
    "fsync",
    "sync_file_range",
];

/// Kernels that are run at a time.
const AT_A_TIME: usize = 3;

/// What a kernel did when a call failed. It may fail when all is done and the store is closed: then nothing is written
/// after it, and the next start finds everything in the store's journal.
fn outcome(output: &Output, trace: &Path) -> (&'static str, String) {
    let was_injected = injected(trace);
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    let after = trace.rsplit("(INJECTED)").next().unwrap_or_default();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let said = |what: &str| printed.lines().find_map(|line| line.strip_prefix(what)).map(ToOwned::to_owned);
    match (said("stopped: "), said("not started: ")) {
        (Some(why), _) => ("stopped", why),
        (_, Some(why)) => ("did not start", why),
        _ if was_injected && after.contains(" = 0") => ("went on", String::new()),
        _ if was_injected => ("was done", String::new()),
        _ => ("not reached", String::new()),
    }
}

fn strace(dir: &Path, trace: &Path, calls: &str, inject: Option<String>) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-q", "--seccomp-bpf", "-o"]).arg(trace);
    // The store, and the name under which it is made.
    let store = dir.join(STORE_FILE);
    strace.arg("-P").arg(store.with_extension("new")).arg("-P").arg(store);
    strace.args(["-e", &format!("trace={calls}")]);
    strace.args(inject.into_iter().flat_map(|inject| ["-e".to_owned(), inject]));
    strace
}

/// For each kind of call, the most that one thread makes in a life in which nothing fails.
fn count(stage: &Stage) -> BTreeMap<String, u32> {
    let life = stage.life("spool");
    let trace = life.dir.path().join("trace");
    let calls = CALLS.map(|call| format!("?{call}")).join(",");
    let output = life.live(Some(strace(&life.kernel_dir(), &trace, &calls, None)), None);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\nfinished"), "{output:?}");
    let _ = injected(&trace);
    let mut threads: BTreeMap<(String, String), u32> = BTreeMap::new();
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        let Some((thread, line)) = line.split_once(' ') else { continue };
        let Some((call, _)) = line.trim_start().split_once('(') else { continue };
        if CALLS.contains(&call) {
            *threads.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, u32> = BTreeMap::new();
    for ((call, _), count) in threads {
        let most = most.entry(call).or_default();
        *most = count.max(*most);
    }
    most
}

/// At which calls of `count` to inject.
fn numbers(count: u32) -> BTreeSet<u32> {
    match count {
        _ if std::env::var("SIFT_FAULTS").is_ok_and(|value| value == "all") => (1..=count).collect(),
        ..=6 => (1..=count).collect(),
        // Commits are shared, so that another life may come to fewer calls than the one that was counted.
        _ => BTreeSet::from([1, 2, count / 4, count / 3, count / 2, count * 2 / 3, count * 3 / 4]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail() {
    if !strace_works() {
        println!("skipped: strace is missing, or may not trace here");
        return;
    }
    let stage = Arc::new(Stage::new().await);
    let calls = tokio::task::block_in_place(|| count(&stage));
    println!("calls of one life, by one thread: {calls:?}");
    assert!(calls.contains_key("fdatasync") || calls.contains_key("fsync"), "a store that never syncs");
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut runs = Vec::new();
    for (call, count) in &calls {
        for error in ["EIO", "ENOSPC"] {
            for number in numbers(*count) {
                let (stage, turns, call) = (Arc::clone(&stage), Arc::clone(&turns), call.clone());
                runs.push(tokio::spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    let (did, why, found) = fails(&stage, &call, error, number).await;
                    (call, error, number, did, why, found)
                }));
            }
        }
    }
    println!(
        "\n{:16} {:7} {:>4}  {:14} {:>9} {:>10}  {:>3} {:>7} {:>9}  {:>14}",
        "call",
        "error",
        "nth",
        "the kernel",
        "tool ran",
        "in records",
        "ok",
        "unknown",
        "cancelled",
        "ledger counts"
    );
    let (mut reasons, mut hit, total) = (BTreeMap::<String, u32>::new(), BTreeSet::new(), runs.len());
    for run in runs {
        let (call, error, number, did, why, found) = run.await.unwrap();
        let Found { acted, let_through, ok, unknown, cancelled, counted, .. } = found;
        println!(
            "{call:16} {error:7} {number:>4}  {did:14} {acted:>9} {let_through:>10}  {ok:>3} {unknown:>7} {cancelled:>9}  {counted:>14}"
        );
        if did != "not reached" {
            hit.insert((call.clone(), error));
        }
        if !why.is_empty() {
            *reasons.entry(generic(&why)).or_default() += 1;
        }
        // A sync or write that failed is never passed over.
        assert_ne!(did, "went on", "{call} {error} {number}");
    }
    println!("\nreasons given");
    reasons.iter().for_each(|(reason, times)| println!("{times:>5} × {reason}"));
    println!("{total} lives: no row \"ran, no record\", no row \"ran, no hold\", each started again");
    assert_eq!(hit.len(), calls.len() * 2, "every kind of call failed at least once");
}

async fn fails(stage: &Stage, call: &str, error: &str, number: u32) -> (&'static str, String, Found) {
    let life = stage.life("spool");
    let what = format!("{call} {error} {number}");
    let trace = life.dir.path().join("trace");
    let inject = format!("inject=?{call}:error={error}:when={number}");
    let strace = strace(&life.kernel_dir(), &trace, &format!("?{call}"), Some(inject));
    let output = tokio::task::block_in_place(|| life.live(Some(strace), None));
    let (did, why) = outcome(&output, &trace);
    assert!(
        did != "stopped" || why.contains("halted (spool)") || why.contains("was not recorded"),
        "{what}: {why}"
    );
    (did, why, life.judge(&what).await)
}

/// A reason without the names of this run.
fn generic(reason: &str) -> String {
    let words = reason.split_whitespace().map(|word| if word.contains('/') { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full() {
    let Some(disk) = Disk::mount(32) else {
        println!("skipped: a file system cannot be mounted here");
        return;
    };
    let stage = Stage::new().await;
    let life = stage.life("spool");
    std::fs::create_dir_all(life.kernel_dir()).unwrap();
    let full = life.kernel_dir();
    std::fs::remove_dir(&full).unwrap();
    std::os::unix::fs::symlink(disk.path(), &full).unwrap();
    let open = || Kernel::open(life.config(), stage.scene.key(), SystemClock);
    let kernel = open().await.unwrap();
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    // More than the store's journal holds, so that it needs room that the disk has not.
    let large = "x".repeat(900_000);
    let mut ballast = None;
    let effects = life.dir.path().join("effects");
    let mut calls = 0;
    let stop = loop {
        let call = ToolCall {
            name: "act".into(),
            id: format!("call_{calls}"),
            args: b"{}".to_vec(),
            proposed_by: None,
        };
        let permit = match run.propose(call).await {
            Ok(Verdict::Permitted(permit)) => permit,
            Ok(other) => panic!("{calls}: {other:?}"),
            Err(error) => break error.to_string(),
        };
        let line = format!("{} {}\n", run.id(), permit.intent());
        let done = permit.dispatch(|| async {
            act(&effects, &line);
            Report::ok(Payload::text(large.as_str()))
        });
        if let Err(error) = done.await {
            break error.to_string();
        }
        calls += 1;
        if calls == 3 {
            ballast = Some(disk.fill(0));
        }
    };
    println!("after {calls} calls: {stop}");
    assert!(stop.contains("halted (spool)") && stop.contains("No space left"), "{stop}");
    assert!(matches!(kernel.stopped(), Some(Stop::Halted { cause: HaltCause::Spool, .. })));
    assert!(
        run.propose(ToolCall { name: "act".into(), id: "x".into(), args: vec![], proposed_by: None })
            .await
            .is_err()
    );
    assert!(run.close(CloseReason::Done).await.is_err());
    kernel.close().await;
    // As long as the disk is full it says so, and loses nothing by trying.
    match open().await {
        Err(error) => println!("on the full disk: {error}"),
        Ok(kernel) => {
            println!("on the full disk: it starts, in space that it has");
            kernel.close().await;
        }
    }
    std::fs::remove_file(ballast.unwrap()).unwrap();
    let found = life.judge("a full disk").await;
    println!("with space again: {found:?}");
    assert!(found.acted >= 3 && found.unknown <= 1, "{found:?}");
}
