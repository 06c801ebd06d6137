//! Which command ends what an operator names.

use proto::meta::change_duty::Change;
use proto::meta::command::Command;
use proto::meta::{ChangeDuty, EndMerge, EndMove, NodeDuty};
use storage::ids::NodeId;

use crate::state::State;

/// What a name of an operation stands for.
#[derive(Debug, PartialEq)]
pub(crate) enum Named {
    /// Something that is under way, and is ended by this.
    Underway(Box<Command>),
    /// Something that is not under way any more: it was done, or cancelled before.
    Over,
    /// Nothing that there ever was, or that could be cancelled.
    Unknown,
}

/// Decides. What a decommission has brought about when it was done is not undone by cancelling it: that is another wish.
pub(crate) fn named(state: &State, operation: &str) -> Named {
    let Some((kind, number)) = operation.rsplit_once('-') else { return Named::Unknown };
    let Ok(id) = number.parse::<u64>() else { return Named::Unknown };
    let cluster = state.cluster();
    let begun = (1..=cluster.last_move).contains(&id);
    let duty = |wanted: NodeDuty, change: Change| match state.nodes().get(&NodeId(id)) {
        None => Named::Unknown,
        Some(node) if node.duty() == wanted => {
            Named::Underway(Box::new(Command::ChangeDuty(ChangeDuty { node: id, change: change.into() })))
        }
        Some(_) => Named::Over,
    };
    match kind {
        "move" if cluster.moves.iter().any(|known| known.id == id) => {
            Named::Underway(Box::new(Command::EndMove(EndMove { id })))
        }
        // (Should it be carried out this very moment, it may end as it was meant to.)
        "merge" if cluster.merges.iter().any(|known| known.id == id) => {
            Named::Underway(Box::new(Command::EndMerge(EndMerge { id })))
        }
        // They are numbered together.
        "move" | "merge" if begun => Named::Over,
        "drain" => duty(NodeDuty::NodeDraining, Change::Undrain),
        "decommission" => duty(NodeDuty::NodeDecommissioning, Change::Recommission),
        _ => Named::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proto::meta::{self as pb, BeginMove};
    use storage::ids::GroupId;

    use super::*;
    use crate::command::apply;

    fn run(state: &mut State, command: Command) {
        let result = apply(state, pb::Command { command: Some(command) }).expect("a known command");
        assert_eq!(result.rejected, "");
    }

    /// Two nodes and a shard.
    fn state() -> State {
        let mut state = State::default();
        let node = pb::Node { id: 1, instance: b"one"[..].into(), ..Default::default() };
        let shard = proto::common::ShardDescriptor { group: 2, epoch: 1, ..Default::default() };
        let bootstrap = pb::Bootstrap {
            cluster_id: 7u128.to_be_bytes().to_vec().into(),
            node: Some(node),
            shards: vec![shard],
            next_group: 3,
            next_replica: 5,
            ..Default::default()
        };
        run(&mut state, Command::Bootstrap(bootstrap));
        let join = pb::AddNode { instance: b"two"[..].into(), addresses: None };
        run(&mut state, Command::AddNode(join));
        assert!(state.shards().contains_key(&GroupId(2)));
        state
    }

    #[test]
    fn move_is_cancelled_once_and_then_over() {
        let mut state = state();
        assert_eq!(named(&state, "move-1"), Named::Unknown);
        run(&mut state, Command::BeginMove(BeginMove { group: 2, from: 1, to: 2 }));
        let Named::Underway(end) = named(&state, "move-1") else { panic!("it is under way") };
        assert_eq!(*end, Command::EndMove(EndMove { id: 1 }));
        run(&mut state, *end);
        assert_eq!(named(&state, "move-1"), Named::Over);
        for name in ["move-99", "move-0", "move-1x", "move", "step-1", ""] {
            assert_eq!(named(&state, name), Named::Unknown, "{name}");
        }
    }

    #[test]
    fn decommission_that_is_done_is_not_taken_back() {
        let mut state = state();
        let change = |state: &mut State, change: Change| {
            run(state, Command::ChangeDuty(ChangeDuty { node: 2, change: change.into() }));
        };
        assert_eq!(named(&state, "decommission-2"), Named::Over);
        change(&mut state, Change::Decommission);
        let keep = ChangeDuty { node: 2, change: Change::Recommission.into() };
        let keep = Named::Underway(Box::new(Command::ChangeDuty(keep)));
        assert_eq!(named(&state, "decommission-2"), keep);
        assert_eq!(named(&state, "drain-2"), Named::Over);
        change(&mut state, Change::Emptied);
        assert_eq!(named(&state, "decommission-2"), Named::Over);
        assert_eq!(named(&state, "decommission-9"), Named::Unknown);
    }
}
