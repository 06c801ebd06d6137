//! Where a group at rest is at home: there it would be led if anybody asked.
//!
//! That is where it was led last. If that node is dead, one of the others stands in for it: nothing is woken, nobody votes, nothing is
//! written, however many groups rested at home there. A home leads nothing, so to be one takes no election; whoever is asked for the
//! group holds one then, as ever ([`Group::rouse`]). When the node lives again the home is where it was, unless the group has been
//! woken meanwhile: then it has another leader, of a later term.
//!
//! Who stands in follows from the group, from who is dead and from who lacks entries, of which whoever rested with it was told: all who
//! agree on these agree on him. If they don't, two nodes take themselves for the group's home for a while. Nothing
//! is led or promised by that: it says who is asked first, and who is to see to members that lack entries. But each says so to the meta-group
//! again, which asks the other anew; so nobody tells all that rests with him more often than every two seconds.

use std::collections::BTreeSet;

use storage::ids::NodeId;

use super::Rested;
use crate::api::{GroupStatus, Peer};
use crate::group::Group;
use crate::liveness::turn;

impl Rested {
    /// Where it is at home while these nodes are dead. `None`: nobody knows who led it, or who lacks entries; or most of those who vote are
    /// on dead nodes.
    pub(super) fn home(&self, dead: &BTreeSet<NodeId>) -> Option<Peer> {
        let leader = self.status.leader?;
        if !dead.contains(&leader.node) {
            return Some(leader);
        }
        if self.is_unsure() {
            return None;
        }
        let members = &self.status.members;
        let left: Vec<Peer> = members
            .iter()
            .filter(|(_, node)| !dead.contains(node))
            .map(|(&replica, &node)| Peer { replica, node })
            .collect();
        if 2 * left.len() <= members.len() {
            return None;
        }
        // Who lacks entries can't lead, and does not know who else lacks some.
        let able: Vec<Peer> = left.into_iter().filter(|peer| !self.owed.contains(&peer.node)).collect();
        (0..able.len()).find(|n| turn(self.status.group, *n, able.len()) == 0).map(|n| able[n])
    }
}

impl Group {
    /// How the group is doing, if it rests: at home where it is while these nodes are dead.
    pub fn status_at_rest(&self, dead: &BTreeSet<NodeId>) -> Option<GroupStatus> {
        let home = self.rest.rested.lock().home(dead);
        Some(GroupStatus { leader: home, ..self.rested_status() }).filter(|_| self.rests())
    }

    /// Where it is at home, if it rests, as far as this node misses the others.
    pub(crate) fn home(&self) -> Option<Peer> {
        let rested = self.rest.rested.lock();
        let liveness = &self.nursery.hub.liveness;
        let missed = |node: &NodeId| *node != self.nursery.hub.me && liveness.is_missed(*node);
        let missed = rested.status.members.values().copied().filter(missed).collect();
        rested.home(&missed)
    }

    /// Whether it rests, and is at home here, as far as this node misses the others.
    pub fn rests_at_home(&self) -> bool {
        self.home().is_some_and(|home| home.replica == self.replica()) && self.rests()
    }

    /// It rests, its home is missed, and this replica can't stand in, for it doesn't know who lacks entries: then it is to be led.
    pub(super) fn is_in_doubt(&self) -> bool {
        let rested = self.rest.rested.lock();
        let liveness = &self.nursery.hub.liveness;
        let missed = rested.leader_elsewhere().is_some_and(|home| liveness.is_missed(home.node));
        let is_there = |node: &NodeId| *node != self.nursery.hub.me && liveness.is_there(*node);
        missed && rested.is_unsure() && rested.status.members.values().any(is_there)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use storage::ids::{GroupId, ReplicaId, Term};

    use crate::api::Role;
    use crate::types::Vote;

    use super::*;

    /// Replicas 1 to `count`, on nodes of the same number; the first one led.
    fn at_rest(group: u64, me: u64, count: u64) -> Rested {
        let status = GroupStatus {
            group: GroupId(group),
            replica: ReplicaId(me),
            role: Role::Follower { leader: None },
            term: Term(4),
            leader: Some(Peer { replica: ReplicaId(1), node: NodeId(1) }),
            last: None,
            committed: None,
            applied: None,
            flushed: None,
            purged: None,
            members: (1..=count).map(|n| (ReplicaId(n), NodeId(n))).collect(),
            learners: BTreeMap::new(),
            joint: false,
            progress: BTreeMap::new(),
            rests: true,
        };
        Rested { status, owed: BTreeSet::new(), vote: Some(Vote::new_committed(4, 1)) }
    }

    fn home(group: u64, me: u64, count: u64, dead: &[u64]) -> Option<u64> {
        at_rest(group, me, count).home(&nodes(dead)).map(|home| home.node.0)
    }

    fn nodes(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn who_lacks_entries_stands_in_for_nobody() {
        for group in 0..6 {
            let mut rested = at_rest(group, 3, 3);
            rested.owed = nodes(&[2]);
            assert_eq!(rested.home(&nodes(&[1])).map(|home| home.node.0), Some(3));
            assert_eq!(rested.home(&nodes(&[])).map(|home| home.node.0), Some(1));
        }
    }

    #[test]
    fn all_agree_who_stands_in_and_do_so_for_equally_many() {
        let mut homes = BTreeMap::<u64, u64>::new();
        for group in 0..600 {
            assert!((1..=3).all(|me| home(group, me, 3, &[]) == Some(1)));
            assert!((1..=3).all(|me| home(group, me, 3, &[2]) == Some(1)), "the home lives");
            let instead = home(group, 2, 3, &[1]).expect("two of three are left");
            assert_eq!(home(group, 3, 3, &[1]), Some(instead));
            *homes.entry(instead).or_default() += 1;
        }
        assert_eq!(homes, BTreeMap::from([(2, 300), (3, 300)]));
    }

    /// After a start of its process.
    #[test]
    fn who_does_not_know_who_lacks_entries_stands_in_for_nobody() {
        let mut rested = at_rest(7, 3, 3);
        rested.vote = None;
        assert_eq!(rested.home(&nodes(&[1])), None);
        assert_eq!(rested.home(&nodes(&[2])).map(|home| home.node.0), Some(1));
        let mut own = at_rest(7, 1, 3);
        own.vote = None;
        assert_eq!(own.home(&nodes(&[2])).map(|home| home.node.0), Some(1));
    }

    /// It would be said that the group is served, and it is not.
    #[test]
    fn nobody_stands_in_without_a_majority() {
        for group in 0..6 {
            assert_eq!(home(group, 3, 3, &[1, 2]), None);
            assert!(home(group, 3, 5, &[1, 2]).is_some_and(|home| home > 2));
            assert_eq!(home(group, 4, 4, &[1, 2]), None);
        }
    }
}
