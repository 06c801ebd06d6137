//! The meta-group after a recovery by hand, when one survivor was made its only member (`raft::recover`).
//!
//! The end of its log may be lost, and with it group, replica and node ids, versions of the map and an end of the oracle's window that
//! others have been told of and go by. None of them may be handed out twice. So the first leader of a recovered meta-group leaves a
//! wide gap, before the first command of its term: nothing of this kind is handed out without one.
//!
//! A recovery is told from the members: raft says that there is one, and the state knows others. (A group that has shrunk to one
//! member in the regular way, and changed its leader before its members were noted, looks like that, too. Then the gap is for
//! nothing, and harmless.)

use std::sync::atomic::Ordering;

use proto::common::Replica;
use proto::meta as pb;
use proto::meta::command::Command;
use raft::Group;
use storage::ids::{NodeId, ReplicaId, Term};
use tracing::warn;

use super::MetaServer;
use crate::Error;
use crate::state::State;

impl MetaServer {
    /// To be called before the first command of a term. Costs nothing later.
    pub(super) async fn look_back(&self, group: &Group, term: Term) -> Result<(), Error> {
        if self.looked_back.load(Ordering::SeqCst) == term.0 {
            return Ok(());
        }
        let status = group.status();
        let alone = status.members.first_key_value().filter(|_| status.members.len() == 1 && !status.joint);
        let alone = alone.map(|(replica, node)| (*replica, *node));
        let members = alone.and_then(|alone| self.replica.read(|state| recovered(state, alone)));
        if let Some(members) = members {
            warn!(
                "the meta-group was recovered: ids, versions and timestamps that may have been lost are left out"
            );
            let end = self.with_window(term, |window, wall_ms| window.end_beyond_loss(wall_ms))?;
            let oracle = Command::ExtendOracle(pb::ExtendOracle { end: end.0 });
            self.propose_in(group, term, oracle).await?;
            // Last, since it ends what tells a recovery.
            let ids = pb::UpdateMembers { members: Some(members), recovered: true };
            self.propose_in(group, term, Command::UpdateMembers(ids)).await?;
        }
        // Whoever has left the gap, in this term: it may have gone away before it could do this, and then nothing tells a recovery any more.
        // (The end is applied before the members are. In any other term nothing has been replicated yet, and this changes nothing.)
        let end = self.replica.oracle_end(term);
        self.with_window(term, |window, _| window.skip_to(end))?;
        // Whoever comes meanwhile does the same again: a gap more.
        self.looked_back.store(term.0, Ordering::SeqCst);
        Ok(())
    }
}

/// The members to be noted, if the only voter is not what the state knows.
fn recovered(state: &State, (replica, node): (ReplicaId, NodeId)) -> Option<pb::Members> {
    let voters: Vec<u64> =
        state.meta_members().iter().filter(|m| !m.learner).map(|member| member.replica).collect();
    // A cluster that is not initialised knows none.
    if voters.is_empty() || voters == [replica.0] {
        return None;
    }
    let known = state.cluster().meta_members.as_ref().map_or(0, |members| members.version);
    let alone = Replica { replica: replica.0, node: node.0, learner: false };
    Some(pb::Members { replicas: vec![alone], version: known + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn apply(state: &mut State, command: Command) -> pb::CommandResult {
        command::apply(state, pb::Command { command: Some(command) }).expect("a known command")
    }

    fn members(nodes: &[u64], version: u64) -> pb::UpdateMembers {
        let member = |node: &u64| Replica { replica: *node, node: *node, learner: false };
        let members = pb::Members { replicas: nodes.iter().map(member).collect(), version };
        pb::UpdateMembers { members: Some(members), recovered: false }
    }

    /// A meta-group of one.
    fn bootstrapped() -> State {
        let mut state = State::default();
        let bootstrap = pb::Bootstrap {
            cluster_id: 7u128.to_be_bytes().to_vec().into(),
            node: Some(pb::Node { id: 1, ..Default::default() }),
            next_group: 3,
            next_replica: 5,
            ..Default::default()
        };
        apply(&mut state, Command::Bootstrap(bootstrap));
        state
    }

    const SURVIVOR: (ReplicaId, NodeId) = (ReplicaId(1), NodeId(1));

    #[test]
    fn a_survivor_is_told_from_a_group_that_has_one_member() {
        let mut state = bootstrapped();
        assert_eq!(recovered(&State::default(), SURVIVOR), None);
        assert_eq!(recovered(&state, (crate::FIRST_REPLICA, NodeId(1))), None, "it has only just begun");
        apply(&mut state, Command::UpdateMembers(members(&[1, 2, 3], 1)));
        let alone = recovered(&state, SURVIVOR).expect("the others are gone");
        assert_eq!((alone.version, alone.replicas.len()), (2, 1));
    }

    #[test]
    fn what_the_lost_end_of_the_log_has_given_out_is_not_given_out_again() {
        let mut state = bootstrapped();
        apply(&mut state, Command::UpdateMembers(members(&[1, 2, 3], 1)));
        // As far as the survivor got; the others went on.
        let mut lost = state.clone();
        for n in 2..6_u8 {
            let join = pb::AddNode { instance: vec![n].into(), addresses: None };
            apply(&mut lost, Command::AddNode(join));
        }
        apply(&mut lost, Command::AllocateIds(pb::AllocateIds { groups: 900, replicas: 2700 }));
        let alone = recovered(&state, SURVIVOR).expect("the others are gone");
        let version = alone.version;
        let gap = pb::UpdateMembers { members: Some(alone), recovered: true };
        apply(&mut state, Command::UpdateMembers(gap.clone()));
        assert_eq!(recovered(&state, SURVIVOR), None, "once");
        let (known, lost) = (state.cluster().clone(), lost.cluster());
        assert!(known.next_group >= lost.next_group && known.next_replica >= lost.next_replica);
        assert!(known.next_node >= lost.next_node && known.map_version > lost.map_version);
        // Said again, by whoever got no answer, it changes nothing.
        apply(&mut state, Command::UpdateMembers(gap));
        assert_eq!((state.cluster(), version), (&known, 2));
    }
}
