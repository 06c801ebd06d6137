//! Carries out what placement plans.
//!
//! The loop runs on every node and works only where the meta-group is led. Each round it describes the cluster from
//! the replicated state and the last reports, asks [`placement::plan`], and starts each operation as a task of its
//! own. A group with an operation under way is *busy* until the operation has ended and a report from after its end
//! has come in (or did not come for a while), so that no plan is made from what was true before.
//!
//! Nothing here is remembered across a change of leader: an operation that was cut off half-way is planned again, and
//! each of its steps can be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::admin as rpc;
use proto::admin::node_control_client::NodeControlClient;
use proto::meta as pb;
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, info};

use crate::Error;
use crate::placement::{self, Description, Operation};
use crate::rpc::{Channels, within};
use crate::server::{DEAD_AFTER, MetaServer, Soft};
use crate::settings::Settings;

/// Between two rounds while there is work.
const BUSY_TICK: Duration = Duration::from_millis(100);
/// Between two rounds otherwise.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// A replica that lacks no more entries than this counts as caught up.
const LAG_MAX: u64 = 1_000;
/// After an operation, a report must come within this time, or the group is planned for without one.
const SETTLE: Duration = Duration::from_secs(2);
/// So long after a node's death its return is awaited before leaders are spread over the others.
const AWAITED: Duration = Duration::from_secs(60);
/// A group whose leader has just changed keeps it for so long: where elections follow each other, the nodes are
/// overloaded, and moving leaders makes it worse.
const REST: Duration = Duration::from_secs(10);
/// Up to this term a group is new, and may find its place at once.
const YOUNG_TERM: u64 = 2;
/// An operation that failed is not tried again at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(300);
/// An operation's RPC takes no longer; a change of members waits for the log to be committed under the new ones.
const OPERATION_LIMIT: Duration = Duration::from_secs(10);

/// What is known of an operation on a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Underway {
    /// It has not ended.
    Running,
    /// It has ended; a report from later than that is awaited.
    Ended(Instant),
    /// It failed; the group is left alone until then.
    Failed(Instant),
}

/// Runs until cancelled.
pub async fn run(server: Arc<MetaServer>, stop: CancellationToken) {
    let channels = Arc::new(Channels::new(&server.seams));
    let mut leading = server.replica.leading();
    loop {
        // `changed` fails only when the replica is gone, and then so is this loop's reason.
        let led = leading.borrow_and_update().is_some();
        let busy = led && round(&server, &channels);
        let tick = if busy { BUSY_TICK } else { IDLE_TICK };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leading.changed() => if changed.is_err() { return },
            () = server.seams.sleep(tick) => {}
            () = server.nudge.notified() => {}
        }
    }
}

/// One round; returns whether there is work under way.
fn round(server: &Arc<MetaServer>, channels: &Arc<Channels>) -> bool {
    let planned = server.with_soft(|soft, now| {
        soft.forget_settled(now);
        let operations = placement::plan(&describe_cluster(server, soft, now));
        for operation in &operations {
            soft.operations.insert(operation.group(), Underway::Running);
        }
        (operations, !soft.operations.is_empty())
    });
    let Ok((operations, busy)) = planned else { return false };
    // Several learners of one group are one task: its changes of members can't overlap.
    let mut by_group: BTreeMap<GroupId, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        by_group.entry(operation.group()).or_default().push(operation);
    }
    for (group, operations) in by_group {
        let (server, channels) = (server.clone(), channels.clone());
        server.seams.clone().spawn("reconcile", async move {
            let mut outcome = Ok(());
            for operation in &operations {
                outcome = execute(&server, &channels, operation).await;
                match &outcome {
                    Ok(()) => info!("{operation}"),
                    Err(error) => {
                        debug!("{operation}: not now: {error}");
                        break;
                    }
                }
            }
            let now = server.seams.clock.now();
            let state = if outcome.is_ok() { Underway::Ended(now) } else { Underway::Failed(now) };
            // No longer leading: the next leader plans from what is.
            let _ = server.with_soft(|soft, _| soft.operations.insert(group, state));
            server.nudge.notify_one();
        });
    }
    busy
}

impl Soft {
    fn forget_settled(&mut self, now: Instant) {
        let groups = &self.groups;
        self.operations.retain(|group, state| match *state {
            Underway::Running => true,
            Underway::Ended(at) => {
                let seen = groups.get(group).is_some_and(|known| known.at > at);
                !seen && now - at < SETTLE
            }
            Underway::Failed(at) => now - at < FAILURE_PAUSE,
        });
    }
}

/// What would be done now.
pub(crate) fn describe(server: &MetaServer) -> Result<Vec<Operation>, Error> {
    server.with_soft(|soft, now| placement::plan(&describe_cluster(server, soft, now)))
}

