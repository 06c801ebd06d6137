//! Transactions over shards: strictly serializable, with one log entry for a commit that stays in one shard.
//!
//! This room sits between Raft, which knows nothing of what it replicates, and SQL, which knows nothing of shards. It
//! gives SQL two traits ([`api::Database`], [`api::Transaction`]) over opaque keys and values, and asks the meta-group
//! for two things ([`Oracle`], [`Directory`]), whose implementation it doesn't know.
//!
//! ```text
//!             gateway (any node)                                shard's leader                      every replica
//!   SQL ──▶ coordinator/  buffer, spans, commit
//!              │ router: which shard, who leads
//!              └─▶ transport: one stream per pair ──▶ server ──▶ command/  evaluate under latches
//!                                                                  │ effects
//!                                                                  └─▶ raft ──▶ log ──▶ shard/apply: blind writes
//! ```
//!
//! # Why it is strictly serializable
//!
//! Every transaction happens at one timestamp: a reader at its snapshot's, a writer at its commit's. Three arguments
//! carry everything; each is spelled out where the code is. `txn/PROTOCOL.md` has the protocol step by step, its
//! invariants by number, and the whole argument; `tests/model` explores it state by state.
//!
//! 1. **A snapshot misses nothing** (`command/read.rs`). The timestamp of a one-shard commit is drawn *by the leader,
//!    under exclusive latches* on what it writes. A read at `r` waits for the latches it finds. Whoever latches later
//!    draws later than `r` existed, and commits above `r`. Over several shards the timestamp is drawn after all intents
//!    are laid; a reader that meets one asks the primary, and "pending" binds the writer to commit above `r`.
//! 2. **What was read is still so at the commit** (`command/commit.rs`, `command/validate.rs`). In one shard the read
//!    spans are latched while they are checked and until the effects are applied. Over several they are validated at the
//!    commit timestamp, and by argument 1 nothing can appear below it afterwards.
//! 3. **Real time is respected.** An acknowledged commit has a timestamp that the oracle had handed out before the
//!    acknowledgement; whoever begins later and asks the oracle is above it. Whoever reads "the latest" without asking
//!    sees everything that is applied, and what it doesn't see of its keys draws its timestamp later than the read
//!    began (several keys are read at one moment, under latches: `command/read.rs`). (That is why the gateway must not draw the timestamp of a one-shard commit and send it along. Suppose T3
//!    drew 80 and dawdles; T1 draws 100, commits elsewhere, is acknowledged; T2 reads the latest of T3's key, and sees
//!    nothing; T3 arrives and commits at 80. A reader at 90 then sees T3 and not T1, so T1 ▸ T2 ▸ T3 ▸ reader ▸ T1.)
//!
//! No timestamp is ever raised by a shard, and no "highest read" is remembered: the draw under latches is above every
//! read that there was. So there is nothing that a new leader could forget, but for one thing: that a pending
//! transaction was told to commit above `r`. For that a new leader draws a *floor*, a fresh timestamp, before it commits
//! a primary (`shard/leadership.rs`). Everything else that a leader keeps in memory (latches, heartbeats) is safe to lose.
//!
//! # What it must never do
//!
//! * Propose anything that is not latched, or release a latch while the fate of a proposal is unknown
//!   (`command/mod.rs`): an evaluation in between would miss it, a split would overtake it.
//! * Look at the lease, or at the shard's descriptor, *before* taking the snapshot that it answers from.
//! * Send a one-shard commit a second time, unless the first was certainly not evaluated (`router.rs`).
//! * Remove a transaction's record while one of its requests may still be evaluated (`coordinator/strays.rs`).
//! * Make apply depend on anything but the state and the command: no clocks, no memory, no configuration.
//! * Know what a key or a value means. (Fences are the one convention: a key that ends in `00` right behind a shard's
//!   first key, or behind a table's prefix, is a fence: [`api::Fence`].)
//!
//! # Old versions
//!
//! Versions that only reads below the cluster's safe point need are removed (`command/collect.rs`, `shard/garbage.rs`). The
//! safe point lies a setting behind the oracle and is held back by open snapshots, again up to a setting; each
//! shard replicates its own before it removes anything, and refuses snapshots below it: [`Error::SnapshotTooOld`].
//!
//! # Reading the past without a leader
//!
//! Leaders *close* timestamps a few seconds behind the present: a read of the whole shard whose answer goes into the log, that there is nothing more
//! to come (`command/close.rs`). From then on any replica answers reads there, from one snapshot of its engine (`command/past.rs`), and gateways ask
//! the nearest (`router/past.rs`). `txn/PROTOCOL.md` has the invariants C1–C7.
//!
//! # Failures
//!
//! * *A leader dies*: requests are sent to the next one; a one-shard commit that may have been proposed is looked for by
//!   its id among what the new leader has applied, and is [`Error::Ambiguous`] if it is not found.
//! * *A gateway dies*: its transactions' intents stay. Whoever meets one asks the primary; a transaction that has been
//!   silent for [`shard::LAPSE`] is aborted there, by a record which also refuses the coordinator, should it only have
//!   been slow. Decided ones are settled by whoever meets them, and by a sweep at the primary's leader.
//! * *Advisory locks* are kept across changes of their leader, or lost with a word (`command/advisory.rs`, `coordinator/advisory.rs`).
//! * *The oracle is away*: commits and snapshots wait; reads of the latest go on.
//!
//! # Caveats
//!
//! * Below `Serializable` reads are not validated, but for those of schema changes (`coordinator/reading.rs`): what was locked
//!   or written is, each row since the moment it was read. Fences are validated at every level.
//! * Commits draw under latches, so a hot key pays the oracle's round trip once per commit.
//! * Evaluation reads RocksDB on the runtime's own threads. Pages are bounded, disks are assumed to be quick.
//! * A large transaction's intents leave tombstones in their column family until compaction; wide ranges with few rows
//!   are slow to check for that long.
//! * Garbage collection reads all of a shard to find what is garbage (`shard/garbage.rs` bounds how often).
//! * The record of a one-shard commit is kept in memory only (`shard/recent.rs`): enough for a failover, not for a restart of
//!   all replicas.
//!
//! # Where to start
//!
//! [`api`] for the contract, `coordinator/mod.rs` for the life of a commit, `command/mod.rs` for what leaders do and the
//! rules they keep, `shard/apply.rs` for what everyone does. A new command is a file in `command/`, a message in
//! `proto/shard.proto`, and, if it has effects of its own, an arm in `shard/apply.rs`.

pub mod api;
pub mod cluster;
mod command;
pub mod coordinator;
pub mod descriptor;
mod error;
mod keys;
mod latch;
mod lock;
pub mod order;
mod room;
mod router;
pub mod server;
pub mod shard;
mod spans;
pub mod transport;
mod who;
mod wire;

pub use cluster::{Directory, Oracle};
pub use coordinator::{Cluster, CoordinatorOptions};
pub use descriptor::ShardDescriptor;
pub use server::ShardServer;
pub use shard::{Registry, ShardFactory};
pub use storage::{ids, seam};
pub use transport::ShardService;

pub use error::{Error, Remedy};
pub use lock::{Edge, LockMode};
pub use who::{SessionId, node_of};
