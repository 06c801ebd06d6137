//! Carries out what placement plans.
//!
//! The loop runs on every node and works only where the meta-group is led. Each round it describes the cluster from
//! the replicated state and the last reports, asks [`placement::plan`], and starts each operation as a task of its
//! own. A group with an operation under way is *busy* until the operation has ended and a report from after its end
//! has come in (or did not come for a while), so that no plan is made from what was true before.
//!
//! Of what is done here nothing is remembered across a change of leader: an operation that was cut off half-way is planned
//! again, and each of its steps can be repeated. What operators want is replicated: duties of nodes, which placement is told of
//! ([`describe`](self::describe)), and moves of replicas, which are taken one step further each round ([`moves`]). So is
//! since when nodes are down ([`absence`]).
//!
//! How a replica moves, and what holds meanwhile:
//!
//! ```text
//!   1. CreateReplica(r9) to the new node        a new id each time; blank; no member of anything
//!   2. AddLearner(r9) to the leader             the log, or a snapshot, flows; r9 has no vote
//!   3. …until r9 has all but the log's end      read from the leader's reports
//!   4. TransferLeader, if the old one leads     a leader never removes itself
//!   5. ChangeVoters(… + r9 − r3)                joint: a majority of the old and one of the new, then the new alone
//!   6. DestroyReplica(r3) to the old node       which asks the leader whether r3 is a member still: see `leftovers`
//! ```
//!
//! - a group has never fewer voters than before on account of a step, and step 5 is refused unless a majority of the new
//!   voters answers (`raft`'s `members.rs`);
//! - steps of one group don't overlap: a group with a step under way is *busy*; openraft refuses a second change of
//!   members beside;
//! - whoever crashes in between leaves a state that the next plan starts from: a learner too many is promoted or removed
//!   (2, 3), a joint configuration is ended (5), a replica that is no member any more is found by its own node (1, 6).

pub(crate) mod absence;
mod asked;
mod building;
mod describe;
mod execute;
pub(crate) mod merges;
pub(crate) mod moves;
pub(crate) mod reshape;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::meta::change_duty::Change;
use proto::meta::command::Command;
use proto::meta::{self as pb, NodeDuty};
use storage::ids::{GroupId, META_GROUP, NodeId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

pub(crate) use self::asked::{alone, carry_out};
use self::building::Building;
pub(crate) use self::describe::meta_members;
pub(crate) use self::execute::OPERATION_LIMIT;
use self::moves::Next;
use crate::Error;
use crate::placement::{self, Description, Operation, Plan};
use crate::rpc::Channels;
use crate::server::{MetaServer, Soft};
use crate::settings::Settings;

/// Between two rounds while there is work.
const BUSY_TICK: Duration = Duration::from_millis(100);
/// Between two rounds otherwise.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// … at most, and …
const IDLE_TICK_MAX: Duration = Duration::from_secs(20);
/// … so many times as long as a round takes.
const IDLE_PER_ROUND: u32 = 500;
/// After an operation, a report must come within this time, or the group is planned for without one.
const SETTLE: Duration = Duration::from_secs(2);
/// An operation that failed is not tried again at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(300);
/// For so long a merge waits for a node that is down.
const MERGE_AWAITS: Duration = Duration::from_secs(60);
/// Placement has no more merges under way at a time.
const MERGES_MAX: usize = 4;

/// An operation on a group.
#[derive(Clone, Debug)]
pub(crate) struct Underway {
    /// In words.
    pub(crate) what: String,
    /// It changes who leads, or what there is to lead.
    pub(crate) changes_hands: bool,
    pub(crate) state: Phase,
    /// The node that gets a replica by it.
    pub(crate) builds: Option<NodeId>,
}

/// How far an operation is.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// It has not ended.
    Running,
    /// It has ended; a report from later than that is awaited.
    Ended(Instant),
    /// It failed; the group is left alone for a moment.
    Failed(Instant, String),
}

impl Underway {
    fn of(operation: &Operation, state: Phase) -> Self {
        let changes_hands = matches!(
            operation,
            Operation::TransferLeader { .. } | Operation::Split { .. } | Operation::Merge { .. }
        );
        let builds = match operation {
            Operation::AddLearner { node, .. } => Some(*node),
            _ => None,
        };
        Self { what: operation.to_string(), changes_hands, state, builds }
    }

    /// A merge is called off: its two shards go on as they were.
    fn calling_off(what: String, state: Phase) -> Self {
        Self { what, changes_hands: false, state, builds: None }
    }

    /// An operator has asked for it: a leader is to change, or a shard to be cut.
    fn asked(what: String, state: Phase) -> Self {
        Self { what, changes_hands: true, state, builds: None }
    }
}

