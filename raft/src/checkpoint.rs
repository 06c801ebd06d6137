//! The checkpointer: makes the state durable, then lets go of the log that leads up to it.
//!
//! One flush of the engine serves all groups. Each group's position is read *before* the flush; what the flush has
//! made durable is at least that. Then openraft is told that a snapshot reaches so far, and purges its log but for
//! a tail that spares replicas which were away for a while the transfer of a snapshot.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::api::Fatal;
use crate::multi::MultiRaft;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After one that has failed: whoever makes room on the disk at once is not left waiting …
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// … and after so many in a row the store is broken. The log grows with each of them.
const FAILURES_MAX: u32 = 3;

/// Runs until the node's consensus layer is gone.
pub(crate) async fn run(multi: Weak<MultiRaft>, seams: storage::seam::Seams) {
    let mut last = seams.clock.now();
    let mut appended = 0;
    let mut failures = 0;
    loop {
        seams.sleep(LOOK_EVERY).await;
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        multi.arrivals().sweep().await;
        let now = seams.clock.now();
        let total = multi.appended().load(Ordering::Relaxed);
        let mut interval = multi.options().checkpoint_interval;
        if failures > 0 {
            interval = interval.min(AGAIN_AFTER);
        }
        let due = now.saturating_duration_since(last) >= interval
            || total - appended >= multi.options().checkpoint_bytes;
        if due {
            match checkpoint(&multi).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::error!(%error, failures, "cannot flush the state");
                    metrics::counter!("flotilla_raft_checkpoint_failures_total").increment(1);
                    if failures >= FAILURES_MAX {
                        multi.breaks(error);
                    }
                }
            }
            (last, appended) = (now, total);
        }
    }
}

/// One round.
pub(crate) async fn checkpoint(multi: &Arc<MultiRaft>) -> Result<(), Fatal> {
    let mut advanced = Vec::new();
    for group in multi.groups() {
        if group.shared().applied_index() > group.shared().flushed_index() {
            let position = group.shared().applied();
            advanced.push((group, position));
        }
    }
    if advanced.is_empty() {
        return Ok(());
    }
    let engine = multi.engine().clone();
    multi.seams().blocking("checkpoint", move || engine.flush()).await.map_err(Fatal::new)??;
    storage::fail_point::pass(storage::fail_point::FailPoint::CheckpointFlushed);
    for (group, position) in advanced {
        let flushed = position.last.map_or(0, |id| id.index);
        group.shared().set_flushed(position);
        // The log of a group at rest is cut when it is awake again.
        let Some(core) = group.core() else { continue };
        // A replica that has stopped says so itself.
        let _ = core.raft.trigger().snapshot().await;
        if let Some(upto) = core.log.purgeable_by_size(multi.options().keep_bytes) {
            let _ = core.raft.trigger().purge_log(upto.min(flushed)).await;
        }
    }
    Ok(())
}
