//! Row locks at a shard's leader: who holds which row, and who waits for it, in which order.
//!
//! Locks keep transactions that want the same row from doing work in vain: the second one waits when its statement runs,
//! instead of failing when it commits. **Nothing rests on them for correctness.** They live in the leader's memory and are
//! lost with it; a transaction that has lost its lock without knowing is caught by the checks of the commit, like one that
//! never had any.
//!
//! Fairness: a row's waiters are served in order of arrival. Whoever comes later waits behind them even if it would get
//! along with the holders; only who holds the row already, and wants it more strongly, goes first.
//!
//! Waiting is by long polls. A waiter keeps its place between two polls of its gateway, and a lock that is granted in
//! between is held for it. What belongs to a transaction goes when it ends, or when its gateway has been silent for
//! [`LOCK_LAPSE`].
//!
//! Bounds: past [`ROWS_MAX`] rows no more locks are kept (they are granted and forgotten, which is safe), past
//! [`WAITERS_MAX`] waiters nobody may wait.
//!
//! Advisory locks are kept in a table of the same kind, which is *strict* (`advisory.rs`): there is no commit that would check
//! anything, so nothing is forgotten, and a new leader waits for those who hold locks from its predecessor.

mod advisory;
mod mode;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use storage::ids::{Timestamp, TxnId};
use tokio::sync::oneshot;

pub use mode::LockMode;

use crate::who::SessionId;

/// A gateway that has been silent for so long has lost its locks.
pub const LOCK_LAPSE: Duration = Duration::from_millis(1_800);
/// For how long after it sent a message that was answered with "you hold them" a gateway may claim that its session holds
/// advisory locks. Less than [`LOCK_LAPSE`], after which others may get them.
pub const LEASE: Duration = Duration::from_millis(1_650);
/// Rows locked in one shard, about.
const ROWS_MAX: usize = 200_000;
/// Waiters in one shard.
const WAITERS_MAX: usize = 10_000;

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Asked {
    /// It is held.
    Granted,
    /// Others are in the way. The receiver tells when that may have changed: ask again.
    Wait(oneshot::Receiver<()>),
    /// Others are in the way, and the caller did not want to wait; one of them.
    Busy(TxnId),
    /// The transaction was chosen as the victim of a deadlock.
    Deadlock,
    /// Too many wait already.
    Full,
}

/// Who asks for a lock.
#[derive(Clone, Copy, Debug)]
pub struct Claimant {
    /// The owner of the lock: a transaction, or a session.
    pub owner: TxnId,
    /// The session that the owner belongs to. All owners of one session wait as one.
    pub session: Option<SessionId>,
    /// When the transaction began.
    pub started: Timestamp,
    /// A shorter wait is not looked at as a part of a deadlock.
    pub deadlock_after: Duration,
}

/// Someone waits for someone. Who belongs to a session is named by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// Who waits.
    pub waiter: TxnId,
    /// When the waiter's transaction began: of those in a circle the youngest is ended.
    pub started: Timestamp,
    /// For whom.
    pub holder: TxnId,
}

/// One lock or wait, as it is shown to operators.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The row's key.
    pub key: Bytes,
    /// Who.
    pub txn: TxnId,
    /// How strongly.
    pub mode: LockMode,
    /// It is held, not waited for.
    pub granted: bool,
    /// For how long.
    pub age: Duration,
    /// The owner's session.
    pub session: Option<SessionId>,
}

#[derive(Debug)]
struct Holder {
    txn: TxnId,
    mode: LockMode,
    since: Instant,
}

