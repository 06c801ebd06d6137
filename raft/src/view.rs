//! Views of a group's state at an index of its log that was chosen beforehand.
//!
//! Replicas apply the same entries at different times. To compare them, each is asked for its view at one index that none of
//! them has reached yet; then the log is brought there ([`crate::Group::advance`]). A view is a snapshot of the engine that is
//! taken between two entries: it costs nobody anything to wait for one but one comparison per entry.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use storage::digest::Digester;
use storage::ids::{KeyRange, LogIndex};
use storage::{Cf, Snapshot};
use tokio::sync::oneshot;

use crate::group::Group;
use crate::state_machine::Shared;

/// So many may wait for views of one group.
const WAITING_MAX: usize = 8;

/// A group's state right after an entry was applied.
#[derive(Debug)]
pub struct GroupView {
    /// The entry.
    pub at: LogIndex,
    /// What belongs to the group.
    pub spans: Vec<(Cf, KeyRange)>,
    /// The engine, with all its groups.
    pub snapshot: Snapshot,
}

impl GroupView {
    /// Digests of the group's rows.
    pub fn digester(self) -> Digester {
        Digester::new(self.snapshot, &self.spans)
    }
}

/// Why there will be no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// The entry is applied already.
    #[error("{index} is applied already: this replica is at {applied}")]
    Missed {
        /// The entry.
        index: LogIndex,
        /// The last one.
        applied: LogIndex,
    },
    /// Too many wait.
    #[error("too many views of this group are waited for")]
    TooMany,
}

/// Those who wait for views of a replica's state.
pub(crate) struct Views {
    /// The lowest index that is waited for.
    next: AtomicU64,
    waiting: Mutex<Vec<(u64, oneshot::Sender<GroupView>)>>,
}

impl Default for Views {
    fn default() -> Self {
        Self { next: AtomicU64::new(u64::MAX), waiting: Mutex::default() }
    }
}

impl Views {
    fn note_next(&self, waiting: &[(u64, oneshot::Sender<GroupView>)]) {
        let next = waiting.iter().map(|(index, _)| *index).min().unwrap_or(u64::MAX);
        self.next.store(next, Ordering::SeqCst);
    }
}

impl Shared {
    /// The entry at `index` was applied, and the next one is not.
    pub(crate) fn show(&self, index: LogIndex) {
        if index.0 < self.views.next.load(Ordering::SeqCst) {
            return;
        }
        let mut waiting = self.views.waiting.lock();
        for (_, sender) in waiting.extract_if(.., |(wanted, _)| *wanted <= index.0) {
            let (spans, snapshot) = (self.machine.spans(), self.engine.snapshot());
            // Whoever wanted it may have gone.
            let _ = sender.send(GroupView { at: index, spans, snapshot });
        }
        self.views.note_next(&waiting);
    }

    /// A snapshot has taken the place of entries: nobody sees what was between them.
    pub(crate) fn skip_views(&self) {
        let mut waiting = self.views.waiting.lock();
        let applied = self.applied_index().unwrap_or(0);
        waiting.retain(|(wanted, _)| *wanted > applied);
        self.views.note_next(&waiting);
    }
}

impl Group {
    /// The state right after the entry at `index`, once it is applied here. The receiver fails if a snapshot from another
    /// replica takes the place of that entry, or this replica ends.
    pub fn view_at(&self, index: LogIndex) -> Result<oneshot::Receiver<GroupView>, NoView> {
        let shared = self.shared();
        let (sender, receiver) = oneshot::channel();
        let mut waiting = shared.views.waiting.lock();
        waiting.retain(|(_, sender)| !sender.is_closed());
        if waiting.len() >= WAITING_MAX {
            return Err(NoView::TooMany);
        }
        waiting.push((index.0, sender));
        shared.views.note_next(&waiting);
        // After that: an entry that is applied from now on meets the wish, since `show` waits for the lock.
        let applied = shared.applied_index().unwrap_or(0);
        if applied >= index.0 {
            waiting.pop();
            shared.views.note_next(&waiting);
            return Err(NoView::Missed { index, applied: LogIndex(applied) });
        }
        Ok(receiver)
    }
}
