//! Where the time of a call goes, by the kernel's own counters.

use serde::Serialize;
use sift_client::Timings;

/// A stage, and what to read of it.
type Stage = (&'static str, fn(&Timings) -> std::time::Duration);

/// The stages in the order in which a call passes them; an intent and an outcome pass all from `queue` on.
const STAGES: [Stage; 8] = [
    ("input of the policy", |of| of.input),
    ("decision", |of| of.decide),
    ("waiting for the writer", |of| of.queue),
    ("ledger and encoding", |of| of.apply),
    ("waiting for the round", |of| of.round),
    ("signatures of the round", |of| of.sign),
    ("commit, synced", |of| of.commit),
    ("waking up who waits", Timings::answer),
];

/// What the stages took while something was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Split {
    /// What was measured.
    what: &'static str,
    calls: u64,
    /// Records in one commit, on average.
    records_per_commit: f64,
    /// Microseconds of a call by stage, on average.
    us: Vec<(&'static str, f64)>,
}

impl Split {
    pub(crate) fn of(what: &'static str, calls: u64, timings: &Timings) -> Self {
        let us = |time: std::time::Duration| time.as_secs_f64() * 1e6 / calls.max(1) as f64;
        Self {
            what,
            calls,
            records_per_commit: timings.records as f64 / timings.commits.max(1) as f64,
            us: STAGES.iter().map(|(name, read)| (*name, us(read(timings)))).collect(),
        }
    }
}

/// Prints the splits side by side.
pub(crate) fn print(splits: &[Split]) {
    if splits.is_empty() {
        return;
    }
    println!("\nWhere a call's time goes: microseconds of a call on average, its two records together\n");
    print!("{:28}", "");
    splits.iter().for_each(|split| print!("{:>20}", split.what));
    println!();
    for (row, (name, _)) in STAGES.iter().enumerate() {
        print!("{name:28}");
        splits.iter().for_each(|split| print!("{:>20.1}", split.us.get(row).map_or(0.0, |(_, us)| *us)));
        println!();
    }
    print!("{:28}", "sum");
    splits.iter().for_each(|split| print!("{:>20.1}", split.us.iter().map(|(_, us)| us).sum::<f64>()));
    print!("\n{:28}", "records in a commit");
    splits.iter().for_each(|split| print!("{:>20.1}", split.records_per_commit));
    println!();
}
