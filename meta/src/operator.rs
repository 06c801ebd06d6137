//! What operators see and want: the cluster in full, duties of nodes, moves, transfers, repairs.
//!
//! All of it is answered by the meta-group's leader. Duties and moves are replicated and survive it, and so does that a node is
//! not awaited any longer; a transfer is done at once or not at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::admin as rpc;
use proto::admin::node_control_client::NodeControlClient;
use proto::meta::change_duty::Change;
use proto::meta::command::Command;
use proto::meta::{self as pb, NodeDuty};
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};
use tracing::debug;

use crate::Error;
use crate::cancel::{self, Named};
use crate::placement::{Operation, Plan};
use crate::reconcile::moves::Next;
use crate::reconcile::{self, Phase};
use crate::room::{self, Shortage};
use crate::rpc::{Channels, within};
use crate::server::{MetaServer, Soft};
use crate::state::State;

/// How often, and how soon, a transfer is tried again that a leader refused who is none any more.
const TRANSFER_TRIES: usize = 3;
const TRANSFER_PAUSE: Duration = Duration::from_millis(400);
/// So long a node is told that something else is wanted of it.
const HURRY_LIMIT: Duration = Duration::from_secs(1);

impl MetaServer {
    /// Everything an operator may want to see.
    pub fn describe(&self, request: pb::DescribeRequest) -> Result<pb::DescribeResponse, Error> {
        self.lead()?;
        let (cluster, mut response) = self.with_soft(|soft, now| {
            let cluster = reconcile::description(self, soft, now);
            let operations = self.operations(soft, now);
            let wanted = reconcile::wanted_replicas(&cluster);
            let response = self.replica.read(|state| {
                let mut groups = Vec::new();
                let shards = state.shards().iter();
                let shards = shards.map(|(id, shard)| (*id, shard.descriptor.clone(), shard.automatic));
                for (id, descriptor, automatic) in std::iter::once((META_GROUP, None, false)).chain(shards) {
                    let reported = soft.groups.get(&id);
                    groups.push(pb::GroupStatus {
                        group: id.0,
                        descriptor,
                        leader_node: reported.filter(|r| soft.alive(r.by, now)).map_or(0, |r| r.by.0),
                        term: reported.map_or(0, |r| r.report.term),
                        replicas: reported.map(|r| r.report.replicas.clone()).unwrap_or_default(),
                        load: soft.load_of(id, now),
                        joint: reported.is_some_and(|r| r.report.joint),
                        wanted: wanted.get(&id).copied().unwrap_or(0) as u32,
                        automatic,
                    });
                }
                let held = held(state, soft, now);
                let node = |(id, node): (&NodeId, &pb::Node)| pb::NodeStatus {
                    id: id.0,
                    addresses: node.addresses.clone(),
                    alive: soft.alive(*id, now),
                    silent_ms: soft.last_seen.get(id).map(|seen| (now - *seen).as_millis() as u64),
                    replicas: held.replicas(*id),
                    leaders: held.leaders(*id),
                    facts: soft.facts.get(id).cloned(),
                    duty: node.duty,
                };
                pb::DescribeResponse {
                    cluster_id: state.cluster().cluster_id.clone(),
                    settings: Some(state.settings()),
                    nodes: state.nodes().iter().map(node).collect(),
                    groups,
                    operations,
                    ..Default::default()
                }
            });
            (cluster, response)
        })?;
        if !request.without_plan {
            // Nobody's report waits for it.
            let plan = reconcile::plan(self, &cluster, "operator");
            response.planned = plan.steps.iter().map(ToString::to_string).collect();
            response.plan = Some(plan_to_pb(&plan));
        }
        Ok(response)
    }

