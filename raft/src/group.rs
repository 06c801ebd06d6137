//! One replica of one group: proposals here; leases, changes of members and leaders, and the watch over its role in rooms of
//! their own.

mod change;
mod lease;
mod role;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::impls::ProgressResponder;
use storage::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use storage::seam::Seams;
use tokio::sync::{Semaphore, watch};

use crate::api::{GroupStatus, NotLeader, Peer, Progress, ProposeError, Role, StateMachine};
use crate::command::Command;
use crate::core::{Core, Nursery};
use crate::gate::Gate;
use crate::options::RaftOptions;
use crate::rest::{Rest, Rested};
use crate::state_machine::Shared;
use crate::types::{self, StoredMembership, TypeConfig};

/// Barriers that are proposed together: they share an append.
const BARRIERS_AT_ONCE: u64 = 64;
/// No replica's id.
const NOBODY: u64 = u64::MAX;

/// A replica of a group on this node.
pub struct Group {
    pub(crate) shared: Arc<Shared>,
    pub(crate) nursery: Arc<Nursery>,
    pub(crate) options: RaftOptions,
    pub(crate) seams: Seams,
    role: watch::Sender<Role>,
    /// What lives only while the group is awake; and what was known when it was laid to rest.
    pub(crate) rest: Rest,
    pub(crate) proposals: Semaphore,
    proposal_bytes: Semaphore,
    /// Does not vote or stand for election yet.
    pub(crate) gate: Gate,
    /// The leadership is being handed over: voters may ignore our lease, so we must, too. Ends with the role.
    handing_over: AtomicBool,
    /// Committed entries are not applied: see [`crate::progress`].
    stuck: AtomicBool,
    /// A change of members is under way: what the metrics say of the voters may be outdated.
    changing: AtomicBool,
    pub(crate) changes: Arc<tokio::sync::Mutex<()>>,
    /// See `transport::intake`.
    pub(crate) appends: tokio::sync::Mutex<()>,
    /// Being stopped on purpose.
    stopping: AtomicBool,
    opened: Instant,
    /// When a leader last wrote to this replica: milliseconds since `opened`.
    heard_ms: AtomicU64,
    /// The replica that led last, as far as this process knows; or [`NOBODY`].
    led_by: AtomicU64,
}

impl Group {
    /// A replica at rest.
    pub(crate) fn new(shared: Arc<Shared>, nursery: Arc<Nursery>, gated: bool, rested: Rested) -> Arc<Self> {
        let options = nursery.options.clone();
        Arc::new(Self {
            role: watch::Sender::new(Role::Follower { leader: rested.leader_elsewhere() }),
            rest: Rest::new(rested),
            proposals: Semaphore::new(options.proposals_in_flight_max),
            proposal_bytes: Semaphore::new(options.proposal_bytes_in_flight_max as usize),
            gate: Gate::new(gated),
            handing_over: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            changing: AtomicBool::new(false),
            changes: Arc::default(),
            appends: tokio::sync::Mutex::default(),
            stopping: AtomicBool::new(false),
            opened: shared.seams.clock.now(),
            heard_ms: AtomicU64::new(0),
            led_by: AtomicU64::new(NOBODY),
            seams: shared.seams.clone(),
            shared,
            nursery,
            options,
        })
    }

    /// The group.
    pub fn id(&self) -> GroupId {
        self.shared.group
    }

    /// This node's replica.
    pub fn replica(&self) -> ReplicaId {
        self.shared.replica
    }

    /// The state machine.
    pub fn machine(&self) -> &Arc<dyn StateMachine> {
        &self.shared.machine
    }

    /// The role, to read and to wait on.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// The term, if this replica leads now.
    pub fn leads(&self) -> Option<Term> {
        self.role.borrow().leads()
    }

