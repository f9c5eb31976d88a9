//! The kernel's store: one redb file that holds every signed record, what is not in the log yet, receipts, payload
//! objects, bundles, and the ledger.
//!
//! Everything that one step of the kernel changes is one batch and becomes durable in one transaction, or not at
//! all. Positions count the records of all runs in the order in which they were signed; that order is the order of the
//! ledger. The records are the truth: run heads are rebuilt from them, and the ledger from its last snapshot and the
//! records since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use sift_rules::Ledger;
use sift_spec::payload::Object;
use sift_spec::types::{Hash, LeafIndex, RunId, Seq};

/// Name of the store in a kernel's directory.
pub const STORE_FILE: &str = "kernel.redb";

/// Version of the tables below.
const FORMAT: &str = "1";

/// Memory for the store's page cache in bytes.
const CACHE_BYTES: usize = 64 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Position → entry.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// Run ‖ seq → position.
const INDEX: TableDefinition<'_, &[u8; 24], u64> = TableDefinition::new("index");
/// Position of a record that is not in the log → its run.
const QUEUE: TableDefinition<'_, u64, &[u8; 16]> = TableDefinition::new("queue");
/// Position → index in the log.
const RECEIPTS: TableDefinition<'_, u64, u64> = TableDefinition::new("receipts");
/// Digest → salt and content.
const OBJECTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("objects");
/// Digest → encoding.
const BUNDLES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("bundles");
/// Runs without a `close`.
const LIVE: TableDefinition<'_, &[u8; 16], ()> = TableDefinition::new("live");

/// Keys of the table `meta`.
mod key {
    pub(super) const FORMAT: &str = "format";
    pub(super) const LOG: &str = "log";
    pub(super) const SIGNER: &str = "signer";
    pub(super) const CHECKPOINT: &str = "checkpoint";
    pub(super) const FORK: &str = "fork";
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
    database: Database,
}

/// A record of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place among all records of this kernel.
    pub position: u64,
    /// The exact bytes of the entry.
    pub entry: Vec<u8>,
    /// Where it is in the log, once a receipt was verified.
    pub index: Option<LeafIndex>,
}

/// A record on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unlogged {
    pub(crate) position: u64,
    pub(crate) run: RunId,
    pub(crate) entry: Vec<u8>,
}

/// Two checkpoints of the log that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fork {
    /// The checkpoint this kernel believed.
    pub seen: String,
    /// What the log showed then: a checkpoint's note, or whatever stood in its place.
    pub shown: String,
    /// Why the two contradict each other.
    pub why: String,
}

/// What one transaction changes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// New records, by position.
    pub(crate) records: Vec<NewRecord>,
    pub(crate) objects: Vec<Object>,
    pub(crate) opened: Vec<RunId>,
    pub(crate) closed: Vec<RunId>,
    /// Positions that are in the log, with their index.
    pub(crate) logged: Vec<(u64, LeafIndex)>,
    /// The checkpoint under which they are proven.
    pub(crate) checkpoint: Option<String>,
    pub(crate) fork: Option<Fork>,
    /// The ledger after all records below a position.
    pub(crate) ledger: Option<(u64, Vec<u8>)>,
}

/// A record that was just signed.
#[derive(Debug)]
pub(crate) struct NewRecord {
    pub(crate) position: u64,
    pub(crate) run: RunId,
    pub(crate) seq: Seq,
    pub(crate) entry: Vec<u8>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.objects.is_empty()
            && self.logged.is_empty()
            && self.checkpoint.is_none()
            && self.fork.is_none()
            && self.ledger.is_none()
    }
}

