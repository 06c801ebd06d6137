//! The gRPC service `Admin`, which every node serves from its first moment on.

use std::sync::{Arc, OnceLock};

use meta::MetaClient;
use proto::admin as pb;
use proto::admin::admin_server as service;
use proto::meta::{self as meta_pb, Addresses};
use storage::ids::NodeId;
use tokio::sync::{mpsc, oneshot};
use tonic::async_trait;
use tonic::{Request, Response, Status};

use super::readiness::Readiness;

/// Somebody wants this node to be the first of a cluster.
pub struct InitWish {
    /// Voters per group.
    pub replication_factor: u32,
    /// Whom to tell: the new cluster's id, or why not.
    pub answer: oneshot::Sender<Result<u128, String>>,
}

/// What the node has become.
pub struct Membership {
    /// The cluster.
    pub cluster_id: u128,
    /// This node.
    pub node: NodeId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The way to the meta-group.
    pub meta: Arc<MetaClient>,
}

/// The service.
pub struct Admin {
    membership: Arc<OnceLock<Membership>>,
    readiness: Arc<Readiness>,
    wishes: mpsc::Sender<InitWish>,
}

impl Admin {
    /// The tonic service to mount. It learns of the node's membership through `membership`.
    pub fn service(
        membership: Arc<OnceLock<Membership>>,
        readiness: Arc<Readiness>,
        wishes: mpsc::Sender<InitWish>,
    ) -> service::AdminServer<Self> {
        service::AdminServer::new(Self { membership, readiness, wishes })
    }

    fn meta(&self) -> Result<&MetaClient, Status> {
        let membership = self.membership.get();
        membership.map(|m| &*m.meta).ok_or_else(|| Status::from(meta::Error::NotInitialised))
    }
}

#[async_trait]
impl service::Admin for Admin {
    async fn init(&self, request: Request<pb::InitRequest>) -> Result<Response<pb::InitResponse>, Status> {
        if let Some(membership) = self.membership.get() {
            return Err(Status::already_exists(format!(
                "the cluster is already initialised: this node is {} of cluster {:032x}",
                membership.node, membership.cluster_id
            )));
        }
        let replication_factor = match request.into_inner().replication_factor {
            0 => meta::REPLICATION_FACTOR,
            factor => factor,
        };
        let (answer, told) = oneshot::channel();
        // The receiver is gone once the node belongs to a cluster: somebody was faster.
        let faster = || Status::already_exists("the cluster is already initialised");
        self.wishes.send(InitWish { replication_factor, answer }).await.map_err(|_| faster())?;
        match told.await {
            Ok(Ok(cluster_id)) => Ok(Response::new(pb::InitResponse {
                cluster_id: cluster_id.to_be_bytes().to_vec().into(),
                node: meta::FIRST_NODE.0,
            })),
            Ok(Err(why)) => Err(Status::internal(why)),
            Err(_) => Err(faster()),
        }
    }

    async fn node(&self, _: Request<pb::NodeRequest>) -> Result<Response<pb::NodeResponse>, Status> {
        let reason = self.readiness.reason();
        let membership = self.membership.get();
        Ok(Response::new(pb::NodeResponse {
            cluster_id: membership.map(|m| m.cluster_id.to_be_bytes().to_vec().into()).unwrap_or_default(),
            node: membership.map_or(0, |m| m.node.0),
            version: env!("CARGO_PKG_VERSION").into(),
            ready: reason.is_none(),
            reason: reason.unwrap_or_default(),
            addresses: membership.map(|m| m.addresses.clone()),
            nodes: membership.map(|m| m.meta.remembered_map().nodes).unwrap_or_default(),
        }))
    }

    async fn change_settings(
        &self,
        request: Request<meta_pb::ChangeSettingsRequest>,
    ) -> Result<Response<meta_pb::ChangeSettingsResponse>, Status> {
        let request = request.into_inner();
        self.meta()?.change_setting(&request.name, &request.value).await?;
        Ok(Response::new(meta_pb::ChangeSettingsResponse {}))
    }

    async fn change_duty(
        &self,
        request: Request<meta_pb::ChangeDutyRequest>,
    ) -> Result<Response<meta_pb::ChangeDutyResponse>, Status> {
        Ok(Response::new(self.meta()?.change_duty(request.into_inner()).await?))
    }

    async fn r#move(
        &self,
        request: Request<meta_pb::MoveRequest>,
    ) -> Result<Response<meta_pb::MoveResponse>, Status> {
        Ok(Response::new(self.meta()?.begin_move(request.into_inner()).await?))
    }

    async fn cancel(
        &self,
        request: Request<meta_pb::CancelRequest>,
    ) -> Result<Response<meta_pb::CancelResponse>, Status> {
        Ok(Response::new(self.meta()?.cancel(request.into_inner()).await?))
    }

    async fn transfer(
        &self,
        request: Request<meta_pb::TransferRequest>,
    ) -> Result<Response<meta_pb::TransferResponse>, Status> {
        Ok(Response::new(self.meta()?.transfer(request.into_inner()).await?))
    }

    async fn repair(
        &self,
        request: Request<meta_pb::RepairRequest>,
    ) -> Result<Response<meta_pb::RepairResponse>, Status> {
        Ok(Response::new(self.meta()?.repair(request.into_inner()).await?))
    }

    async fn split(
        &self,
        request: Request<meta_pb::SplitRequest>,
    ) -> Result<Response<meta_pb::SplitResponse>, Status> {
        Ok(Response::new(self.meta()?.split(request.into_inner()).await?))
    }

    async fn merge(
        &self,
        request: Request<meta_pb::MergeRequest>,
    ) -> Result<Response<meta_pb::MergeResponse>, Status> {
        Ok(Response::new(self.meta()?.merge(request.into_inner()).await?))
    }

    async fn cluster(
        &self,
        request: Request<pb::ClusterRequest>,
    ) -> Result<Response<pb::ClusterResponse>, Status> {
        let without_plan = request.into_inner().without_plan;
        let cluster = self.meta()?.describe_as(meta_pb::DescribeRequest { without_plan }).await?;
        Ok(Response::new(pb::ClusterResponse { cluster: Some(cluster) }))
    }
}
