//! What the meta-group's leader makes of the nodes' reports.
//!
//! A node tells of each group that it leads, once a second. Of groups at rest there may be thousands, and nothing new of any of
//! them: a report says what they come to (a digest), and which have changed since they came to what it said before; and
//! whoever has nothing that came to that asks for all of them. A report that says nothing new of them costs nothing for each of them
//! here, either: that they are as they were is noted once for the node ([`Reported::said_at`]), and what it leads no more is looked
//! for among those that it led awake.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use proto::meta as pb;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;

use crate::server::{DEAD_AFTER, Reported, Soft};

/// What a report says of the groups at rest on its node.
#[derive(Clone, Debug)]
pub(crate) enum Resting {
    /// They are in it, and come to this.
    Sent(u64),
    /// They are what they were when they came to this.
    Known(u64),
    /// What has changed since they came to `since` is in it; now they come to `digest`, and `gone` are not among them any more.
    Changed { since: u64, digest: u64, gone: Vec<u64> },
}

impl Resting {
    /// What a request says.
    pub fn of(request: &mut pb::ReportRequest) -> Self {
        let digest = request.resting_digest;
        match request.resting_since {
            _ if request.with_resting => Resting::Sent(digest),
            None => Resting::Known(digest),
            Some(since) => {
                Resting::Changed { since, digest, gone: std::mem::take(&mut request.resting_gone) }
            }
        }
    }
}

impl Soft {
    /// Takes a node's report in; returns whether it says something new about its groups.
    pub fn take_report(
        &mut self,
        node: NodeId,
        now: Instant,
        groups: Vec<pb::GroupReport>,
        resting: Resting,
    ) -> bool {
        let was_alive = self.last_seen.insert(node, now).is_some_and(|seen| now - seen < DEAD_AFTER);
        let mut news = !was_alive;
        let mut led = HashSet::new();
        let mut leaders_changed = false;
        // Changes to something that is not known here say nothing, least of all what comes late: all is asked for instead.
        let known_digest = self.resting.get(&node).copied();
        let follows = match &resting {
            Resting::Sent(_) | Resting::Known(_) => true,
            Resting::Changed { since, .. } => known_digest == Some(*since),
        };
        for report in groups {
            let id = GroupId(report.group);
            if report.rests && !follows {
                // Not lost, at any rate.
                led.insert(id);
                continue;
            }
            let known = self.groups.get(&id);
            if known.is_some_and(|k| k.report.term > report.term) {
                continue;
            }
            led.insert(id);
            self.between_leaders.remove(&id);
            news |= known.is_none_or(|k| k.by != node || !same_members(&k.report, &report));
            leaders_changed |= known.is_none_or(|k| k.by != node);
            let since = known.filter(|k| k.report.term == report.term).map_or(now, |k| k.since);
            let silent = report.replicas.iter().filter(|r| !r.reachable).map(|r| ReplicaId(r.replica));
            let earlier = |r: &ReplicaId| known.and_then(|k| k.silent_since.get(r)).copied();
            let silent_since = silent.map(|r| (r, earlier(&r).unwrap_or(now))).collect();
            // Another one stands in for its home, or no longer does. Whoever it was taken from is asked for all that rests there when
            // it reports again: it does not know that it was.
            if let Some(known) =
                known.filter(|k| k.by != node && k.report.rests && k.report.term == report.term)
            {
                self.resting.remove(&known.by);
            }
            self.loads.note(id, report.load, since, now);
            self.sizes.note(&report);
            self.groups.insert(id, Reported { by: node, since, at: now, report, silent_since });
        }
        // What rests is not told of each time. If it has changed, the next report tells of it.
        let digest = match &resting {
            Resting::Sent(digest) | Resting::Known(digest) | Resting::Changed { digest, .. } => *digest,
        };
        if follows && !matches!(resting, Resting::Known(_)) {
            self.resting.insert(node, digest);
        }
        if self.resting.get(&node) == Some(&digest) {
            self.confirmed.insert(node, now);
        }
        // What the node led and no longer does has no known leader until somebody says so.
        let is_lost = |id: &GroupId, rests: Option<bool>| {
            let known = self.groups.get(id).filter(|known| known.by == node && !led.contains(id));
            known.is_some_and(|known| rests.is_none_or(|rests| known.report.rests == rests))
        };
        let awake =
            self.awake.get(&node).into_iter().flatten().copied().filter(|id| is_lost(id, Some(false)));
        let lost: Vec<GroupId> = match &resting {
            Resting::Sent(_) => self.groups.keys().copied().filter(|id| is_lost(id, None)).collect(),
            Resting::Changed { gone, .. } if follows => {
                let gone = gone.iter().map(|group| GroupId(*group)).filter(|id| is_lost(id, Some(true)));
                awake.chain(gone).collect()
            }
            Resting::Known(_) | Resting::Changed { .. } => awake.collect(),
        };
        let is_awake = |id: &GroupId| self.groups.get(id).is_some_and(|known| !known.report.rests);
        let awake = led.iter().copied().filter(is_awake).collect();
        self.awake.insert(node, awake);
        for id in &lost {
            self.groups.remove(id);
            self.between_leaders.insert(*id, now);
        }
        if leaders_changed || !lost.is_empty() {
            self.leaders_version += 1;
        }
        news || !lost.is_empty()
    }
}

