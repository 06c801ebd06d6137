//! The gRPC service `Admin`, which every node serves from its first moment on.

use std::sync::{Arc, OnceLock};

use meta::MetaClient;
use proto::admin as pb;
use proto::admin::admin_server as service;
use proto::meta::Addresses;
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
        request: Request<proto::meta::ChangeSettingsRequest>,
    ) -> Result<Response<proto::meta::ChangeSettingsResponse>, Status> {
        let membership = self.membership.get();
        let membership = membership.ok_or_else(|| Status::from(meta::Error::NotInitialised))?;
        let request = request.into_inner();
        membership.meta.change_setting(&request.name, &request.value).await?;
        Ok(Response::new(proto::meta::ChangeSettingsResponse {}))
    }

    async fn cluster(&self, _: Request<pb::ClusterRequest>) -> Result<Response<pb::ClusterResponse>, Status> {
        let membership = self.membership.get();
        let membership = membership.ok_or_else(|| Status::from(meta::Error::NotInitialised))?;
        let cluster = membership.meta.describe().await?;
        Ok(Response::new(pb::ClusterResponse { cluster: Some(cluster) }))
    }
}
