//! A [`Database`] in memory: one process, the same contract.
//!
//! Versions are kept under a commit counter; fences are versions too. Commits are serialised by one lock and validated
//! against everything that was read, so conflicts, uniqueness and fences behave as they do in a cluster. Pages are small,
//! so that paging is exercised.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use txn::api::{
    Activity, BeginOptions, Database, Expect, Fence, Key, LockInfo, LockWait, LockedRow, Locking, NodeInfo,
    ScanPage, ScanRequest, SessionLocks, ShardInfo, Transaction, Value, Witness, Write,
};
use txn::ids::{Epoch, GroupId, KeyRange, NodeId, Timestamp, TxnId};
use txn::order::Order;
use txn::{Error, SessionId};

/// Rows of a page, at most.
const PAGE_ROWS_MAX: usize = 100;

type Versions<T> = Vec<(u64, Option<T>)>;

#[derive(Default)]
struct State {
    now: u64,
    transactions: u128,
    rows: BTreeMap<Key, Versions<Value>>,
    fences: BTreeMap<Key, Versions<u64>>,
    splits: BTreeSet<Key>,
    /// The prefixes of tables of whose replicas something is wanted.
    placed: BTreeSet<Key>,
    /// What operators wanted done.
    orders: Vec<Order>,
}

impl State {
    fn as_of<T: Clone>(versions: Option<&Versions<T>>, ts: u64) -> Option<T> {
        versions?.iter().rev().find(|(at, _)| *at <= ts).and_then(|(_, value)| value.clone())
    }

    fn changed_in(&self, range: &KeyRange, after: u64) -> Option<Key> {
        let rows = self.rows.range(range.start.clone()..);
        rows.take_while(|(key, _)| range.contains(key))
            .find(|(_, versions)| versions.last().is_some_and(|(at, _)| *at > after))
            .map(|(key, _)| key.clone())
    }
}

/// The cluster.
#[derive(Default, Clone)]
pub struct MemoryDatabase {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct Own {
    writes: BTreeMap<Key, (Option<Value>, Expect)>,
    fences: HashMap<Key, Option<u64>>,
    read: Vec<KeyRange>,
    checked: Vec<Fence>,
    #[allow(clippy::type_complexity, reason = "a test double")]
    undo: Vec<(BTreeMap<Key, (Option<Value>, Expect)>, HashMap<Key, Option<u64>>)>,
    ended: bool,
}

struct MemoryTransaction {
    state: Arc<Mutex<State>>,
    options: BeginOptions,
    id: TxnId,
    ts: u64,
    own: Mutex<Own>,
}

impl MemoryDatabase {
    /// How many keys of tables there are, whatever snapshot can see them.
    pub fn table_keys(&self) -> usize {
        let tables = crate::catalog::layout::DEFAULT_DATABASE.to_be_bytes();
        self.state.lock().rows.range(Bytes::copy_from_slice(&tables)..).count()
    }

    /// Of how many tables' replicas something is wanted.
    pub fn placed_tables(&self) -> usize {
        self.state.lock().placed.len()
    }

    /// What operators wanted done since this was last asked.
    pub fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut self.state.lock().orders)
    }
}

