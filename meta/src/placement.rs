//! Placement: a pure function from a description of the cluster to what should be done next.
//!
//! [`plan`] is asked again and again by the reconcile loop (see [`crate::reconcile`]); every answer is one step of
//! which the next answer sees the result. There is no state between two calls, so a failed step, a new leader of the
//! meta-group or an operator's hand need no special care: the next plan starts from what is.
//!
//! What it wants:
//!
//! 1. every group has `min(replication factor, nodes)` voters: learners are added on the living nodes with the fewest
//!    replicas, and promoted all at once when all of them have caught up;
//! 2. leaders are spread: first within each *family* (the shards of one table), so that a table's load is shared by
//!    all nodes, then over all. The meta-group's leader counts, but is never moved: the oracle stays where it is.
//!
//! What it leaves alone: replicas on dead nodes (they come back), and groups without a leader (nobody to ask).
//!
//! Leader moves terminate: a move either evens out a family, or leaves its evenness as it is and evens out the total.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};

/// At most this many leaders are moved by one plan, so that clients see few groups change at a time.
const TRANSFERS_MAX: usize = 8;

/// What placement knows of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Voters per group, nodes permitting.
    pub replication_factor: usize,
    /// All nodes, and whether each is alive.
    pub nodes: BTreeMap<NodeId, bool>,
    /// All groups.
    pub groups: BTreeMap<GroupId, Group>,
    /// No leader is moved: who leads how much is not known (not all have said so), or about to change (a node has
    /// just died, and is likely to come back).
    pub incomplete: bool,
}

/// A Raft group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// What its leader should be spread against: the table its shard belongs to. `None`: nothing in particular.
    pub family: Option<Bytes>,
    /// The node that leads it, as far as is known.
    pub leader: Option<NodeId>,
    /// Its replicas.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// An operation on it is under way, or its last one is not yet to be seen: leave it alone.
    pub busy: bool,
    /// Its leader has changed lately: don't move it again at once.
    pub restless: bool,
}

/// A replica, as its leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Replica {
    /// Where.
    pub node: NodeId,
    /// Whether it votes; otherwise it is a learner.
    pub voter: bool,
    /// Its log is close behind the leader's.
    pub caught_up: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Add a blank replica that receives the log and has no vote.
    AddLearner {
        /// The group.
        group: GroupId,
        /// Where.
        node: NodeId,
    },
    /// Make these replicas the voters: those that were, and learners that have caught up.
    Promote {
        /// The group.
        group: GroupId,
        /// All voters there shall be.
        voters: BTreeSet<ReplicaId>,
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
}

impl Operation {
    /// The group it is about.
    pub fn group(&self) -> GroupId {
        match self {
            Operation::AddLearner { group, .. }
            | Operation::Promote { group, .. }
            | Operation::TransferLeader { group, .. } => *group,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AddLearner { group, node } => write!(f, "{group}: add learner on {node}"),
            Operation::Promote { group, voters } => {
                let voters: Vec<String> = voters.iter().map(ReplicaId::to_string).collect();
                write!(f, "{group}: voters become {}", voters.join(" "))
            }
            Operation::TransferLeader { group, replica, node } => {
                write!(f, "{group}: transfer leader to {replica} on {node}")
            }
        }
    }
}

/// What should be done next. An empty answer means that everything is as it should be, or that what is missing has to
/// come back first.
pub fn plan(cluster: &Description) -> Vec<Operation> {
    let mut operations = plan_replicas(cluster);
    if !cluster.incomplete {
        let touched: BTreeSet<GroupId> = operations.iter().map(Operation::group).collect();
        operations.extend(plan_leaders(cluster, &touched));
    }
    operations
}

impl Description {
    fn alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).copied().unwrap_or(false)
    }

    /// Whether the group can be asked to change.
    fn workable(&self, group: &Group) -> bool {
        !group.busy && group.leader.is_some_and(|leader| self.alive(leader))
    }
}

