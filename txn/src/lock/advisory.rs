//! What advisory locks need beyond row locks: to be given back one by one, and to outlive their leader.
//!
//! A session that holds locks is known by a *stamp*. It says every moment that it lives, with the stamp; as long as the leader
//! knows it by that stamp, it has held its locks without a gap. A new leader knows nobody. Those who held locks tell it which
//! ([`LockTable::assert`]), for as long as it grants none to others: see `command/advisory.rs`.

use std::time::Instant;

use bytes::Bytes;
use storage::ids::TxnId;

use super::{Claimant, LockMode, LockTable, owner_of, remove_waiter};

impl LockTable {
    /// A table in which nothing is granted and forgotten.
    pub fn strict() -> Self {
        Self { strict: true, ..Self::default() }
    }

    /// An empty one that follows on `before`: none of its stamps was ever given there. (By those who still have a hold of it,
    /// some may be, but never so many.)
    pub fn strict_after(before: &Self) -> Self {
        let table = Self::strict();
        table.inner.lock().stamps = before.inner.lock().stamps + (1 << 32);
        table
    }

    /// How a session that holds something, or waits, is known.
    pub fn stamp(&self, owner: TxnId) -> Option<u64> {
        self.inner.lock().owners.get(&owner).map(|owner| owner.stamp)
    }

    /// The session lives. Whether it is known by this stamp.
    pub fn affirm(&self, owner: TxnId, stamp: u64, now: Instant) -> bool {
        match self.inner.lock().owners.get_mut(&owner) {
            Some(owner) if owner.stamp == stamp => {
                owner.heard = now;
                true
            }
            _ => false,
        }
    }

    /// The session holds exactly these locks; what it waits for is not touched. Returns how it is known from now on; `None`:
    /// another one holds one of them, and the session holds nothing any more.
    pub fn assert(&self, who: Claimant, locks: &[(Bytes, LockMode)], now: Instant) -> Option<u64> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let taken = |(key, mode): &(Bytes, LockMode)| {
            let holders = inner.rows.get(key).map_or(&[][..], |row| &row.holders);
            holders.iter().any(|holder| holder.txn != who.owner && holder.mode.conflicts(*mode))
        };
        if locks.iter().any(taken) {
            inner.release(who.owner, now);
            return None;
        }
        let owner = owner_of(&mut inner.owners, &mut inner.stamps, who, now);
        let stamp = owner.stamp;
        for (key, mode) in locks {
            let row = inner.rows.entry(key.clone()).or_default();
            row.holders.retain(|holder| holder.txn != who.owner);
            row.grant(who.owner, *mode, now);
            owner.keys.insert(key.clone());
        }
        let others: Vec<Bytes> =
            owner.keys.iter().filter(|key| !locks.iter().any(|(held, _)| held == *key)).cloned().collect();
        for key in others {
            inner.drop_holder(who.owner, &key, now);
        }
        Some(stamp)
    }

    /// The session holds a lock only as strongly as this (or not at all), and doesn't wait for it any more.
    pub fn lower(&self, owner: TxnId, key: &Bytes, mode: Option<LockMode>, now: Instant) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(row) = inner.rows.get_mut(key) else { return };
        inner.waiters -= remove_waiter(row, owner);
        match mode {
            None => inner.drop_holder(owner, key, now),
            Some(mode) => {
                if let Some(holder) = row.holders.iter_mut().find(|holder| holder.txn == owner) {
                    holder.mode = holder.mode.min(mode);
                }
                inner.waiters -= row.serve(now);
            }
        }
    }
}

impl super::Inner {
    fn drop_holder(&mut self, owner: TxnId, key: &Bytes, now: Instant) {
        let Some(row) = self.rows.get_mut(key) else { return };
        row.holders.retain(|holder| holder.txn != owner);
        self.waiters -= row.serve(now);
        if row.holders.is_empty() && row.queue.is_empty() {
            self.rows.remove(key);
        } else if row.queue.iter().any(|waiter| waiter.txn == owner) {
            return;
        }
        if let Some(owner) = self.owners.get_mut(&owner) {
            owner.keys.remove(key);
        }
    }
}
