//! A node has moved: to other addresses, or to another place.

use proto::meta::{CommandResult, Node, UpdateNode};
use storage::ids::NodeId;

use super::rejected;
use crate::state::State;

/// The last word wins.
pub fn apply(state: &mut State, command: UpdateNode) -> CommandResult {
    let UpdateNode { node: id, addresses, locality } = command;
    let Some(node) = state.nodes().get(&NodeId(id)).cloned() else {
        return rejected(format!("no node {id}"));
    };
    let locality = locality.or_else(|| node.locality.clone());
    let moved = Node { addresses, locality, ..node.clone() };
    if moved != node {
        state.put_node(moved);
    }
    CommandResult { node: id, ..Default::default() }
}
