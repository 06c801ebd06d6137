//! One transaction: its snapshot, its writes, what it has read.
//!
//! Invariants:
//! * `sent` covers every key under which an intent of this transaction may lie, from before it is sent;
//! * a write is in `buffer`, or in `flushing`, or an intent at its shard; it is in two of them only for a moment, and
//!   with the same value, so that reading through all three in this order is always right;
//! * `reads` covers everything that was read at `read_at` (of the shards; own writes aside).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use storage::ids::{KeyRange, Timestamp, TxnId};
use tokio::sync::oneshot;

use super::buffer::{Buffer, Writes, overlay};
use super::core::{Core, PAGE_BYTES};
use super::strays::Strays;
use crate::api::{
    BeginOptions, Fence, Isolation, Key, LockedRow, Locking, ScanPage, ScanRequest, Transaction, Value, Write,
};
use crate::router::{Repeat, RouteError};
use crate::spans::SpanSet;
use crate::wire::{Fate, txn_bytes};
use crate::{Error, LockMode};

/// Values of locked rows that are kept, so that a statement which locks its rows needn't read them, too.
const LOCKED_VALUES_MAX: usize = 1_000;

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
    /// The snapshot; drawn at the first use.
    pub read_at: Option<Timestamp>,
    pub buffer: Buffer,
    /// Writes on their way to the shards.
    pub flushing: Option<Arc<Writes>>,
    /// Counts beginnings and ends of flushes.
    pub flushes: u64,
    pub reads: SpanSet,
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
    /// What had been read when the statement began.
    statement_reads: SpanSet,
    /// Rows that were locked, how strongly, and their values as of the snapshot: `reads` covers them.
    locked: HashMap<Key, (LockMode, Option<Value>)>,
}

/// A transaction.
pub struct Txn {
    pub(super) id: TxnId,
    pub(super) options: BeginOptions,
    pub(super) core: Arc<Core>,
    pub(super) state: Mutex<State>,
    /// Requests that lay intents or commit them.
    pub(super) strays: Arc<Strays>,
    /// Held while the snapshot's timestamp is drawn.
    drawing: tokio::sync::Mutex<()>,
    /// Held while intents are sent.
    pub(super) sending: Arc<tokio::sync::Mutex<()>>,
    pub(super) this: Weak<Txn>,
}

impl Txn {
    /// A transaction that has not yet done anything.
    pub fn begin(core: Arc<Core>, options: BeginOptions) -> Arc<Self> {
        let id = crate::who::new_txn(core.router.server().me(), &core.seams);
        let state = State {
            phase: Phase::Active,
            read_at: None,
            buffer: Buffer::default(),
            flushing: None,
            flushes: 0,
            reads: SpanSet::default(),
            fences: HashSet::new(),
            sent: SpanSet::default(),
            primary: None,
            started: None,
            failed: None,
            rounds: 0,
            undecided: false,
            statement_reads: SpanSet::default(),
            locked: HashMap::new(),
        };
        Arc::new_cyclic(|this| {
            core.open.add(id, this.clone());
            Self {
                id,
                options,
                core,
                state: Mutex::new(state),
                strays: Arc::default(),
                drawing: tokio::sync::Mutex::default(),
                sending: Arc::default(),
                this: this.clone(),
            }
        })
    }

    /// Refuses what must not be done in this state of the transaction.
    fn check(&self, state: &State, writes: bool) -> Result<(), Error> {
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

    /// Notes the fences of a statement. Returns those that the shards have to check; those that the transaction itself
    /// has set are checked here.
    fn use_fences(state: &mut State, fences: &[Fence]) -> Result<Vec<Fence>, Error> {
        let mut others = Vec::with_capacity(fences.len());
        for fence in fences {
            match state.buffer.fences().get(&fence.prefix) {
                Some(own) if own.unwrap_or(0) == fence.version => {}
                Some(_) => return Err(Error::FenceMismatch { prefix: fence.prefix.clone() }),
                None => {
                    if !state.fences.contains(fence) {
                        state.fences.insert(fence.clone());
                    }
                    others.push(fence.clone());
                }
            }
        }
        Ok(others)
    }

    /// Sends the buffer as intents, in the background, when it has become large. Waits if the last one is still being
    /// sent: that bounds the memory.
    async fn flush_if_large(&self) -> Result<(), Error> {
        let large = |state: &State| state.buffer.bytes() >= self.core.options.flush_bytes;
        if !large(&self.state.lock()) {
            return Ok(());
        }
        let Some(this) = self.this.upgrade() else {
            return Ok(());
        };
        let sending = self.sending.clone().lock_owned().await;
        let writes = {
            let mut state = self.state.lock();
            self.check(&state, true)?;
            if !large(&state) {
                return Ok(());
            }
            let writes = Arc::new(state.buffer.take());
            state.flushing = Some(writes.clone());
            state.flushes += 1;
            writes
        };
        self.core.seams.spawn("flush", async move {
            let result = this.send_early(&writes).await;
            let mut state = this.state.lock();
            state.flushing = None;
            state.flushes += 1;
            if let Err(error) = result {
                state.failed.get_or_insert(error);
            }
            drop(state);
            drop(sending);
        });
        Ok(())
    }

    /// The layers of own writes, the newer one first.
    fn layers(state: &State) -> (&Writes, Option<Arc<Writes>>) {
        (state.buffer.writes(), state.flushing.clone())
    }

    /// The transaction as shards know it, if it has anything there.
    fn own(&self, state: &State) -> Option<TxnId> {
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
            core.finish(id, primary, fate, sent, !strays).await;
        });
        unlocked
    }
}

