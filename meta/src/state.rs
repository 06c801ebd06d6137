//! The replicated state of the meta-group, in memory.
//!
//! [`State`] is changed by commands only (see [`crate::command`]), deterministically, and remembers which of its
//! records a command touched, so that the state machine can write exactly those beside the applied index.
//!
//! Invariants, on every replica after every command:
//!
//! - ids only grow: no node, group or replica id is handed out twice;
//! - `oracle_end` only grows;
//! - a shard's epoch only grows;
//! - `map_version` grows with every change that routing can see, and a shard's `changed_at` is never above it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use proto::common::ShardDescriptor;
use proto::meta as pb;
use storage::ids::{GroupId, NodeId, Timestamp};

use crate::Error;

/// So many group and replica ids, and versions of the map, are left out after a recovery.
const SKIPPED: u64 = 1 << 20;
/// … and node ids: each is a machine that has joined.
const SKIPPED_NODES: u64 = 1 << 10;

/// One persisted record: its key sorts by kind, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// What there is one of.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A shard.
    Shard(GroupId),
}

impl Record {
    /// The key, within the meta-group's private part of the column family.
    pub fn key(self) -> Vec<u8> {
        let (tag, id) = match self {
            Record::Cluster => (1u8, 0),
            Record::Node(id) => (2, id.0),
            Record::Shard(id) => (3, id.0),
        };
        let mut key = vec![tag];
        key.extend_from_slice(&id.to_be_bytes());
        key
    }

    fn from_key(key: &[u8]) -> Option<Record> {
        let (&tag, id) = key.split_first()?;
        let id = u64::from_be_bytes(id.try_into().ok()?);
        match tag {
            1 => Some(Record::Cluster),
            2 => Some(Record::Node(NodeId(id))),
            3 => Some(Record::Shard(GroupId(id))),
            _ => None,
        }
    }
}

/// Everything the meta-group knows.
#[derive(Clone, Debug, Default)]
pub struct State {
    cluster: pb::Cluster,
    nodes: BTreeMap<NodeId, pb::Node>,
    shards: BTreeMap<GroupId, pb::Shard>,
    dirty: BTreeSet<Record>,
}

impl State {
    /// Rebuilds the state from its records.
    pub fn load(records: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<Self, Error> {
        let mut state = State::default();
        for (key, value) in records {
            let damaged = |_| Error::Corrupt(format!("record {} does not decode", key.escape_ascii()));
            match Record::from_key(&key) {
                Some(Record::Cluster) => state.cluster = pb::Cluster::decode(value).map_err(damaged)?,
                Some(Record::Node(id)) => {
                    state.nodes.insert(id, pb::Node::decode(value).map_err(damaged)?);
                }
                Some(Record::Shard(id)) => {
                    state.shards.insert(id, pb::Shard::decode(value).map_err(damaged)?);
                }
                None => return Err(Error::Corrupt(format!("unknown record {}", key.escape_ascii()))),
            }
        }
        Ok(state)
    }

    /// The records changed since the last call, encoded; `None`: it is gone.
    pub fn take_dirty(&mut self) -> Vec<(Record, Option<Vec<u8>>)> {
        let encode = |record: Record| match record {
            Record::Cluster => Some(self.cluster.encode_to_vec()),
            Record::Node(id) => self.nodes.get(&id).map(Message::encode_to_vec),
            Record::Shard(id) => self.shards.get(&id).map(Message::encode_to_vec),
        };
        std::mem::take(&mut self.dirty).into_iter().map(|record| (record, encode(record))).collect()
    }

    /// The cluster's identity, once it is initialised.
    pub fn cluster_id(&self) -> Option<u128> {
        self.cluster.cluster_id[..].try_into().ok().map(u128::from_be_bytes)
    }

    /// What there is one of.
    pub fn cluster(&self) -> &pb::Cluster {
        &self.cluster
    }

    /// For a command to change.
    pub(crate) fn cluster_mut(&mut self) -> &mut pb::Cluster {
        self.dirty.insert(Record::Cluster);
        &mut self.cluster
    }

    /// The version of nodes and shards together.
    pub fn map_version(&self) -> u64 {
        self.cluster.map_version
    }

    /// Every timestamp ever handed out is below it.
    pub fn oracle_end(&self) -> Timestamp {
        Timestamp(self.cluster.oracle_end)
    }

    /// What operators have set.
    pub fn settings(&self) -> pb::Settings {
        self.cluster.settings.clone().unwrap_or_default()
    }

    /// The replicas of the meta-group itself.
    pub fn meta_members(&self) -> &[proto::common::Replica] {
        self.cluster.meta_members.as_ref().map_or(&[], |m| &m.replicas)
    }

    /// All nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, pb::Node> {
        &self.nodes
    }

