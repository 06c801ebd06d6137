//! What a shard's leader has been asked, for placement: load is what moves leaders and splits shards.

use std::sync::atomic::{AtomicU64, Ordering};

use proto::shard::request::Body as Ask;

/// Requests since the shard was opened.
#[derive(Debug, Default)]
pub struct Traffic {
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Traffic {
    /// Counts a request. What only keeps house is not counted.
    pub(crate) fn count(&self, ask: &Ask) {
        let counter = match ask {
            Ask::Read(_) | Ask::Scan(_) | Ask::Validate(_) => &self.reads,
            Ask::Commit(_)
            | Ask::Prewrite(_)
            | Ask::CommitPrimary(_)
            | Ask::Resolve(_)
            | Ask::LockRows(_) => &self.writes,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Those that only read, and those that write.
    pub fn counted(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }
}
