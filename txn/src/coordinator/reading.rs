//! What is read as of when: one snapshot for a transaction, or one for each of its statements.
//!
//! | level | snapshot | validated by the commit |
//! |---|---|---|
//! | `Serializable` | one; it moves forward as long as nothing that was read has changed | everything that was read |
//! | `Snapshot` | one; it moves only while no earlier statement has used it | rows that were locked or written |
//! | `ReadCommitted` | each statement's | rows that were locked, since they were; written ones, since they were read |
//!
//! Below `Serializable` schema changes are *strict*: what they read is validated like a serializable transaction's, for they
//! decide by what they don't write (is the schema empty? are the rows unique?). So are snapshots that a foreign key's checks ask for
//! ([`Transaction::latest`]): rows that refer to one that goes must not be missed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::txn::Txn;
use crate::Error;
use crate::api::{
    Fence, Isolation, Key, LockWait, LockedRow, Locking, ScanPage, ScanRequest, Transaction, Value, Write,
};
use crate::spans::SpanSet;

/// A snapshot, and what was read at it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    inner: Mutex<Inner>,
    /// Held while the timestamp is drawn.
    pub drawing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    at: Option<Timestamp>,
    /// Chosen by the client: it never moves.
    fixed: bool,
    /// What is read is to be validated.
    tracked: bool,
    /// Something was read at it.
    used: bool,
    /// What was read at it, where that is tracked.
    reads: SpanSet,
    /// The same when the statement began.
    before: SpanSet,
    used_before: bool,
}

/// Whether and how a snapshot can be moved to the present.
pub(super) enum Move {
    /// It has.
    Done,
    /// If this has not changed.
    If(Timestamp, Vec<KeyRange>),
    Never,
}

impl Reading {
    /// A snapshot that is drawn at its first use, unless it is given.
    pub fn new(tracked: bool, at: Option<Timestamp>) -> Arc<Self> {
        let inner = Inner { at, fixed: at.is_some(), tracked, ..Inner::default() };
        Arc::new(Self { inner: Mutex::new(inner), drawing: tokio::sync::Mutex::default() })
    }

    /// The timestamp, if it was drawn.
    pub fn at(&self) -> Option<Timestamp> {
        self.inner.lock().at
    }

    /// Takes a timestamp unless there is one; the one that counts.
    pub fn at_or(&self, at: Timestamp) -> Timestamp {
        *self.inner.lock().at.get_or_insert(at)
    }

    /// From now on what is read is tracked.
    pub fn track(&self) {
        self.inner.lock().tracked = true;
    }

    /// Whether what is read is tracked.
    pub fn is_tracked(&self) -> bool {
        self.inner.lock().tracked
    }

    /// A key was read.
    pub fn add_key(&self, key: &Bytes) {
        let mut inner = self.inner.lock();
        inner.used = true;
        if inner.tracked {
            inner.reads.add_key(key);
        }
    }

    /// A range was read.
    pub fn add_range(&self, range: &KeyRange) {
        let mut inner = self.inner.lock();
        inner.used = true;
        if inner.tracked {
            inner.reads.add_range(range);
        }
    }

    /// What was read and is to be validated, and since when; to be called at the end, or when it counts no more.
    pub fn take(&self) -> Option<(Timestamp, SpanSet)> {
        let mut inner = self.inner.lock();
        let reads = std::mem::take(&mut inner.reads);
        inner.at.filter(|_| !reads.is_empty()).map(|at| (at, reads))
    }

    /// A statement begins.
    pub fn begin_statement(&self) {
        let mut inner = self.inner.lock();
        inner.before = inner.reads.clone();
        inner.used_before = inner.used;
    }

    /// What was read since then is forgotten. False: the snapshot was in use before, and cannot move.
    pub fn forget_statement(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.reads = inner.before.clone();
        inner.used = inner.used_before;
        inner.tracked || !inner.used
    }

