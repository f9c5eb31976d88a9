//! The kernel's store: one redb file that holds every signed record, what is not in the log yet, receipts, payload
//! objects, bundles, the operator's records, and the ledger.
//!
//! Everything that one step of the kernel changes is one batch and becomes durable in one transaction, or not at
//! all. Positions count the records of all runs in the order in which they were signed; that order is the order of the
//! ledger. The records are the truth: run heads are rebuilt from them, and the ledger from its last snapshot and the
//! records since.

mod batch;
mod commit;
mod journal;
mod retention;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use sift_rules::Ledger;
use sift_spec::hash::object_digest;
use sift_spec::types::{Hash, LeafIndex, RunId};

pub(crate) use batch::{Batch, NewRecord, OperatorEntry, Unlogged};
use journal::JournaledFile;

pub use batch::{Fork, StoredRecord};
pub use retention::{Erasure, Pruned, Retention};

/// Name of the store in a kernel's directory.
pub const STORE_FILE: &str = "kernel.redb";

/// Version of the tables below.
const FORMAT: &str = "1";

/// Memory for the store's page cache in bytes.
const CACHE_BYTES: usize = 64 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Position, [`RECORD`] → position of the run's record before, or [`NONE`]; the run; the entry. Position, 1 and up →
/// payload object that the record commits to, salt first. In one table, so that a commit appends to one page where it can.
const RECORDS: TableDefinition<'_, (u64, u8), &[u8]> = TableDefinition::new("records");
/// Position of a record that is not in the log, although a later one is → its run. From [`key::QUEUED`] on, no record is
/// in the log and none is here: so a record that is made, and those that come into the log in their order, leave this
/// table alone.
const QUEUE: TableDefinition<'_, u64, &[u8; 16]> = TableDefinition::new("queue");
/// Position → index in the log.
const RECEIPTS: TableDefinition<'_, u64, u64> = TableDefinition::new("receipts");
/// Digest → encoding.
const BUNDLES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("bundles");
/// Run without a `close` → position of its last record. Small, because runs end.
const LIVE: TableDefinition<'_, &[u8; 16], u64> = TableDefinition::new("live");
/// Run with a `close` → position of that.
const CLOSED: TableDefinition<'_, &[u8; 16], u64> = TableDefinition::new("closed");
/// Seq of a record of the operator → index in the log; the entry. Not there before the first one is known.
const OPERATOR: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("operator");

/// Place of a record among what has its position.
const RECORD: u8 = 0;

/// Stands where there is no record before.
const NONE: u64 = u64::MAX;

/// Keys of the table `meta`.
mod key {
    pub(super) const FORMAT: &str = "format";
    pub(super) const LOG: &str = "log";
    pub(super) const SIGNER: &str = "signer";
    pub(super) const CHECKPOINT: &str = "checkpoint";
    pub(super) const SHOWN: &str = "shown";
    pub(super) const FORK: &str = "fork";
    pub(super) const QUEUED: &str = "queued";
    pub(super) const LEDGER: &str = "ledger";
    pub(super) const LEDGER_POSITION: &str = "ledger-position";
}

/// Why the store cannot be used. The disk, or another process, is at fault.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct StoreError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub why: String,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: JournaledFile,
    database: Database,
    /// Runs that retention has seen to be closed and wholly in the log, so that no pass reads them again.
    ended: Mutex<HashMap<RunId, retention::Ended>>,
}

