//! Has leaders close timestamps: looks again and again which of the shards that this node leads have something to close.
//!
//! What there is to close `shard/closing.rs` knows, and how it is done `command/close.rs`. Shards that are neither written nor
//! read in the past are looked at, and no more.
//!
//! A shard may be stuck: closing waits for all of its latches, and one of them may be held until the fate of a proposal is
//! known. That is its own affair. It keeps one place until it is given up ([`CLOSE_LIMIT`]), and the others are closed at their
//! pace meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use storage::ids::{GroupId, Timestamp};
use storage::seam::Seams;

use super::core::Core;
use crate::server::ShardServer;

/// So many looks are taken in a lag.
const LOOKS_PER_LAG: u32 = 4;
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How soon it is noticed that closing was switched on.
const LOOK_WHEN_OFF: Duration = Duration::from_secs(1);
/// Shards that are closed at once. The oracle's answers to them are asked for in one request.
const CLOSED_AT_ONCE: usize = 32;
/// How long closing one may take: for its latches, and a log entry.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A duration as a difference of timestamps.
pub(super) fn behind(lag: Duration) -> u64 {
    let ticks = (lag.as_nanos() << Timestamp::COUNTER_BITS) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Closes what this node leads, until the node stops.
pub(super) async fn close(core: Weak<Core>, server: Arc<ShardServer>) {
    let Some(seams) = core.upgrade().map(|core| core.seams.clone()) else { return };
    let look = || {
        let core = core.upgrade()?;
        let lag = core.directory.closed_lag();
        let due = if lag.is_zero() { Vec::new() } else { due(&core, &server) };
        Some(Look { due, lag })
    };
    let close = |group: GroupId, lag: Duration| {
        let (server, seams) = (server.clone(), seams.clone());
        async move {
            let body = Some(Ask::Close(pb::Close { behind: behind(lag), wanted: false }));
            let timeout_ms = CLOSE_LIMIT.as_millis() as u32;
            let request = pb::Request { group: group.0, timeout_ms, body, ..pb::Request::default() };
            tokio::select! {
                // One that fails is due again.
                _ = server.handle(request) => {}
                () = seams.sleep(CLOSE_LIMIT) => {}
            }
        }
    };
    keep_closing(&seams, look, close).await;
}

/// What a look finds.
struct Look {
    /// Shards with something to close.
    due: Vec<GroupId>,
    /// How far behind the present. Zero: closing is switched off.
    lag: Duration,
}

impl Look {
    /// Until the next one.
    fn pause(&self) -> Duration {
        match self.lag.is_zero() {
            true => LOOK_WHEN_OFF,
            false => (self.lag / LOOKS_PER_LAG).clamp(LOOK_MIN, LOOK_MAX),
        }
    }
}

fn due(core: &Core, server: &ShardServer) -> Vec<GroupId> {
    let now = core.seams.clock.now();
    let due: Vec<GroupId> = server
        .registry()
        .led()
        .iter()
        .filter(|shard| shard.leadership().is_some_and(|leadership| leadership.closing.is_due(now)))
        .map(|shard| shard.group())
        .collect();
    metrics::gauge!("flotilla_shards_closing").set(due.len() as f64);
    due
}

/// Looks and closes until there is nothing to look at any more. No look waits for what an earlier one has begun.
async fn keep_closing<F: Future<Output = ()>>(
    seams: &Seams,
    mut look: impl FnMut() -> Option<Look>,
    close: impl Fn(GroupId, Duration) -> F,
) {
    let mut turns = Turns::default();
    let mut under_way = FuturesUnordered::new();
    while let Some(found) = look() {
        let mut pause = pin!(seams.beat(found.pause()));
        turns.look(found.due);
        loop {
            while let Some(group) = turns.begin() {
                let closed = close(group, found.lag);
                under_way.push(async move {
                    closed.await;
                    group
                });
            }
            tokio::select! {
                () = &mut pause => break,
                Some(group) = under_way.next(), if !under_way.is_empty() => turns.done(group),
            }
        }
    }
}

/// Whose turn it is.
///
/// Invariants: a shard waits, or is under way, or neither; at most [`CLOSED_AT_ONCE`] are under way.
#[derive(Default)]
struct Turns {
    under_way: BTreeSet<GroupId>,
    /// Those that have waited longest first.
    waiting: VecDeque<GroupId>,
}

impl Turns {
    /// These are due now, and no others.
    fn look(&mut self, due: Vec<GroupId>) {
        let mut due: BTreeSet<GroupId> = due.into_iter().collect();
        // Whoever waits already keeps its place; whoever is under way is not begun twice.
        self.waiting.retain(|group| due.remove(group));
        self.waiting.extend(due.into_iter().filter(|group| !self.under_way.contains(group)));
    }

    /// One whose turn it is; it is under way from now on.
    fn begin(&mut self) -> Option<GroupId> {
        if self.under_way.len() >= CLOSED_AT_ONCE {
            return None;
        }
        let group = self.waiting.pop_front()?;
        let is_new = self.under_way.insert(group);
        debug_assert!(is_new, "{group} is closed already");
        Some(group)
    }

    /// It is closed, or was given up.
    fn done(&mut self, group: GroupId) {
        self.under_way.remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn lags_are_differences_of_timestamps() {
        assert_eq!(behind(Duration::from_secs(3)), 3_000 << Timestamp::COUNTER_BITS);
        assert_eq!(behind(Duration::from_nanos(4)), 1);
        assert_eq!(behind(Duration::ZERO), 0);
    }

    /// When looks waited for what the one before had begun, a shard with a latch that nobody let go held up all the others of
    /// its node, for as long as it takes to give one up, again and again.
    #[tokio::test]
    async fn nobody_waits_for_a_shard_that_is_stuck() {
        let (stuck, quick) = (GroupId(1), GroupId(2));
        let begun: Mutex<BTreeMap<GroupId, u32>> = Mutex::default();
        let times = |group: GroupId| begun.lock().get(&group).copied().unwrap_or(0);
        let look = || (times(quick) < 5).then(|| Look { due: vec![stuck, quick], lag: LOOK_MIN });
        let close = |group: GroupId, _: Duration| {
            *begun.lock().entry(group).or_default() += 1;
            async move {
                if group == stuck {
                    std::future::pending::<()>().await;
                }
            }
        };
        let seams = Seams::real();
        tokio::select! {
            () = keep_closing(&seams, look, close) => {}
            () = seams.sleep(Duration::from_secs(30)) => panic!("the other one waits"),
        }
        assert_eq!((times(stuck), times(quick)), (1, 5));
    }

    #[test]
    fn so_many_at_once_and_whoever_has_waited_longest_is_next() {
        let groups = |range: std::ops::Range<u64>| range.map(GroupId).collect::<Vec<_>>();
        let begin = |turns: &mut Turns| std::iter::from_fn(|| turns.begin()).collect::<Vec<_>>();
        let all = CLOSED_AT_ONCE as u64;
        let mut turns = Turns::default();
        turns.look(groups(0..all + 2));
        assert_eq!(begin(&mut turns), groups(0..all));
        // Nothing is begun twice, and those that wait keep their places.
        turns.look(groups(0..all + 4));
        assert_eq!(begin(&mut turns), []);
        turns.done(GroupId(3));
        assert_eq!(begin(&mut turns), [GroupId(all)]);
        // One that was done is due again, after those that have waited; one that is due no more does not wait.
        turns.look([groups(0..all + 2), groups(all + 3..all + 4)].concat());
        (0..all).for_each(|group| turns.done(GroupId(group)));
        assert_eq!(begin(&mut turns), [GroupId(all + 1), GroupId(all + 3), GroupId(3)]);
    }
}
