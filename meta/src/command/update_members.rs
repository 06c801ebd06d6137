//! The meta-group itself has other replicas.

use proto::meta::{CommandResult, UpdateMembers};

use crate::state::State;

/// The higher version wins. After a recovery, what the lost end of the log may have given out is left out.
pub fn apply(state: &mut State, command: UpdateMembers) -> CommandResult {
    let known = state.cluster().meta_members.as_ref().map_or(0, |m| m.version);
    if let Some(members) = command.members.filter(|m| m.version > known) {
        let cluster = state.cluster_mut();
        cluster.meta_members = Some(members);
        cluster.map_version += 1;
        if command.recovered {
            state.skip_what_was_lost();
        }
    }
    CommandResult::default()
}