#[derive(Debug)]
struct Waiter {
    txn: TxnId,
    mode: LockMode,
    since: Instant,
    /// Absent between two polls.
    wake: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Row {
    holders: Vec<Holder>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Owner {
    keys: HashSet<Bytes>,
    heard: Instant,
    started: Timestamp,
    session: Option<SessionId>,
    deadlock_after: Duration,
    victim: bool,
    /// Tells it from one that had the same name before, and was silent for too long.
    stamp: u64,
}

#[derive(Debug, Default)]
struct Inner {
    rows: HashMap<Bytes, Row>,
    owners: HashMap<TxnId, Owner>,
    waiters: usize,
    stamps: u64,
}

/// The locks of one shard, while this node leads it.
#[derive(Debug, Default)]
pub struct LockTable {
    inner: Mutex<Inner>,
    /// Nothing is granted and forgotten.
    strict: bool,
}

impl Row {
    /// The first of those who keep `txn` from holding the row with `mode`. Of the waiters only those before `position`.
    fn in_the_way(&self, txn: TxnId, mode: LockMode, position: usize) -> Option<TxnId> {
        let conflicting = |holder: &&Holder| holder.txn != txn && holder.mode.conflicts(mode);
        if let Some(holder) = self.holders.iter().find(conflicting) {
            return Some(holder.txn);
        }
        if self.holders.iter().any(|holder| holder.txn == txn) {
            return None;
        }
        let before = self.queue.iter().take(position);
        before.filter(|waiter| waiter.txn != txn).find(|waiter| waiter.mode.conflicts(mode)).map(|w| w.txn)
    }

    fn grant(&mut self, txn: TxnId, mode: LockMode, now: Instant) {
        match self.holders.iter_mut().find(|holder| holder.txn == txn) {
            Some(holder) => holder.mode = holder.mode.max(mode),
            None => self.holders.push(Holder { txn, mode, since: now }),
        }
        debug_assert!(
            self.holders
                .iter()
                .all(|a| self.holders.iter().all(|b| a.txn == b.txn || !a.mode.conflicts(b.mode))),
            "a row is locked by two who exclude each other"
        );
    }

    /// Gives the row to waiters from the front, as long as that is possible. Returns how many got it.
    fn serve(&mut self, now: Instant) -> usize {
        let mut served = 0;
        while let Some(first) = self.queue.front() {
            let (txn, mode) = (first.txn, first.mode);
            if self.in_the_way(txn, mode, 0).is_some() {
                break;
            }
            self.grant(txn, mode, now);
            if let Some(waiter) = self.queue.pop_front() {
                wake(waiter);
            }
            served += 1;
        }
        served
    }
}

fn wake(waiter: Waiter) {
    // A poll that is over comes back and finds the lock held.
    if let Some(wake) = waiter.wake {
        let _ = wake.send(());
    }
}

impl LockTable {
    /// Nobody holds one, and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.inner.lock().rows.is_empty()
    }

    /// Asks for a row. Repeating it changes nothing but the strength: a waiter keeps its place.
    pub fn ask(&self, who: Claimant, key: &Bytes, mode: LockMode, wait: bool, now: Instant) -> Asked {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let full = inner.rows.len() >= ROWS_MAX;
        let txn = who.owner;
        let owner = owner_of(&mut inner.owners, &mut inner.stamps, who, now);
        if std::mem::take(&mut owner.victim) {
            inner.leave_queues(txn, now);
            return Asked::Deadlock;
        }
        let row = match inner.rows.entry(key.clone()) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(_) if full && self.strict => return Asked::Full,
            Entry::Vacant(_) if full => return Asked::Granted,
            Entry::Vacant(row) => row.insert(Row::default()),
        };
        let place = row.queue.iter().position(|waiter| waiter.txn == txn);
        let Some(rival) = row.in_the_way(txn, mode, place.unwrap_or(usize::MAX)) else {
            row.grant(txn, mode, now);
            if let Some(place) = place {
                row.queue.remove(place);
                inner.waiters -= 1;
            }
            owner.keys.insert(key.clone());
            // Those behind may get along with it.
            inner.waiters -= row.serve(now);
            return Asked::Granted;
        };
        if !wait {
            return Asked::Busy(rival);
        }
        let (sender, receiver) = oneshot::channel();
        match place.and_then(|place| row.queue.get_mut(place)) {
            Some(waiter) => {
                waiter.mode = waiter.mode.max(mode);
                waiter.wake = Some(sender);
            }
            None if inner.waiters >= WAITERS_MAX => return Asked::Full,
            None => {
                let waiter = Waiter { txn, mode, since: now, wake: Some(sender) };
                // Who holds the row would wait for those who wait for it.
                match row.holders.iter().any(|holder| holder.txn == txn) {
                    true => row.queue.push_front(waiter),
                    false => row.queue.push_back(waiter),
                }
                inner.waiters += 1;
            }
        }
        owner.keys.insert(key.clone());
        Asked::Wait(receiver)
    }

    /// Whether another transaction is about to insert a row under the key, or to delete it.
    pub fn is_claimed(&self, txn: TxnId, key: &[u8]) -> bool {
        let inner = self.inner.lock();
        let holders = inner.rows.get(key).map(|row| &row.holders);
        holders.into_iter().flatten().any(|holder| holder.txn != txn && holder.mode == LockMode::Update)
    }

    /// The transaction has ended, or gives up: all that it holds and waits for is let go.
    pub fn release(&self, txn: TxnId, now: Instant) {
        self.inner.lock().release(txn, now);
    }

    /// These transactions' gateway lives.
    pub fn heard(&self, txns: impl IntoIterator<Item = TxnId>, now: Instant) {
        let mut inner = self.inner.lock();
        for txn in txns {
            if let Some(owner) = inner.owners.get_mut(&txn) {
                owner.heard = now;
            }
        }
    }

    /// Lets go what belongs to transactions whose gateways have been silent for too long. Returns how many there were.
    pub fn sweep(&self, now: Instant) -> usize {
        let mut inner = self.inner.lock();
        let lapsed = |owner: &Owner| now.saturating_duration_since(owner.heard) > LOCK_LAPSE;
        let silent: Vec<TxnId> =
            inner.owners.iter().filter(|(_, owner)| lapsed(owner)).map(|(txn, _)| *txn).collect();
        silent.iter().for_each(|txn| inner.release(*txn, now));
        silent.len()
    }

