//! Row locks, as a transaction asks for them; and what a node does so that its transactions keep them.
//!
//! Locks are asked for by long polls: whoever leads the shard keeps the place in the queue between two of them. So a change of
//! leader, a lock timeout and a cancelled statement are all seen here within one poll.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, Timestamp, TxnId};
use tokio::sync::oneshot;

use super::core::{Core, fences_to_pb, unexpected};
use super::reading::Reading;
use super::txn::{LockedKey, Txn};
use crate::api::{Fence, Isolation, Key, LockWait, LockedRow, Locking, Value};
use crate::descriptor::ShardDescriptor;
use crate::router::{Repeat, RouteError};
use crate::wire::{parse_txn, txn_bytes};
use crate::{Error, LockMode};

/// Rows in one request.
const LOCK_KEYS_MAX: usize = 1_000;
/// How often a gateway says that its transactions live.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// Transactions named in one such message.
const KEEP_MAX: usize = 10_000;
/// How often waits are reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// Waits shorter than this are not, nor those shorter than their session's `deadlock_timeout`. (Longer than a report counts: so all waits of a circle existed at the same moment.)
const REPORT_AGE: Duration = Duration::from_millis(300);
/// A wait of this length is worth a line in the log (as with PostgreSQL's `log_lock_waits`).
const LONG_WAIT: Duration = Duration::from_secs(1);
/// How long the end of a transaction waits for its locks to go.
const UNLOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Values of locked rows that are kept, so that a statement which locks its rows needn't read them, too.
const LOCKED_VALUES_MAX: usize = 1_000;
/// Rows that a transaction below `Serializable` may lock: it has to remember them all.
const LOCKED_ROWS_MAX: usize = 1_000_000;
/// How often a lock's row may be found to have changed before the transaction gives up.
const MOVES_MAX: usize = 16;

/// Where the transactions of a node hold locks: for each, one key in each shard.
#[derive(Debug, Default)]
pub struct Held {
    by_txn: Mutex<HashMap<TxnId, HashMap<GroupId, Key>>>,
}

impl Held {
    fn note(&self, txn: TxnId, group: GroupId, key: &Key) {
        self.by_txn.lock().entry(txn).or_default().entry(group).or_insert_with(|| key.clone());
    }

    /// The transaction holds nothing in this shard any more.
    pub fn forget(&self, txn: TxnId, group: GroupId) {
        if let Some(groups) = self.by_txn.lock().get_mut(&txn) {
            groups.remove(&group);
        }
    }

    /// The transaction has ended; where it may hold locks.
    pub fn take(&self, txn: TxnId) -> HashMap<GroupId, Key> {
        self.by_txn.lock().remove(&txn).unwrap_or_default()
    }
}

/// What a round of asking came to.
pub(super) enum Round {
    Rows(Timestamp, Vec<LockedRow>),
    /// A row is newer than the snapshot; who has changed it, if that is remembered, and whether it is gone.
    Changed(Key, Option<TxnId>, bool),
}

