//! How RocksDB is set up: point look-ups of incompressible keys within bounded memory.
//!
//! Together: the block cache and the memtables are charged 80 MiB; files, iterators and compaction add
//! some MiB.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, LogLevel,
    Options, WriteOptions,
};

/// Data, index and filter blocks in memory, in bytes. The filters of 16 million chunks (1 TiB of 64 KiB) are
/// 20 MiB, their index blocks about 10 MiB; the rest holds data, which ids being random is rarely met again.
const BLOCK_CACHE_BYTES: usize = 48 << 20;

/// All memtables together, in bytes: about 400,000 chunks between two flushes.
const WRITE_BUFFERS_BYTES: usize = 32 << 20;

/// One memtable, in bytes: one is filled while another is flushed.
const WRITE_BUFFER_BYTES: usize = 16 << 20;

/// Bits of filter for each key: 1 % of look-ups of absent chunks read a block in vain. A first push asks
/// for nothing but absent chunks.
const FILTER_BITS: f64 = 10.0;

/// Most open files: enough for some 8 GiB of tables without opening one twice.
const MAX_OPEN_FILES: i32 = 128;

/// Flushes and compactions at once: beside the work of a server, not in its place.
const BACKGROUND_JOBS: i32 = 2;

/// Most bytes of the write-ahead log: what is read again after a crash.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// RocksDB's own text log: this many files of this size.
const INFO_LOG_FILES: usize = 2;
const INFO_LOG_BYTES: usize = 1 << 20;

pub(crate) fn index_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_total_wal_size(MAX_LOG_BYTES);
    options.set_keep_log_file_num(INFO_LOG_FILES);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_log_level(LogLevel::Warn);
    options
}

/// Of an index that another process may write to.
pub(crate) fn reader_options() -> Options {
    let mut options = Options::default();
    // What the writer removes stays readable only in files that are open. They are few, and opened without the sixteen
    // threads that each table would start for that, and each part of the log.
    options.set_max_open_files(-1);
    options.set_max_file_opening_threads(1);
    options
}

/// Of the table that has an entry for each chunk.
pub(crate) fn chunk_options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    blocks.set_bloom_filter(FILTER_BITS, false);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    // Index and filter blocks count against the cache, so that memory stays bounded as the index grows. They
    // are cut into small ones: the cache is made of shards of less than 1 MiB, and the whole filter of a table does
    // not fit into one. Measured with 2 million chunks: a single look-up takes 11 µs of processor in place
    // of 123, one of many absent chunks 2.5 in place of 7.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    // Ids are random bytes: two thirds of an entry cannot be compressed.
    options.set_compression_type(DBCompressionType::None);
    options
}

/// Writes are answered when they are on the disk.
pub(crate) fn durable() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}
