//! What a node has to say of the groups that rest at home there: a pure piece.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proto::meta as pb;
use storage::ids::{GroupId, NodeId};

use super::Local;

/// All of it is made anew at least so often. Nothing should come of it; if something does, it is late and not lost.
const ANEW_EVERY: Duration = Duration::from_secs(60);
/// About how large a group at rest is, is asked for again when it is told and so much time has passed: what it held in memory is on the
/// disk by then.
const SIZES_EVERY: Duration = Duration::from_secs(60);

/// The reports, and what they come to.
///
/// Invariants: `digest` is the sum of the reports' hashes, whatever the order in which they came. All reports were made for the
/// nodes in `lost`: so whenever other ones don't answer, it is to be seen that what was said is no longer so.
#[derive(Default)]
pub(super) struct AtRest {
    reports: BTreeMap<GroupId, Told>,
    digest: u64,
    /// The nodes that did not answer at the last look.
    lost: Arc<BTreeSet<NodeId>>,
    made: Option<Instant>,
    sized: Option<Instant>,
}

struct Told {
    /// Of the report but for its load: about how large it is, is no news.
    hash: u64,
    report: pb::GroupReport,
}

impl AtRest {
    /// The same as long as nothing has changed.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn reports(&self) -> impl Iterator<Item = &pb::GroupReport> {
        self.reports.values().map(|told| &told.report)
    }

    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.reports.keys().copied()
    }

    /// Brings all of it up to date. `lost`: the nodes that don't answer now; `changed`: the groups that have woken, or were
    /// laid to rest, since the last call; `here`: all groups of this node; `tell`: what is to be said of one while such nodes
    /// don't answer.
    pub fn follow(
        &mut self,
        lost: Arc<BTreeSet<NodeId>>,
        now: Instant,
        changed: BTreeSet<GroupId>,
        here: impl FnOnce() -> Vec<GroupId>,
        tell: impl Fn(GroupId, &BTreeSet<NodeId>) -> Option<pb::GroupReport>,
    ) {
        let groups: BTreeSet<GroupId> = match self.is_stale(&lost, now) {
            true => {
                self.made = Some(now);
                here().into_iter().chain(self.groups()).collect()
            }
            false => changed,
        };
        for group in groups {
            self.set(group, tell(group, &lost));
        }
        self.lost = lost;
    }

    /// Whether all of it has to be made anew.
    fn is_stale(&self, lost: &BTreeSet<NodeId>, now: Instant) -> bool {
        *self.lost != *lost || self.made.is_none_or(|at| now.saturating_duration_since(at) >= ANEW_EVERY)
    }

    /// What is to be said of a group from now on; `None`: it does not rest at home here.
    pub fn set(&mut self, group: GroupId, report: Option<pb::GroupReport>) {
        let before = self.reports.remove(&group);
        self.digest = self.digest.wrapping_sub(before.as_ref().map_or(0, |told| told.hash));
        let Some(report) = report else { return };
        let mut report = pb::GroupReport { load: None, ..report };
        let hash = hash(&report);
        // Of one that has been awake in between the term is another.
        let slept = before.filter(|told| told.report.term == report.term);
        report.load = slept.and_then(|told| told.report.load);
        self.digest = self.digest.wrapping_add(hash);
        self.reports.insert(group, Told { hash, report });
    }

    /// Fills in about how large the groups are.
    pub fn measure(&mut self, local: &dyn Local, now: Instant) {
        let again = self.sized.is_none_or(|at| now.saturating_duration_since(at) >= SIZES_EVERY);
        for (group, told) in &mut self.reports {
            if again || told.report.load.is_none() {
                told.report.load = Some(pb::GroupLoad { bytes: local.bytes(*group), ..Default::default() });
            }
        }
        if again {
            self.sized = Some(now);
        }
    }
}

