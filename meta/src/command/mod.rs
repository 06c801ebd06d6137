//! What the meta-group replicates: one command, one file.
//!
//! A command is applied by every replica, at the same place in the log, to the same state. So it decides from the
//! state and its own fields alone: no clock, no random numbers, no soft state. Each is safe to apply twice, because a
//! caller that got no answer sends it again.

mod add_node;
mod allocate_ids;
mod bootstrap;
mod change_duty;
mod change_setting;
mod extend_oracle;
mod merges;
mod moves;
mod set_rule;
mod update_members;
mod update_node;
mod update_shards;

use proto::meta::command::Command;
use proto::meta::{self as pb, CommandResult};

use crate::state::State;

/// Applies one command. `Err` is for a command that this version does not know: the replica has to stop there, since
/// others may know it.
pub fn apply(state: &mut State, command: pb::Command) -> Result<CommandResult, String> {
    let command = command.command.ok_or("a command that this version of flotilla does not know")?;
    if state.cluster_id().is_none() && !matches!(command, Command::Bootstrap(_)) {
        return Ok(rejected("the cluster is not initialised"));
    }
    Ok(match command {
        Command::Bootstrap(command) => bootstrap::apply(state, command),
        Command::AddNode(command) => add_node::apply(state, command),
        Command::UpdateNode(command) => update_node::apply(state, command),
        Command::AllocateIds(command) => allocate_ids::apply(state, command),
        Command::ExtendOracle(command) => extend_oracle::apply(state, command),
        Command::UpdateShards(command) => update_shards::apply(state, command),
        Command::UpdateMembers(command) => update_members::apply(state, command),
        Command::ChangeSetting(command) => change_setting::apply(state, command),
        Command::ChangeDuty(command) => change_duty::apply(state, command),
        Command::BeginMove(command) => moves::begin(state, command),
        Command::EndMove(command) => moves::end(state, command),
        Command::BeginMerge(command) => merges::begin(state, command),
        Command::EndMerge(command) => merges::end(state, command),
        Command::SetRule(command) => set_rule::apply(state, command),
    })
}

/// A refusal that every replica comes to alike.
fn rejected(why: impl Into<String>) -> CommandResult {
    CommandResult { rejected: why.into(), ..Default::default() }
}

#[cfg(test)]
mod tests;
