//! What an operator may have the cluster do, and what the cluster can tell of itself. The transaction layer knows the words only: the
//! meta-group does it.

use std::collections::HashMap;

use bytes::Bytes;
use storage::ids::{GroupId, NodeId};

/// What a cluster is to do. Nodes are named as operators do: `n2`, `2`, or one of its addresses; shards like `g3`, `3`, or `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Say what placement does, and would do next.
    Rebalance,
    /// Move a replica.
    Move {
        /// Of this shard.
        shard: String,
        /// It leaves this node.
        from: String,
        /// It comes to this one.
        to: String,
    },
    /// Cut a shard in two.
    Split {
        /// Which.
        shard: String,
        /// The first key of the second half; `None`: in the middle of its bytes.
        key: Option<Bytes>,
    },
    /// Have a shard absorb its right neighbour.
    Merge {
        /// The one that remains.
        shard: String,
    },
    /// Have another node lead a shard.
    TransferLeader {
        /// Which.
        shard: String,
        /// Who shall lead it.
        node: String,
    },
    /// Have a node lead nothing, take no replicas and have no sessions.
    Drain {
        /// Which.
        node: String,
    },
    /// Have a drained node serve again.
    Undrain {
        /// Which.
        node: String,
    },
    /// Move everything off a node.
    Decommission {
        /// Which.
        node: String,
        /// Even if the others have no room for all of it.
        force: bool,
    },
    /// Keep a node that is being, or was, decommissioned.
    Recommission {
        /// Which.
        node: String,
    },
    /// Wait no longer for nodes that are down.
    Repair {
        /// Only for this one; `None`: all.
        node: Option<String>,
    },
    /// Set something for the whole cluster.
    Set {
        /// What.
        name: String,
        /// To what; `None`: to its default.
        value: Option<String>,
    },
    /// End what was begun.
    Cancel {
        /// Its name: `move-3`.
        operation: String,
    },
    /// Make a node a member of the meta-group.
    MetaAdd {
        /// Which.
        node: String,
        /// The member that leaves; `None`: the one that is missed least.
        replacing: Option<String>,
    },
    /// Have a node be no member of the meta-group any more.
    MetaRemove {
        /// Which.
        node: String,
        /// The node that takes its place; `None`: the one that has least to do.
        to: Option<String>,
    },
}

/// What nodes have said of themselves, and leaders of their shards, in the last seconds. What is not there has not been told.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By node.
    pub nodes: HashMap<NodeId, NodeFacts>,
    /// By shard.
    pub groups: HashMap<GroupId, GroupFacts>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Where it stands: `region=…,zone=…,rack=…`, each of which may be missing.
    pub locality: String,
    /// The size of the disk that its store is on, in bytes; `None`: it can't tell.
    pub disk_bytes: Option<u64>,
    /// How much of that is taken, by whatever.
    pub disk_used_bytes: Option<u64>,
    /// Its SQL sessions.
    pub sessions: u64,
}

/// What the leader of a shard says of it.
#[derive(Clone, Debug, Default)]
pub struct GroupFacts {
    /// About how much a replica takes on the disk; `None`: not measured yet.
    pub bytes: Option<u64>,
    /// Requests per second that only read; `None`: not measured yet.
    pub reads_per_second: Option<u32>,
    /// … and those that write.
    pub writes_per_second: Option<u32>,
    /// The nodes whose replicas have a vote.
    pub voters: Vec<NodeId>,
    /// Entries that the replica which is furthest behind has yet to acknowledge; `None`: of one it is not known.
    pub lag: Option<u64>,
    /// The nodes of which the leader has not heard lately.
    pub unreachable: Vec<NodeId>,
}
