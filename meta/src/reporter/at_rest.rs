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
/// About how large a group at rest is, is asked for again when so much time has passed: what it held in memory is on the disk by
/// then.
const SIZE_AGAIN: Duration = Duration::from_secs(60);

/// The reports, and what they come to.
///
/// Invariants: `digest` is the sum of the reports' hashes, whatever the order in which they came; it has not changed since
/// [`AtRest::said`] unless something is in `unsaid`. All reports were made for the nodes in `away`: so whenever other ones are
/// away, it is to be seen that what was said is no longer so.
#[derive(Default)]
pub(super) struct AtRest {
    reports: BTreeMap<GroupId, Told>,
    digest: u64,
    /// Groups of which something is to be said, or that they rest no more, since it was last said.
    unsaid: BTreeSet<GroupId>,
    /// Groups whose size is to be asked for again, and when.
    to_size: BTreeMap<GroupId, Instant>,
    /// As of the last look.
    away: Away,
    made: Option<Instant>,
}

/// Who is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Away {
    /// Nodes that don't answer this one.
    pub lost: Arc<BTreeSet<NodeId>>,
    /// Nodes that the meta-group's leader takes for dead.
    pub dead: Arc<BTreeSet<NodeId>>,
}

/// What is to be said in a report.
#[derive(Debug, PartialEq)]
pub(super) enum Say {
    /// That all is as it was.
    Nothing,
    /// What has changed since it came to `since`: also which groups rest here no more.
    Changes { since: u64, reports: Vec<pb::GroupReport>, gone: Vec<u64> },
    /// Everything.
    All(Vec<pb::GroupReport>),
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

    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.reports.keys().copied()
    }

    /// Brings all of it up to date. `away`: who is now; `changed`: the groups that have woken, or were laid to rest, since the last
    /// call; `here`: all groups of this node; `tell`: what is to be said of one while such nodes are away.
    pub fn follow(
        &mut self,
        away: Away,
        now: Instant,
        changed: BTreeSet<GroupId>,
        here: impl FnOnce() -> Vec<GroupId>,
        tell: impl Fn(GroupId, &Away) -> Option<pb::GroupReport>,
    ) {
        let groups: BTreeSet<GroupId> = match self.is_stale(&away, now) {
            true => {
                self.made = Some(now);
                here().into_iter().chain(self.groups()).collect()
            }
            false => changed,
        };
        for group in groups {
            self.set(group, tell(group, &away));
        }
        self.away = away;
    }

    /// Whether all of it has to be made anew.
    fn is_stale(&self, away: &Away, now: Instant) -> bool {
        self.away != *away || self.made.is_none_or(|at| now.saturating_duration_since(at) >= ANEW_EVERY)
    }

    /// What is to be said of a group from now on; `None`: it does not rest at home here.
    pub fn set(&mut self, group: GroupId, report: Option<pb::GroupReport>) {
        let before = self.reports.remove(&group);
        self.digest = self.digest.wrapping_sub(before.as_ref().map_or(0, |told| told.hash));
        let Some(report) = report else {
            self.to_size.remove(&group);
            if before.is_some() {
                self.unsaid.insert(group);
            }
            return;
        };
        let mut report = pb::GroupReport { load: None, ..report };
        let hash = hash(&report);
        if before.as_ref().is_none_or(|told| told.hash != hash) {
            self.unsaid.insert(group);
        }
        // Of one that has been awake in between the term is another.
        let slept = before.filter(|told| told.report.term == report.term);
        report.load = slept.and_then(|told| told.report.load);
        self.digest = self.digest.wrapping_add(hash);
        self.reports.insert(group, Told { hash, report });
    }

    /// What is to be said to a leader to whom it came to `known` when it was last said; `None`: to one who knows nothing.
    pub fn say(&mut self, known: Option<u64>, local: &dyn Local, now: Instant) -> Say {
        self.size_again(local, now);
        let Some(since) = known else {
            let all: Vec<GroupId> = self.groups().collect();
            return Say::All(self.sized(all, local, now));
        };
        if self.unsaid.is_empty() {
            debug_assert_eq!(since, self.digest, "nothing has changed");
            return Say::Nothing;
        }
        let changed: Vec<GroupId> = self.unsaid.iter().copied().collect();
        let gone = changed.iter().filter(|group| !self.reports.contains_key(*group)).map(|group| group.0);
        Say::Changes { since, gone: gone.collect(), reports: self.sized(changed, local, now) }
    }

    /// The leader has heard it.
    pub fn said(&mut self) {
        self.unsaid.clear();
    }

    /// The reports of those of the groups that rest, with about how large they are.
    fn sized(&mut self, groups: Vec<GroupId>, local: &dyn Local, now: Instant) -> Vec<pb::GroupReport> {
        let mut reports = Vec::with_capacity(groups.len());
        for group in groups {
            let Some(told) = self.reports.get_mut(&group) else { continue };
            if told.report.load.is_none() {
                told.report.load = Some(load(local, group));
                self.to_size.insert(group, now + SIZE_AGAIN);
            }
            reports.push(told.report.clone());
        }
        reports
    }

    /// Asks for the sizes of groups that were asked for a while ago; one that is another is to be said.
    fn size_again(&mut self, local: &dyn Local, now: Instant) {
        let due: Vec<GroupId> =
            self.to_size.extract_if(.., |_, at| *at <= now).map(|(group, _)| group).collect();
        for group in due {
            let Some(told) = self.reports.get_mut(&group) else { continue };
            let again = Some(load(local, group));
            if told.report.load != again {
                told.report.load = again;
                self.unsaid.insert(group);
            }
        }
    }
}