impl Txn {
    /// Locks and reads: as of the snapshot, or at the latest.
    pub(super) async fn lock_at(
        &self,
        reading: &Reading,
        keys: &[Key],
        how: Locking,
        fences: &[Fence],
        latest: bool,
    ) -> Result<Vec<LockedRow>, Error> {
        let latest = latest || self.options.isolation == Isolation::ReadCommitted;
        let fences = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            if state.locked.len() + keys.len() > LOCKED_ROWS_MAX {
                let why = format!("more than {LOCKED_ROWS_MAX} rows locked by one transaction");
                return Err(Error::TooLarge(why));
            }
            self.use_fences(&mut state, fences, false)?
        };
        // In key order: transactions that lock the same rows then queue instead of blocking each other.
        let sorted: Vec<Key> = keys.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        // What a statement has locked by reading it is locked again before it is changed: that costs no message. Own writes are
        // looked up before the shards are asked: what is on its way now will be there by then, or still here.
        let (ask, own): (Vec<Key>, Vec<Option<Option<Value>>>) = {
            let state = self.state.lock();
            let held = |locked: &LockedKey| locked.mode >= how.mode && locked.value.is_some();
            let (upper, lower) = Self::layers(&state);
            let own =
                |key: &Key| upper.get(key).or_else(|| lower.as_ref()?.get(key)).map(|w| w.value.clone());
            let ask = sorted.iter().filter(|key| !state.locked.get(*key).is_some_and(held));
            (ask.cloned().collect(), sorted.iter().map(own).collect())
        };
        let mut asked = self.lock_sorted(reading, &ask, how, &fences, latest).await?.into_iter();
        let state = self.state.lock();
        let mut next = ask.iter().peekable();
        let mut found = Vec::with_capacity(sorted.len());
        for key in &sorted {
            let row = match next.next_if_eq(&key) {
                Some(_) => asked.next(),
                None => state.locked.get(key).and_then(|l| l.value.clone()).map(LockedRow::Held),
            };
            // The snapshot has moved in a way that took the values along.
            found.push(row.ok_or_else(|| Error::Conflict { key: key.clone(), rival: None })?);
        }
        for (row, own) in found.iter_mut().zip(own) {
            if let (LockedRow::Held(value), Some(own)) = (row, own) {
                *value = own;
            }
        }
        drop(state);
        let row = |key: &Key| sorted.binary_search(key).ok().and_then(|at| found.get(at).cloned());
        let missing = || Error::Internal("a row was not locked".to_owned());
        keys.iter().map(|key| row(key).ok_or_else(missing)).collect()
    }

    /// Rows were locked and read as of `at`, which becomes the snapshot, if there is none. False: the snapshot is another.
    pub(super) fn read_as_of(
        &self,
        reading: &Reading,
        at: Timestamp,
        mode: LockMode,
        keys: &[Key],
        rows: &[LockedRow],
    ) -> bool {
        if reading.at_or(at) != at {
            return false;
        }
        for (key, row) in keys.iter().zip(rows) {
            if matches!(row, LockedRow::Held(_)) {
                reading.add_key(key);
            }
        }
        self.note_locked(at, mode, keys, rows);
        true
    }

    /// Rows were locked and read as of `at`.
    pub(super) fn note_locked(&self, at: Timestamp, mode: LockMode, keys: &[Key], rows: &[LockedRow]) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.started.get_or_insert(at);
        for (key, row) in keys.iter().zip(rows) {
            let LockedRow::Held(value) = row else { continue };
            let few = state.locked.len() < LOCKED_VALUES_MAX;
            if !few && self.is_serializable() && !state.locked.contains_key(key) {
                continue;
            }
            let since = match state.locked.get(key) {
                // Held all the while, one hopes: the commit will tell.
                Some(before) if before.excludes_writers() => before.since,
                _ => at,
            };
            let value = few.then(|| value.clone());
            let mode = state.locked.get(key).map_or(mode, |before| before.mode.max(mode));
            state.locked.insert(key.clone(), LockedKey { mode, since, value });
        }
    }

    /// Locks keys, which are in key order and without duplicates, and reads them as of the snapshot, or at the latest.
    pub(super) async fn lock_sorted(
        &self,
        reading: &Reading,
        keys: &[Key],
        how: Locking,
        fences: &[Fence],
        latest: bool,
    ) -> Result<Vec<LockedRow>, Error> {
        let deadline = match how.wait {
            LockWait::For(Some(limit)) => Some(self.core.seams.clock.now() + limit),
            _ => None,
        };
        let mut rows = Vec::with_capacity(keys.len());
        let mut moves = 0;
        while rows.len() < keys.len() {
            let rest = &keys[rows.len()..];
            let shard = self.core.router.route(&rest[0], self.core.deadline()).await?;
            let here = rest.iter().take(LOCK_KEYS_MAX).take_while(|key| shard.range.contains(key)).count();
            let at = if latest { None } else { reading.at() };
            match self.lock_in_shard(&shard, &rest[..here.max(1)], at, how, fences, deadline).await? {
                None => {}
                Some(Round::Rows(at, found)) if latest => {
                    self.note_locked(at, how.mode, rest, &found);
                    rows.extend(found);
                }
                Some(Round::Rows(at, found)) if self.read_as_of(reading, at, how.mode, rest, &found) => {
                    rows.extend(found)
                }
                // A snapshot was drawn meanwhile, and the rows are not as of it.
                Some(Round::Rows(..)) => {}
                Some(Round::Changed(key, rival, deleted)) => {
                    moves += 1;
                    if moves > MOVES_MAX || !self.refresh_at(reading).await? {
                        return Err(match self.is_serializable() {
                            true => Error::Conflict { key, rival },
                            false => Error::Changed { key, deleted, rival },
                        });
                    }
                }
            }
        }
        Ok(rows)
    }

    /// `None`: the shard has moved.
    pub(super) async fn lock_in_shard(
        &self,
        shard: &Arc<ShardDescriptor>,
        keys: &[Key],
        at: Option<Timestamp>,
        how: Locking,
        fences: &[Fence],
        deadline: Option<Instant>,
    ) -> Result<Option<Round>, Error> {
        let Some(first) = keys.first() else { return Ok(None) };
        // Noted before it is asked for: what may be held is let go at the end.
        self.core.held.note(self.id, shard.group, first);
        let policy = match how.wait {
            LockWait::For(_) => pb::LockPolicy::LockWait,
            LockWait::Never => pb::LockPolicy::LockNowait,
            LockWait::Skip => pb::LockPolicy::LockSkip,
        };
        let waiting_since = self.core.seams.clock.now();
        let mut wait = Wait { txn: self.id, since: waiting_since, core: &self.core, key: None };
        let mut pause = Duration::from_millis(2);
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(self.core.seams.clock.now()));
            let ask = pb::LockRows {
                wait_ms: left.map_or(0, |left| (left.as_millis() as u64).max(1)),
                txn: txn_bytes(self.id),
                started: self.started_if_known().0,
                at: at.map_or(0, |at| at.0),
                keys: keys.to_vec(),
                strength: how.mode.to_pb().into(),
                policy: policy.into(),
                fences: fences_to_pb(fences),
                session: self.options.session.map(|s| txn_bytes(s.as_owner())).unwrap_or_default(),
                deadlock_after_ms: self.options.deadlock_after.map_or(0, |after| after.as_millis() as u64),
            };
            // Each poll has time of its own: how long a lock is held nobody knows.
            let patience = self.core.deadline();
            match self.core.router.ask(shard, Ask::LockRows(ask), Repeat::Harmless, patience).await {
                Ok(Answer::Locked(locked)) => return round(keys, locked).map(Some),
                Ok(Answer::Waiting(waiting)) => {
                    wait.key = Some(waiting.key.clone());
                    if deadline.is_some_and(|deadline| self.core.seams.clock.now() >= deadline) {
                        return Err(Error::Locked { key: waiting.key, timed_out: true });
                    }
                }
                Ok(Answer::Blocked(blocked)) => {
                    let own = (self.started_if_known(), self.id);
                    let met = blocked.intents;
                    let clear = self.core.clear_the_way(own, met, waiting_since, &mut pause, patience);
                    if let Some(key) = clear.await? {
                        // Whoever has written a row without a lock, or has lost it, has it all the same.
                        let timed_out = deadline.is_some_and(|limit| self.core.seams.clock.now() >= limit);
                        if timed_out || how.wait == LockWait::Never {
                            return Err(Error::Locked { key, timed_out });
                        }
                    }
                }
                Err(RouteError::Moved) => {
                    self.core.router.pause_before(&mut pause, patience).await?;
                    return Ok(None);
                }
                Err(RouteError::Failed(error)) => return Err(error),
                Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
    }
}

