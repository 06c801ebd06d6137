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
/// Invariant: `digest` is the sum of the reports' hashes, whatever the order in which they came; it has not changed since
/// [`AtRest::said`] unless something is in `unsaid`.
#[derive(Default)]
pub(super) struct AtRest {
    reports: BTreeMap<GroupId, Told>,
    digest: u64,
    /// Groups of which something is to be said, or that they rest no more, since it was last said.
    unsaid: BTreeSet<GroupId>,
    /// Groups whose size is to be asked for again, and when.
    to_size: BTreeMap<GroupId, Instant>,
    /// The nodes that did not answer when all was made.
    lost: Arc<BTreeSet<NodeId>>,
    made: Option<Instant>,
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

    /// Whether all of it has to be made anew.
    pub fn is_stale(&self, lost: &BTreeSet<NodeId>, now: Instant) -> bool {
        *self.lost != *lost || self.made.is_none_or(|at| now.saturating_duration_since(at) >= ANEW_EVERY)
    }

    /// All of it is made anew, while these nodes don't answer.
    pub fn made_with(&mut self, lost: Arc<BTreeSet<NodeId>>, now: Instant) {
        self.lost = lost;
        self.made = Some(now);
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
    use std::sync::atomic::{AtomicU64, Ordering};

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
        let nobody = Arc::new(BTreeSet::new());
        let one = Arc::new(BTreeSet::from([NodeId(3)]));
        let mut resting = AtRest::default();
        assert!(resting.is_stale(&nobody, begin), "nothing was made yet");
        resting.made_with(nobody.clone(), begin);
        assert!(!resting.is_stale(&nobody, begin + ANEW_EVERY / 2));
        assert!(resting.is_stale(&one, begin + ANEW_EVERY / 2));
        resting.made_with(one.clone(), begin + ANEW_EVERY / 2);
        assert!(!resting.is_stale(&one, begin + ANEW_EVERY));
        assert!(resting.is_stale(&nobody, begin + ANEW_EVERY), "it answers again");
        assert!(resting.is_stale(&one, begin + ANEW_EVERY * 2));
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
