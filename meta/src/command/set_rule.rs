//! What is wanted of a table's shards.

use proto::meta::{CommandResult, TableRule};

use super::rejected;
use crate::placement::{REPLICAS_MAX, Rule};
use crate::state::State;

/// At most so many tables have a rule of their own.
const RULES_MAX: usize = 10_000;

/// The last word wins. A rule that wants nothing in particular is none.
pub fn apply(state: &mut State, rule: TableRule) -> CommandResult {
    if rule.replicas as usize > REPLICAS_MAX {
        return rejected(format!("a shard has at most {REPLICAS_MAX} replicas"));
    }
    if let Err(why) = rule.placement.parse::<Rule>() {
        return rejected(why);
    }
    let rules = &state.cluster().rules;
    if rules.contains(&rule) {
        return CommandResult::default();
    }
    let known = rules.iter().any(|known| known.family == rule.family);
    let none = rule.replicas == 0 && rule.placement.is_empty();
    if none && !known {
        return CommandResult::default();
    }
    if !known && rules.len() >= RULES_MAX {
        return rejected(format!("{RULES_MAX} tables have rules of their own already"));
    }
    let rules = &mut state.cluster_mut().rules;
    rules.retain(|known| known.family != rule.family);
    if !none {
        rules.push(rule);
    }
    CommandResult::default()
}