fn round(keys: &[Key], locked: pb::Locked) -> Result<Round, Error> {
    if let Some(key) = locked.changed {
        return Ok(Round::Changed(key, parse_txn(&locked.changed_by).ok(), locked.deleted));
    }
    if locked.values.len() != keys.len() {
        return Err(unexpected());
    }
    let mut rows: Vec<LockedRow> =
        locked.values.into_iter().map(|value| LockedRow::Held(value.value)).collect();
    for index in locked.skipped {
        if let Some(row) = rows.get_mut(index as usize) {
            *row = LockedRow::Skipped;
        }
    }
    Ok(Round::Rows(Timestamp(locked.at), rows))
}

/// A wait for a lock, which is counted, and said when it was long, when it is over.
struct Wait<'a> {
    txn: TxnId,
    since: Instant,
    core: &'a Core,
    /// Absent: there was none.
    key: Option<Key>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        let waited = self.core.seams.clock.now().saturating_duration_since(self.since);
        metrics::histogram!("flotilla_lock_wait_seconds").record(waited.as_secs_f64());
        if waited >= LONG_WAIT {
            tracing::info!(txn = ?self.txn, ?waited, key = %key.escape_ascii(), "a long wait for a row lock is over");
        }
    }
}

impl Core {
    /// Lets all locks of a transaction go, in the background; the receiver tells when they are gone.
    pub(super) fn unlock(self: &Arc<Self>, txn: TxnId) -> Option<oneshot::Receiver<()>> {
        let held = self.held.take(txn);
        if held.is_empty() {
            return None;
        }
        let core = self.clone();
        let (sender, receiver) = oneshot::channel();
        self.seams.spawn("unlock", async move {
            core.unlock_in(txn, held).await;
            // Whoever waited for it may have lost patience.
            let _ = sender.send(());
        });
        Some(receiver)
    }

