//! The program: set up, killed at every point that matters, started again; and what it says when it cannot work.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sift_client::failpoint::{COMMIT_FAILS, POINTS};
use sift_client::store::Store;
use sift_spec::chain::RunHead;
use sift_spec::entry::Entry;
use sift_spec::record::{Body, Effect, Status};
use tempfile::TempDir;

use crate::harness::{FakeLog, bundle, eventually, log_key};

/// A directory with a log's trust file, a bundle and a recording, and the program.
pub(crate) struct Desk {
    dir: TempDir,
    _log: FakeLog,
}

impl Desk {
    /// With a kernel's directory made by `init`.
    pub(crate) async fn new() -> Self {
        Self::named("acme.example/kernel").await
    }

    /// The same with a key of this name.
    pub(crate) async fn named(name: &str) -> Self {
        let log = FakeLog::start().await;
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("trust.policy", &format!("log {}\nquorum none\n", log_key().verifier()));
        std::fs::create_dir(dir.path().join("bundle")).unwrap();
        for (path, content) in bundle("[run]\ntool_calls = 50\n").files() {
            write(&format!("bundle/{path}"), std::str::from_utf8(content).unwrap());
        }
        write("recording.json", &recording().to_string());
        let desk = Self { dir, _log: log.clone() };
        let made = desk.run(&[
            "init",
            "--dir",
            "kernel",
            "--name",
            name,
            "--log",
            &log.url,
            "--trust",
            "trust.policy",
        ]);
        assert!(made.status.success(), "{made:?}");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sift-kernel"));
        command.args(args).current_dir(self.dir.path()).env_remove("SIFT_FAILPOINT");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn replay(&self, failpoint: Option<&str>) -> Output {
        let mut command =
            self.command(&["--json", "replay", "--dir", "kernel", "--bundle", "bundle", "recording.json"]);
        if let Some(point) = failpoint {
            command.env("SIFT_FAILPOINT", point);
        }
        command.output().unwrap()
    }

    /// Checks every run from nothing: chain, one outcome for each call that was let through, a close.
    pub(crate) fn check(&self) -> Vec<Vec<Body>> {
        let store = Store::open(&self.path("kernel")).unwrap();
        let runs = store.runs().unwrap().into_iter().map(|run| {
            let mut head: Option<RunHead> = None;
            let mut bodies = Vec::new();
            let mut open_calls = std::collections::BTreeSet::new();
            for stored in store.run(run).unwrap() {
                let entry = Entry::parse(stored.entry).unwrap();
                let record = entry.record().unwrap();
                match &mut head {
                    Some(head) => head.extend(record, entry.signer(), entry.leaf()).unwrap(),
                    None => {
                        let log = "log.example".parse().unwrap();
                        head = Some(RunHead::open(record, entry.signer(), entry.leaf(), &log).unwrap());
                    }
                }
                match &record.body {
                    Body::Intent(intent) if intent.effect() != Effect::Deny => {
                        assert!(open_calls.insert(record.seq));
                    }
                    Body::Outcome(outcome) => assert!(open_calls.remove(&outcome.intent)),
                    _ => {}
                }
                for commitment in record.commitments() {
                    assert!(store.objects(stored.position).unwrap().contains_key(&commitment.digest));
                }
                bodies.push(record.body.clone());
            }
            assert!(open_calls.is_empty() && head.unwrap().is_closed());
            bodies
        });
        runs.collect()
    }
}

/// Two turns with a call each, one of them held, and a last word.
fn recording() -> Value {
    let call = |id: &str, name: &str| json!([{ "id": id, "type": "function", "function": { "name": name, "arguments": "{\"id\": 1}" } }]);
    json!([{ "traj": [
        { "role": "user", "content": "read and pay" },
        { "role": "assistant", "content": null, "tool_calls": call("a", "read") },
        { "role": "tool", "tool_call_id": "a", "name": "read", "content": "{\"balance\": 5}" },
        { "role": "assistant", "content": null, "tool_calls": call("b", "pay") },
        { "role": "tool", "tool_call_id": "b", "name": "pay", "content": "paid" },
        { "role": "assistant", "content": null, "tool_calls": call("c", "erase") },
        { "role": "tool", "tool_call_id": "c", "name": "erase", "content": "erased" },
        { "role": "assistant", "content": "done" }
    ] }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_hands_out_what_was_allowed() {
    let desk = Desk::new().await;
    let output = desk.replay(None);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |name: &str| report["total"][name].as_u64().unwrap();
    assert_eq!((count("model_calls"), count("tool_calls")), (4, 3));
    assert_eq!((count("allowed"), count("held"), count("approved"), count("denied")), (5, 1, 0, 1));
    assert_eq!(report["total"]["rules"][0], json!({ "rule": "pay", "effect": "hold", "count": 1 }));
    assert_eq!(report["unlogged"], 0);
    let runs = desk.check();
    let statuses: Vec<Status> = runs[0]
        .iter()
        .filter_map(|body| match body {
            Body::Outcome(outcome) => Some(outcome.status),
            _ => None,
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == Status::Ok).count(), 5);
    assert_eq!(statuses.iter().filter(|status| **status == Status::Cancelled).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_dies_anywhere_comes_back() {
    let desk = Desk::new().await;
    let mut runs = 0;
    for point in POINTS {
        for turn in [1, 3] {
            let died = desk.replay(Some(&format!("{point}:{turn}")));
            assert_eq!(died.status.code(), None, "{point} aborts: {died:?}");
            let back = desk.replay(None);
            assert!(back.status.success(), "after {point}: {back:?}");
        }
        // The first record to be signed is the run's own beginning.
        runs += if point.ends_with("-sign") { 3 } else { 4 };
        assert_eq!(desk.check().len(), runs, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_halts_the_kernel() {
    let desk = Desk::new().await;
    let failed = desk.replay(Some(&format!("{COMMIT_FAILS}:4")));
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(message.contains("halted (spool)") && message.contains("cannot be written"), "{message}");
    let back = desk.replay(None);
    assert!(back.status.success(), "{back:?}");
    assert_eq!(desk.check().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_cannot_do_it_says() {
    let desk = Desk::new().await;
    let fails = |args: &[&str], part: &str| {
        let output = desk.run(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
    };
    let replay = ["replay", "--dir", "kernel", "--bundle", "bundle", "recording.json"];
    fails(
        &["init", "--dir", "kernel", "--name", "x", "--log", "http://x", "--trust", "trust.policy"],
        "exists",
    );
    fails(&["runs", "--dir", "kernel"], "no kernel has run here");
    fails(&["replay", "--dir", "kernel", "--bundle", "nowhere", "recording.json"], "nowhere");
    fails(&["replay", "--dir", "kernel", "--bundle", "bundle", "trust.policy"], "trust.policy");
    fails(&["replay"], "--dir");
    let key = desk.path("kernel/kernel.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    fails(&replay, "chmod 600");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "PRIVATE+KEY+nonsense").unwrap();
    fails(&replay, "not a signer key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approver_answers_what_was_shown() {
    let desk = Desk::new().await;
    let mode = |name: &str| std::fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("kernel"), 0o700);
    assert!(desk.run(&["keygen", "--name", "boss", "--out", "boss.key"]).status.success());
    let mut replay = desk.command(&["replay", "--dir", "kernel", "--bundle", "bundle", "recording.json"]);
    let mut replay = replay.args(["--hold-seconds", "30"]).spawn().unwrap();
    let folder = desk.path("kernel/approvals");
    let mut found = None;
    eventually("a request", || {
        let names = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        found = names.into_iter().find(|path| path.extension().is_some_and(|end| end == "request"));
        found.is_some()
    })
    .await;
    let request = found.unwrap();
    let request = request.to_str().unwrap();
    assert_eq!((mode("kernel/kernel.redb"), mode("kernel/approvals")), (0o600, 0o700));
    assert_eq!(std::fs::metadata(request).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = desk.run(&["--json", "approve", request, "--show-only"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let shown = shown["shown"].as_str().unwrap();
    let answer = |more: &[&str]| desk.run(&[&["approve", request, "--key", "boss.key"], more].concat());
    let unasked = answer(&[]);
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    assert!(String::from_utf8_lossy(&unasked.stderr).contains("--show-only"));
    assert_eq!(answer(&["--shown", "another"]).status.code(), Some(1));
    let done = answer(&["--shown", shown]);
    assert!(done.status.success(), "{done:?}");
    // Nobody listed this key, so it does not count; the call waits on until the replay ends.
    let rejected = request.replace(".request", ".rejected");
    eventually("put aside", || std::path::Path::new(&rejected).exists()).await;
    replay.kill().unwrap();
    replay.wait().unwrap();
}

#[test]
fn the_help_of_a_command_says_what_it_does() {
    for (command, part) in [
        ("signer", "LimitMEMLOCK"),
        ("halt", "Exit codes: 0 halted and recorded"),
        ("replay", "utf8-bytes/4"),
        ("serve", "The agent holds no key"),
        ("approvals", "Without a subcommand: list."),
        ("prune", "Records, receipts and proofs stay"),
        ("erase", "what the operator has to record"),
    ] {
        let help =
            Command::new(env!("CARGO_BIN_EXE_sift-kernel")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.split_whitespace().collect::<Vec<_>>().join(" ").contains(part), "{command}: {help}");
    }
}
