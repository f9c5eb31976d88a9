//! Sums over replayed packs.

use std::collections::BTreeMap;
use std::time::Duration;

use sift_rules::simulate::Change;
use sift_rules::words::word;

use super::{Again, Call, Replayed};
use crate::error::CannotCheck;

/// Most rules that are counted by name.
const NAMES_MAX: usize = 10_000;

/// Sums over replayed packs.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Packs that were read.
    pub packs: u64,
    /// Of them, those that are not verified, and so were not replayed.
    pub rejected: u64,
    /// Packs of a run that was replayed from an earlier one.
    pub twice: u64,
    /// Packs that could not be read.
    pub unread: u64,
    /// Runs.
    pub runs: u64,
    /// Calls.
    pub calls: u64,
    /// Calls that could not be decided again.
    pub unknown: u64,
    /// Calls that would be decided differently, by how.
    pub changes: BTreeMap<Change, u64>,
    /// Calls by recorded effect and effect now.
    pub effects: BTreeMap<(String, String), u64>,
    /// Calls by the rule or limit that decides now, and its effect.
    pub rules: BTreeMap<(String, String), u64>,
    /// Of them, calls of which the effect changes.
    pub changed_by: BTreeMap<(String, String), u64>,
    /// Time that workers spent on decisions, added up: deriving inputs, deciding, following the run.
    pub deciding: Duration,
    /// Time from start to end.
    pub took: Duration,
    /// Worker threads.
    pub workers: u64,
}

impl Sums {
    pub(super) fn of_one_run() -> Self {
        Self { runs: 1, ..Self::default() }
    }

    /// How many calls would be decided differently.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.changes.values().sum()
    }

    /// How many calls were decided again.
    #[must_use]
    pub const fn decided(&self) -> u64 {
        self.calls.saturating_sub(self.unknown)
    }

    /// Decisions a second of all workers, with everything that is done for them counted: reading and verifying packs.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        super::rate(self.decided(), self.took)
    }

    /// Decisions a second while all workers decide.
    #[must_use]
    pub fn per_second_deciding(&self) -> f64 {
        super::rate(self.decided().saturating_mul(self.workers), self.deciding)
    }

    pub(super) fn count(&mut self, call: &Call) {
        self.calls += 1;
        let old = word(&call.before.effect);
        let Ok(after) = &call.after else {
            self.unknown += 1;
            *self.effects.entry((old, "unknown".to_owned())).or_default() += 1;
            return;
        };
        let new = word(&after.effect);
        for name in after.names() {
            if call.change == Some(Change::Effect) {
                *self.changed_by.entry((name.clone(), new.clone())).or_default() += 1;
            }
            *self.rules.entry((name, new.clone())).or_default() += 1;
        }
        if let Some(change) = call.change {
            *self.changes.entry(change).or_default() += 1;
        }
        *self.effects.entry((old, new)).or_default() += 1;
    }

    /// Takes in a pack.
    pub(super) fn take(&mut self, replayed: &Result<Replayed, CannotCheck>) {
        self.packs += 1;
        let Ok(replayed) = replayed else {
            self.unread += 1;
            return;
        };
        match &replayed.again {
            Again::Rejected => self.rejected += 1,
            Again::Twice(_) => self.twice += 1,
            Again::Decided(decided) => self.add(&decided.sums),
        }
    }

    fn add(&mut self, of_run: &Self) {
        self.runs += of_run.runs;
        self.calls += of_run.calls;
        self.unknown += of_run.unknown;
        self.deciding += of_run.deciding;
        add(&mut self.changes, &of_run.changes);
        add(&mut self.effects, &of_run.effects);
        add(&mut self.rules, &of_run.rules);
        add(&mut self.changed_by, &of_run.changed_by);
    }
}

/// Names of rules may be computed: beyond [`NAMES_MAX`] different ones, further ones are not listed.
fn add<K: Ord + Clone>(sums: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        if sums.len() < NAMES_MAX || sums.contains_key(key) {
            *sums.entry(key.clone()).or_default() += count;
        }
    }
}
