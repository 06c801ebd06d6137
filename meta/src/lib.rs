//! The meta-group: the one Raft group that knows where everything is.
//!
//! # What it does
//!
//! Group 1 replicates a small state ([`state::State`]): the nodes and their addresses, the shard map, the ids already
//! given away, the end of the oracle's window, settings. Everything else is derived or soft.
//!
//! ```text
//!   every node                                   the leader of the meta-group
//!   ┌──────────────────────────┐   Report, 1/s   ┌─────────────────────────────────────────────┐
//!   │ reporter ────────────────┼────────────────▶│ soft state: who lives, who leads what       │
//!   │   ◀── map, if newer ─────┼─────────────────│   │ changed descriptors: UpdateShards ─▶ log│
//!   │ MetaClient               │                 │   ▼                                         │
//!   │   Directory: cached map  │ Map on a miss   │ placement::plan(description) -> operations  │
//!   │   Oracle: batches draws ─┼────────────────▶│ oracle: window, lease                       │
//!   │                          │  NodeControl    │   │                                         │
//!   │ replicas, leaders ◀──────┼─────────────────│ reconcile: carries the operations out       │
//!   └──────────────────────────┘                 └─────────────────────────────────────────────┘
//! ```
//!
//! - [`machine`] is the state machine; [`command`] holds what it applies, one file each;
//! - [`server`] answers the gRPC service at the leader and redirects elsewhere; [`oracle`] is its pure window;
//! - [`deadlock`] finds transactions that wait for each other, in whatever shards;
//! - [`safe_point`] says up to where old versions may be collected; [`settings`] are what operators set;
//! - `operator` answers what operators ask; `leftovers` removes replicas that are no members any more, [`absorbed`] those of shards
//!   that are gone;
//! - [`consistency`] compares the replicas of each group with each other;
//! - [`placement`] is a pure function, [`reconcile`] the loop that carries out what it says;
//! - [`client`] finds the leader and implements the transaction layer's `Oracle` and `Directory`; [`reporter`] is each
//!   node's heartbeat.
//!
//! # Why so
//!
//! *Shards are authoritative for themselves.* A split or merge is replicated in the shards' own groups; the map here
//! is told afterwards, and takes whatever has the higher epoch: each key is given away under a higher one. A stale map costs a redirect, never a wrong answer,
//! so the map needs no transaction with the shards.
//!
//! *Liveness is soft.* Heartbeats are not replicated; a new leader of the meta-group starts by believing that all
//! nodes live and is told within a second.
//!
//! # What must never happen
//!
//! - A timestamp at or below one that was handed out before, by any leader: the window's end is replicated first, and a
//!   draw is answered only after the leadership was confirmed *after* the value was drawn.
//! - An id given twice. (Giving away ids that nobody uses is fine.)
//! - A data row in here.
//!
//! # Caveats
//!
//! Reports carry all groups a node leads, which is meant for hundreds of groups a node, not for tens of thousands.
//!
//! Start reading at [`server::MetaServer`].

pub mod absorbed;
mod cancel;
pub mod client;
pub mod command;
pub mod consistency;
pub mod control;
pub mod deadlock;
mod error;
mod leftovers;
mod loads;
pub mod machine;
pub mod membership;
mod meter;
pub mod names;
mod operate;
mod operator;
mod operator_shards;
pub mod oracle;
mod order;
pub mod placement;
pub mod reconcile;
pub mod reporter;
mod reports;
mod room;
mod rpc;
pub mod safe_point;
pub mod server;
pub mod settings;
pub mod shard_map;
mod sizes;
pub mod state;

pub use client::MetaClient;
pub use error::Error;
pub use leftovers::Leftovers;
pub use machine::MetaReplica;
pub use operator::duty_name;
pub use server::MetaServer;

use storage::ids::{GroupId, NodeId, ReplicaId};

/// The node that initialises a cluster.
pub const FIRST_NODE: NodeId = NodeId(1);
/// The meta-group's first replica.
pub const FIRST_REPLICA: ReplicaId = ReplicaId(1);
/// The shard of the system database (catalog), below [`DEFAULT_DATABASE_START`].
pub const SYSTEM_GROUP: GroupId = GroupId(2);
/// The shard of the first database: everything else, until it is split.
pub const DEFAULT_GROUP: GroupId = GroupId(3);
/// The first key that does not belong to the system: database 2, big-endian.
pub const DEFAULT_DATABASE_START: [u8; 4] = [0, 0, 0, 2];
/// Voters per group unless the operator says otherwise.
pub const REPLICATION_FACTOR: u32 = 3;
/// The version of what nodes say to each other.
pub const PROTOCOL: u32 = 1;
/// No message of the service is larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