#[async_trait]
impl Transaction for Txn {
    fn id(&self) -> TxnId {
        self.id
    }

    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        if let Some(at) = self.state.lock().read_at {
            return Ok(at);
        }
        let _drawing = self.drawing.lock().await;
        if let Some(at) = self.state.lock().read_at {
            return Ok(at);
        }
        let at = self.core.oracle.timestamp().await?;
        let mut state = self.state.lock();
        state.read_at = Some(at);
        state.started.get_or_insert(at);
        Ok(at)
    }

    async fn get(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error> {
        let mut values: Vec<Option<Value>> = vec![None; keys.len()];
        let (mut missing, fences, own) = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            let fences = Self::use_fences(&mut state, fences)?;
            // Looked up before the shards are asked: what is on its way now will be there by then, or still here.
            let (upper, lower) = Self::layers(&state);
            let mut missing = Vec::new();
            for (index, key) in keys.iter().enumerate() {
                match upper.get(key).or_else(|| lower.as_ref()?.get(key)) {
                    Some(write) => values[index] = write.value.clone(),
                    None => match state.locked.get(key) {
                        Some((_, value)) => values[index] = value.clone(),
                        None => missing.push(index),
                    },
                }
            }
            (missing, fences, self.own(&state))
        };
        if missing.is_empty() {
            return Ok(values);
        }
        let at = self.read_timestamp().await?;
        let found = if missing.len() == keys.len() {
            self.core.read(own, at, keys, &fences).await?
        } else {
            let asked: Vec<Key> = missing.iter().map(|index| keys[*index].clone()).collect();
            self.core.read(own, at, &asked, &fences).await?
        };
        let mut state = self.state.lock();
        for (index, value) in missing.drain(..).zip(found) {
            state.reads.add_key(&keys[index]);
            values[index] = value;
        }
        Ok(values)
    }

    async fn scan(&self, request: ScanRequest, fences: &[Fence]) -> Result<ScanPage, Error> {
        let ScanRequest { range, reverse, rows_max } = request;
        let rows_max = rows_max.max(1);
        let (fences, mut own, mut flushes) = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            (Self::use_fences(&mut state, fences)?, self.own(&state), state.flushes)
        };
        if range.is_empty() {
            return Ok(ScanPage::default());
        }
        let at = self.read_timestamp().await?;
        let mut left = range;
        loop {
            let page = self.core.scan(own, at, &left, reverse, rows_max, &fences).await?;
            let mut covered = covered(&left, page.rest.as_ref(), reverse);
            let mut rest = page.rest;
            let mut state = self.state.lock();
            if state.flushes != flushes {
                // Writes have moved from here to the shards meanwhile, and may have been missed in both places.
                (own, flushes) = (self.own(&state), state.flushes);
                continue;
            }
            state.reads.add_range(&covered);
            let (upper, lower) = Self::layers(&state);
            let none = Writes::new();
            let layers = [upper, lower.as_deref().unwrap_or(&none)];
            let (rows, stopped) = overlay(page.rows, &covered, layers, reverse, rows_max, PAGE_BYTES);
            if let Some(last) = stopped {
                let left = match reverse {
                    false => KeyRange { start: KeyRange::point(&last).end, end: left.end.clone() },
                    true => KeyRange { start: left.start.clone(), end: last },
                };
                rest = (!left.is_empty()).then_some(left);
            }
            drop(state);
            match rest {
                // A page without rows helps nobody.
                Some(rest) if rows.is_empty() => {
                    covered = rest;
                    left = covered;
                }
                rest => return Ok(ScanPage { rows, rest }),
            }
        }
    }

    async fn write(&self, writes: Vec<Write>, fences: &[Fence]) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            self.check(&state, true)?;
            Self::use_fences(&mut state, fences)?;
            for write in writes {
                state.buffer.put(write)?;
            }
        }
        self.flush_if_large().await
    }

    async fn write_fence(&self, prefix: Key, version: Option<u64>) -> Result<(), Error> {
        let mut state = self.state.lock();
        self.check(&state, true)?;
        state.buffer.put_fence(prefix, version);
        Ok(())
    }

    async fn lock(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<LockedRow>, Error> {
        let fences = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            Self::use_fences(&mut state, fences)?
        };
        // In key order: transactions that lock the same rows then queue instead of blocking each other.
        let sorted: Vec<Key> = keys.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        // What a statement has locked by reading it is locked again before it is changed: that costs no message.
        let ask: Vec<Key> = {
            let state = self.state.lock();
            let held = |key: &Key| state.locked.get(key).is_some_and(|(mode, _)| *mode >= how.mode);
            sorted.iter().filter(|key| !held(key)).cloned().collect()
        };
        let mut asked = self.lock_sorted(&ask, how, &fences).await?.into_iter();
        let state = self.state.lock();
        let mut next = ask.iter().peekable();
        let mut found = Vec::with_capacity(sorted.len());
        for key in &sorted {
            let row = match next.next_if_eq(&key) {
                Some(_) => asked.next(),
                None => state.locked.get(key).map(|(_, value)| LockedRow::Held(value.clone())),
            };
            // The snapshot has moved in a way that took the values along.
            found.push(row.ok_or_else(|| Error::Conflict { key: key.clone(), rival: None })?);
        }
        let (upper, lower) = Self::layers(&state);
        for (key, row) in sorted.iter().zip(&mut found) {
            let own = upper.get(key).or_else(|| lower.as_ref()?.get(key));
            if let (LockedRow::Held(value), Some(write)) = (row, own) {
                value.clone_from(&write.value);
            }
        }
        drop(state);
        let row = |key: &Key| sorted.binary_search(key).ok().and_then(|at| found.get(at).cloned());
        let missing = || Error::Internal("a row was not locked".to_owned());
        keys.iter().map(|key| row(key).ok_or_else(missing)).collect()
    }

    fn begin_statement(&self) {
        let mut state = self.state.lock();
        state.statement_reads = state.reads.clone();
    }

    async fn retry_statement(&self, savepoint: u64) -> Result<bool, Error> {
        {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            state.buffer.rollback_to(savepoint)?;
            state.reads = state.statement_reads.clone();
            // They are locked, but no read any more.
            state.locked.clear();
        }
        self.refresh().await
    }

    async fn refresh(&self) -> Result<bool, Error> {
        let (read_at, reads, fences) = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            let Some(read_at) = state.read_at else {
                return Ok(true);
            };
            if state.reads.is_empty() {
                // Drawn again at the next use. (`started` stays: the transaction doesn't get younger.)
                state.read_at = None;
                state.locked.clear();
                return Ok(true);
            }
            let reads: Vec<KeyRange> = state.reads.ranges().collect();
            (read_at, reads, state.fences.iter().cloned().collect::<Vec<_>>())
        };
        let at = self.core.oracle.timestamp().await?;
        match self.core.validate(self.id, &reads, &fences, read_at, at, self.core.deadline()).await {
            Ok(()) => {}
            Err(Error::Conflict { .. } | Error::FenceMismatch { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut state = self.state.lock();
        // A scan that ran meanwhile has read as of the old snapshot.
        if state.reads.ranges().eq(reads) && state.read_at == Some(read_at) {
            state.read_at = Some(at);
            return Ok(true);
        }
        Ok(false)
    }

    fn savepoint(&self) -> u64 {
        self.state.lock().buffer.savepoint()
    }

    async fn rollback_to(&self, savepoint: u64) -> Result<(), Error> {
        let mut state = self.state.lock();
        self.check(&state, false)?;
        state.buffer.rollback_to(savepoint)
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

impl Txn {
    /// The snapshot, if it was drawn.
    pub(super) fn snapshot_if_any(&self) -> Option<Timestamp> {
        self.state.lock().read_at
    }

    /// When the transaction began, if that is known.
    pub(super) fn started_if_known(&self) -> Timestamp {
        self.state.lock().started.unwrap_or(Timestamp::ZERO)
    }

    /// Rows were locked and read as of `at`, which becomes the snapshot, if there is none. False: the snapshot is another.
    pub(super) fn read_as_of(&self, at: Timestamp, mode: LockMode, keys: &[Key], rows: &[LockedRow]) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.started.get_or_insert(at);
        if *state.read_at.get_or_insert(at) != at {
            return false;
        }
        for (key, row) in keys.iter().zip(rows) {
            if let LockedRow::Held(value) = row {
                state.reads.add_key(key);
                if state.locked.len() < LOCKED_VALUES_MAX {
                    state.locked.insert(key.clone(), (mode, value.clone()));
                }
            }
        }
        true
    }

    /// The isolation level.
    pub(super) fn is_serializable(&self) -> bool {
        self.options.isolation == Isolation::Serializable
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        self.core.open.remove(self.id);
        // Nobody waits.
        let _ = self.abandon();
    }
}

/// What a page covers.
fn covered(range: &KeyRange, rest: Option<&KeyRange>, reverse: bool) -> KeyRange {
    match (rest, reverse) {
        (None, _) => range.clone(),
        (Some(rest), false) => KeyRange { start: range.start.clone(), end: rest.start.clone() },
        (Some(rest), true) => KeyRange { start: rest.end.clone(), end: range.end.clone() },
    }
}
