//! A store that is not what was signed does not start, and says why.

use rocksdb::{DB, Options};
use sift_spec::proof::TreeHead;
use sift_spec::types::{Hash, TreeSize};
use sift_tests::{LogProcess, TestLog, check_log, new_key};

/// A stopped log of 300 entries or so.
async fn stopped() -> TestLog {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(148))).await.unwrap();
    log.stop().await;
    log
}

fn open(log: &TestLog) -> DB {
    let columns = DB::list_cf(&Options::default(), log.data()).unwrap();
    DB::open_cf(&Options::default(), log.data(), columns).unwrap()
}

/// Changes one stored value.
fn change(log: &TestLog, column: &str, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
    let db = open(log);
    let column = db.cf_handle(column).unwrap();
    let mut value = db.get_cf(column, key).unwrap().expect("a stored value");
    change(&mut value);
    db.put_cf(column, key, value).unwrap();
}

async fn refuses(log: &mut TestLog, why: &str) {
    let error = log.restart().await.expect_err(why).to_string();
    assert!(error.contains(why), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intact_store_starts() {
    let mut log = stopped().await;
    log.restart().await.unwrap();
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tile() {
    for (level, index) in [(0_u8, 1_u64), (1, 0)] {
        let mut log = stopped().await;
        change(&log, "tiles", &[&[level][..], &index.to_be_bytes()].concat(), |tile| tile[5] ^= 1);
        refuses(&mut log, "lead to another root").await;
    }
    let mut log = stopped().await;
    change(&log, "tiles", &[&[0][..], &1_u64.to_be_bytes()].concat(), |tile| tile.truncate(32));
    refuses(&mut log, "too narrow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_checkpoint() {
    let mut log = stopped().await;
    change(&log, "meta", b"checkpoint", |note| {
        let position = note.iter().position(|byte| *byte == b'3').unwrap();
        note[position] = b'2';
    });
    refuses(&mut log, "the stored checkpoint is not believed").await;
    // One that the log's key did sign, of another tree: as after a restore of half a backup.
    let mut log = stopped().await;
    let head = TreeHead { size: TreeSize::new(10).unwrap(), root: Hash::from_bytes([1; 32]) };
    let origin = log.key().name().clone();
    let note = sift_spec::checkpoint::Checkpoint::new(origin, head).unwrap().sign(&log.signer());
    change(&log, "meta", b"checkpoint", |stored| *stored = note.into_bytes());
    refuses(&mut log, "lead to another root").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_nobody_signed_for() {
    let mut log = stopped().await;
    {
        let db = open(&log);
        db.put_cf(db.cf_handle("entries").unwrap(), 5000_u64.to_be_bytes(), b"extra").unwrap();
    }
    refuses(&mut log, "entries are stored").await;
    let mut log = stopped().await;
    {
        let db = open(&log);
        let entries = db.cf_handle("entries").unwrap();
        let last = db.iterator_cf(entries, rocksdb::IteratorMode::End).next().unwrap().unwrap().0;
        db.delete_cf(entries, last).unwrap();
    }
    refuses(&mut log, "entries are stored").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_grant() {
    let mut log = stopped().await;
    change(&log, "entries", &0_u64.to_be_bytes(), |entry| {
        let position = entry.windows(3).position(|bytes| bytes == b"\"*\"").unwrap();
        entry[position + 1] = b'x';
    });
    refuses(&mut log, "operator entry 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_record_is_served_and_caught() {
    let mut log = stopped().await;
    change(&log, "entries", &200_u64.to_be_bytes(), |entry| entry[100] ^= 1);
    // Nothing at the edge is wrong, so the log starts; whoever reads the entry finds out.
    log.restart().await.unwrap();
    let (http, trust) = (log.http.clone(), log.trust());
    let caught = tokio::spawn(async move { drop(check_log(&http, &trust).await) }).await;
    assert!(caught.is_err(), "check_log must fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_or_operator() {
    let mut log = stopped().await;
    let path = log.dir().join("other.key");
    std::fs::write(&path, new_key("test.sift.example/log").to_secret_text().as_str()).unwrap();
    set_mode(&path, 0o600);
    log.config_mut().log_key = path.clone();
    refuses(&mut log, "not of").await;
    // A key that others may read is not used at all.
    set_mode(&path, 0o644);
    refuses(&mut log, "chmod 600").await;
    let mut log = stopped().await;
    log.config_mut().operator = new_key("test.sift.example/log/operator").verifier().to_string();
    refuses(&mut log, "operator entry 0").await;
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_store() {
    let mut log = stopped().await;
    let first = LogProcess::start(log.dir()).unwrap();
    let second = LogProcess::start(log.dir()).err().expect("refused");
    assert!(second.contains("in use by another process"), "{second}");
    refuses(&mut log, "in use by another process").await;
    check_log(&first.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_never_overwrites() {
    let log = stopped().await;
    let origin = "other.example/log".parse().unwrap();
    let error = sift_server::init::init(log.dir(), &origin, "127.0.0.1:0".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("there is a log in this folder already"), "{error}");
}

/// Acknowledged records, then SIGKILL, so that all of them are in the write-ahead log and nowhere else.
async fn killed() -> (TestLog, std::path::PathBuf) {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.stop().await;
    let process = LogProcess::start(log.dir()).unwrap();
    for entry in writer.entries(&writer.run(4)) {
        assert_eq!(process.http.add(&entry).await.unwrap().status, 200);
    }
    process.kill();
    let written = std::fs::read_dir(log.data()).unwrap().map(|item| item.unwrap().path());
    let written = written.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    let newest = written.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    (log, newest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_write_ahead_log_does_not_shorten_the_tree() {
    let (mut log, wal) = killed().await;
    let intact = std::fs::read(&wal).unwrap();
    assert!(intact.len() > 4000, "ten records are in it");
    for position in [30, intact.len() / 3, intact.len() / 2, intact.len() - 40] {
        let mut damaged = intact.clone();
        damaged[position] ^= 0x10;
        std::fs::write(&wal, &damaged).unwrap();
        let refused = log.restart().await.expect_err("a log that lost acknowledged records must not start");
        println!("byte {position} of {}: {refused}", intact.len());
    }
    // And a log that is cut to before what was answered.
    std::fs::write(&wal, &intact[..intact.len() / 2]).unwrap();
    refuses(&mut log, "would show two histories").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_that_nobody_was_answered_about_is_dropped() {
    let (mut log, wal) = killed().await;
    let mut torn = std::fs::read(&wal).unwrap();
    // The beginning of one more record: its header says more than there is.
    torn.extend_from_within(..200);
    std::fs::write(&wal, &torn[..torn.len() - 150]).unwrap();
    log.restart().await.unwrap();
    let (checkpoint, _) = check_log(&log.http, &log.trust()).await;
    assert_eq!(checkpoint.head.size.get(), 2 + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_does_not_start() {
    let mut log = stopped().await;
    let copy = tempfile::tempdir().unwrap();
    for item in std::fs::read_dir(log.data()).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), copy.path().join(item.file_name())).unwrap();
    }
    log.restart().await.unwrap();
    let writer = log.writer("test/later").await;
    log.http.add_all(&writer.entries(&writer.run(1))).await.unwrap();
    let seen = log.http.get("/checkpoint").await.unwrap().body;
    log.stop().await;
    // The store is replaced by the copy, and the mark beside it stays.
    std::fs::remove_dir_all(log.data()).unwrap();
    std::fs::rename(copy.path(), log.data()).unwrap();
    refuses(&mut log, "would show two histories").await;
    // Without the mark, only what somebody else holds can tell.
    std::fs::remove_file(log.dir().join("data.head")).unwrap();
    let file = log.dir().join("seen");
    std::fs::write(&file, seen).unwrap();
    log.config_mut().seen = vec![file.clone()];
    refuses(&mut log, "would show two histories").await;
    // A checkpoint that the copy does extend is no obstacle.
    log.config_mut().seen.clear();
    log.restart().await.unwrap();
    let older = log.http.get("/checkpoint").await.unwrap().body;
    log.stop().await;
    std::fs::write(&file, older).unwrap();
    log.config_mut().seen = vec![file];
    log.restart().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_revocation_is_noticed() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.operator().revoke(writer.key.verifier()).await;
    log.stop().await;
    {
        let db = open(&log);
        let key = [&[0; 16][..], &2_u64.to_be_bytes()].concat();
        db.delete_cf(db.cf_handle("chain").unwrap(), key).unwrap();
    }
    refuses(&mut log, "operator entries are stored").await;
}