/// Runs until cancelled.
pub async fn run(server: Arc<MetaServer>, stop: CancellationToken) {
    let channels = Arc::new(Channels::new(&server.seams));
    let mut leading = server.replica.leading();
    loop {
        // `changed` fails only when the replica is gone, and then so is this loop's reason.
        let led = leading.borrow_and_update().is_some();
        let began = server.seams.clock.now();
        let busy = led && round(&server, &channels);
        // A plan of many shards takes a while, and where nothing happens it says nothing new.
        let took = server.seams.clock.now().saturating_duration_since(began);
        let idle = (took * IDLE_PER_ROUND).clamp(IDLE_TICK, IDLE_TICK_MAX);
        let tick = if busy { BUSY_TICK } else { idle };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leading.changed() => if changed.is_err() { return },
            () = server.seams.beat(tick) => {}
            () = server.nudge.notified() => {}
        }
    }
}

/// One round; returns whether there is work under way.
fn round(server: &Arc<MetaServer>, channels: &Arc<Channels>) -> bool {
    let planned = server.with_soft(|soft, now| {
        soft.forget_settled(now);
        let plan = plan(server, &description(server, soft, now), "round");
        // Merges take time, and survive this leader: they are noted first.
        let (merges, mut operations): (Vec<Operation>, Vec<Operation>) =
            plan.operations().cloned().partition(|operation| matches!(operation, Operation::Merge { .. }));
        let mut ended = go_on(server, soft, now, &mut operations);
        if !soft.ending {
            ended.extend(begin_merges(server, &merges));
            let wall_ms = server.seams.clock.wall_ms();
            ended.extend(server.replica.read(|state| absence::changes(state, soft, now, wall_ms)));
        }
        soft.ending |= !ended.is_empty();
        let frozen = reshape::left_frozen(soft);
        for (shard, left, _) in &frozen {
            let what = format!("g{}: call its merge with {left} off", shard.group);
            for group in [GroupId(shard.group), *left] {
                soft.operations.insert(group, Underway::calling_off(what.clone(), Phase::Running));
            }
        }
        for step in &plan.steps {
            debug!("{step}");
        }
        for operation in &operations {
            soft.remember_replaced(operation);
            soft.note(operation, Phase::Running);
        }
        (operations, ended, frozen, !soft.operations.is_empty())
    });
    let Ok((operations, ended, frozen, busy)) = planned else { return false };
    for frozen in frozen {
        let (server, channels) = (server.clone(), channels.clone());
        server.seams.clone().spawn("reconcile-frozen", async move {
            let groups = [GroupId(frozen.0.group), frozen.1];
            let what = format!("{}: call its merge with {} off", groups[0], groups[1]);
            let outcome = reshape::clean_up(&server, &channels, frozen).await;
            let state = phase(&server, &outcome);
            let _ = server.with_soft(|soft, _| {
                for group in groups {
                    soft.operations.insert(group, Underway::calling_off(what.clone(), state.clone()));
                }
            });
            server.nudge.notify_one();
        });
    }
    if !ended.is_empty() {
        let server = server.clone();
        server.seams.clone().spawn("reconcile-end", async move {
            for command in ended {
                // Seen again in the next round.
                let _ = server.propose(command).await;
            }
            let _ = server.with_soft(|soft, _| soft.ending = false);
        });
    }
    // Several learners of one group are one task: its changes of members can't overlap.
    let mut by_group: BTreeMap<GroupId, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        by_group.entry(operation.group()).or_default().push(operation);
    }
    for operations in by_group.into_values() {
        let (server, channels) = (server.clone(), channels.clone());
        server.seams.clone().spawn("reconcile", async move {
            let mut state = Phase::Running;
            let mut last = None;
            for operation in &operations {
                last = Some(operation);
                let outcome = execute::execute(&server, &channels, operation).await;
                state = phase(&server, &outcome);
                match &state {
                    Phase::Failed(_, error) => {
                        debug!("{operation}: not now: {error}");
                        break;
                    }
                    _ => info!("{operation}"),
                }
            }
            // No longer leading: the next leader plans from what is.
            let _ = server.with_soft(|soft, _| last.map(|operation| soft.note(operation, state)));
            server.nudge.notify_one();
        });
    }
    busy
}

fn phase<T>(server: &MetaServer, outcome: &Result<T, Error>) -> Phase {
    let now = server.seams.clock.now();
    match outcome {
        Ok(_) => Phase::Ended(now),
        Err(error) => Phase::Failed(now, error.to_string()),
    }
}

