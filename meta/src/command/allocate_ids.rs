//! Ids for new groups and replicas.

use proto::meta::{AllocateIds, CommandResult};

use crate::state::State;

/// Applied twice, it wastes ids, of which there are enough.
pub fn apply(state: &mut State, command: AllocateIds) -> CommandResult {
    let cluster = state.cluster_mut();
    let (first_group, first_replica) = (cluster.next_group, cluster.next_replica);
    cluster.next_group += u64::from(command.groups);
    cluster.next_replica += u64::from(command.replicas);
    CommandResult { first_group, first_replica, ..Default::default() }
}
