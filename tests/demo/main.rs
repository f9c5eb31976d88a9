//! `sift-demo`: the main job, end to end, with the real programs, and three attacks on it.
//!
//! `sift-demo` drives the conversations of `client-sdk/examples/airline` and attacks what comes out.
//! `sift-demo airline FILE` drives recorded conversations and checks every run's evidence and the whole log.

mod attacks;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stage::{Failure, Stage};

/// Where the demo leaves its files.
const FOLDER: &str = "sift-demo";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => demo(),
        ["airline", file] => airline(Path::new(file)),
        _ => {
            eprintln!(
                "usage: sift-demo [airline RECORDINGS.json]\n\nWithout arguments: the main job on the project's own conversations."
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            anstream::eprintln!("\nsift-demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The project's own examples, wherever the demo was started from.
fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../client-sdk/examples/airline")
}

fn demo() -> Result<(), Failure> {
    let mut stage = Stage::new(FOLDER)?;
    stage
        .say("An airline lets an AI agent serve its customers. Sift stands between the agent and its tools.");
    open(&mut stage)?;
    drive(&mut stage, &examples().join("conversations.json"))?;
    evidence(&mut stage)?;

    stage.heading("Three attacks");
    attacks::edit_a_stored_step(&mut stage)?;
    attacks::drop_a_tail(&mut stage)?;
    attacks::fork_the_log(&mut stage)?;

    stage.heading("What is where");
    stage.say(&format!(
        "{FOLDER}/log        the log: its key, its store, and trust.policy, the file that verifiers believe\n\
         {FOLDER}/kernel     the kernel: its key and its store of signed records and payloads\n\
         {FOLDER}/evidence   one pack for each conversation; any unzip opens it\n\
         {FOLDER}/attacks    the evidence that was tampered with"
    ));
    let verify = sift_tests::program("sift-verify");
    stage.say(&format!(
        "Look at the runs yourself:\n    {} run --trust {FOLDER}/log/trust.policy {FOLDER}/evidence/*.sift",
        verify.display()
    ));
    Ok(())
}

fn airline(recordings: &Path) -> Result<(), Failure> {
    let recordings = recordings.canonicalize().map_err(|error| {
        Failure(format!(
            "{}: {error}; name the file of recordings: make airline RECORDINGS=FILE",
            recordings.display()
        ))
    })?;
    let mut stage = Stage::new(FOLDER)?;
    open(&mut stage)?;
    drive(&mut stage, &recordings)?;
    evidence(&mut stage)
}

/// A log, a kernel and an approver who know each other.
fn open(stage: &mut Stage) -> Result<(), Failure> {
    stage.heading("A log");
    stage.say("It keeps what the kernel signs, in an order that it cannot change unnoticed.");
    let listen = stage.address().to_owned();
    stage.run(
        "sift-server",
        &["init", "--dir", "log", "--origin", "airline.example/log", "--listen", &listen],
    )?;
    stage.serve("log")?;

    stage.heading("A kernel and an approver");
    stage.say(
        "Each makes a key of its own. The operator, whose key is the root of all authority, enrols both.",
    );
    let url = stage.url();
    let supervisor =
        stage.key(&["keygen", "--name", "airline.example/supervisor", "--out", "supervisor.key"])?;
    let approver = format!("supervisor={supervisor}");
    let kernel = stage.key(&[
        "init",
        "--dir",
        "kernel",
        "--name",
        "airline.example/kernel",
        "--log",
        &url,
        "--trust",
        "log/trust.policy",
        "--approver",
        &approver,
    ])?;
    stage.operate(&["grant", "--vkey", &kernel, "--role", "kernel", "--agents", "airline/*"])?;
    stage.operate(&[
        "grant",
        "--vkey",
        &supervisor,
        "--role",
        "approver:supervisor",
        "--agents",
        "airline/*",
    ])?;

    stage.heading("A policy");
    stage.say("Rules written from the airline's own text. The log takes no run under a policy that is not published.");
    let bundle = stage.path(&examples().join("rego"));
    stage.operate(&["publish", "--bundle", &bundle])
}

/// Conversations through policy and budget.
fn drive(stage: &mut Stage, recordings: &Path) -> Result<(), Failure> {
    stage.heading("The agent at work");
    stage.say(
        "Each recorded turn is decided as if it were happening now: signed and on disk before it may run. The worst\n\
         case is held from the budget first, and settled afterwards with what was billed.",
    );
    let (bundle, recordings) = (stage.path(&examples().join("rego")), stage.path(recordings));
    stage.run(
        "sift-kernel",
        &["replay", "--dir", "kernel", "--bundle", &bundle, "--approve-with", "supervisor.key", &recordings],
    )
}

/// Packs, checked without a network; then the whole log.
fn evidence(stage: &mut Stage) -> Result<(), Failure> {
    stage.heading("The evidence");
    stage.say("One file for each run: records, proof, policy and payloads.");
    stage.quietly("sift-kernel", &["evidence", "--all", "--dir", "kernel", "--out", "evidence"])?;
    let packs = stage.packs()?;
    stage.say(&format!("{} packs in {FOLDER}/evidence.", packs.len()));

    stage.heading("The auditor");
    stage.say(
        "Needs the packs and the trust file, nothing else: no network, no server, no word of ours. Every hash,\n\
         signature, chain, decision and sum is worked out again.",
    );
    let mut arguments = vec!["run", "--trust", "log/trust.policy"];
    arguments.extend(packs.iter().map(String::as_str));
    let report = stage.quietly("sift-verify", &arguments)?;
    let verified = report.lines().filter(|line| line.starts_with("VERIFIED")).count();
    stage.say(&format!("{verified} of {} runs verified.", packs.len()));
    stage.say("And the whole log, tile by tile:");
    let url = stage.url();
    stage.run("sift-verify", &["log", "--trust", "log/trust.policy", &url])
}
