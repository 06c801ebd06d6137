//! Commits that were applied lately, by transaction: every replica remembers them, so that after a failover the
//! new leader can tell a gateway whose answer was lost that its one-shard commit happened; and so that whoever conflicts with a
//! version can be told whose it is.
//!
//! Not finding one means nothing: it may never have been proposed, or be older than this memory. So the answer is "yes,
//! at this timestamp" or "unknown", and nobody may take the latter for a no.

use std::collections::{HashMap, VecDeque};

use storage::ids::{Timestamp, TxnId};

/// How many are remembered; at 10,000 commits a second, some seconds' worth.
const RECENT_MAX: usize = 1 << 16;

/// The memory. Part of no snapshot, and empty after a restart.
#[derive(Debug, Default)]
pub struct Recent {
    at: HashMap<TxnId, Timestamp>,
    order: VecDeque<TxnId>,
}

impl Recent {
    /// A commit was applied.
    pub fn add(&mut self, txn: TxnId, at: Timestamp) {
        if self.at.insert(txn, at).is_some() {
            return;
        }
        self.order.push_back(txn);
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.at.remove(&oldest);
        }
    }

    /// Those of a shard whose keys have become this one's.
    pub fn append(&mut self, others: Recent) {
        for txn in others.order {
            if let Some(at) = others.at.get(&txn) {
                self.add(txn, *at);
            }
        }
    }

    /// Who committed at a timestamp, if it is remembered. (Looks at all of them: for conflicts only.)
    pub fn writer(&self, at: Timestamp) -> Option<TxnId> {
        self.order.iter().rev().find(|txn| self.at.get(txn) == Some(&at)).copied()
    }

    /// When the transaction committed, if it is remembered.
    pub fn get(&self, txn: TxnId) -> Option<Timestamp> {
        self.at.get(&txn).copied()
    }
}