fn describe_cluster(server: &MetaServer, soft: &Soft, now: Instant) -> Description {
    server.replica.read(|state| {
        let factor = Settings::new(state.settings()).replication_factor();
        let nodes = state.nodes().keys().map(|id| (*id, soft.alive(*id, now))).collect();
        let shards = state.shards().iter().map(|(id, shard)| (*id, shard.descriptor.as_ref()));
        let groups = std::iter::once((META_GROUP, None)).chain(shards).map(|(id, descriptor)| {
            let reported = soft.groups.get(&id);
            let replica = |r: &pb::ReplicaProgress| {
                let (node, voter) = (NodeId(r.node), !r.learner);
                let caught_up = r.reachable && r.lag <= LAG_MAX;
                (ReplicaId(r.replica), placement::Replica { node, voter, caught_up })
            };
            let group = placement::Group {
                family: descriptor.and_then(family),
                leader: reported.map(|r| r.by),
                replicas: reported
                    .map(|r| r.report.replicas.iter().map(replica).collect())
                    .unwrap_or_default(),
                busy: soft.operations.contains_key(&id),
                restless: reported.is_some_and(|r| r.report.term > YOUNG_TERM && now - r.since < REST),
            };
            (id, group)
        });
        let groups: BTreeMap<_, _> = groups.collect();
        // A leader of the meta-group that is new to it waits for what the others report; and while leaders move, who
        // leads how much is not known: moving more of them by half the truth would never come to rest.
        let fresh = now - soft.since < DEAD_AFTER;
        let unheard = state.nodes().keys().any(|id| !soft.last_seen.contains_key(id));
        let unknown = fresh && (unheard || groups.values().any(|g| g.leader.is_none()));
        let moving = soft.between_leaders.values().any(|since| now - *since < DEAD_AFTER);
        // A node that has gone is likely to come back. Until then leaders stay where elections have put them.
        let silent = |id: &NodeId| now - soft.last_seen.get(id).copied().unwrap_or(soft.since);
        let awaited = state.nodes().keys().any(|id| !soft.alive(*id, now) && silent(id) < AWAITED);
        let incomplete = unknown || moving || awaited || !soft.operations.is_empty();
        Description { replication_factor: factor, nodes, groups, incomplete }
    })
}

/// The table (database and table id, four bytes each) that a shard begins in. A shard that begins at a database's start
/// is spread against nothing in particular.
fn family(descriptor: &proto::common::ShardDescriptor) -> Option<bytes::Bytes> {
    const TABLE_PREFIX: usize = 8;
    let start = &descriptor.start;
    (start.len() >= TABLE_PREFIX).then(|| start.slice(..TABLE_PREFIX))
}

async fn execute(server: &Arc<MetaServer>, channels: &Channels, operation: &Operation) -> Result<(), Error> {
    let group = operation.group();
    let leader = server.with_soft(|soft, _| soft.groups.get(&group).map(|known| known.by))?;
    let leader = leader.ok_or_else(|| Error::Unavailable(format!("{group} has no known leader")))?;
    let mut to_leader = control(server, channels, leader)?;
    match operation {
        Operation::AddLearner { node, .. } => {
            let replica = server.allocate(0, 1).await?.first_replica;
            let cluster_id = server.replica.read(|state| state.cluster().cluster_id.clone());
            let mut to_new = control(server, channels, *node)?;
            let create = rpc::CreateReplicaRequest { cluster_id, group: group.0, replica };
            let created = within(&server.seams, OPERATION_LIMIT, to_new.create_replica(create)).await?;
            let replica = created.into_inner().replica;
            let add = rpc::AddLearnerRequest { group: group.0, replica, node: node.0 };
            within(&server.seams, OPERATION_LIMIT, to_leader.add_learner(add)).await?;
        }
        Operation::Promote { voters, .. } => {
            let replicas = voters.iter().map(|r| r.0).collect();
            let change = rpc::ChangeVotersRequest { group: group.0, replicas };
            within(&server.seams, OPERATION_LIMIT, to_leader.change_voters(change)).await?;
        }
        Operation::TransferLeader { replica, .. } => {
            let transfer = rpc::TransferLeaderRequest { group: group.0, replica: replica.0 };
            within(&server.seams, OPERATION_LIMIT, to_leader.transfer_leader(transfer)).await?;
        }
    }
    Ok(())
}

fn control(
    server: &MetaServer,
    channels: &Channels,
    node: NodeId,
) -> Result<NodeControlClient<Channel>, Error> {
    let address = server.replica.read(|state| {
        state.nodes().get(&node).and_then(|n| n.addresses.as_ref()).map(|addresses| addresses.rpc.clone())
    });
    let address = address.ok_or_else(|| Error::Unavailable(format!("the address of {node} is not known")))?;
    Ok(NodeControlClient::new(channels.get(&address)?))
}
