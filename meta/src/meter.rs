//! How large the groups of a node are and what they are asked: what its reports say for placement.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::meta as pb;
use storage::ids::GroupId;

use crate::reporter::Local;

/// Requests are counted over about so long: placement is not to follow every gust.
const RATE_EVERY: Duration = Duration::from_secs(5);
/// Sizes change slowly, and asking for them takes a look at the tables' indexes.
const SIZE_EVERY: Duration = Duration::from_secs(10);
/// In one report, at most so many sizes are measured: the others have their turn in the next.
const SIZES_MAX: usize = 64;

/// What was measured of a group.
#[derive(Clone, Copy)]
struct Measured {
    /// Requests so far, and when they were counted.
    counted: (u64, u64),
    counted_at: Instant,
    /// … and the processor time that they had taken by then.
    cpu: Duration,
    /// When its size was measured, and at which epoch: a shard that has changed its range has another one.
    sized: Option<(Instant, u64)>,
    load: pb::GroupLoad,
}

/// Measures the groups that this node leads.
#[derive(Default)]
pub(crate) struct Meter {
    groups: HashMap<GroupId, Measured>,
}

impl Meter {
    /// Fills in the loads of the reported groups; forgets the others.
    pub fn measure(&mut self, local: &dyn Local, now: Instant, groups: &mut [pb::GroupReport]) {
        let known = std::mem::take(&mut self.groups);
        let mut sizes = 0;
        for report in groups.iter_mut() {
            let id = GroupId(report.group);
            let (counted, cpu) = (local.requests(id), local.cpu(id));
            let (sized, load) = Default::default();
            let fresh = Measured { counted, counted_at: now, cpu, sized, load };
            let mut measured = known.get(&id).copied().unwrap_or(fresh);
            let elapsed = now - measured.counted_at;
            if elapsed >= RATE_EVERY {
                let rate = |now: u64, then: u64| {
                    let per_second = now.saturating_sub(then) as f64 / elapsed.as_secs_f64();
                    per_second.round() as u32
                };
                measured.load.reads_per_second = rate(counted.0, measured.counted.0);
                measured.load.writes_per_second = rate(counted.1, measured.counted.1);
                let took = |cpu: Duration| cpu.as_millis() as u64;
                measured.load.cpu_ms_per_second = rate(took(cpu), took(measured.cpu));
                (measured.counted, measured.counted_at, measured.cpu) = (counted, now, cpu);
            }
            let epoch = report.descriptor.as_ref().map_or(0, |descriptor| descriptor.epoch);
            if measured.sized.is_some_and(|(_, of)| of != epoch) {
                (measured.load.bytes, measured.sized) = (None, None);
            }
            if measured.sized.is_none_or(|(at, _)| now - at >= SIZE_EVERY) && sizes < SIZES_MAX {
                sizes += 1;
                measured.load.bytes = local.bytes(id);
                measured.sized = Some((now, epoch));
            }
            report.load = Some(measured.load);
            self.groups.insert(id, measured);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use txn::ShardDescriptor;

    use super::*;

    #[derive(Default)]
    struct Shards {
        requests: AtomicU64,
        sized: AtomicU64,
    }

    impl Local for Shards {
        fn descriptor(&self, _: GroupId) -> Option<ShardDescriptor> {
            None
        }

        fn bytes(&self, group: GroupId) -> Option<u64> {
            self.sized.fetch_add(1, Ordering::Relaxed);
            Some(group.0 * 1_000)
        }

        fn frozen(&self, _: GroupId) -> Option<(GroupId, u64)> {
            None
        }

        fn requests(&self, _: GroupId) -> (u64, u64) {
            let requests = self.requests.load(Ordering::Relaxed);
            (requests, requests / 10)
        }

        fn cpu(&self, _: GroupId) -> Duration {
            Duration::from_micros(250 * self.requests.load(Ordering::Relaxed))
        }

        fn facts(&self) -> pb::NodeFacts {
            pb::NodeFacts::default()
        }
    }

    fn reports(epoch: u64) -> Vec<pb::GroupReport> {
        let descriptor = Some(proto::common::ShardDescriptor { epoch, ..Default::default() });
        vec![pb::GroupReport { group: 7, descriptor, ..Default::default() }]
    }

    #[test]
    fn rates_are_counted_over_seconds_and_sizes_seldom() {
        let (shards, mut meter) = (Shards::default(), Meter::default());
        let begin = storage::seam::Seams::real().clock.now();
        let mut at = |seconds: u64, requests: u64| {
            shards.requests.store(requests, Ordering::Relaxed);
            let mut groups = reports(1);
            meter.measure(&shards, begin + Duration::from_secs(seconds), &mut groups);
            let load = groups[0].load.expect("measured");
            assert_eq!(load.cpu_ms_per_second, load.reads_per_second / 4);
            (load.reads_per_second, load.writes_per_second, load.bytes)
        };
        assert_eq!(at(0, 1_000_000), (0, 0, Some(7_000)));
        assert_eq!(at(1, 1_001_000), (0, 0, Some(7_000)));
        assert_eq!(at(5, 1_005_000), (1_000, 100, Some(7_000)));
        assert_eq!(at(9, 1_006_000), (1_000, 100, Some(7_000)));
        assert_eq!(at(10, 1_010_000), (1_000, 100, Some(7_000)));
        assert_eq!(at(20, 1_010_000), (0, 0, Some(7_000)));
        assert_eq!(shards.sized.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_size_is_of_one_range() {
        let (shards, mut meter) = (Shards::default(), Meter::default());
        let begin = storage::seam::Seams::real().clock.now();
        let mut sized = |epoch: u64, others: u64| {
            let other = |group| pb::GroupReport { group, ..Default::default() };
            let mut groups: Vec<_> = (100..100 + others).map(other).chain(reports(epoch)).collect();
            meter.measure(&shards, begin, &mut groups);
            (shards.sized.swap(0, Ordering::Relaxed), groups.last().and_then(|report| report.load?.bytes))
        };
        assert_eq!(sized(1, 0), (1, Some(7_000)));
        assert_eq!(sized(1, 0), (0, Some(7_000)));
        assert_eq!(sized(2, 0), (1, Some(7_000)), "it was cut");
        // When it cannot be measured at once, nothing is said rather than what was.
        let max = SIZES_MAX as u64;
        assert_eq!(sized(3, max), (max, None));
        assert_eq!(sized(3, max), (1, Some(7_000)));
    }
}
