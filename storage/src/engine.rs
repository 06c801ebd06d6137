//! The state database: what the groups' state machines have applied.
//!
//! It has no write-ahead log of its own; the Raft log is that. A crash therefore loses what was not flushed, and
//! what survives is a *prefix* of the written batches over all column families (they flush atomically). So whoever
//! writes a batch puts the log index that it stands for into the same batch, and finds after a restart from where
//! to apply again. [`Engine::flush`] makes everything written before it durable; only then may the log be purged.
//! (One thing is durable out of turn: tables that an import brings. See [`crate::import`].)

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::{DB, DBRawIterator, Options, ReadOptions, WriteBatch, WriteOptions};
use tokio::sync::Semaphore;

use crate::Error;
use crate::ids::KeyRange;
use crate::keys;
use crate::options::{self, StoreOptions};
use crate::seam::Seams;
use crate::{tables, verify};

/// A batch that is larger goes to a thread of its own at once: writing it takes about a millisecond or more, even if nothing is in its way.
const PROMPT_BYTES_MAX: usize = 64 << 10;
/// Threads that write for others ([`Engine::write_aside`]); more wait, and keep no thread.
const ASIDE_MAX: usize = 8;

/// A column family of the state database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cf {
    /// Committed versions of rows: encoded user key and timestamp ([`crate::keys`]) → value or tombstone.
    Data,
    /// Provisional writes: user key → intent ([`crate::intents`]).
    Intents,
    /// What groups keep for themselves: group id (8 bytes, big-endian) and whatever follows → anything. Group id 0
    /// is this crate's own.
    Group,
}

impl Cf {
    /// All of them.
    pub const ALL: [Cf; 3] = [Cf::Data, Cf::Intents, Cf::Group];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Cf::Data => "data",
            Cf::Intents => "intents",
            Cf::Group => "group",
        }
    }

    /// A range as callers say it (in user keys) as a range of stored keys.
    pub(crate) fn stored(self, range: &KeyRange) -> KeyRange {
        match self {
            Cf::Data => keys::encode_range(range),
            Cf::Intents | Cf::Group => range.clone(),
        }
    }
}

/// The state database. All methods may be called from any thread; all may block on the disk.
pub struct Engine {
    db: Arc<DB>,
    /// The first write that was refused. Set before whoever wrote hears of it.
    failed: OnceLock<Error>,
    /// See [`ASIDE_MAX`].
    aside: Semaphore,
    /// For tables that are made outside of the database: made when they are first asked for.
    table_options: OnceLock<[Options; 3]>,
}

impl Engine {
    pub(crate) fn open(dir: &Path, options: &StoreOptions) -> Result<Self, Error> {
        // Before RocksDB looks: a crash may have left a table of theirs under a second name among its own.
        tables::remove_leftovers(dir)?;
        Ok(Self::over(verify::open(dir, || options::state(options), options.verify_bytes_max)?))
    }

    /// Over a database that is open already, perhaps for reading only.
    pub(crate) fn over(db: DB) -> Self {
        Self {
            db: Arc::new(db),
            failed: OnceLock::new(),
            aside: Semaphore::new(ASIDE_MAX),
            table_options: OnceLock::new(),
        }
    }

    pub(crate) fn database(&self) -> &DB {
        &self.db
    }

    /// How tables of a column family are written outside of the database.
    pub(crate) fn table_options(&self, cf: Cf) -> &Options {
        &self.table_options.get_or_init(options::tables)[cf as usize]
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch { db: self.db.clone(), inner: WriteBatch::default() }
    }

    /// Applies a batch atomically. Visible when this returns, durable after the next [`Engine::flush`] (or earlier). Blocks for long
    /// where RocksDB holds writes back.
    pub fn write(&self, batch: Batch) -> Result<(), Error> {
        self.written(self.db.write_opt(batch.inner, &unlogged()))
    }

    /// As [`Engine::write`], for callers on an async runtime: while RocksDB holds writes back (its flushes or compactions are behind), the
    /// batch waits on another thread, and the caller's goes on with other tasks. Done in order if it is awaited in order; dropped on the
    /// way, it may be written all the same.
    pub async fn write_aside(self: &Arc<Self>, batch: Batch, seams: &Seams) -> Result<(), Error> {
        let Some(batch) = self.write_promptly(batch)? else { return Ok(()) };
        let _place = self.aside.acquire().await.map_err(|_| Error::Closed)?;
        metrics::counter!("flotilla_state_writes_aside_total").increment(1);
        let engine = self.clone();
        let written = seams.blocking("write-state", move || engine.write(batch)).await;
        written.unwrap_or_else(|e| {
            Err(Error::io("write a batch, on a thread of its own, in", self.db.path(), e))
        })
    }

