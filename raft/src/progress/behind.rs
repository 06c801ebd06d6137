//! Whether this node is behind: see [`super`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use storage::ids::GroupId;

use crate::core::Core;
use crate::group::Group;
use crate::multi::MultiRaft;

/// A voter that lacks more committed entries than these is behind, …
const LACKS_MAX: u64 = 1000;
/// … and one that has not applied so many bytes of those that it has.
const LACKS_BYTES_MAX: u64 = 8 << 20;
/// A node that is written to a lot lacks much for a moment now and then. It says so after so many looks that found it lacking.
const LOOKS_MIN: u32 = 3;

/// What the looks have found. A look is one [`Behind::see`] for each replica, and then [`Behind::end_look`].
#[derive(Default)]
pub(super) struct Behind {
    /// The voters that lack much: as of the last look, …
    known: HashMap<GroupId, Lagging>,
    /// … and as of the one that goes on.
    seen: HashMap<GroupId, Lagging>,
    /// One of those comes closer to what it lacks.
    lacks: bool,
    /// How many looks in a row have found that.
    looks: u32,
}

impl Behind {
    /// This process has slept until now, and nothing could come closer.
    pub fn slept(&mut self, now: Instant) {
        self.known.values_mut().for_each(|lagging| lagging.since = now);
    }

    /// Looks at a replica, which has applied so much.
    pub fn see(&mut self, multi: &MultiRaft, group: &Group, core: &Core, applied: Option<u64>, now: Instant) {
        let installs = group.shared().is_installing();
        let (committed, last) = {
            let metrics = core.metrics.borrow_watched();
            (metrics.cluster_committed.map(|id| id.index), metrics.last_log_index)
        };
        let lacks = installs || lacks_much(core, committed, applied);
        // (A learner is expected to.)
        if !lacks || core.voters().iter().all(|(replica, _)| *replica != group.replica()) {
            return;
        }
        let at = Lagging::at(committed, last, applied);
        let mut lagging = self.known.remove(&group.id()).unwrap_or(Lagging { at, since: now });
        let moves = lagging.moves(at, now, multi.options().apply_stall);
        self.lacks |= moves || installs || multi.arrivals().is_receiving(group.id());
        self.seen.insert(group.id(), lagging);
    }

    /// All have been looked at. Whether the node is behind.
    pub fn end_look(&mut self) -> bool {
        self.known = std::mem::take(&mut self.seen);
        self.looks = match std::mem::take(&mut self.lacks) {
            true => self.looks.saturating_add(1),
            false => 0,
        };
        self.looks >= LOOKS_MIN
    }
}

/// How many entries from the one after `index` up to `committed` there are.
fn missing(committed: Option<u64>, index: Option<u64>) -> u64 {
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    next(committed).saturating_sub(next(index))
}

fn lacks_much(core: &Core, committed: Option<u64>, applied: Option<u64>) -> bool {
    let entries = missing(committed, applied);
    let after = |index: Option<u64>| core.log.bytes_after(index.unwrap_or(0));
    let bytes = || after(applied).saturating_sub(after(committed));
    entries > LACKS_MAX || (entries > 0 && bytes() > LACKS_BYTES_MAX)
}

/// A voter that lacks much. One that comes no closer (nobody sends it anything, for its group has no quorum, or what it applies hangs) is no
/// reason to hand its node nothing: that may last for ever.
struct Lagging {
    at: Reached,
    since: Instant,
}

/// The last entry that is applied; and the last one in the log, if that lacks much. (A log that is whole grows with what is written, whether or
/// not anything is applied.)
type Reached = (Option<u64>, Option<u64>);

impl Lagging {
    fn at(committed: Option<u64>, last: Option<u64>, applied: Option<u64>) -> Reached {
        (applied, last.filter(|_| missing(committed, last) > LACKS_MAX))
    }

    /// Whether it has come closer within `limit`.
    fn moves(&mut self, at: Reached, now: Instant, limit: Duration) -> bool {
        if self.at != at {
            *self = Self { at, since: now };
        }
        now.saturating_duration_since(self.since) < limit
    }
}

#[cfg(test)]
mod tests {
    use storage::seam::Seams;

    use super::*;

    #[test]
    fn it_is_said_after_some_looks_and_unsaid_after_one() {
        let mut behind = Behind::default();
        let mut look = |lacks: bool| {
            behind.lacks = lacks;
            behind.end_look()
        };
        assert!(!look(true) && !look(true) && !look(false));
        assert!(!look(true) && !look(true) && look(true) && look(true));
        assert!(!look(false) && !look(true));
    }

    #[test]
    fn one_that_comes_no_closer_does_not_count() {
        const LIMIT: Duration = Duration::from_secs(5);
        let start = Seams::real().clock.now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let at = |last, applied| Lagging::at(Some(10_000), Some(last), Some(applied));
        let mut lagging = Lagging { at: at(10, 10), since: start };
        assert!(lagging.moves(at(10, 10), after(4), LIMIT));
        assert!(!lagging.moves(at(10, 10), after(5), LIMIT), "nobody sends it anything");
        assert!(lagging.moves(at(11, 10), after(6), LIMIT), "it gets what its log lacks");
        assert!(lagging.moves(at(10_000, 10), after(7), LIMIT));
        assert!(!lagging.moves(at(10_500, 10), after(12), LIMIT), "its log grows, and it applies nothing");
        assert!(lagging.moves(at(10_500, 11), after(13), LIMIT));
    }
}
