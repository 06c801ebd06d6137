//! The first command of a cluster: its identity, its first node, its first shards.

use proto::common::Replica;
use proto::meta::{Bootstrap, CommandResult, Members};

use super::rejected;
use crate::state::State;

/// Applied to a cluster that exists, it changes nothing and answers the identity that stands, so that an
/// initialisation that was interrupted can be run again.
pub fn apply(state: &mut State, command: Bootstrap) -> CommandResult {
    if state.cluster_id().is_none() {
        let Some(node) = command.node else { return rejected("bootstrap without a node") };
        let member = Replica { replica: crate::FIRST_REPLICA.0, node: node.id, learner: false };
        let cluster = state.cluster_mut();
        cluster.cluster_id = command.cluster_id;
        cluster.next_node = node.id + 1;
        cluster.next_group = command.next_group;
        cluster.next_replica = command.next_replica.max(crate::FIRST_REPLICA.0 + 1);
        cluster.settings = command.settings;
        cluster.meta_members = Some(Members { replicas: vec![member], version: 0 });
        state.put_node(node);
        for shard in command.shards {
            state.put_shard(shard);
        }
    }
    CommandResult { cluster_id: state.cluster().cluster_id.clone(), ..Default::default() }
}