impl Reported {
    /// When the node last said this of the group. Of those at rest it says so of all at once.
    pub fn said_at(&self, confirmed: &HashMap<NodeId, Instant>) -> Instant {
        let again = confirmed.get(&self.by).filter(|_| self.report.rests);
        again.map_or(self.at, |at| self.at.max(*at))
    }
}

/// Whether two reports tell of the same members.
fn same_members(one: &pb::GroupReport, other: &pb::GroupReport) -> bool {
    let members = |report: &pb::GroupReport| -> Vec<(u64, bool)> {
        report.replicas.iter().map(|r| (r.replica, r.learner)).collect()
    };
    one.joint == other.joint && members(one) == members(other)
}

/// Where a leader begins to count versions of the list of leaders: no two of them begin alike.
pub(crate) fn leaders_version(seams: &Seams) -> u64 {
    seams.random_u64() >> 1 | 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage::ids::Term;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn awake(group: u64, term: u64) -> pb::GroupReport {
        pb::GroupReport { group, term, ..Default::default() }
    }

    fn at_rest(group: u64, term: u64) -> pb::GroupReport {
        pb::GroupReport { rests: true, ..awake(group, term) }
    }

    /// A leader of the meta-group, and how many seconds it has been that.
    struct World {
        soft: Soft,
        begin: Instant,
        seconds: u64,
    }

    impl World {
        fn new() -> Self {
            let begin = Seams::real().clock.now();
            Self { soft: Soft::new(Term(1), begin, 1), begin, seconds: 0 }
        }

        /// A second later.
        fn report(&mut self, node: NodeId, groups: &[pb::GroupReport], resting: Resting) {
            self.seconds += 1;
            let now = self.begin + Duration::from_secs(self.seconds);
            self.soft.take_report(node, now, groups.to_vec(), resting);
        }

        /// Each group, by whom, and after how many seconds it was last spoken of.
        fn known(&self) -> Vec<(u64, NodeId, u64)> {
            let said = |known: &Reported| known.said_at(&self.soft.confirmed) - self.begin;
            self.soft.groups.iter().map(|(id, known)| (id.0, known.by, said(known).as_secs())).collect()
        }
    }

    #[test]
    fn what_rests_is_known_by_its_digest() {
        let mut world = World::new();
        world.report(A, &[awake(1, 5), at_rest(2, 3), at_rest(3, 4)], Resting::Sent(77));
        assert_eq!(world.known(), [(1, A, 1), (2, A, 1), (3, A, 1)]);
        world.report(A, &[awake(1, 5)], Resting::Known(77));
        assert_eq!(world.known(), [(1, A, 2), (2, A, 2), (3, A, 2)]);
        // Something has changed, and is not told yet.
        world.report(A, &[awake(1, 5)], Resting::Known(78));
        assert_eq!(world.known(), [(1, A, 3), (2, A, 2), (3, A, 2)]);
        // One has woken elsewhere, and was told of by whom it has now.
        world.report(B, &[awake(3, 6)], Resting::Sent(0));
        world.report(A, &[awake(1, 5), at_rest(2, 3)], Resting::Sent(79));
        assert_eq!(world.known(), [(1, A, 5), (2, A, 5), (3, B, 4)]);
        assert!(world.soft.between_leaders.is_empty());
    }

    #[test]
    fn what_is_led_no_more_has_no_known_leader() {
        let mut world = World::new();
        world.report(A, &[awake(1, 5), awake(2, 5), at_rest(3, 4)], Resting::Sent(7));
        world.report(A, &[awake(2, 5)], Resting::Known(7));
        assert_eq!(world.known(), [(2, A, 2), (3, A, 2)]);
        assert_eq!(world.soft.between_leaders.keys().collect::<Vec<_>>(), [&GroupId(1)]);
        // It wakes where it rested, and is led elsewhere a moment later.
        world.report(A, &[awake(2, 5), awake(3, 6)], Resting::Sent(8));
        world.report(B, &[awake(3, 7)], Resting::Sent(0));
        world.report(A, &[awake(2, 5)], Resting::Known(8));
        assert_eq!(world.known(), [(2, A, 5), (3, B, 4)]);
        // What rests no more is told by leaving it out.
        world.report(A, &[at_rest(2, 5)], Resting::Sent(9));
        world.report(A, &[], Resting::Known(9));
        assert_eq!(world.known(), [(2, A, 7), (3, B, 4)]);
        world.report(A, &[], Resting::Sent(10));
        assert_eq!(world.known(), [(3, B, 4)]);
        assert!(world.soft.between_leaders.contains_key(&GroupId(2)));
    }

    fn changed(since: u64, digest: u64, gone: &[u64]) -> Resting {
        Resting::Changed { since, digest, gone: gone.to_vec() }
    }

    #[test]
    fn what_has_changed_of_what_rests_is_enough() {
        let mut world = World::new();
        world.report(A, &[at_rest(1, 3), at_rest(2, 3), at_rest(3, 3), awake(4, 5)], Resting::Sent(7));
        // One wakes, one goes to rest, one rests there no more, and of one there is nothing to say.
        world.report(A, &[awake(1, 4), at_rest(4, 5)], changed(7, 8, &[1, 2]));
        assert_eq!(world.known(), [(1, A, 2), (3, A, 2), (4, A, 2)]);
        assert_eq!(world.soft.between_leaders.keys().collect::<Vec<_>>(), [&GroupId(2)]);
        assert_eq!(world.soft.resting.get(&A), Some(&8));
        world.report(A, &[awake(1, 4)], Resting::Known(8));
        assert_eq!(world.known(), [(1, A, 3), (3, A, 3), (4, A, 3)]);
        // Led elsewhere meanwhile, where it was not at home when that node had changes to tell.
        world.report(B, &[awake(3, 4)], Resting::Sent(0));
        world.report(A, &[at_rest(1, 4)], changed(8, 9, &[3]));
        assert_eq!(world.known(), [(1, A, 5), (3, B, 4), (4, A, 5)]);
    }

    #[test]
    fn changes_to_what_is_not_known_are_not_believed() {
        let mut world = World::new();
        world.report(A, &[at_rest(1, 3), at_rest(2, 3), awake(3, 5)], Resting::Sent(7));
        // The leader has missed a report; or this one comes late, and it has heard a newer one.
        world.report(A, &[awake(1, 4), at_rest(3, 5)], changed(6, 9, &[2]));
        assert_ne!(world.soft.resting.get(&A), Some(&9), "all of it is asked for");
        assert_eq!(world.known(), [(1, A, 2), (2, A, 1), (3, A, 1)], "until then, but for what is awake");
        assert!(world.soft.between_leaders.is_empty());
        world.report(A, &[awake(1, 4), at_rest(3, 5)], Resting::Sent(9));
        assert_eq!(world.known(), [(1, A, 3), (3, A, 3)]);
    }

    #[test]
    fn a_group_that_wakes_where_it_rested_is_no_news_of_leaders() {
        let mut world = World::new();
        world.report(A, &[at_rest(1, 5), at_rest(2, 3)], Resting::Sent(7));
        let version = world.soft.leaders_version;
        world.report(A, &[awake(1, 6), at_rest(2, 3)], Resting::Sent(8));
        world.report(A, &[at_rest(1, 6), at_rest(2, 3)], Resting::Sent(9));
        assert_eq!(world.soft.leaders_version, version, "it is led where it was");
        world.report(B, &[awake(1, 7)], Resting::Sent(0));
        assert_eq!(world.soft.leaders_version, version + 1);
        world.report(B, &[], Resting::Sent(0));
        assert_eq!(world.soft.leaders_version, version + 2, "nobody is known to lead it");
    }

    #[test]
    fn a_home_that_another_node_has_stood_in_for_is_asked_again() {
        let mut world = World::new();
        world.report(A, &[at_rest(1, 3), at_rest(2, 3)], Resting::Sent(7));
        world.report(B, &[at_rest(1, 3), at_rest(2, 3)], Resting::Sent(8));
        assert_eq!(world.known(), [(1, B, 2), (2, B, 2)]);
        // It lives, and has nothing new to tell. One of them has been woken meanwhile.
        world.report(B, &[at_rest(1, 3), awake(2, 4)], changed(8, 9, &[2]));
        world.report(A, &[], Resting::Known(7));
        assert_ne!(world.soft.resting.get(&A), Some(&7), "all of it is asked for");
        // Whether it tells before the other one does that it stands in no more, or after.
        world.report(A, &[at_rest(1, 3), at_rest(2, 3)], Resting::Sent(7));
        world.report(B, &[awake(2, 4)], changed(9, 0, &[1]));
        assert_eq!(world.known(), [(1, A, 5), (2, B, 6)]);
        assert!(world.soft.between_leaders.is_empty());
        world.report(B, &[at_rest(1, 3), awake(2, 4)], Resting::Sent(9));
        world.report(B, &[awake(2, 4)], changed(9, 0, &[1]));
        assert!(world.soft.between_leaders.contains_key(&GroupId(1)));
        world.report(A, &[at_rest(1, 3), at_rest(2, 3)], Resting::Sent(7));
        assert_eq!(world.known(), [(1, A, 9), (2, B, 8)]);
        assert!(world.soft.between_leaders.is_empty());
    }

    #[test]
    fn a_new_leader_knows_nothing_until_it_is_told() {
        let mut world = World::new();
        world.report(A, &[awake(1, 5)], Resting::Known(77));
        assert_eq!(world.known(), [(1, A, 1)]);
        assert_ne!(world.soft.resting.get(&A), Some(&77), "it is asked for");
        world.report(A, &[awake(1, 5), at_rest(2, 3)], Resting::Sent(77));
        assert_eq!(world.soft.resting.get(&A), Some(&77));
        // A node that has started again is the home of none, or says of which.
        world.report(A, &[], Resting::Known(0));
        assert_eq!(world.known(), [(2, A, 2)], "nothing is confirmed");
        world.report(A, &[], Resting::Sent(0));
        assert!(world.known().is_empty());
    }
}
