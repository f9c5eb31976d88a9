//! fsck: every kind of row in a real store, damaged in every way that a disk or a person can, and named for it.

use std::path::Path;
use std::process::{Command, Output};

use rocksdb::{DB, IteratorMode, Options};
use sift_server::fsck::{Code, Depth, Fsck, Report};
use sift_spec::entry::Entry;
use sift_spec::proof::TreeHead;
use sift_spec::types::{Hash, TreeSize};
use sift_tests::{LogProcess, TestLog, program};

/// A stopped log: two operator entries, a run of 698 records, an equivocation; 700 entries, so that level 0 has three
/// tiles and level 1 one, and two checkpoints besides the first are kept.
async fn stopped() -> TestLog {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let run = writer.run(348);
    for part in writer.entries(&run).chunks(200) {
        log.http.add_all(part).await.unwrap();
    }
    let mut other = run[5].clone();
    other.time = run[6].time.next().unwrap();
    assert_eq!(log.http.add(writer.sign(&other).bytes()).await.unwrap().status, 409);
    log.stop().await;
    log
}

fn fsck(log: &TestLog) -> Report {
    let operator = log.trust().operator().unwrap().clone();
    let (data, log) = (log.data(), log.key());
    Fsck { data, log, operator: &operator, seen: &[], depth: Depth::Signatures }.run(&|_, _| {}).unwrap()
}

fn open(log: &TestLog) -> DB {
    let columns = DB::list_cf(&Options::default(), log.data()).unwrap();
    DB::open_cf(&Options::default(), log.data(), columns).unwrap()
}

