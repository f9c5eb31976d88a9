//! The store: one RocksDB, one synced write batch a commit.
//!
//! | column | key | value |
//! | --- | --- | --- |
//! | `entries` | index | the entry's bytes |
//! | `tiles` | level, index | the tile's hashes, however many there are |
//! | `chain` | run (16 zero bytes for the operator), seq | index, leaf hash |
//! | `checkpoints` | size | a checkpoint's note: each that a quorum of witnesses cosigned, or one for 256 entries or so |
//! | `equivocations` | run, seq | the first other entry that was offered for them |
//! | `meta` | name | format, log keys, newest checkpoint, published one, length of the operator's chain |
//!
//! Integers are big-endian, so that keys sort as numbers do. Nothing here is trusted on reopening before
//! [`crate::recovery`] has compared it with the signed checkpoint.

mod options;
pub(crate) mod raw;

use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, Direction, IteratorMode, WriteBatch, WriteOptions,
    properties::PropName,
};
use serde::{Deserialize, Serialize};
use sift_spec::tile::{TILE_WIDTH, TileId, Tiles, parse_hashes, push_entry};
use sift_spec::types::{Hash, LeafIndex, RunId, Seq, TreeSize};

use crate::tile::Tile;
use crate::tile_cache::TileCache;

const ENTRIES: &str = "entries";
const TILES: &str = "tiles";
const CHAIN: &str = "chain";
const CHECKPOINTS: &str = "checkpoints";
const EQUIVOCATIONS: &str = "equivocations";
const META: &str = "meta";

/// All columns.
const COLUMNS: [&str; 6] = [ENTRIES, TILES, CHAIN, CHECKPOINTS, EQUIVOCATIONS, META];
/// Name of the published checkpoint in the column `meta`.
const PUBLISHED: &str = "published";

/// What this program writes, and the only thing it reads.
const FORMAT: &[u8] = b"sift-server store 1";

/// Memory for blocks read from disk, indices and filters among them, in bytes.
const BLOCK_CACHE_BYTES: usize = 64 << 20;

/// Bytes that a row of a commit takes beside its key and value, and to spare.
const ROW_OVERHEAD_BYTES: usize = 16;

/// Section `[store]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Memory for rows not yet in a file, in KiB, for each of the three large columns. The write-ahead log, all of which is
    /// read again by a start after a crash, is at most twice as long.
    pub write_buffer_kib: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { write_buffer_kib: 32 << 10 }
    }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// RocksDB says so.
    #[error("the store failed: {0}")]
    Rocks(#[from] rocksdb::Error),
    /// Another process has it open.
    #[error("the store is in use by another process; stop it first")]
    InUse,
    /// Written by another program or version.
    #[error("this folder holds no store of this program's format")]
    Format,
    /// A row is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether there was no space for a write.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        // RocksDB knows it as a subcode of its own, which its C interface shows in the text only.
        matches!(self, Self::Rocks(error) if error.to_string().contains("No space left on device"))
    }
}

/// Whose record a row of the chain column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ChainId {
    Operator,
    Run(RunId),
}

impl ChainId {
    /// A run is never 16 zero bytes: a UUID has a version.
    const fn bytes(&self) -> &[u8; 16] {
        match self {
            Self::Operator => &[0; 16],
            Self::Run(run) => run.as_bytes(),
        }
    }

    fn key(&self, seq: u64) -> [u8; 24] {
        let mut key = [0; 24];
        key[..16].copy_from_slice(self.bytes());
        key[16..].copy_from_slice(&seq.to_be_bytes());
        key
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) index: LeafIndex,
    pub(crate) leaf: Hash,
}

impl Row {
    const BYTES: usize = 40;

    fn bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.index.get().to_be_bytes());
        bytes[8..].copy_from_slice(self.leaf.as_bytes());
        bytes
    }
}

