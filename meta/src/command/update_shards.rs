//! Shards have changed: they were split, or have other replicas.

use proto::meta::{CommandResult, UpdateShards};
use storage::ids::GroupId;

use crate::state::State;

/// Reports may come late and in any order: the higher epoch wins.
pub fn apply(state: &mut State, command: UpdateShards) -> CommandResult {
    for shard in command.shards {
        let known = state.shards().get(&GroupId(shard.group)).and_then(|s| s.descriptor.as_ref());
        if known.is_none_or(|known| known.epoch < shard.epoch) {
            state.put_shard(shard);
        }
    }
    CommandResult::default()
}
