//! What a replica remembers only while it leads.
//!
//! All of it dies with the term, so it must be such that forgetting is safe:
//!
//! * **latches**: what an earlier leader had in flight is either applied before this term's first entry, or never;
//! * **pushes** ("this transaction must not commit at or below r, someone has read past it"): forgotten ones are
//!   covered by the *floor*, a timestamp drawn after this leadership began. Whoever was pushed by an earlier leader
//!   was pushed to a timestamp that existed then, so below the floor, and no primary commits at or below the floor;
//! * **row locks**: the commits of those who had them are checked like anyone's;
//! * **advisory locks**: those who hold them tell the new leader, which grants none to others before
//!   (`command/advisory.rs`);
//! * **heartbeats**: everyone gets a fresh period of grace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::ids::{Term, Timestamp, TxnId};
use tokio::sync::OnceCell;

use super::Closing;
use crate::latch::Latches;
use crate::lock::LockTable;
use crate::{Error, Oracle};

/// A transaction whose coordinator was not heard of for so long may be ended by whoever meets its intents.
pub const LAPSE: Duration = Duration::from_millis(1_800);

/// A transaction that was not heard of for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(100);

/// How long pushes wait for a transaction that has announced its commit.
pub const STAGED_MAX: Duration = Duration::from_millis(300);

/// Past so many remembered transactions, those that are long gone are looked for.
const SWEEP_AT: usize = 1024;

/// What a push found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is pending, and will not commit at or below the timestamp.
    Pending(Timestamp),
    /// Its coordinator has not been heard of for too long.
    Lapsed,
    /// It has announced its commit: ask again in a moment.
    Staged,
}

#[derive(Debug)]
struct Live {
    heard: Instant,
    /// It must not commit at or below this.
    above: Timestamp,
    /// Pushes wait until then.
    staged_until: Option<Instant>,
}

/// A term of leading.
#[derive(Debug)]
pub struct Leadership {
    /// The term.
    pub term: Term,
    /// The latches.
    pub latches: Arc<Latches>,
    /// Row locks.
    pub locks: LockTable,
    /// Advisory locks.
    pub advisory: LockTable,
    /// What it has closed.
    pub closing: Closing,
    began: Instant,
    floor: OnceCell<Timestamp>,
    /// Undecided transactions whose primary lies here, as far as they were heard of.
    live: Mutex<HashMap<TxnId, Live>>,
}

impl Leadership {
    /// A leadership that begins now.
    pub fn new(term: Term, now: Instant) -> Self {
        Self {
            term,
            latches: Arc::default(),
            locks: LockTable::default(),
            advisory: LockTable::strict(),
            closing: Closing::default(),
            began: now,
            floor: OnceCell::new(),
            live: Mutex::default(),
        }
    }

    /// The same term once more, as if another leader began: what a shard that has grown starts with. It has a floor of its own,
    /// no locks, and knows no sessions by the stamps that they were given before.
    pub(super) fn renewed(&self, now: Instant) -> Self {
        Self { advisory: LockTable::strict_after(&self.advisory), ..Self::new(self.term, now) }
    }

    /// For how long it has lasted.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// All locks.
    pub fn lock_tables(&self) -> [&LockTable; 2] {
        [&self.locks, &self.advisory]
    }

    /// Requests are under way, or somebody holds a lock or waits for one.
    pub fn is_busy(&self) -> bool {
        !self.latches.is_idle() || self.lock_tables().into_iter().any(|table| !table.is_idle())
    }

    /// The floor; drawn at the first call.
    pub async fn floor(&self, oracle: &dyn Oracle) -> Result<Timestamp, Error> {
        self.floor.get_or_try_init(|| oracle.timestamp()).await.copied()
    }

    /// The transaction's coordinator was heard of.
    pub fn heard(&self, txn: TxnId, now: Instant) {
        let mut live = self.live.lock();
        let entry =
            live.entry(txn).or_insert(Live { heard: now, above: Timestamp::ZERO, staged_until: None });
        entry.heard = now;
        if live.len() > SWEEP_AT {
            // A lapsed transaction that nobody met. Its entry may go as long as the lapse stays visible: to whom meets
            // it later, it was heard of when this leadership began, at the latest. The push bound must stay for as
            // long as its coordinator could still commit, which is bounded by its request timeout.
            live.retain(|_, l| now.saturating_duration_since(l.heard) < FORGET_AFTER);
        }
    }

    /// Someone reads at `above` past the transaction. The caller holds a latch on its primary, and has found the
    /// transaction undecided.
    pub fn push(&self, txn: TxnId, above: Timestamp, now: Instant) -> Pushed {
        let mut live = self.live.lock();
        // Unknown: its primary's intent may be on its way, or was laid under an earlier leader. Grace from now on.
        let entry =
            live.entry(txn).or_insert(Live { heard: now, above: Timestamp::ZERO, staged_until: None });
        if now.saturating_duration_since(entry.heard.max(self.began)) > LAPSE {
            return Pushed::Lapsed;
        }
        if entry.staged_until.is_some_and(|until| now < until) && above > entry.above {
            return Pushed::Staged;
        }
        entry.above = entry.above.max(above);
        debug_assert!(entry.above >= above, "P2: a push that is not remembered");
        Pushed::Pending(entry.above)
    }

    /// The coordinator announces that it is about to commit. Returns what it must commit above.
    pub fn stage(&self, txn: TxnId, now: Instant) -> Timestamp {
        let mut live = self.live.lock();
        let entry =
            live.entry(txn).or_insert(Live { heard: now, above: Timestamp::ZERO, staged_until: None });
        entry.heard = now;
        entry.staged_until = Some(now + STAGED_MAX);
        entry.above
    }

    /// What the transaction must commit above, on account of pushes in this term.
    pub fn pushed_to(&self, txn: TxnId) -> Timestamp {
        self.live.lock().get(&txn).map_or(Timestamp::ZERO, |l| l.above)
    }

    /// The transaction is decided.
    pub fn decided(&self, txn: TxnId) {
        self.live.lock().remove(&txn);
    }
}