/// How to say that placement wants these shards merged.
fn begin_merges(server: &MetaServer, merges: &[Operation]) -> Vec<Command> {
    let known = server.replica.read(|state| state.cluster().merges.len());
    let begin = merges.iter().filter_map(|operation| match operation {
        Operation::Merge { group, right } => {
            Some(Command::BeginMerge(pb::BeginMerge { left: group.0, right: right.0, automatic: true }))
        }
        _ => None,
    });
    begin.take(MERGES_MAX.saturating_sub(known)).collect()
}

/// Adds the next steps of what operators have begun; returns how to say that something of it has ended, once at a time.
fn go_on(
    server: &MetaServer,
    soft: &mut Soft,
    now: Instant,
    operations: &mut Vec<Operation>,
) -> Vec<Command> {
    let mut ended = Vec::new();
    let (moves, merges) = wanted(server, soft, now);
    for (wanted, next) in moves {
        let pb::Move { id, group, from, to } = wanted;
        match next {
            Next::Step(operation) if !soft.operations.contains_key(&operation.group()) => {
                operations.push(operation);
                continue;
            }
            Next::Step(_) | Next::Wait(_) => continue,
            _ if soft.ending => continue,
            Next::Done => info!("move-{id}: g{group} has moved from n{from} to n{to}"),
            Next::Impossible(why) => info!("move-{id}: g{group} stays on n{from}: {why}"),
        }
        ended.push(Command::EndMove(pb::EndMove { id }));
    }
    for (wanted, next) in merges {
        let pb::Merge { id, left, right, .. } = wanted;
        let free = |group: &u64| !soft.operations.contains_key(&GroupId(*group));
        match next {
            Next::Step(operation) if [left, right].iter().all(free) => {
                operations.push(operation);
                continue;
            }
            Next::Step(_) | Next::Wait(_) => continue,
            _ if soft.ending => continue,
            Next::Done => info!("merge-{id}: g{left} has absorbed g{right}"),
            Next::Impossible(why) => {
                info!("merge-{id}: g{left} does not absorb g{right}: {why}");
                // Not to be wanted again at once.
                for group in [left, right] {
                    soft.reshaped.insert(GroupId(group), now);
                }
            }
        }
        ended.push(Command::EndMerge(pb::EndMerge { id }));
    }
    if soft.ending {
        return ended;
    }
    ended.extend(emptied(server, soft).into_iter().map(|node| {
        info!("{node} is empty: it can be stopped for good");
        Command::ChangeDuty(pb::ChangeDuty { node: node.0, change: Change::Emptied.into() })
    }));
    ended
}

/// What would be done with a cluster like that. `asked_by` is for the measurement.
pub(crate) fn plan(server: &MetaServer, cluster: &Description, asked_by: &'static str) -> Plan {
    let began = server.seams.clock.now();
    let settings = server.replica.read(|state| Settings::new(state.settings()));
    let plan = placement::plan(cluster, &describe::policy(&settings));
    let took = server.seams.clock.now().saturating_duration_since(began);
    metrics::histogram!("flotilla_placement_plan_seconds", "asked_by" => asked_by).record(took.as_secs_f64());
    plan
}

/// The cluster as placement sees it now.
pub(crate) fn description(server: &MetaServer, soft: &Soft, now: Instant) -> Description {
    describe::describe_cluster(server, soft, now)
}

/// How many voters are wanted of each group, nodes permitting.
pub(crate) fn wanted_replicas(cluster: &Description) -> HashMap<GroupId, usize> {
    let wanted =
        |group: &placement::Group| cluster.rules.get(usize::from(group.rule)).map(|rule| rule.replicas);
    cluster.groups.iter().filter_map(|group| Some((group.id, wanted(group)?))).collect()
}

/// What is wanted, each with what is to be done about it.
type Wanted<T> = Vec<(T, Next)>;

/// The moves and the merges that are wanted.
pub(crate) fn wanted(
    server: &MetaServer,
    soft: &Soft,
    now: Instant,
) -> (Wanted<pb::Move>, Wanted<pb::Merge>) {
    let settings = server.replica.read(|state| Settings::new(state.settings()));
    let mut building = Building::new(soft, settings.moves_per_node());
    let moves = wanted_moves(server, soft, now, settings.replace_after()).into_iter();
    let moves = moves.map(|(wanted, next)| (wanted, building.limit(next, soft))).collect();
    let merges = wanted_merges(server, soft, now).into_iter();
    let merges = merges.map(|(wanted, next)| (wanted, building.limit(next, soft))).collect();
    (moves, merges)
}

