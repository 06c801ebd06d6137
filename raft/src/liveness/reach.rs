//! What the rooms above learn: whom it makes no sense to wait for.

use std::collections::BTreeSet;
use std::sync::Arc;

use storage::ids::NodeId;

use crate::transport::Hub;

/// Says which nodes don't answer. A hint: whoever is named may have done what it was asked.
#[derive(Clone)]
pub struct Reach {
    hub: Arc<Hub>,
}

impl Reach {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Whether a node that answered before has not done so for a while.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.watch(node);
        self.hub.liveness.unreachable().borrow().contains(&node)
    }

    /// All nodes of which [`Reach::is_lost`] says so, of those that somebody has asked for, or watches.
    pub fn lost_nodes(&self) -> Arc<BTreeSet<NodeId>> {
        self.hub.liveness.unreachable().borrow().clone()
    }

    /// Completes when that is so.
    pub async fn lost(&self, node: NodeId) {
        self.watch(node);
        let mut unreachable = self.hub.liveness.unreachable();
        if unreachable.wait_for(|nodes| nodes.contains(&node)).await.is_err() {
            // The node's consensus layer has ended, and with it the news.
            std::future::pending::<()>().await;
        }
    }

    /// From now on it is known whether the node answers: only nodes with a link are sent pulses.
    pub fn watch(&self, node: NodeId) {
        if node != self.hub.me {
            self.hub.link(node);
        }
    }
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reach")
    }
}
