//! Groups that nodes want compared at once, and when they were.
//!
//! A node says so in each of its reports, as long as it has a reason: its replica has failed, or has met damage in its rows. So a leader of the meta-group that
//! begins to lead knows of them within a second, and what a comparison could not mend is tried again, but not all the time: it reads all rows
//! of all replicas.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use storage::ids::GroupId;

/// A node that has a reason says so once a second.
const NAMED_FOR: Duration = Duration::from_secs(10);
/// Between two comparisons of a group for that reason.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// See the module. What the leader of a term knows.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    known: BTreeMap<GroupId, Suspect>,
}

#[derive(Debug)]
struct Suspect {
    named: Instant,
    compared: Option<Instant>,
}

impl Suspects {
    /// A node has named these.
    pub fn name(&mut self, groups: &[u64], now: Instant) {
        for group in groups {
            let suspect = self.known.entry(GroupId(*group)).or_insert(Suspect { named: now, compared: None });
            suspect.named = now;
        }
    }

    /// The one to be compared now: of those that may be, the one that was not for longest.
    pub fn next(&mut self, now: Instant) -> Option<GroupId> {
        let is_recent = |at: Instant, limit| now.saturating_duration_since(at) < limit;
        let rests = |suspect: &Suspect| suspect.compared.is_some_and(|at| is_recent(at, AGAIN_AFTER));
        self.known.retain(|_, suspect| is_recent(suspect.named, NAMED_FOR) || rests(suspect));
        let wanted = self.known.iter_mut().filter(|(_, suspect)| !rests(suspect));
        let (group, suspect) = wanted.min_by_key(|(_, suspect)| suspect.compared)?;
        suspect.compared = Some(now);
        Some(*group)
    }
}

#[cfg(test)]
mod tests {
    use storage::seam::Seams;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_suspect_is_compared_at_once_and_then_once_in_a_while() {
        let begin = Seams::real().clock.now();
        let mut suspects = Suspects::default();
        assert_eq!(suspects.next(begin), None);
        suspects.name(&[7, 9], begin);
        assert_eq!(suspects.next(begin), Some(GroupId(7)));
        assert_eq!(suspects.next(begin), Some(GroupId(9)));
        assert_eq!(suspects.next(begin), None);
        for second in 1..=59 {
            suspects.name(&[7], begin + seconds(second));
            assert_eq!(suspects.next(begin + seconds(second)), None, "after {second} s");
        }
        suspects.name(&[7], begin + seconds(60));
        assert_eq!(suspects.next(begin + seconds(60)), Some(GroupId(7)), "it is wanted still");
        assert_eq!(suspects.next(begin + seconds(60)), None, "and the other one is not any more");
    }

    #[test]
    fn who_was_mended_is_forgotten_and_who_is_named_in_turns_is_not_compared_more_often() {
        let begin = Seams::real().clock.now();
        let mut suspects = Suspects::default();
        suspects.name(&[7], begin);
        assert_eq!(suspects.next(begin), Some(GroupId(7)));
        // Nobody has named it for longer than a report takes.
        assert_eq!(suspects.next(begin + seconds(30)), None);
        suspects.name(&[7], begin + seconds(31));
        assert_eq!(suspects.next(begin + seconds(31)), None);
        assert_eq!(suspects.next(begin + seconds(200)), None);
        assert!(suspects.known.is_empty());
    }
}
