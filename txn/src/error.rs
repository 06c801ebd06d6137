//! What can go wrong with a transaction, and what to do about it.

use bytes::Bytes;
use storage::ids::{Timestamp, TxnId};

/// What the caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Run the transaction again.
    Retry,
    /// The same request will fail again.
    Reject,
    /// The local disk or data is at fault: stop the replica, visibly.
    Fatal,
}

/// An error of the transaction layer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another transaction wrote what this one read or wrote.
    #[error("conflict with a concurrent transaction on key {}", key.escape_ascii())]
    Conflict {
        /// The key.
        key: Bytes,
        /// The rival, where it is known.
        rival: Option<TxnId>,
    },
    /// Under snapshot isolation: the row has changed since the transaction's snapshot.
    #[error("the row under key {} has been {} since the transaction's snapshot", key.escape_ascii(), if *deleted { "deleted" } else { "changed" })]
    Changed {
        /// The key.
        key: Bytes,
        /// It is gone; otherwise there is a newer version.
        deleted: bool,
        /// Who has changed it, if that is remembered.
        rival: Option<TxnId>,
    },
    /// A write demanded that no row stands under the key, and one does.
    #[error("a row already stands under key {}", key.escape_ascii())]
    AlreadyExists {
        /// The key.
        key: Bytes,
    },
    /// Another transaction has locked the row, and waiting was not wanted, or took too long.
    #[error("the row under key {} is locked{}", key.escape_ascii(), if *timed_out { " for longer than the caller waits" } else { "" })]
    Locked {
        /// The key.
        key: Bytes,
        /// The time to wait is over; otherwise there was none.
        timed_out: bool,
    },
    /// Transactions wait for each other in a circle, and this one was chosen to be ended.
    #[error("deadlock over the row under key {}", key.escape_ascii())]
    Deadlock {
        /// The key that it waited for.
        key: Bytes,
    },
    /// A session's advisory locks are gone: others may hold them.
    #[error("the session's advisory locks are lost: {0}")]
    LocksLost(String),
    /// The statement was planned against another version of the table: load the catalog and plan again.
    #[error("the schema under prefix {} has changed", prefix.escape_ascii())]
    FenceMismatch {
        /// The fence's prefix.
        prefix: Bytes,
    },
    /// Versions that the snapshot needs may have been collected.
    #[error("the snapshot at {at} lies below the safe point {safe_point}")]
    SnapshotTooOld {
        /// The snapshot.
        at: Timestamp,
        /// The shard's safe point.
        safe_point: Timestamp,
    },
    /// The transaction was ended by someone else (its heartbeat lapsed), or by an earlier error.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// A commit was sent and its outcome cannot be known.
    #[error("the outcome of the commit is unknown: {0}")]
    Ambiguous(String),
    /// No leader, no majority, or no answer in time. Nothing was done.
    #[error("the shard is unavailable: {0}")]
    Unavailable(String),
    /// A bound was exceeded.
    #[error("too large: {0}")]
    TooLarge(String),
    /// Not possible here.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A write in a read-only transaction, or a use after its end.
    #[error("invalid use: {0}")]
    Invalid(String),
    /// Data on disk is damaged.
    #[error("corruption: {0}")]
    Corruption(String),
    /// A defect: an invariant does not hold.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Conflict { .. }
            | Error::Changed { .. }
            | Error::FenceMismatch { .. }
            | Error::Deadlock { .. }
            | Error::Aborted(_)
            | Error::Unavailable(_) => Remedy::Retry,
            Error::Corruption(_) => Remedy::Fatal,
            _ => Remedy::Reject,
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error.remedy() {
            storage::Remedy::Fatal => Error::Corruption(error.to_string()),
            _ => Error::Internal(error.to_string()),
        }
    }
}
