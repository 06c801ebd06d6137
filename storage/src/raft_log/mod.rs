//! The shared Raft log: one log engine for all groups of a node.
//!
//! ```text
//!   group 1 ─┐  append, vote,          ┌────────────┐  one write batch   ┌──────────┐
//!   group 2 ─┼─ truncate, purge ──────▶│ the queue  │───────────────────▶│ RocksDB, │
//!   group 3 ─┘  (returns at once,      └────────────┘  one fsync         │ WAL+sync │
//!       ▲        readable at once)           writer thread               └──────────┘
//!       └───────────────────── done(Ok), in order ──────────┘
//! ```
//!
//! **Promises.** What a call changed is seen by every read that starts after the call returned, durable or not.
//! `done` is called after the fsync, in the order of the calls within a group, from the writer's thread: it must not
//! block. Operations of one group reach the disk in the order of their calls; a crash leaves a prefix of them.
//! After the first failed write nothing is acknowledged or read any more: every call fails with [`Error::LogFailed`].

mod group;
mod record;
mod rocks;
pub(crate) mod stored;
mod writer;

use bytes::Bytes;

use crate::Error;
use crate::ids::{GroupId, LogIndex};
pub(crate) use rocks::RocksLog;

/// Called once with the outcome, when the operation is durable (or never will be).
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What the log knows of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The index after the last purged entry: what an entry's index is at least. `None`: never purged.
    pub first: Option<LogIndex>,
    /// The last entry; `None` if there is none after the purged ones.
    pub last: Option<(LogIndex, Bytes)>,
    /// The vote, as saved.
    pub vote: Option<Bytes>,
    /// The committed position, as saved (it may lag behind after a crash).
    pub committed: Option<Bytes>,
    /// The `purged_log_id` of the last purge.
    pub purged: Option<Bytes>,
}

/// A log of many groups. Entries are opaque bytes; the raft crate encodes them.
///
/// The caller's obligations: the entries of one `append` and of successive ones have consecutive indexes, unless
/// the group's log is empty; what shall be overwritten is truncated first. No call waits for the disk, so that callers
/// may be tasks: they bound the entries that they have under way themselves.
pub trait LogEngine: Send + Sync + 'static {
    /// Appends entries. They are readable when this returns, and durable when `done` is called.
    fn append(&self, group: GroupId, entries: Vec<(LogIndex, Bytes)>, done: Done);

    /// Saves the vote, durably.
    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done);

    /// Saves the committed position. Not synced by itself: it becomes durable with the next write that is.
    fn save_committed(&self, group: GroupId, committed: Bytes);

    /// Removes all entries after `last_kept` (`None`: all entries).
    fn truncate_after(&self, group: GroupId, last_kept: Option<LogIndex>, done: Done);

    /// Removes all entries up to and including `upto`, and remembers `purged_log_id`. An `upto` beyond the last
    /// entry (a snapshot was installed) empties the log, which then continues after `upto`.
    fn purge_to(&self, group: GroupId, upto: LogIndex, purged_log_id: Bytes, done: Done);

    /// The entries of `from <= index < to` that exist, in order, as many as fit into `bytes_max`, but at least one
    /// if there is one. Stops at the end of the log; an index below the purged ones is [`Error::Misuse`].
    fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<(LogIndex, Bytes)>, Error>;

    /// What the log knows of a group; the default for one that it does not know.
    fn state(&self, group: GroupId) -> Result<LogState, Error>;

    /// The vote alone: it can be read where the last entry can't.
    fn vote(&self, group: GroupId) -> Result<Option<Bytes>, Error> {
        Ok(self.state(group)?.vote)
    }

    /// All groups with anything in the log.
    fn groups(&self) -> Result<Vec<GroupId>, Error>;

    /// Forgets a group: entries, vote and all.
    fn remove_group(&self, group: GroupId, done: Done);

    /// For how long the log has not come to an end with the write that is under way, and with telling of it; zero if there is none.
    fn stalled_for(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    /// The failure that closed the log, if one did.
    fn failure(&self) -> Option<Error>;

    /// Makes durable what is queued, and ends. Later operations fail with [`Error::Closed`].
    fn close(&self);
}
