//! The store as it lies on the disk, for those who check it: opened without writing, row by row, believing nothing.

use std::path::Path;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction, IteratorMode, Options,
    ReadOptions,
};
use sift_spec::tile::TileId;
use sift_spec::types::{RunId, Seq, TreeSize};

use super::{
    BLOCK_CACHE_BYTES, CHAIN, CHECKPOINTS, ChainId, ENTRIES, EQUIVOCATIONS, FORMAT, Row, Store, StoreError,
    TILES, key_bytes, parse_row, tile_key,
};

/// What lies at the place of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored<T> {
    /// The row.
    Row(T),
    /// Nothing.
    Missing,
    /// Something that RocksDB's own checksums do not let through.
    Unreadable(String),
}

impl<T> Stored<T> {
    fn of(read: Result<Option<T>, rocksdb::Error>) -> Self {
        match read {
            Ok(Some(row)) => Self::Row(row),
            Ok(None) => Self::Missing,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// A column that is walked from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    Tiles,
    Chain,
    Checkpoints,
    Equivocations,
}

/// A key and its value, as they are.
pub(crate) type RawRow = (Box<[u8]>, Box<[u8]>);

impl Store {
    /// Opens the store in `dir` without writing anything: not its log, not its files.
    ///
    /// # Errors
    /// When RocksDB cannot open it, or it is of another format.
    pub(crate) fn open_read_only(dir: &Path) -> Result<Self, StoreError> {
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_track_and_verify_wals_in_manifest(true);
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let columns = DB::list_cf(&options, dir)?.into_iter().map(|name| {
            let mut block = BlockBasedOptions::default();
            block.set_block_cache(&cache);
            let mut column = Options::default();
            column.set_block_based_table_factory(&block);
            ColumnFamilyDescriptor::new(name, column)
        });
        let db = DB::open_cf_descriptors_read_only(&options, dir, columns, false)?;
        let store = Self {
            db,
            tiles: Default::default(),
            #[cfg(test)]
            fault: Default::default(),
        };
        if store.meta("format")?.as_deref() == Some(FORMAT) { Ok(store) } else { Err(StoreError::Format) }
    }

    /// Makes a copy as of the last commit, in a folder that does not exist: links where it is the same file system.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<(), StoreError> {
        Ok(Checkpoint::new(&self.db)?.create_checkpoint(folder)?)
    }

    /// What lies at `count` places of the entries from `first` on.
    pub(crate) fn raw_entries(&self, first: u64, count: u64) -> Result<Vec<Stored<Box<[u8]>>>, StoreError> {
        let column = self.column(ENTRIES)?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let start = first.to_be_bytes();
        let mode = IteratorMode::From(&start, Direction::Forward);
        let mut rows = self.db.iterator_cf_opt(column, options, mode);
        let mut found = Vec::new();
        for index in first..first + count {
            match rows.next() {
                Some(Ok((key, entry))) if *key == index.to_be_bytes() => found.push(Stored::Row(entry)),
                // A hole or a damaged block: the rest one by one, so that each place is told apart.
                _ => break,
            }
        }
        for index in first + found.len() as u64..first + count {
            let read = self.db.get_cf(column, index.to_be_bytes());
            found.push(Stored::of(read.map(|entry| entry.map(Vec::into_boxed_slice))));
        }
        Ok(found)
    }

    /// What lies at the place of a tile.
    pub(crate) fn raw_tile(&self, tile: TileId) -> Result<Stored<Vec<u8>>, StoreError> {
        Ok(Stored::of(self.db.get_cf(self.column(TILES)?, tile_key(tile))))
    }

    /// What lies at a place of the chain column; the inner error is a row that is not one.
    pub(crate) fn raw_row(
        &self,
        chain: ChainId,
        seq: Seq,
    ) -> Result<Stored<Result<Row, StoreError>>, StoreError> {
        let read = self.db.get_cf(self.column(CHAIN)?, chain.key(seq.get()));
        Ok(Stored::of(read.map(|value| value.map(|value| parse_row(&value)))))
    }

    /// The rows of a column in the order of their keys. After an error there are no more.
    pub(crate) fn walk(
        &self,
        column: Walk,
    ) -> Result<impl Iterator<Item = Result<RawRow, StoreError>> + '_, StoreError> {
        let column = self.column(match column {
            Walk::Tiles => TILES,
            Walk::Chain => CHAIN,
            Walk::Checkpoints => CHECKPOINTS,
            Walk::Equivocations => EQUIVOCATIONS,
        })?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let rows = self.db.iterator_cf_opt(column, options, IteratorMode::Start);
        Ok(rows.map(|row| row.map_err(StoreError::from)))
    }
}

/// Reads a key of the chain or the equivocations column.
pub(crate) fn parse_place(key: &[u8]) -> Option<(ChainId, Seq)> {
    let (chain, seq) = key.split_first_chunk::<16>()?;
    let chain =
        if *chain == [0; 16] { ChainId::Operator } else { ChainId::Run(RunId::from_bytes(*chain).ok()?) };
    Some((chain, Seq::new(u64::from_be_bytes(key_bytes(seq).ok()?)).ok()?))
}

/// Reads a value of the chain column.
pub(crate) fn parse_chain_row(value: &[u8]) -> Option<Row> {
    parse_row(value).ok()
}

/// Reads a key of the tiles column.
pub(crate) fn parse_tile_key(key: &[u8]) -> Option<TileId> {
    let (level, index) = key.split_first()?;
    Some(TileId { level: *level, index: u64::from_be_bytes(key_bytes(index).ok()?) })
}

/// Reads a key of the checkpoints column.
pub(crate) fn parse_size_key(key: &[u8]) -> Option<TreeSize> {
    TreeSize::new(u64::from_be_bytes(key_bytes(key).ok()?)).ok()
}