    /// What is under way: what operators have begun, and the steps of placement.
    fn operations(&self, soft: &Soft, now: Instant) -> Vec<pb::Operation> {
        let mut list = Vec::new();
        let (moves, merges) = reconcile::wanted(self, soft, now);
        for (wanted, next) in moves {
            let state = match next {
                Next::Step(step) => step.to_string(),
                Next::Wait(what) => what.to_owned(),
                Next::Done => "done".to_owned(),
                Next::Impossible(why) => why,
            };
            list.push(pb::Operation {
                id: format!("move-{}", wanted.id),
                kind: "move".into(),
                subject: format!("g{} from n{} to n{}", wanted.group, wanted.from, wanted.to),
                state,
                moving: Some(wanted),
            });
        }
        for (wanted, next) in merges {
            let underway = [wanted.left, wanted.right].map(|group| soft.operations.get(&GroupId(group)));
            let running = underway.into_iter().flatten().find(|u| matches!(u.state, Phase::Running));
            let state = match (running, next) {
                (Some(running), _) => running.what.clone(),
                (None, Next::Step(step)) => step.to_string(),
                (None, Next::Wait(what)) => what.to_owned(),
                (None, Next::Done) => "done".to_owned(),
                (None, Next::Impossible(why)) => why,
            };
            let subject = format!("g{} absorbs g{}", wanted.left, wanted.right);
            list.push(pb::Operation {
                id: format!("merge-{}", wanted.id),
                kind: "merge".into(),
                subject,
                state,
                moving: None,
            });
        }
        self.replica.read(|state| {
            let held = held(state, soft, now);
            let unled = match held.unled {
                0 => String::new(),
                groups => format!("; {groups} shards have no leader to say what it has of them"),
            };
            for (id, node) in state.nodes() {
                let (replicas, leaders) = (held.replicas(*id), held.leaders(*id));
                let (kind, state) = match node.duty() {
                    NodeDuty::NodeDraining => {
                        // Those of a dead node are gone.
                        let facts = soft.facts.get(id).filter(|_| soft.alive(*id, now));
                        let sessions = facts.map_or(0, |facts| facts.sessions);
                        let state = match (leaders, sessions) {
                            (0, 0) => "leads nothing".to_owned(),
                            (0, _) => format!("leads nothing; {sessions} sessions to go"),
                            (_, 0) => format!("{leaders} leaders to go"),
                            _ => format!("{leaders} leaders and {sessions} sessions to go"),
                        };
                        ("drain", state)
                    }
                    NodeDuty::NodeDecommissioning => {
                        ("decommission", format!("{replicas} replicas to go{unled}"))
                    }
                    NodeDuty::NodeActive | NodeDuty::NodeDecommissioned => continue,
                };
                let (id, kind, subject) = (format!("{kind}-{}", id.0), kind.into(), id.to_string());
                list.push(pb::Operation { id, kind, subject, state, moving: None });
            }
        });
        let mut steps: Vec<_> = soft.operations.iter().collect();
        steps.sort_by_key(|(group, _)| **group);
        list.extend(steps.into_iter().map(|(group, underway)| pb::Operation {
            id: String::new(),
            kind: "step".into(),
            subject: group.to_string(),
            state: match &underway.state {
                Phase::Running => underway.what.clone(),
                Phase::Ended(_) => format!("{}: done", underway.what),
                Phase::Failed(_, why) => format!("{}: {why}", underway.what),
            },
            moving: None,
        }));
        list
    }

    /// Changes what is wanted of a node.
    pub async fn change_duty(&self, request: pb::ChangeDutyRequest) -> Result<pb::ChangeDutyResponse, Error> {
        let node = NodeId(request.node);
        let change = request.change();
        if change == Change::Emptied || change == Change::Unspecified {
            return Err(Error::Rejected("nobody may say that but the cluster itself".into()));
        }
        if matches!(change, Change::Decommission) && !request.force {
            self.must_do_without(node)?;
        }
        let command = pb::ChangeDuty { node: node.0, change: change.into() };
        self.propose(Command::ChangeDuty(command)).await?;
        self.nudge.notify_one();
        self.hurry(node);
        let duty = self.replica.read(|state| state.nodes().get(&node).map_or(0, |known| known.duty));
        Ok(pb::ChangeDutyResponse { duty })
    }

    /// Has a node hear now what is wanted of it. One that can't be reached, or is of an older version, hears of it with the answer to
    /// its next report.
    fn hurry(&self, node: NodeId) {
        let (address, cluster_id) = self.replica.read(|state| {
            let known = state.nodes().get(&node).and_then(|known| known.addresses.as_ref());
            (known.map(|addresses| addresses.rpc.clone()), state.cluster().cluster_id.clone())
        });
        let Some(address) = address else { return };
        let seams = self.seams.clone();
        self.seams.spawn("hurry a node", async move {
            let Ok(channel) = Channels::new(&seams).get(&address) else { return };
            let request = rpc::ReportNowRequest { cluster_id };
            let mut control = NodeControlClient::new(channel);
            if let Err(error) = within(&seams, HURRY_LIMIT, control.report_now(request)).await {
                debug!("{node} hears later what is wanted of it: {error}");
            }
        });
    }