impl MemoryTransaction {
    fn check(&self, state: &State, own: &mut Own, fences: &[Fence], ts: u64) -> Result<(), Error> {
        if own.ended {
            return Err(Error::Invalid("the transaction has ended".into()));
        }
        for fence in fences {
            let current = match own.fences.get(&fence.prefix) {
                Some(version) => *version,
                None => {
                    if !own.checked.contains(fence) {
                        own.checked.push(fence.clone());
                    }
                    State::as_of(state.fences.get(&fence.prefix), ts)
                }
            };
            if current != Some(fence.version) {
                return Err(Error::FenceMismatch { prefix: fence.prefix.clone() });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Transaction for MemoryTransaction {
    fn id(&self) -> TxnId {
        self.id
    }

    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        Ok(Timestamp(self.ts))
    }

    async fn get(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error> {
        let state = self.state.lock();
        let mut own = self.own.lock();
        self.check(&state, &mut own, fences, self.ts)?;
        own.read.extend(keys.iter().map(|key| KeyRange::point(key)));
        Ok(keys
            .iter()
            .map(|key| match own.writes.get(key) {
                Some((value, _)) => value.clone(),
                None => State::as_of(state.rows.get(key), self.ts),
            })
            .collect())
    }

    async fn scan(&self, request: ScanRequest, fences: &[Fence]) -> Result<ScanPage, Error> {
        let state = self.state.lock();
        let mut own = self.own.lock();
        self.check(&state, &mut own, fences, self.ts)?;
        let range = request.range;
        let mut merged: BTreeMap<Key, Option<Value>> = BTreeMap::new();
        for (key, versions) in state.rows.range(range.start.clone()..).take_while(|(k, _)| range.contains(k))
        {
            merged.insert(key.clone(), State::as_of(Some(versions), self.ts));
        }
        for (key, (value, _)) in
            own.writes.range(range.start.clone()..).take_while(|(k, _)| range.contains(k))
        {
            merged.insert(key.clone(), value.clone());
        }
        let mut rows: Vec<(Key, Value)> = merged.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        if request.reverse {
            rows.reverse();
        }
        let rows_max = request.rows_max.clamp(1, PAGE_ROWS_MAX);
        let rest = (rows.len() > rows_max).then(|| {
            rows.truncate(rows_max);
            let (last, _) = &rows[rows_max - 1];
            match request.reverse {
                false => KeyRange::new(KeyRange::point(last).end, range.end.clone()),
                true => KeyRange::new(range.start.clone(), last.clone()),
            }
        });
        own.read.push(match (&rest, request.reverse) {
            (None, _) => range,
            (Some(rest), false) => KeyRange::new(range.start, rest.start.clone()),
            (Some(rest), true) => KeyRange::new(rest.end.clone(), range.end),
        });
        Ok(ScanPage { rows, rest })
    }

    async fn write(&self, writes: Vec<Write>, fences: &[Fence]) -> Result<(), Error> {
        let state = self.state.lock();
        let mut own = self.own.lock();
        if self.options.read_only {
            return Err(Error::Invalid("a write in a read-only transaction".into()));
        }
        self.check(&state, &mut own, fences, state.now)?;
        for write in writes {
            let absent = own.writes.get(&write.key).is_some_and(|(_, e)| *e == Expect::Absent);
            let expect = if absent { Expect::Absent } else { write.expect };
            own.writes.insert(write.key, (write.value, expect));
        }
        Ok(())
    }

    async fn write_fence(&self, prefix: Key, version: Option<u64>) -> Result<(), Error> {
        self.own.lock().fences.insert(prefix, version);
        Ok(())
    }

    /// There is nobody to keep away: a rival is found out at the commit.
    async fn lock(&self, keys: &[Key], _: Locking, fences: &[Fence]) -> Result<Vec<LockedRow>, Error> {
        Ok(self.get(keys, fences).await?.into_iter().map(LockedRow::Held).collect())
    }

    fn begin_statement(&self) {}

    async fn retry_statement(&self, _: u64) -> Result<bool, Error> {
        Ok(false)
    }

    async fn refresh(&self) -> Result<bool, Error> {
        Ok(false)
    }

    fn savepoint(&self) -> u64 {
        let mut own = self.own.lock();
        let mark = (own.writes.clone(), own.fences.clone());
        own.undo.push(mark);
        own.undo.len() as u64 - 1
    }

    async fn rollback_to(&self, savepoint: u64) -> Result<(), Error> {
        let mut own = self.own.lock();
        let (writes, fences) = own.undo[savepoint as usize].clone();
        own.writes = writes;
        own.fences = fences;
        Ok(())
    }

    async fn commit(&self) -> Result<Timestamp, Error> {
        let mut state = self.state.lock();
        let mut own = self.own.lock();
        if std::mem::replace(&mut own.ended, true) {
            return Err(Error::Invalid("the transaction has ended".into()));
        }
        if own.writes.is_empty() && own.fences.is_empty() {
            return Ok(Timestamp(self.ts));
        }
        for fence in &own.checked {
            if State::as_of(state.fences.get(&fence.prefix), u64::MAX) != Some(fence.version) {
                return Err(Error::FenceMismatch { prefix: fence.prefix.clone() });
            }
        }
        for range in &own.read {
            if let Some(key) = state.changed_in(range, self.ts) {
                return Err(Error::Conflict { key, rival: None });
            }
        }
        for (key, (_, expect)) in &own.writes {
            if *expect == Expect::Absent && State::as_of(state.rows.get(key), u64::MAX).is_some() {
                return Err(Error::AlreadyExists { key: key.clone() });
            }
        }
        state.now += 1;
        let ts = state.now;
        for (key, (value, _)) in std::mem::take(&mut own.writes) {
            state.rows.entry(key).or_default().push((ts, value));
        }
        for (prefix, version) in std::mem::take(&mut own.fences) {
            state.fences.entry(prefix).or_default().push((ts, version));
        }
        Ok(Timestamp(ts))
    }

    async fn rollback(&self) {
        let mut own = self.own.lock();
        own.ended = true;
        own.writes.clear();
    }
}

/// Advisory locks of the only session there is.
struct NoRivals;

#[async_trait]
impl SessionLocks for NoRivals {
    async fn lock(&self, _: &Key, _: txn::LockMode, _: LockWait) -> Result<bool, Error> {
        Ok(true)
    }

    async fn lower(&self, _: Vec<(Key, Option<txn::LockMode>)>) {}

    async fn release(&self) {}

    async fn confirm(&self) -> Result<(), Error> {
        Ok(())
    }

    fn is_lost(&self) -> bool {
        false
    }

    fn lost(&self) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[async_trait]
impl Database for MemoryDatabase {
    fn begin(&self, options: BeginOptions) -> Arc<dyn Transaction> {
        let mut state = self.state.lock();
        state.transactions += 1;
        Arc::new(MemoryTransaction {
            state: Arc::clone(&self.state),
            options,
            id: TxnId(state.transactions),
            ts: state.now,
            own: Mutex::default(),
        })
    }

    async fn get_latest(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error> {
        self.begin(BeginOptions::default()).get(keys, fences).await
    }

    async fn shards(&self, range: &KeyRange) -> Result<Vec<ShardInfo>, Error> {
        let state = self.state.lock();
        let mut starts: Vec<Key> = vec![Bytes::new()];
        starts.extend(state.splits.iter().cloned());
        let ends = starts.iter().skip(1).cloned().chain([Bytes::new()]);
        let shards = starts.iter().zip(ends).enumerate().map(|(i, (start, end))| ShardInfo {
            group: GroupId(2 + i as u64),
            range: KeyRange::new(start.clone(), end),
            epoch: Epoch(1),
            replicas: vec![NodeId(1)],
            leader: Some(NodeId(1)),
            closed: None,
        });
        Ok(shards.filter(|shard| shard.range.overlaps(range)).collect())
    }

    async fn split(&self, keys: &[Key], _spread: bool) -> Result<(), Error> {
        self.state.lock().splits.extend(keys.iter().filter(|k| !k.is_empty()).cloned());
        Ok(())
    }

    async fn clear_range(&self, range: &KeyRange) -> Result<(), Error> {
        self.state.lock().rows.retain(|key, _| !range.contains(key));
        Ok(())
    }

    async fn set_placement(&self, prefix: &Key, replicas: u32, places: &str) -> Result<Vec<String>, Error> {
        let mut state = self.state.lock();
        match replicas == 0 && places.is_empty() {
            true => state.placed.remove(prefix),
            false => state.placed.insert(prefix.clone()),
        };
        Ok(Vec::new())
    }

    async fn vacate(&self, range: &KeyRange) -> Result<(), Error> {
        self.state.lock().placed.retain(|prefix| !range.contains(prefix));
        Ok(())
    }

    async fn order(&self, order: Order) -> Result<String, Error> {
        self.state.lock().orders.push(order);
        Ok("done".to_owned())
    }

    async fn timestamp(&self) -> Result<Timestamp, Error> {
        Ok(Timestamp(self.state.lock().now))
    }

    fn session(&self, pid: i32) -> SessionId {
        SessionId(pid as u128)
    }

    fn session_locks(&self, _: SessionId) -> Arc<dyn SessionLocks> {
        Arc::new(NoRivals)
    }

    async fn locks(&self, _: &KeyRange, _: u32) -> Result<Vec<LockInfo>, Error> {
        Ok(Vec::new())
    }

    async fn describe(&self, ids: &[TxnId]) -> Vec<Option<Activity>> {
        vec![None; ids.len()]
    }

    fn set_witness(&self, _: Arc<dyn Witness>) {}

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        Ok(vec![NodeInfo {
            id: NodeId(1),
            sql_address: "127.0.0.1:7401".into(),
            rpc_address: "127.0.0.1:7421".into(),
            duty: "active",
            alive: true,
        }])
    }
}
