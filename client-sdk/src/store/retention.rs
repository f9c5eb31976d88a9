//! Retention: payload objects are erased when they are old or many. Records, receipts and proofs stay.
//!
//! Only objects of runs that are closed and wholly in the log are touched: an open run may have to be resumed from them,
//! and what the log has not got is nowhere else. A run's objects go together, those of the run that closed first first.

use redb::{ReadableDatabase as _, ReadableTable as _};
use sift_spec::entry::Entry;
use sift_spec::types::{RunId, UnixMillis};

use super::{OBJECTS, Store, StoreError};

/// What is kept. Without a limit everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// For how many days after the end of its run.
    pub days: Option<u64>,
    /// How many bytes of objects in all, those of open runs included.
    pub bytes: Option<u64>,
}

/// What retention erases, or would.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

const DAY_MS: u64 = 86_400_000;

impl Store {
    /// Erases what `retention` does not keep; without `apply` it only says what that is.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, retention: Retention, now: UnixMillis, apply: bool) -> Result<Pruned, StoreError> {
        let mut total = 0;
        self.read(|view| {
            for row in view.open_table(OBJECTS)?.iter()? {
                total += row?.1.value().len() as u64;
            }
            Ok(())
        })?;
        let live = self.live_runs()?;
        let mut ended = Vec::new();
        for run in self.runs()?.into_iter().filter(|run| !live.contains(run)) {
            let records = self.run(run)?;
            let Some(last) = records.last().filter(|_| records.iter().all(|record| record.index.is_some()))
            else {
                continue;
            };
            let entry = Entry::parse(last.entry.clone()).map_err(|error| self.error(error))?;
            let Some(closed) = entry.record().map(|record| record.time) else { continue };
            ended.push((closed, run, records));
        }
        ended.sort_by_key(|(closed, run, _)| (*closed, *run));
        let mut pruned = Pruned { kept_bytes: total, ..Pruned::default() };
        for (closed, run, records) in ended {
            let age_ms = now.get().saturating_sub(closed.get());
            let old = retention.days.is_some_and(|days| age_ms > days.saturating_mul(DAY_MS));
            let many = retention.bytes.is_some_and(|bytes| pruned.kept_bytes > bytes);
            if !old && !many {
                continue;
            }
            let positions: Vec<u64> = records.iter().map(|record| record.position).collect();
            let (objects, bytes) = self.objects_of(&positions)?;
            if objects == 0 {
                continue;
            }
            if apply {
                self.erase_all(&positions)?;
            }
            pruned.runs.push(run);
            pruned.objects += objects;
            pruned.bytes += bytes;
            pruned.kept_bytes = pruned.kept_bytes.saturating_sub(bytes);
        }
        Ok(pruned)
    }

    /// How many objects these records have, and their bytes.
    fn objects_of(&self, positions: &[u64]) -> Result<(u64, u64), StoreError> {
        self.read(|view| {
            let objects = view.open_table(OBJECTS)?;
            let (mut count, mut bytes) = (0, 0);
            for position in positions {
                for row in objects.range((*position, 0)..=(*position, u8::MAX))? {
                    (count, bytes) = (count + 1, bytes + row?.1.value().len() as u64);
                }
            }
            Ok((count, bytes))
        })
    }

    /// Erases all objects of these records in one transaction.
    fn erase_all(&self, positions: &[u64]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            for position in positions {
                objects.retain_in((*position, 0)..=(*position, u8::MAX), |_, _| false)?;
            }
            Ok(())
        })
    }
}