fn load(local: &dyn Local, group: GroupId) -> pb::GroupLoad {
    pb::GroupLoad { bytes: local.bytes(group), ..Default::default() }
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
    fn all_is_made_anew_when_others_are_away_and_once_a_minute() {
        let begin = Seams::real().clock.now();
        let (mut resting, told) = (AtRest::default(), RefCell::new(Vec::new()));
        // Of three groups on this node, the second has changed since the last look.
        let mut look = |(lost, dead): (&[u64], &[u64]), at: Instant| -> Vec<u64> {
            let nodes = |nodes: &[u64]| Arc::new(nodes.iter().copied().map(NodeId).collect());
            let away = Away { lost: nodes(lost), dead: nodes(dead) };
            let tell = |group: GroupId, _: &Away| {
                told.borrow_mut().push(group.0);
                report(group.0, 4)
            };
            resting.follow(away, at, [GroupId(2)].into(), || [1, 2, 3].map(GroupId).into(), tell);
            told.take()
        };
        assert_eq!(look((&[], &[]), begin), [1, 2, 3], "nothing was made yet");
        assert_eq!(look((&[], &[]), begin + ANEW_EVERY / 2), [2]);
        assert_eq!(look((&[3], &[]), begin + ANEW_EVERY / 2), [1, 2, 3]);
        assert_eq!(look((&[3], &[3]), begin + ANEW_EVERY), [1, 2, 3], "others stand in for it");
        assert_eq!(look((&[3], &[3]), begin + ANEW_EVERY), [2]);
        assert_eq!(look((&[], &[3]), begin + ANEW_EVERY), [1, 2, 3], "it answers again");
        assert_eq!(look((&[], &[3]), begin + ANEW_EVERY * 2), [1, 2, 3]);
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
        let tell = |group: GroupId, away: &Away| {
            let replicas = super::super::members(&status, &BTreeSet::new(), &away.lost);
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
            resting.follow(
                Away { lost: Arc::new(lost), ..Away::default() },
                begin,
                changed,
                || [1, 2].map(GroupId).into(),
                tell,
            );
            let said = |node: u64| {
                let replicas = resting.reports.values().flat_map(|told| &told.report.replicas);
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

        fn cpu(&self, _: GroupId) -> Duration {
            Duration::ZERO
        }

        fn facts(&self) -> pb::NodeFacts {
            pb::NodeFacts::default()
        }
    }

    /// Groups, and how large they are said to be.
    fn sizes(reports: &[pb::GroupReport]) -> Vec<(u64, u64)> {
        let size = |report: &pb::GroupReport| report.load.and_then(|load| load.bytes).expect("measured");
        reports.iter().map(|report| (report.group, size(report))).collect()
    }

    #[test]
    fn what_has_changed_is_said_until_it_was_heard() {
        let begin = Seams::real().clock.now();
        let local = Sizes::default();
        let mut resting = of(&[(1, 4), (2, 5)]);
        let first = resting.digest();
        let say = |resting: &mut AtRest, known| match resting.say(known, &local, begin) {
            Say::Nothing => (None, Vec::new(), Vec::new()),
            Say::Changes { since, reports, gone } => (Some(since), sizes(&reports), gone),
            Say::All(reports) => (None, sizes(&reports), Vec::new()),
        };
        assert_eq!(say(&mut resting, None), (None, vec![(1, 1), (2, 2)], vec![]));
        resting.said();
        assert_eq!(resting.say(Some(first), &local, begin), Say::Nothing);
        // One wakes, another comes to rest; that there is nothing new of the third is no news.
        resting.set(GroupId(1), None);
        resting.set(GroupId(2), report(2, 5));
        resting.set(GroupId(3), report(3, 7));
        assert_eq!(say(&mut resting, Some(first)), (Some(first), vec![(3, 3)], vec![1]));
        // The leader did not answer; and the one rests again.
        resting.set(GroupId(1), report(1, 6));
        assert_eq!(say(&mut resting, Some(first)), (Some(first), vec![(1, 4), (3, 3)], vec![]));
        resting.said();
        let second = resting.digest();
        assert_eq!(resting.say(Some(second), &local, begin), Say::Nothing);
        assert_eq!(
            say(&mut resting, None),
            (None, vec![(1, 4), (2, 2), (3, 3)], vec![]),
            "to another leader"
        );
    }

    #[test]
    fn sizes_are_asked_for_twice_and_are_said_without_being_news() {
        let begin = Seams::real().clock.now();
        let local = Sizes::default();
        let mut resting = of(&[(1, 4), (2, 5)]);
        assert!(matches!(resting.say(None, &local, begin), Say::All(all) if sizes(&all) == [(1, 1), (2, 2)]));
        resting.said();
        let digest = resting.digest();
        // Made anew, and asleep all the while.
        resting.set(GroupId(1), report(1, 4));
        assert_eq!(resting.say(Some(digest), &local, begin + SIZE_AGAIN / 2), Say::Nothing);
        // It was awake, and will be looked at again later than the other.
        resting.set(GroupId(1), report(1, 6));
        let second = begin + SIZE_AGAIN / 2;
        let said = resting.say(Some(digest), &local, second);
        assert!(matches!(said, Say::Changes { reports, .. } if sizes(&reports) == [(1, 3)]));
        resting.said();
        let digest = resting.digest();
        let said = resting.say(Some(digest), &local, begin + SIZE_AGAIN);
        assert!(
            matches!(said, Say::Changes { since, reports, .. } if since == digest && sizes(&reports) == [(2, 4)])
        );
        resting.said();
        assert_eq!(resting.digest(), digest, "sizes are no news");
        let said = resting.say(Some(digest), &local, second + SIZE_AGAIN);
        assert!(matches!(said, Say::Changes { reports, .. } if sizes(&reports) == [(1, 5)]));
        resting.said();
        assert_eq!(resting.say(Some(digest), &local, second + SIZE_AGAIN * 9), Say::Nothing);
    }
}