    /// Replicates a command, as the leader of `term`, and answers what applying it answered.
    ///
    /// It is refused if this replica does not lead in `term` at the moment the command would enter the log, and while no
    /// majority answers. A proposal whose caller has gone is replicated all the same. An empty command is a *barrier*: the
    /// state machine never sees it.
    pub async fn propose(&self, term: Term, command: Bytes) -> Result<Bytes, ProposeError> {
        let bytes_max = self.options.command_bytes_max;
        if command.len() > bytes_max {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max });
        }
        if let Role::Stopped { reason } = &*self.role.borrow() {
            return Err(ProposeError::Stopped(reason.clone()));
        }
        if self.handing_over.load(Ordering::SeqCst) {
            // openraft would refuse it as well, unless its core waits for a disk that stalls.
            return Err(NotLeader { leader: None }.into());
        }
        if self.is_mute() {
            // Nobody would hear of it: it would lie in the log until the next leader keeps it or drops it.
            return Err(NotLeader { leader: None }.into());
        }
        self.rest.touch();
        let Ok(_permit) = self.proposals.try_acquire() else {
            // All of them are taken while the group is laid to rest.
            return match self.leads() {
                Some(_) => Err(ProposeError::Overloaded),
                None => Err(self.not_leader().into()),
            };
        };
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let command = match self.nursery.hub.log_compression.load(Ordering::Relaxed) {
            true => Command::compressed(command),
            false => Command::plain(command),
        };
        // Bulk waits its turn here, where it costs no memory but its own. Nothing has been proposed yet.
        let bytes_max = self.options.proposal_bytes_in_flight_max;
        let share = u32::try_from(command.bytes()).unwrap_or(bytes_max).min(bytes_max);
        let _share = tokio::select! {
            share = self.proposal_bytes.acquire_many(share) => share.map_err(|_| ProposeError::Overloaded)?,
            () = self.seams.sleep(self.options.propose_timeout) => return Err(ProposeError::Overloaded),
        };
        let (responder, result) = ProgressResponder::complete_only();
        let write = core.raft.write(command).with_leader(types::Term::new(term.0)).responder(responder);
        write.await.map_err(|fatal| match core.is_closing() {
            // It never came to it.
            true => ProposeError::from(NotLeader { leader: None }),
            false => ProposeError::Stopped(self.stop_reason(&fatal)),
        })?;
        // From here on only openraft knows.
        let result = tokio::select! {
            result = result => result,
            () = self.seams.sleep(self.options.propose_timeout) => {
                return Err(ProposeError::Ambiguous("no quorum has answered in time".to_owned()));
            }
        };
        match result {
            Ok(Ok(response)) => Ok(response.data.0),
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => Err(not_leader(&to).into()),
            Ok(Err(error)) => Err(ProposeError::Ambiguous(error.to_string())),
            Err(_) => Err(ProposeError::Ambiguous("the replica has stopped".to_owned())),
        }
    }

    /// Brings the log, as the leader, at least up to `index`, by barriers if nobody else writes, and waits until that is
    /// applied here.
    pub async fn advance(&self, index: LogIndex) -> Result<(), ProposeError> {
        let term = self.leads().ok_or_else(|| self.not_leader())?;
        loop {
            let missing = index.0.saturating_sub(self.shared.applied_index().unwrap_or(0));
            if missing == 0 {
                return Ok(());
            }
            let barriers = (0..missing.min(BARRIERS_AT_ONCE)).map(|_| self.propose(term, Bytes::new()));
            futures::future::try_join_all(barriers).await?;
        }
    }

    /// How the group is doing.
    pub fn status(&self) -> GroupStatus {
        match self.core() {
            Some(core) => self.status_of(&core),
            None => self.rested_status(),
        }
    }

    pub(crate) fn status_of(&self, core: &Core) -> GroupStatus {
        let metrics = core.metrics.borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let (members, learners): (BTreeMap<_, _>, BTreeMap<_, _>) = membership
            .nodes()
            .map(|(&replica, host)| (ReplicaId(replica), NodeId(host.0)))
            .partition(|(replica, _)| voters.contains(&replica.0));
        let last = metrics.last_log_index;
        let progress = metrics.replication.iter().flatten().map(|(replica, matched)| {
            let matched = matched.as_ref().map(|id| id.index);
            let acked = metrics.heartbeat.iter().flatten().find(|(id, _)| **id == *replica);
            let silent_for = acked.and_then(|(_, at)| at.map(|at| at.elapsed()));
            let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
            let lag = next(last).saturating_sub(next(matched));
            let host = metrics.membership_config.get_node(replica);
            let behind = host.is_some_and(|host| self.nursery.hub.liveness.is_behind(NodeId(host.0)));
            (ReplicaId(*replica), Progress { matched: matched.map(LogIndex), lag, silent_for, behind })
        });
        GroupStatus {
            group: self.id(),
            replica: self.replica(),
            role: self.role.borrow().clone(),
            term: Term(metrics.current_term),
            leader: metrics.current_leader.and_then(|id| peer(&metrics.membership_config, id)),
            last: last.map(LogIndex),
            committed: metrics.cluster_committed.map(|id| LogIndex(id.index)),
            applied: self.shared.applied_index().map(LogIndex),
            flushed: self.shared.flushed_index().map(LogIndex),
            purged: metrics.purged.map(|id| LogIndex(id.index)),
            members,
            learners,
            joint: membership.get_joint_config().len() > 1,
            rests: false,
            progress: progress.filter(|(replica, _)| *replica != self.replica()).collect(),
        }
    }

    /// A leader has written to this replica.
    pub(crate) fn heard(&self) {
        let since = self.seams.clock.now().saturating_duration_since(self.opened);
        self.heard_ms.store(since.as_millis() as u64, Ordering::Relaxed);
    }

    /// For how long no leader has written to this replica; since it was opened, if none has.
    pub fn unheard_for(&self) -> Duration {
        let since = self.seams.clock.now().saturating_duration_since(self.opened);
        since.saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// Stands for election now, unless a leader's lease forbids it, or what was promised before a restart may: for the
    /// one replica that is meant to lead a new group, and for one that takes over. A group at rest wakes. Not while this node's
    /// disk stalls and another voter's does not.
    pub async fn campaign(self: &Arc<Self>) {
        if !self.stands_back() {
            self.campaign_though_stalled().await;
        }
    }

    /// … or even then: for the one whose leadership nobody else has taken.
    pub(crate) async fn campaign_though_stalled(self: &Arc<Self>) {
        if self.is_stuck() {
            return;
        }
        if let Ok(core) = self.awake().await
            && !self.is_gated()
        {
            self.rest.touch();
            // With a pre-vote: a plain election is held even against the lease that this replica itself has granted.
            let _ = core.raft.trigger().elect(true).await;
        }
    }

    /// The members with a vote, as far as is known here, and their nodes.
    pub(crate) fn voters(&self) -> Vec<(ReplicaId, NodeId)> {
        match self.core() {
            Some(core) => core.voters(),
            None => self.rested_status().members.into_iter().collect(),
        }
    }

    /// … the nodes alone.
    pub(crate) fn voter_nodes(&self) -> Vec<NodeId> {
        self.voters().into_iter().map(|(_, node)| node).collect()
    }

    /// The nodes of those of whom a majority has to agree: of the voters, or while they are being changed of both the old and the new
    /// ones. (Of a group at rest they are not told apart: it is not laid to rest meanwhile.)
    pub(crate) fn quorums(&self) -> Vec<Vec<NodeId>> {
        match self.core() {
            Some(core) => core.quorums(),
            None => vec![self.voter_nodes()],
        }
    }

    /// The voter that would lead soonest in this one's place.
    pub(crate) fn successor(&self) -> Option<ReplicaId> {
        let status = self.status();
        let liveness = &self.nursery.hub.liveness;
        status
            .members
            .keys()
            .filter(|replica| **replica != status.replica)
            .filter(|replica| status.members.get(replica).is_some_and(|node| !liveness.is_stalled(*node)))
            .filter_map(|replica| status.progress.get(replica).map(|progress| (replica, progress)))
            .filter(|(_, progress)| self.answers(progress))
            .min_by_key(|(replica, progress)| {
                let stuck = status.members.get(*replica).is_some_and(|node| liveness.is_stuck(*node));
                (stuck, progress.behind, progress.lag)
            })
            .map(|(replica, _)| *replica)
    }

    /// Whether a member has answered of late: as long as no lease is over. (A shorter limit would take one for silent whose answer to a
    /// single heartbeat is late: those leave at beats, and an answer is almost as old as the time between two of them.)
    fn answers(&self, progress: &Progress) -> bool {
        progress.silent_for.is_some_and(|silence| silence < self.options.election_max)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn is_gated(&self) -> bool {
        self.gate.is_closed()
    }

    /// Somebody else is about to lead.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::SeqCst)
    }

    /// This replica may lead, but no majority answers it: see [`crate::liveness`].
    fn is_mute(&self) -> bool {
        self.nursery.hub.liveness.is_mute(self.id())
    }

    /// The log's disk is too slow: this node should not lead, if anybody else can.
    pub(crate) fn is_stalled(&self) -> bool {
        self.nursery.hub.liveness.is_stalled(self.nursery.hub.me)
    }

    /// Whether a node's disk stalls, and a voter of this group is on one that is heard and whose disk does not: that one is to lead.
    /// (Other nodes, however well they are, can't.)
    pub(crate) fn is_outdone(&self, node: NodeId) -> bool {
        let (me, liveness) = (self.nursery.hub.me, &self.nursery.hub.liveness);
        let is_better = |voter: NodeId| {
            let is_there = voter == me || liveness.is_heard(voter);
            is_there && !liveness.is_stalled(voter)
        };
        liveness.is_stalled(node) && self.voter_nodes().into_iter().any(is_better)
    }

    /// This replica leaves it to another one to lead, for its disk stalls: see [`crate::stall`].
    pub(crate) fn stands_back(&self) -> bool {
        self.is_outdone(self.nursery.hub.me)
    }

    /// It has entries to apply, and applies none: it should not lead.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::SeqCst)
    }

    /// … from now on, or not; true if that is new.
    pub(crate) fn set_stuck(&self, stuck: bool) -> bool {
        self.stuck.swap(stuck, Ordering::SeqCst) != stuck
    }

    /// Stands for election from now on, when it misses a leader, if it could serve. (If not, it does when it can.)
    pub(crate) fn stand_for_election(&self) {
        if let Some(core) = self.core()
            && !self.is_stuck()
            && !self.stands_back()
        {
            core.raft.runtime_config().elect(true);
        }
    }

    /// Stands for no election until told otherwise.
    pub(crate) fn keep_from_election(&self) {
        if let Some(core) = self.core() {
            core.raft.runtime_config().elect(false);
        }
    }

    /// Ends the replica.
    pub(crate) async fn stop(&self, reason: &str) {
        self.stopping.store(true, Ordering::SeqCst);
        self.shared.fault.set(reason);
        let _turn = self.rest.turn().await;
        match self.core() {
            Some(core) => core.end().await,
            None => self.publish(Role::Stopped { reason: self.stop_reason(&reason) }),
        }
        self.nursery.roll.gone(self.id());
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn stop_reason(&self, fatal: &dyn std::fmt::Display) -> Arc<str> {
        self.shared.fault.get().unwrap_or_else(|| fatal.to_string().into())
    }

    pub(crate) fn not_leader(&self) -> NotLeader {
        match &*self.role.borrow() {
            Role::Follower { leader } => NotLeader { leader: *leader },
            _ => NotLeader { leader: None },
        }
    }
}

pub(crate) fn peer(membership: &StoredMembership, id: u64) -> Option<Peer> {
    let host = membership.get_node(&id)?;
    Some(Peer { replica: ReplicaId(id), node: NodeId(host.0) })
}

fn not_leader(to: &ForwardToLeader<TypeConfig>) -> NotLeader {
    let leader = to.leader_id.zip(to.leader_node);
    NotLeader { leader: leader.map(|(id, host)| Peer { replica: ReplicaId(id), node: NodeId(host.0) }) }
}

/// How long a stop waits for a leadership to move.
pub(crate) async fn within(seams: &Seams, limit: Duration, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = seams.sleep(limit) => {}
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}: {:?}", self.replica(), self.id(), *self.role.borrow())
    }
}
