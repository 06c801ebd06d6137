//! Whether a replica votes and stands for election: not while somebody may rely on a promise of its that it has forgotten.

use std::sync::atomic::{AtomicU64, Ordering};

/// Closed by each loss of memory, and open when the last of them is outlived.
///
/// Invariant: closings are numbered from 1, the start of the process; open says that the newest one, and so each, is over.
pub(crate) struct Gate {
    closings: AtomicU64,
    /// The newest one that is over.
    outlived: AtomicU64,
}

/// One closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing(u64);

impl Closing {
    /// That of the start of the process.
    pub const START: Closing = Closing(1);
}

impl Gate {
    /// `closed`: promises from before the start may have been forgotten.
    pub fn new(closed: bool) -> Self {
        let outlived = if closed { 0 } else { Closing::START.0 };
        Self { closings: AtomicU64::new(Closing::START.0), outlived: AtomicU64::new(outlived) }
    }

    /// Something was forgotten now.
    pub fn close(&self) -> Closing {
        Closing(self.closings.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// What was forgotten at `closing` cannot be relied on any more; nor what was before.
    pub fn outlive(&self, closing: Closing) {
        debug_assert!(closing.0 <= self.closings.load(Ordering::SeqCst));
        self.outlived.fetch_max(closing.0, Ordering::SeqCst);
    }

    /// Nobody was ever promised anything.
    pub fn open(&self) {
        self.outlive(Closing(self.closings.load(Ordering::SeqCst)));
    }

    pub fn is_closed(&self) -> bool {
        self.outlived.load(Ordering::SeqCst) < self.closings.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use storage::ids::{GroupId, ReplicaId};

    use super::*;
    use crate::options::RaftOptions;
    use crate::test_node::TestNode;

    /// Whether it was to be gated was asked before those gates were opened, and it was not there when they were.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replica_that_is_opened_too_late_is_not_gated_for_good() {
        let node = TestNode::start(RaftOptions::default()).await;
        let group = node.group(5).await;
        node.multi.groups.write().remove(&GroupId(5));
        group.stop("it is opened anew").await;
        node.multi.gate_open.store(true, Ordering::SeqCst);
        let opened = node.multi.open(GroupId(5), ReplicaId(2), true).await.expect("open");
        assert!(!opened.is_gated());
    }

    #[test]
    fn the_gate_is_closed_until_the_last_closing_is_over() {
        let gate = Gate::new(false);
        assert!(!gate.is_closed());
        let first = gate.close();
        let second = gate.close();
        gate.outlive(first);
        assert!(gate.is_closed(), "the second one is not over");
        gate.outlive(second);
        assert!(!gate.is_closed());
    }

    #[test]
    fn the_start_opens_no_gate_that_was_closed_later() {
        let gate = Gate::new(true);
        assert!(gate.is_closed());
        let later = gate.close();
        gate.outlive(Closing::START);
        assert!(gate.is_closed());
        gate.outlive(later);
        assert!(!gate.is_closed());
    }

    #[test]
    fn whoever_has_promised_nothing_opens_it() {
        let gate = Gate::new(true);
        gate.close();
        gate.open();
        assert!(!gate.is_closed());
    }
}