/// One commit: everything that becomes durable at once.
#[derive(Default)]
pub(crate) struct Commit {
    pub(crate) entries: Vec<(LeafIndex, Vec<u8>)>,
    pub(crate) rows: Vec<(ChainId, Seq, Row)>,
    pub(crate) tiles: Vec<(TileId, Arc<Tile>)>,
    pub(crate) equivocations: Vec<(ChainId, Seq, Vec<u8>)>,
    /// The newest checkpoint, and whether it is kept for good.
    pub(crate) checkpoint: Option<(TreeSize, String, bool)>,
    /// How long the operator's chain is after this commit, where it grew.
    pub(crate) operator_records: Option<Seq>,
}

impl Commit {
    /// About how many bytes it takes to write.
    fn bytes(&self) -> usize {
        let entries =
            self.entries.iter().map(|(_, entry)| 8 + entry.len() + ROW_OVERHEAD_BYTES).sum::<usize>();
        let rows = self.rows.len() * (24 + Row::BYTES + ROW_OVERHEAD_BYTES);
        let tiles = self.tiles.iter().map(|(_, tile)| 9 + 32 * tile.hashes().len() + ROW_OVERHEAD_BYTES);
        entries + rows + tiles.sum::<usize>() + 1024
    }
}

/// The log's store.
pub(crate) struct Store {
    db: DB,
    /// Where tests make a write fail.
    #[cfg(test)]
    pub(crate) fault: crate::simulation::Fault,
    tiles: TileCache,
}

impl Store {
    /// Opens the store in `dir`; makes it when `create` is set and refuses a missing one otherwise.
    pub(crate) fn open(dir: &Path, config: &StoreConfig, create: bool) -> Result<Self, StoreError> {
        let write_buffer =
            usize::try_from(config.write_buffer_kib).unwrap_or(usize::MAX).saturating_mul(1024);
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let columns = COLUMNS
            .map(|name| ColumnFamilyDescriptor::new(name, options::of_column(name, write_buffer, &cache)));
        let options = options::of_store(write_buffer, create);
        let db = DB::open_cf_descriptors(&options, dir, columns).map_err(|error| {
            let in_use = error.kind() == rocksdb::ErrorKind::IOError && error.to_string().contains("lock");
            if in_use { StoreError::InUse } else { error.into() }
        })?;
        let store = Self {
            db,
            tiles: TileCache::default(),
            #[cfg(test)]
            fault: crate::simulation::Fault::default(),
        };
        match store.meta("format")? {
            Some(format) if format == FORMAT => {}
            None if create
                && store.db.iterator_cf(store.column(ENTRIES)?, IteratorMode::Start).next().is_none() =>
            {
                store.set_meta(&[("format", FORMAT)])?;
            }
            _ => return Err(StoreError::Format),
        }
        Ok(store)
    }

    fn column(&self, name: &str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or_else(|| StoreError::Damaged(format!("no column {name}")))
    }

    /// Folder of the store.
    pub(crate) fn path(&self) -> &Path {
        self.db.path()
    }

    /// A property of the whole database; 0 where it says nothing.
    pub(crate) fn property(&self, property: &PropName) -> u64 {
        // Every column can be asked, and the default one, which is empty, could not speak for block caches.
        let column = self.db.cf_handle(ENTRIES);
        let value = column.map(|column| self.db.property_int_value_cf(column, property));
        value.and_then(|value| value.ok().flatten()).unwrap_or_default()
    }

    /// A property of columns, summed over all.
    pub(crate) fn property_sum(&self, property: &PropName) -> u64 {
        let columns = COLUMNS.iter().filter_map(|name| self.db.cf_handle(name));
        columns.filter_map(|column| self.db.property_int_value_cf(column, property).ok().flatten()).sum()
    }

