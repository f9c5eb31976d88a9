//! What a log's store weighs on disk.

use std::path::Path;

use rocksdb::{BottommostLevelCompaction, Cache, CompactOptions, DB, Options};

use crate::AnyError;

/// Bytes of all files below a folder.
///
/// # Errors
/// When it cannot be read.
pub fn bytes_below(dir: &Path) -> Result<u64, AnyError> {
    let mut bytes = 0;
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        let metadata = item.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&item.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Bytes of a store's write-ahead log: what is read again by the next start.
///
/// # Errors
/// When the folder cannot be read.
pub fn bytes_of_wal(data: &Path) -> Result<u64, AnyError> {
    let mut bytes = 0;
    for item in std::fs::read_dir(data)? {
        let item = item?;
        if item.path().extension().is_some_and(|ending| ending == "log") {
            bytes += item.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Compacts the store of a stopped log under the options it was written with.
///
/// # Errors
/// When it is in use or cannot be read.
pub fn compact(data: &Path) -> Result<(), AnyError> {
    let cache = Cache::new_lru_cache(8 << 20);
    let (options, columns) = Options::load_latest(data, rocksdb::Env::new()?, false, cache)?;
    let names = DB::list_cf(&options, data)?;
    let store = DB::open_cf_descriptors(&options, data, columns)?;
    let mut how = CompactOptions::default();
    how.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for name in &names {
        let column = store.cf_handle(name).ok_or("a column that is listed and not there")?;
        store.flush_cf(&column)?;
        store.compact_range_cf_opt(&column, None::<&[u8]>, None::<&[u8]>, &how);
    }
    Ok(())
}