    /// All shards.
    pub fn shards(&self) -> &BTreeMap<GroupId, pb::Shard> {
        &self.shards
    }

    /// Adds or replaces a node, and raises the map's version.
    pub(crate) fn put_node(&mut self, node: pb::Node) {
        let id = NodeId(node.id);
        self.cluster_mut().map_version += 1;
        self.nodes.insert(id, node);
        self.dirty.insert(Record::Node(id));
    }

    /// Replaces a node of which routing sees nothing new: the map stays what it is.
    pub(crate) fn note_node(&mut self, node: pb::Node) {
        let id = NodeId(node.id);
        debug_assert!(
            self.nodes.get(&id).is_some_and(|old| (&old.addresses, old.duty) == (&node.addresses, node.duty)),
            "routing has to be told"
        );
        self.nodes.insert(id, node);
        self.dirty.insert(Record::Node(id));
    }

    /// The end of the log may be lost, with ids and versions that were given out there: none of them is given out again, for groups,
    /// replicas and nodes that have them are in use, and a node that knows such a version is told what has changed since.
    pub(crate) fn skip_what_was_lost(&mut self) {
        let cluster = self.cluster_mut();
        cluster.next_group = cluster.next_group.saturating_add(SKIPPED);
        cluster.next_replica = cluster.next_replica.saturating_add(SKIPPED);
        cluster.next_node = cluster.next_node.saturating_add(SKIPPED_NODES);
        cluster.map_version = cluster.map_version.saturating_add(SKIPPED);
    }

    /// Ids that are in use are not handed out, whoever has handed them out before.
    fn leave_out_ids(&mut self, shard: &ShardDescriptor) {
        let replica = shard.replicas.iter().map(|replica| replica.replica).max().unwrap_or(0);
        let (group, replica) = (shard.group.saturating_add(1), replica.saturating_add(1));
        if self.cluster.next_group < group || self.cluster.next_replica < replica {
            let cluster = self.cluster_mut();
            cluster.next_group = cluster.next_group.max(group);
            cluster.next_replica = cluster.next_replica.max(replica);
        }
    }

    /// Adds or replaces a shard, and raises the map's version.
    pub(crate) fn put_shard(&mut self, descriptor: ShardDescriptor) {
        let id = GroupId(descriptor.group);
        let old = self.shards.get(&id);
        debug_assert!(
            old.and_then(|s| s.descriptor.as_ref()).is_none_or(|d| d.epoch <= descriptor.epoch),
            "a shard's epoch went back"
        );
        let automatic = old.is_some_and(|old| old.automatic);
        self.leave_out_ids(&descriptor);
        let cluster = self.cluster_mut();
        cluster.map_version += 1;
        let changed_at = cluster.map_version;
        self.shards.insert(id, pb::Shard { descriptor: Some(descriptor), changed_at, automatic });
        self.dirty.insert(Record::Shard(id));
    }

    /// Placement may merge the shard.
    pub(crate) fn note_automatic(&mut self, id: GroupId) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.automatic = true;
            self.dirty.insert(Record::Shard(id));
        }
    }

    /// Its keys are another shard's.
    pub(crate) fn remove_shard(&mut self, id: GroupId) {
        if self.shards.remove(&id).is_some() {
            self.cluster_mut().map_version += 1;
            self.dirty.insert(Record::Shard(id));
        }
    }

    /// Whether another shard is known to have this one's first key, from later than this one's descriptor. A shard keeps its first
    /// key for as long as it exists.
    pub fn is_absorbed(&self, shard: &ShardDescriptor) -> bool {
        let mut others = self.descriptors().filter(|other| other.group != shard.group);
        others.any(|other| other.epoch > shard.epoch && holds(other, &shard.start))
    }

    /// The shards that are gone if this descriptor is true.
    pub(crate) fn absorbed_by(&self, shard: &ShardDescriptor) -> Vec<GroupId> {
        let others = self.descriptors().filter(|other| other.group != shard.group);
        let gone = others.filter(|other| other.epoch < shard.epoch && holds(shard, &other.start));
        gone.map(|other| GroupId(other.group)).collect()
    }

    fn descriptors(&self) -> impl Iterator<Item = &ShardDescriptor> {
        self.shards.values().filter_map(|shard| shard.descriptor.as_ref())
    }
}

fn holds(shard: &ShardDescriptor, key: &[u8]) -> bool {
    shard.start[..] <= *key && (shard.end.is_empty() || shard.end[..] > *key)
}
