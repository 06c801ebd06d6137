//! One transaction: its snapshot, its writes, what it has read.
//!
//! Invariants:
//! * `sent` covers every key under which an intent of this transaction may lie, from before it is sent;
//! * a write is in `buffer`, or in `flushing`, or an intent at its shard; it is in two of them only for a moment, and
//!   with the same value, so that reading through all three in this order is always right;
//! * what was read and is to be validated is covered by a [`Reading`] (of the shards; own writes aside);
//! * below `Serializable`, every row that was locked is in `locked` with the moment since when it may not have changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use storage::ids::{Timestamp, TxnId};
use tokio::sync::oneshot;

use super::buffer::{Buffer, Writes};
use super::core::Core;
use super::reading::{Reading, Statement};
use super::strays::Strays;
use crate::api::{
    BeginOptions, Fence, Isolation, Key, LockWait, LockedRow, Locking, ScanPage, ScanRequest, Transaction,
    Value, Write,
};
use crate::router::{Repeat, RouteError};
use crate::spans::SpanSet;
use crate::wire::{Fate, txn_bytes};
use crate::{Error, LockMode};

/// Where a transaction is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Reads and writes.
    Active,
    /// `commit` or `rollback` was called.
    Ended,
}

pub(super) struct State {
    pub phase: Phase,
    pub buffer: Buffer,
    /// Writes on their way to the shards.
    pub flushing: Option<Arc<Writes>>,
    /// Counts beginnings and ends of flushes.
    pub flushes: u64,
    /// Snapshots of strict statements, beside the transaction's own.
    pub strict: Vec<Arc<Reading>>,
    /// Snapshots of statements, some of which may still be read.
    pub statements: Vec<Weak<Reading>>,
    pub fences: HashSet<Fence>,
    /// Where intents may lie.
    pub sent: SpanSet,
    /// Chosen when the first intent is sent.
    pub primary: Option<Key>,
    /// For whoever fights over a key: the older one wins.
    pub started: Option<Timestamp>,
    /// An early flush has failed, or the transaction was ended by someone else.
    pub failed: Option<Error>,
    /// Rounds of laying intents that have begun.
    pub rounds: u64,
    /// Its outcome is someone else's to find out: no rollback.
    pub undecided: bool,
    /// Rows that were locked. (`Serializable`: some of them; they are reads as well.)
    pub locked: HashMap<Key, LockedKey>,
    /// Keys under which a row must stand at the commit (`demand.rs`).
    pub demanded: BTreeSet<Key>,
}

/// A row that was locked.
pub(super) struct LockedKey {
    /// How strongly.
    pub mode: LockMode,
    /// As of when it was read under the lock; with a lock that excludes writers it has not changed since.
    pub since: Timestamp,
    /// What was read, or written since, for the first rows.
    pub value: Option<Option<Value>>,
}

impl LockedKey {
    /// Whether nobody else may change the row (a lock on the key alone lets others update the rest).
    pub fn excludes_writers(&self) -> bool {
        self.mode >= LockMode::Share
    }
}

/// A transaction.
pub struct Txn {
    pub(super) id: TxnId,
    pub(super) options: BeginOptions,
    pub(super) core: Arc<Core>,
    pub(super) state: Mutex<State>,
    /// Requests that lay intents or commit them.
    pub(super) strays: Arc<Strays>,
    /// The transaction's snapshot.
    pub(super) reading: Arc<Reading>,
    /// The commit has gone too far to be taken back by dropping it.
    pub(super) doubt: AtomicBool,
    /// Held while intents are sent.
    pub(super) sending: Arc<tokio::sync::Mutex<()>>,
    pub(super) this: Weak<Txn>,
}

impl Txn {
    /// A transaction that has not yet done anything.
    pub fn begin(core: Arc<Core>, mut options: BeginOptions) -> Arc<Self> {
        options.read_only |= options.as_of.is_some();
        let id = crate::who::new_txn(core.router.server().me(), &core.seams);
        let state = State {
            phase: Phase::Active,
            buffer: Buffer::default(),
            flushing: None,
            flushes: 0,
            strict: Vec::new(),
            statements: Vec::new(),
            fences: HashSet::new(),
            sent: SpanSet::default(),
            primary: None,
            started: None,
            failed: None,
            rounds: 0,
            undecided: false,
            locked: HashMap::new(),
            demanded: BTreeSet::new(),
        };
        let reading = Reading::new(options.isolation == Isolation::Serializable, options.as_of);
        Arc::new_cyclic(|this| {
            core.open.add(id, this.clone());
            Self {
                id,
                options,
                core,
                state: Mutex::new(state),
                strays: Arc::default(),
                reading,
                doubt: AtomicBool::new(false),
                sending: Arc::default(),
                this: this.clone(),
            }
        })
    }

