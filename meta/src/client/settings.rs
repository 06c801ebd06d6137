//! What this node does as the cluster's settings say.

use std::sync::atomic::Ordering;

use super::MetaClient;
use crate::settings::Settings;

impl MetaClient {
    /// Takes the cluster's settings over.
    pub(super) fn follow(&self, settings: &Settings) {
        self.async_commit.store(settings.async_commit(), Ordering::Relaxed);
        self.snapshot_rate.store(settings.snapshot_rate(), Ordering::Relaxed);
        self.quorum_reads.store(settings.quorum_reads(), Ordering::Relaxed);
        let lag = settings.closed_lag().as_millis().try_into().unwrap_or(u64::MAX);
        self.closed_lag_ms.store(lag, Ordering::Relaxed);
        self.log_compression.store(settings.log_compression(), Ordering::Relaxed);
    }

    /// How many bytes of snapshots a node may send in a second.
    pub fn snapshot_rate(&self) -> u64 {
        self.snapshot_rate.load(Ordering::Relaxed)
    }

    /// Whether a majority confirms each read.
    pub fn quorum_reads(&self) -> bool {
        self.quorum_reads.load(Ordering::Relaxed)
    }

    /// Whether large commands are compressed in the log.
    pub fn log_compression(&self) -> bool {
        self.log_compression.load(Ordering::Relaxed)
    }
}
