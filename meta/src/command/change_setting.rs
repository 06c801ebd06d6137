//! An operator sets something for the whole cluster.

use proto::meta::{ChangeSetting, CommandResult};

use super::rejected;
use crate::settings;
use crate::state::State;

/// The last word wins; the empty one brings the default back.
pub fn apply(state: &mut State, command: ChangeSetting) -> CommandResult {
    if let Err(why) = settings::check(&command.name, &command.value) {
        return rejected(why);
    }
    let mut stored = state.settings();
    match command.value.is_empty() {
        true => stored.values.remove(&command.name),
        false => stored.values.insert(command.name, command.value),
    };
    if state.settings() != stored {
        let cluster = state.cluster_mut();
        cluster.settings = Some(stored);
        cluster.map_version += 1;
    }
    CommandResult::default()
}
