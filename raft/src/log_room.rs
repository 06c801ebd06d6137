//! How much a node's groups may have on its way to the log's disk.
//!
//! A disk that stalls must cost neither memory without bound nor a thread: the threads are everybody's, also those of
//! whoever is to notice the stall and hand the leaderships over. So an append waits for room before it locks anything,
//! and the room is free again when the disk has what it was taken for. First come, first served: a large append delays
//! smaller ones of other groups, and gets its turn.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What an entry takes beside its bytes, in the queue of the log's writer.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 32;

/// The room of a node's log.
pub(crate) struct LogRoom {
    free: Arc<Semaphore>,
    bytes_max: u32,
    /// Bytes appended by all groups, ever: the checkpointer's reason to get up early.
    pub appended: AtomicU64,
}

impl LogRoom {
    /// For `bytes_max` at a time; what is larger goes alone.
    pub fn new(bytes_max: u32) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(bytes_max as usize));
        Arc::new(Self { free, bytes_max, appended: AtomicU64::new(0) })
    }

    /// Waits for room, which is given back when the answer is dropped.
    pub async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = u32::try_from(bytes).unwrap_or(self.bytes_max).min(self.bytes_max);
        if let Ok(room) = self.free.clone().try_acquire_many_owned(share) {
            return Some(room);
        }
        metrics::counter!("flotilla_raft_log_waits_total").increment(1);
        // It is never closed.
        self.free.clone().acquire_many_owned(share).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry;
    use openraft::storage::{IOFlushed, RaftLogStorage};
    use storage::ids::{GroupId, ReplicaId};
    use storage::seam::Seams;
    use storage::{Store, StoreOptions};
    use tempfile::TempDir;

    use super::*;
    use crate::command::Command;
    use crate::log_store::LogStore;
    use crate::types::{Entry, log_id};

    #[tokio::test]
    async fn appends_wait_for_a_disk_that_stalls_without_keeping_the_thread() {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).expect("a store");
        let (well, stalled) = std::sync::mpsc::channel::<()>();
        // The log's writer does nothing else until then.
        let stall = Box::new(move |_: Result<(), storage::Error>| {
            let _ = stalled.recv();
        });
        store.log().save_vote(GroupId(99), Bytes::from_static(b"vote"), stall);

        let room = LogRoom::new(1 << 20);
        let mut logs: Vec<LogStore> = (1..=8)
            .map(|group| {
                let (group, replica) = (GroupId(group), ReplicaId(1));
                LogStore::open(store.log(), group, replica, 1 << 20, 1 << 10, room.clone()).expect("a log")
            })
            .collect();
        let mut waiting = Vec::new();
        for log in &mut logs {
            let command = Command::plain(vec![0_u8; 300 << 10].into());
            let entry = Entry::new(log_id(1, 1), EntryPayload::Normal(command));
            let mut append = Box::pin(log.append([entry], IOFlushed::noop()));
            match append.as_mut().now_or_never() {
                Some(appended) => appended.expect("append"),
                None => waiting.push(append),
            }
        }
        assert_eq!(waiting.len(), 5, "there is room for three");

        well.send(()).expect("the writer waits for it");
        for append in waiting {
            append.await.expect("append");
        }
    }

    #[tokio::test]
    async fn what_is_larger_than_all_room_goes_alone() {
        let room = LogRoom::new(1000);
        let large = room.take(5000).await.expect("room");
        assert!(room.take(1).now_or_never().is_none());
        drop(large);
        assert!(room.take(1).now_or_never().is_some());
    }
}