    /// Whether the other nodes can hold as many replicas as are wanted.
    fn must_do_without(&self, node: NodeId) -> Result<(), Error> {
        let known = self.replica.read(|state| state.nodes().get(&node).map(|known| known.duty()));
        if matches!(known, None | Some(NodeDuty::NodeDecommissioning | NodeDuty::NodeDecommissioned)) {
            return Ok(());
        }
        let (cluster, unheard) = self.with_soft(|soft, now| {
            let unheard = |id: &NodeId| soft.alive(*id, now) && !soft.facts.contains_key(id);
            let unheard = self.replica.read(|state| state.nodes().keys().copied().find(unheard));
            (reconcile::description(self, soft, now), unheard)
        })?;
        if let Some(unheard) = unheard {
            return Err(Error::Unavailable(format!("{unheard} has not said yet where it stands")));
        }
        let Some(Shortage { group, wanted, room, own_rule }) = room::without(&cluster, node) else {
            return Ok(());
        };
        let lower = match own_rule {
            // It needs no more members than there are nodes: some of them are down.
            _ if group == META_GROUP => "bring those back that are down".to_owned(),
            true => format!("lower its table's (`ALTER TABLE … SET (replication_factor = {room})`)"),
            false => format!(
                "lower the replication factor (`flotilla admin settings set replication_factor {room}`)"
            ),
        };
        Err(Error::Rejected(format!(
            "{node} can't be emptied: {group} has {wanted} replicas, and only {room} other nodes can have one. \
             Start another node first, {lower}, or say --force to have {node} keep its replicas until there is room for them"
        )))
    }

