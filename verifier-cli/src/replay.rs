//! Decisions, made again: those of many runs, under the bundles that made them or under another one (SPEC §11.5).
//!
//! ```text
//! each worker: pack ── verified as `run` does ──▶ decided again ──▶ caller, in the order of the packs
//! ```
//! A pack that does not verify is not replayed: its records may say anything. Under the recorded bundle, deciding again is
//! a step of verifying it. Under another one, the records are the history of one run that [`sift_rules::simulate`] decides
//! again: each call on what had been recorded before it, with facts as the new bundle remembers them.
//!
//! Memory holds a few packs for each worker, and what was found in them.
//!
//! Out of scope: limits over several runs, which need one ledger for all of them.

mod call;
mod line;
mod sums;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sift_rules::PolicyBundle;
use sift_rules::simulate::{Follow, Simulation};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::RunId;

use crate::error::CannotCheck;
use crate::files;
use crate::in_order::{in_order, threads};
use crate::log::Progress;
use crate::report::{Report, Verdict};
use crate::run::{self, Examined, Workbench};

pub use call::{Call, Said};
pub use line::{REPLAY_FORMAT, lines_json, render, render_sums, sums_json};
pub use sums::Sums;

/// How packs are replayed.
pub struct Options<'a> {
    /// How each pack is verified first.
    pub run: run::Options,
    /// Whether what cannot be checked rejects a pack.
    pub strict: bool,
    /// The bundle to decide under; the recorded ones when absent.
    pub bundle: Option<&'a PolicyBundle>,
    /// Whether only calls are told that would be decided differently, or of which that cannot be told.
    pub only_changes: bool,
    /// Worker threads; all cores when absent.
    pub threads: Option<NonZeroUsize>,
    /// Told how many packs are done.
    pub progress: &'a dyn Progress,
}

/// A pack, replayed.
#[derive(Debug)]
pub struct Replayed {
    /// What verifying it gave.
    pub report: Report,
    /// What was decided again.
    pub again: Again,
}

/// What became of a pack.
#[derive(Debug)]
pub enum Again {
    /// Its decisions were made again.
    Decided(Box<Decided>),
    /// Its run was replayed from an earlier pack, and does not count twice.
    Twice(RunId),
    /// It is not verified, so it was not replayed.
    Rejected,
}

/// Decisions of one run.
#[derive(Debug)]
pub struct Decided {
    /// The run.
    pub run: RunId,
    /// Its calls, in order, as far as they are told.
    pub calls: Vec<Call>,
    /// Sums over all of its calls.
    pub sums: Sums,
}

/// Replays packs, in the order in which they are given.
///
/// `each` is given every pack, or why it cannot be read. Gives the sums over all.
pub fn replay<'a>(
    packs: &[PathBuf],
    trust: &TrustPolicy,
    options: &Options<'a>,
    mut each: impl FnMut(&Path, Result<Replayed, CannotCheck>),
) -> Sums {
    let start = Instant::now();
    let workers = threads(options.threads);
    let mut all = Sums::default();
    let mut runs = HashSet::new();
    let mut next = packs.iter();
    let work = |desk: &mut Desk<'a>, pack: &PathBuf| desk.replay(pack, trust, options);
    in_order(packs, workers, work, |mut replayed: Result<Replayed, CannotCheck>| {
        let Some(pack) = next.next() else { return };
        if let Ok(Replayed { again, .. }) = &mut replayed
            && let Again::Decided(decided) = again
            && !runs.insert(decided.run)
        {
            *again = Again::Twice(decided.run);
        }
        all.take(&replayed);
        options.progress.advance(all.packs, packs.len() as u64);
        each(pack, replayed);
    });
    all.took = start.elapsed();
    all.workers = workers.get().min(packs.len()) as u64;
    all
}

/// What one worker needs.
#[derive(Default)]
struct Desk<'a> {
    workbench: Workbench,
    simulation: Option<Simulation<'a>>,
}

impl<'a> Desk<'a> {
    fn replay(
        &mut self,
        pack: &Path,
        trust: &TrustPolicy,
        options: &Options<'a>,
    ) -> Result<Replayed, CannotCheck> {
        let bytes = files::read_evidence(pack, files::PACK)?;
        let (report, examined) = run::examine(&bytes, trust, &options.run, &mut self.workbench);
        let report = report.about(files::name(pack)).judged(options.strict);
        let believed = examined.filter(|_| report.verdict() == Verdict::Verified);
        let again = match (believed, options.bundle) {
            (None, _) => Again::Rejected,
            (Some(run), None) => Again::Decided(Box::new(as_recorded(&run, options.only_changes))),
            (Some(run), Some(bundle)) => {
                Again::Decided(Box::new(self.under(bundle, &run, options.only_changes)))
            }
        };
        Ok(Replayed { report, again })
    }

    /// Decides a run again under another bundle.
    fn under(&mut self, bundle: &'a PolicyBundle, run: &Examined, only_changes: bool) -> Decided {
        let make = || Simulation::new(bundle, Follow::Record).with_own_decider();
        let simulation = self.simulation.get_or_insert_with(make);
        simulation.restart();
        let start = Instant::now();
        let mut sums = Sums::of_one_run();
        let mut calls = Vec::new();
        for (index, happened) in run.history() {
            let Some(simulated) = simulation.take(happened) else { continue };
            let call = Call::simulated(index, simulated);
            sums.count(&call);
            if !only_changes || call.change.is_some() || call.after.is_err() {
                calls.push(call);
            }
        }
        sums.deciding = start.elapsed();
        Decided { run: run.run, calls, sums }
    }
}

/// The decisions that verifying the run has made again: as recorded, or it would not be verified.
fn as_recorded(run: &Examined, only_changes: bool) -> Decided {
    let mut sums = Sums::of_one_run();
    let mut calls = Vec::new();
    for (index, seq, name, decided) in run.decisions() {
        let call = Call::recorded(index, seq, name, &decided, run.undecided.contains(&seq));
        sums.count(&call);
        if !only_changes || call.after.is_err() {
            calls.push(call);
        }
    }
    sums.deciding = run.deciding;
    Decided { run: run.run, calls, sums }
}

/// Seconds, for rates.
pub(crate) fn rate(number: u64, took: Duration) -> f64 {
    number as f64 / took.as_secs_f64().max(1e-9)
}
