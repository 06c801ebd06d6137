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
use crate::placement::{self, Bands, Capabilities, Description, Duty, Health, Operation, Plan, Policy};
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
        let plan = placement::plan(&describe_cluster(server, soft, now), &policy());
        let operations: Vec<Operation> = plan.operations().cloned().collect();
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
pub(crate) fn describe(server: &MetaServer) -> Result<Plan, Error> {
    server.with_soft(|soft, now| placement::plan(&describe_cluster(server, soft, now), &policy()))
}

/// What this version can carry out: groups grow, leaders move. Replicas are not replaced yet (what a removed one leaves
/// on its node is not cleaned up), and splits are made by command only. Leaders are spread by number; by load they will
/// be when hot shards are split, too.
fn policy() -> Policy {
    let can = Capabilities { grow: true, transfer: true, ..Capabilities::NONE };
    let bands = Bands { led_load: f64::INFINITY, ..Bands::default() };
    // New groups are small, and a node that joins shall have its replicas within seconds.
    Policy { can, bands, moves_per_node_max: 64, ..Policy::default() }
}

fn describe_cluster(server: &MetaServer, soft: &Soft, now: Instant) -> Description {
    server.replica.read(|state| {
        let replicas = Settings::new(state.settings()).replication_factor();
        let nodes: Vec<NodeId> = state.nodes().keys().copied().collect();
        let shards = state.shards().iter().map(|(id, shard)| (*id, shard.descriptor.as_ref()));
        let mut shards: Vec<_> = shards.collect();
        shards.sort_by_key(|(id, descriptor)| (descriptor.map(|d| &d.start), *id));
        let groups = std::iter::once((META_GROUP, None)).chain(shards);
        let groups: Vec<_> = groups.map(|(id, d)| describe_group(id, d, soft, now)).collect();
        // A leader of the meta-group that is new to it waits for what the others report; and while leaders move, who
        // leads how much is not known: moving more of them by half the truth would never come to rest.
        let fresh = now - soft.since < DEAD_AFTER;
        let unheard = nodes.iter().any(|id| !soft.last_seen.contains_key(id));
        let unknown = fresh && (unheard || groups.iter().any(|g| g.leader.is_none()));
        let moving = soft.between_leaders.values().any(|since| now - *since < DEAD_AFTER);
        // A node that has gone is likely to come back. Until then leaders stay where elections have put them.
        let silent = |id: &NodeId| now - soft.last_seen.get(id).copied().unwrap_or(soft.since);
        let awaited = nodes.iter().any(|id| !soft.alive(*id, now) && silent(id) < AWAITED);
        Description {
            nodes: nodes.into_iter().map(|id| describe_node(id, soft, now)).collect(),
            groups,
            rules: vec![placement::Rule { replicas, ..placement::Rule::default() }],
            incomplete: unknown || moving || awaited || !soft.operations.is_empty(),
            salt: (now - soft.since).as_secs(),
        }
    })
}

fn describe_node(id: NodeId, soft: &Soft, now: Instant) -> placement::Node {
    let heard = soft.last_seen.get(&id).copied().unwrap_or(soft.since);
    // A node of which it is not known where it stands is given nothing: its first report is awaited.
    let facts = soft.facts.get(&id);
    let health = match facts.is_some() && soft.alive(id, now) {
        true => Health::Live,
        false => Health::Down(now - heard),
    };
    let facts = facts.cloned().unwrap_or_default();
    placement::Node {
        id,
        health,
        duty: Duty::Serving,
        // The node has checked it; from another version, what isn't understood is as good as not said.
        locality: facts.locality.parse().unwrap_or_default(),
        capacity_bytes: facts.capacity_bytes,
        used_bytes: facts.used_bytes,
    }
}

fn describe_group(
    id: GroupId,
    descriptor: Option<&proto::common::ShardDescriptor>,
    soft: &Soft,
    now: Instant,
) -> placement::Group {
    let mut group = placement::Group::new(id);
    group.family = descriptor.and_then(family);
    group.busy = soft.operations.contains_key(&id);
    let Some(reported) = soft.groups.get(&id) else { return group };
    let replica = |r: &pb::ReplicaProgress| placement::Replica {
        voter: !r.learner,
        caught_up: r.reachable && r.lag <= LAG_MAX,
        ..placement::Replica::voter(ReplicaId(r.replica), NodeId(r.node))
    };
    group.leader = Some(reported.by);
    group.replicas = reported.report.replicas.iter().map(replica).collect();
    group.restless = reported.report.term > YOUNG_TERM && now - reported.since < REST;
    let load = reported.report.load.unwrap_or_default();
    group.bytes = load.bytes;
    group.load = placement::Load { reads: load.reads_per_second, writes: load.writes_per_second };
    group
}

/// The table (database and table id, four bytes each) that a shard begins in. A shard that begins at a database's start
/// is spread against nothing in particular.
fn family(descriptor: &proto::common::ShardDescriptor) -> Option<placement::Family> {
    let prefix = descriptor.start.first_chunk()?;
    Some(placement::Family(u64::from_be_bytes(*prefix)))
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
        Operation::ChangeVoters { voters, .. } => {
            let replicas = voters.iter().map(|r| r.0).collect();
            let change = rpc::ChangeVotersRequest { group: group.0, replicas };
            within(&server.seams, OPERATION_LIMIT, to_leader.change_voters(change)).await?;
        }
        Operation::TransferLeader { replica, .. } => {
            let transfer = rpc::TransferLeaderRequest { group: group.0, replica: replica.0 };
            within(&server.seams, OPERATION_LIMIT, to_leader.transfer_leader(transfer)).await?;
        }
        Operation::RemoveReplica { .. } | Operation::Split { .. } | Operation::Merge { .. } => {
            return Err(Error::Rejected(format!("{operation}: this version plans no such thing")));
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
