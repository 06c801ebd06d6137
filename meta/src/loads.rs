//! What shards are asked, across changes of their leaders.
//!
//! Whoever begins to lead counts from nothing, and has a figure after some seconds. Until then the shard is taken to be asked as it was:
//! otherwise it would look cold on each move, and be moved, or merged, on account of that.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::meta::GroupLoad;
use storage::ids::GroupId;

/// A leader has counted for long enough.
const COUNTED: Duration = Duration::from_secs(12);
/// What nobody has reported for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Between two looks for what is to be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// The last loads that were counted.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    known: HashMap<GroupId, (Instant, GroupLoad)>,
    swept: Option<Instant>,
}

/// Whether a shard that is led like that since then has no figures of its own yet.
pub(crate) fn is_young(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < COUNTED
}

fn requests(load: &GroupLoad) -> u32 {
    load.reads_per_second.saturating_add(load.writes_per_second)
}

impl Loads {
    /// A leader, since that moment, has reported this.
    pub fn note(&mut self, group: GroupId, load: Option<GroupLoad>, since: Instant, now: Instant) {
        let Some(load) = load else { return };
        if requests(&load) > 0 || !is_young(since, now) {
            self.known.insert(group, (now, load));
        } else if let Some((seen, _)) = self.known.get_mut(&group) {
            *seen = now;
        }
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.known.retain(|_, (seen, _)| now.saturating_duration_since(*seen) < FORGOTTEN);
        }
    }

    /// What the group is asked, as far as is known: what is reported, or what was before.
    pub fn of(&self, group: GroupId, reported: GroupLoad, since: Instant, now: Instant) -> GroupLoad {
        match self.known.get(&group) {
            Some((_, before)) if requests(&reported) == 0 && is_young(since, now) => GroupLoad {
                reads_per_second: before.reads_per_second,
                writes_per_second: before.writes_per_second,
                cpu_ms_per_second: before.cpu_ms_per_second,
                ..reported
            },
            _ => reported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(reads: u32) -> GroupLoad {
        let bytes = Some(u64::from(reads));
        GroupLoad { reads_per_second: reads, bytes, writes_per_second: 0, cpu_ms_per_second: reads / 2 }
    }

    #[test]
    fn a_new_leader_is_asked_as_its_predecessor_until_it_has_counted() {
        let begin = storage::seam::Seams::real().clock.now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (mut loads, group) = (Loads::default(), GroupId(7));
        loads.note(group, Some(load(500)), at(0), at(20));
        // Another one leads since 21.
        loads.note(group, Some(load(0)), at(21), at(22));
        assert_eq!(loads.of(group, load(0), at(21), at(22)).reads_per_second, 500);
        assert_eq!(loads.of(group, load(0), at(21), at(22)).cpu_ms_per_second, 250);
        assert_eq!(loads.of(group, load(0), at(21), at(22)).bytes, Some(0));
        loads.note(group, Some(load(80)), at(21), at(27));
        assert_eq!(loads.of(group, load(80), at(21), at(27)), load(80));
        // It is really asked nothing.
        loads.note(group, Some(load(0)), at(21), at(40));
        assert_eq!(loads.of(group, load(0), at(21), at(40)), load(0));
        assert_eq!(loads.of(group, load(0), at(41), at(42)), load(0));
        // Nobody has known anything of it for long.
        loads.note(GroupId(8), Some(load(1)), at(0), at(200));
        assert!(!loads.known.contains_key(&group));
    }
}
