//! The leader's side: answers the gRPC service `Meta`.
//!
//! Every node runs one; where its replica does not lead the meta-group (or where there is none), it redirects to where
//! the leader is believed to be. The soft state (`soft.rs`: who lives, who leads what, which replicas lag) belongs to one term
//! of leadership and is forgotten with it.

mod recovered;
mod service;
mod soft;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use prost::Message;
use proto::common::ShardDescriptor;
use proto::meta::command::Command;
use proto::meta::{self as pb, CommandResult, Redirect};
use raft::{Group, MultiRaft, ProposeError, Role};
use storage::ids::{GroupId, META_GROUP, NodeId, Term, Timestamp, TxnId};
use storage::sabotage::{self, Sabotage};
use storage::seam::Seams;
use tokio::sync::Notify;
use txn::Edge;

pub use self::service::MetaService;
pub use self::soft::DEAD_AFTER;
pub(crate) use self::soft::{Reported, Soft};
use crate::machine::MetaReplica;
use crate::oracle::{Draw, Window};
use crate::reports::{Resting, leaders_version};
use crate::settings::{self, Settings};
use crate::state::State;
use crate::{Error, MetaClient};

/// The service's state on one node.
pub struct MetaServer {
    pub(crate) node: NodeId,
    pub(crate) replica: Arc<MetaReplica>,
    pub(crate) multi: Arc<MultiRaft>,
    pub(crate) seams: Seams,
    pub(crate) soft: Mutex<Soft>,
    /// Something has changed that placement may have to react to.
    pub(crate) nudge: Notify,
    /// One extension of the oracle's window at a time.
    extending: tokio::sync::Mutex<()>,
    /// The term in which it was seen to that nothing is handed out that was lost: see `recovered.rs`.
    looked_back: AtomicU64,
    /// The client of this node. It is told who the members are, whether or not this node is one of them.
    client: OnceLock<Weak<MetaClient>>,
}

impl MetaServer {
    /// The service of a node whose groups are in `multi`.
    pub fn new(node: NodeId, replica: Arc<MetaReplica>, multi: Arc<MultiRaft>, seams: Seams) -> Arc<Self> {
        let soft = Mutex::new(Soft::new(Term(0), seams.clock.now(), leaders_version(&seams)));
        let (extending, client) = (tokio::sync::Mutex::new(()), OnceLock::new());
        let (nudge, looked_back) = (Notify::new(), AtomicU64::new(0));
        Arc::new(Self { node, replica, multi, seams, soft, nudge, extending, looked_back, client })
    }

    /// This is the client of the same node.
    pub(crate) fn meet(&self, client: &Arc<MetaClient>) {
        // There is one per node; the first one stays.
        let _ = self.client.set(Arc::downgrade(client));
    }