    /// Refuses what must not be done in this state of the transaction.
    pub(super) fn check(&self, state: &State, writes: bool) -> Result<(), Error> {
        if state.phase != Phase::Active {
            return Err(Error::Invalid("the transaction has ended".to_owned()));
        }
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if writes && self.options.read_only {
            return Err(Error::Invalid("a write in a read-only transaction".to_owned()));
        }
        Ok(())
    }

    /// Notes the fences of a statement, for the commit: `strict`, of one that writes, or whose reads are validated. Returns those that the shards have to check; those that the
    /// transaction itself has set are checked here.
    pub(super) fn use_fences(
        &self,
        state: &mut State,
        fences: &[Fence],
        strict: bool,
    ) -> Result<Vec<Fence>, Error> {
        // With a snapshot for each statement, what was only read may have another schema by now.
        let noted = strict || self.options.isolation != Isolation::ReadCommitted;
        let mut others = Vec::with_capacity(fences.len());
        for fence in fences {
            match state.buffer.fences().get(&fence.prefix) {
                Some(own) if own.unwrap_or(0) == fence.version => {}
                Some(_) => return Err(Error::FenceMismatch { prefix: fence.prefix.clone() }),
                None => {
                    if noted && !state.fences.contains(fence) {
                        state.fences.insert(fence.clone());
                    }
                    others.push(fence.clone());
                }
            }
        }
        Ok(others)
    }

    /// The layers of own writes, the newer one first.
    pub(super) fn layers(state: &State) -> (&Writes, Option<Arc<Writes>>) {
        (state.buffer.writes(), state.flushing.clone())
    }

    /// The transaction as shards know it, if it has anything there.
    pub(super) fn own(&self, state: &State) -> Option<TxnId> {
        (!state.sent.is_empty()).then_some(self.id)
    }

    /// Begins to say that this transaction lives, until it ends.
    pub(super) fn start_heartbeat(&self, primary: Key) {
        let (this, core, id) = (self.this.clone(), self.core.clone(), self.id);
        self.core.seams.spawn("heartbeat", async move {
            loop {
                core.seams.sleep(core.options.heartbeat).await;
                let Some(txn) = this.upgrade() else {
                    return;
                };
                // It may be committing: that can take long, too.
                if txn.state.lock().sent.is_empty() {
                    return;
                }
                drop(txn);
                let ask = Ask::Heartbeat(pb::Heartbeat { txn: txn_bytes(id), primary: primary.clone() });
                let answer = core.router.ask_key(&primary, ask, Repeat::Harmless, core.deadline()).await;
                if let Err(RouteError::Failed(error @ Error::Aborted(_))) = answer {
                    if let Some(txn) = this.upgrade() {
                        txn.state.lock().failed.get_or_insert(error);
                    }
                    return;
                }
            }
        });
    }

    /// Ends the transaction without a commit: removes what it has sent, in the background. The receiver tells when its locks are
    /// gone.
    pub(super) fn abandon(&self) -> Option<oneshot::Receiver<()>> {
        let (sent, primary, undecided) = {
            let mut state = self.state.lock();
            state.phase = Phase::Ended;
            state.buffer = Buffer::default();
            (std::mem::take(&mut state.sent), state.primary.clone(), state.undecided)
        };
        let unlocked = self.core.unlock(self.id);
        let (Some(primary), false) = (primary, sent.is_empty()) else {
            return unlocked;
        };
        let (core, id, sending) = (self.core.clone(), self.id, self.sending.clone());
        let strays = self.strays.clone();
        self.core.seams.spawn("rollback", async move {
            // What is still being sent has to arrive first, or it would be left behind.
            let _sending = sending.lock().await;
            let strays = strays.any();
            // Nobody but this coordinator commits the transaction, and it has not tried, or was refused. If it doesn't
            // know, the primary does (and if it doesn't either, it never will). And if requests are under way, the
            // primary has to know, so as to refuse them.
            let mut fate = Fate::Aborted;
            if undecided || strays {
                let push = pb::Push {
                    txn: txn_bytes(id),
                    primary: primary.clone(),
                    abort: true,
                    ..pb::Push::default()
                };
                match core.push_with(push, core.deadline()).await {
                    Ok(found) => fate = found,
                    Err(_) => return,
                }
            }
            core.finish(id, primary, fate, sent, HashMap::new(), !strays).await;
        });
        unlocked
    }

    /// The oldest snapshot that is in use.
    pub(super) fn snapshot_if_any(&self) -> Option<Timestamp> {
        let statements: Vec<_> = self.state.lock().statements.iter().filter_map(Weak::upgrade).collect();
        statements.iter().chain([&self.reading]).filter_map(|reading| reading.at()).min()
    }

