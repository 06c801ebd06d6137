//! A node has moved to other addresses.

use proto::meta::{CommandResult, Node, UpdateNode};
use storage::ids::NodeId;

use super::rejected;
use crate::state::State;

/// The last word wins.
pub fn apply(state: &mut State, command: UpdateNode) -> CommandResult {
    let Some(node) = state.nodes().get(&NodeId(command.node)).cloned() else {
        return rejected(format!("no node {}", command.node));
    };
    if node.addresses != command.addresses {
        state.put_node(Node { addresses: command.addresses, ..node });
    }
    CommandResult { node: command.node, ..Default::default() }
}