    /// The tonic service to mount.
    pub fn service(self: &Arc<Self>) -> pb::meta_server::MetaServer<MetaService> {
        pb::meta_server::MetaServer::new(MetaService { server: self.clone() })
            .max_decoding_message_size(crate::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(crate::MESSAGE_BYTES_MAX)
    }

    /// The term in which this node leads the meta-group, as a value to wait on.
    pub fn leading(&self) -> tokio::sync::watch::Receiver<Option<Term>> {
        self.replica.leading()
    }

    /// Whether this node leads the meta-group, as far as it knows.
    pub fn leads(&self) -> bool {
        self.replica.leading().borrow().is_some()
    }

    /// The group and the term, if this node leads; whom to ask otherwise.
    pub(crate) fn lead(&self) -> Result<(Arc<Group>, Term), Error> {
        let term = *self.replica.leading().borrow();
        match (self.multi.group(META_GROUP), term) {
            (Some(group), Some(term)) => Ok((group, term)),
            (group, _) => Err(Error::NotLeader(self.redirect(group.as_deref()))),
        }
    }

    fn redirect(&self, group: Option<&Group>) -> Redirect {
        match (group.filter(runs), self.client.get().and_then(Weak::upgrade)) {
            // A new node that knows of this one only must be able to join.
            (None, Some(client)) => client.redirect(),
            _ => self.redirect_by_replica(group),
        }
    }

    /// By what this node's replica knows.
    fn redirect_by_replica(&self, group: Option<&Group>) -> Redirect {
        let leader = group.and_then(|group| group.status().leader).map(|leader| leader.node);
        self.replica.read(|state| {
            let address = |node: NodeId| {
                state.nodes().get(&node).and_then(|n| n.addresses.as_ref()).map(|a| a.rpc.clone())
            };
            Redirect {
                leader: leader.filter(|n| *n != self.node).and_then(address).unwrap_or_default(),
                members: state.meta_members().iter().filter_map(|m| address(NodeId(m.node))).collect(),
            }
        })
    }

    /// The RPC address of the leader that this node's replica follows; empty if it knows none.
    pub(crate) fn leader_address(&self) -> String {
        let group = self.multi.group(META_GROUP);
        self.redirect_by_replica(group.as_deref().filter(runs)).leader
    }

    /// Replicates a command and answers what it came to.
    pub async fn propose(&self, command: Command) -> Result<CommandResult, Error> {
        let (group, term) = self.lead()?;
        self.look_back(&group, term).await?;
        self.propose_in(&group, term, command).await
    }

    async fn propose_in(&self, group: &Group, term: Term, command: Command) -> Result<CommandResult, Error> {
        let command = pb::Command { command: Some(command) }.encode_to_vec().into();
        let answer = group.propose(term, command).await.map_err(|error| match error {
            ProposeError::NotLeader(_) => Error::NotLeader(self.redirect(Some(group))),
            // Every command may be repeated, so what is unknown is simply asked again.
            other => Error::Unavailable(other.to_string()),
        })?;
        let result = CommandResult::decode(answer).map_err(|e| Error::Corrupt(e.to_string()))?;
        if result.rejected.is_empty() { Ok(result) } else { Err(Error::Rejected(result.rejected)) }
    }

    /// `count` timestamps, of which the first is returned; the others follow.
    pub async fn timestamps(self: &Arc<Self>, count: u32) -> Result<Timestamp, Error> {
        let (group, term) = self.lead()?;
        loop {
            let drawn = self.with_window(term, |window, wall_ms| window.draw(wall_ms, count))?;
            match drawn {
                Draw::Granted { first, low } => {
                    // Only now: a leader that was deposed before the draw must not answer from the past.
                    if group.lease(term).is_err() {
                        let confirmed = group.confirm_quorum(term).await;
                        confirmed.map_err(|_| Error::NotLeader(self.redirect(Some(&group))))?;
                    }
                    if low {
                        let server = self.clone();
                        self.seams.spawn("oracle window", async move {
                            // Whoever draws from an exhausted window tries again and reports the failure.
                            let _ = server.extend(term, true).await;
                        });
                    }
                    return Ok(first);
                }
                Draw::Exhausted => self.extend(term, false).await?,
            }
        }
    }

    fn with_window<T>(&self, term: Term, work: impl FnOnce(&mut Window, u64) -> T) -> Result<T, Error> {
        let mut wall_ms = self.seams.clock.wall_ms();
        if sabotage::is(Sabotage::OracleGoesBack) {
            wall_ms -= term.0 % 2 * 60_000;
        }
        match &mut *self.replica.window.lock() {
            Some((leading, window)) if *leading == term => Ok(work(window, wall_ms)),
            _ => Err(Error::NotLeader(Redirect::default())),
        }
    }

    /// Replicates a later end of the oracle's window. `early`: nobody waits, so one extension at a time is enough.
    async fn extend(&self, term: Term, early: bool) -> Result<(), Error> {
        let _one = match early {
            true => match self.extending.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(()),
            },
            false => self.extending.lock().await,
        };
        // Whoever waited for the lock may find the work done.
        let enough = self.with_window(term, |window, wall_ms| !early && window.has_room(wall_ms))?;
        if enough {
            return Ok(());
        }
        let end = self.with_window(term, |window, wall_ms| window.wanted_end(wall_ms))?;
        self.propose(Command::ExtendOracle(pb::ExtendOracle { end: end.0 })).await?;
        self.with_window(term, |window, _| window.extended(end))
    }

    /// A node becomes a member, or says again that it is one.
    pub async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, Error> {
        let command = pb::AddNode { instance: request.instance, addresses: request.addresses };
        let result = self.propose(Command::AddNode(command)).await?;
        self.with_soft(|soft, now| soft.last_seen.insert(NodeId(result.node), now))?;
        self.nudge.notify_one();
        Ok(pb::JoinResponse { cluster_id: result.cluster_id, node: result.node, map: Some(self.map(0, 0)?) })
    }

