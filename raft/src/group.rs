//! One replica of one group: proposals, leases, membership, and the watch over its role.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;
use openraft::{ChangeMembers, Instant as _, ReadPolicy, ServerState};
use storage::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use storage::seam::Seams;
use tokio::sync::{Semaphore, watch};

use crate::api::{ChangeError, GroupStatus, NotLeader, Peer, Progress, ProposeError, Role, StateMachine};
use crate::command::Command;
use crate::core::{Core, Nursery, is_only_voter};
use crate::gate::Gate;
use crate::options::RaftOptions;
use crate::rest::{Rest, Rested};
use crate::state_machine::Shared;
use crate::types::{self, Host, StoredMembership, TypeConfig};

/// How many entries the next leader may lack when a transfer begins. Writes wait until it has them.
const TRANSFER_LAG_MAX: u64 = 1000;
/// Barriers that are proposed together: they share an append.
const BARRIERS_AT_ONCE: u64 = 64;

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
        write.await.map_err(|fatal| ProposeError::Stopped(self.stop_reason(&fatal)))?;
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

    /// Whether this replica leads in `term` and holds a lease: nobody else has led between the moment that the
    /// caller took its snapshot and now. Call it *after* taking the snapshot.
    ///
    /// A quorum has answered a message that was sent less than a lease ago, and each of those replicas elects nobody
    /// for longer than that.
    pub fn lease(&self, term: Term) -> Result<(), NotLeader> {
        if self.reads_by_quorum() {
            return Err(NotLeader { leader: None });
        }
        let core = self.core().ok_or_else(|| self.not_leader())?;
        // The term and the acknowledgement of one moment: an acknowledgement of a later term would vouch for a
        // snapshot that was taken while somebody else led.
        let valid = {
            let metrics = core.metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader && metrics.current_term == term.0;
            let acked = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < self.options.lease());
            let sole = || {
                // Set before openraft hears of a change, so that a change is never overlooked.
                !self.changing.load(Ordering::SeqCst)
                    && is_only_voter(self.replica(), &metrics.membership_config)
                    && is_only_voter(self.replica(), &metrics.committed_membership_config)
            };
            leads && (acked || sole())
        };
        // Last: a lease is given up, for a transfer or for rest, before any voter hears that it may forget it. This
        // thread may have slept between two lines.
        if self.leads() != Some(term) || self.handing_over.load(Ordering::SeqCst) {
            return Err(self.not_leader());
        }
        if valid { Ok(()) } else { Err(NotLeader { leader: None }) }
    }

    /// Whether no lease is to be relied upon, so that [`Group::lease`] always refuses.
    pub fn reads_by_quorum(&self) -> bool {
        self.nursery.hub.quorum_reads.load(Ordering::SeqCst)
    }

    /// Asks a quorum whether this replica leads in `term`: as [`Group::lease`], without relying on clocks.
    pub async fn confirm_quorum(&self, term: Term) -> Result<(), NotLeader> {
        let leaves = self.handing_over.load(Ordering::SeqCst) && self.is_stalled();
        if self.leads() != Some(term) || leaves {
            return Err(self.not_leader());
        }
        self.rest.touch();
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let confirmed = tokio::select! {
            confirmed = core.raft.get_read_linearizer(ReadPolicy::ReadIndex) => confirmed,
            () = self.seams.sleep(self.options.request_timeout) => return Err(NotLeader { leader: None }),
        };
        match confirmed {
            Ok(read) if read.read_log_id().committed_leader_id().term == term.0 => Ok(()),
            _ => Err(self.not_leader()),
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
            (ReplicaId(*replica), Progress { matched: matched.map(LogIndex), lag, silent_for })
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

    pub(crate) async fn change(&self, change: ChangeMembers<u64, Host>) -> Result<(), ChangeError> {
        let _turn = self.changes.lock().await;
        if self.leads().is_none() || self.is_mute() {
            return Err(self.not_leader().into());
        }
        self.rest.touch();
        let core = self.core().ok_or_else(|| self.not_leader())?;
        if self.shared.machine.keeps_members() {
            return Err(ChangeError::Refused(
                "the group's members are to stay as they are for now".to_owned(),
            ));
        }
        self.changing.store(true, Ordering::SeqCst);
        let result = tokio::select! {
            result = core.raft.change_membership(change, false) => result,
            () = self.seams.sleep(self.options.propose_timeout) => {
                // The flag stays: who votes is unclear until the role changes or the next change succeeds.
                return Err(ChangeError::Ambiguous("no quorum has answered in time".to_owned()));
            }
        };
        if let Ok(response) = &result {
            await_membership(&core, response.log_id.index).await;
        }
        let ambiguous = matches!(&result, Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))));
        if !ambiguous {
            self.changing.store(false, Ordering::SeqCst);
        }
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Stopped(self.stop_reason(&fatal))),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(to) => not_leader(&to).into(),
                ClientWriteError::LogEntryDiscarded(_) => ChangeError::Ambiguous(error.to_string()),
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                )
                | ClientWriteError::PreconditionFailed(_) => ChangeError::InProgress(error.to_string()),
                ClientWriteError::ChangeMembershipError(_) => ChangeError::Refused(error.to_string()),
            }),
        }
    }

    /// No change of members begins here while this is held. What another leader has begun before is in the log already, and
    /// to be seen in [`Group::status`].
    pub async fn hold_members(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.changes.clone().lock_owned().await
    }

    /// Hands the leadership to another voter. `Ok` says that this replica leads no more; usually, but not certainly,
    /// `to` does. If that fails in time, an election is forced, so that the group can write again.
    pub async fn transfer_leader(&self, to: ReplicaId) -> Result<(), ChangeError> {
        let Some(term) = self.leads() else { return Err(self.not_leader().into()) };
        if to == self.replica() {
            return Ok(());
        }
        self.rest.touch();
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let is_voter = core.server.borrow_watched().membership_config.voter_ids().any(|id| id == to.0);
        if !is_voter {
            return Err(ChangeError::Refused(format!("{to} has no vote")));
        }
        // To one that does not answer, or is far behind, it would cost an outage.
        let progress = self.status().progress.get(&to).copied();
        let answers = |p: &Progress| p.silent_for.is_some_and(|silence| silence < self.options.election_min);
        if !progress.is_some_and(|p| answers(&p) && p.lag <= TRANSFER_LAG_MAX) {
            return Err(ChangeError::Refused(format!("{to} does not answer or is behind")));
        }
        if self.voters().iter().any(|(id, node)| *id == to && self.nursery.hub.liveness.is_stalled(*node)) {
            return Err(ChangeError::Refused(format!("the disk of {to} stalls")));
        }
        let mut role = self.role();
        // Before the first voter hears of it.
        self.handing_over.store(true, Ordering::SeqCst);
        if self.leads() != Some(term) {
            self.handing_over.store(false, Ordering::SeqCst);
            return Err(self.not_leader().into());
        }
        if let Err(fatal) = core.raft.trigger().transfer_leader(to.0).await {
            return Err(ChangeError::Stopped(self.stop_reason(&fatal)));
        }
        let deposed = |role: &Role| role.leads() != Some(term);
        let patience = self.options.election_max * 2;
        tokio::select! {
            changed = role.wait_for(deposed) => {
                return changed.map(|_| ()).map_err(|_| ChangeError::TimedOut("the replica has stopped".to_owned()));
            }
            () = self.seams.sleep(patience) => {}
        }
        // openraft would refuse all writes from now on, for as long as this replica leads. Falling silent makes the
        // others elect; with the role the heartbeats come back.
        tracing::warn!(group = %self.id(), %to, "a leader transfer has failed; forcing an election");
        core.raft.runtime_config().heartbeat(false);
        let _ = tokio::select! {
            changed = role.wait_for(deposed) => changed.is_ok(),
            () = self.seams.sleep(patience * 2) => false,
        };
        Err(ChangeError::TimedOut(format!("{to} did not take over")))
    }

    /// Waits until a leader of a later term serves: until then it may need this replica to commit its first entry.
    pub(crate) async fn succeeded(&self, term: Term) -> Result<(), ChangeError> {
        let mut applied = self.shared.applied_term();
        let served = applied.wait_for(|applied| *applied > term.0).await;
        served.map(|_| ()).map_err(|_| ChangeError::TimedOut("the replica has stopped".to_owned()))
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
    /// disk stalls.
    pub async fn campaign(self: &Arc<Self>) {
        if self.is_stalled() || self.is_stuck() {
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

    /// The voter that would lead soonest in this one's place.
    pub(crate) fn successor(&self) -> Option<ReplicaId> {
        let status = self.status();
        let fresh = self.options.election_min;
        status
            .members
            .keys()
            .filter(|replica| **replica != status.replica)
            .filter(|replica| {
                status.members.get(replica).is_some_and(|n| !self.nursery.hub.liveness.is_stalled(*n))
            })
            .filter_map(|replica| status.progress.get(replica).map(|progress| (replica, progress)))
            .filter(|(_, progress)| progress.silent_for.is_some_and(|silence| silence < fresh))
            .min_by_key(|(_, progress)| progress.lag)
            .map(|(replica, _)| *replica)
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

    /// The log's disk is too slow for this node to lead.
    pub(crate) fn is_stalled(&self) -> bool {
        self.nursery.hub.liveness.is_stalled(self.nursery.hub.me)
    }

    /// It has entries to apply, and applies none: it should not lead.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::SeqCst)
    }

    /// … from now on, or not; true if that is new.
    pub(crate) fn set_stuck(&self, stuck: bool) -> bool {
        self.stuck.swap(stuck, Ordering::SeqCst) != stuck
    }

    /// Stands for election from now on, when it misses a leader, if it could serve.
    pub(crate) fn stand_for_election(&self) {
        if let Some(core) = self.core()
            && !self.is_stuck()
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

    /// Publishes role changes, until the replica stops or is laid to rest.
    pub(crate) async fn watch_role(self: Arc<Self>, core: Arc<Core>) {
        let mut server = core.raft.server_metrics();
        let mut applied_term = self.shared.applied_term();
        let mut fault = self.shared.fault.watch();
        let mut closing = core.closing();
        loop {
            if *closing.borrow() {
                return;
            }
            let role = self.observe(&core, *applied_term.borrow_and_update());
            if self.is_gated() && core.is_alone(self.replica()) {
                // Whom should it have promised anything?
                self.gate.open();
                core.raft.runtime_config().elect(true);
                let _ = core.raft.trigger().elect(true).await;
            }
            let stopped = matches!(role, Role::Stopped { .. });
            self.publish_of(&core, role);
            if stopped {
                return;
            }
            tokio::select! {
                _ = closing.changed() => return,
                changed = server.changed() => if changed.is_err() && !*closing.borrow() {
                    self.shared.fault.set("the consensus core has ended");
                },
                _ = applied_term.changed() => {}
                _ = fault.changed() => {}
            }
        }
    }

    fn observe(&self, core: &Core, applied_term: u64) -> Role {
        if let Some(reason) = self.shared.fault.get() {
            return Role::Stopped { reason };
        }
        let server = core.server.borrow_watched().clone();
        if server.state == ServerState::Leader {
            return match core.leads(applied_term) {
                Some(term) => Role::Leader { term: Term(term) },
                None => Role::Follower { leader: None },
            };
        }
        let leader = server.current_leader.filter(|&id| id != self.replica().0);
        Role::Follower { leader: leader.and_then(|id| peer(&server.membership_config, id)) }
    }

    pub(crate) fn publish(&self, role: Role) {
        if *self.role.borrow() == role {
            return;
        }
        let group = self.id();
        if let Role::Leader { .. } | Role::Follower { leader: Some(_) } = role {
            metrics::counter!("flotilla_raft_leader_changes_total").increment(1);
        }
        match &role {
            Role::Leader { term } => tracing::info!(%group, replica = %self.replica(), %term, "leading"),
            Role::Follower { leader: Some(leader) } => {
                tracing::info!(%group, replica = %self.replica(), leader = %leader.node, "following");
            }
            Role::Follower { leader: None } => tracing::debug!(%group, "without a leader"),
            Role::Stopped { reason } if self.stopping.load(Ordering::SeqCst) => {
                tracing::info!(%group, %reason, "stopped");
            }
            Role::Stopped { reason } => {
                metrics::counter!("flotilla_raft_replicas_failed_total").increment(1);
                tracing::error!(%group, replica = %self.replica(), %reason, "THIS REPLICA HAS FAILED AND TAKES PART NO MORE");
            }
        }
        self.shared.machine.role_changed(&role);
        // Whatever was under way was of the role that ends here.
        self.handing_over.store(false, Ordering::SeqCst);
        self.changing.store(false, Ordering::SeqCst);
        if let Some(core) = self.core() {
            core.raft.runtime_config().heartbeat(true);
        }
        self.role.send_replace(role);
    }
}

/// Waits until the metrics tell of the membership that came with an entry.
async fn await_membership(core: &Core, index: u64) {
    let mut server = core.raft.server_metrics();
    loop {
        let known = server.borrow_watched().membership_config.log_id().is_some_and(|id| id.index >= index);
        if known || server.changed().await.is_err() {
            return;
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
