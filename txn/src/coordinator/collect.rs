//! Garbage collection: holds the safe point back for the snapshots that are open here, and has the shards that this
//! node leads collected.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::core::{Core, unexpected};
use super::txn::Txn;
use crate::Error;
use crate::descriptor::{range_from_pb, range_to_pb};
use crate::router::{Repeat, RouteError};
use crate::server::ShardServer;
use crate::shard::Shard;

/// How often the oldest open snapshot is told to the directory.
const HOLD_EVERY: Duration = Duration::from_secs(1);
/// How often shards are looked at that this node leads.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// … and, every so many times, all others: nothing is written to them, and there may be thousands.
const RESTING_EVERY: u32 = 15;
/// Between two steps: the rest of the time belongs to the clients.
const PAUSE: Duration = Duration::from_millis(20);
/// Versions that one step looks at.
const STEP_VERSIONS: u32 = 2048;

/// The transactions of this node that have not ended.
#[derive(Default)]
pub struct Open(Mutex<HashMap<TxnId, Weak<Txn>>>);

impl Open {
    /// A transaction begins.
    pub fn add(&self, txn: TxnId, handle: Weak<Txn>) {
        self.0.lock().insert(txn, handle);
    }

    /// It is gone.
    pub fn remove(&self, txn: TxnId) {
        self.0.lock().remove(&txn);
    }

    /// The oldest snapshot among them.
    fn oldest(&self) -> Option<Timestamp> {
        let open: Vec<Arc<Txn>> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        // Dropped after the lock was let go: the last reference to a transaction removes it here.
        open.iter().filter_map(|txn| txn.snapshot_if_any()).min()
    }
}

/// Keeps the directory told of the oldest open snapshot, until the node stops.
pub async fn hold_back(core: Weak<Core>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        core.directory.hold(core.open.oldest());
        let seams = core.seams.clone();
        drop(core);
        seams.beat(HOLD_EVERY).await;
    }
}

/// Collects the shards that this node leads, until the node stops.
pub async fn run(core: Weak<Core>, server: Arc<ShardServer>) {
    let mut round = 0_u32;
    loop {
        let Some(core) = core.upgrade() else { return };
        let registry = server.registry();
        let shards = if round.is_multiple_of(RESTING_EVERY) { registry.all() } else { registry.led() };
        round = round.wrapping_add(1);
        for shard in shards {
            let safe_point = core.directory.safe_point();
            // (A shard at rest is woken by the pass.)
            let due = shard.garbage().lock().is_due(safe_point, core.seams.clock.now());
            if !due || (shard.leadership().is_none() && !server.rests_here(shard.group())) {
                continue;
            }
            if let Err(error) = pass(&core, &shard, safe_point).await {
                tracing::debug!(group = %shard.group(), %error, "garbage stays for now");
            }
        }
        let seams = core.seams.clone();
        drop(core);
        seams.beat(LOOK_EVERY).await;
    }
}

/// One pass over a shard.
async fn pass(core: &Core, shard: &Shard, safe_point: Timestamp) -> Result<(), Error> {
    let began = core.seams.clock.now();
    let now = core.oracle.timestamp().await?;
    shard.garbage().lock().begin(now);
    let Some(descriptor) = shard.descriptor() else { return Ok(()) };
    let (mut seen, mut removed, mut pending) = (0, 0, 0);
    let mut left = Some(descriptor.range.clone());
    while let Some(range) = left.take() {
        match step(core, &range, safe_point).await? {
            Some(collected) => {
                seen += collected.seen;
                removed += collected.removed;
                pending += collected.pending;
                left = collected.rest.map(range_from_pb);
            }
            // The shard was cut, or led elsewhere: whoever has it goes on.
            None => return Ok(()),
        }
        core.seams.sleep(PAUSE).await;
    }
    shard.garbage().lock().ended(began, safe_point, seen.saturating_sub(removed), pending);
    metrics::counter!("flotilla_gc_passes_total").increment(1);
    metrics::counter!("flotilla_gc_versions_removed_total").increment(removed);
    tracing::debug!(group = %shard.group(), seen, removed, "collected");
    Ok(())
}

async fn step(core: &Core, range: &KeyRange, safe_point: Timestamp) -> Result<Option<pb::Collected>, Error> {
    let deadline = core.deadline();
    let shard = core.router.route(&range.start, deadline).await?;
    if !shard.range.contains_range(range) {
        return Ok(None);
    }
    let ask = pb::Collect {
        safe_point: safe_point.0,
        range: Some(range_to_pb(range)),
        versions_max: STEP_VERSIONS,
    };
    match core.router.ask(&shard, Ask::Collect(ask), Repeat::Harmless, deadline).await {
        Ok(Answer::Collected(collected)) => Ok(Some(collected)),
        Err(RouteError::Moved) => Ok(None),
        Err(RouteError::Failed(error)) => Err(error),
        Ok(_) | Err(RouteError::Pushed) => Err(unexpected()),
    }
}
