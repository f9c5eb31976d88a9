//! Whole logs, from a directory: an honest one verifies, each way to falsify one gives its own finding.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use common::bad_logs::{MUTATIONS, open_of};
use common::kernel::honest;
use common::{Sealed, tiles, trust};
use sift_spec::entry::Entry;
use sift_spec::record::Record;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::RunId;
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

#[test]
fn each_mutation_gives_exactly_its_finding() {
    let mut failures = String::new();
    for (name, code, change) in MUTATIONS {
        let dir = TempDir::new().unwrap();
        change.write(dir.path());
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
        let named = match &error {
            CannotCheck::Missing { path: missing, .. } => missing == path,
            CannotCheck::NoCheckpoint(_) => path == "checkpoint",
            _ => false,
        };
        assert!(named, "{error}");
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

#[test]
fn a_fork_names_both_entries() {
    let mut sealed = large(600);
    let again = [sealed.entries[300].clone(), sealed.entries[0].clone()];
    let first = Entry::parse(sealed.entries[500].clone()).unwrap();
    let other = Record { time: common::millis(common::START_MS + 1), ..first.record().unwrap().clone() };
    let other = Entry::sign(&other, &common::kernel_key()).unwrap().into_bytes();
    sealed.entries.extend(again.into_iter().chain([other]));
    let report = verify(written(&sealed).path());
    let forks = report.findings().iter().filter(|finding| finding.code == Code::ChainFork);
    let said: Vec<(u64, &str)> = forks
        .map(|finding| (finding.concern.index.unwrap().get(), finding.detail.rsplit_once("; ").unwrap().1))
        .collect();
    assert_eq!(
        said,
        [
            (600, "entry 300 is the same: the log holds it twice"),
            (601, "entry 0 is the same: the log holds it twice"),
            (602, "entry 500 stands there already, and says something else"),
        ]
    );
}