    /// Who has waited for whom for at least `age`.
    pub fn edges(&self, age: Duration, now: Instant) -> Vec<Edge> {
        let inner = self.inner.lock();
        let mut edges = HashSet::new();
        if inner.waiters == 0 {
            return Vec::new();
        }
        for row in inner.rows.values() {
            for (place, waiter) in row.queue.iter().enumerate() {
                let Some(owner) = inner.owners.get(&waiter.txn) else { continue };
                if now.saturating_duration_since(waiter.since) < age.max(owner.deadlock_after) {
                    continue;
                }
                let started = owner.started;
                let holders = row.holders.iter().map(|h| (h.txn, h.mode, h.since));
                let before = row.queue.iter().take(place).map(|w| (w.txn, w.mode, w.since));
                for (holder, mode, since) in holders.chain(before) {
                    let settled = now.saturating_duration_since(since) >= age;
                    let (waiter_as, holder_as) = (inner.waits_as(waiter.txn), inner.waits_as(holder));
                    if holder_as != waiter_as && mode.conflicts(waiter.mode) && settled {
                        edges.insert(Edge { waiter: waiter_as, started, holder: holder_as });
                    }
                }
            }
        }
        edges.into_iter().collect()
    }

    /// Ends the waiting of a transaction, or of a session: it learns that it was the victim of a deadlock.
    pub fn sacrifice(&self, victim: TxnId) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let concerned = |(txn, owner): &(&TxnId, &mut Owner)| {
            **txn == victim || owner.session.is_some_and(|session| session.as_owner() == victim)
        };
        for (txn, owner) in inner.owners.iter_mut().filter(concerned) {
            for key in &owner.keys {
                let waiters = inner.rows.get_mut(key).into_iter().flat_map(|row| row.queue.iter_mut());
                for waiter in waiters.filter(|waiter| waiter.txn == *txn) {
                    // (Not if it waits no longer: what was reported may be past.)
                    owner.victim = true;
                    if let Some(wake) = waiter.wake.take() {
                        // Its poll is over: the next one is told.
                        let _ = wake.send(());
                    }
                }
            }
        }
    }

    /// What there is, for operators; at most `rows_max`.
    pub fn list(&self, rows_max: usize, now: Instant) -> Vec<Listed> {
        let inner = self.inner.lock();
        let mut listed = Vec::new();
        for (key, row) in &inner.rows {
            let held = row.holders.iter().map(|h| (h.txn, h.mode, true, h.since));
            let waited = row.queue.iter().map(|w| (w.txn, w.mode, false, w.since));
            for (txn, mode, granted, since) in held.chain(waited) {
                if listed.len() >= rows_max {
                    return listed;
                }
                let age = now.saturating_duration_since(since);
                let session = inner.owners.get(&txn).and_then(|owner| owner.session);
                listed.push(Listed { key: key.clone(), txn, mode, granted, age, session });
            }
        }
        listed
    }
}

impl Inner {
    /// As whom an owner waits, and is waited for.
    fn waits_as(&self, owner: TxnId) -> TxnId {
        let session = self.owners.get(&owner).and_then(|owner| owner.session);
        session.map_or(owner, SessionId::as_owner)
    }

    fn release(&mut self, txn: TxnId, now: Instant) {
        let Some(owner) = self.owners.remove(&txn) else { return };
        for key in owner.keys {
            let Entry::Occupied(mut row) = self.rows.entry(key) else { continue };
            row.get_mut().holders.retain(|holder| holder.txn != txn);
            self.waiters -= remove_waiter(row.get_mut(), txn);
            self.waiters -= row.get_mut().serve(now);
            if row.get().holders.is_empty() && row.get().queue.is_empty() {
                row.remove();
            }
        }
    }

    /// The transaction waits no longer, and keeps what it holds until it ends.
    fn leave_queues(&mut self, txn: TxnId, now: Instant) {
        let Some(owner) = self.owners.get_mut(&txn) else { return };
        let (rows, waiters) = (&mut self.rows, &mut self.waiters);
        owner.keys.retain(|key| {
            let Some(row) = rows.get_mut(key) else { return false };
            *waiters -= remove_waiter(row, txn);
            *waiters -= row.serve(now);
            if row.holders.is_empty() && row.queue.is_empty() {
                rows.remove(key);
                return false;
            }
            row.holders.iter().any(|holder| holder.txn == txn)
        });
    }
}

/// The owner, of whom was just heard.
fn owner_of<'o>(
    owners: &'o mut HashMap<TxnId, Owner>,
    stamps: &mut u64,
    who: Claimant,
    now: Instant,
) -> &'o mut Owner {
    let owner = owners.entry(who.owner).or_insert_with(|| {
        *stamps += 1;
        Owner {
            keys: HashSet::new(),
            heard: now,
            started: who.started,
            session: who.session,
            deadlock_after: who.deadlock_after,
            victim: false,
            stamp: *stamps,
        }
    });
    owner.heard = now;
    if owner.started == Timestamp::ZERO {
        owner.started = who.started;
    }
    owner
}

fn remove_waiter(row: &mut Row, txn: TxnId) -> usize {
    let before = row.queue.len();
    row.queue.retain(|waiter| waiter.txn != txn);
    before - row.queue.len()
}
