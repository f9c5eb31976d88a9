//! A whole log: every entry hashed, every tile and the root computed again, every signature and every chain
//! checked (SPEC §11.3).
//!
//! ```text
//! workers: read ── parse ── hash ──▶ main: chain step, in order ──▶ workers: signatures, in batches
//! ```
//! Workers read entry bundles ahead of the main thread by a fixed number, so memory does not grow with the log
//! but for the heads of its runs. The chain step only looks; everything expensive is done by all cores.
//!
//! Out of scope: what the records of a run mean together, which [`crate::run`] checks from the run's pack.

mod audit;
mod bundle;
mod desk;
mod edge;
mod forks;
mod found;

use std::num::NonZeroUsize;

use sift_spec::note::NOTE_BYTES_MAX;
use sift_spec::proof::TreeHead;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::Hash;

use crate::checkpoint;
use crate::error::CannotCheck;
use crate::finding::{Code, Concern, Finding, Gap};
use crate::report::{Claim, Proven, Report, Verb};
use crate::source::{self, Source};
use crate::text::Many;

use audit::Audit;
use desk::Desk;
use edge::EdgeTiles;
use found::Found;

/// Told how far a long verification is.
pub trait Progress: Sync {
    /// `done` of `total` entries are read and chained.
    fn advance(&self, done: u64, total: u64);
}

/// No progress is shown.
impl Progress for () {
    fn advance(&self, _: u64, _: u64) {}
}

/// How a log is verified.
pub struct Options<'a> {
    /// Worker threads; all cores when absent.
    pub threads: Option<NonZeroUsize>,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { threads: None, progress: &() }
    }
}

/// All entries of a tree, whose root came out as signed.
#[derive(Debug)]
struct VerifiedTree {
    head: TreeHead,
    tiles: u64,
    _assertion: (),
}

impl Proven for VerifiedTree {
    fn claim(&self) -> Claim {
        let (entries, tiles) = (Many(self.head.size.get(), "entry"), Many(self.tiles, "tile"));
        let detail = format!("{entries} hashed again: {tiles} and the root {} are right", self.head.root);
        Claim { what: "tree", count: self.head.size.get(), detail }
    }
}

/// All entries of a tree, each signed by a key that counts at its index.
#[derive(Debug)]
struct VerifiedSignatures {
    signatures: u64,
    _assertion: (),
}

impl Proven for VerifiedSignatures {
    fn claim(&self) -> Claim {
        let detail =
            format!("{}, each by a key that counts at its index", Many(self.signatures, "signature"));
        Claim { what: "signatures", count: self.signatures, detail }
    }
}

/// All chains of a log: the operator's, and every run's.
#[derive(Debug)]
struct VerifiedChains {
    runs: u64,
    operator_records: u64,
    _assertion: (),
}

impl Proven for VerifiedChains {
    fn claim(&self) -> Claim {
        let (runs, records) = (Many(self.runs, "run"), Many(self.operator_records, "record"));
        let detail = format!("{runs} and the operator's {records} are chained without gap or fork");
        Claim { what: "chains", count: self.runs, detail }
    }
}

/// Checks a whole log up to `checkpoint`, or up to the one that the log serves.
///
/// # Errors
/// When the log cannot be read or is incomplete.
pub fn verify(
    source: &dyn Source,
    checkpoint: Option<&[u8]>,
    trust: &TrustPolicy,
    options: &Options<'_>,
) -> Result<Report, CannotCheck> {
    let mut report = Report::new(Verb::Log, source.name());
    // 1. The checkpoint is believed: without it there is no size and no root to check against.
    let note = match checkpoint {
        Some(note) => note.to_vec(),
        None => source::checkpoint(source, NOTE_BYTES_MAX)?,
    };
    let Some(checkpoint) = checkpoint::verify(&note, trust, checkpoint::PATH, &mut report) else {
        return Ok(report);
    };
    let (origin, head) = (&checkpoint.checkpoint().origin, checkpoint.checkpoint().head);
    // 2. to 4. Read, hash and parse; chain; check signatures.
    let mut audit = Audit::new(origin.clone(), trust.operator().cloned());
    let mut edge = EdgeTiles::new(source, head.size);
    let (workers, entropy) = (worker_count(options), entropy()?);
    let mut all = Desk::new(source, head.size, workers).run(&entropy, |bundle| {
        let (mut found, signers) = audit.bundle(bundle);
        found.extend(edge.push(bundle)?);
        options.progress.advance(audit.entries(), head.size.get());
        Ok((found, signers))
    })?;
    all.extend(audit.take_forks().explain(source, head.size)?);
    // 5. The root, and the tiles above the leaves that are not full.
    let (root, found) = edge.finish()?;
    all.extend(found);
    // Where a bundle is malformed, its leaves are missing, and no root can be expected.
    if all.clean_of(&[Code::BundleMalformed]) && root != Some(head.root) {
        let computed = root.map_or_else(|| "none".to_owned(), |root: Hash| root.to_string());
        let detail = format!("the entries give the root {computed}, the checkpoint signs {}", head.root);
        all.push(Finding::rejects(Code::RootDiffers, Concern::whole(), detail));
    }
    // 6. Say it.
    conclude(&mut report, &all, head, edge.tiles(), &audit);
    all.tell(&mut report);
    Ok(report)
}

/// Claims what no finding contradicts, and says what this verb does not check.
fn conclude(report: &mut Report, found: &Found, head: TreeHead, tiles: u64, audit: &Audit) {
    let clean = |codes: &[Code]| found.clean_of(codes);
    let tree = clean(&[Code::RootDiffers, Code::TileDiffers, Code::BundleMalformed]);
    if tree {
        report.claim(&VerifiedTree { head, tiles, _assertion: () });
    }
    let read = tree && clean(&[Code::RecordMalformed]);
    if !audit.has_operator() {
        report.leave(Gap::NoOperator, Concern::whole(), "no signature was checked: nobody's key is known");
    } else if read && clean(&[Code::SignatureInvalid, Code::KeyNotGranted, Code::OperatorInvalid]) {
        report.claim(&VerifiedSignatures { signatures: audit.entries(), _assertion: () });
    }
    let chains = [
        Code::ChainGap,
        Code::ChainFork,
        Code::PrevDiffers,
        Code::TimeBackwards,
        Code::RunMismatch,
        Code::AfterClose,
        Code::PolicyNotPublished,
    ];
    if read && clean(&chains) {
        let (runs, operator_records) = (audit.runs(), audit.operator_records());
        report.claim(&VerifiedChains { runs, operator_records, _assertion: () });
    }
    if audit.runs_open() > 0 {
        let detail =
            format!("{} without close: running, or stopped without a word", Many(audit.runs_open(), "run"));
        report.leave(Gap::RunOpen, Concern::whole(), detail);
    }
    let detail = "use `sift-verify run` on a run's pack";
    report.leave(Gap::SemanticsUnchecked, Concern::whole(), detail);
    audit.count(report);
}

fn worker_count(options: &Options<'_>) -> usize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    options.threads.unwrap_or_else(cores).get()
}

/// Bytes that whoever signed could not foresee, for the coefficients of batches.
fn entropy() -> Result<[u8; 32], CannotCheck> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| CannotCheck::Random(error.to_string()))?;
    Ok(bytes)
}
