//! The witness, killed at every system call that makes its memory durable, and with a disk that fails there: it never
//! signs two histories, and never forgets what it answered.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sift_spec::checkpoint::Checkpoint;
use sift_spec::note::SignerKey;
use sift_spec::proof::{TreeHead, prove_consistency};
use sift_spec::tree::MemoryTree;
use sift_spec::types::TreeSize;
use sift_tests::{Follower, Http, TestLog, new_key, program};

use crate::faults::strace_works;

const ORIGIN: &str = "test.sift.example/log";

/// Calls on the history, and how they fail.
const CALLS: [&str; 5] = ["openat", "write", "fdatasync", "fsync", "ftruncate"];
const FAULTS: [&str; 3] = ["signal=KILL", "error=EIO", "error=ENOSPC"];

/// Heads that are sent one after the other.
const SIZES: [usize; 5] = [0, 3, 4, 9, 20];

struct Log {
    key: SignerKey,
    tree: MemoryTree,
}

impl Log {
    /// A request of `add-checkpoint` from one size to another.
    fn request(&self, old: usize, new: usize) -> String {
        let size = |n: usize| TreeSize::new(n as u64).unwrap();
        let head = TreeHead { size: size(new), root: self.tree.root(size(new)).unwrap() };
        let proof = prove_consistency(size(old), size(new), &self.tree).unwrap();
        let lines: String = proof.0.iter().map(|hash| format!("{hash}\n")).collect();
        format!(
            "old {old}\n{lines}\n{}",
            Checkpoint::new(ORIGIN.parse().unwrap(), head).unwrap().sign(&self.key)
        )
    }
}

fn log(history: &str, key: SignerKey) -> Log {
    let entries: Vec<Vec<u8>> = (0..30)
        .map(|n| if n < 2 { format!("entry {n}") } else { format!("entry {n} {history}") }.into_bytes())
        .collect();
    Log { key, tree: MemoryTree::of_entries(entries.iter().map(Vec::as_slice)) }
}

async fn add(http: &Http, request: String) -> Option<(u16, String)> {
    let answer = http.post("/add-checkpoint", "text/plain", request.into_bytes()).await.ok()?;
    Some((answer.status, answer.text()))
}

