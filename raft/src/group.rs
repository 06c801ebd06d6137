//! One replica of one group: proposals, leases, membership.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use storage::ids::{GroupId, NodeId, ReplicaId, Term};
use tokio::sync::watch;

use crate::api::{ChangeError, GroupStatus, NotLeader, ProposeError, Role, StateMachine};

/// A replica of a group on this node.
pub struct Group {
    id: GroupId,
    replica: ReplicaId,
}

impl Group {
    /// The group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// This node's replica.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The state machine.
    pub fn machine(&self) -> &Arc<dyn StateMachine> {
        todo!()
    }

    /// The role, to read and to wait on.
    pub fn role(&self) -> watch::Receiver<Role> {
        todo!()
    }

    /// Replicates a command, as the leader of `term`, and answers what applying it answered.
    pub async fn propose(&self, _term: Term, _command: Bytes) -> Result<Bytes, ProposeError> {
        todo!()
    }

    /// Whether this replica leads in `term` and holds a lease: nobody else has led between the moment that the
    /// caller took its snapshot and now. Call it *after* taking the snapshot.
    pub fn lease(&self, _term: Term) -> Result<(), NotLeader> {
        todo!()
    }

    /// Asks a quorum whether this replica leads in `term`: as [`Group::lease`], without relying on clocks.
    pub async fn confirm_quorum(&self, _term: Term) -> Result<(), NotLeader> {
        todo!()
    }

    /// How the group is doing.
    pub fn status(&self) -> GroupStatus {
        todo!()
    }

    /// Adds a replica without a vote. Returns when the change is committed, not when the replica has caught up.
    pub async fn add_learner(&self, _replica: ReplicaId, _node: NodeId) -> Result<(), ChangeError> {
        todo!()
    }

    /// Makes exactly these members (learners or voters so far) the voters; voters not named leave the group,
    /// learners not named stay.
    pub async fn change_voters(&self, _voters: BTreeSet<ReplicaId>) -> Result<(), ChangeError> {
        todo!()
    }

    /// Removes learners.
    pub async fn remove_learners(&self, _learners: BTreeSet<ReplicaId>) -> Result<(), ChangeError> {
        todo!()
    }

    /// Hands the leadership to another voter. If that fails in time, an election is forced, so that the group can
    /// write again.
    pub async fn transfer_leader(&self, _to: ReplicaId) -> Result<(), ChangeError> {
        todo!()
    }
}
