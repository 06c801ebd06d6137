//! What a node keeps on its disk: the Raft log of all its groups, and the state that they have applied.
//!
//! # What is here
//!
//! ```text
//!   Store::open ──▶ LOCK, FORMAT, IDENTITY                       store, format
//!        │
//!        ├──▶ log/    RocksDB with WAL, every write synced       raft_log    entries, votes (truth)
//!        │
//!        └──▶ state/  RocksDB without WAL, flushed atomically    engine      what the log amounts to so far
//!                       data      versions of rows               mvcc, keys, gc
//!                       intents   provisional writes             intents
//!                       group     each group's own               (raft, txn, meta)
//! ```
//!
//! Entries, commands and what stands in `group` are bytes here. This crate knows nothing of Raft's rules, of
//! transactions' fates, of SQL, or of the network; it depends on no other room but the generated protobuf.
//!
//! # Why two databases
//!
//! *The log is the WAL.* A command is durable when it is in the Raft log of a majority; writing it a second time to
//! a log of the state database would double the disk's work. So the state database runs without one. After a crash it
//! is as of its last flush, and the commands since then are applied again from the Raft log. That is right because
//!
//! 1. each applied command is *one* batch, which carries the command's index (raft does this);
//! 2. the column families flush atomically, so what survives is a prefix of the batches, never a part of one;
//! 3. the log is purged only up to an index that a finished [`Engine::flush`] covers.
//!
//! *One log for all groups* makes the fsync shared: one writer thread takes whatever all groups have queued, writes
//! it as one batch, and syncs once. See [`raft_log`].
//!
//! # What must never happen
//!
//! - **An acknowledged record is lost silently.** A vote or entry whose `done(Ok)` was called is on the disk. After
//!   the first failed write the log refuses everything for good: a second fsync may "succeed" without having written
//!   what the first one lost.
//! - **Damaged bytes are served.** Before a store is used, its manifests and logs are read by [`wal_check`], which
//!   tells the torn tail of a crash (cut off: it was never acknowledged) from damage (refused), and every table file
//!   is compared with its checksum ([`verify`]). Later reads verify each block; entries and votes carry a checksum of
//!   their own that covers the key. Every such error is [`Error::Corrupt`] and names the file. The remedy is always
//!   the same: wipe the store and let the node join again, under new replica ids.
//! - **Two processes use one store**, or a store is used by a node that it doesn't belong to: LOCK, IDENTITY.
//! - **A half-imported snapshot passes for a replica's state**: see [`import`] and its marker.
//!
//! # Caveats
//!
//! - A store whose tables have more than [`StoreOptions::verify_bytes_max`] bytes is opened without reading them all:
//!   damage in one is then found by the read that meets it.
//! - Nearly all calls may block on the disk. Callers on an async runtime decide where to run them. [`Engine::write`] may
//!   block for long while RocksDB catches up with compactions; [`Engine::write_aside`] waits elsewhere.
//! - A [`Snapshot`] holds back the removal of what it sees; keep it for a request, not for a session.
//! - A scan over intents steps over the tombstones of resolved ones until they are compacted.
//! - Whether a flipped byte in the last batch of a log can be told from a torn one is a matter of probability where
//!   many bytes at the very end turned into zeros: see [`wal_check`].
//!
//! # Where to start
//!
//! [`store`] for what a directory holds, [`engine`] for batches and snapshots, [`mvcc`] for what a row is, then
//! [`raft_log`]. The scripts in `testscripts/mvcc` show versions, intents and garbage collection by example;
//! `tests/damage.rs` shows what a crash and what a flipped byte do. [`ids`] and [`seam`] are the words and the seams
//! that all rooms share.

#![allow(rustdoc::private_intra_doc_links, reason = "the essay leads through the private modules too")]

pub mod crash_image;
mod crc32c;
pub mod digest;
pub mod engine;
mod error;
pub mod fail_point;
mod format;
pub mod gc;
pub mod ids;
pub mod import;
pub mod inspect;
pub mod intents;
pub mod keys;
pub mod middle;
pub mod mvcc;
pub mod options;
pub mod raft_log;
pub mod sabotage;
pub mod seam;
pub mod snapshot;
pub mod store;
mod tables;
mod verify;
mod wal_check;

pub use engine::{Batch, Cf, Engine, Snapshot};
pub use error::{Error, Remedy};
pub use options::StoreOptions;
pub use raft_log::{LogEngine, LogState};
pub use store::{Identity, Store};

#[cfg(test)]
mod tests;
