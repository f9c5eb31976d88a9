//! Programs that others wrote, unchanged, on our log. Each is installed by its own package manager, at a fixed
//! version; where that is missing, the test says so and does nothing, unless `CI` is set.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sift_spec::entry::Entry;
use sift_spec::record::{Body, Call};
use sift_tests::{OpenAdmission, TestLog, check_log, go_build, go_install, new_key};

/// Tessera's checker for any log that serves C2SP tlog-tiles.
const FSCK: &str = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4";

/// Tessera's load tester.
const HAMMER: &str = "github.com/transparency-dev/tessera/internal/hammer@v1.0.4";

/// Runs a program to its end while the log in this process goes on serving it.
async fn run(program: &Path, args: Vec<String>) -> (Output, String) {
    let program = program.to_owned();
    let run = move || Command::new(program).args(args).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn tesseras_fsck_accepts_our_tiles() {
    let Some(fsck) = go_install(FSCK) else { return };
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let key = log.dir().join("log.vkey");
    let url = format!("--storage_url={}/", log.http.url());
    let args =
        vec![url, format!("--public_key={}", key.display()), "--ui=false".to_owned(), "-N=4".to_owned()];
    std::fs::write(&key, log.key().to_string()).unwrap();
    // Sizes within the first tile, at its edge, and with three levels of partial tiles' worth of entries.
    for calls in [0_u64, 50, 74, 1, 500, 400] {
        log.http.add_all(&writer.entries(&writer.run(calls))).await.unwrap();
        let (checked, said) = run(&fsck, args.clone()).await;
        assert!(checked.status.success() && said.contains("Successfully fsck'd log"), "{said}");
    }
    // And it does find what is wrong: another key.
    std::fs::write(&key, new_key("test.sift.example/log").verifier().to_string()).unwrap();
    let (_, said) = run(&fsck, args).await;
    assert!(!said.contains("Successfully"), "a checker that accepts everything proves nothing: {said}");
}

/// 64 writers and 16 readers at once. The hammer follows the checkpoint, proves from tiles that each extends the
/// last, and reads bundles of the tree it believes in; it never looks at what an entry says, so we do.
#[tokio::test(flavor = "multi_thread")]
async fn tesseras_hammer_finds_no_error() {
    const LEAVES: u64 = 3000;
    let Some(hammer) = go_install(HAMMER) else { return };
    let log = TestLog::start().await;
    let door = OpenAdmission::start(&log).await;
    let (before, _) = check_log(&log.http, &log.trust()).await;
    let args = [
        format!("--log_public_key={}", log.key()),
        format!("--log_url={}/", log.http.url()),
        format!("--write_log_url={}/", door.url()),
        format!("--leaf_write_goal={LEAVES}"),
        "--leaf_min_size=512".to_owned(),
        "--num_writers=64".to_owned(),
        "--max_write_ops=200".to_owned(),
        "--num_readers_random=8".to_owned(),
        "--num_readers_full=8".to_owned(),
        "--max_read_ops=400".to_owned(),
        "--max_runtime=5m".to_owned(),
        "--show_ui=false".to_owned(),
        "--v=1".to_owned(),
    ];
    let (done, said) = run(&hammer, args.to_vec()).await;
    // Each line starts with a letter for its severity: information, warning, error, fatal.
    let mut complaints: Vec<&str> = said.lines().filter(|line| !line.starts_with('I')).collect();
    // When it has reached its goal it cancels what it is still asking, and says so.
    complaints.retain(|line| !line.ends_with("context canceled"));
    assert!(done.status.success() && complaints.is_empty(), "{}\n{}", done.status, complaints.join("\n"));
    let updates = said.lines().filter(|line| line.contains("Updated checkpoint")).count();
    let summary = said.lines().find(|line| line.contains("Reached tree size goal"));
    assert!(updates > 1, "no checkpoint was followed: {said}");
    println!("hammer: {} ({updates} consistency proofs)", summary.unwrap_or_default());

    assert_eq!(door.refused(), Vec::<String>::new());
    let added = door.added().await;
    let (after, entries) = check_log(&log.http, &log.trust()).await;
    assert!(after.head.size.get() >= before.head.size.get() + LEAVES);
    for (raw, added) in &added {
        let at = usize::try_from(added.index.get()).unwrap();
        assert!(entries[at] == added.entry, "entry {at} is not what was answered with its index");
        let entry = Entry::parse(entries[at].clone()).unwrap();
        let Body::Intent(intent) = &entry.record().unwrap().body else { panic!("{entry:?}") };
        let Call::Tool(call) = &intent.call else { panic!("{entry:?}") };
        assert_eq!(call.args.digest, *raw, "entry {at} is of other bytes");
    }
    println!("hammer: {} leaves added, {} entries checked", added.len(), entries.len());
    assert!(added.len() as u64 >= LEAVES);
}

fn sumdb() -> Option<PathBuf> {
    go_build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/strangers/sumdb"))
}

/// The code behind Go's checksum database reads checkpoint, records, tiles, proofs and receipts.
#[tokio::test(flavor = "multi_thread")]
async fn gos_sumdb_reads_the_log() {
    let Some(sumdb) = sumdb() else { return };
    let log = TestLog::start().await;
    let operator = log.operator().key().verifier().clone();
    let args = |url: &str, log: &str, operator: &str| {
        ["-url", url, "-log", log, "-operator", operator].map(str::to_owned).to_vec()
    };
    let honest = args(log.http.url(), &log.key().to_string(), &operator.to_string());
    let (first, second) = (log.writer("test/kernel").await, log.writer("test/other").await);
    // Two keys, one of them revoked half way; sizes in the first tile, at its edge, beyond the second.
    for (writer, calls) in [(&first, 3), (&second, 120), (&first, 1), (&second, 300)] {
        log.http.add_all(&writer.entries(&writer.run(calls))).await.unwrap();
        let (done, said) = run(&sumdb, honest.clone()).await;
        assert!(done.status.success(), "{said}");
        println!("sumdb: {}", String::from_utf8_lossy(&done.stdout).trim());
    }
    log.operator().revoke(first.key.verifier()).await;
    log.http.add_all(&second.entries(&second.run(1))).await.unwrap();
    let (done, said) = run(&sumdb, honest).await;
    assert!(done.status.success(), "{said}");
    println!("sumdb: {}", String::from_utf8_lossy(&done.stdout).trim());
    // And it does find what is wrong: another log's key, another operator.
    let stranger = new_key("test.sift.example/log").verifier().to_string();
    let (done, said) = run(&sumdb, args(log.http.url(), &stranger, &operator.to_string())).await;
    assert!(!done.status.success() && said.contains("checkpoint"), "{said}");
    let (done, said) = run(&sumdb, args(log.http.url(), &log.key().to_string(), &stranger)).await;
    assert!(!done.status.success() && said.contains("entry 0"), "{said}");
}
