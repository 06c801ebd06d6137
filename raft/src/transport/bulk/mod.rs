//! Snapshots: a connection of their own each, so that they don't stand in the way of heartbeats.
//!
//! ```text
//!   sender                                              receiver
//!   header (id 17), chunks 0, 1, … ═══════════════════▶  spooled to a file
//!                                 ✗ the stream breaks    what is there is kept
//!   ResumeSnapshot(id 17) ────────────────────────────▶
//!                         ◀───────────────────────────  the first chunk that is lacking: 312
//!   header (id 17, from 312), chunks 312, 313, … ═════▶  … complete: installed
//!                         ◀───────────────────────────  the receiver's vote
//! ```
//!
//! The sender goes on trying for as long as openraft wants it to, it gets forward, or some ten attempts have failed in a
//! row; it holds one view of its state all the while. After that, openraft asks for another snapshot, of a later view.

mod receive;
mod send;

use storage::ids::{GroupId, NodeId, ReplicaId};

pub(crate) use receive::{receive, resume};
pub(crate) use send::send;

/// Chunks (of about 1 MiB) between the disk and the network.
const CHUNKS_AHEAD: usize = 4;

/// From whom to whom.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub group: GroupId,
    pub from: ReplicaId,
    pub to: ReplicaId,
    pub node: NodeId,
}
