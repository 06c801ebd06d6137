//! A node joins.

use proto::meta::{AddNode, CommandResult, Node, NodeDuty};

use super::rejected;
use crate::state::State;

/// The same store (`instance`) is the same node, however often it asks.
pub fn apply(state: &mut State, command: AddNode) -> CommandResult {
    if command.instance.is_empty() {
        return rejected("join without a store's identity");
    }
    let cluster_id = state.cluster().cluster_id.clone();
    let known = state.nodes().values().find(|n| n.instance == command.instance).cloned();
    if let Some(node) = known.as_ref().filter(|node| node.duty() == NodeDuty::NodeDecommissioned) {
        let id = node.id;
        return rejected(format!(
            "this store was n{id}, which was decommissioned: start with an empty store, or bring it back with `flotilla admin recommission n{id}`"
        ));
    }
    let node = match known {
        Some(node) if node.addresses == command.addresses => node.id,
        Some(node) => {
            let id = node.id;
            state.put_node(Node { addresses: command.addresses, ..node });
            id
        }
        None => {
            let cluster = state.cluster_mut();
            let id = cluster.next_node;
            cluster.next_node += 1;
            let (instance, addresses) = (command.instance, command.addresses);
            state.put_node(Node { id, instance, addresses, ..Default::default() });
            id
        }
    };
    CommandResult { cluster_id, node, ..Default::default() }
}
