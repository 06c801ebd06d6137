//! What a store costs: appends to the shared log, applied batches, reads of versions, snapshots.
//!
//! `cargo bench --workspace --bench storage`; the stores lie on a real disk (cargo's directory for temporary files, or
//! `FLOTILLA_BENCH_DIR`), and each append is waited for until it is synced. docs/storage-costs.md has figures.

use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use storage::ids::{GroupId, KeyRange, LogIndex, NodeId, Timestamp};
use storage::seam::Seams;
use storage::{Cf, Engine, Identity, Snapshot, Store, StoreOptions, mvcc};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// An entry, or a row's value.
const PAYLOAD_BYTES: usize = 256;
const ROWS: u64 = 100_000;
/// Versions of each row in the store with a history.
const VERSIONS: u64 = 10;
const PAGE: mvcc::Limits = mvcc::Limits { rows: 1_000, bytes: 1 << 20 };

fn main() {
    divan::main();
}

fn directory() -> TempDir {
    let parent = std::env::var_os("FLOTILLA_BENCH_DIR").map(PathBuf::from);
    let parent = parent.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&parent).expect("a place for stores");
    TempDir::new_in(parent).expect("a directory")
}

struct Disk {
    store: Arc<Store>,
    _dir: TempDir,
}

fn open() -> Disk {
    let dir = directory();
    let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).expect("the store opens");
    store.set_identity(Identity { cluster_id: 1, node_id: NodeId(1) }).expect("an identity");
    Disk { store, _dir: dir }
}

// ---- the log

/// One append of `batch` entries to each of so many groups; goes on when all of them are synced.
fn append(bencher: Bencher, groups: u64, batch: u64) {
    let disk = open();
    let log = disk.store.log();
    let entry = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let mut next = 1;
    bencher.counter(ItemsCount::new(groups * batch)).bench_local(|| {
        let (sender, synced) = mpsc::channel();
        for group in 1..=groups {
            let entries = (next..next + batch).map(|index| (LogIndex(index), entry.clone())).collect();
            let sender = sender.clone();
            log.append(GroupId(group), entries, Box::new(move |done| sender.send(done).expect("waited for")));
        }
        for _ in 0..groups {
            synced.recv().expect("an answer").expect("an append");
        }
        next += batch;
    });
}

#[divan::bench(args = [1, 8, 64, 512], max_time = 2)]
fn log_append_1_group(bencher: Bencher, batch: u64) {
    append(bencher, 1, batch);
}

#[divan::bench(args = [1, 8], max_time = 2)]
fn log_append_64_groups(bencher: Bencher, batch: u64) {
    append(bencher, 64, batch);
}

#[divan::bench(max_time = 2)]
fn log_vote(bencher: Bencher) {
    let disk = open();
    let log = disk.store.log();
    bencher.bench_local(|| {
        let (sender, synced) = mpsc::channel();
        let vote = Bytes::from_static(b"a vote of twenty byt");
        log.save_vote(GroupId(1), vote, Box::new(move |done| sender.send(done).expect("waited for")));
        synced.recv().expect("an answer").expect("a vote");
    });
}

// ---- the state

fn key(row: u64) -> Vec<u8> {
    [&b"table-0001/"[..], &row.to_be_bytes()].concat()
}

/// Rows in no order, the same each time.
fn somewhere(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % ROWS
}

fn write_version(engine: &Engine, version: u64) {
    let value = vec![b'v'; PAYLOAD_BYTES];
    for first in (0..ROWS).step_by(1_000) {
        let mut batch = engine.batch();
        for row in first..first + 1_000 {
            mvcc::put_version(&mut batch, &key(row), Timestamp(version << 18), Some(&value));
        }
        engine.write(batch).expect("a batch");
    }
}

/// Rows with one version each, flushed.
static PLAIN: LazyLock<Disk> = LazyLock::new(|| filled(1));
/// Rows with many, flushed.
static HISTORY: LazyLock<Disk> = LazyLock::new(|| filled(VERSIONS));

fn filled(versions: u64) -> Disk {
    let disk = open();
    (1..=versions).for_each(|version| write_version(&disk.store.engine(), version));
    disk.store.engine().flush().expect("a flush");
    disk
}

/// What applying one command of so many rows writes: their versions and the applied index, as one batch.
#[divan::bench(args = [1, 10, 100], sample_size = 10)]
fn apply_rows(bencher: Bencher, rows: u64) {
    let disk = open();
    let engine = disk.store.engine();
    let value = vec![b'v'; PAYLOAD_BYTES];
    let mut index = 0_u64;
    bencher.counter(ItemsCount::new(rows)).bench_local(|| {
        let mut batch = engine.batch();
        for n in 0..rows {
            let row = key(somewhere(index * rows + n));
            mvcc::put_version(&mut batch, &row, Timestamp(index << 18), Some(&value));
        }
        index += 1;
        batch.put(Cf::Group, b"group 1: applied", &index.to_be_bytes());
        engine.write(batch).expect("a batch");
    });
}

