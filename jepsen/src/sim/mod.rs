//! The deterministic simulator: a cluster in one thread, whose whole run follows from a seed.
//!
//! ```text
//!   seed ──▶ plan (nodes, workload, clocks, faults)
//!              │
//!              ▼
//!   Simulation ── runs nodes, moves time, strikes ──▶ history ──▶ checker ──▶ verdict
//!     │ world   events, order, trace                     ▲
//!     │ host    clocks, random bytes, idleness           │ clients (tasks of the nodes)
//!     │ net     connections over links that fail         │
//!     │ disk    the log, with syncs that take time       │
//!     │ operate what operators ask for                   │   (duties: of nodes; automatic: by settings)
//!     │ changes nodes that join, leave, are replaced     │
//!     │ census  who has which keys, and where            │
//!     └ node    the product: raft, meta, txn, as `node::assembly` puts them together
//! ```
//!
//! # What is simulated
//!
//! - **Time.** Nothing waits. When no task of any node has anything to do, the clock moves to the next event or timer. Each node's
//!   monotonic clock runs at a rate of its own, within what leases allow for; wall clocks differ, and jump.
//! - **The network**, below tonic: HTTP/2 is real, what carries it is not ([`net`]).
//! - **The log's disk**: a [`storage::LogEngine`] with syncs that take time, and crashes that lose what was not synced ([`disk`]).
//! - **Randomness**, of the seams and of the operating system; so hash maps iterate in the same order, too.
//! - **The scheduler**: one current-thread runtime per node, polled in an order drawn from the seed.
//! - **Clients**, which call `txn::api::Database` at a node; SQL is left out.
//! - **Operators**: tasks that ask for splits, merges, moves of replicas (of the meta-group's, too) and transfers of leaders, as `flotilla
//!   admin` does; that nodes be drained, emptied (some are kept after all, some stopped for good when they are), or not awaited any longer
//!   ([`operate`], [`duties`]). What carries them out is the product's own: `meta::reconcile`, in every node, over the simulated network.
//!   Placement runs beside it, and moves replicas and leaders where nodes are uneven.
//! - **Nodes that come and go.** In some seeds one or two nodes join while clients work, by the address of one member, and are often
//!   hit by a fault meanwhile. In some a node is dead for longer than it is awaited (`node_down_replace_after`, or an operator's
//!   word): what it had is rebuilt elsewhere, its vote in the meta-group, too; what is left on it is cleaned away when it is
//!   back. Clients work until then.
//! - **Splits and merges by themselves.** In some seeds shards become too large at a moment, for an operator wants them small, and are
//!   merged when they may be: while clients work, or at the end (`automatic.rs`).
//!
//! # What must hold, beside what checkers say of the history
//!
//! At every moment (looked at four times a second): no replica has stopped because of what it found; on no node two replicas hold the same key.
//! In the end, when everything is whole: operations end; nodes that were decommissioned have nothing; what was split by itself is merged;
//! every key is in one shard; each group has as many voters as it shall have, no learner, and no node a replica of anything
//! else; replicas that were removed, and those of shards that are gone, refuse a read as long as they are there; all replicas of
//! a group hold the same rows.
//!
//! # What is not
//!
//! The state is a real RocksDB in a directory (on tmpfs, if there is one); its own threads run in real time, and nothing that a
//! run sees depends on when. A crash copies the files as they are, so that torn *files* are not simulated, nor is damage of any kind:
//! `storage`'s own tests and `jepsen run` with its disk faults do that. `storage::raft_log`'s RocksDB is replaced. Work that the product
//! gives to threads happens in one go, after as long as a disk takes; threads don't race. All shards are said to take the same on the disk,
//! for what tables take depends on those threads: so how placement weighs sizes is not seen here. Nor are splits by load, which take
//! more requests within five seconds than clients make in a seed.
//!
//! No node comes back under another address, and none with an empty store in the place of its old one.
//!
//! # How it stays deterministic
//!
//! Tokio, hyper, openraft and the standard library look at the clock and draw random bytes below our seams. The program `jepsen`
//! therefore defines `clock_gettime`, `getrandom` and `epoll_wait` itself; see [`host`]. What is left, counters and caches in statics,
//! starts afresh with each process: so a seed is a process of its own ([`explore`]). Two runs are compared by the hash of all
//! that happened ([`world::World::note`]): every piece of data that arrives, with its content, every sync, call, answer, fault.
//!
//! # Caveats
//!
//! Pieces of the network are never lost for good or forged, only late or cut off with their connection, as over TCP. Timers of tokio have
//! its resolution of a millisecond. A node's clients stand still while the node is paused, so that what a client sees of a pause is
//! seen by those of the other nodes.

mod automatic;
mod census;
mod changes;
mod client;
pub mod disk;
pub mod duties;
mod ending;
pub mod explore;
mod forming;
pub mod host;
pub mod net;
pub mod node;
pub mod operate;
pub mod plan;
mod replicas;
pub mod run;
mod strike;
pub mod workload;
pub mod world;

pub use explore::explore;
pub use run::{Options, Outcome, panicked, simulate};