    /// A heartbeat.
    pub async fn report(&self, mut request: pb::ReportRequest) -> Result<pb::ReportResponse, Error> {
        self.lead()?;
        let node = NodeId(request.node);
        let facts = request.facts.clone().unwrap_or_default();
        let (known, moved, changed) = self.replica.read(|state| {
            let same_cluster = state.cluster().cluster_id == request.cluster_id;
            let stored = state.nodes().get(&node).filter(|_| same_cluster);
            let changed: Vec<ShardDescriptor> = request
                .groups
                .iter()
                .filter_map(|g| g.descriptor.clone())
                .filter(|new| {
                    let known = state.shards().get(&GroupId(new.group)).and_then(|s| s.descriptor.as_ref());
                    known.is_none_or(|known| known.epoch < new.epoch) && !state.is_absorbed(new)
                })
                .collect();
            let moved = |stored: &pb::Node| {
                stored.addresses != request.addresses || stored.locality.as_ref() != Some(&facts.locality)
            };
            (stored.is_some(), stored.is_some_and(moved), changed)
        });
        if !known {
            return Err(Error::Rejected(format!("{node} is not a node of this cluster")));
        }
        if moved {
            let (addresses, locality) = (request.addresses.clone(), Some(facts.locality.clone()));
            let command = pb::UpdateNode { node: node.0, addresses, locality, absence: None };
            self.propose(Command::UpdateNode(command)).await?;
        }
        self.publish(changed).await?;
        let resting = Resting::of(&mut request);
        let suspects = std::mem::take(&mut request.suspects);
        let news = self.with_soft(|soft, now| {
            // Who was not heard of before is only now known well enough to be given anything.
            let new = soft.facts.insert(node, facts).is_none();
            soft.suspects.name(&suspects, now);
            soft.take_report(node, now, request.groups, resting) || new
        })?;
        if let Some(members) = self.changed_members() {
            let command = pb::UpdateMembers { members: Some(members), recovered: false };
            self.propose(Command::UpdateMembers(command)).await?;
        }
        if news {
            self.nudge.notify_one();
        }
        let busy = news || self.with_soft(|soft, _| !soft.operations.is_empty())?;
        let oldest = (request.oldest_snapshot != 0).then_some(Timestamp(request.oldest_snapshot));
        let safe_point = self.safe_point(node, oldest)?.0;
        let send_resting =
            self.with_soft(|soft, _| soft.resting.get(&node) != Some(&request.resting_digest))?;
        let nodes: Vec<NodeId> = self.replica.read(|state| state.nodes().keys().copied().collect());
        let (dead, knows_dead) = self.with_soft(|soft, now| {
            let dead = nodes.iter().filter(|node| !soft.alive(**node, now)).map(|node| node.0).collect();
            (dead, now - soft.since >= DEAD_AFTER)
        })?;
        let map = self.map(request.map_version, request.leaders_version)?;
        Ok(pb::ReportResponse { map: Some(map), busy, safe_point, send_resting, dead, knows_dead })
    }

    /// The safe point, after a node has said what it still needs.
    fn safe_point(&self, node: NodeId, oldest: Option<Timestamp>) -> Result<Timestamp, Error> {
        let (_, term) = self.lead()?;
        let now = self.with_window(term, |window, _| window.last())?;
        let (settings, nodes) = self.replica.read(|state| {
            (Settings::new(state.settings()), state.nodes().keys().copied().collect::<Vec<_>>())
        });
        self.with_soft(|soft, at| {
            soft.safe_point.report(node, oldest);
            let alive: Vec<NodeId> = nodes.into_iter().filter(|node| soft.alive(*node, at)).collect();
            soft.safe_point.advance(now, alive, settings.gc_ttl(), settings.gc_hold())
        })
    }

    /// Sets something for the whole cluster.
    pub async fn change_setting(&self, request: pb::ChangeSettingsRequest) -> Result<(), Error> {
        settings::check(&request.name, &request.value).map_err(Error::Rejected)?;
        let command = pb::ChangeSetting { name: request.name, value: request.value };
        self.propose(Command::ChangeSetting(command)).await?;
        self.nudge.notify_one();
        Ok(())
    }

    /// Who waits for whom at a node; answers the victims of deadlocks that wait there.
    pub fn waits(&self, request: pb::WaitsRequest) -> Result<pb::WaitsResponse, Error> {
        let edges = request.waits.into_iter().map(edge_from_pb).collect::<Result<Vec<_>, _>>()?;
        let victims = self.with_soft(|soft, now| soft.waits.report(NodeId(request.node), edges, now))?;
        if !victims.is_empty() {
            metrics::counter!("flotilla_deadlocks_total").increment(victims.len() as u64);
        }
        let victims = victims.iter().map(|txn| txn.0.to_be_bytes().to_vec().into()).collect();
        Ok(pb::WaitsResponse { victims })
    }