impl Store {
    /// Opens the store of a directory, making both where they do not exist.
    ///
    /// # Errors
    /// When the file is damaged, of another version, or in use by another process.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(STORE_FILE);
        if !path.exists() {
            make(dir, &path)?;
        }
        let store = Self::open_file(path)?;
        match store.meta(key::FORMAT)?.as_deref() {
            Some(format) if format == FORMAT.as_bytes() => Ok(store),
            _ => Err(store.error("written by another version of this program")),
        }
    }

    fn open_file(path: PathBuf) -> Result<Self, StoreError> {
        let failed = |why: String| StoreError { path: path.clone(), why };
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.and_then(JournaledFile::open).map_err(|error| failed(error.to_string()))?;
        let file = file.ok_or_else(|| {
            failed("in use by a running kernel; stop it, or use a directory of its own".to_owned())
        })?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(file.clone());
        let database = database.map_err(|error| failed(error.to_string()))?;
        Ok(Self { path, file, database, ended: Mutex::default() })
    }

    /// Makes the tables of a new store.
    fn furnish(&self) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.open_table(RECORDS)?;
            transaction.open_table(QUEUE)?;
            transaction.open_table(RECEIPTS)?;
            transaction.open_table(BUNDLES)?;
            transaction.open_table(LIVE)?;
            transaction.open_table(CLOSED)?;
            transaction.open_table(META)?.insert(key::FORMAT, FORMAT.as_bytes())?;
            Ok(())
        })
    }

    pub(crate) fn error(&self, why: impl std::fmt::Display) -> StoreError {
        StoreError { path: self.path.clone(), why: why.to_string() }
    }

    /// Runs `change` in one transaction that is on disk when this returns.
    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.transact(change)?;
        self.tidy()
    }

    /// The same, and what it leaves to do is left to [`Store::tidy`].
    fn transact(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let run = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        run().map_err(|error| self.error(error))
    }

    /// Makes room for further commits where there is little. Takes the time of many commits, once in many.
    pub(crate) fn tidy(&self) -> Result<(), StoreError> {
        self.file.tidy().map_err(|error| self.error(error))
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<T, redb::Error> { look(&self.database.begin_read()?) };
        run().map_err(|error| self.error(error))
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|view| Ok(view.open_table(META)?.get(key)?.map(|value| value.value().to_vec())))
    }

    fn meta_text(&self, key: &str) -> Result<Option<String>, StoreError> {
        let bytes = self.meta(key)?;
        bytes
            .map(|bytes| String::from_utf8(bytes).map_err(|_| self.error(format!("{key} is not UTF-8"))))
            .transpose()
    }

    /// Origin of the log and name of the key that this store belongs to; `None` before the first kernel opened it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn owner(&self) -> Result<Option<(String, String)>, StoreError> {
        Ok(self.meta_text(key::LOG)?.zip(self.meta_text(key::SIGNER)?))
    }

    pub(crate) fn set_owner(&self, log: &str, signer: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(key::LOG, log.as_bytes())?;
            meta.insert(key::SIGNER, signer.as_bytes())?;
            Ok(())
        })
    }

    /// The log's last checkpoint that was verified here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn checkpoint(&self) -> Result<Option<String>, StoreError> {
        self.meta_text(key::CHECKPOINT)
    }

    /// A checkpoint that the log signed and that is not proven to extend [`Store::checkpoint`], or not yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn shown(&self) -> Result<Option<String>, StoreError> {
        self.meta_text(key::SHOWN)
    }

    /// The two heads of a log that was caught with two histories.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn fork(&self) -> Result<Option<Fork>, StoreError> {
        let json = self.meta(key::FORK)?;
        json.map(|json| serde_json::from_slice(&json).map_err(|error| self.error(error))).transpose()
    }

    /// The ledger as last snapshot, with the position of the first record that it does not count.
    pub(crate) fn ledger(&self) -> Result<(u64, Ledger), StoreError> {
        let Some(json) = self.meta(key::LEDGER)? else { return Ok((0, Ledger::default())) };
        let ledger = serde_json::from_slice(&json).map_err(|error| self.error(error))?;
        let position = self.meta(key::LEDGER_POSITION)?;
        let position = position.and_then(|bytes| position_of(&bytes));
        let position = position.ok_or_else(|| self.error("a ledger without its position"))?;
        Ok((position, ledger))
    }

    /// The operator's records that the log has proven, in their order, each with its index.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn operator(&self) -> Result<Vec<(LeafIndex, Vec<u8>)>, StoreError> {
        let rows = self.read(|view| {
            let table = match view.open_table(OPERATOR) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let mut rows = Vec::new();
            for row in table.iter()? {
                rows.push(row?.1.value().to_vec());
            }
            Ok(rows)
        })?;
        let read = |row: Vec<u8>| {
            let (index, entry) = row.split_first_chunk()?;
            Some((LeafIndex::new(u64::from_be_bytes(*index)).ok()?, entry.to_vec()))
        };
        let damaged = || self.error("a record of the operator without its index");
        rows.into_iter().map(|row| read(row).ok_or_else(damaged)).collect()
    }

    /// Keeps the encoding of a bundle.
    pub(crate) fn put_bundle(&self, digest: &Hash, encoding: &[u8]) -> Result<(), StoreError> {
        if self.bundle(digest)?.is_some() {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.open_table(BUNDLES)?.insert(digest.as_bytes(), encoding)?;
            Ok(())
        })
    }

    /// The encoding of a bundle that decided here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn bundle(&self, digest: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = digest.as_bytes();
        self.read(|view| Ok(view.open_table(BUNDLES)?.get(digest)?.map(|value| value.value().to_vec())))
    }

    /// The payload objects of the record at a position, by digest: salt first, then content. What was erased is missing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn objects(&self, position: u64) -> Result<BTreeMap<Hash, Vec<u8>>, StoreError> {
        self.read(|view| {
            let mut found = BTreeMap::new();
            for row in view.open_table(RECORDS)?.range(objects_at(position))? {
                let object = row?.1.value().to_vec();
                found.insert(object_digest(&object), object);
            }
            Ok(found)
        })
    }

    /// Deletes the bytes of a payload object of the record at a position. Every proof stays valid; only the content is
    /// gone. `false` when it is not there.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn erase_object(&self, position: u64, digest: &Hash) -> Result<bool, StoreError> {
        // Of which run the record is, nobody says here.
        self.ended().clear();
        let mut erased = false;
        self.write(|transaction| {
            transaction.open_table(RECORDS)?.retain_in(objects_at(position), |_, object| {
                let hit = object_digest(object) == *digest;
                erased |= hit;
                !hit
            })?;
            Ok(())
        })?;
        Ok(erased)
    }

    /// The records of a run in their order; none when the run is not of this kernel.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn run(&self, run: RunId) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|view| {
            let (records, receipts) = (view.open_table(RECORDS)?, view.open_table(RECEIPTS)?);
            let last = view.open_table(LIVE)?.get(run.as_bytes())?;
            let last = last.or(view.open_table(CLOSED)?.get(run.as_bytes())?);
            let mut position = last.map_or(NONE, |last| last.value());
            let mut found = Vec::new();
            // Backwards, each record names the one before it.
            while let Some(row) = records.get((position, RECORD))? {
                let Row { before, entry, .. } = Row::of(row.value());
                let logged = receipts.get(position)?.and_then(|index| LeafIndex::new(index.value()).ok());
                found.push(StoredRecord { position, entry: entry.to_vec(), index: logged });
                position = before;
            }
            found.reverse();
            Ok(found)
        })
    }

    /// Whether the run is of this kernel, open or closed.
    pub(crate) fn has_run(&self, run: RunId) -> Result<bool, StoreError> {
        self.read(|view| {
            let live = view.open_table(LIVE)?.get(run.as_bytes())?.is_some();
            Ok(live || view.open_table(CLOSED)?.get(run.as_bytes())?.is_some())
        })
    }

    /// All runs in the order of their identifiers, which is that of their start.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut runs = self.runs_in(LIVE)?;
        runs.append(&mut self.runs_in(CLOSED)?);
        runs.sort_unstable();
        Ok(runs)
    }

    /// Runs without a `close` record.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn live_runs(&self) -> Result<Vec<RunId>, StoreError> {
        self.runs_in(LIVE)
    }

    fn runs_in(&self, table: TableDefinition<'_, &[u8; 16], u64>) -> Result<Vec<RunId>, StoreError> {
        let runs = self.read(|view| {
            let mut runs = Vec::new();
            for row in view.open_table(table)?.iter()? {
                runs.push(*row?.0.value());
            }
            Ok(runs)
        })?;
        runs.into_iter().map(|run| RunId::from_bytes(run).map_err(|error| self.error(error))).collect()
    }

    /// Entries from a position on, in their order, given to `each` one by one.
    pub(crate) fn records_from(
        &self,
        position: u64,
        mut each: impl FnMut(u64, Vec<u8>),
    ) -> Result<(), StoreError> {
        self.read(|view| {
            for row in view.open_table(RECORDS)?.range((position, RECORD)..)? {
                let (key, value) = row?;
                if let (position, RECORD) = key.value() {
                    each(position, Row::of(value.value()).entry.to_vec());
                }
            }
            Ok(())
        })
    }

    /// A record of this store that has one of these places in the log, by its receipt.
    pub(crate) fn holder(
        &self,
        places: &BTreeSet<LeafIndex>,
    ) -> Result<Option<(u64, LeafIndex)>, StoreError> {
        if places.is_empty() {
            return Ok(None);
        }
        self.read(|view| {
            for row in view.open_table(RECEIPTS)?.iter()? {
                let (position, index) = row?;
                let index = LeafIndex::new(index.value()).ok().filter(|index| places.contains(index));
                if let Some(index) = index {
                    return Ok(Some((position.value(), index)));
                }
            }
            Ok(None)
        })
    }

    /// Position that the next record will have.
    pub(crate) fn next_position(&self) -> Result<u64, StoreError> {
        self.read(|view| Ok(view.open_table(RECORDS)?.last()?.map_or(0, |(key, _)| key.value().0 + 1)))
    }

    /// Records that are not in the log, from `position` on, of runs that `wanted` does not exclude: at most
    /// `records_max`, and at most `bytes_max` of them unless the first alone is larger.
    pub(crate) fn unlogged(
        &self,
        position: u64,
        records_max: usize,
        bytes_max: usize,
        wanted: impl Fn(RunId) -> bool,
    ) -> Result<Vec<Unlogged>, StoreError> {
        self.read(|view| {
            let (queue, records) = (view.open_table(QUEUE)?, view.open_table(RECORDS)?);
            let queued = view.open_table(META)?.get(key::QUEUED)?;
            let queued = queued.and_then(|value| position_of(value.value())).unwrap_or_default();
            let (mut found, mut bytes) = (Vec::new(), 0);
            // Whether there is room for more.
            let mut take = |position: u64, row: &[u8]| {
                let Row { run, entry, .. } = Row::of(row);
                let Some(run) = RunId::from_bytes(run).ok().filter(|run| wanted(*run)) else { return true };
                // Each entry travels with two bytes of length.
                bytes += entry.len() + 2;
                let room = found.len() < records_max && (bytes <= bytes_max || found.is_empty());
                if room {
                    found.push(Unlogged { position, run, entry: entry.to_vec() });
                }
                room
            };
            for key in queue.range(position..)? {
                let position = key?.0.value();
                let row = records.get((position, RECORD))?;
                if row.is_some_and(|row| !take(position, row.value())) {
                    return Ok(found);
                }
            }
            for row in records.range((position.max(queued), RECORD)..)? {
                let (key, row) = row?;
                let (position, place) = key.value();
                if place == RECORD && !take(position, row.value()) {
                    break;
                }
            }
            Ok(found)
        })
    }
}

