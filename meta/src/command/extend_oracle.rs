//! More room for the oracle.

use proto::meta::{CommandResult, ExtendOracle};

use crate::state::State;

/// The window's end never goes back.
pub fn apply(state: &mut State, command: ExtendOracle) -> CommandResult {
    if command.end > state.oracle_end().0 {
        state.cluster_mut().oracle_end = command.end;
    }
    CommandResult::default()
}
