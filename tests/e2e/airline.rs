//! The airline: conversations through the real programs, in Rego and in Cedar, and the evidence of every run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sift_tests::{TestLog, program};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client-sdk/examples/airline")
}

/// Runs a program and demands its exit code.
fn run(name: &str, arguments: &[&str], code: i32) -> Output {
    let output = Command::new(program(name)).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name} {arguments:?}: {printed}");
    output
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Replays recordings under one engine, verifies every run and the log, and gives the replay's account.
async fn replay(engine: &str, recordings: &Path) -> serde_json::Value {
    let log = TestLog::start().await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (url, bundle) = (log.http.url().to_owned(), examples().join(engine).display().to_string());
    let trust = log.dir().join("trust.policy").display().to_string();
    let key = log.dir().join("operator.key").display().to_string();
    let vkey = |output: &Output| json(output)["vkey"].as_str().unwrap().to_owned();
    let supervisor_key = at("supervisor.key");
    let supervisor = vkey(&run(
        "sift-kernel",
        &["--json", "keygen", "--name", "test/supervisor", "--out", &supervisor_key],
        0,
    ));
    let approver = format!("supervisor={supervisor}");
    let kernel_dir = at("kernel");
    let init =
        ["--json", "init", "--dir", &kernel_dir, "--name", "test/kernel", "--log", &url, "--trust", &trust];
    let kernel = vkey(&run("sift-kernel", &[&init[..], &["--approver", &approver]].concat(), 0));
    let target = ["--url", &url, "--key", &key, "--trust", &trust];
    for (role, vkey) in [("kernel", &kernel), ("approver:supervisor", &supervisor)] {
        let grant = ["operator", "grant", "--vkey", vkey, "--role", role, "--agents", "airline/*"];
        run("sift-server", &[&grant[..], &target].concat(), 0);
    }
    run("sift-server", &[&["operator", "publish", "--bundle", &bundle][..], &target].concat(), 0);
    let recordings = recordings.display().to_string();
    let replay =
        ["--json", "replay", "--dir", &kernel_dir, "--bundle", &bundle, "--approve-with", &supervisor_key];
    let account = json(&run("sift-kernel", &[&replay[..], &[&recordings]].concat(), 0));

    let packs = at("packs");
    run("sift-kernel", &["evidence", "--all", "--dir", &kernel_dir, "--out", &packs], 0);
    let files: Vec<String> =
        std::fs::read_dir(&packs).unwrap().map(|item| item.unwrap().path().display().to_string()).collect();
    assert_eq!(files.len(), account["conversations"].as_array().unwrap().len());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    run("sift-verify", &[&["run", "--trust", &trust][..], &files].concat(), 0);
    run("sift-verify", &["log", "--trust", &trust, &url], 0);
    replay_again(engine, &trust, &packs, &account);
    account
}

/// Replays the packs: under the bundle that decided, and under the same policy in the other language, which changes nothing.
fn replay_again(engine: &str, trust: &str, packs: &str, account: &serde_json::Value) {
    let replay = ["replay", "--trust", trust, "--json", "--only-changes"];
    let total = |more: &[&str]| {
        let printed = run("sift-verify", &[&replay[..], more, &[packs]].concat(), 0).stdout;
        let last = String::from_utf8(printed).unwrap().lines().last().unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&last).unwrap()
    };
    let runs = account["conversations"].as_array().unwrap().len() as u64;
    let other = examples().join(if engine == "rego" { "cedar" } else { "rego" }).display().to_string();
    let (again, under) = (total(&[]), total(&["--fail-on-change", "--bundle", &other]));
    for sums in [&again, &under] {
        assert_eq!((sums["runs"].as_u64(), sums["rejected"].as_u64()), (Some(runs), Some(0)), "{sums}");
        assert_eq!((sums["changed"].as_u64(), sums["unknown"].as_u64()), (Some(0), Some(0)), "{sums}");
    }
    assert_eq!((&again["calls"], &again["rules"]), (&under["calls"], &under["rules"]));
}

/// What must be the same under both engines: everything but identifiers and times.
fn table(account: &serde_json::Value) -> Vec<String> {
    let mut lines = vec![account["total"].to_string(), account["rules"].to_string()];
    for conversation in account["conversations"].as_array().unwrap() {
        let mut conversation = conversation.clone();
        let object = conversation.as_object_mut().unwrap();
        for varying in ["run", "seconds", "notes"] {
            object.remove(varying);
        }
        lines.push(conversation.to_string());
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projects_own_conversations() {
    let recordings = examples().join("conversations.json");
    let (rego, cedar) = (replay("rego", &recordings).await, replay("cedar", &recordings).await);
    assert_eq!(table(&rego), table(&cedar));
    println!("{}", rego["total"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_recorded_conversations() {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tau-airline-gpt-4o.json");
    if !recordings.exists() {
        println!("skipped: there are no recordings at {}", recordings.display());
        return;
    }
    let (rego, cedar) = (replay("rego", &recordings).await, replay("cedar", &recordings).await);
    assert_eq!(table(&rego), table(&cedar), "both engines decide alike");
    println!("{}\n{}", rego["total"], rego["rules"]);
    assert_eq!(rego["conversations"].as_array().unwrap().len(), 100);
}
