//! `sift-kernel signer`, as kernel.toml names it: it signs, is killed, and keeps its memory out of swap.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sift_client::signer::{SIGN_PROTOCOL, create_key, read_key};

use crate::harness::eventually;
use crate::program::Desk;
use crate::serve::{Served, kind, signal};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sift-kernel");

/// Takes the key out of the kernel's directory and lets a command sign with it.
fn sign_by(desk: &Desk, command: &[&str]) {
    let (key, config) = (desk.path("signer.key"), desk.path("kernel/kernel.toml"));
    std::fs::rename(desk.path("kernel/kernel.key"), &key).unwrap();
    let vkey = read_key(&key).unwrap().verifier().to_string();
    let text = std::fs::read_to_string(&config).unwrap();
    // JSON of strings is TOML as well.
    let signer = format!("signer = {{ command = {}, vkey = \"{vkey}\" }}\n", json!(command));
    std::fs::write(&config, signer + &text).unwrap();
}

/// Processes that another has started, but for those that have ended.
fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some((state, of)) = state(pid)
            && of == parent
            && state != "Z"
        {
            found.push(pid);
        }
    }
    found
}

/// State and parent of a process.
fn state(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn has_ended(pid: u32) -> bool {
    state(pid).is_none_or(|(state, _)| state == "Z")
}

fn only_child(served: &Served) -> u32 {
    let found = children(served.id());
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_served_kernel_outlives_its_signer_and_halts_without_one() {
    let desk = Desk::new().await;
    sign_by(&desk, &[PROGRAM, "signer", "--allow-swap", "--key", "signer.key"]);
    let serve = ["--json", "serve", "--dir", "kernel", "--bundle", "bundle", "--socket", "sock"];
    let mut command = desk.command(&serve);
    command.stderr(File::create(desk.path("said")).unwrap());
    let mut served = Served::of(&desk, command);
    let mut client = served.connect();
    let run = client.open();
    assert_eq!(client.tool(&run, "read", true)["is"], "started");
    // Killed: another is started for the next record.
    let first = only_child(&served);
    signal("-KILL", first);
    assert_eq!(client.tool(&run, "read", true)["is"], "started");
    let second = only_child(&served);
    assert_ne!(first, second);
    // Killed, and another has no key: nothing starts any more.
    std::fs::rename(desk.path("signer.key"), desk.path("gone.key")).unwrap();
    signal("-KILL", second);
    let stopped = client.tool(&run, "read", true);
    assert_eq!(kind(&stopped), "stopped", "{stopped}");
    assert!(stopped["detail"].as_str().unwrap().contains("the kernel's key cannot sign"), "{stopped}");
    let status = desk.run(&["status", "--dir", "kernel"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("the kernel's key cannot sign"), "{status:?}");
    served.signal("-TERM");
    assert_eq!(served.code(), Some(1));
    let said = std::fs::read_to_string(desk.path("said")).unwrap();
    // The signer's own words, and the kernel's.
    assert!(said.contains("signer.key") && said.contains("the kernel's key cannot sign"), "{said}");
    drop(served);
    // Without it no kernel starts; with it the run is closed.
    let replayed = desk.replay(None);
    assert_eq!(replayed.status.code(), Some(2), "{replayed:?}");
    let why = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert!(why.contains("kernel.toml: signer: ") && why.contains("standard error"), "{why}");
    std::fs::rename(desk.path("gone.key"), desk.path("signer.key")).unwrap();
    let replayed = desk.replay(None);
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(desk.check().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_ends_with_its_kernel() {
    let desk = Desk::new().await;
    sign_by(&desk, &[PROGRAM, "signer", "--allow-swap", "--key", "signer.key"]);
    let served = Served::start(&desk, &[]);
    let signer = only_child(&served);
    served.signal("-KILL");
    drop(served);
    eventually("it ends", || has_ended(signer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_that_ends_both_leaves_nothing_open() {
    let desk = Desk::new().await;
    sign_by(&desk, &[PROGRAM, "signer", "--allow-swap", "--key", "signer.key"]);
    let mut command = desk.command(&["--json", "serve", "--dir", "kernel", "--bundle", "bundle"]);
    command.args(["--socket", "sock"]).process_group(0);
    let mut served = Served::of(&desk, command);
    let mut client = served.connect();
    let run = client.open();
    assert_eq!(client.tool(&run, "read", true)["is"], "started");
    let signer = only_child(&served);
    // What a terminal does: the signal goes to all of them.
    let group = format!("-{}", served.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    assert_eq!(served.code(), Some(0));
    eventually("it ends", || has_ended(signer)).await;
    drop(served);
    let runs = desk.check();
    assert_eq!(runs[0].len(), 4, "open, intent, outcome, close: {runs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_halts_when_its_signer_dies_in_the_middle() {
    let desk = Desk::new().await;
    // It signs five times, and is not to be started again.
    let cut = "test -e used && exit 1; touch used; \
               for n in 1 2 3 4 5; do read -r line && echo \"$line\"; done | ";
    let script = format!("{cut}'{PROGRAM}' signer --allow-swap --key signer.key");
    sign_by(&desk, &["sh", "-c", &script]);
    let failed = desk.replay(None);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let why = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(why.contains("the kernel's key cannot sign: the signer ended"), "{why}");
    // The next kernel closes the run that was cut off, and goes on.
    let text = std::fs::read_to_string(desk.path("kernel/kernel.toml")).unwrap();
    let whole = text.replacen(json!(cut).to_string().trim_matches('"'), "", 1);
    assert_ne!(text, whole);
    std::fs::write(desk.path("kernel/kernel.toml"), whole).unwrap();
    let report = desk.replay(None);
    assert!(report.status.success(), "{report:?}");
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["total"]["allowed"], 5);
    let runs = desk.check();
    assert_eq!(runs.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_kernel_toml_gets_wrong_is_named() {
    let desk = Desk::new().await;
    let fails = |part: &str| {
        let failed = desk.replay(None);
        let why = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(failed.status.code(), Some(2), "{why}");
        assert!(why.contains("kernel.toml") && why.contains(part), "{part}: {why}");
    };
    sign_by(&desk, &["/nowhere/signer"]);
    fails("the signer /nowhere/signer: No such file");
    let config = desk.path("kernel/kernel.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("[\"/nowhere/signer\"]", "[]", 1)).unwrap();
    fails("the command of the signer is empty");
    // The same name and another key.
    create_key(&desk.path("other.key"), "acme.example/kernel".parse().unwrap()).unwrap();
    let other = json!([PROGRAM, "signer", "--allow-swap", "--key", "other.key"]).to_string();
    std::fs::write(&config, text.replacen("[\"/nowhere/signer\"]", &other, 1)).unwrap();
    let has = read_key(&desk.path("other.key")).unwrap().verifier().to_string();
    fails(&format!("the signer has the key {has}, not acme.example/kernel+"));
}

/// Starts a signer and waits until it has told its key; what it said instead, if it did not.
fn tells(mut command: Command, key: &Path, more: &[&str]) -> Result<Child, String> {
    let command = command.args(["signer", "--key"]).arg(key).args(more);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line.starts_with(SIGN_PROTOCOL) {
        return Ok(child);
    }
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    Err(String::from_utf8(ended.stderr).unwrap())
}

/// A line of `/proc/PID/status` in kB.
fn memory(child: &Child, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let found = status.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'));
    found.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0), "it ends with its input");
}

#[test]
fn a_signers_memory_is_locked_or_it_does_not_sign() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("signer.key");
    create_key(&key, "acme.example/kernel".parse().unwrap()).unwrap();
    match tells(Command::new(PROGRAM), &key, &[]) {
        Ok(child) => {
            // All of it: what is not locked is not a page of memory that could be swapped.
            let (locked, size) = (memory(&child, "VmLck"), memory(&child, "VmSize"));
            println!("VmLck {locked} kB of VmSize {size} kB");
            assert!(locked > memory(&child, "VmRSS") / 2 && locked > 1_000, "{locked} of {size}");
            assert_eq!(memory(&child, "VmSwap"), 0);
            end(child);
        }
        Err(why) => {
            assert!(why.contains("ulimit -l") && why.contains("--allow-swap"), "{why}");
            println!("skipped: the limit on locked memory forbids it here: {why}");
        }
    }
    // Where the limit forbids it: a user without the right to exceed it, and 64 kB.
    let limited = || {
        let root = is_root();
        let mut command = Command::new(if root { "setpriv" } else { "sh" });
        if root {
            command.args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "sh"]);
        }
        command.args(["-c", "ulimit -l 64 && exec \"$0\" \"$@\"", PROGRAM]);
        command
    };
    if is_root() && Command::new("setpriv").arg("--version").output().is_err() {
        println!("skipped: root needs setpriv to be limited");
        return;
    }
    let why = tells(limited(), &key, &[]).unwrap_err();
    assert!(why.contains("cannot be kept out of swap") && why.contains("ulimit -l unlimited"), "{why}");
    assert!(why.contains("--allow-swap"), "{why}");
    let child = tells(limited(), &key, &["--allow-swap"]).unwrap();
    assert_eq!(memory(&child, "VmLck"), 0);
    end(child);
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}
