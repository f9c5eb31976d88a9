//! How RocksDB is told to keep the columns. What each setting is worth is measured by `sift-figures --only growth`;
//! `server/OPERATING.md` says which ones mattered.
//!
//! The two things that make a log an easy load: entries are written once, in the order of their keys, so that no two
//! files of that column overlap and compaction moves them without reading them; and one thread writes.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options};

use super::{CHAIN, ENTRIES, TILES};

/// How much write-ahead log there may be before the columns that still need it are written to files, in write buffers.
/// All of it is read again when the log starts after a crash.
const WAL_BUFFERS_MAX: usize = 2;

/// Entries are kept and compressed in blocks of this many bytes: some twenty of them.
const ENTRIES_BLOCK_BYTES: usize = 16 << 10;

/// Files that are open at a time; most systems allow a process 1,024, and connections need some.
const FILES_OPEN_MAX: i32 = 512;

/// RocksDB's own diaries, in files and bytes.
const DIARIES_MAX: usize = 4;
const DIARY_BYTES_MAX: usize = 4 << 20;

/// Settings of the whole store, whose large columns have write buffers of so many bytes.
pub(super) fn of_store(write_buffer: usize, create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_paranoid_checks(true);
    // RocksDB would otherwise cut its write-ahead log at the first damaged record and open an older state:
    // a log that goes on from there signs a fork. Only a torn tail, which nobody was answered about, may go.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    // Small columns would otherwise keep gigabytes of it alive.
    options.set_max_total_wal_size(WAL_BUFFERS_MAX.saturating_mul(write_buffer) as u64);
    // The sequencer is the only writer: without rivals an ascending key is put next to the last one.
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_open_files(FILES_OPEN_MAX);
    // Starting reads no file that it does not need.
    options.set_skip_stats_update_on_db_open(true);
    options.set_keep_log_file_num(DIARIES_MAX);
    options.set_max_log_file_size(DIARY_BYTES_MAX);
    options
}

/// Settings of one column.
pub(super) fn of_column(name: &str, write_buffer: usize, cache: &Cache) -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(cache);
    // Indices and filters grow with the log; within the cache they have a bound.
    block.set_cache_index_and_filter_blocks(true);
    block.set_cache_index_and_filter_blocks_with_high_priority(true);
    block.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    if name == ENTRIES {
        // Nobody asks for an entry that is not there, so that a filter would answer nothing.
        block.set_block_size(ENTRIES_BLOCK_BYTES);
    } else {
        block.set_bloom_filter(10.0, false);
    }
    // Hashes do not compress; notes are text.
    options.set_compression_type(match name {
        TILES | CHAIN => DBCompressionType::None,
        _ => DBCompressionType::Lz4,
    });
    if matches!(name, ENTRIES | TILES | CHAIN) {
        options.set_write_buffer_size(write_buffer);
    }
    options.set_block_based_table_factory(&block);
    options
}
