//! A node has moved: to other addresses, or to another place; or it is down, or up again.

use proto::meta::{CommandResult, Node, UpdateNode};
use storage::ids::NodeId;

use super::rejected;
use crate::state::State;

/// The last word wins.
pub fn apply(state: &mut State, command: UpdateNode) -> CommandResult {
    let UpdateNode { node: id, addresses, locality, absence } = command;
    let Some(known) = state.nodes().get(&NodeId(id)).cloned() else {
        return rejected(format!("no node {id}"));
    };
    let addresses = addresses.or_else(|| known.addresses.clone());
    let moved = known.addresses != addresses;
    let absence = match absence {
        None => known.absence,
        Some(absence) => (absence.since_ms != 0).then_some(absence),
    };
    let locality = locality.or_else(|| known.locality.clone());
    let node = Node { addresses, locality, absence, ..known.clone() };
    if moved {
        state.put_node(node);
    } else if node != known {
        state.note_node(node);
    }
    CommandResult { node: id, ..Default::default() }
}