    /// A named value.
    pub(crate) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.column(META)?, name)?)
    }

    /// Writes named values, durably and together.
    pub(crate) fn set_meta(&self, values: &[(&str, &[u8])]) -> Result<(), StoreError> {
        let column = self.column(META)?;
        let mut batch = WriteBatch::default();
        values.iter().for_each(|(name, value)| batch.put_cf(column, name, value));
        self.write(batch)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        #[cfg(test)]
        self.fault.before_write()?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options)?;
        #[cfg(test)]
        self.fault.after_write()?;
        Ok(())
    }

    /// Makes a commit durable: all of it or, after a crash, none of it.
    pub(crate) fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let (entries, tiles, chain) = (self.column(ENTRIES)?, self.column(TILES)?, self.column(CHAIN)?);
        let mut batch = WriteBatch::with_capacity_bytes(commit.bytes());
        for (index, entry) in &commit.entries {
            batch.put_cf(entries, index.get().to_be_bytes(), entry);
        }
        for (chain_id, seq, row) in &commit.rows {
            batch.put_cf(chain, chain_id.key(seq.get()), row.bytes());
        }
        let mut bytes = Vec::new();
        for (id, tile) in &commit.tiles {
            bytes.clear();
            tile.hashes().iter().for_each(|hash| bytes.extend_from_slice(hash.as_bytes()));
            batch.put_cf(tiles, tile_key(*id), &bytes);
        }
        for (chain_id, seq, entry) in &commit.equivocations {
            batch.put_cf(self.column(EQUIVOCATIONS)?, chain_id.key(seq.get()), entry);
        }
        if let Some((size, note, keep)) = &commit.checkpoint {
            batch.put_cf(self.column(META)?, "checkpoint", note);
            if *keep {
                batch.put_cf(self.column(CHECKPOINTS)?, size.get().to_be_bytes(), note);
            }
        }
        if let Some(records) = commit.operator_records {
            batch.put_cf(self.column(META)?, "operator", records.get().to_be_bytes());
        }
        self.write(batch)
    }

    /// Makes a published checkpoint durable: in the history, and as the `newest` that a restart must not go back behind.
    pub(crate) fn publish(&self, size: TreeSize, note: &str, newest: bool) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.column(CHECKPOINTS)?, size.get().to_be_bytes(), note);
        if newest {
            batch.put_cf(self.column(META)?, PUBLISHED, note);
        }
        self.write(batch)
    }

    /// The checkpoint that was published last, where publishing waits for witnesses.
    pub(crate) fn published(&self) -> Result<Option<String>, StoreError> {
        let note = self.meta(PUBLISHED)?.map(String::from_utf8).transpose();
        note.map_err(|_| StoreError::Damaged("the published checkpoint is not UTF-8".to_owned()))
    }

    /// Publishing no longer waits for witnesses: what is committed is published from now on.
    pub(crate) fn forget_published(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.column(META)?, PUBLISHED);
        self.write(batch)
    }

    /// How long the operator's chain is, as of the last commit that made it longer.
    pub(crate) fn operator_records(&self) -> Result<u64, StoreError> {
        match self.meta("operator")? {
            None => Ok(0),
            Some(records) => Ok(u64::from_be_bytes(key_bytes(&records)?)),
        }
    }

    /// An entry's bytes.
    pub(crate) fn entry(&self, index: LeafIndex) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.column(ENTRIES)?, index.get().to_be_bytes())?)
    }

    /// The entry bundle of the entries from `first` on, `count` of them (C2SP tlog-tiles).
    pub(crate) fn bundle(&self, first: u64, count: u16) -> Result<Vec<u8>, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.column(ENTRIES)?);
        let mut bundle = Vec::new();
        rows.seek(first.to_be_bytes());
        for index in first..first.saturating_add(u64::from(count)) {
            match rows.item() {
                Some((key, entry)) if key == index.to_be_bytes() => {
                    if !push_entry(&mut bundle, entry) {
                        return Err(StoreError::Damaged(format!("entry {index} is too long")));
                    }
                }
                _ => {
                    rows.status()?;
                    return Err(StoreError::Damaged(format!("entry {index} is missing")));
                }
            }
            rows.next();
        }
        Ok(bundle)
    }

    /// Index of the last stored entry.
    pub(crate) fn last_index(&self) -> Result<Option<u64>, StoreError> {
        match self.db.iterator_cf(self.column(ENTRIES)?, IteratorMode::End).next() {
            None => Ok(None),
            Some(row) => Ok(Some(u64::from_be_bytes(key_bytes(&row?.0)?))),
        }
    }

    /// Where the record `seq` of a chain stands.
    pub(crate) fn row(&self, chain: ChainId, seq: Seq) -> Result<Option<Row>, StoreError> {
        let value = self.db.get_cf(self.column(CHAIN)?, chain.key(seq.get()))?;
        value.map(|value| parse_row(&value)).transpose()
    }

    /// All records of a chain, by seq.
    pub(crate) fn rows(&self, chain: ChainId) -> Result<Vec<Row>, StoreError> {
        let start = chain.key(0);
        let rows = self.db.iterator_cf(self.column(CHAIN)?, IteratorMode::From(&start, Direction::Forward));
        let mut found = Vec::new();
        for row in rows {
            let (key, value) = row?;
            if !key.starts_with(chain.bytes()) {
                break;
            }
            if *key != chain.key(found.len() as u64) {
                return Err(StoreError::Damaged(format!("seq {} of {chain:?} is missing", found.len())));
            }
            found.push(parse_row(&value)?);
        }
        Ok(found)
    }

    /// The last record of a chain.
    pub(crate) fn last_row(&self, chain: ChainId) -> Result<Option<(u64, Row)>, StoreError> {
        // Most chains that are asked for are new ones. A look-up by key, which the filters answer, is far cheaper than
        // the search for the last key of a chain; and a chain without its seq 0 has no other.
        if self.row(chain, Seq::ZERO)?.is_none() {
            return Ok(None);
        }
        let end = chain.key(u64::MAX);
        let mut rows = self.db.iterator_cf(self.column(CHAIN)?, IteratorMode::From(&end, Direction::Reverse));
        match rows.next() {
            None => Ok(None),
            Some(row) => {
                let (key, value) = row?;
                if !key.starts_with(chain.bytes()) {
                    return Ok(None);
                }
                Ok(Some((u64::from_be_bytes(key_bytes(&key[16..])?), parse_row(&value)?)))
            }
        }
    }

    /// Up to `count` runs whose identifiers come after `after`.
    pub(crate) fn runs(&self, after: Option<RunId>, count: usize) -> Result<Vec<RunId>, StoreError> {
        let mut start = after.map_or(ChainId::Operator, ChainId::Run).key(u64::MAX);
        let mut runs = Vec::new();
        let mut rows = self.db.raw_iterator_cf(self.column(CHAIN)?);
        while runs.len() < count {
            // The key of the last possible seq is never used, so the next key belongs to the next run.
            rows.seek(start);
            let Some(key) = rows.key() else { break };
            let run: [u8; 16] = key_bytes(key.get(..16).unwrap_or_default())?;
            let run = RunId::from_bytes(run).map_err(|error| StoreError::Damaged(error.to_string()))?;
            start = ChainId::Run(run).key(u64::MAX);
            runs.push(run);
        }
        rows.status()?;
        Ok(runs)
    }

    /// The first other entry that was offered for a record's place.
    pub(crate) fn equivocation(&self, chain: ChainId, seq: Seq) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.column(EQUIVOCATIONS)?, chain.key(seq.get()))?)
    }

    /// Up to `count` equivocations whose places come after `after`, with the other entry of each.
    pub(crate) fn equivocations(
        &self,
        after: Option<(ChainId, Seq)>,
        count: usize,
    ) -> Result<Vec<(ChainId, Seq, Vec<u8>)>, StoreError> {
        let after = after.map(|(chain, seq)| chain.key(seq.get()));
        let mut found = Vec::new();
        for (key, entry) in self.after(EQUIVOCATIONS, after.as_ref().map(<[u8; 24]>::as_slice), count)? {
            let (run, seq) = key.split_at_checked(16).unwrap_or_default();
            let run: [u8; 16] = key_bytes(run)?;
            let damaged = |error: sift_spec::types::ValueError| StoreError::Damaged(error.to_string());
            let chain = match run {
                [0, ..] if run == [0; 16] => ChainId::Operator,
                _ => ChainId::Run(RunId::from_bytes(run).map_err(damaged)?),
            };
            let seq = Seq::new(u64::from_be_bytes(key_bytes(seq)?)).map_err(damaged)?;
            found.push((chain, seq, entry));
        }
        Ok(found)
    }

    /// Up to `count` checkpoints that are kept, of trees larger than `after`.
    pub(crate) fn checkpoints(
        &self,
        after: Option<TreeSize>,
        count: usize,
    ) -> Result<Vec<(TreeSize, String)>, StoreError> {
        let after = after.map(|size| size.get().to_be_bytes());
        let mut found = Vec::new();
        for (size, note) in self.after(CHECKPOINTS, after.as_ref().map(<[u8; 8]>::as_slice), count)? {
            let damaged = || StoreError::Damaged("a kept checkpoint".to_owned());
            let size = TreeSize::new(u64::from_be_bytes(key_bytes(&size)?)).map_err(|_| damaged())?;
            found.push((size, String::from_utf8(note).map_err(|_| damaged())?));
        }
        Ok(found)
    }

    /// Up to `count` rows of a column whose keys come after `after`.
    fn after(&self, column: &str, after: Option<&[u8]>, count: usize) -> Result<Vec<KeyValue>, StoreError> {
        let start = match after {
            Some(key) => IteratorMode::From(key, Direction::Forward),
            None => IteratorMode::Start,
        };
        let mut found = Vec::new();
        for row in self.db.iterator_cf(self.column(column)?, start) {
            let (key, value) = row?;
            if found.len() == count {
                break;
            }
            if Some(&*key) != after {
                found.push((key.into_vec(), value.into_vec()));
            }
        }
        Ok(found)
    }
}

