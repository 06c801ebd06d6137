//! How many groups may be awake: each costs up to a megabyte.
//!
//! At `awake_limit` of the options nothing wakes for a request: whoever asks finds no place, and is to try again. Above half
//! of it those that nobody uses are laid to rest without delay ([`crate::rest`]), so that there will be places. What other
//! nodes lead, or are to lead, wakes here beyond that, up to a limit of its own: see `rest/room.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Those that are about to wake.
#[derive(Default)]
pub(crate) struct Crowd {
    waking: Arc<AtomicUsize>,
}

/// A place among those awake. It counts beside the group itself until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Crowd {
    /// A place for one more, if there is one beside those that are awake. To be called by one at a time.
    pub fn enter(&self, awake: usize, limit: usize) -> Option<Place> {
        if awake + self.waking.load(Ordering::SeqCst) >= limit {
            return None;
        }
        self.waking.fetch_add(1, Ordering::SeqCst);
        Some(Place(self.waking.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
