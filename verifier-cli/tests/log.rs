//! Whole logs, from a directory: an honest one verifies, each way to falsify one gives its own finding.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use common::kernel::{beat, honest};
use common::{Draft, Scenario, Sealed, checkpoint, log_key, tiles, trust};
use sift_spec::entry::Entry;
use sift_spec::hash::leaf_hash;
use sift_spec::proof::TreeHead;
use sift_spec::record::{Body, Record};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, RunId};
use sift_verify::log::{self, Options};
use sift_verify::source::Directory;
use sift_verify::{CannotCheck, Code, Gap, Report, Verdict};
use tempfile::TempDir;

fn verify(dir: &Path) -> Report {
    log::verify(&Directory::new(dir), None, &trust(), &Options::default()).unwrap()
}

fn written(sealed: &Sealed) -> TempDir {
    let dir = TempDir::new().unwrap();
    tiles::write(sealed, dir.path());
    dir
}

fn codes(report: &Report) -> Vec<Code> {
    report.findings().iter().map(|finding| finding.code).collect()
}

/// The honest run, and beats of many other runs, to more than one full tile.
fn large(entries: usize) -> Sealed {
    let mut scenario = honest();
    let open = open_of(&scenario);
    scenario.operator_after.clear();
    scenario.other_entries.clear();
    let mut sealed = scenario.seal();
    for n in 0_u32.. {
        if sealed.entries.len() == entries {
            break;
        }
        let mut random = [0; 10];
        random[..4].copy_from_slice(&n.to_be_bytes());
        let run = RunId::from_parts(open.time, &random);
        let record = Record { run, ..open.clone() };
        sealed.entries.push(Entry::sign(&record, &common::kernel_key()).unwrap().into_bytes());
    }
    sealed
}

fn open_of(scenario: &Scenario) -> Record {
    let Draft { body, time, agent, .. } = scenario.drafts[0].clone();
    Record { agent, body, prev: None, run: common::run_id(200), seq: common::seq(0), time }
}

#[test]
fn an_honest_log_verifies_at_every_size_that_matters() {
    for size in [24, 255, 256, 257, 512, 700] {
        let dir = written(&large(size));
        let report = verify(dir.path());
        assert_eq!(report.verdict(), Verdict::Verified, "{}", sift_verify::text::render(&report));
        assert_eq!(report.counts()["entries"], size as u64);
        let claims: Vec<&str> = report.verified().iter().map(|claim| claim.what).collect();
        assert_eq!(claims, ["checkpoint", "tree", "signatures", "chains"], "size {size}");
        for threads in [1, 3] {
            let options = Options { threads: NonZeroUsize::new(threads), progress: &() };
            let again = log::verify(&Directory::new(dir.path()), None, &trust(), &options).unwrap();
            assert_eq!(again, report, "the report does not depend on threads");
        }
    }
}

#[test]
fn an_empty_log_verifies() {
    let dir = written(&Sealed { entries: Vec::new(), in_pack: Vec::new() });
    assert_eq!(verify(dir.path()).verdict(), Verdict::Verified);
}

#[test]
fn an_older_checkpoint_is_checked_by_full_tiles() {
    let sealed = large(300);
    let dir = written(&sealed);
    let old = Sealed { entries: sealed.entries[..200].to_vec(), in_pack: Vec::new() }.checkpoint();
    let options = Options::default();
    let report = log::verify(&Directory::new(dir.path()), Some(old.as_bytes()), &trust(), &options).unwrap();
    assert_eq!(report.verdict(), Verdict::Verified);
    assert_eq!(report.counts()["entries"], 200);
}

enum Change {
    /// Before records are chained and signed; tiles, root and checkpoint follow.
    Draft(fn(&mut Scenario)),
    /// Entries that an operator and kernels never made so; tiles, root and checkpoint follow.
    Entries(fn(&mut Sealed)),
    /// Files of an honest log.
    Files(fn(&Sealed, &Path)),
}

