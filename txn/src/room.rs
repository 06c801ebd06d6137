//! A bound in bytes on what a stream holds of large messages. Small ones are bounded by their number alone.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages up to this size don't count.
const SMALL_BYTES: usize = 64 << 10;

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    free: Arc<Semaphore>,
    bytes_max: u32,
}

impl Room {
    /// For `bytes_max` of large messages; one that is larger than all of it goes alone.
    pub fn new(bytes_max: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max }
    }

    /// Room for a message, which is given back when the answer is dropped; `None` if there is none.
    pub fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(self.share(bytes)).ok()
    }

    /// Waits for it.
    pub async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.free.clone().acquire_many_owned(self.share(bytes)).await.ok()
    }

    /// Waits until nothing waits for room.
    pub async fn is_free(&self) -> bool {
        self.free.acquire().await.is_ok()
    }

    fn share(&self, bytes: usize) -> u32 {
        match bytes <= SMALL_BYTES {
            true => 0,
            false => u32::try_from(bytes).unwrap_or(self.bytes_max).min(self.bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn large_messages_find_room_one_after_the_other_and_small_ones_always() {
        let room = Room::new(1 << 20);
        let first = room.try_take(600 << 10).expect("room");
        assert!(room.try_take(600 << 10).is_none());
        assert!(room.try_take(SMALL_BYTES).is_some());
        assert!(room.take(600 << 10).now_or_never().is_none());
        drop(first);
        assert!(room.try_take(600 << 10).is_some());
        assert!(room.try_take(5 << 20).is_some(), "larger than all of it, alone");
    }

    #[test]
    fn whoever_is_not_read_from_is_not_served_until_it_is() {
        let room = Room::new(1 << 20);
        let sent = room.try_take(1 << 20).expect("room");
        let mut waiting = Box::pin(room.take(100 << 10));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(room.is_free().now_or_never().is_none());
        drop(sent);
        assert!(waiting.now_or_never().is_some());
        assert_eq!(room.is_free().now_or_never(), Some(true));
    }
}
