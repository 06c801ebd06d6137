//! The gRPC service `NodeControl`: does to this node's replicas what the meta-group's leader has planned.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use proto::admin as pb;
use proto::admin::node_control_server as service;
use raft::{Group, MultiRaft};
use storage::ids::{GroupId, NodeId, ReplicaId};
use tonic::{Request, Response, Status};

/// The service.
pub struct NodeControl {
    cluster_id: u128,
    multi: Arc<MultiRaft>,
}

impl NodeControl {
    /// The tonic service to mount.
    pub fn service(cluster_id: u128, multi: Arc<MultiRaft>) -> service::NodeControlServer<Self> {
        service::NodeControlServer::new(Self { cluster_id, multi })
    }

    fn group(&self, id: u64) -> Result<Arc<Group>, Status> {
        let id = GroupId(id);
        self.multi.group(id).ok_or_else(|| Status::not_found(format!("{id} has no replica on this node")))
    }
}

/// Whatever it is, the reconcile loop plans again from what it then sees.
fn refused(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[async_trait]
impl service::NodeControl for NodeControl {
    async fn create_replica(
        &self,
        request: Request<pb::CreateReplicaRequest>,
    ) -> Result<Response<pb::CreateReplicaResponse>, Status> {
        let request = request.into_inner();
        if request.cluster_id[..] != self.cluster_id.to_be_bytes() {
            return Err(Status::failed_precondition("this node belongs to another cluster"));
        }
        let (group, replica) = (GroupId(request.group), ReplicaId(request.replica));
        if let Some(existing) = self.multi.group(group) {
            return Ok(Response::new(pb::CreateReplicaResponse { replica: existing.replica().0 }));
        }
        self.multi.create_replica(group, replica).await.map_err(refused)?;
        Ok(Response::new(pb::CreateReplicaResponse { replica: replica.0 }))
    }

    async fn add_learner(
        &self,
        request: Request<pb::AddLearnerRequest>,
    ) -> Result<Response<pb::AddLearnerResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(request.group)?;
        group.add_learner(ReplicaId(request.replica), NodeId(request.node)).await.map_err(refused)?;
        Ok(Response::new(pb::AddLearnerResponse {}))
    }

    async fn change_voters(
        &self,
        request: Request<pb::ChangeVotersRequest>,
    ) -> Result<Response<pb::ChangeVotersResponse>, Status> {
        let request = request.into_inner();
        let voters: BTreeSet<ReplicaId> = request.replicas.into_iter().map(ReplicaId).collect();
        self.group(request.group)?.change_voters(voters).await.map_err(refused)?;
        Ok(Response::new(pb::ChangeVotersResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.group(request.group)?.transfer_leader(ReplicaId(request.replica)).await.map_err(refused)?;
        Ok(Response::new(pb::TransferLeaderResponse {}))
    }
}