/// A row as it is stored.
type KeyValue = (Vec<u8>, Vec<u8>);

impl Store {
    /// The bytes of the first `width` hashes of a tile.
    pub(crate) fn tile_bytes(&self, tile: TileId, width: u16) -> Result<Vec<u8>, StoreError> {
        self.with_tile(tile, width, <[u8]>::to_vec)
    }

    /// A full tile with all of its nodes.
    pub(crate) fn full_tile(&self, id: TileId) -> Result<Arc<Tile>, StoreError> {
        self.tiles.get(id, || {
            let tile = self.tile(id, TILE_WIDTH as u16)?;
            Tile::new(&tile).map(Arc::new).ok_or_else(|| too_narrow(id))
        })
    }

    fn with_tile<T>(&self, tile: TileId, width: u16, work: impl FnOnce(&[u8]) -> T) -> Result<T, StoreError> {
        let row = self.db.get_pinned_cf(self.column(TILES)?, tile_key(tile))?;
        let row = row.as_deref().and_then(|row| row.get(..usize::from(width) * 32));
        row.map(work).ok_or_else(|| too_narrow(tile))
    }
}

impl Tiles for Store {
    type Error = StoreError;

    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, StoreError> {
        self.with_tile(tile, width, parse_hashes)?.ok_or_else(|| too_narrow(tile))
    }
}

fn too_narrow(tile: TileId) -> StoreError {
    StoreError::Damaged(format!("tile {} of level {} is missing or too narrow", tile.index, tile.level))
}

fn tile_key(tile: TileId) -> [u8; 9] {
    const { assert!(TILE_WIDTH == 256) };
    let mut key = [tile.level; 9];
    key[1..].copy_from_slice(&tile.index.to_be_bytes());
    key
}

fn key_bytes<const N: usize>(key: &[u8]) -> Result<[u8; N], StoreError> {
    key.try_into().map_err(|_| StoreError::Damaged(format!("a key of {} bytes", key.len())))
}

fn parse_row(value: &[u8]) -> Result<Row, StoreError> {
    let damaged = || StoreError::Damaged("a row of the chain column is not 40 bytes".to_owned());
    let (index, leaf) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
    let index = LeafIndex::new(u64::from_be_bytes(*index)).map_err(|_| damaged())?;
    Ok(Row { index, leaf: Hash::try_from(leaf).map_err(|_| damaged())? })
}