/// Keys of the payload objects of the record at a position.
fn objects_at(position: u64) -> RangeInclusive<(u64, u8)> {
    (position, RECORD + 1)..=(position, u8::MAX)
}

/// What stands for a record.
struct Row<'a> {
    before: u64,
    run: [u8; 16],
    entry: &'a [u8],
}

impl<'a> Row<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let parts = || {
            let (before, rest) = bytes.split_first_chunk()?;
            let (run, entry) = rest.split_first_chunk()?;
            Some(Self { before: u64::from_le_bytes(*before), run: *run, entry })
        };
        // Every row was written here; one that is no row has no entry, which nobody can parse.
        parts().unwrap_or(Self { before: NONE, run: [0; 16], entry: &[] })
    }
}

/// A position among the values of `meta`.
fn position_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Makes a store under another name, and gives it its own once it is whole: one whose making was cut short is not taken
/// for one that is damaged. The directory is locked meanwhile, so that nobody's store is replaced.
fn make(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |why: String| StoreError { path: path.to_owned(), why };
    let io = |error: std::io::Error| failed(format!("cannot be made: {error}"));
    let folder = File::open(dir).map_err(io)?;
    folder.lock().map_err(io)?;
    if path.exists() {
        return Ok(());
    }
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    // Prompts and results lie in it: only its owner may read them.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    file.and_then(|file| JournaledFile::make(&file, journal::JOURNAL_BLOCKS)).map_err(io)?;
    let store = Store::open_file(new.clone())?;
    store.furnish()?;
    store.database.close().map_err(|error| failed(format!("cannot be made: {error}")))?;
    std::fs::rename(&new, path).and_then(|()| folder.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::payload::Object;
    use sift_spec::types::UnixMillis;

    fn run(n: u8) -> RunId {
        RunId::from_parts(UnixMillis::new(1_764_000_000_000).unwrap(), &[n; 10])
    }

    fn record(position: u64, run: RunId, before: Option<u64>) -> NewRecord {
        NewRecord { position, before, run, entry: vec![position as u8; 10] }
    }

    #[test]
    fn a_batch_survives_reopening_and_receipts_leave_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(store.next_position().unwrap(), 0);
            let batch = Batch {
                records: vec![record(0, run(1), None), record(1, run(2), None), record(2, run(1), Some(0))],
                ..Batch::default()
            };
            store.commit(&batch).unwrap();
            assert!(Store::open(dir.path()).unwrap_err().why.contains("in use"));
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!((store.next_position().unwrap(), store.runs().unwrap()), (3, vec![run(1), run(2)]));
        assert_eq!(store.unlogged(0, 10, 1000, |_| true).unwrap().len(), 3);
        assert_eq!(store.unlogged(0, 2, 1000, |_| true).unwrap().len(), 2);
        assert_eq!(store.unlogged(0, 10, 25, |_| true).unwrap().len(), 2);
        assert_eq!(store.unlogged(1, 10, 1, |_| true).unwrap()[0].position, 1);
        assert_eq!(store.unlogged(0, 10, 1000, |other| other != run(1)).unwrap().len(), 1);
        let logged = vec![(0, LeafIndex::new(7).unwrap()), (1, LeafIndex::new(8).unwrap())];
        let batch = Batch { logged, closed: vec![run(2)], ..Batch::default() };
        store.commit(&batch).unwrap();
        let left = store.unlogged(0, 10, 1000, |_| true).unwrap();
        assert_eq!(left.iter().map(|left| left.position).collect::<Vec<_>>(), [2]);
        let records = store.run(run(1)).unwrap();
        assert_eq!(records[0].index.map(LeafIndex::get), Some(7));
        assert_eq!((records[1].index, records.len()), (None, 2));
        assert_eq!(store.live_runs().unwrap(), [run(1)]);
        assert_eq!((store.runs().unwrap().len(), store.run(run(2)).unwrap().len()), (2, 1));
    }

    #[test]
    fn records_that_are_logged_out_of_order_leave_those_between_them_queued() {
        let dir = tempfile::tempdir().unwrap();
        let logged = |positions: &[u64]| Batch {
            logged: positions
                .iter()
                .map(|position| (*position, LeafIndex::new(*position).unwrap()))
                .collect(),
            ..Batch::default()
        };
        let records = |positions: std::ops::Range<u64>| Batch {
            records: positions.map(|position| record(position, run(position as u8 % 3), None)).collect(),
            ..Batch::default()
        };
        let left = |store: &Store, from: u64| {
            let left = store.unlogged(from, 100, 1000, |_| true).unwrap();
            assert!(left.iter().all(|left| left.run == run(left.position as u8 % 3)));
            left.iter().map(|left| left.position).collect::<Vec<_>>()
        };
        let store = Store::open(dir.path()).unwrap();
        store.commit(&records(0..6)).unwrap();
        store.commit(&logged(&[4, 1])).unwrap();
        assert_eq!(left(&store, 0), [0, 2, 3, 5]);
        store.commit(&Batch { records: records(6..8).records, ..logged(&[2]) }).unwrap();
        assert_eq!(
            (left(&store, 0), left(&store, 3), left(&store, 7)),
            (vec![0, 3, 5, 6, 7], vec![3, 5, 6, 7], vec![7])
        );
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(left(&store, 0), [0, 3, 5, 6, 7]);
        assert_eq!(store.unlogged(0, 3, 1000, |other| other != run(0)).unwrap().len(), 2);
        store.commit(&logged(&[0, 3, 5, 6, 7])).unwrap();
        assert_eq!(left(&store, 0), [0; 0]);
        store.commit(&records(8..9)).unwrap();
        assert_eq!(left(&store, 0), [8]);
    }

    #[test]
    fn an_erased_object_is_gone_and_its_neighbour_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let object = |content: &[u8]| Object::new([7; 16], content).unwrap();
        let objects = vec![(0, object(b"a")), (0, object(b"b")), (1, object(b"c"))];
        let records = vec![record(0, run(1), None), record(1, run(1), Some(0))];
        store.commit(&Batch { records, objects, ..Batch::default() }).unwrap();
        let (erased, kept) = (object(b"a").digest(), object(b"b").digest());
        assert_eq!(store.objects(0).unwrap().into_keys().count(), 2);
        assert!(store.erase_object(0, &erased).unwrap());
        assert!(!store.erase_object(0, &erased).unwrap());
        assert_eq!(store.objects(0).unwrap().into_keys().collect::<Vec<_>>(), [kept]);
        assert_eq!(store.objects(1).unwrap().len(), 1);
    }
}
