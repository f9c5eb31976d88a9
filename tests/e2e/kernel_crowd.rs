//! The kernel killed, and its disk made to fail, while many calls are on their way at once: no call ran whose intent is not
//! on the disk, and an outcome that was answered is there once the run's next intent is, or else it is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sift_client::failpoint::COMMIT_FAILS;
use sift_client::{Kernel, Mode, OpenRun, Payload, Report, SystemClock, ToolCall, Verdict};
use sift_spec::entry::Entry;
use sift_spec::meter::Meter;
use sift_spec::note::SignerKey;
use sift_spec::record::{Body, Status};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{RunId, Seq};
use sift_tests::{check_log, config};

use crate::kernel::Scene;

const CHILD: &str = "SIFT_TEST_CROWD";
const RUNS: usize = 32;
const CALLS: usize = 200;

/// The process that is killed. Its tool says `ran` when it acts, and it says `done` when a call was answered. Run as a
/// test of its own it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(setting) = std::env::var(CHILD) else { return };
    let setting: serde_json::Value = serde_json::from_str(&setting).unwrap();
    let text = |name: &str| setting[name].as_str().unwrap().to_owned();
    let trust = TrustPolicy::of_log(text("log").parse().unwrap(), Some(text("operator").parse().unwrap()));
    let config = config(Path::new(&text("dir")), &text("url"), trust);
    let key = SignerKey::from_secret_text(&text("key")).unwrap();
    let kernel = Kernel::open(config, key, SystemClock).await.unwrap();
    let said = std::fs::OpenOptions::new().append(true).create(true).open(text("said")).unwrap();
    let said = Arc::new(Mutex::new(said));
    let say = move |what: &str, run: RunId, intent: Seq| {
        said.lock().unwrap().write_all(format!("{what} {run} {intent}\n").as_bytes()).unwrap();
    };
    let mut tasks = Vec::new();
    for _ in 0..RUNS {
        // The disk may fail as early as here, while those that are open call already.
        let opened = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await;
        let Ok(run) = opened else { break };
        let say = say.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..CALLS {
                let (name, id) = ("act".to_owned(), format!("call_{n}"));
                let call = ToolCall { name, id, args: b"{}".to_vec(), proposed_by: None };
                // When the disk fails the kernel halts, and that is all there is to see here.
                let Ok(Verdict::Permitted(permit)) = run.propose(call).await else { return };
                let intent = permit.intent();
                let done = permit.dispatch(|| async {
                    say("ran", run.id(), intent);
                    Report::ok(Payload::text("acted"))
                });
                let Ok(done) = done.await else { return };
                say("done", run.id(), done.intent);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    kernel.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_among_many() {
    println!("{:26} {:>6} {:>6} {:>8} {:>8}", "killed at", "ran", "done", "intents", "unknown");
    for point in [
        "after-sign:700",
        "before-commit-intent:10",
        "after-commit-intent:10",
        "before-commit-outcome:14",
        "after-commit-outcome:14",
        "after-commit-outcome:30",
        "before-dispatch:300",
        &format!("{COMMIT_FAILS}:45"),
        &format!("{COMMIT_FAILS}:60"),
    ] {
        among_many(point, None).await;
    }
    for ms in [40, 90, 150] {
        among_many("kill -9", Some(Duration::from_millis(ms))).await;
    }
}

async fn among_many(point: &str, after: Option<Duration>) {
    let scene = Scene::new().await;
    let said = scene.dir.path().join("said");
    let setting = serde_json::json!({
        "dir": scene.dir.path(), "url": scene.log.http.url(), "said": said,
        "log": scene.log.key().to_string(), "operator": scene.log.operator().key().verifier().to_string(),
        "key": scene.key().to_secret_text().as_str(),
    });
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["kernel_crowd::child", "--exact", "--nocapture"]).env(CHILD, setting.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    match after {
        None => drop(command.env("SIFT_FAILPOINT", point)),
        Some(_) => drop(command.env_remove("SIFT_FAILPOINT")),
    }
    let mut child = command.spawn().unwrap();
    if let Some(after) = after {
        // From the first call on.
        while !said.exists() || std::fs::metadata(&said).unwrap().len() == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it ended first");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(after).await;
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!printed.contains("panicked"), "{point}: {printed}");
    assert_eq!(output.status.success(), point.starts_with(COMMIT_FAILS), "{point}: {printed}");
    // Opened again, the kernel closes what was left, and everything reaches the log.
    let kernel = scene.kernel(Mode::Spool).await;
    assert!(kernel.drain(Duration::from_secs(60)).await);
    let (mut ran, mut done) = (BTreeSet::new(), BTreeSet::new());
    for line in std::fs::read_to_string(&said).unwrap().lines() {
        let mut words = line.split(' ');
        let (what, run, intent) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let call: (RunId, u64) = (run.parse().unwrap(), intent.parse().unwrap());
        assert!(if what == "ran" { ran.insert(call) } else { done.insert(call) }, "{point}: twice");
    }
    let (_, entries) = check_log(&scene.log.http, &scene.log.trust()).await;
    let (mut intents, mut outcomes) = (BTreeSet::new(), BTreeMap::new());
    for entry in entries {
        let entry = Entry::parse(entry).unwrap();
        let Some(record) = entry.record() else { continue };
        match &record.body {
            Body::Intent(intent) => {
                assert_eq!(intent.reserved.get(Meter::ToolCalls), 1, "{point}: ran, no hold");
                intents.insert((record.run, record.seq.get()));
            }
            Body::Outcome(outcome) => {
                let call = (record.run, outcome.intent.get());
                let (status, settled) = (outcome.status, outcome.settled.get(Meter::ToolCalls));
                assert!(outcomes.insert(call, (status, settled)).is_none(), "{point}: settled twice");
            }
            _ => {}
        }
    }
    let unknown = outcomes.values().filter(|(status, _)| *status == Status::Unknown).count();
    println!("{point:26} {:>6} {:>6} {:>8} {unknown:>8}", ran.len(), done.len(), intents.len());
    assert!(ran.is_subset(&intents), "{point}: ran, no record");
    assert!(outcomes.keys().eq(intents.iter()), "{point}: every intent has its outcome");
    for call in &ran {
        assert_eq!(outcomes[call].1, 1, "{point}: whatever ran is settled");
    }
    for call in &done {
        // Within a run, one call is made after the other.
        let followed = intents.range((call.0, call.1 + 1)..).next().is_some_and(|(run, _)| *run == call.0);
        let status = outcomes[call].0;
        assert!(status == Status::Ok || status == Status::Unknown && !followed, "{point}: {status:?}");
    }
    kernel.close().await;
}