/// Each mutation and the one finding that it must give.
const MUTATIONS: &[(&str, Code, Change)] = &[
    (
        "the checkpoint is unsigned by the log",
        Code::CheckpointInvalid,
        Change::Files(|sealed, dir| {
            let key = common::key(common::LOG, sift_spec::note::KeyType::Ed25519, 77);
            tiles::put(dir, "checkpoint", checkpoint(sealed.head(), &key).as_bytes());
        }),
    ),
    (
        "the root is another",
        Code::RootDiffers,
        Change::Files(|sealed, dir| {
            let head = TreeHead { root: Hash::from_bytes([9; 32]), ..sealed.head() };
            tiles::put(dir, "checkpoint", checkpoint(head, &log_key()).as_bytes());
        }),
    ),
    (
        "a hash tile is another",
        Code::TileDiffers,
        Change::Files(|sealed, dir| {
            let mut leaves: Vec<Hash> = sealed.entries.iter().map(|entry| leaf_hash(entry)).collect();
            leaves[3] = Hash::from_bytes([9; 32]);
            tiles::write_hashes(&leaves, dir);
        }),
    ),
    (
        "a bundle ends within an entry",
        Code::BundleMalformed,
        Change::Files(|sealed, dir| {
            let path = dir.join(format!("tile/entries/000.p/{}", sealed.entries.len()));
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
    ),
    (
        "an entry is no record",
        Code::RecordMalformed,
        Change::Entries(|sealed| {
            sealed.entries.push(b"hello".to_vec());
        }),
    ),
    ("a record's signature is spoilt", Code::SignatureInvalid, Change::Draft(|s| s.drafts[16].spoilt = true)),
    (
        "an operator's signature is spoilt",
        Code::SignatureInvalid,
        Change::Entries(|sealed| {
            common::spoil_signature(sealed.entries.last_mut().unwrap());
        }),
    ),
    (
        "a key is granted twice",
        Code::OperatorInvalid,
        Change::Draft(|s| {
            s.operator_after.push(s.operator_before[0].clone());
        }),
    ),
    (
        "a record is signed by a stranger",
        Code::KeyNotGranted,
        Change::Draft(|s| s.drafts[16].stranger = true),
    ),
    ("a record is missing", Code::ChainGap, Change::Entries(|sealed| drop(sealed.entries.remove(3 + 12)))),
    (
        "an operator's record is missing",
        Code::ChainGap,
        Change::Entries(|sealed| drop(sealed.entries.remove(1))),
    ),
    (
        "two records claim one seq",
        Code::ChainFork,
        Change::Draft(|s| {
            let mut second = Draft::new(beat(5), s.drafts[16].time);
            second.seq = Some(5);
            s.drafts.push(second);
        }),
    ),
    (
        "a run is opened twice",
        Code::ChainFork,
        Change::Entries(|sealed| {
            let again = sealed.entries[3].clone();
            sealed.entries.push(again);
        }),
    ),
    (
        "a record names another predecessor",
        Code::PrevDiffers,
        Change::Draft(|s| {
            s.drafts[12].prev = Some(Hash::from_bytes([9; 32]));
        }),
    ),
    (
        "time goes back",
        Code::TimeBackwards,
        Change::Draft(|s| {
            s.drafts[12].time = common::millis(common::START_MS);
        }),
    ),
    (
        "a record is by another agent",
        Code::RunMismatch,
        Change::Draft(|s| {
            s.drafts[12].agent = "airline/other".parse().unwrap();
        }),
    ),
    (
        "a run is for another log",
        Code::RunMismatch,
        Change::Entries(|sealed| {
            let mut record = open_of(&honest());
            let Body::Open(open) = &mut record.body else { panic!() };
            open.log = "other.example".parse().unwrap();
            sealed.entries.push(Entry::sign(&record, &common::kernel_key()).unwrap().into_bytes());
        }),
    ),
    (
        "a record follows the close",
        Code::AfterClose,
        Change::Draft(|s| {
            let time = s.drafts[16].time;
            s.drafts.push(Draft::new(beat(17), time));
        }),
    ),
    (
        "the bundle is published late",
        Code::PolicyNotPublished,
        Change::Draft(|s| {
            s.other_entries.clear();
            let publish = s.operator_before.pop().unwrap();
            s.operator_after.push(publish);
        }),
    ),
];

#[test]
fn each_mutation_gives_exactly_its_finding() {
    let mut failures = String::new();
    for (name, code, change) in MUTATIONS {
        let mut scenario = honest();
        if let Change::Draft(change) = change {
            change(&mut scenario);
        }
        let mut sealed = scenario.seal();
        if let Change::Entries(change) = change {
            change(&mut sealed);
        }
        let dir = written(&sealed);
        if let Change::Files(change) = change {
            change(&sealed, dir.path());
        }
        let report = verify(dir.path());
        if codes(&report) != [*code] || report.verdict() != Verdict::Rejected {
            let text = anstream::adapter::strip_str(&sift_verify::text::render(&report)).to_string();
            failures += &format!("\n== {name}: expected {code}\n{text}");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn every_byte_of_an_entry_counts() {
    let sealed = honest().seal();
    let dir = written(&sealed);
    let path = dir.path().join(format!("tile/entries/000.p/{}", sealed.entries.len()));
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(41) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert_eq!(verify(dir.path()).verdict(), Verdict::Rejected, "byte {at}");
    }
}

#[test]
fn every_hash_of_a_tile_counts_on_every_level() {
    let sealed = large(600);
    let dir = written(&sealed);
    for path in ["tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"] {
        let full = dir.path().join(path);
        let bytes = fs::read(&full).unwrap();
        for at in [0, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(&full, &flipped).unwrap();
            let report = verify(dir.path());
            assert_eq!(codes(&report), [Code::TileDiffers], "{path} byte {at}");
            assert_eq!(report.findings()[0].concern.path.as_deref(), Some(path));
        }
        fs::write(&full, &bytes).unwrap();
    }
    assert_eq!(verify(dir.path()).verdict(), Verdict::Verified);
}

#[test]
fn what_is_missing_cannot_be_checked() {
    let sealed = large(300);
    for path in ["checkpoint", "tile/entries/000", "tile/0/001.p/44", "tile/1/000.p/1"] {
        let dir = written(&sealed);
        fs::remove_file(dir.path().join(path)).unwrap();
        let error =
            log::verify(&Directory::new(dir.path()), None, &trust(), &Options::default()).unwrap_err();
        assert!(matches!(&error, CannotCheck::Missing { path: missing, .. } if missing == path), "{error}");
    }
}

#[test]
fn without_an_operator_hashes_and_chains_are_checked() {
    let sealed = honest().seal();
    let dir = written(&sealed);
    let text = common::trust_text();
    let text: String =
        text.lines().filter(|line| !line.starts_with("#sift")).map(|l| format!("{l}\n")).collect();
    let trust = TrustPolicy::parse(&text).unwrap();
    let report = log::verify(&Directory::new(dir.path()), None, &trust, &Options::default()).unwrap();
    assert_eq!(report.verdict(), Verdict::Verified);
    assert_eq!(report.unchecked()[0].code, Gap::NoOperator);
    assert!(report.verified().iter().all(|claim| claim.what != "signatures"));
}