    /// The meta-group's own members, if they are not what is replicated.
    fn changed_members(&self) -> Option<pb::Members> {
        let reported =
            self.with_soft(|soft, _| soft.groups.get(&META_GROUP).map(|g| g.report.clone())).ok()??;
        let member = |r: &pb::ReplicaProgress| proto::common::Replica {
            replica: r.replica,
            node: r.node,
            learner: r.learner,
        };
        let replicas: Vec<proto::common::Replica> = reported.replicas.iter().map(member).collect();
        let (known, index) = self.replica.read(|state| {
            let index = state.cluster().meta_members.as_ref().map_or(0, |m| m.version);
            (state.meta_members() == replicas, index)
        });
        // The leader of the meta-group is this node, so what it last said of itself is the newest there is.
        (!known && reported.term >= 1).then_some(pb::Members { replicas, version: index + 1 })
    }

    /// Takes descriptors in that are newer than what is known.
    pub async fn publish(&self, shards: Vec<ShardDescriptor>) -> Result<(), Error> {
        self.publish_split(shards, None).await
    }

    /// The same, of which one may be a shard that placement has split off.
    pub(crate) async fn publish_split(
        &self,
        shards: Vec<ShardDescriptor>,
        automatic: Option<GroupId>,
    ) -> Result<(), Error> {
        if !shards.is_empty() {
            let automatic = automatic.into_iter().map(|group| group.0).collect();
            self.propose(Command::UpdateShards(pb::UpdateShards { shards, automatic })).await?;
            self.nudge.notify_one();
        }
        Ok(())
    }

    /// Sets ids aside.
    pub async fn allocate(&self, groups: u32, replicas: u32) -> Result<pb::AllocateResponse, Error> {
        let result = self.propose(Command::AllocateIds(pb::AllocateIds { groups, replicas })).await?;
        Ok(pb::AllocateResponse { first_group: result.first_group, first_replica: result.first_replica })
    }

    /// What changed in the map after `since`, with everything that is soft.
    pub fn map(&self, since: u64, leaders_version: u64) -> Result<pb::ClusterMap, Error> {
        self.lead()?;
        let (alive, leaders, version, same) = self.with_soft(|soft, now| {
            let leader = |(group, r): (&GroupId, &Reported)| pb::Leader {
                group: group.0,
                node: r.by.0,
                term: r.report.term,
            };
            let same = leaders_version == soft.leaders_version;
            let leaders: Vec<pb::Leader> =
                if same { Vec::new() } else { soft.groups.iter().map(leader).collect() };
            let nodes = self.replica.read(|state| state.nodes().keys().copied().collect::<Vec<_>>());
            let alive: HashMap<NodeId, bool> = nodes.iter().map(|n| (*n, soft.alive(*n, now))).collect();
            (alive, leaders, soft.leaders_version, same)
        })?;
        Ok(self.replica.read(|state| pb::ClusterMap {
            version: state.map_version(),
            since,
            nodes: state
                .nodes()
                .iter()
                .map(|(id, node)| pb::MapNode {
                    id: id.0,
                    addresses: node.addresses.clone(),
                    alive: alive.get(id).copied().unwrap_or(false),
                    duty: node.duty,
                })
                .collect(),
            shards: changed_shards(state, since),
            leaders,
            leaders_version: version,
            same_leaders: same,
            meta_members: state.meta_members().to_vec(),
            settings: Some(state.settings()),
        }))
    }

    /// Works on the soft state of the present term of leadership.
    pub(crate) fn with_soft<T>(&self, work: impl FnOnce(&mut Soft, Instant) -> T) -> Result<T, Error> {
        let (_, term) = self.lead()?;
        let now = self.seams.clock.now();
        let mut soft = self.soft.lock();
        if soft.term != term {
            *soft = Soft::new(term, now, leaders_version(&self.seams));
        }
        Ok(work(&mut soft, now))
    }
}

/// The shards that have changed after that version of the map. Nearly always it is the present one: then none is looked at.
fn changed_shards(state: &State, since: u64) -> Vec<ShardDescriptor> {
    if since >= state.map_version() {
        return Vec::new();
    }
    let changed = state.shards().values().filter(|shard| shard.changed_at > since);
    changed.filter_map(|shard| shard.descriptor.clone()).collect()
}

/// A replica that has stopped, for it has failed or was found to differ, says of the others what was so then, or nothing.
fn runs(group: &&Group) -> bool {
    !matches!(*group.role().borrow(), Role::Stopped { .. })
}

fn edge_from_pb(wait: pb::Wait) -> Result<Edge, Error> {
    let txn = |id: &[u8]| id.try_into().map(|id| TxnId(u128::from_be_bytes(id)));
    match (txn(&wait.waiter), txn(&wait.holder)) {
        (Ok(waiter), Ok(holder)) => Ok(Edge { waiter, started: Timestamp(wait.started), holder }),
        _ => Err(Error::Rejected("a transaction id of the wrong length".into())),
    }
}