impl Store {
    /// Opens the store of a directory, making both where they do not exist.
    ///
    /// # Errors
    /// When the file is damaged, of another version, or in use by another process.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(STORE_FILE);
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&path);
        let database = database.map_err(|error| StoreError {
            path: path.clone(),
            why: match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    "in use by a running kernel; stop it, or use a directory of its own".to_owned()
                }
                other => other.to_string(),
            },
        })?;
        let store = Self { path, database };
        store.write(|transaction| {
            transaction.open_table(RECORDS)?;
            transaction.open_table(INDEX)?;
            transaction.open_table(QUEUE)?;
            transaction.open_table(RECEIPTS)?;
            transaction.open_table(OBJECTS)?;
            transaction.open_table(BUNDLES)?;
            transaction.open_table(LIVE)?;
            let mut meta = transaction.open_table(META)?;
            let fresh = meta.get(key::FORMAT)?.is_none();
            if fresh {
                meta.insert(key::FORMAT, FORMAT.as_bytes())?;
            }
            Ok(())
        })?;
        match store.meta(key::FORMAT)?.as_deref() {
            Some(format) if format == FORMAT.as_bytes() => Ok(store),
            _ => Err(store.error("written by another version of this program")),
        }
    }

    fn error(&self, why: impl std::fmt::Display) -> StoreError {
        StoreError { path: self.path.clone(), why: why.to_string() }
    }

    /// Runs `change` in one transaction that is on disk when this returns.
    fn write(
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
        let position = position.and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?)));
        let position = position.ok_or_else(|| self.error("a ledger without its position"))?;
        Ok((position, ledger))
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

    /// The bytes of a payload object, salt first; `None` when it was never here or was erased.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn object(&self, digest: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = digest.as_bytes();
        self.read(|view| Ok(view.open_table(OBJECTS)?.get(digest)?.map(|value| value.value().to_vec())))
    }

    /// Deletes the bytes of a payload object. Every proof stays valid; only the content is gone.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn erase_object(&self, digest: &Hash) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.open_table(OBJECTS)?.remove(digest.as_bytes())?;
            Ok(())
        })
    }

    /// The records of a run in their order; none when the run is not of this kernel.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn run(&self, run: RunId) -> Result<Vec<StoredRecord>, StoreError> {
        self.read(|view| {
            let (index, records) = (view.open_table(INDEX)?, view.open_table(RECORDS)?);
            let receipts = view.open_table(RECEIPTS)?;
            let mut found = Vec::new();
            for row in index.range::<&[u8; 24]>(&index_key(run, 0)..=&index_key(run, u64::MAX))? {
                let position = row?.1.value();
                let Some(entry) = records.get(position)? else { continue };
                let logged = receipts.get(position)?.and_then(|index| LeafIndex::new(index.value()).ok());
                found.push(StoredRecord { position, entry: entry.value().to_vec(), index: logged });
            }
            Ok(found)
        })
    }

    /// All runs in the order of their identifiers, which is that of their start.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn runs(&self) -> Result<Vec<RunId>, StoreError> {
        let runs = self.read(|view| {
            let index = view.open_table(INDEX)?;
            let mut runs: BTreeMap<[u8; 16], ()> = BTreeMap::new();
            for row in index.iter()? {
                if let Some(run) = row?.0.value().first_chunk::<16>() {
                    runs.insert(*run, ());
                }
            }
            Ok(runs)
        })?;
        let runs = runs.into_keys().map(|run| RunId::from_bytes(run).map_err(|error| self.error(error)));
        runs.collect()
    }

    /// Runs without a `close` record.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn live_runs(&self) -> Result<Vec<RunId>, StoreError> {
        let runs = self.read(|view| {
            let live = view.open_table(LIVE)?;
            let mut runs = Vec::new();
            for row in live.iter()? {
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
            for row in view.open_table(RECORDS)?.range(position..)? {
                let (position, entry) = row?;
                each(position.value(), entry.value().to_vec());
            }
            Ok(())
        })
    }

    /// Position that the next record will have.
    pub(crate) fn next_position(&self) -> Result<u64, StoreError> {
        self.read(|view| {
            Ok(view.open_table(RECORDS)?.last()?.map_or(0, |(position, _)| position.value() + 1))
        })
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
            let (mut found, mut bytes) = (Vec::new(), 0);
            for row in queue.range(position..)? {
                let (position, run) = row?;
                let Ok(run) = RunId::from_bytes(*run.value()) else { continue };
                if !wanted(run) {
                    continue;
                }
                let Some(entry) = records.get(position.value())? else { continue };
                let entry = entry.value().to_vec();
                // Each entry travels with two bytes of length.
                bytes += entry.len() + 2;
                if found.len() == records_max || (bytes > bytes_max && !found.is_empty()) {
                    break;
                }
                found.push(Unlogged { position: position.value(), run, entry });
            }
            Ok(found)
        })
    }

    /// Makes everything in `batch` durable, or nothing of it.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            let mut index = transaction.open_table(INDEX)?;
            let mut queue = transaction.open_table(QUEUE)?;
            for record in &batch.records {
                records.insert(record.position, record.entry.as_slice())?;
                index.insert(&index_key(record.run, record.seq.get()), record.position)?;
                queue.insert(record.position, record.run.as_bytes())?;
            }
            if !batch.objects.is_empty() {
                let mut objects = transaction.open_table(OBJECTS)?;
                for object in &batch.objects {
                    objects.insert(object.digest().as_bytes(), object.as_bytes())?;
                }
            }
            if !batch.opened.is_empty() || !batch.closed.is_empty() {
                let mut live = transaction.open_table(LIVE)?;
                for run in &batch.opened {
                    live.insert(run.as_bytes(), ())?;
                }
                for run in &batch.closed {
                    live.remove(run.as_bytes())?;
                }
            }
            if !batch.logged.is_empty() {
                let mut receipts = transaction.open_table(RECEIPTS)?;
                for (position, leaf) in &batch.logged {
                    queue.remove(position)?;
                    receipts.insert(position, leaf.get())?;
                }
            }
            let mut meta = transaction.open_table(META)?;
            if let Some(checkpoint) = &batch.checkpoint {
                meta.insert(key::CHECKPOINT, checkpoint.as_bytes())?;
            }
            if let Some(fork) = &batch.fork {
                // A fork of three strings always has JSON.
                let json = serde_json::to_vec(fork).unwrap_or_default();
                meta.insert(key::FORK, json.as_slice())?;
            }
            if let Some((position, ledger)) = &batch.ledger {
                meta.insert(key::LEDGER, ledger.as_slice())?;
                meta.insert(key::LEDGER_POSITION, &position.to_be_bytes()[..])?;
            }
            Ok(())
        })
    }
}

fn index_key(run: RunId, seq: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(run.as_bytes());
    key[16..].copy_from_slice(&seq.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::types::UnixMillis;

    fn run(n: u8) -> RunId {
        RunId::from_parts(UnixMillis::new(1_764_000_000_000).unwrap(), &[n; 10])
    }

    fn record(position: u64, run: RunId, seq: u64) -> NewRecord {
        NewRecord { position, run, seq: Seq::new(seq).unwrap(), entry: vec![position as u8; 10] }
    }

    #[test]
    fn a_batch_survives_reopening_and_receipts_leave_the_queue() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(store.next_position().unwrap(), 0);
            let batch = Batch {
                records: vec![record(0, run(1), 0), record(1, run(2), 0), record(2, run(1), 1)],
                opened: vec![run(1), run(2)],
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
    }
}
