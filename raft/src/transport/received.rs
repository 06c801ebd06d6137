//! How much of what another node has sent may be here and not yet worked off.
//!
//! It is counted for the node, not for the stream that brought it: a stream breaks, and openraft keeps what it was given. If
//! each stream began at nothing, a link that flaps before a disk that stalls would fill the memory.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use storage::ids::NodeId;

use super::server::RUNNING_MAX;

/// Appends of one other node that may be in the hands of replicas, over all of its streams: each costs memory beside its entries.
/// More than a stream lets through, and less than openraft's queue of a group holds.
pub(super) const APPENDS_MAX: usize = 2 * RUNNING_MAX;

/// What has come, by the node that it has come from.
#[derive(Default)]
pub(crate) struct Received {
    nodes: Mutex<HashMap<NodeId, Arc<Room>>>,
}

impl Received {
    /// What has come from a node.
    pub(super) fn of(&self, node: NodeId) -> Arc<Room> {
        let mut nodes = self.nodes.lock();
        if let Some(room) = nodes.get(&node) {
            return room.clone();
        }
        // Of whom nothing is here there is nothing to remember. (Nobody else gets at one that only the table has.)
        nodes.retain(|_, room| Arc::strong_count(room) > 1);
        nodes.entry(node).or_default().clone()
    }
}

/// What has come from one node.
#[derive(Default)]
pub(super) struct Room {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    appends: usize,
    bytes: usize,
}

impl Room {
    /// Takes an append in, if there is any room. (A large one, if it had to fit, would be refused as long as small ones come.)
    pub fn take(self: &Arc<Self>, bytes: usize, bytes_max: usize) -> Option<Share> {
        let mut held = self.held.lock();
        if held.bytes >= bytes_max || held.appends >= APPENDS_MAX {
            return None;
        }
        held.appends += 1;
        held.bytes += bytes;
        Some(Share { room: self.clone(), bytes })
    }
}

/// One append's part. It is given back when this is dropped, which is not before the append's entries are.
pub(super) struct Share {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.room.held.lock();
        held.appends -= 1;
        held.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::RaftOptions;

    const ONE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    #[test]
    fn each_node_has_room_of_its_own_whoever_asks_for_it() {
        let received = Received::default();
        let first = received.of(ONE).take(60, 100).expect("room");
        let second = received.of(ONE).take(1000, 100).expect("some room");
        assert!(received.of(ONE).take(1, 100).is_none());
        let other = received.of(OTHER).take(1, 100);
        assert!(other.is_some());
        drop(second);
        assert!(received.of(ONE).take(1, 100).is_some());
        drop(first);
        assert_eq!(received.of(ONE).held.lock().bytes, 0);
    }

    #[test]
    fn small_appends_are_counted_too() {
        let received = Received::default();
        let taken: Vec<Share> =
            (0..APPENDS_MAX).map(|_| received.of(ONE).take(1, usize::MAX).expect("room")).collect();
        assert!(received.of(ONE).take(1, usize::MAX).is_none());
        drop(taken);
        assert!(received.of(ONE).take(1, usize::MAX).is_some());
    }

    #[test]
    fn openraft_has_a_place_for_every_append_that_is_taken_in() {
        let config = RaftOptions::default().openraft().expect("openraft takes them");
        assert!(config.api_channel_size.is_some_and(|places| places > APPENDS_MAX as u64));
    }

    #[test]
    fn of_nodes_nothing_is_kept_that_have_nothing_here() {
        let received = Received::default();
        let held = received.of(ONE).take(100, 100).expect("room");
        (2..1000).for_each(|node| drop(received.of(NodeId(node))));
        assert_eq!(received.nodes.lock().len(), 2, "the last one, and who has something here");
        assert!(received.of(ONE).take(1, 100).is_none());
        drop(held);
    }
}
