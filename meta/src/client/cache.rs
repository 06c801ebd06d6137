//! The map of the cluster, as far as it is known here.

use std::collections::{BTreeMap, HashMap};

use proto::meta as pb;
use storage::ids::{Epoch, GroupId, NodeId, ReplicaId};
use tracing::warn;
use txn::ShardDescriptor;

use super::MetaClient;
use crate::settings::Settings;
use crate::shard_map::ShardMap;

/// What is known of the cluster here. All of it may be stale.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) version: u64,
    pub(super) nodes: BTreeMap<NodeId, pb::MapNode>,
    pub(super) members: Vec<NodeId>,
    pub(super) shards: ShardMap,
    pub(super) leaders: HashMap<GroupId, NodeId>,
    pub(super) leaders_version: u64,
    pub(super) settings: pb::Settings,
}

impl Cache {
    pub(super) fn node_at(&self, address: &str) -> Option<NodeId> {
        let is = |node: &pb::MapNode| node.addresses.as_ref().is_some_and(|at| at.rpc == address);
        self.nodes.iter().find(|(_, node)| is(node)).map(|(id, _)| *id)
    }
}

impl MetaClient {
    /// The version of the map that is known here.
    pub fn map_version(&self) -> u64 {
        self.cache.read().version
    }

    /// Of the map, and of the list of leaders.
    pub(super) fn versions(&self) -> (u64, u64) {
        let cache = self.cache.read();
        (cache.version, cache.leaders_version)
    }

    /// Takes in what a member said of the cluster (or what was remembered from an earlier run).
    pub fn learn_map(&self, map: pb::ClusterMap) {
        let mut cache = self.cache.write();
        for shard in map.shards {
            match ShardDescriptor::try_from(shard) {
                Ok(shard) => {
                    cache.shards.learn(shard);
                }
                Err(error) => warn!("the meta-group sent a shard that makes no sense: {error}"),
            }
        }
        if map.version < cache.version {
            return;
        }
        cache.version = map.version;
        if let Some(settings) = map.settings {
            cache.settings = settings.clone();
            self.follow(&Settings::new(settings));
        }
        cache.nodes = map.nodes.into_iter().map(|node| (NodeId(node.id), node)).collect();
        cache.members = map.meta_members.iter().map(|m| NodeId(m.node)).collect();
        if !map.same_leaders {
            cache.leaders = map.leaders.iter().map(|l| (GroupId(l.group), NodeId(l.node))).collect();
            cache.leaders_version = map.leaders_version;
        }
    }

    /// Takes in what another node said of itself and of others, while no leader is there to be asked. What was known
    /// of the others stays: they speak for themselves.
    pub fn learn_nodes(&self, itself: pb::MapNode, others: Vec<pb::MapNode>) {
        let mut cache = self.cache.write();
        cache.nodes.insert(NodeId(itself.id), itself);
        for node in others {
            cache.nodes.entry(NodeId(node.id)).or_insert(node);
        }
    }

    /// The shard of a group, as far as is known here.
    pub fn shard(&self, group: GroupId) -> Option<ShardDescriptor> {
        self.cache.read().shards.get(group).cloned()
    }

    /// Whether a group has that replica, as far as is known here.
    pub(crate) fn has_replica(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.cache.read().shards.get(group).is_some_and(|shard| shard.replicas.contains_key(&replica))
    }

    /// Where the nodes that live serve others, as far as is known here.
    pub(crate) fn living(&self) -> HashMap<NodeId, String> {
        let cache = self.cache.read();
        let living = cache.nodes.iter().filter(|(_, node)| node.alive);
        living.filter_map(|(id, node)| Some((*id, node.addresses.as_ref()?.rpc.clone()))).collect()
    }

    /// What is wanted of a node, as far as is known here.
    pub fn duty(&self, node: NodeId) -> Option<pb::NodeDuty> {
        self.cache.read().nodes.get(&node).map(pb::MapNode::duty)
    }

    /// The group and the epoch of the shard that holds `key`, as far as is known here.
    pub(crate) fn holder(&self, key: &[u8]) -> Option<(GroupId, Epoch)> {
        self.cache.read().shards.lookup(key).map(|shard| (shard.group, shard.epoch))
    }

    /// Nodes and members, to be remembered for the next start.
    pub fn remembered_map(&self) -> pb::ClusterMap {
        let cache = self.cache.read();
        pb::ClusterMap {
            nodes: cache.nodes.values().cloned().collect(),
            meta_members: cache
                .members
                .iter()
                .map(|node| proto::common::Replica { node: node.0, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }
}
