//! A shard shall absorb its right neighbour, or shall not any more.

use proto::meta::{BeginMerge, CommandResult, EndMerge, Merge};
use storage::ids::GroupId;

use super::rejected;
use crate::state::State;

/// At most so many are under way.
const MERGES_MAX: usize = 256;

/// The same merge asked for again is the one that is under way. A shard takes part in one merge at a time.
pub fn begin(state: &mut State, command: BeginMerge) -> CommandResult {
    let BeginMerge { left, right, automatic } = command;
    let known = &state.cluster().merges;
    if let Some(same) = known.iter().find(|m| (m.left, m.right) == (left, right)) {
        return CommandResult { r#move: same.id, ..Default::default() };
    }
    let of = |group: u64| state.shards().get(&GroupId(group)).and_then(|shard| shard.descriptor.as_ref());
    match (of(left), of(right)) {
        (Some(left), Some(right)) if left.end == right.start && !left.end.is_empty() => {}
        (Some(_), Some(_)) => return rejected(format!("g{right} does not begin where g{left} ends")),
        (left_known, _) => {
            let missing = if left_known.is_none() { left } else { right };
            return rejected(format!("there is no shard g{missing}"));
        }
    }
    let concerned = |m: &&Merge| [m.left, m.right].iter().any(|group| [left, right].contains(group));
    if let Some(other) = known.iter().find(concerned) {
        return rejected(format!(
            "g{} is being merged with g{}; `flotilla admin operations cancel merge-{}` ends that",
            other.left, other.right, other.id
        ));
    }
    if let Some(moving) = state.cluster().moves.iter().find(|m| [left, right].contains(&m.group)) {
        return rejected(format!(
            "g{} is being moved; `flotilla admin operations cancel move-{}` ends that",
            moving.group, moving.id
        ));
    }
    if known.len() >= MERGES_MAX {
        return rejected(format!("{MERGES_MAX} merges are under way already; wait for some to end"));
    }
    let cluster = state.cluster_mut();
    cluster.last_move += 1;
    let id = cluster.last_move;
    cluster.merges.push(Merge { id, left, right, automatic });
    CommandResult { r#move: id, ..Default::default() }
}

/// One that has ended before has ended.
pub fn end(state: &mut State, command: EndMerge) -> CommandResult {
    if state.cluster().merges.iter().any(|known| known.id == command.id) {
        state.cluster_mut().merges.retain(|known| known.id != command.id);
    }
    CommandResult::default()
}
