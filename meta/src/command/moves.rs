//! An operator wants a replica moved, or does not want it any more.

use proto::meta::{BeginMove, CommandResult, EndMove, Move, NodeDuty};
use storage::ids::{GroupId, META_GROUP, NodeId};

use super::rejected;
use crate::state::State;

/// At most so many are under way.
const MOVES_MAX: usize = 256;

/// The same move asked for again is the one that is under way. A group is moved once at a time, and not while it is merged, which moves
/// replicas itself, and may end it.
pub fn begin(state: &mut State, command: BeginMove) -> CommandResult {
    let BeginMove { group, from, to } = command;
    let (id, [giver, taker]) = (GroupId(group), [NodeId(from), NodeId(to)]);
    if id != META_GROUP && !state.shards().contains_key(&id) {
        return rejected(format!("there is no shard {id}"));
    }
    if giver == taker {
        return rejected(format!("{giver} has it already"));
    }
    match state.nodes().get(&taker).map(|node| node.duty()) {
        None => return rejected(format!("there is no node {taker}")),
        Some(NodeDuty::NodeActive) => {}
        Some(_) => return rejected(format!("{taker} takes no replicas: it is drained or decommissioned")),
    }
    let moves = &state.cluster().moves;
    if let Some(known) = moves.iter().find(|known| known.group == group) {
        return match (known.from, known.to) == (from, to) {
            true => CommandResult { r#move: known.id, ..Default::default() },
            false => rejected(format!(
                "{id} is being moved from n{} to n{}; `flotilla admin operations cancel move-{}` ends that",
                known.from, known.to, known.id
            )),
        };
    }
    if let Some(merge) = state.cluster().merges.iter().find(|m| [m.left, m.right].contains(&group)) {
        return rejected(format!(
            "g{} is being merged with g{}; wait for its end, or end it by `flotilla admin operations cancel merge-{}`",
            merge.left, merge.right, merge.id
        ));
    }
    if moves.len() >= MOVES_MAX {
        return rejected(format!("{MOVES_MAX} moves are under way already; wait for some to end"));
    }
    let cluster = state.cluster_mut();
    cluster.last_move += 1;
    let id = cluster.last_move;
    cluster.moves.push(Move { id, group, from, to });
    CommandResult { r#move: id, ..Default::default() }
}

/// One that has ended before has ended.
pub fn end(state: &mut State, command: EndMove) -> CommandResult {
    if state.cluster().moves.iter().any(|known| known.id == command.id) {
        state.cluster_mut().moves.retain(|known| known.id != command.id);
    }
    CommandResult::default()
}
