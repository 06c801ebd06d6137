//! How a store is tuned: the settings that callers may choose, and RocksDB's.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    SliceTransform,
};

use crate::engine::Cf;
use crate::keys::TIMESTAMP_BYTES;

/// What a store may use.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Memory for blocks read from tables of the state database.
    pub block_cache_bytes: usize,
    /// Memory for what the state database has not flushed yet.
    pub memtable_bytes: usize,
    /// Memory for recent log entries of all groups together (those not yet durable come on top).
    pub log_cache_bytes: usize,
    /// At most this many bytes of tables are verified when the store opens; 0 verifies none. Reads verify always.
    /// The cost is one sequential read of the store, about a second per gigabyte.
    pub verify_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 << 20,
            memtable_bytes: 128 << 20,
            log_cache_bytes: 64 << 20,
            verify_bytes_max: 8 << 30,
        }
    }
}

fn common() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(1024);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(8 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn table(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In pieces: the filter of a table with millions of keys is larger than a shard of the cache, which would not keep it, and
    // every read would read all of it again.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(16 << 10);
    table.set_pin_top_level_index_and_filter(true);
    table
}

/// The state database: no log of its own, column families that flush together.
pub(crate) fn state(store: &StoreOptions) -> (Options, [(&'static str, Options); 4]) {
    let mut db = common();
    db.set_atomic_flush(true);
    db.set_db_write_buffer_size(store.memtable_bytes);

    let cache = Cache::new_lru_cache(store.block_cache_bytes);
    let [data, intents, group] = Cf::ALL.map(|cf| (cf.name(), family(store, &cache, cf)));
    // RocksDB insists on a column family "default"; nothing is ever written there.
    (db, [("default", Options::default()), data, intents, group])
}

/// A column family of the state database.
fn family(store: &StoreOptions, cache: &Cache, cf: Cf) -> Options {
    let mut options = common();
    let mut table = table(cache);
    options.set_write_buffer_size(match cf {
        Cf::Data => store.memtable_bytes / 2,
        Cf::Intents | Cf::Group => store.memtable_bytes / 8,
    });
    // Writes go on while earlier memtables are flushed; `db_write_buffer_size` bounds them all together.
    options.set_max_write_buffer_number(4);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    match cf {
        Cf::Data => {
            // Bloom filters over user keys: a point read seeks to a version, whose timestamp it doesn't know.
            options.set_prefix_extractor(SliceTransform::create(
                "flotilla.user_key",
                |key| &key[..key.len() - TIMESTAMP_BYTES],
                Some(|key| key.len() > TIMESTAMP_BYTES),
            ));
            options.set_memtable_prefix_bloom_ratio(0.05);
            table.set_whole_key_filtering(false);
        }
        // Intents come and go: without this, scans would step over the tombstones of all that were resolved.
        Cf::Intents => options.add_compact_on_deletion_collector_factory(1024, 512, 0.5),
        Cf::Group => {}
    }
    options.set_block_based_table_factory(&table);
    options
}

/// For tables that are written beside the state database and then become part of it: the families' own options, in the
/// order of [`Cf::ALL`]. (Nothing is read through their cache.)
pub(crate) fn tables() -> [Options; 3] {
    let store = StoreOptions::default();
    let cache = Cache::new_lru_cache(1 << 20);
    Cf::ALL.map(|cf| family(&store, &cache, cf))
}

/// The log database: every write is synced, and nothing of it may be missing at open (see [`crate::raft_log`]).
pub(crate) fn log() -> (Options, [(&'static str, Options); 1]) {
    let mut options = common();
    // `wal_check` has cut off a torn tail before RocksDB sees the file: whatever it still finds wrong is damage.
    options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(128 << 20);

    let mut family = common();
    family.set_write_buffer_size(32 << 20);
    family.set_max_write_buffer_number(4);
    family.set_compression_type(DBCompressionType::Lz4);
    family.set_block_based_table_factory(&table(&Cache::new_lru_cache(16 << 20)));
    (options, [("default", family)])
}
