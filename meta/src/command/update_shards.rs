//! Shards have changed: they were split or merged, or have other replicas.

use proto::meta::{CommandResult, UpdateShards};
use storage::ids::GroupId;

use crate::state::State;

/// Reports may come late and in any order: of a group the higher epoch wins, and of a key, too. Who has it is told from the
/// epochs alone: each split and merge gives it away under a higher one. So a report of a shard that was absorbed does not bring
/// it back, and a shard whose first key another one has is gone.
pub fn apply(state: &mut State, command: UpdateShards) -> CommandResult {
    for shard in command.shards {
        let id = GroupId(shard.group);
        let known = state.shards().get(&id).and_then(|s| s.descriptor.as_ref());
        if known.is_some_and(|known| known.epoch >= shard.epoch) || state.is_absorbed(&shard) {
            continue;
        }
        let absorbed = state.absorbed_by(&shard);
        state.put_shard(shard);
        absorbed.into_iter().for_each(|group| state.remove_shard(group));
    }
    for group in command.automatic {
        state.note_automatic(GroupId(group));
    }
    CommandResult::default()
}