fn hash(report: &pb::GroupReport) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    report.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU64, Ordering};

    use raft::{GroupStatus, Role};
    use storage::ids::{ReplicaId, Term};
    use storage::seam::Seams;
    use txn::ShardDescriptor;

    use super::*;

    fn report(group: u64, term: u64) -> Option<pb::GroupReport> {
        Some(pb::GroupReport { group, term, rests: true, ..Default::default() })
    }

    fn of(reports: &[(u64, u64)]) -> AtRest {
        let mut resting = AtRest::default();
        reports.iter().for_each(|(group, term)| resting.set(GroupId(*group), report(*group, *term)));
        resting
    }

    #[test]
    fn the_digest_is_that_of_the_content() {
        assert_eq!(of(&[]).digest(), AtRest::default().digest());
        let known = of(&[(1, 4), (2, 5)]).digest();
        assert_eq!(known, of(&[(2, 5), (1, 4)]).digest(), "in whatever order");
        assert_ne!(known, of(&[(1, 5), (2, 4)]).digest());
        assert_ne!(known, of(&[(1, 4)]).digest());
        // One wakes, and rests again, a term later.
        let mut resting = of(&[(1, 4), (2, 5)]);
        resting.set(GroupId(1), None);
        assert_eq!(resting.digest(), of(&[(2, 5)]).digest());
        resting.set(GroupId(1), None);
        assert_eq!(resting.digest(), of(&[(2, 5)]).digest());
        resting.set(GroupId(1), report(1, 6));
        assert_eq!(resting.digest(), of(&[(1, 6), (2, 5)]).digest());
        resting.set(GroupId(1), report(1, 4));
        assert_eq!(resting.digest(), known);
        assert_eq!(resting.groups().collect::<Vec<_>>(), [GroupId(1), GroupId(2)]);
    }

    #[test]
    fn all_is_made_anew_when_other_nodes_answer_and_once_a_minute() {
        let begin = Seams::real().clock.now();
        let (mut resting, told) = (AtRest::default(), RefCell::new(Vec::new()));
        // Of three groups on this node, the second has changed since the last look.
        let mut look = |lost: &[u64], at: Instant| -> Vec<u64> {
            let lost = Arc::new(lost.iter().copied().map(NodeId).collect());
            let tell = |group: GroupId, _: &BTreeSet<NodeId>| {
                told.borrow_mut().push(group.0);
                report(group.0, 4)
            };
            resting.follow(lost, at, [GroupId(2)].into(), || [1, 2, 3].map(GroupId).into(), tell);
            told.take()
        };
        assert_eq!(look(&[], begin), [1, 2, 3], "nothing was made yet");
        assert_eq!(look(&[], begin + ANEW_EVERY / 2), [2]);
        assert_eq!(look(&[3], begin + ANEW_EVERY / 2), [1, 2, 3]);
        assert_eq!(look(&[3], begin + ANEW_EVERY), [2]);
        assert_eq!(look(&[], begin + ANEW_EVERY), [1, 2, 3], "it answers again");
        assert_eq!(look(&[], begin + ANEW_EVERY * 2), [1, 2, 3]);
    }

    /// When it was asked for each group anew which nodes answer, a node could be lost after the look had begun, and be back
    /// before the next one: which then saw no change, and what had been said of that group in between stood for a minute.
    #[test]
    fn what_is_said_of_a_node_is_as_of_the_last_look() {
        let (begin, away) = (Seams::real().clock.now(), NodeId(3));
        let members: BTreeMap<_, _> = (1..=3).map(|n| (ReplicaId(n), NodeId(n))).collect();
        let status = GroupStatus {
            group: GroupId(1),
            replica: ReplicaId(1),
            role: Role::Follower { leader: None },
            term: Term(4),
            leader: None,
            last: None,
            committed: None,
            applied: None,
            flushed: None,
            purged: None,
            members,
            learners: BTreeMap::new(),
            joint: false,
            progress: BTreeMap::new(),
            rests: true,
        };
        let tell = |group: GroupId, lost: &BTreeSet<NodeId>| {
            let replicas = super::super::members(&status, &BTreeSet::new(), lost);
            report(group.0, 4).map(|report| pb::GroupReport { replicas, ..report })
        };
        let mut resting = AtRest::default();
        let looks: [(bool, &[u64]); 8] = [
            (true, &[]),
            (true, &[1]),
            (false, &[1]),
            (false, &[2]),
            (true, &[2]),
            (false, &[]),
            (true, &[1]),
            (true, &[1, 2]),
        ];
        for (n, (answers, changed)) in looks.into_iter().enumerate() {
            let lost = if answers { BTreeSet::new() } else { BTreeSet::from([away]) };
            let changed = changed.iter().copied().map(GroupId).collect();
            resting.follow(Arc::new(lost), begin, changed, || [1, 2].map(GroupId).into(), tell);
            let said = |node: u64| {
                let replicas = resting.reports().flat_map(|report| &report.replicas);
                replicas.filter(move |r| r.node == node).map(|r| r.reachable).collect::<Vec<_>>()
            };
            assert_eq!(said(away.0), [answers; 2], "look {n}");
            assert_eq!(said(2), [true; 2], "look {n}");
        }
    }

    #[derive(Default)]
    struct Sizes(AtomicU64);

    impl Local for Sizes {
        fn descriptor(&self, _: GroupId) -> Option<ShardDescriptor> {
            None
        }

        fn bytes(&self, _: GroupId) -> Option<u64> {
            Some(self.0.fetch_add(1, Ordering::Relaxed) + 1)
        }

        fn frozen(&self, _: GroupId) -> Option<(GroupId, u64)> {
            None
        }

        fn requests(&self, _: GroupId) -> (u64, u64) {
            (0, 0)
        }

        fn facts(&self) -> pb::NodeFacts {
            pb::NodeFacts::default()
        }
    }

    #[test]
    fn sizes_are_asked_for_once_and_are_no_news() {
        let begin = Seams::real().clock.now();
        let sizes = Sizes::default();
        let told = |resting: &AtRest| -> Vec<Option<u64>> {
            resting.reports().map(|report| report.load.and_then(|load| load.bytes)).collect()
        };
        let mut resting = of(&[(1, 4), (2, 5)]);
        let digest = resting.digest();
        resting.measure(&sizes, begin);
        assert_eq!(told(&resting), [Some(1), Some(2)]);
        // Made anew, and asleep all the while.
        resting.set(GroupId(1), report(1, 4));
        resting.measure(&sizes, begin + SIZES_EVERY / 2);
        assert_eq!((told(&resting), resting.digest()), (vec![Some(1), Some(2)], digest));
        // It was awake.
        resting.set(GroupId(1), report(1, 6));
        resting.measure(&sizes, begin + SIZES_EVERY / 2);
        assert_eq!(told(&resting), [Some(3), Some(2)]);
        resting.measure(&sizes, begin + SIZES_EVERY);
        assert_eq!(told(&resting), [Some(4), Some(5)]);
    }
}