    /// A replica shall move.
    pub async fn begin_move(&self, request: pb::MoveRequest) -> Result<pb::MoveResponse, Error> {
        let (group, from, to) = (GroupId(request.group), NodeId(request.from), NodeId(request.to));
        let known = self.with_soft(|soft, now| {
            let underway =
                self.replica.read(|state| state.cluster().moves.iter().any(|m| m.group == group.0));
            let reported = soft.groups.get(&group).map(|known| known.report.replicas.clone());
            reported.map(|replicas| (replicas, soft.alive(to, now), underway))
        })?;
        if let Some((replicas, live, false)) = &known {
            let list = || replicas.iter().map(|r| format!("n{}", r.node)).collect::<Vec<_>>().join(", ");
            let on = |node: NodeId| replicas.iter().find(|r| r.node == node.0);
            match (on(from), on(to)) {
                // It was done before.
                (None, Some(taker)) if !taker.learner => {
                    return Ok(pb::MoveResponse { operation: String::new() });
                }
                (None, _) => {
                    return Err(Error::Rejected(format!(
                        "{from} has no replica of {group}; they are on {}",
                        list()
                    )));
                }
                (Some(_), Some(taker)) if !taker.learner => {
                    return Err(Error::Rejected(format!(
                        "{to} has a replica of {group} already: {}",
                        list()
                    )));
                }
                // (A learner there is what an earlier attempt has left.)
                (Some(_), _) if *live => {}
                (Some(_), _) => {
                    return Err(Error::Rejected(format!("{to} is down, or is not a node of this cluster")));
                }
            }
        }
        let command = pb::BeginMove { group: group.0, from: from.0, to: to.0 };
        let result = self.propose(Command::BeginMove(command)).await?;
        self.nudge.notify_one();
        Ok(pb::MoveResponse { operation: format!("move-{}", result.r#move) })
    }

    /// Ends what an operator has begun, if it is under way.
    pub async fn cancel(&self, request: pb::CancelRequest) -> Result<pb::CancelResponse, Error> {
        // What another node knows may be of before.
        self.lead()?;
        match self.replica.read(|state| cancel::named(state, &request.operation)) {
            Named::Underway(end) => {
                self.propose(*end).await?;
                self.nudge.notify_one();
                Ok(pb::CancelResponse { over: false })
            }
            Named::Over => Ok(pb::CancelResponse { over: true }),
            Named::Unknown => Err(Error::Rejected(format!(
                "{:?} is no operation that can be cancelled; `flotilla admin operations` lists what is under way",
                request.operation
            ))),
        }
    }

    /// Another node shall lead a group. (Who leads is known from reports, which are of a moment ago: what is refused for that is
    /// tried again.)
    pub async fn transfer(
        self: &Arc<Self>,
        request: pb::TransferRequest,
    ) -> Result<pb::TransferResponse, Error> {
        let (group, to) = (GroupId(request.group), NodeId(request.to));
        let mut tries = 0;
        loop {
            let (leader, replica) = self.voter(group, to)?;
            if leader == to {
                return Ok(pb::TransferResponse { leader: to.0 });
            }
            let operation = Operation::TransferLeader { group, replica, node: to };
            match reconcile::carry_out(self, operation).await {
                Ok(_) => return Ok(pb::TransferResponse { leader: to.0 }),
                Err(Error::Unavailable(_)) if tries < TRANSFER_TRIES => tries += 1,
                Err(Error::Unavailable(why)) => {
                    return Err(Error::Rejected(format!("{group} keeps its leader for now: {why}")));
                }
                Err(error) => return Err(error),
            }
            self.seams.sleep(TRANSFER_PAUSE).await;
        }
    }

    /// A group's leader, and its replica on a node, which must have a vote.
    fn voter(&self, group: GroupId, node: NodeId) -> Result<(NodeId, ReplicaId), Error> {
        let known = self.with_soft(|soft, _| {
            let reported = soft.groups.get(&group)?;
            let voters = reported.report.replicas.iter().filter(|r| !r.learner);
            let voters: Vec<(ReplicaId, NodeId)> =
                voters.map(|r| (ReplicaId(r.replica), NodeId(r.node))).collect();
            Some((reported.by, voters))
        })?;
        let Some((leader, voters)) = known else {
            let exists = self.replica.read(|s| group == META_GROUP || s.shards().contains_key(&group));
            return Err(match exists {
                true => Error::Unavailable(format!("nobody is known to lead {group} now; try again")),
                false => {
                    Error::Rejected(format!("there is no shard {group}; `flotilla admin shards` lists them"))
                }
            });
        };
        match voters.iter().find(|(_, host)| *host == node) {
            Some((replica, _)) => Ok((leader, *replica)),
            None => {
                let nodes: Vec<String> = voters.iter().map(|(_, host)| host.to_string()).collect();
                Err(Error::Rejected(format!(
                    "{node} has no vote in {group}; {} have (`flotilla admin move` brings a replica to it)",
                    nodes.join(", ")
                )))
            }
        }
    }

    /// Nodes that are down are not awaited any longer.
    pub async fn repair(&self, request: pb::RepairRequest) -> Result<pb::RepairResponse, Error> {
        let wanted = |id: NodeId| request.node == 0 || id.0 == request.node;
        let wall_ms = self.seams.clock.wall_ms();
        let down = self.with_soft(|soft, now| {
            self.replica.read(|state| reconcile::absence::give_up(state, soft, now, wall_ms, wanted))
        })?;
        if down.is_empty() && request.node != 0 {
            return Err(Error::Rejected(format!("n{} is not down; nothing of it is lost", request.node)));
        }
        let mut nodes = Vec::with_capacity(down.len());
        for (node, command) in down {
            self.propose(command).await?;
            nodes.push(node.0);
        }
        self.nudge.notify_one();
        Ok(pb::RepairResponse { nodes })
    }
}

/// What nodes have.
#[derive(Default)]
struct Held {
    replicas: HashMap<NodeId, u64>,
    leaders: HashMap<NodeId, u64>,
    /// Groups that nobody is known to lead: what nodes have of them is as of their descriptors.
    unled: usize,
}

impl Held {
    fn replicas(&self, node: NodeId) -> u64 {
        self.replicas.get(&node).copied().unwrap_or(0)
    }

    fn leaders(&self, node: NodeId) -> u64 {
        self.leaders.get(&node).copied().unwrap_or(0)
    }
}

/// Of each group its leader tells, or its descriptor, if it has none.
fn held(state: &State, soft: &Soft, now: Instant) -> Held {
    let mut held = Held::default();
    for known in soft.groups.values() {
        for replica in &known.report.replicas {
            *held.replicas.entry(NodeId(replica.node)).or_default() += 1;
        }
        if soft.alive(known.by, now) {
            *held.leaders.entry(known.by).or_default() += 1;
        }
    }
    for (_, shard) in state.shards().iter().filter(|(id, _)| !soft.groups.contains_key(id)) {
        held.unled += 1;
        for replica in shard.descriptor.iter().flat_map(|descriptor| &descriptor.replicas) {
            *held.replicas.entry(NodeId(replica.node)).or_default() += 1;
        }
    }
    held
}

/// What is wanted of a node, in a word.
pub fn duty_name(duty: NodeDuty) -> &'static str {
    match duty {
        NodeDuty::NodeActive => "active",
        NodeDuty::NodeDraining => "draining",
        NodeDuty::NodeDecommissioning => "decommissioning",
        NodeDuty::NodeDecommissioned => "decommissioned",
    }
}

fn plan_to_pb(plan: &Plan) -> pb::Plan {
    let step = |step: &crate::placement::Step| pb::PlannedStep {
        group: step.operation.group().0,
        kind: match step.operation {
            Operation::AddLearner { .. } => "add_learner",
            Operation::ChangeVoters { .. } => "change_voters",
            Operation::RemoveReplica { .. } => "remove_replica",
            Operation::TransferLeader { .. } => "transfer_leader",
            Operation::Split { .. } => "split",
            Operation::Merge { .. } => "merge",
        }
        .into(),
        text: step.operation.to_string(),
        reason: step.why.to_string(),
        bytes: step.bytes,
    };
    pb::Plan {
        steps: plan.steps.iter().map(step).collect(),
        before: plan.before.to_string(),
        after: plan.after.to_string(),
        leaderless: plan.stalled.leaderless as u64,
        waiting: plan.stalled.waiting as u64,
    }
}
