//! Backups: made under load, restored whole, and never the beginning of a second history by accident.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sift_server::backup::Manifest;
use sift_spec::hash::leaf_hash;
use sift_spec::receipt::Receipt;
use sift_spec::types::{Hash, LeafIndex};
use sift_tests::{LogProcess, TestLog, check_log, program};

fn sift_server(args: &[&str]) -> Output {
    Command::new(program("sift-server")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command that must end well, and gives what it printed.
fn run(args: &[&str]) -> String {
    let output = sift_server(args);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Runs a command that must fail, and gives what it said.
fn fails(args: &[&str]) -> String {
    let output = sift_server(args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// `serve` that must refuse to start: what it said.
fn refuses(args: &[&str]) -> String {
    let all: Vec<&str> = ["serve"].iter().chain(args).copied().collect();
    fails(&all)
}

fn start(args: &[&str]) -> Child {
    Command::new(program("sift-server"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A log with a few entries in a folder of its own, stopped.
async fn stopped() -> TestLog {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(3))).await.unwrap();
    log.stop().await;
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_acknowledged_record_is_in_it() {
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    log.stop().await;
    let process = LogProcess::start(log.dir()).unwrap();
    let told: Arc<Mutex<BTreeMap<LeafIndex, Hash>>> = Arc::default();
    let enough = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (http, writer, told, enough) =
                (process.http.clone(), Arc::clone(&writer), Arc::clone(&told), Arc::clone(&enough));
            tokio::spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    for entry in writer.entries(&writer.run(2)) {
                        let answer = http.add(&entry).await.unwrap();
                        let receipt = Receipt::parse(&answer.body).unwrap();
                        told.lock().unwrap().insert(receipt.index, leaf_hash(&entry));
                    }
                }
            })
        })
        .collect();
    while told.lock().unwrap().len() < 200 {
        tokio::task::yield_now().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let before = told.lock().unwrap().clone();
    let dir = log.dir().to_owned();
    let to = one.clone();
    // The writers go on while the copy is made.
    let printed = tokio::task::spawn_blocking(move || {
        run(&["backup", "--dir", text(&dir), "--to", text(&to), "--check", "signatures"])
    });
    println!("{}", printed.await.unwrap());
    let during = told.lock().unwrap().len();
    enough.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // Nobody has the private key with it, unless it was asked for.
    assert!(!one.join("log.key").exists());
    run(&["backup", "--dir", text(log.dir()), "--to", text(&other), "--with-keys"]);
    let newest = process.http.get("/checkpoint").await.unwrap().body;
    process.kill();

    let manifest = Manifest::read(&one).unwrap();
    assert!(manifest.size.get() >= 2 + before.len() as u64);
    assert!(during > before.len(), "the log was written to meanwhile: {during} after {}", before.len());
    run(&["fsck", "--dir", text(&other)]);
    let restored = folder.path().join("restored");
    run(&["restore", "--from", text(&one), "--dir", text(&restored)]);
    std::fs::copy(log.dir().join("log.key"), restored.join("log.key")).unwrap();
    // This one was made in mid-flight, and its log went on: it must never be gone on from.
    let seen = folder.path().join("newest");
    std::fs::write(&seen, &newest).unwrap();
    let why = refuses(&["--dir", text(&restored), "--seen", text(&seen)]);
    assert!(why.contains("would show two histories"), "{why}");
    // Yet everything that was answered before it began is in it, and proves.
    let process = LogProcess::start_with(&restored, &["--seen-none-newer"]).unwrap();
    let (checkpoint, entries) = check_log(&process.http, &log.trust()).await;
    assert_eq!(checkpoint.head.size, manifest.size);
    for (index, leaf) in &before {
        assert_eq!(leaf_hash(&entries[index.get() as usize]), *leaf, "entry {index}");
    }
    process.kill();
    // The other has all of it, and what the newest checkpoint says is shown to be the end of it.
    let moved = folder.path().join("moved");
    run(&["restore", "--from", text(&other), "--dir", text(&moved)]);
    let process = LogProcess::start_with(&moved, &["--seen", text(&seen)]).unwrap();
    let (_, entries) = check_log(&process.http, &log.trust()).await;
    for (index, leaf) in told.lock().unwrap().iter() {
        assert_eq!(leaf_hash(&entries[index.get() as usize]), *leaf, "entry {index}");
    }
    println!("{} records before, {} in all", before.len(), told.lock().unwrap().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_is_not_gone_on_from_by_accident() {
    let mut log = stopped().await;
    let folder = tempfile::tempdir().unwrap();
    let (backup, dir) = (folder.path().join("backup"), folder.path().join("restored"));
    run(&["backup", "--dir", text(log.dir()), "--to", text(&backup), "--with-keys"]);
    // The log goes on: 2 + 8 entries, and then 1 + 4 more.
    log.restart().await.unwrap();
    let at_backup = log.http.get("/checkpoint").await.unwrap().body;
    let writer = log.writer("test/later").await;
    log.http.add_all(&writer.entries(&writer.run(1))).await.unwrap();
    let newer = log.http.get("/checkpoint").await.unwrap().body;
    log.stop().await;
    let (same, newest) = (folder.path().join("same"), folder.path().join("newest"));
    std::fs::write(&same, &at_backup).unwrap();
    std::fs::write(&newest, &newer).unwrap();

    // Neither the backup itself, nor what was restored, nor a store that somebody copied out of it by hand, starts.
    run(&["restore", "--from", text(&backup), "--dir", text(&dir)]);
    let by_hand = tempfile::tempdir().unwrap();
    for item in std::fs::read_dir(log.dir()).unwrap().map(|item| item.unwrap()) {
        if item.file_type().unwrap().is_file() && item.file_name() != "data.head" {
            std::fs::copy(item.path(), by_hand.path().join(item.file_name())).unwrap();
        }
    }
    copy(&backup.join("data"), &by_hand.path().join("data"));
    for place in [dir.as_path(), by_hand.path()] {
        let why = refuses(&["--dir", text(place)]);
        assert!(why.contains("is a copy from a backup, of 10 entries"), "{why}");
        assert!(why.contains("--seen FILE"), "{why}");
        // Refusing changes nothing: it refuses again.
        assert_eq!(refuses(&["--dir", text(place)]).lines().last(), why.lines().last());
    }
    // What others hold is newer: this copy can never be gone on from.
    let why = refuses(&["--dir", text(&dir), "--seen", text(&newest)]);
    assert!(why.contains("the log signed a tree of 15 entries, and the store holds 10"), "{why}");
    // Not even on somebody's word, while the proof is at hand.
    let why = refuses(&["--dir", text(&dir), "--seen", text(&newest), "--seen-none-newer"]);
    assert!(why.contains("would show two histories"), "{why}");
    // The flag is for one start: neither file nor environment has it.
    std::fs::write(dir.join("sift-server.toml"), {
        let text = std::fs::read_to_string(dir.join("sift-server.toml")).unwrap();
        format!("seen_none_newer = true\n{text}")
    })
    .unwrap();
    let why = refuses(&["--dir", text(&dir)]);
    assert!(why.contains("there is no such setting"), "{why}");

    // Had the log not gone on, its newest checkpoint would be the proof; it is asked for once.
    let moved = folder.path().join("moved");
    run(&["restore", "--from", text(&backup), "--dir", text(&moved)]);
    let process = LogProcess::start_with(&moved, &["--seen", text(&same)]).unwrap();
    check_log(&process.http, &log.trust()).await;
    process.kill();
    LogProcess::start(&moved).unwrap().kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_checkpoint_proves_nothing() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let older = log.http.get("/checkpoint").await.unwrap().body;
    log.http.add_all(&writer.entries(&writer.run(3))).await.unwrap();
    log.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let (backup, dir, seen) =
        (folder.path().join("backup"), folder.path().join("restored"), folder.path().join("older"));
    run(&["backup", "--dir", text(log.dir()), "--to", text(&backup), "--with-keys"]);
    run(&["restore", "--from", text(&backup), "--dir", text(&dir)]);
    std::fs::write(&seen, older).unwrap();
    let why = refuses(&["--dir", text(&dir), "--seen", text(&seen)]);
    assert!(why.contains("the newest checkpoint that was shown is of 2"), "{why}");
}

/// Whatever is killed whenever: there is either a whole backup of that name, or none.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_is_made() {
    let log = stopped().await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    let args = ["backup", "--dir", text(log.dir()), "--to", text(&to)];
    let (mut none, mut whole) = (0, 0);
    for round in 0..24 {
        let server = (round % 2 == 0).then(|| LogProcess::start(log.dir()).unwrap());
        let mut command = start(&args);
        // The moment is told by what it has written so far: a different one each round.
        let partial = folder.path().join("backup.partial");
        let grown = || std::fs::read_dir(&partial).map_or(0, Iterator::count);
        while grown() < round % 6 && !to.exists() && command.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        command.kill().unwrap();
        command.wait().unwrap();
        if let Some(server) = server {
            server.kill();
        }
        if to.exists() {
            whole += 1;
            let manifest = Manifest::read(&to).unwrap();
            assert_eq!(manifest.size.get(), 10);
            let restored = folder.path().join("restored");
            run(&["restore", "--from", text(&to), "--dir", text(&restored)]);
            std::fs::remove_dir_all(&restored).unwrap();
            std::fs::remove_dir_all(&to).unwrap();
        } else {
            none += 1;
            if partial.join("INCOMPLETE").exists() {
                // What is left is not taken for a backup, and is no log that starts.
                let why =
                    fails(&["restore", "--from", text(&partial), "--dir", text(&folder.path().join("x"))]);
                println!("round {round}: {}", why.trim());
                assert!(!folder.path().join("x").exists());
            }
        }
    }
    println!("{none} killed before the name was given, {whole} after");
    assert!(none > 0, "at least one was killed in time");
    // The same command makes it whole, whatever was left.
    run(&args);
    assert_eq!(Manifest::read(&to).unwrap().size.get(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_backup_is_not_restored() {
    let log = stopped().await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    run(&["backup", "--dir", text(log.dir()), "--to", text(&backup)]);
    let manifest = Manifest::read(&backup).unwrap();
    let restore = |from: &Path| {
        let to = folder.path().join("x");
        let why = fails(&["restore", "--from", text(from), "--dir", text(&to)]);
        assert!(!to.exists(), "{why}");
        why
    };
    // A bit of each file, each file gone, and one more.
    for file in &manifest.files {
        for gone in [false, true] {
            let changed = folder.path().join("changed");
            copy(&backup, &changed);
            let victim = changed.join(&file.path);
            if gone {
                std::fs::remove_file(&victim).unwrap();
            } else {
                let mut bytes = std::fs::read(&victim).unwrap();
                let Some(byte) = bytes.last_mut() else { continue };
                *byte ^= 1;
                std::fs::write(&victim, bytes).unwrap();
            }
            let why = restore(&changed);
            assert!(why.contains(&file.path), "{why}");
            std::fs::remove_dir_all(&changed).unwrap();
        }
    }
    std::fs::write(backup.join("data/more"), b"x").unwrap();
    assert!(restore(&backup).contains("not in the manifest"));
    std::fs::remove_file(backup.join("data/more")).unwrap();
    // Nothing is overwritten, by either command.
    let why = fails(&["backup", "--dir", text(log.dir()), "--to", text(&backup)]);
    assert!(why.contains("there is something already"), "{why}");
    let why = fails(&["restore", "--from", text(&backup), "--dir", text(log.dir())]);
    assert!(why.contains("there is something already"), "{why}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().map(|item| item.unwrap()) {
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).unwrap();
        }
    }
}
