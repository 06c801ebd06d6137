//! Names that say where they come from: whoever meets one knows which node to ask about it.

use std::fmt;

use storage::ids::{NodeId, TxnId};
use storage::seam::Seams;

/// The bits of a node's id in a name. Ids are handed out one after the other, so that they are all there.
const NODE_BITS: u32 = 32;

/// A client's session: its node, its number there, and 64 random bits, because numbers are used again after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
    /// A new one.
    pub fn new(node: NodeId, pid: i32, seams: &Seams) -> Self {
        let number = (u128::from(node.0 as u32) << 96) | (u128::from(pid as u32) << 64);
        Self(number | u128::from(seams.random_u64()))
    }

    /// Its node.
    pub fn node(self) -> NodeId {
        node_of(TxnId(self.0))
    }

    /// Its number there, as in BackendKeyData.
    pub fn pid(self) -> i32 {
        (self.0 >> 64) as u32 as i32
    }

    /// As the owner of locks.
    pub fn as_owner(self) -> TxnId {
        TxnId(self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} of {}", self.pid(), self.node())
    }
}

/// The id of a new transaction of this node.
pub fn new_txn(node: NodeId, seams: &Seams) -> TxnId {
    let random = seams.random_u128() & (u128::MAX >> NODE_BITS);
    TxnId((u128::from(node.0 as u32) << (128 - NODE_BITS)) | random)
}

/// The node whose transaction (or session) this is.
pub fn node_of(txn: TxnId) -> NodeId {
    NodeId((txn.0 >> (128 - NODE_BITS)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_they_come_from() {
        let seams = Seams::real();
        let session = SessionId::new(NodeId(7), 41, &seams);
        assert_eq!((session.node(), session.pid()), (NodeId(7), 41));
        assert_eq!(node_of(new_txn(NodeId(3), &seams)), NodeId(3));
        assert_ne!(new_txn(NodeId(3), &seams), new_txn(NodeId(3), &seams));
    }
}