fn get(bencher: Bencher, disk: &Disk) {
    let view = disk.store.engine().snapshot();
    let mut n = 0;
    bencher.counter(ItemsCount::new(1_u64)).bench_local(|| {
        n += 1;
        black_box(mvcc::newest(&view, &key(somewhere(n))).expect("a read").expect("a row"))
    });
}

#[divan::bench(sample_size = 100)]
fn mvcc_get_1_version(bencher: Bencher) {
    get(bencher, &PLAIN);
}

#[divan::bench(sample_size = 100)]
fn mvcc_get_10_versions(bencher: Bencher) {
    get(bencher, &HISTORY);
}

#[divan::bench(sample_size = 100)]
fn mvcc_get_missing(bencher: Bencher) {
    let view = PLAIN.store.engine().snapshot();
    let mut n = ROWS;
    bencher.counter(ItemsCount::new(1_u64)).bench_local(|| {
        n += 1;
        black_box(mvcc::newest(&view, &key(n)).expect("a read"))
    });
}

/// Many keys with one cursor, as a batch of reads of one snapshot.
#[divan::bench(max_time = 2)]
fn mvcc_get_100_keys(bencher: Bencher) {
    let view = PLAIN.store.engine().snapshot();
    let mut n = 0;
    bencher.counter(ItemsCount::new(100_u64)).bench_local(|| {
        let mut reader = mvcc::PointReader::new(&view);
        for _ in 0..100 {
            n += 1;
            black_box(reader.get_with(&key(somewhere(n)), Timestamp::MAX, |ts, _| ts).expect("a read"));
        }
    });
}

fn scan(bencher: Bencher, view: &Snapshot, reverse: bool) {
    let mut n = 0;
    bencher.counter(ItemsCount::new(PAGE.rows)).bench_local(|| {
        n += 1;
        let first = somewhere(n) % (ROWS - PAGE.rows as u64);
        let range = KeyRange::new(key(first), key(first + PAGE.rows as u64));
        let page = mvcc::scan(view, &range, Timestamp::MAX, reverse, PAGE).expect("a scan");
        assert_eq!(page.rows.len(), PAGE.rows);
        page
    });
}

#[divan::bench(max_time = 2)]
fn mvcc_scan_1000_rows_1_version(bencher: Bencher) {
    scan(bencher, &PLAIN.store.engine().snapshot(), false);
}

#[divan::bench(max_time = 2)]
fn mvcc_scan_1000_rows_10_versions(bencher: Bencher) {
    scan(bencher, &HISTORY.store.engine().snapshot(), false);
}

#[divan::bench(max_time = 2)]
fn mvcc_scan_1000_rows_backwards(bencher: Bencher) {
    scan(bencher, &PLAIN.store.engine().snapshot(), true);
}

// ---- snapshots

const SHARD: u64 = ROWS * (PAYLOAD_BYTES as u64 + 19);

fn shard() -> Vec<(Cf, KeyRange)> {
    vec![(Cf::Data, KeyRange::prefix(b"table-0001/"))]
}

/// All chunks of a shard's state, as they are sent.
#[divan::bench(max_time = 4)]
fn snapshot_export(bencher: Bencher) {
    let engine = PLAIN.store.engine();
    bencher.counter(BytesCount::new(SHARD)).bench_local(|| {
        let view = Arc::new(engine.snapshot());
        let chunks = engine.export(view, &shard()).map(|chunk| chunk.expect("a chunk").payload.len());
        assert!(chunks.sum::<usize>() as u64 > SHARD);
    });
}

/// The same into another store, until it is durable: checked, made into tables, and ingested.
#[divan::bench(max_time = 4, sample_count = 5, sample_size = 1)]
fn snapshot_import(bencher: Bencher) {
    let engine = PLAIN.store.engine();
    let view = Arc::new(engine.snapshot());
    let chunks: Vec<_> = engine.export(view, &shard()).collect::<Result<_, _>>().expect("chunks");
    bencher.counter(BytesCount::new(SHARD)).with_inputs(open).bench_local_refs(|disk| {
        let engine = disk.store.engine();
        let mut import = engine.import(GroupId(1), &shard()).expect("an import");
        chunks.iter().for_each(|chunk| import.put(chunk).expect("a chunk"));
        import.finish(engine.batch()).expect("the end");
    });
}

/// What comparing replicas reads and hashes.
#[divan::bench(max_time = 4)]
fn snapshot_digest(bencher: Bencher) {
    let engine = PLAIN.store.engine();
    bencher.counter(BytesCount::new(SHARD)).bench_local(|| {
        let mut digester = storage::digest::Digester::new(engine.snapshot(), &shard());
        while digester.step(1 << 20).expect("read").is_some() {}
        black_box(digester.finish());
    });
}