    /// Waits a moment until locks are gone: whoever hears that the transaction has ended shall find its rows free.
    pub(super) async fn until_gone(&self, gone: Option<oneshot::Receiver<()>>) {
        let Some(gone) = gone else { return };
        tokio::select! {
            _ = gone => {}
            () = self.seams.sleep(UNLOCK_PATIENCE) => {}
        }
    }

    /// Lets a transaction's locks go in some shards.
    pub(super) async fn unlock_in(&self, txn: TxnId, held: HashMap<GroupId, Key>) {
        let asks = held.into_values().map(|key| async move {
            let ask = Ask::Unlock(pb::Unlock { txn: txn_bytes(txn) });
            self.router.ask_key(&key, ask, Repeat::Harmless, self.deadline()).await
        });
        for answer in join_all(asks).await {
            if let Err(RouteError::Failed(error)) = answer {
                tracing::debug!(?txn, %error, "locks are left to lapse");
            }
        }
    }

    async fn keep(&self) {
        let mut by_group: HashMap<GroupId, (Key, Vec<TxnId>)> = HashMap::new();
        for (txn, groups) in self.held.by_txn.lock().iter() {
            for (group, key) in groups {
                let (_, txns) = by_group.entry(*group).or_insert_with(|| (key.clone(), Vec::new()));
                if txns.len() < KEEP_MAX {
                    txns.push(*txn);
                }
            }
        }
        let asks = by_group.into_values().map(|(key, txns)| async move {
            let txns = txns.into_iter().map(txn_bytes).collect();
            let ask = Ask::KeepLocks(pb::KeepLocks { txns });
            // Late is as bad as never.
            self.router.ask_key(&key, ask, Repeat::Harmless, self.seams.clock.now() + 2 * KEEP_EVERY).await
        });
        for answer in join_all(asks).await {
            if let Err(RouteError::Failed(error)) = answer {
                tracing::debug!(%error, "a shard does not hear that this node's transactions live");
            }
        }
    }
}

/// Says that this node's transactions live.
pub async fn keep_locks(core: Weak<Core>) {
    while let Some(alive) = core.upgrade() {
        alive.keep().await;
        let seams = alive.seams.clone();
        drop(alive);
        seams.beat(KEEP_EVERY).await;
    }
}

/// Reports who waits for whom in this node's shards, and ends the victims of deadlocks.
pub async fn watch_waits(core: Weak<Core>) {
    let mut reported = false;
    while let Some(alive) = core.upgrade() {
        let server = alive.router.server();
        let waits = server.lock_edges(REPORT_AGE);
        if reported || !waits.is_empty() {
            reported = !waits.is_empty();
            match alive.directory.report_waits(&waits).await {
                Ok(victims) => victims.into_iter().for_each(|victim| server.sacrifice(victim)),
                Err(error) => tracing::debug!(%error, "waits cannot be reported"),
            }
        }
        let seams = alive.seams.clone();
        drop(alive);
        seams.beat(REPORT_EVERY).await;
    }
}