/// Brings groups to their number of voters.
fn plan_replicas(cluster: &Description) -> Vec<Operation> {
    let target = cluster.replication_factor.max(1).min(cluster.nodes.len());
    let mut replicas_of: BTreeMap<NodeId, usize> = cluster.nodes.keys().map(|n| (*n, 0)).collect();
    for replica in cluster.groups.values().flat_map(|g| g.replicas.values()) {
        *replicas_of.entry(replica.node).or_default() += 1;
    }

    let mut operations = Vec::new();
    for (&id, group) in &cluster.groups {
        if !cluster.workable(group) {
            continue;
        }
        let learners: Vec<(&ReplicaId, &Replica)> =
            group.replicas.iter().filter(|(_, r)| !r.voter && cluster.alive(r.node)).collect();
        for _ in group.replicas.len()..target {
            let free = cluster.nodes.iter().filter(|&(node, alive)| {
                *alive
                    && !group.replicas.values().any(|r| r.node == *node)
                    && !operations.contains(&Operation::AddLearner { group: id, node: *node })
            });
            let Some((&node, _)) = free.min_by_key(|&(node, _)| (replicas_of[node], *node)) else { break };
            *replicas_of.entry(node).or_default() += 1;
            operations.push(Operation::AddLearner { group: id, node });
        }
        // All at once: one change of the membership instead of several, and no stop at an even number of voters
        // when there is no need for one.
        if !learners.is_empty()
            && learners.iter().all(|(_, r)| r.caught_up)
            && operations.last().is_none_or(|o| o.group() != id)
        {
            let voters = group.replicas.iter().filter(|(_, r)| r.voter).map(|(id, _)| *id);
            let voters = voters.chain(learners.iter().map(|(id, _)| **id)).collect();
            operations.push(Operation::Promote { group: id, voters });
        }
    }
    operations
}

/// Spreads leaders.
fn plan_leaders(cluster: &Description, touched: &BTreeSet<GroupId>) -> Vec<Operation> {
    // What a group is spread against; a group without a family is its own.
    let family_of = |id: GroupId, group: &Group| -> (Option<Bytes>, GroupId) {
        group.family.clone().map_or((None, id), |family| (Some(family), GroupId(0)))
    };
    let mut total: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut within: BTreeMap<((Option<Bytes>, GroupId), NodeId), usize> = BTreeMap::new();
    for (&id, group) in &cluster.groups {
        if let Some(leader) = group.leader {
            *total.entry(leader).or_default() += 1;
            *within.entry((family_of(id, group), leader)).or_default() += 1;
        }
    }

    let mut operations: Vec<Operation> = Vec::new();
    // Families first: where their leaders come to lie decides which nodes the others should avoid.
    for within_families in [true, false] {
        for (&id, group) in &cluster.groups {
            let stays =
                id == META_GROUP || touched.contains(&id) || group.restless || !cluster.workable(group);
            if stays || operations.len() >= TRANSFERS_MAX || operations.iter().any(|o| o.group() == id) {
                continue;
            }
            let Some(leader) = group.leader else { continue };
            let family = family_of(id, group);
            let load = |node: NodeId| {
                let own = within.get(&(family.clone(), node)).copied().unwrap_or(0);
                (own, total.get(&node).copied().unwrap_or(0))
            };
            let candidates = group
                .replicas
                .iter()
                .filter(|(_, r)| r.voter && r.caught_up && r.node != leader && cluster.alive(r.node));
            let best = candidates.min_by_key(|(_, r)| (load(r.node), r.node));
            let Some((&replica, &Replica { node, .. })) = best else { continue };
            let (from, to) = (load(leader), load(node));
            let worthwhile = match within_families {
                true => from.0 >= to.0 + 2,
                false => from.0 > to.0 && from.1 >= to.1 + 2,
            };
            if !worthwhile {
                continue;
            }
            for (counted, change) in [(leader, -1isize), (node, 1)] {
                let own = within.entry((family.clone(), counted)).or_default();
                *own = own.saturating_add_signed(change);
                let all = total.entry(counted).or_default();
                *all = all.saturating_add_signed(change);
            }
            operations.push(Operation::TransferLeader { group: id, replica, node });
        }
    }
    operations
}

#[cfg(test)]
mod tests;
