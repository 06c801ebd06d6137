//! What can be done to groups.

use std::collections::BTreeSet;
use std::fmt;

use storage::ids::{GroupId, NodeId, ReplicaId};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Add a blank replica that receives the log and has no vote.
    AddLearner {
        /// The group.
        group: GroupId,
        /// Where.
        node: NodeId,
        /// The replica whose place it is going to take, to be remembered as [`Replica::replaced`](super::Replica).
        replaces: Option<ReplicaId>,
    },
    /// Make these replicas the voters: of those that were, and of learners that have caught up. Voters that are not
    /// named leave the group; the leader is always named.
    ChangeVoters {
        /// The group.
        group: GroupId,
        /// All voters there shall be.
        voters: BTreeSet<ReplicaId>,
    },
    /// Take a replica away: a learner that is not needed any more, or a voter of which there are too many.
    RemoveReplica {
        /// The group.
        group: GroupId,
        /// Which.
        replica: ReplicaId,
        /// Where it is.
        node: NodeId,
    },
    /// Hand the leadership over.
    TransferLeader {
        /// The group.
        group: GroupId,
        /// The new leader.
        replica: ReplicaId,
        /// The new leader's node.
        node: NodeId,
    },
    /// Split the shard, at a key that the shard chooses.
    Split {
        /// The group.
        group: GroupId,
    },
    /// Merge the shard with its right neighbour, after the neighbour's replicas were brought to the same nodes.
    Merge {
        /// The group that remains.
        group: GroupId,
        /// The group that ends.
        right: GroupId,
    },
}

impl Operation {
    /// The group it is about.
    pub fn group(&self) -> GroupId {
        match self {
            Operation::AddLearner { group, .. }
            | Operation::ChangeVoters { group, .. }
            | Operation::RemoveReplica { group, .. }
            | Operation::TransferLeader { group, .. }
            | Operation::Split { group }
            | Operation::Merge { group, .. } => *group,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AddLearner { group, node, replaces: None } => {
                write!(f, "{group}: add learner on {node}")
            }
            Operation::AddLearner { group, node, replaces: Some(old) } => {
                write!(f, "{group}: add learner on {node} for {old}")
            }
            Operation::ChangeVoters { group, voters } => {
                let voters: Vec<String> = voters.iter().map(ReplicaId::to_string).collect();
                write!(f, "{group}: voters become {}", voters.join(" "))
            }
            Operation::RemoveReplica { group, replica, node } => {
                write!(f, "{group}: remove {replica} from {node}")
            }
            Operation::TransferLeader { group, replica, node } => {
                write!(f, "{group}: transfer leader to {replica} on {node}")
            }
            Operation::Split { group } => write!(f, "{group}: split"),
            Operation::Merge { group, right } => write!(f, "{group}: merge with {right}"),
        }
    }
}
