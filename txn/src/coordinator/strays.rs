//! Which of a transaction's requests may still be evaluated although nobody waits for them any more.
//!
//! A request whose answer doesn't come in time is sent again, and the first copy may come to a leader at any time after
//! that: when the transaction is over, its intents are settled, and its record is gone. A late `Prewrite` would lay an
//! intent again, and a late `CommitPrimary` find it and commit it a second time. What refuses them is the record at
//! the primary. So a transaction with strays
//!
//! * that has committed, leaves its record, and
//! * that gives up, writes one,
//!
//! for the sweep to remove when no request can be so old any more (`sweep.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts requests that were sent, and not certainly evaluated for the last time.
#[derive(Debug, Default)]
pub struct Strays(AtomicUsize);

/// A request that was sent. Dropped without an answer, it is a stray.
#[derive(Debug)]
pub struct Sent<'s> {
    strays: &'s Strays,
    /// An answer was given up, and the request was sent again.
    pub lost: bool,
}

impl Strays {
    /// A request is about to be sent.
    pub fn send(&self) -> Sent<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Sent { strays: self, lost: false }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Sent<'_> {
    /// There is an answer. If it is the answer to the only copy, nothing is under way.
    pub fn answered(self) {
        if !self.lost {
            self.strays.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
