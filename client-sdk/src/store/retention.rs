//! Retention: payload objects are erased when they are old or many. Records, receipts and proofs stay.
//!
//! Only objects of runs that are closed and wholly in the log are touched by themselves: an open run may have to be
//! resumed from them, and what the log has not got may still be asked about. A run's objects go together, those of the run
//! that closed first first, a few records in each transaction, so that no call waits long for its own.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sift_spec::entry::Entry;
use sift_spec::hash::object_digest;
use sift_spec::types::{Hash, RunId, UnixMillis};

use super::{CLOSED, RECORDS, Store, StoreError, objects_at};

/// Records whose objects are erased in one transaction.
const TRANSACTION_RECORDS: usize = 64;

/// Between two transactions those who wait for theirs go first.
const PAUSE: Duration = Duration::from_millis(2);

const DAY_MS: u64 = 86_400_000;

/// What is kept. Without a limit everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// For how many days after the end of its run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<u64>,
    /// How many bytes of objects in all, those of open runs included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Retention {
    /// Whether everything is kept for ever.
    #[must_use]
    pub const fn is_for_ever(&self) -> bool {
        self.days.is_none() && self.bytes.is_none()
    }
}

/// What retention erases, or would.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruned {
    /// Runs that lose their objects, in the order in which they were closed.
    pub runs: Vec<RunId>,
    /// How many objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the objects that stay.
    pub kept_bytes: u64,
}

/// What came of a request to erase objects of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Erasure {
    /// The objects with these digests are gone.
    Erased(Vec<Hash>),
    /// Nothing: the run is open and may need them to go on.
    Open,
    /// Nothing: the run has no such object, or has it no more.
    Nothing,
}

/// A run that may be pruned. Neither its end nor its place in the log changes any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    closed: UnixMillis,
    objects: u64,
    bytes: u64,
}

impl Store {
    /// Erases what `retention` does not keep; without `apply` it only says what that is.
    ///
    /// # Errors
    /// When the store cannot be read or written. What was erased before stays erased.
    pub fn prune(&self, retention: Retention, now: UnixMillis, apply: bool) -> Result<Pruned, StoreError> {
        self.prune_while(retention, now, apply, || true)
    }

    /// The same, as long as `go_on` says so: it is asked before each transaction.
    pub(crate) fn prune_while(
        &self,
        retention: Retention,
        now: UnixMillis,
        apply: bool,
        go_on: impl Fn() -> bool,
    ) -> Result<Pruned, StoreError> {
        // One pass at a time.
        let mut ended = self.ended();
        let mut total = self.look_at_ended(&mut ended)?;
        total += ended.values().map(|run| run.bytes).sum::<u64>();
        let mut order: Vec<(RunId, Ended)> =
            ended.iter().filter(|(_, run)| run.objects > 0).map(|(id, run)| (*id, *run)).collect();
        order.sort_unstable_by_key(|(id, run)| (run.closed, *id));
        let mut pruned = Pruned { kept_bytes: total, ..Pruned::default() };
        for (id, run) in order {
            let age_ms = now.get().saturating_sub(run.closed.get());
            let old = retention.days.is_some_and(|days| age_ms > days.saturating_mul(DAY_MS));
            let many = retention.bytes.is_some_and(|bytes| pruned.kept_bytes > bytes);
            if !old && !many {
                // Those that follow are younger, and nothing more has to go.
                break;
            }
            if apply {
                // Cut short, it is counted again by the next pass.
                ended.remove(&id);
                if !self.erase_all(id, &go_on)? {
                    break;
                }
                ended.insert(id, Ended { objects: 0, bytes: 0, ..run });
            }
            pruned.runs.push(id);
            pruned.objects += run.objects;
            pruned.bytes += run.bytes;
            pruned.kept_bytes = pruned.kept_bytes.saturating_sub(run.bytes);
        }
        Ok(pruned)
    }

    /// Erases the objects of a closed run, or the one with this digest.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn erase(&self, run: RunId, digest: Option<&Hash>) -> Result<Erasure, StoreError> {
        if self.live_runs()?.contains(&run) {
            return Ok(Erasure::Open);
        }
        let mut ended = self.ended();
        ended.remove(&run);
        let mut erased = Vec::new();
        for record in self.run(run)? {
            let held = self.objects(record.position)?.into_keys();
            let wanted: Vec<Hash> = held.filter(|held| digest.is_none_or(|digest| digest == held)).collect();
            if wanted.is_empty() {
                continue;
            }
            self.write(|transaction| {
                let mut records = transaction.open_table(RECORDS)?;
                let gone = |object: &[u8]| wanted.contains(&object_digest(object));
                records.retain_in(objects_at(record.position), |_, object| !gone(object))?;
                Ok(())
            })?;
            erased.extend(wanted);
        }
        Ok(if erased.is_empty() { Erasure::Nothing } else { Erasure::Erased(erased) })
    }

    pub(super) fn ended(&self) -> MutexGuard<'_, HashMap<RunId, Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the runs that have ended since the last pass. Returns the bytes of the objects of all others.
    fn look_at_ended(&self, ended: &mut HashMap<RunId, Ended>) -> Result<u64, StoreError> {
        let mut others = 0;
        // In this order: a run that closes meanwhile is found all the same.
        let live = self.live_runs()?;
        let closed: HashSet<RunId> = self.runs_in(CLOSED)?.into_iter().collect();
        for run in closed.iter().chain(live.iter().filter(|run| !closed.contains(run))) {
            if ended.contains_key(run) {
                continue;
            }
            let records = self.run(*run)?;
            let positions: Vec<u64> = records.iter().map(|record| record.position).collect();
            let (objects, bytes) = self.objects_of(&positions)?;
            let logged = records.iter().all(|record| record.index.is_some());
            let Some(last) = records.last().filter(|_| logged && closed.contains(run)) else {
                others += bytes;
                continue;
            };
            let entry = Entry::parse(last.entry.clone()).map_err(|error| self.error(error))?;
            let time = entry.record().map(|record| record.time);
            let closed = time.ok_or_else(|| self.error(format!("run {run} ends with no record of a run")))?;
            ended.insert(*run, Ended { closed, objects, bytes });
        }
        Ok(others)
    }

    /// How many objects these records have, and their bytes.
    fn objects_of(&self, positions: &[u64]) -> Result<(u64, u64), StoreError> {
        self.read(|view| {
            let records = view.open_table(RECORDS)?;
            let (mut count, mut bytes) = (0, 0);
            for position in positions {
                for row in records.range(objects_at(*position))? {
                    (count, bytes) = (count + 1, bytes + row?.1.value().len() as u64);
                }
            }
            Ok((count, bytes))
        })
    }

    /// Erases all objects of a run; `false` when `go_on` ended it.
    fn erase_all(&self, run: RunId, go_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        let records = self.run(run)?;
        for part in records.chunks(TRANSACTION_RECORDS) {
            if !go_on() {
                return Ok(false);
            }
            self.write(|transaction| {
                let mut records = transaction.open_table(RECORDS)?;
                for record in part {
                    records.retain_in(objects_at(record.position), |_, _| false)?;
                }
                Ok(())
            })?;
            std::thread::sleep(PAUSE);
        }
        Ok(true)
    }
}