/// The moves that operators want. `patience` is how long a node may be down before placement replaces what it has.
fn wanted_moves(server: &MetaServer, soft: &Soft, now: Instant, patience: Duration) -> Wanted<pb::Move> {
    let wanted = server.replica.read(|state| {
        let exists = |group: GroupId| group == META_GROUP || state.shards().contains_key(&group);
        let moves = state.cluster().moves.iter().map(|wanted| (*wanted, exists(GroupId(wanted.group))));
        moves.collect::<Vec<_>>()
    });
    let next = |(wanted, exists): (pb::Move, bool)| {
        let group = exists.then(|| describe::describe_group(GroupId(wanted.group), None, soft, now));
        let awaited = |node| awaits(server, soft, node, patience, now);
        let next = moves::next(&wanted, group.as_ref(), |node| soft.alive(node, now), awaited);
        (wanted, next)
    };
    wanted.into_iter().map(next).collect()
}

/// The merges that are wanted.
fn wanted_merges(server: &MetaServer, soft: &Soft, now: Instant) -> Wanted<pb::Merge> {
    let wanted = server.replica.read(|state| {
        let of = |group: u64| state.shards().get(&GroupId(group)).and_then(|shard| shard.descriptor.as_ref());
        let merges = state.cluster().merges.iter().map(|wanted| {
            let neighbours =
                of(wanted.right).map(|right| of(wanted.left).is_some_and(|left| left.end == right.start));
            (*wanted, neighbours)
        });
        merges.collect::<Vec<_>>()
    });
    let next = |(wanted, neighbours): (pb::Merge, Option<bool>)| {
        let group = |id: u64| describe::describe_group(GroupId(id), None, soft, now);
        let (left, right) = (group(wanted.left), group(wanted.right));
        let awaited = |node| awaits(server, soft, node, MERGE_AWAITS, now);
        let next = merges::next(&wanted, &left, &right, neighbours, |node| soft.alive(node, now), awaited);
        (wanted, next)
    };
    wanted.into_iter().map(next).collect()
}

/// The nodes that were to be emptied and are: no leader of any group, and no descriptor, knows a replica there, and none is being moved
/// there (since before the node was to be emptied; a leader tells of it a moment after it has arrived).
fn emptied(server: &MetaServer, soft: &Soft) -> Vec<NodeId> {
    server.replica.read(|state| {
        let leaving = state.nodes().iter().filter(|(_, node)| node.duty() == NodeDuty::NodeDecommissioning);
        let leaving: Vec<NodeId> = leaving.map(|(id, _)| *id).collect();
        let groups = || std::iter::once(META_GROUP).chain(state.shards().keys().copied());
        if leaving.is_empty() || groups().any(|group| !soft.groups.contains_key(&group)) {
            return Vec::new();
        }
        let held = |node: &NodeId| {
            let reported = soft.groups.values().flat_map(|known| &known.report.replicas);
            let descriptors = state.shards().values().filter_map(|shard| shard.descriptor.as_ref());
            let described = descriptors.flat_map(|descriptor| &descriptor.replicas);
            let coming = state.cluster().moves.iter().map(|wanted| wanted.to);
            let mut holders = reported.map(|r| r.node).chain(described.map(|r| r.node)).chain(coming);
            holders.any(|holder| holder == node.0)
        };
        leaving.into_iter().filter(|node| !held(node)).collect()
    })
}

/// Whether a node that is silent is waited for: not for longer than `patience`, and not if an operator has given it up.
fn awaits(server: &MetaServer, soft: &Soft, id: NodeId, patience: Duration, now: Instant) -> bool {
    let wall_ms = server.seams.clock.wall_ms();
    server.replica.read(|state| {
        state.nodes().get(&id).is_some_and(|node| {
            absence::silence(id, node, soft, now, wall_ms) < patience
                && !absence::is_given_up(id, node, soft, now)
        })
    })
}

impl Soft {
    /// How far an operation is, for all groups that it is about.
    fn note(&mut self, operation: &Operation, state: Phase) {
        let underway = Underway::of(operation, state);
        if let Operation::Merge { right, .. } = operation {
            self.operations.insert(*right, underway.clone());
        }
        self.operations.insert(operation.group(), underway);
    }

    /// Who is to go when a learner gets its vote. (Without it, placement chooses again, and may choose the learner.)
    fn remember_replaced(&mut self, operation: &Operation) {
        match operation {
            Operation::AddLearner { group, replaces: Some(old), .. } => {
                self.replacing.insert(*group, *old);
            }
            Operation::AddLearner { group, replaces: None, .. } => {
                self.replacing.remove(group);
            }
            _ => {}
        }
    }

    pub(crate) fn forget_settled(&mut self, now: Instant) {
        let (groups, confirmed) = (&self.groups, &self.confirmed);
        self.operations.retain(|group, underway| match &underway.state {
            Phase::Running => true,
            Phase::Ended(at) => {
                let seen = groups.get(group).is_some_and(|known| known.said_at(confirmed) > *at);
                !seen && now - *at < SETTLE
            }
            Phase::Failed(at, _) => now - *at < FAILURE_PAUSE,
        });
    }
}
