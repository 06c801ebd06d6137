//! The gRPC service `NodeControl`: does to this node's replicas what the meta-group's leader has planned.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::admin as pb;
use proto::admin::node_control_server as service;
use raft::{Group, MultiRaft};
use storage::ids::{GroupId, NodeId, ReplicaId};
use tonic::{Request, Response, Status};
use txn::ShardServer;

use crate::{Leftovers, MetaClient};

/// How long a group at rest may take to wake.
pub(crate) const ROUSE_MAX: Duration = Duration::from_secs(1);
/// How long a replica may take to be frozen, once its leader is.
const FREEZE_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked at.
const FREEZE_LOOK_EVERY: Duration = Duration::from_millis(2);

/// The service.
pub struct NodeControl {
    cluster_id: u128,
    multi: Arc<MultiRaft>,
    leftovers: Arc<Leftovers>,
    shards: Arc<ShardServer>,
    client: Arc<MetaClient>,
}

impl NodeControl {
    /// The tonic service to mount.
    pub fn service(
        cluster_id: u128,
        multi: Arc<MultiRaft>,
        leftovers: Arc<Leftovers>,
        shards: Arc<ShardServer>,
        client: Arc<MetaClient>,
    ) -> service::NodeControlServer<Self> {
        service::NodeControlServer::new(Self { cluster_id, multi, leftovers, shards, client })
    }

    /// A node may have taken over the address of one of another cluster.
    fn check_cluster(&self, asked: &[u8]) -> Result<(), Status> {
        match asked == self.cluster_id.to_be_bytes() {
            true => Ok(()),
            false => Err(Status::unavailable("this node belongs to another cluster")),
        }
    }

    /// A group that is wanted for something: it wakes.
    async fn group(&self, id: u64) -> Result<Arc<Group>, Status> {
        let id = GroupId(id);
        let group = self.multi.group(id);
        let group = group.ok_or_else(|| Status::not_found(format!("{id} has no replica on this node")))?;
        group.touch();
        group.rouse(ROUSE_MAX).await;
        Ok(group)
    }
}

impl NodeControl {
    /// Returns when this node's replica is frozen at `epoch`, by the word of the engine: the memory is a moment ahead.
    async fn until_frozen(&self, group: GroupId, epoch: u64) -> Result<(), Status> {
        let seams = self.shards.seams();
        let deadline = seams.clock.now() + FREEZE_LIMIT;
        loop {
            let shard = self.shards.registry().get(group);
            let shard =
                shard.ok_or_else(|| Status::not_found(format!("{group} has no replica on this node")))?;
            if shard.is_frozen_at(epoch).map_err(refused)? {
                return Ok(());
            }
            if seams.clock.now() >= deadline {
                return Err(refused(format!("{group} is not frozen on this node yet")));
            }
            seams.sleep(FREEZE_LOOK_EVERY).await;
        }
    }
}

/// The node, if one was named.
fn known(node: u64) -> Option<NodeId> {
    (node != 0).then_some(NodeId(node))
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
        self.check_cluster(&request.cluster_id)?;
        let (group, replica) = (GroupId(request.group), ReplicaId(request.replica));
        let existing = self.multi.group(group).map(|here| here.replica());
        if let Some(other) = existing.filter(|other| *other != replica) {
            // What an earlier attempt has left, or one that was removed while this node was down.
            self.leftovers.remove(group, other, known(request.leader)).await?;
        }
        self.multi.create_replica(group, replica).await.map_err(refused)?;
        Ok(Response::new(pb::CreateReplicaResponse {}))
    }

    async fn destroy_replica(
        &self,
        request: Request<pb::DestroyReplicaRequest>,
    ) -> Result<Response<pb::DestroyReplicaResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let (group, replica) = (GroupId(request.group), ReplicaId(request.replica));
        self.leftovers.remove(group, replica, known(request.leader)).await?;
        Ok(Response::new(pb::DestroyReplicaResponse {}))
    }

    async fn remove_replica(
        &self,
        request: Request<pb::RemoveReplicaRequest>,
    ) -> Result<Response<pb::RemoveReplicaResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        self.group(request.group).await?.remove(ReplicaId(request.replica)).await.map_err(refused)?;
        Ok(Response::new(pb::RemoveReplicaResponse {}))
    }

    async fn has_member(
        &self,
        request: Request<pb::HasMemberRequest>,
    ) -> Result<Response<pb::HasMemberResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let group = self.group(request.group).await?;
        let member = group.has_member(ReplicaId(request.replica)).await.map_err(refused)?;
        Ok(Response::new(pb::HasMemberResponse { member }))
    }

    async fn add_learner(
        &self,
        request: Request<pb::AddLearnerRequest>,
    ) -> Result<Response<pb::AddLearnerResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(request.group).await?;
        group.add_learner(ReplicaId(request.replica), NodeId(request.node)).await.map_err(refused)?;
        Ok(Response::new(pb::AddLearnerResponse {}))
    }

    async fn change_voters(
        &self,
        request: Request<pb::ChangeVotersRequest>,
    ) -> Result<Response<pb::ChangeVotersResponse>, Status> {
        let request = request.into_inner();
        let voters: BTreeSet<ReplicaId> = request.replicas.into_iter().map(ReplicaId).collect();
        self.group(request.group).await?.change_voters(voters).await.map_err(refused)?;
        Ok(Response::new(pb::ChangeVotersResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.group(request.group)
            .await?
            .transfer_leader(ReplicaId(request.replica))
            .await
            .map_err(refused)?;
        Ok(Response::new(pb::TransferLeaderResponse {}))
    }

    async fn ask_shard(
        &self,
        request: Request<pb::AskShardRequest>,
    ) -> Result<Response<pb::AskShardResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let request = request.request.ok_or_else(|| Status::invalid_argument("an empty request"))?;
        Ok(Response::new(pb::AskShardResponse { response: Some(self.shards.handle(request).await) }))
    }

    async fn await_frozen(
        &self,
        request: Request<pb::AwaitFrozenRequest>,
    ) -> Result<Response<pb::AwaitFrozenResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        if request.epoch != 0 {
            self.until_frozen(GroupId(request.group), request.epoch).await?;
        }
        self.multi.make_durable().await.map_err(refused)?;
        Ok(Response::new(pb::AwaitFrozenResponse {}))
    }

    async fn report_now(
        &self,
        request: Request<pb::ReportNowRequest>,
    ) -> Result<Response<pb::ReportNowResponse>, Status> {
        self.check_cluster(&request.into_inner().cluster_id)?;
        self.client.hurry();
        Ok(Response::new(pb::ReportNowResponse {}))
    }
}
