//! Reading the past without leaders, and telling them that somebody does.
//!
//! The other side is in `command/past.rs`; leaders close what is to be read in `closer.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::GroupId;

use super::closer::{CLOSE_LIMIT, behind};
use super::core::Core;
use crate::descriptor::ShardDescriptor;
use crate::router::{Repeat, RouteError};

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