fn start(strace: Option<Command>, dir: &Path) -> Result<(Follower, Http), String> {
    let mut command = Follower::command();
    if let Some(mut strace) = strace {
        strace.arg("--").arg(command.get_program()).args(command.get_args());
        command = strace;
    }
    let path = |name: &str| dir.join(name).display().to_string();
    let (trust, state, key) = (path("trust.txt"), path("dir"), path("witness.key"));
    let args = ["--trust", &trust, "--dir", &state, "--witness-key", &key, "--listen", "127.0.0.1:0"];
    let follower = Follower::start(command, &args)?;
    let http = Http::new(&format!("http://{}", follower.listen.clone().unwrap()));
    Ok((follower, http))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_whose_disk_fails_or_that_is_killed_signs_one_history() {
    if !strace_works() {
        println!("skipped: strace is missing, or may not trace here");
        return;
    }
    let secret = new_key(ORIGIN).to_secret_text().to_string();
    let key = || SignerKey::from_secret_text(&secret).unwrap();
    let (honest, fork) = (log("one", key()), log("another", key()));
    let mut table: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for call in CALLS {
        for fault in FAULTS {
            for number in 1..40 {
                let dir = tempfile::tempdir().unwrap();
                std::fs::write(
                    dir.path().join("trust.txt"),
                    format!("log {}\nquorum none\n", honest.key.verifier()),
                )
                .unwrap();
                let _ = Follower::witness_key("witness.example/w", &dir.path().join("witness.key"));
                let mut strace = Command::new("strace");
                strace.args(["-D", "-f", "-q", "-o"]).arg(dir.path().join("trace"));
                strace.arg("-P").arg(dir.path().join("dir/history"));
                strace.arg("-e").arg(format!("trace=?{call}"));
                strace.arg("-e").arg(format!("inject=?{call}:{fault}:when={number}"));
                // 1. With the fault: as far as it answers.
                let (mut answered, mut reached) = (None, 0);
                let mut outcome = "went on";
                match start(Some(strace), dir.path()) {
                    Err(_) => outcome = "did not start",
                    Ok((mut follower, http)) => {
                        for pair in SIZES.windows(2) {
                            reached = pair[1];
                            match add(&http, honest.request(pair[0], pair[1])).await {
                                Some((200, _)) => answered = Some(pair[1]),
                                Some((500, _)) | None => {
                                    // Where nothing can be remembered, it ends.
                                    outcome = "ended";
                                    let ended = tokio::task::block_in_place(|| {
                                        follower.ended(Duration::from_secs(30))
                                    });
                                    assert!(ended, "{call} {fault} {number}");
                                    break;
                                }
                                Some(other) => panic!("{call} {fault} {number}: {other:?}"),
                            }
                        }
                        follower.kill();
                    }
                }
                if outcome == "went on" {
                    // There is no such call any more.
                    break;
                }
                table.entry((call, fault)).or_default().push(outcome);
                // 2. Without it: what was answered is remembered, and no other history is signed.
                let (follower, http) = start(None, dir.path()).unwrap();
                let (status, stated) = add(&http, fork.request(29, 29)).await.unwrap();
                assert_eq!(status, 409);
                let stated: usize = stated.trim().parse().unwrap();
                assert!(
                    answered.is_none_or(|answered| stated >= answered) && stated <= reached,
                    "{call} {fault} {number}: {stated} after {answered:?}"
                );
                if stated > 2 {
                    let (status, _) = add(&http, fork.request(stated, stated + 1)).await.unwrap();
                    assert_eq!(status, 422, "{call} {fault} {number}");
                }
                let (status, _) = add(&http, honest.request(stated, 25)).await.unwrap();
                assert_eq!(status, 200, "{call} {fault} {number}");
                let (status, _) = add(&http, fork.request(25, 25)).await.unwrap();
                assert_eq!(status, 422, "{call} {fault} {number}");
                follower.kill();
            }
        }
    }
    for ((call, fault), outcomes) in &table {
        let count = |what: &str| outcomes.iter().filter(|outcome| **outcome == what).count();
        println!(
            "{call:10} {fault:12} {:3} ended, {:3} did not start",
            count("ended"),
            count("did not start")
        );
    }
    let all: usize = table.values().map(Vec::len).sum();
    println!("{all} faults");
    assert!(
        table.contains_key(&("fdatasync", "signal=KILL"))
            && table.contains_key(&("write", "signal=KILL"))
            && all > 30
    );
}

/// A follower that mirrors, killed or with a failing disk at every kind of call on anything in its directory: whatever has
/// a checkpoint passes the audit, and the next round makes it whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_whole_or_has_no_checkpoint_wherever_it_is_stopped() {
    if !strace_works() {
        println!("skipped: strace is missing, or may not trace here");
        return;
    }
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(300))).await.unwrap();
    let trust = log.dir().join(sift_server::init::TRUST_FILE).display().to_string();
    let url = log.http.url().to_owned();
    let run = |mut command: Command| command.output().unwrap().status.code();
    let follow = |dir: &Path| {
        let mut command = Command::new(program("sift-verify"));
        command.args(["follow", "--trust", &trust, "--log", &url, "--mirror", "--once", "--dir"]).arg(dir);
        command
    };
    let audit = |dir: &Path| {
        let mut command = Command::new(program("sift-verify"));
        command.args(["log", "--quiet", "--trust", &trust]).arg(dir.join("mirror"));
        run(command)
    };
    let mut table: BTreeMap<(&str, &str), [u32; 3]> = BTreeMap::new();
    for call in ["openat", "write", "fsync", "rename", "mkdir"] {
        for fault in FAULTS {
            for number in [1, 3, 7, 14] {
                let folder = tempfile::tempdir().unwrap();
                let dir = folder.path().join("dir");
                let command = follow(&dir);
                let mut strace = Command::new("strace");
                strace.args(["-D", "-f", "-q", "-o"]).arg(folder.path().join("trace"));
                strace.arg("-e").arg(format!("trace=?{call}"));
                strace.arg("-e").arg(format!("inject=?{call}:{fault}:when={number}"));
                strace.arg("--").arg(command.get_program()).args(command.get_args());
                let ended = run(strace);
                let row = table.entry((call, fault)).or_default();
                row[0] += u32::from(ended != Some(0));
                if dir.join("mirror/checkpoint").exists() {
                    row[1] += 1;
                    assert_eq!(audit(&dir), Some(0), "{call} {fault} {number}");
                }
                assert_eq!(run(follow(&dir)), Some(0), "{call} {fault} {number}");
                assert_eq!(audit(&dir), Some(0), "{call} {fault} {number}");
                row[2] += 1;
            }
        }
    }
    for ((call, fault), [stopped, whole, mended]) in &table {
        println!(
            "{call:7} {fault:12} {stopped:2} of {mended} stopped, {whole:2} whole already, all whole after the next round"
        );
    }
    let stopped: u32 = table.values().map(|row| row[0]).sum();
    assert!(stopped > 25, "{stopped}");
}
