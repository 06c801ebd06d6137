//! What reads cost.

use crate::ids::Timestamp;
use crate::{StoreOptions, mvcc};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

/// What a read needs beside its block (filter and index of a table) must be small enough to stay in the cache, whatever the size
/// of the table.
#[test]
fn a_read_in_a_large_table_does_not_read_the_whole_filter_each_time() {
    const KEYS: u32 = 800_000;
    let dir = tempfile::tempdir().expect("a directory");
    // A filter of 1 MB, and a cache whose shards hold 512 KB.
    let options =
        StoreOptions { block_cache_bytes: 1 << 20, memtable_bytes: 256 << 20, ..Default::default() };
    let store = super::open_with(dir.path(), options);
    let engine = store.engine();
    // Twice, so that there is something to merge: a table that is only moved to another level stays as it is.
    for at in [7, 8] {
        for chunk in 0..KEYS / 10_000 {
            let mut batch = engine.batch();
            for number in chunk * 10_000..(chunk + 1) * 10_000 {
                mvcc::put_version(&mut batch, &number.to_be_bytes(), Timestamp(at), Some(b"v"));
            }
            engine.write(batch).expect("written");
        }
        engine.flush().expect("flushed");
    }
    // The filters of the youngest tables are pinned.
    engine.compact();
    let read = || {
        let snapshot = engine.snapshot();
        mvcc::get(&snapshot, &77_u32.to_be_bytes(), Timestamp(9)).expect("read").expect("there");
    };
    read();
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut counts = PerfContext::default();
    counts.reset();
    for _ in 0..20 {
        read();
    }
    let bytes = counts.metric(PerfMetric::BlockReadByte);
    assert!(bytes < 200_000, "20 reads of one row have read {bytes} bytes of tables");
}
