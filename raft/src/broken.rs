//! A store that its node can't go on with.
//!
//! A replica that fails alone stops alone. But all replicas of a node share one log and one state database, and when one of those fails,
//! nothing on the node is of use any more: after the first write to the log that fails nothing is acknowledged
//! ([`storage::raft_log`]), and a database that refuses one batch refuses all. Replicas stop as they come to write, one after the other; those
//! that have nothing to write go on looking alive, and so does the node, whose pulses and reports say nothing of its disk. Nobody would replace
//! it. So it says so ([`MultiRaft::broken`]), and whoever runs the node ends it: then the others elect, and placement rebuilds what it held.
//!
//! Nothing that was acknowledged is lost by that: it is in the log, here as far as it was synced, and at a majority. What the disk
//! holds of a write whose sync has failed is unknown, but nobody was told that it is there; the next start reads it from the
//! log, and writes and syncs what it has read anew before anybody relies on it (RocksDB's recovery does).
//!
//! A flush that fails is tried again: the log still has what it would have made durable. That costs the log's disk, so it has an end, too
//! (`checkpoint.rs`).

use std::sync::Weak;
use std::time::Duration;

use storage::seam::Seams;

use crate::api::Fatal;
use crate::multi::MultiRaft;

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl MultiRaft {
    /// Waits until this node's store has failed for good, and says of what. Whoever runs the node has to end it then: it looks
    /// alive, and can acknowledge nothing.
    pub async fn broken(&self) -> Fatal {
        let mut broken = self.broken.subscribe();
        let found = broken.wait_for(Option::is_some).await.map(|found| (*found).clone());
        match found {
            Ok(Some(reason)) => reason,
            // Nobody can say any more: the other end lives as long as this does.
            _ => std::future::pending().await,
        }
    }

    /// The store has failed for good. The first reason counts.
    pub(crate) fn breaks(&self, reason: Fatal) {
        let first = self.broken.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason);
            }
            first
        });
        if first {
            metrics::counter!("flotilla_store_failures_total").increment(1);
        }
    }
}

/// Looks whether the log and the state database still take writes, until the node's consensus layer is gone.
pub(crate) async fn watch(multi: Weak<MultiRaft>, seams: Seams) {
    loop {
        seams.sleep(LOOK_EVERY).await;
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        if let Some(failure) = multi.log.failure().or_else(|| multi.engine().failure()) {
            multi.breaks(failure.into());
            return;
        }
    }
}
