//! An operator sets something for the whole cluster.

use proto::meta::{ChangeSettings, CommandResult};

use super::rejected;
use crate::state::State;

/// All settings at once; the last word wins.
pub fn apply(state: &mut State, command: ChangeSettings) -> CommandResult {
    let Some(settings) = command.settings.filter(|s| s.replication_factor > 0) else {
        return rejected("the replication factor is at least 1");
    };
    if state.settings() != settings {
        let cluster = state.cluster_mut();
        cluster.settings = Some(settings);
        cluster.map_version += 1;
    }
    CommandResult::default()
}