/// What a test does to a store, and the code and row that must be found for it.
type Case = (&'static str, fn(&DB), &'static [(Code, &'static str)]);

fn change(db: &DB, column: &str, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
    let column = db.cf_handle(column).unwrap();
    let mut value = db.get_cf(column, key).unwrap().expect("a stored value");
    change(&mut value);
    db.put_cf(column, key, value).unwrap();
}

fn delete(db: &DB, column: &str, key: &[u8]) {
    let column = db.cf_handle(column).unwrap();
    assert!(db.get_cf(column, key).unwrap().is_some(), "a stored value");
    db.delete_cf(column, key).unwrap();
}

fn swap(db: &DB, column: &str, one: &[u8], other: &[u8]) {
    let column = db.cf_handle(column).unwrap();
    let (a, b) = (db.get_cf(column, one).unwrap().unwrap(), db.get_cf(column, other).unwrap().unwrap());
    db.put_cf(column, one, b).unwrap();
    db.put_cf(column, other, a).unwrap();
}

fn index(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

fn tile(level: u8, n: u64) -> Vec<u8> {
    [&[level][..], &n.to_be_bytes()].concat()
}

/// Key of the chain column's row of the entry at an index.
fn chain(db: &DB, at: u64) -> Vec<u8> {
    let entry = db.get_cf(db.cf_handle("entries").unwrap(), index(at)).unwrap().unwrap();
    let entry = Entry::parse(entry).unwrap();
    match entry.record() {
        Some(record) => [&record.run.as_bytes()[..], &record.seq.get().to_be_bytes()].concat(),
        None => [&[0; 16][..], &at.to_be_bytes()].concat(),
    }
}

fn first(db: &DB, column: &str) -> Vec<u8> {
    db.iterator_cf(db.cf_handle(column).unwrap(), IteratorMode::Start).next().unwrap().unwrap().0.into_vec()
}

fn last(db: &DB, column: &str) -> Vec<u8> {
    db.iterator_cf(db.cf_handle(column).unwrap(), IteratorMode::End).next().unwrap().unwrap().0.into_vec()
}

const CASES: &[Case] = &[
    // Entries.
    ("an entry is gone", |db| delete(db, "entries", &index(300)), &[(Code::EntryMissing, "entry 300")]),
    (
        "the newest entry is gone",
        |db| delete(db, "entries", &index(699)),
        &[(Code::EntryMissing, "entry 699")],
    ),
    (
        "a digit of an entry's text is another",
        |db| {
            change(db, "entries", &index(300), |entry| {
                let at = entry.windows(8).position(|bytes| bytes == b"\"time\":1").unwrap() + 12;
                entry[at] = if entry[at] == b'1' { b'2' } else { b'1' };
            });
        },
        &[(Code::LeafDiffers, "entry 300"), (Code::SignatureInvalid, "entry 300")],
    ),
    (
        "a bit of an entry",
        |db| change(db, "entries", &index(301), |entry| entry[20] ^= 0x80),
        &[(Code::EntryMalformed, "entry 301"), (Code::LeafDiffers, "entry 301")],
    ),
    (
        "two entries have changed places",
        |db| swap(db, "entries", &index(100), &index(400)),
        &[(Code::LeafDiffers, "entry 100"), (Code::LeafDiffers, "entry 400")],
    ),
    (
        "an entry is cut short",
        |db| change(db, "entries", &index(1), |entry| entry.truncate(100)),
        &[(Code::EntryMalformed, "entry 1"), (Code::OperatorChain, "chain operator/1")],
    ),
    (
        "an entry that nobody signed for",
        |db| db.put_cf(db.cf_handle("entries").unwrap(), index(700), b"more").unwrap(),
        &[(Code::EntryExtra, "entry 700")],
    ),
    // Tiles.
    ("a full tile is gone", |db| delete(db, "tiles", &tile(0, 1)), &[(Code::TileMissing, "tile 0/1")]),
    ("a partial tile is gone", |db| delete(db, "tiles", &tile(0, 2)), &[(Code::TileMissing, "tile 0/2")]),
    ("a tile of level 1 is gone", |db| delete(db, "tiles", &tile(1, 0)), &[(Code::TileMissing, "tile 1/0")]),
    (
        "a bit of a tile",
        |db| change(db, "tiles", &tile(0, 0), |hashes| hashes[32 * 77] ^= 1),
        &[(Code::TileDiffers, "tile 0/0")],
    ),
    (
        "a bit of a tile of level 1",
        |db| change(db, "tiles", &tile(1, 0), |hashes| hashes[63] ^= 1),
        &[(Code::TileDiffers, "tile 1/0")],
    ),
    (
        "a tile is too narrow",
        |db| change(db, "tiles", &tile(0, 2), |hashes| hashes.truncate(64)),
        &[(Code::TileDiffers, "tile 0/2")],
    ),
    (
        "two tiles have changed places",
        |db| swap(db, "tiles", &tile(0, 0), &tile(0, 1)),
        &[(Code::TileDiffers, "tile 0/0"), (Code::TileDiffers, "tile 0/1")],
    ),
    (
        "a tile beyond the tree",
        |db| db.put_cf(db.cf_handle("tiles").unwrap(), tile(2, 0), [1; 32]).unwrap(),
        &[(Code::TileExtra, "tile 2/0")],
    ),
    // The chain column.
    (
        "a row of a run is gone",
        |db| delete(db, "chain", &chain(db, 300)),
        &[(Code::ChainRowMissing, "chain @300")],
    ),
    (
        "a row names another entry",
        |db| change(db, "chain", &chain(db, 300), |row| row[7] ^= 1),
        &[(Code::ChainRowDiffers, "chain @300")],
    ),
    (
        "a row names another leaf hash",
        |db| change(db, "chain", &chain(db, 300), |row| row[20] ^= 1),
        &[(Code::ChainRowDiffers, "chain @300")],
    ),
    (
        "two rows have changed places",
        |db| swap(db, "chain", &chain(db, 300), &chain(db, 302)),
        &[(Code::ChainRowDiffers, "chain @300"), (Code::ChainRowDiffers, "chain @302")],
    ),
    (
        "a row for a record that is not there",
        |db| {
            let (key, column) = (chain(db, 699), db.cf_handle("chain").unwrap());
            let row = db.get_cf(column, &key).unwrap().unwrap();
            let next = u64::from_be_bytes(key[16..].try_into().unwrap()) + 1;
            db.put_cf(column, [&key[..16], &next.to_be_bytes()].concat(), row).unwrap();
        },
        &[(Code::ChainRowExtra, "chain @699+1")],
    ),
    (
        "the operator's last row is gone",
        |db| delete(db, "chain", &chain(db, 1)),
        &[(Code::ChainRowMissing, "chain operator/1"), (Code::OperatorChain, "meta operator")],
    ),
    // Checkpoints and named values.
    (
        "a letter of a kept checkpoint",
        |db| {
            let key = last(db, "checkpoints");
            change(db, "checkpoints", &key, |note| note[30] ^= 1);
        },
        &[(Code::CheckpointInvalid, "checkpoint 602")],
    ),
    (
        "two kept checkpoints have changed places",
        |db| swap(db, "checkpoints", &first(db, "checkpoints"), &last(db, "checkpoints")),
        &[(Code::CheckpointInvalid, "checkpoint 0"), (Code::CheckpointInvalid, "checkpoint 602")],
    ),
    (
        "the newest checkpoint is an older one",
        |db| {
            let older =
                db.get_cf(db.cf_handle("checkpoints").unwrap(), last(db, "checkpoints")).unwrap().unwrap();
            change(db, "meta", b"checkpoint", |note| *note = older);
        },
        &[(Code::Behind, "the high-water mark"), (Code::EntryExtra, "entry 699")],
    ),
    (
        "the newest checkpoint is no checkpoint",
        |db| change(db, "meta", b"checkpoint", |note| note.truncate(40)),
        &[(Code::CheckpointInvalid, "meta checkpoint")],
    ),
    (
        "the length of the operator's chain",
        |db| change(db, "meta", b"operator", |records| records[7] ^= 1),
        &[(Code::OperatorChain, "meta operator")],
    ),
    // Evidence.
    (
        "a bit of an equivocation",
        |db| {
            let key = first(db, "equivocations");
            change(db, "equivocations", &key, |entry| entry[30] ^= 1);
        },
        &[(Code::EquivocationInvalid, "equivocation @7")],
    ),
    (
        "an equivocation that is the admitted entry",
        |db| {
            let admitted = db.get_cf(db.cf_handle("entries").unwrap(), index(7)).unwrap().unwrap();
            let key = first(db, "equivocations");
            change(db, "equivocations", &key, |entry| *entry = admitted);
        },
        &[(Code::EquivocationInvalid, "equivocation @7")],
    ),
];

/// `@300` in an expected row stands for the place of entry 300.
fn expand(row: &str, db: &DB) -> String {
    let Some((before, at)) = row.split_once('@') else { return row.to_owned() };
    let (at, more) = at.split_once('+').map_or((at, 0), |(at, more)| (at, more.parse().unwrap()));
    let key = chain(db, at.parse().unwrap());
    let run = sift_spec::types::RunId::from_bytes(key[..16].try_into().unwrap()).unwrap();
    format!("{before}{run}/{}", u64::from_be_bytes(key[16..].try_into().unwrap()) + more)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_named() {
    let mut log = stopped().await;
    let clean = fsck(&log);
    assert!(clean.is_clean(), "{clean:#?}");
    assert_eq!(clean.size.get(), 700);
    assert_eq!((clean.entries, clean.chain_rows, clean.equivocations), (700, 700, 1));
    assert_eq!(clean.tiles, 4);
    // The empty tree's, two more that are kept, the newest, and the mark.
    assert!(clean.checkpoints >= 5, "{clean:#?}");
    let store = tempfile::tempdir().unwrap();
    copy(log.data(), store.path());
    for (what, damage, expected) in CASES {
        std::fs::remove_dir_all(log.data()).unwrap();
        copy(store.path(), log.data());
        let expected: Vec<(Code, String)> = {
            let db = open(&log);
            let expected = expected.iter().map(|(code, row)| (*code, expand(row, &db))).collect();
            damage(&db);
            expected
        };
        let report = fsck(&log);
        println!("{what}:");
        for finding in &report.findings {
            println!("    {} {}: {}", finding.code, finding.row, finding.detail);
        }
        for (code, row) in &expected {
            let found = report.findings.iter().any(|finding| finding.code == *code && finding.row == *row);
            assert!(found, "{what}: {code} of {row} is not among {:#?}", report.findings);
        }
        // A single damaged row does not drag the whole tree along.
        assert!(report.findings.len() <= expected.len() + 2, "{what}: {:#?}", report.findings);
    }
    // What was damaged was the copy: the original is as it was.
    std::fs::remove_dir_all(log.data()).unwrap();
    copy(store.path(), log.data());
    assert!(fsck(&log).is_clean());
    log.restart().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consistent_forgery_is_found_by_who_holds_a_checkpoint() {
    let log = stopped().await;
    let head = TreeHead { size: TreeSize::new(500).unwrap(), root: Hash::from_bytes([7; 32]) };
    let origin = log.key().name().clone();
    let other = sift_spec::checkpoint::Checkpoint::new(origin, head).unwrap().sign(&log.signer());
    let operator = log.trust().operator().unwrap().clone();
    let seen = [other.into_bytes()];
    let check =
        Fsck { data: log.data(), log: log.key(), operator: &operator, seen: &seen, depth: Depth::Hashes };
    let report = check.run(&|_, _| {}).unwrap();
    let [finding] = report.findings.as_slice() else { panic!("{report:#?}") };
    assert_eq!(finding.code, Code::RootDiffers, "{finding:?}");
    assert_eq!(finding.row, "a checkpoint that somebody else holds");
}

/// A bit that the disk turned is caught by RocksDB before its row can be hashed, and said to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_file_is_told_apart() {
    let log = stopped().await;
    {
        let db = open(&log);
        for column in ["entries", "tiles", "chain", "checkpoints", "equivocations", "meta"] {
            db.flush_cf(db.cf_handle(column).unwrap()).unwrap();
        }
    }
    let store = tempfile::tempdir().unwrap();
    copy(log.data(), store.path());
    let tables: Vec<_> = std::fs::read_dir(store.path())
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sst"))
        .collect();
    assert!(tables.len() >= 6, "{tables:?}");
    let mut told = 0;
    for table in tables {
        std::fs::remove_dir_all(log.data()).unwrap();
        copy(store.path(), log.data());
        let victim = log.data().join(table.file_name().unwrap());
        let mut bytes = std::fs::read(&victim).unwrap();
        // Early in the file there are rows; indexes and properties are at its end.
        let position = (bytes.len() / 8).min(200);
        bytes[position] ^= 0x10;
        std::fs::write(&victim, &bytes).unwrap();
        let report = fsck_or_not(&log);
        println!("byte {position} of {} in {}: {report:?}", bytes.len(), victim.display());
        told += report.expect("checked").iter().filter(|detail| detail.contains("RocksDB")).count();
    }
    assert!(told >= 5, "RocksDB is named where it was RocksDB");
}

/// The details of all findings; an error where the store could not be checked.
fn fsck_or_not(log: &TestLog) -> Result<Vec<String>, String> {
    let operator = log.trust().operator().unwrap().clone();
    let check =
        Fsck { data: log.data(), log: log.key(), operator: &operator, seen: &[], depth: Depth::Signatures };
    let report = check.run(&|_, _| {}).map_err(|error| error.to_string())?;
    assert!(!report.is_clean(), "a flipped byte is found");
    Ok(report.findings.into_iter().take(3).map(|finding| finding.detail).collect())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}

fn run(dir: &Path, more: &[&str]) -> Output {
    Command::new(program("sift-server")).arg("fsck").arg("--dir").arg(dir).args(more).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_damage_from_not_checked() {
    let log = stopped().await;
    let whole = run(log.dir(), &[]);
    let text = String::from_utf8(whole.stdout).unwrap();
    assert_eq!(whole.status.code(), Some(0), "{text}");
    assert!(text.ends_with("nothing is wrong\n"), "{text}");
    // A pipe is no terminal: no progress in it.
    assert_eq!(String::from_utf8(whole.stderr).unwrap(), "");

    // A log that runs is not checked, and is not disturbed.
    let process = LogProcess::start(log.dir()).unwrap();
    let busy = run(log.dir(), &[]);
    assert_eq!(busy.status.code(), Some(2));
    let text = String::from_utf8(busy.stderr).unwrap();
    assert!(text.contains("a server has this store open"), "{text}");
    assert_eq!(process.http.get("/readyz").await.unwrap().status, 200);
    process.kill();

    change(&open(&log), "entries", &index(300), |entry| entry[20] ^= 0x80);
    let damaged = run(log.dir(), &["--json"]);
    assert_eq!(damaged.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&damaged.stdout).unwrap();
    assert_eq!(report["findings"][0]["index"], 300, "{report}");
    assert_eq!(report["findings"][0]["code"], "entry-malformed");
    assert_eq!(run(&log.dir().join("nowhere"), &[]).status.code(), Some(2));
}