    /// When the transaction began, if that is known.
    pub(super) fn started_if_known(&self) -> Timestamp {
        self.state.lock().started.unwrap_or(Timestamp::ZERO)
    }

    /// The isolation level.
    pub(super) fn is_serializable(&self) -> bool {
        self.options.isolation == Isolation::Serializable
    }
}

#[async_trait]
impl Transaction for Txn {
    fn id(&self) -> TxnId {
        self.id
    }

    fn isolation(&self) -> Isolation {
        self.options.isolation
    }

    fn in_doubt(&self) -> bool {
        self.doubt.load(Ordering::Acquire)
    }

    fn statement(&self, strict: bool) -> Option<Arc<dyn Transaction>> {
        match self.options.isolation {
            Isolation::Serializable => None,
            Isolation::Snapshot => {
                if strict {
                    self.reading.track();
                }
                None
            }
            // One moment in the past was asked for.
            Isolation::ReadCommitted if self.options.as_of.is_some() => None,
            Isolation::ReadCommitted => {
                let reading = Reading::new(strict, None);
                let mut state = self.state.lock();
                state.statements.retain(|reading| reading.strong_count() > 0);
                state.statements.push(Arc::downgrade(&reading));
                if strict {
                    state.strict.push(reading.clone());
                }
                drop(state);
                Some(Statement::new(self.this.upgrade()?, reading))
            }
        }
    }

    async fn demand(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<bool>, Error> {
        self.demand_at(&self.reading, keys, how, fences).await
    }

    fn latest(&self) -> Option<Arc<dyn Transaction>> {
        Txn::latest(self)
    }

    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        self.draw(&self.reading).await
    }

    async fn get(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error> {
        self.get_at(&self.reading, keys, fences).await
    }

    async fn scan(&self, request: ScanRequest, fences: &[Fence]) -> Result<ScanPage, Error> {
        self.scan_at(&self.reading, request, fences).await
    }

    async fn write(&self, writes: Vec<Write>, fences: &[Fence]) -> Result<(), Error> {
        self.write_at(&self.reading, writes, fences).await
    }

    async fn write_fence(&self, prefix: Key, version: Option<u64>) -> Result<(), Error> {
        let mut state = self.state.lock();
        self.check(&state, true)?;
        state.buffer.put_fence(prefix, version);
        Ok(())
    }

    async fn lock(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<LockedRow>, Error> {
        self.lock_at(&self.reading, keys, how, fences, false).await
    }

    async fn lock_latest(
        &self,
        keys: &[Key],
        how: Locking,
        fences: &[Fence],
    ) -> Result<Vec<LockedRow>, Error> {
        self.lock_at(&self.reading, keys, how, fences, !self.is_serializable()).await
    }

    async fn lock_table(&self, fence: &Fence, wait: LockWait) -> Result<(), Error> {
        self.lock_table_at(fence, wait).await
    }

    fn begin_statement(&self) {
        self.reading.begin_statement();
    }

    async fn retry_statement(&self, savepoint: u64) -> Result<bool, Error> {
        self.retry_at(&self.reading, savepoint).await
    }

    async fn refresh(&self) -> Result<bool, Error> {
        self.refresh_at(&self.reading).await
    }

    fn savepoint(&self) -> u64 {
        self.state.lock().buffer.savepoint()
    }

    fn keep_marks(&self, since: Option<u64>) {
        self.state.lock().buffer.keep(since);
    }

    async fn rollback_to(&self, savepoint: u64) -> Result<(), Error> {
        self.undo_to(savepoint).await
    }

    async fn commit(&self) -> Result<Timestamp, Error> {
        {
            let mut state = self.state.lock();
            if state.phase != Phase::Active {
                return Err(Error::Invalid("the transaction has ended".to_owned()));
            }
            state.phase = Phase::Ended;
        }
        let result = self.run_commit().await;
        let mut gone = None;
        if let Err(error) = &result {
            let why = match error {
                Error::Conflict { .. } => "conflict",
                Error::FenceMismatch { .. } => "schema",
                Error::AlreadyExists { .. } => "exists",
                Error::Aborted(_) => "aborted",
                Error::Ambiguous(_) => "ambiguous",
                Error::Unavailable(_) => "unavailable",
                _ => "other",
            };
            metrics::counter!("flotilla_txn_failed_commits_total", "why" => why).increment(1);
            gone = self.abandon();
        }
        // (Where intents are left to be settled, the locks go after them.)
        self.core.until_gone(gone.or_else(|| self.core.unlock(self.id))).await;
        result
    }

    async fn rollback(&self) {
        let gone = self.abandon();
        self.core.until_gone(gone).await;
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        self.core.open.remove(self.id);
        // Nobody waits.
        let _ = self.abandon();
    }
}
