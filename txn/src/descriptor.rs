//! What a shard is: a key range, an epoch, and the replicas that hold it.

use std::collections::BTreeMap;

use proto::common as pb;
use proto::shard::Range;
use storage::ids::{Epoch, GroupId, KeyRange, NodeId, ReplicaId};

use crate::Error;

/// A shard's descriptor.
///
/// The copy at the shard's own replicas is authoritative: it changes only by an entry in the shard's log. Whoever
/// holds another copy (the meta-group, routers) replaces it by one of a higher epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDescriptor {
    /// The Raft group.
    pub group: GroupId,
    /// The keys it holds.
    pub range: KeyRange,
    /// Raised by each change.
    pub epoch: Epoch,
    /// The replicas, and where they live. Follows the group's membership, a little later.
    pub replicas: BTreeMap<ReplicaId, NodeId>,
}

impl ShardDescriptor {
    /// The nodes that hold a replica.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.values().copied()
    }

    /// The replica on `node`.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas.iter().find(|(_, n)| **n == node).map(|(r, _)| *r)
    }
}

impl From<&ShardDescriptor> for pb::ShardDescriptor {
    fn from(d: &ShardDescriptor) -> Self {
        pb::ShardDescriptor {
            group: d.group.0,
            start: d.range.start.clone(),
            end: d.range.end.clone(),
            epoch: d.epoch.0,
            replicas: replicas_to_pb(&d.replicas),
        }
    }
}

impl TryFrom<pb::ShardDescriptor> for ShardDescriptor {
    type Error = Error;

    fn try_from(d: pb::ShardDescriptor) -> Result<Self, Error> {
        let range = KeyRange { start: d.start, end: d.end };
        if d.group == 0 || range.is_empty() {
            return Err(Error::Corruption(format!("a shard descriptor of g{} over {range:?}", d.group)));
        }
        Ok(Self {
            group: GroupId(d.group),
            range,
            epoch: Epoch(d.epoch),
            replicas: replicas_from_pb(&d.replicas),
        })
    }
}

/// Replicas as a message.
pub fn replicas_to_pb(replicas: &BTreeMap<ReplicaId, NodeId>) -> Vec<pb::Replica> {
    replicas.iter().map(|(r, n)| pb::Replica { replica: r.0, node: n.0, learner: false }).collect()
}

/// Voting replicas from a message.
pub fn replicas_from_pb(replicas: &[pb::Replica]) -> BTreeMap<ReplicaId, NodeId> {
    replicas.iter().filter(|r| !r.learner).map(|r| (ReplicaId(r.replica), NodeId(r.node))).collect()
}

/// A range as a message; shares the bytes.
pub fn range_to_pb(range: &KeyRange) -> Range {
    Range { start: range.start.clone(), end: range.end.clone() }
}

/// A range from a message; shares the bytes.
pub fn range_from_pb(range: Range) -> KeyRange {
    KeyRange { start: range.start, end: range.end }
}
