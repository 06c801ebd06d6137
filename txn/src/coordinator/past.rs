//! Reading the past without leaders, and having leaders close it.
//!
//! The other side is in `command/close.rs` and `command/past.rs`; when a leader has what to close, `shard/closing.rs` knows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, Timestamp};

use super::core::Core;
use crate::descriptor::ShardDescriptor;
use crate::router::{Repeat, RouteError};
use crate::server::ShardServer;

/// Leaders look so many times in a lag whether there is something to close.
const LOOKS_PER_LAG: u32 = 4;
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How soon it is noticed that closing was switched on.
const LOOK_WHEN_OFF: Duration = Duration::from_secs(1);
/// Shards that are closed at once.
const CLOSED_AT_ONCE: usize = 32;
/// How long closing one may take: for its latches, and a log entry.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A leader is told so often that somebody reads the past of its shard. Less than it goes by that (`shard::closing::WANTED_FOR`).
const TELL_EVERY: Duration = Duration::from_secs(10);
/// So many shards are remembered for that.
const TOLD_MAX: usize = 10_000;

/// Which leaders were told when that their shards' past is read from this node.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<GroupId, Instant>>);

impl Told {
    /// Whether it is time to tell (again).
    fn is_due(&self, group: GroupId, now: Instant) -> bool {
        let mut told = self.0.lock();
        if told.get(&group).is_some_and(|at| now.saturating_duration_since(*at) < TELL_EVERY) {
            return false;
        }
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(group, now);
        true
    }
}

impl Core {
    /// A read: of the past, from any replica that can answer it; otherwise from the leader.
    pub(super) async fn ask_read(
        self: &Arc<Self>,
        shard: &Arc<ShardDescriptor>,
        ask: Ask,
        past: bool,
        deadline: Instant,
    ) -> Result<Answer, RouteError> {
        if past && !self.directory.closed_lag().is_zero() {
            self.tell(shard);
            if let Some(answer) = self.router.ask_any(shard, &ask, deadline).await? {
                return Ok(answer);
            }
        }
        self.router.ask(shard, ask, Repeat::Harmless, deadline).await
    }

    /// The leader is to go on closing, though nothing may be written. Nobody waits for it; a shard at rest is left alone.
    fn tell(self: &Arc<Self>, shard: &Arc<ShardDescriptor>) {
        if !self.past_told.is_due(shard.group, self.seams.clock.now()) {
            return;
        }
        let (core, shard) = (self.clone(), shard.clone());
        self.seams.spawn("tell of the past", async move {
            let ask = Ask::Close(pb::Close { behind: behind(core.directory.closed_lag()), wanted: true });
            core.router.tell_leader(&shard, ask, CLOSE_LIMIT).await;
        });
    }
}

/// A duration as a difference of timestamps.
fn behind(lag: Duration) -> u64 {
    let ticks = (lag.as_nanos() << Timestamp::COUNTER_BITS) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Closes what this node leads, until the node stops. Shards that are neither written nor read in the past are looked at, and no more.
pub async fn close(core: Weak<Core>, server: Arc<ShardServer>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        let lag = core.directory.closed_lag();
        if !lag.is_zero() {
            close_due(&core, &server, lag).await;
        }
        let pause = match lag.is_zero() {
            true => LOOK_WHEN_OFF,
            false => (lag / LOOKS_PER_LAG).clamp(LOOK_MIN, LOOK_MAX),
        };
        let seams = core.seams.clone();
        drop(core);
        seams.beat(pause).await;
    }
}

async fn close_due(core: &Core, server: &ShardServer, lag: Duration) {
    let now = core.seams.clock.now();
    let due: Vec<GroupId> = server
        .registry()
        .led()
        .iter()
        .filter(|shard| shard.leadership().is_some_and(|leadership| leadership.closing.is_due(now)))
        .map(|shard| shard.group())
        .collect();
    metrics::gauge!("flotilla_shards_closing").set(due.len() as f64);
    // Together: the oracle's answers are asked for in one request.
    let close = |group: GroupId| async move {
        let body = Some(Ask::Close(pb::Close { behind: behind(lag), wanted: false }));
        let timeout_ms = CLOSE_LIMIT.as_millis() as u32;
        let request = pb::Request { group: group.0, timeout_ms, body, ..pb::Request::default() };
        tokio::select! {
            // One that fails is due again.
            _ = server.handle(request) => {}
            () = core.seams.sleep(CLOSE_LIMIT) => {}
        }
    };
    futures::stream::iter(due).map(close).buffer_unordered(CLOSED_AT_ONCE).collect::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_are_differences_of_timestamps() {
        assert_eq!(behind(Duration::from_secs(3)), 3_000 << Timestamp::COUNTER_BITS);
        assert_eq!(behind(Duration::from_nanos(4)), 1);
        assert_eq!(behind(Duration::ZERO), 0);
    }
}
