//! All replicas of a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use storage::ids::{GroupId, NodeId, ReplicaId};

use crate::api::{Error, UnknownReplica};
use crate::group::Group;

/// The groups of a node, and all they share.
pub struct MultiRaft {}

impl MultiRaft {
    // pub async fn start(options: RaftOptions, store: Arc<Store>, factory: Arc<dyn StateMachineFactory>,
    //                    book: Arc<dyn AddressBook>, seams: Seams) -> Result<Arc<MultiRaft>, Error>
    // pub fn service(self: &Arc<Self>) -> RaftServer<..>      the tonic service to mount; see also `Mount`

    /// Called (from the transport, so: quickly) when a message comes for a replica that this node doesn't have.
    pub fn on_unknown_replica(&self, _hook: Box<dyn Fn(UnknownReplica) + Send + Sync>) {
        todo!()
    }

    /// Starts a group on one of its first members; every one of them is told the same `members`. Whatever the engine
    /// holds of the group now is its initial state (write the descriptor before), the same on all of them. Idempotent.
    ///
    /// With `campaign` (give it to one of them) it stands for election at once; a sole member does anyway.
    pub async fn create_group(
        &self,
        _group: GroupId,
        _me: ReplicaId,
        _members: BTreeMap<ReplicaId, NodeId>,
        _campaign: bool,
    ) -> Result<Arc<Group>, Error> {
        todo!()
    }

    /// Creates a blank replica, which waits for a leader to tell it everything. Idempotent.
    pub async fn create_replica(&self, _group: GroupId, _me: ReplicaId) -> Result<Arc<Group>, Error> {
        todo!()
    }

    /// A group of this node.
    pub fn group(&self, _id: GroupId) -> Option<Arc<Group>> {
        todo!()
    }

    /// All groups of this node.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        todo!()
    }

    /// Stops a replica and removes its log and its data, for good.
    pub async fn remove_group(&self, _id: GroupId) -> Result<(), Error> {
        todo!()
    }

    /// Hands leaderships over, then stops everything.
    pub async fn shutdown(&self) {
        todo!()
    }
}
