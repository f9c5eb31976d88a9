//! The kernel's key: in a process of its own, and out of others' reach.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sift_client::signer::{ProcessSigner, SIGN_PROTOCOL, Signer as _};
use sift_client::{Kernel, OpenRun, OpenRunError, Payload, Report, Stop, Verdict};
use sift_spec::note::VerifierKey;

use crate::harness::{House, kernel_key, kinds, open_run, tool};

/// The user nobody.
const NOBODY: u32 = 65534;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sift-kernel");

fn vkey() -> VerifierKey {
    kernel_key().verifier().clone()
}

fn write_key(path: &Path) {
    std::fs::write(path, kernel_key().to_secret_text().as_bytes()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn start(command: Vec<String>) -> ProcessSigner {
    ProcessSigner::start(command, vkey(), Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn a_kernel_signs_through_a_process_that_holds_the_key() {
    let house = House::new("").await;
    let key = house.dir.path().join("signer.key");
    write_key(&key);
    let command =
        [PROGRAM, "signer", "--allow-swap", "--key", key.to_str().unwrap()].map(str::to_owned).to_vec();
    let kernel = Kernel::open(house.config.clone(), start(command), Arc::clone(&house.clock)).await.unwrap();
    let run = open_run(&kernel).await;
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("read")) }).await.unwrap();
    kernel.sync().await.unwrap();
    // Each entry verifies under the key, as the harness checks.
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent", "outcome"]);
    kernel.close().await;
}

#[test]
fn a_signer_that_ends_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("signer.key");
    write_key(&key);
    // One question, then it ends.
    let script = format!("head -n 1 | '{PROGRAM}' signer --allow-swap --key '{}'", key.display());
    let signer = start(shell(&script));
    for message in [&b"one"[..], b"two", &[7; 70_000]] {
        let signature = signer.sign(message).unwrap();
        assert!(vkey().verify(message, &signature));
    }
    assert!(!format!("{signer:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn a_signer_that_lies_hangs_or_dies_halts_the_kernel() {
    let hello = format!("echo '{SIGN_PROTOCOL} {}'; ", vkey());
    let zeros = format!("{}==", "A".repeat(86));
    for (script, part) in [
        (format!("{hello} read line; echo 'signed {zeros}'; sleep 60"), "not one of"),
        (format!("{hello} read line; echo 'yes'; sleep 60"), "does not speak"),
        (format!("{hello} read line; echo 'error no \u{1b}[2Ksession'; sleep 60"), "no ⟦U+001B⟧[2Ksession"),
        (format!("{hello} read line; exec sleep 60"), "did not answer"),
        (format!("{hello} read line; exit 3"), "ended"),
    ] {
        let house = House::new("").await;
        let signer = ProcessSigner::start(shell(&script), vkey(), Duration::from_secs(2)).unwrap();
        let kernel = Kernel::open(house.config.clone(), signer, Arc::clone(&house.clock)).await.unwrap();
        let opened = kernel.open_run(OpenRun::of("airline/gpt-4o".parse().unwrap())).await;
        let Err(OpenRunError::Stopped(Stop::Halted { detail, .. })) = opened else { panic!("{script}") };
        assert!(
            detail.contains("the kernel's key cannot sign") && detail.contains(part),
            "{script}: {detail}"
        );
        assert!(kernel.stopped().is_some());
        kernel.close().await;
    }
    let fails = |script: &str, part: &str| {
        let error = ProcessSigner::start(shell(script), vkey(), Duration::from_secs(2)).unwrap_err();
        assert!(error.to_string().contains(part), "{script}: {error}");
    };
    let other = crate::harness::key("evil.example", 9);
    fails(&format!("echo '{SIGN_PROTOCOL} {}'; sleep 60", other.verifier()), "has the key evil.example");
    fails("echo hello; sleep 60", "does not speak");
    fails("exit 1", "ended");
    fails("exec sleep 60", "did not answer");
    fails("yes | tr -d '\\n' | head -c 100000; sleep 60", "ended");
    let missing = ProcessSigner::start(vec!["/nowhere/signer".to_owned()], vkey(), Duration::from_secs(1));
    assert!(missing.unwrap_err().to_string().contains("/nowhere/signer"));
}

/// A signer process that has told its key, run as a user.
fn signer_as(user: u32, program: &Path, key: &Path) -> Child {
    let mut child = as_user(user, program)
        .args(["signer", "--allow-swap", "--key"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with(SIGN_PROTOCOL), "{line}");
    child.stdin.as_mut().unwrap().write_all(b"sign AAAA\n").unwrap();
    child
}

fn as_user(user: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    command.arg("--").arg(program);
    command
}

#[test]
fn another_process_cannot_obtain_the_key() {
    let me = std::process::Command::new("id").arg("-u").output().unwrap();
    if me.stdout != b"0\n" || Command::new("setpriv").arg("--version").output().is_err() {
        println!("skipped: only root can run processes as another user, and needs setpriv for it");
        return;
    }
    // Where everybody may look, so that only the key's own protection counts.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("sift-kernel");
    std::fs::copy(PROGRAM, &program).unwrap();
    let (mine, theirs) = (dir.path().join("mine.key"), dir.path().join("theirs.key"));
    write_key(&mine);
    write_key(&theirs);
    chown(&theirs, Some(NOBODY), None).unwrap();
    let nobody_reads = |path: &str| {
        let read = as_user(NOBODY, Path::new("head")).args(["-c", "16", path]).output().unwrap();
        read.status.success() && !read.stdout.is_empty()
    };
    assert!(nobody_reads("/etc/passwd"), "it can read at all");
    // Root's key: neither the file nor the memory nor the descriptors.
    let mut signer = signer_as(0, &program, &mine);
    let pid = signer.id();
    assert!(!nobody_reads(mine.to_str().unwrap()));
    for file in ["mem", "environ", "maps", "fd/0", "auxv"] {
        assert!(!nobody_reads(&format!("/proc/{pid}/{file}")), "{file}");
    }
    signer.kill().unwrap();
    signer.wait().unwrap();
    // A signer of the very user who looks: the process is not dumpable, so its memory is root's.
    let mut control = as_user(NOBODY, Path::new("sleep")).arg("60").spawn().unwrap();
    while !std::fs::read_to_string(format!("/proc/{}/comm", control.id())).unwrap().starts_with("sleep") {
        std::thread::yield_now();
    }
    assert!(nobody_reads(&format!("/proc/{}/environ", control.id())), "what is not hardened can be read");
    control.kill().unwrap();
    control.wait().unwrap();
    let key_dir = dir.path().join("keys");
    std::fs::create_dir(&key_dir).unwrap();
    chown(&key_dir, Some(NOBODY), None).unwrap();
    let own = key_dir.join("own.key");
    std::fs::rename(&theirs, &own).unwrap();
    let mut signer = signer_as(NOBODY, &program, &own);
    let pid = signer.id();
    for file in ["mem", "environ", "maps", "auxv"] {
        assert!(!nobody_reads(&format!("/proc/{pid}/{file}")), "{file}");
    }
    // An abort leaves no core.
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert!(Command::new("kill").args(["-ABRT", &pid.to_string()]).status().unwrap().success());
    let died = signer.wait().unwrap();
    assert_eq!((died.signal(), died.core_dumped()), (Some(6), false));
}