    /// Gives the batch back if it is not to be written on this thread.
    fn write_promptly(&self, batch: Batch) -> Result<Option<Batch>, Error> {
        if batch.bytes() > PROMPT_BYTES_MAX {
            return Ok(Some(batch));
        }
        // The binding drops what it is given, written or not. (To copy it costs next to nothing beside writing it.)
        let copy = WriteBatch::from_data(batch.inner.data());
        let mut options = unlogged();
        options.set_no_slowdown(true);
        match self.db.write_opt(batch.inner, &options) {
            Err(e) if e.kind() == rocksdb::ErrorKind::Incomplete => {
                Ok(Some(Batch { db: batch.db, inner: copy }))
            }
            written => self.written(written).map(|()| None),
        }
    }

    fn written(&self, written: Result<(), rocksdb::Error>) -> Result<(), Error> {
        written.map_err(|e| {
            // A batch that makes no sense is its writer's fault.
            let is_misuse = e.kind() == rocksdb::ErrorKind::InvalidArgument;
            let error = Error::rocks("write a batch", self.db.path(), e);
            if !is_misuse {
                let _ = self.failed.set(error.clone());
            }
            error
        })
    }

    /// The first write that was refused, if one was. Batches go to memory, so RocksDB refuses one only when it has met something in the
    /// background that it can't go on with (a flush that fails, a damaged table in a compaction); then it refuses all of them.
    pub fn failure(&self) -> Option<Error> {
        self.failed.get().cloned()
    }

    /// The state as it is now, for as long as the snapshot lives.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.db.clone())
    }

    /// Reads the latest value of one key; for more than one use a snapshot.
    pub fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.db.get_pinned_cf(handle(&self.db, cf), key);
        let value = value.map_err(|e| Error::rocks("read a key", self.db.path(), e))?;
        Ok(value.map(|v| Bytes::copy_from_slice(&v)))
    }

    /// Makes every batch that was written before this call durable, all column families at once. Blocks until then.
    pub fn flush(&self) -> Result<(), Error> {
        let mut options = rocksdb::FlushOptions::default();
        options.set_wait(true);
        let families = Cf::ALL.map(|cf| handle(&self.db, cf));
        self.db
            .flush_cfs_opt(&families, &options)
            .map_err(|e| Error::rocks("flush the state database", self.db.path(), e))
    }

    /// About how many bytes on disk a range takes (user keys in `Data` and `Intents`).
    pub fn approximate_bytes(&self, cf: Cf, range: &KeyRange) -> u64 {
        let stored = cf.stored(range);
        let end = if stored.end.is_empty() { &keys::BEYOND_ALL[..] } else { &stored.end[..] };
        let ranges = [rocksdb::Range::new(&stored.start, end)];
        self.db.get_approximate_sizes_cf(handle(&self.db, cf), &ranges).iter().sum()
    }

    /// Moves everything to the last level.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        for cf in Cf::ALL {
            self.db.compact_range_cf(handle(&self.db, cf), None::<&[u8]>, None::<&[u8]>);
        }
    }

    /// Publishes the sizes of memtables, tables and caches, and the compaction backlog, as gauges.
    pub fn record_metrics(&self) {
        const PROPERTIES: [(&str, &str); 5] = [
            ("rocksdb.cur-size-all-mem-tables", "flotilla_state_memtable_bytes"),
            ("rocksdb.live-sst-files-size", "flotilla_state_table_bytes"),
            ("rocksdb.estimate-pending-compaction-bytes", "flotilla_state_compaction_pending_bytes"),
            ("rocksdb.estimate-num-keys", "flotilla_state_keys"),
            ("rocksdb.num-files-at-level0", "flotilla_state_level0_files"),
        ];
        for cf in Cf::ALL {
            for (property, gauge) in PROPERTIES {
                // A gauge that cannot be read is left as it was.
                if let Ok(Some(value)) = self.db.property_int_value_cf(handle(&self.db, cf), property) {
                    metrics::gauge!(gauge, "cf" => cf.name()).set(value as f64);
                }
            }
        }
        // One cache for all of them.
        let data = handle(&self.db, Cf::Data);
        if let Ok(Some(value)) = self.db.property_int_value_cf(data, "rocksdb.block-cache-usage") {
            metrics::gauge!("flotilla_state_block_cache_bytes").set(value as f64);
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.db.path().display())
    }
}

/// The Raft log is the write-ahead log.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

pub(crate) fn handle(db: &DB, cf: Cf) -> &rocksdb::ColumnFamily {
    db.cf_handle(cf.name()).expect("the state database is opened with every column family")
}

/// Writes that take effect together.
pub struct Batch {
    db: Arc<DB>,
    inner: WriteBatch,
}