    /// Moves the snapshot, if that needs no look at the shards.
    pub fn move_now(&self, level: Isolation) -> Move {
        let mut inner = self.inner.lock();
        match inner.at {
            None => Move::Done,
            Some(_) if inner.fixed => Move::Never,
            Some(_) if !inner.used || level == Isolation::ReadCommitted && !inner.tracked => {
                // Drawn again at the next use.
                inner.at = None;
                Move::Done
            }
            Some(at) if level == Isolation::Serializable => Move::If(at, inner.reads.ranges().collect()),
            Some(_) => Move::Never,
        }
    }

    /// Moves the snapshot, after `reads` were found unchanged; unless a scan has read as of the old one meanwhile.
    pub fn move_to(&self, from: Timestamp, reads: Vec<KeyRange>, to: Timestamp) -> bool {
        let mut inner = self.inner.lock();
        let still = inner.at == Some(from) && inner.reads.ranges().eq(reads);
        if still {
            inner.at = Some(to);
        }
        still
    }
}

/// A transaction as one of its statements sees it, with a snapshot of its own.
pub(super) struct Statement {
    txn: Arc<Txn>,
    reading: Arc<Reading>,
}

impl Statement {
    pub fn new(txn: Arc<Txn>, reading: Arc<Reading>) -> Arc<Self> {
        Arc::new(Self { txn, reading })
    }
}

#[async_trait]
impl Transaction for Statement {
    fn id(&self) -> TxnId {
        self.txn.id
    }

    fn isolation(&self) -> Isolation {
        self.txn.options.isolation
    }

    fn in_doubt(&self) -> bool {
        self.txn.in_doubt()
    }

    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        self.txn.draw(&self.reading).await
    }

    async fn get(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error> {
        self.txn.get_at(&self.reading, keys, fences).await
    }

    async fn scan(&self, request: ScanRequest, fences: &[Fence]) -> Result<ScanPage, Error> {
        self.txn.scan_at(&self.reading, request, fences).await
    }

    async fn write(&self, writes: Vec<Write>, fences: &[Fence]) -> Result<(), Error> {
        self.txn.write_at(&self.reading, writes, fences).await
    }

    async fn write_fence(&self, prefix: Key, version: Option<u64>) -> Result<(), Error> {
        self.txn.write_fence(prefix, version).await
    }

    async fn lock(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<LockedRow>, Error> {
        self.txn.lock_at(&self.reading, keys, how, fences, false).await
    }

    async fn lock_latest(
        &self,
        keys: &[Key],
        how: Locking,
        fences: &[Fence],
    ) -> Result<Vec<LockedRow>, Error> {
        self.txn.lock_at(&self.reading, keys, how, fences, true).await
    }

    async fn lock_table(&self, fence: &Fence, wait: LockWait) -> Result<(), Error> {
        self.txn.lock_table_at(fence, wait).await
    }

    async fn demand(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<bool>, Error> {
        self.txn.demand_at(&self.reading, keys, how, fences).await
    }

    fn latest(&self) -> Option<Arc<dyn Transaction>> {
        self.txn.latest()
    }

    fn forget_reads(&self) {
        let _ = self.reading.take();
    }

    fn begin_statement(&self) {
        self.reading.begin_statement();
    }

    async fn retry_statement(&self, savepoint: u64) -> Result<bool, Error> {
        self.txn.retry_at(&self.reading, savepoint).await
    }

    async fn refresh(&self) -> Result<bool, Error> {
        self.txn.refresh_at(&self.reading).await
    }

    fn savepoint(&self) -> u64 {
        self.txn.savepoint()
    }

    fn keep_marks(&self, since: Option<u64>) {
        self.txn.keep_marks(since);
    }

    async fn rollback_to(&self, savepoint: u64) -> Result<(), Error> {
        self.txn.rollback_to(savepoint).await
    }

    async fn commit(&self) -> Result<Timestamp, Error> {
        self.txn.commit().await
    }

    async fn rollback(&self) {
        self.txn.rollback().await;
    }
}
