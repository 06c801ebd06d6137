//! The checkpointer: makes the state durable, then lets go of the log that leads up to it.
//!
//! One flush of the engine serves all groups. Each group's position is read *before* the flush; what the flush has
//! made durable is at least that. Then openraft is told that a snapshot reaches so far, and purges its log but for
//! a tail that spares replicas which were away for a while the transfer of a snapshot.
//!
//! A flush writes a table, and every fourth a larger one out of four. Where next to nothing happens, there is next to nothing to apply
//! again after a crash, and nothing to cut: it can wait.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::api::Fatal;
use crate::multi::MultiRaft;
use crate::options::RaftOptions;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Less than this is next to nothing: a few barriers and elections.
const QUIET_BYTES: u64 = 4 << 10;
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
        seams.beat(LOOK_EVERY).await;
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        multi.arrivals().sweep().await;
        let now = seams.clock.now();
        let total = multi.appended().load(Ordering::Relaxed);
        let since = now.saturating_duration_since(last);
        let again = failures > 0 && since >= AGAIN_AFTER.min(multi.options().checkpoint_interval);
        if again || is_due(multi.options(), since, total - appended) {
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

/// Whether it is time for one, so long after the last, and after so many bytes were appended.
fn is_due(options: &RaftOptions, since: Duration, appended: u64) -> bool {
    let interval = match appended < QUIET_BYTES {
        true => options.checkpoint_interval.max(options.checkpoint_quiet_interval),
        false => options.checkpoint_interval,
    };
    since >= interval || appended >= options.checkpoint_bytes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_waits_while_next_to_nothing_is_appended() {
        let options = RaftOptions::default();
        let due = |seconds, appended| is_due(&options, Duration::from_secs(seconds), appended);
        assert!(due(10, 1 << 20) && !due(9, 1 << 20));
        assert!(!due(59, QUIET_BYTES - 1) && due(60, 0));
        assert!(due(10, QUIET_BYTES));
        assert!(due(0, options.checkpoint_bytes));
    }
}
