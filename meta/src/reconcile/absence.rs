//! Since when nodes are down, and which of them are not awaited: replicated, so that the meta-group's next leader does not begin
//! to wait for them anew.
//!
//! A leader measures silence by its own monotonic clock as long as it has heard of the node itself. What a leader before it has
//! noted is compared with the wall clock. A clock that is ahead has replicas rebuilt too early, and one that is behind too
//! late; neither loses anything.

use std::time::{Duration, Instant};

use proto::meta::command::Command;
use proto::meta::{self as pb, NodeDuty};
use storage::ids::NodeId;

use crate::server::Soft;
use crate::state::State;

/// How long a node has not been heard of, by this leader or those before it.
pub(super) fn silence(id: NodeId, node: &pb::Node, soft: &Soft, now: Instant, wall_ms: u64) -> Duration {
    let heard = soft.last_seen.get(&id).copied();
    let own = now - heard.unwrap_or(soft.since);
    match node.absence {
        // (While it may be about to report to a new leader, it counts as alive.)
        Some(absence) if heard.is_none() && !soft.alive(id, now) => {
            own.max(Duration::from_millis(wall_ms.saturating_sub(absence.since_ms)))
        }
        _ => own,
    }
}

/// Whether an operator does not want the node awaited. It counts for as long as the node is down.
pub(super) fn is_given_up(id: NodeId, node: &pb::Node, soft: &Soft, now: Instant) -> bool {
    node.absence.is_some_and(|absence| absence.given_up) && !soft.alive(id, now)
}

/// How to note who has gone, and who has come back.
pub(super) fn changes(state: &State, soft: &Soft, now: Instant, wall_ms: u64) -> Vec<Command> {
    let change = |(id, node): (&NodeId, &pb::Node)| {
        let absence = match (soft.alive(*id, now), node.absence) {
            // Said by itself, not only believed by a leader that is new.
            (true, Some(_)) if soft.last_seen.contains_key(id) => pb::Absence::default(),
            (false, None) => absence(*id, node, soft, now, wall_ms),
            _ => return None,
        };
        Some(noted(node, absence))
    };
    members(state).filter_map(change).collect()
}

/// Which nodes are down, and how to note that they are not awaited any longer.
pub(crate) fn give_up(
    state: &State,
    soft: &Soft,
    now: Instant,
    wall_ms: u64,
    wanted: impl Fn(NodeId) -> bool,
) -> Vec<(NodeId, Command)> {
    let down = members(state).filter(|(id, _)| wanted(**id) && !soft.alive(**id, now));
    let given_up = |(id, node): (&NodeId, &pb::Node)| {
        let absence = node.absence.unwrap_or_else(|| absence(*id, node, soft, now, wall_ms));
        (*id, noted(node, pb::Absence { given_up: true, ..absence }))
    };
    down.map(given_up).collect()
}

/// Nodes that have been taken away are missed by nobody.
fn members(state: &State) -> impl Iterator<Item = (&NodeId, &pb::Node)> {
    state.nodes().iter().filter(|(_, node)| node.duty() != NodeDuty::NodeDecommissioned)
}

fn absence(id: NodeId, node: &pb::Node, soft: &Soft, now: Instant, wall_ms: u64) -> pb::Absence {
    let silent_ms = silence(id, node, soft, now, wall_ms).as_millis() as u64;
    pb::Absence { since_ms: wall_ms.saturating_sub(silent_ms).max(1), given_up: false }
}

fn noted(node: &pb::Node, absence: pb::Absence) -> Command {
    // (It may have moved by the time this is applied: only what is meant is said.)
    let absence = Some(absence);
    Command::UpdateNode(pb::UpdateNode { node: node.id, addresses: None, locality: None, absence })
}

#[cfg(test)]
mod tests {
    use storage::ids::Term;
    use storage::seam::Seams;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    /// The wall clock when a leader begins to lead.
    const BEGIN_MS: u64 = 1_700_000_000_000;

    struct World {
        state: State,
        soft: Soft,
        begin: Instant,
        seconds: u64,
    }

    impl World {
        fn new() -> Self {
            let mut state = State::default();
            for id in [A, B] {
                state.put_node(pb::Node { id: id.0, ..Default::default() });
            }
            let begin = Seams::real().clock.now();
            Self { state, soft: Soft::new(Term(1), begin, 1), begin, seconds: 0 }
        }

        /// A leader follows that knows what is replicated, and nothing else.
        fn next_leader(&mut self) {
            self.soft = Soft::new(Term(self.soft.term.0 + 1), self.at(), 1);
        }

        fn at(&self) -> Instant {
            self.begin + Duration::from_secs(self.seconds)
        }

        fn wall_ms(&self) -> u64 {
            BEGIN_MS + self.seconds * 1_000
        }

        /// Seconds go by, in which these nodes report; then what is to be noted is.
        fn pass(&mut self, seconds: u64, reporting: &[NodeId]) {
            self.seconds += seconds;
            let now = self.at();
            self.soft.last_seen.extend(reporting.iter().map(|node| (*node, now)));
            self.note(changes(&self.state, &self.soft, now, self.wall_ms()));
        }

        fn note(&mut self, commands: Vec<Command>) {
            for command in commands {
                let Command::UpdateNode(command) = command else { panic!("only nodes are noted") };
                let node = NodeId(command.node);
                let known = &self.state.nodes()[&node];
                assert_eq!(command.addresses, None, "they may be of before");
                let absence = command.absence.filter(|absence| absence.since_ms != 0);
                assert_ne!(absence, known.absence, "nothing is noted twice");
                let node = pb::Node { absence, ..known.clone() };
                self.state.note_node(node);
            }
        }

        fn silent(&self, node: NodeId) -> u64 {
            silence(node, &self.state.nodes()[&node], &self.soft, self.at(), self.wall_ms()).as_secs()
        }
    }

    #[test]
    fn next_leader_does_not_begin_to_wait_anew() {
        let mut world = World::new();
        world.pass(1, &[A, B]);
        world.pass(9, &[A]);
        assert_eq!(world.silent(B), 9);
        assert!(world.state.nodes()[&A].absence.is_none());
        world.pass(91, &[A]);
        world.next_leader();
        assert_eq!(world.silent(B), 0, "it may be about to report");
        world.pass(5, &[A]);
        assert_eq!((world.silent(A), world.silent(B)), (0, 105));
        // It is back.
        world.pass(1, &[A, B]);
        assert_eq!(world.silent(B), 0);
        assert!(world.state.nodes()[&B].absence.is_none());
    }

    #[test]
    fn who_is_not_awaited_stays_so_until_it_comes_back() {
        let mut world = World::new();
        world.pass(1, &[A, B]);
        world.pass(9, &[A]);
        let given_up = |world: &World| is_given_up(B, &world.state.nodes()[&B], &world.soft, world.at());
        assert!(!given_up(&world));
        let down = give_up(&world.state, &world.soft, world.at(), world.wall_ms(), |_| true);
        assert_eq!(down.iter().map(|(node, _)| *node).collect::<Vec<_>>(), [B]);
        world.note(down.into_iter().map(|(_, command)| command).collect());
        assert!(given_up(&world));
        world.next_leader();
        world.pass(5, &[A]);
        assert!(given_up(&world));
        world.pass(1, &[A, B]);
        world.pass(9, &[A]);
        assert!(!given_up(&world), "it was back");
    }
}