impl Batch {
    /// Sets a key (as stored: in `Data` use [`crate::mvcc::put_version`]).
    pub fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.inner.put_cf(handle(&self.db, cf), key, value);
    }

    /// Removes a key (as stored).
    pub fn delete(&mut self, cf: Cf, key: &[u8]) {
        self.inner.delete_cf(handle(&self.db, cf), key);
    }

    /// Removes all keys of a range (user keys in `Data` and `Intents`), whatever this batch or others put there
    /// before.
    pub fn delete_range(&mut self, cf: Cf, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let stored = cf.stored(range);
        let end = if stored.end.is_empty() { &keys::BEYOND_ALL[..] } else { &stored.end[..] };
        self.inner.delete_range_cf(handle(&self.db, cf), &stored.start[..], end);
    }

    /// How many operations are in the batch.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether the batch does nothing.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// The batch's size in memory.
    pub fn bytes(&self) -> usize {
        self.inner.size_in_bytes()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} operations)", self.len())
    }
}

/// The state at one moment. Holds back the removal of old data while it lives, so it should not live for hours.
pub struct Snapshot {
    // Dropped before `db`, which it points into.
    inner: rocksdb::Snapshot<'static>,
    db: Arc<DB>,
}

impl Snapshot {
    fn new(db: Arc<DB>) -> Self {
        let inner = db.snapshot();
        // SAFETY: the snapshot borrows the DB behind the Arc, whose address does not change and which outlives it:
        // the Arc is a later field of the same struct, and fields are dropped in order of declaration.
        let inner =
            unsafe { std::mem::transmute::<rocksdb::Snapshot<'_>, rocksdb::Snapshot<'static>>(inner) };
        Self { inner, db }
    }

    /// Reads one key (as stored).
    pub fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.get_with(cf, key, Bytes::copy_from_slice)
    }

    /// Hands one key's value to `read` without copying it.
    pub fn get_with<T>(&self, cf: Cf, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Error> {
        let value = self.inner.get_pinned_cf(handle(&self.db, cf), key);
        let value = value.map_err(|e| Error::rocks("read a key", self.db.path(), e))?;
        Ok(value.map(|v| read(&v)))
    }

    /// A cursor over a range (user keys in `Data` and `Intents`), not yet on an item: seek first.
    pub fn iter(&self, cf: Cf, range: &KeyRange) -> Iter<'_> {
        let stored = cf.stored(range);
        self.iter_stored(cf, stored, true)
    }

    /// A cursor over a range of stored keys.
    pub(crate) fn iter_stored(&self, cf: Cf, stored: KeyRange, fill_cache: bool) -> Iter<'_> {
        let mut options = ReadOptions::default();
        // `Data` has bloom filters over user keys; a scan must not consult them.
        options.set_total_order_seek(true);
        options.fill_cache(fill_cache);
        if !stored.start.is_empty() {
            options.set_iterate_lower_bound(Vec::from(stored.start));
        }
        if !stored.end.is_empty() {
            options.set_iterate_upper_bound(Vec::from(stored.end));
        }
        self.iter_with(cf, options)
    }

    /// A cursor for seeks to versions of single user keys, which skips the tables whose bloom filter rules them out.
    pub(crate) fn iter_points(&self) -> Iter<'_> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        self.iter_with(Cf::Data, options)
    }

    fn iter_with(&self, cf: Cf, options: ReadOptions) -> Iter<'_> {
        Iter { inner: self.inner.raw_iterator_cf_opt(handle(&self.db, cf), options), dir: self.db.path() }
    }

    /// The state database's directory, to name in errors.
    pub(crate) fn dir(&self) -> PathBuf {
        self.db.path().to_owned()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({})", self.inner.sequence_number())
    }
}

/// A cursor over stored keys. [`Iter::item`] is `None` at the end *or after an error*: ask [`Iter::check`] then.
pub struct Iter<'s> {
    inner: DBRawIterator<'s>,
    dir: &'s Path,
}

impl Iter<'_> {
    /// To the first key of the range.
    pub fn seek_to_first(&mut self) {
        self.inner.seek_to_first();
    }

    /// To the last key of the range.
    pub fn seek_to_last(&mut self) {
        self.inner.seek_to_last();
    }

    /// To the first key at or after `key`.
    pub fn seek(&mut self, key: &[u8]) {
        self.inner.seek(key);
    }

    /// To the last key at or before `key`.
    pub fn seek_for_prev(&mut self, key: &[u8]) {
        self.inner.seek_for_prev(key);
    }

    /// One key on; only from an item.
    pub fn next(&mut self) {
        self.inner.next();
    }

    /// One key back; only from an item.
    pub fn prev(&mut self) {
        self.inner.prev();
    }

    /// The key and value under the cursor.
    pub fn item(&self) -> Option<(&[u8], &[u8])> {
        self.inner.item()
    }

    /// The key under the cursor.
    pub fn key(&self) -> Option<&[u8]> {
        self.inner.key()
    }

    /// The value under the cursor.
    pub fn value(&self) -> Option<&[u8]> {
        self.inner.value()
    }

    /// Whether the cursor is without an item because of an error.
    pub fn check(&self) -> Result<(), Error> {
        self.inner.status().map_err(|e| Error::rocks("iterate", self.dir, e))
    }
}
