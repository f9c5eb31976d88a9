//! What must hold of the verifier for every input: the functions behind the fuzz targets, and behind the test that runs
//! them in every build (`verifier-cli/tests/fuzz_verifier.rs`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a target that fails panics
#![allow(unreachable_pub)] // public for the binaries, and private as a module of a test

mod forged;

use std::sync::LazyLock;

use forged::{Edits, Forger};
use sift_spec::trust::TrustPolicy;
use sift_verify::run::Options;
use sift_verify::{Report, Verdict, proof, text};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[("payload", payload), ("proof", receipt), ("run", pack)];

static TRUST: LazyLock<TrustPolicy> = LazyLock::new(|| {
    TrustPolicy::parse(include_str!("../../../spec/vectors/finding/trust.txt")).expect("a trust file")
});
static FORGER: LazyLock<Forger> = LazyLock::new(Forger::new);
static HONEST: LazyLock<Report> = LazyLock::new(|| verify(&FORGER.honest()));

const ENTRY: &[u8] = include_bytes!("../../../spec/vectors/finding/no-operator/entry.note");
const RECEIPT: &[u8] = include_bytes!("../../../spec/vectors/finding/no-operator/entry.tlog-proof");

/// Runs one target by name.
///
/// # Panics
/// When a property does not hold, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    target(bytes);
}

fn verify(pack: &[u8]) -> Report {
    told(sift_verify::run::verify(pack, &TRUST, &Options::default()))
}

/// A report can be told, whatever it is about.
fn told(report: Report) -> Report {
    let json = report.to_json().expect("a report has JSON");
    assert!(!json.contains('\n'), "one line");
    assert!(!text::render(&report).is_empty());
    let strict = report.clone().judged(true);
    assert!(report.verdict() == Verdict::Verified || strict.verdict() == Verdict::Rejected);
    report
}

/// Verifies as the honest evidence does, if at all, only where it is the honest evidence.
fn same_only_if(same: bool, report: &Report, honest: &Report) {
    assert_eq!(honest.verdict(), Verdict::Verified);
    let verifies = report.verdict() == Verdict::Verified && report.verified() == honest.verified();
    assert!(!verifies || same, "a forged history verifies with the claims of the honest one");
    assert!(!same || verifies, "the honest one does not");
}

fn pack(bytes: &[u8]) {
    verify(bytes);
    let mut edits = Edits::new(bytes);
    if let Some(forged) = FORGER.record(&mut edits) {
        same_only_if(forged == FORGER.honest(), &verify(&forged), &HONEST);
    }
}

fn payload(bytes: &[u8]) {
    if let Some(forged) = FORGER.payload(bytes) {
        same_only_if(forged == FORGER.honest(), &verify(&forged), &HONEST);
    }
}

fn receipt(bytes: &[u8]) {
    let mut edits = Edits::new(bytes);
    let at = edits.below(bytes.len() + 1);
    let (entry, its) = bytes.split_at(at);
    told(proof::verify(entry, its, &TRUST));
    let (mut entry, mut its) = (ENTRY.to_vec(), RECEIPT.to_vec());
    match edits.below(2) {
        0 => edits.edit(&mut entry),
        _ => edits.edit(&mut its),
    }
    let honest = proof::verify(ENTRY, RECEIPT, &TRUST);
    let report = told(proof::verify(&entry, &its, &TRUST));
    // Lines of unknown signers, and what nobody vouches for, may stand in a receipt.
    same_only_if(
        entry == ENTRY && (its == RECEIPT || report.verified() == honest.verified()),
        &report,
        &honest,
    );
}
