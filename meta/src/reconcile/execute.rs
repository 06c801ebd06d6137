//! One step, carried out: requests to nodes, each of which may be repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::admin as rpc;
use proto::admin::node_control_client::NodeControlClient;
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, NodeId, ReplicaId};
use tonic::transport::Channel;
use tracing::debug;

use super::reshape::{self, Cut};
use crate::Error;
use crate::placement::Operation;
use crate::rpc::{Channels, within};
use crate::server::MetaServer;
use crate::settings::Settings;

/// An operation's RPC takes no longer; a change of members waits for the log to be committed under the new ones.
pub(crate) const OPERATION_LIMIT: Duration = Duration::from_secs(10);

/// A step on the way: whom to ask, and the cluster's name, without which nobody does anything.
pub(super) struct Executor<'e> {
    pub(super) server: &'e MetaServer,
    channels: &'e Channels,
    pub(super) cluster_id: Bytes,
    pub(super) group: GroupId,
    pub(super) leader: NodeId,
}

impl<'e> Executor<'e> {
    /// For a group that has a known leader.
    pub(super) fn of(server: &'e MetaServer, channels: &'e Channels, group: GroupId) -> Result<Self, Error> {
        let leader = server.with_soft(|soft, _| soft.groups.get(&group).map(|known| known.by))?;
        let leader = leader.ok_or_else(|| Error::Unavailable(format!("{group} has no known leader")))?;
        let cluster_id = server.replica.read(|state| state.cluster().cluster_id.clone());
        Ok(Self { server, channels, cluster_id, group, leader })
    }
}

pub(super) async fn execute(
    server: &Arc<MetaServer>,
    channels: &Channels,
    operation: &Operation,
) -> Result<(), Error> {
    match operation {
        Operation::Split { group } => split(server, channels, *group).await,
        Operation::Merge { group, right } => reshape::merge(server, channels, *group, *right).await,
        _ => Executor::of(server, channels, operation.group())?.execute(operation).await,
    }
}

/// By itself: if it is not too large, it is asked too much, or something that takes too long.
async fn split(server: &Arc<MetaServer>, channels: &Channels, group: GroupId) -> Result<(), Error> {
    let load = server.with_soft(|soft, now| soft.load_of(group, now))?;
    let load = load.unwrap_or_default();
    let settings = server.replica.read(|state| Settings::new(state.settings()));
    let requests = u64::from(load.reads_per_second) + u64::from(load.writes_per_second);
    let large = load.bytes.unwrap_or(0) > settings.shard_bytes();
    let hot = requests > settings.shard_load();
    let busy = u64::from(load.cpu_ms_per_second) > settings.shard_cpu_ms();
    let cut = match (large, hot, busy) {
        (true, _, _) => Cut::Bytes,
        (false, false, true) => Cut::Cpu,
        (false, _, _) => Cut::Load,
    };
    let outcome = match reshape::choose(server, channels, group, cut).await {
        Ok(key) => reshape::split(server, channels, group, key, true).await,
        Err(error) => Err(error),
    };
    // One that can't be split is left alone for a while, too.
    server.with_soft(|soft, now| soft.reshaped.insert(group, now))?;
    outcome.map(|_| ())
}

impl Executor<'_> {
    async fn execute(&self, operation: &Operation) -> Result<(), Error> {
        let seams = &self.server.seams;
        let group = self.group.0;
        let mut to_leader = self.control(self.leader)?;
        match operation {
            Operation::AddLearner { node, .. } => {
                let replica = self.server.allocate(0, 1).await?.first_replica;
                fail_point::pass(FailPoint::ReplicaAllotted);
                let (cluster_id, leader) = (self.cluster_id.clone(), self.leader.0);
                let mut to_new = self.control(*node)?;
                let create = rpc::CreateReplicaRequest { cluster_id, group, replica, leader };
                within(seams, OPERATION_LIMIT, to_new.create_replica(create)).await?;
                fail_point::pass(FailPoint::ReplicaMade);
                let add = rpc::AddLearnerRequest { group, replica, node: node.0 };
                within(seams, OPERATION_LIMIT, to_leader.add_learner(add)).await?;
                fail_point::pass(FailPoint::LearnerAdded);
            }
            Operation::ChangeVoters { voters, .. } => {
                let before = self.voters()?;
                let change =
                    rpc::ChangeVotersRequest { group, replicas: voters.iter().map(|r| r.0).collect() };
                within(seams, OPERATION_LIMIT, to_leader.change_voters(change)).await?;
                fail_point::pass(FailPoint::VotersChanged);
                for (replica, node) in before {
                    if !voters.contains(&replica) {
                        self.destroy(replica, node).await;
                    }
                }
            }
            Operation::RemoveReplica { replica, node, .. } => {
                let cluster_id = self.cluster_id.clone();
                let remove = rpc::RemoveReplicaRequest { cluster_id, group, replica: replica.0 };
                within(seams, OPERATION_LIMIT, to_leader.remove_replica(remove)).await?;
                self.destroy(*replica, *node).await;
            }
            Operation::TransferLeader { replica, .. } => {
                let transfer = rpc::TransferLeaderRequest { group, replica: replica.0 };
                within(seams, OPERATION_LIMIT, to_leader.transfer_leader(transfer)).await?;
                fail_point::pass(FailPoint::LeaderMoved);
            }
            Operation::Split { .. } | Operation::Merge { .. } => {
                return Err(Error::Rejected(format!("{operation}: that is not done by the leader alone")));
            }
        }
        Ok(())
    }

    fn voters(&self) -> Result<Vec<(ReplicaId, NodeId)>, Error> {
        self.server.with_soft(|soft, _| {
            let reported = soft.groups.get(&self.group).map(|known| &known.report.replicas);
            let voters = reported.into_iter().flatten().filter(|r| !r.learner);
            voters.map(|r| (ReplicaId(r.replica), NodeId(r.node))).collect()
        })
    }

    /// A node that does not do it now does it by itself when it finds out.
    async fn destroy(&self, replica: ReplicaId, node: NodeId) {
        let live = self.server.with_soft(|soft, now| soft.alive(node, now));
        if !live.unwrap_or(false) {
            return;
        }
        let request = rpc::DestroyReplicaRequest {
            cluster_id: self.cluster_id.clone(),
            group: self.group.0,
            replica: replica.0,
            leader: self.leader.0,
        };
        let outcome = match self.control(node) {
            Ok(mut control) => within(&self.server.seams, OPERATION_LIMIT, control.destroy_replica(request))
                .await
                .map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            debug!("{}: {replica} stays on {node} for now: {error}", self.group);
        }
    }

    pub(super) fn control(&self, node: NodeId) -> Result<NodeControlClient<Channel>, Error> {
        let address = self.server.replica.read(|state| {
            let known = state.nodes().get(&node).and_then(|n| n.addresses.as_ref());
            known.map(|addresses| addresses.rpc.clone())
        });
        let address =
            address.ok_or_else(|| Error::Unavailable(format!("the address of {node} is not known")))?;
        Ok(NodeControlClient::new(self.channels.get(&address)?))
    }
}
