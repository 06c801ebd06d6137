//! What an operator can set, and what the caller can carry out.

use std::time::Duration;

/// How placement decides.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What can be carried out.
    pub can: Capabilities,
    /// A node that has been down for so long is not awaited any more: its replicas are rebuilt elsewhere.
    pub repair_after: Duration,
    /// At most this many replicas are being built at a time.
    pub moves_max: usize,
    /// … on one node, and from one node's leaders.
    pub moves_per_node_max: usize,
    /// At most this many leaders are moved by one plan, so that clients see few groups change at a time.
    pub transfers_max: usize,
    /// At most this many splits, and as many merges, are suggested by one plan.
    pub suggestions_max: usize,
    /// How far nodes may differ.
    pub bands: Bands,
    /// A shard that is larger is split.
    pub split_bytes: u64,
    /// A shard with more requests per second is split.
    pub split_load: u64,
    /// A shard whose requests take more milliseconds of processor time each second is split.
    pub split_cpu_ms: u64,
    /// Neighbours that are no larger together are merged. Well below `split_bytes`, or they would be split again.
    pub merge_bytes_max: u64,
    /// … and have no more requests per second together.
    pub merge_load_max: u64,
    /// … and take no more milliseconds of processor time each second together.
    pub merge_cpu_ms_max: u64,
    /// A disk that is filled further than this gives replicas away.
    pub fill_wanted: f64,
    /// A disk is never filled further than this by placement.
    pub fill_max: f64,
    /// A disk that has so much left is not full, however large it is.
    pub free_min: u64,
}

impl Policy {
    /// Up to how many bytes placement fills a disk of this size.
    pub(super) fn used_max(&self, capacity: f64) -> f64 {
        (self.fill_max * capacity).max(capacity - self.free_min as f64)
    }

    /// Whether a disk is too full to be given replicas. Of one whose size is not known, nobody can say.
    pub fn is_full(&self, capacity_bytes: u64, used_bytes: u64) -> bool {
        capacity_bytes > 0 && used_bytes as f64 >= self.used_max(capacity_bytes as f64)
    }

    /// How many bytes a disk of this size may have before it gives replicas away.
    pub(super) fn used_wanted(&self, capacity: f64) -> f64 {
        (self.fill_wanted * capacity).max(capacity - 2.0 * self.free_min as f64)
    }
}

/// What can be carried out. What can't is not planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Groups get more replicas.
    pub grow: bool,
    /// Replicas are replaced and removed.
    pub replace: bool,
    /// … for the sake of evenness, too.
    pub balance: bool,
    /// Leaderships are handed over.
    pub transfer: bool,
    /// Shards are split.
    pub split: bool,
    /// Shards are merged.
    pub merge: bool,
}

impl Capabilities {
    /// Everything.
    pub const ALL: Self =
        Self { grow: true, replace: true, balance: true, transfer: true, split: true, merge: true };
    /// Nothing.
    pub const NONE: Self =
        Self { grow: false, replace: false, balance: false, transfer: false, split: false, merge: false };
}

/// How far nodes may be from their share of something, as a part of it, before anything is moved: moving what is
/// within would be for nothing.
#[derive(Clone, Copy, Debug)]
pub struct Bands {
    /// Replicas.
    pub replicas: f64,
    /// Bytes on the disk.
    pub bytes: f64,
    /// Load that replicas stand for.
    pub load: f64,
    /// Leaders.
    pub leaders: f64,
    /// Requests to leaders.
    pub led_load: f64,
    /// Below so many requests per second, a difference between nodes is none.
    pub load_slack: f64,
}

impl Default for Bands {
    fn default() -> Self {
        Self { replicas: 0.05, bytes: 0.10, load: 0.20, leaders: 0.05, led_load: 0.20, load_slack: 500.0 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            can: Capabilities::ALL,
            repair_after: Duration::from_secs(300),
            moves_max: 1_024,
            moves_per_node_max: 8,
            transfers_max: 8,
            suggestions_max: 16,
            bands: Bands::default(),
            split_bytes: 256 * MIB,
            split_load: 2_500,
            split_cpu_ms: 500,
            merge_bytes_max: 64 * MIB,
            merge_load_max: 250,
            merge_cpu_ms_max: 50,
            fill_wanted: 0.90,
            fill_max: 0.95,
            free_min: 2 * 1024 * MIB,
        }
    }
}
