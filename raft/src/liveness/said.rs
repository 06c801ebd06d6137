//! What nodes say of themselves with their pulses, and this node of itself.

use std::collections::BTreeSet;

use parking_lot::RwLock;
use storage::ids::NodeId;

/// The nodes that say it.
#[derive(Default)]
pub(super) struct Said(RwLock<BTreeSet<NodeId>>);

impl Said {
    /// A node says it, or says it no more; true if that is new.
    pub fn set(&self, node: NodeId, says: bool) -> bool {
        if self.is_said_by(node) == says {
            return false;
        }
        let mut nodes = self.0.write();
        if says { nodes.insert(node) } else { nodes.remove(&node) }
    }

    /// Whether a node says it.
    pub fn is_said_by(&self, node: NodeId) -> bool {
        self.0.read().contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_new_once() {
        let said = Said::default();
        let (a, b) = (NodeId(1), NodeId(2));
        assert!(!said.set(a, false), "nobody has said it");
        assert!(said.set(a, true) && !said.set(a, true));
        assert!(said.is_said_by(a) && !said.is_said_by(b));
        assert!(said.set(a, false) && !said.is_said_by(a));
    }
}
