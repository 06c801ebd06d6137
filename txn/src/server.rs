//! The shard server: takes requests to the shards of this node, from this node and from others, and has their leaders
//! evaluate them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use raft::MultiRaft;
use storage::ids::{GroupId, NodeId, ReplicaId, TxnId};
use storage::seam::Seams;
use tokio::sync::mpsc;

use crate::api::Witness;
use crate::command::{Context, Outcome, Refusal, merge, past};
use crate::descriptor::{ShardDescriptor, replicas_to_pb};
use crate::lock::Edge;
use crate::shard::effort::measured;
use crate::shard::{Leadership, Registry, Shard};
use crate::wire::{activity_to_pb, parse_txn};
use crate::{Error, Oracle};

/// How often the descriptors of led shards are compared with their groups' members.
const MEMBERS_EVERY: Duration = Duration::from_millis(500);

/// How often locks of silent gateways are looked for.
const LOCK_SWEEP_EVERY: Duration = Duration::from_millis(200);

/// How many descriptors an answer to a misrouted request brings along, at most.
const LEARNED_MAX: usize = 64;

/// How long a request waits at a shard that is frozen.
const FROZEN_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a request waits for a shard at rest to wake.
const ROUSE_MAX: Duration = Duration::from_secs(1);

/// How many sessions or transactions one request may ask about.
const DESCRIBED_MAX: usize = 4096;

/// Serves the shards of this node.
pub struct ShardServer {
    registry: Arc<Registry>,
    multi: Arc<MultiRaft>,
    oracle: Arc<dyn Oracle>,
    seams: Seams,
    witness: OnceLock<Arc<dyn Witness>>,
}

impl ShardServer {
    /// A server over the shards in `registry`, which raft runs in `multi`. Creates the groups of shards that splits
    /// bring forth; `births` came with the registry.
    pub fn start(
        registry: Arc<Registry>,
        births: mpsc::UnboundedReceiver<Vec<ShardDescriptor>>,
        multi: Arc<MultiRaft>,
        oracle: Arc<dyn Oracle>,
        seams: Seams,
    ) -> Arc<Self> {
        let witness = OnceLock::new();
        let server = Arc::new(Self { registry, multi, oracle, seams, witness });
        if let Err(error) = server.registry.retire_overlapped() {
            tracing::error!(%error, "two shards on this node hold the same keys");
        }
        server.seams.spawn("shard-births", deliver(Arc::downgrade(&server), births));
        server.seams.spawn("lock-lapses", sweep_locks(Arc::downgrade(&server)));
        server.seams.spawn("shard-members", follow_members(Arc::downgrade(&server)));
        server
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.registry.me()
    }

    /// Which nodes don't answer.
    pub(crate) fn reach(&self) -> raft::Reach {
        self.multi.reach()
    }

    /// The shards of this node.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The groups of this node.
    pub(crate) fn multi(&self) -> &Arc<MultiRaft> {
        &self.multi
    }

    /// The oracle.
    pub fn oracle(&self) -> &dyn Oracle {
        &*self.oracle
    }

    /// The seams.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// Answers a request.
    pub async fn handle(&self, request: pb::Request) -> pb::Response {
        let (id, group) = (request.id, GroupId(request.group));
        // Boxed: the futures of all commands together are large, and this one is held by every caller.
        let body = match Box::pin(self.evaluate(request)).await {
            Ok(answer) => answer,
            Err(refusal) => {
                if matches!(refusal, Refusal::Failed(Error::Corruption(_))) {
                    self.multi.suspect(group);
                }
                self.refuse(refusal)
            }
        };
        pb::Response { id, body: Some(body) }
    }

    /// Writes a change of a group's members into its descriptor. The change was made; this node leads the group.
    async fn set_replicas(
        &self,
        group: GroupId,
        replicas: &BTreeMap<ReplicaId, NodeId>,
    ) -> Result<(), Error> {
        let body = Ask::SetReplicas(pb::SetReplicas { replicas: replicas_to_pb(replicas) });
        let (group, body) = (group.0, Some(body));
        let request = pb::Request { group, timeout_ms: 5_000, body, ..pb::Request::default() };
        match self.evaluate(request).await {
            Ok(_) => Ok(()),
            Err(Refusal::Failed(error)) => Err(error),
            Err(Refusal::NotLeader(_)) => {
                Err(Error::Unavailable("this node does not lead the shard".to_owned()))
            }
            Err(_) => Err(Error::Unavailable("the shard is changing".to_owned())),
        }
    }

    async fn evaluate(&self, request: pb::Request) -> Outcome {
        let ask = request.body.ok_or_else(|| Error::Invalid("an empty request".to_owned()))?;
        if let Ask::Describe(ask) = ask {
            return self.describe(&ask);
        }
        let id = GroupId(request.group);
        let (Some(shard), Some(group)) = (self.registry.get(id), self.multi.group(id)) else {
            return Err(Refusal::NotLeader(None));
        };
        if request.past {
            let answer = past::answer(self, &shard, &group, &ask).await;
            return answer.unwrap_or(Err(Refusal::NotLeader(None)));
        }
        if !merge::concerns_frozen(&ask) && !self.outlast_merge(&shard, request.timeout_ms).await {
            return Err(Refusal::WrongShard);
        }
        // (Closing is no work: it wakes nobody. What it appends keeps a group awake that is awake.)
        let is_work = !matches!(ask, Ask::Close(_));
        if is_work {
            group.touch();
        }
        if is_work && shard.leadership().is_none() && group.rests() {
            let limit = ROUSE_MAX.min(Duration::from_millis(request.timeout_ms.into()));
            if !group.rouse(limit).await {
                return Err(Error::Unavailable("too many shards of this node are awake".to_owned()).into());
            }
        }
        let leadership = shard.leadership();
        let (Some(leadership), Some(descriptor)) = (leadership, shard.descriptor()) else {
            let leader = match &*group.role().borrow() {
                raft::Role::Follower { leader } => leader.map(|l| l.node).filter(|node| *node != self.me()),
                _ => None,
            };
            return Err(Refusal::NotLeader(leader));
        };
        let asked = shard.traffic().count(&ask);
        let timeout = Duration::from_millis(request.timeout_ms.into());
        let deadline = self.seams.clock.now() + timeout;
        let context =
            Context { server: self, shard, group, leadership, descriptor, epoch: request.epoch, deadline };
        let work = std::pin::pin!(context.evaluate(ask));
        let (outcome, spent) = measured(&*self.seams.clock, work).await;
        if let Some(key) = asked {
            context.shard.traffic().spent(&key, spent);
        }
        outcome
    }

    /// Whether the shard has no leader because it is at rest, and this node is where it would have one.
    pub(crate) fn rests_here(&self, group: GroupId) -> bool {
        self.multi.group(group).is_some_and(|group| group.rests_at_home())
    }

    /// Whether requests to the shard would be answered, as far as this node knows without asking anybody.
    pub(crate) fn seems_served(&self, group: GroupId) -> bool {
        let serves = |shard: Arc<Shard>| shard.frozen().is_none() && !shard.is_absorbed();
        self.registry.get(group).is_some_and(serves)
            && self.multi.group(group).is_some_and(|group| group.seems_served())
    }

    /// Waits while the shard is frozen. Whether it serves; otherwise whoever asked has to look for its keys elsewhere.
    async fn outlast_merge(&self, shard: &Shard, timeout_ms: u32) -> bool {
        if shard.frozen().is_some() {
            let limit = FROZEN_WAIT_MAX.min(Duration::from_millis(timeout_ms.into()));
            let mut changes = self.registry.watch();
            let thawed = async { while shard.frozen().is_some() && changes.changed().await.is_ok() {} };
            tokio::select! {
                () = thawed => {}
                () = self.seams.sleep(limit) => {}
            }
        }
        shard.frozen().is_none() && !shard.is_absorbed()
    }

    /// Who knows this node's sessions.
    pub fn set_witness(&self, witness: Arc<dyn Witness>) {
        // (The first one stays.)
        let _ = self.witness.set(witness);
    }

    /// What is known of some of this node's sessions and transactions.
    fn describe(&self, ask: &pb::Describe) -> Outcome {
        let ids: Vec<TxnId> =
            ask.ids.iter().take(DESCRIBED_MAX).map(|id| parse_txn(id)).collect::<Result<_, _>>()?;
        let list = match self.witness.get() {
            Some(witness) => witness.describe(&ids).into_iter().map(activity_to_pb).collect(),
            None => Vec::new(),
        };
        Ok(Answer::Descriptions(pb::Descriptions { list }))
    }

    fn refuse(&self, refusal: Refusal) -> Answer {
        let mut failure = pb::Failure::default();
        let kind = match refusal {
            Refusal::Blocked { intents, in_reads } => {
                return Answer::Blocked(pb::Blocked { intents, in_reads });
            }
            Refusal::NotLeader(leader) => {
                failure.leader = leader.map_or(0, |node| node.0);
                pb::FailureKind::FailureNotLeader
            }
            Refusal::WrongShard => {
                let known = self.registry.descriptors();
                failure.shards = known.iter().take(LEARNED_MAX).map(|d| (&**d).into()).collect();
                pb::FailureKind::FailureWrongShard
            }
            Refusal::Pushed => pb::FailureKind::FailurePushed,
            Refusal::Failed(error) => {
                if matches!(error, Error::Corruption(_) | Error::Internal(_)) {
                    tracing::error!(%error, "a request to a shard failed");
                }
                return Answer::Failure(failure_of(error));
            }
        };
        failure.kind = kind.into();
        Answer::Failure(failure)
    }
}

impl std::fmt::Debug for ShardServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShardServer({})", self.me())
    }
}

/// Creates the groups of shards that were born by a split. Every replica of the parent does the same; the parent's
/// leader stands for election in the child, too, so that the child is served at once.
async fn deliver(
    server: std::sync::Weak<ShardServer>,
    mut births: mpsc::UnboundedReceiver<Vec<ShardDescriptor>>,
) {
    while let Some(children) = births.recv().await {
        let Some(server) = server.upgrade() else {
            return;
        };
        let begin = |child: ShardDescriptor| {
            let me = child.replica_on(server.me())?;
            // Its replicas are its parent's, so its first leader may be, too.
            let campaign = server.leads_beside(&child);
            Some(raft::NewGroup { group: child.group, me, members: child.replicas, campaign })
        };
        let created = server.multi.create_groups(children.into_iter().filter_map(begin).collect()).await;
        let failures: Vec<raft::Error> = match created {
            Ok(created) => created.into_iter().filter_map(Result::err).collect(),
            Err(error) => vec![error],
        };
        for error in failures {
            tracing::error!(%error, "cannot create the group of a new shard");
        }
    }
}

/// Lets the descriptors of the shards that this node leads follow their groups' members, which raft changes.
async fn follow_members(server: std::sync::Weak<ShardServer>) {
    loop {
        let Some(server) = server.upgrade() else {
            return;
        };
        for shard in server.registry.led() {
            let (Some(_), Some(descriptor)) = (shard.leadership(), shard.descriptor()) else {
                continue;
            };
            let Some(status) = server.multi.group(shard.group()).map(|group| group.status()) else {
                continue;
            };
            let steady = !status.joint && !status.members.is_empty() && shard.frozen().is_none();
            if !steady || status.members == descriptor.replicas {
                continue;
            }
            if let Err(error) = server.set_replicas(shard.group(), &status.members).await {
                tracing::debug!(group = %shard.group(), %error, "the descriptor does not follow the members yet");
            }
        }
        server.bury().await;
        let seams = server.seams.clone();
        drop(server);
        seams.beat(MEMBERS_EVERY).await;
    }
}

impl ShardServer {
    /// Removes the replicas of shards that were absorbed a while ago.
    async fn bury(&self) {
        let now = self.seams.clock.now();
        for shard in self.registry.absorbed().into_iter().filter(|shard| shard.is_to_be_buried(now)) {
            let Some(replica) = self.multi.group(shard.group()).map(|group| group.replica()) else {
                continue;
            };
            match self.multi.bury(shard.group(), replica).await {
                Ok(()) => {
                    tracing::info!(group = %shard.group(), "was absorbed, and is removed from this node")
                }
                Err(error) => {
                    tracing::warn!(group = %shard.group(), %error, "cannot remove what was absorbed")
                }
            }
        }
    }
}

/// Lets go the locks of gateways that have fallen silent.
async fn sweep_locks(server: std::sync::Weak<ShardServer>) {
    loop {
        let Some(server) = server.upgrade() else {
            return;
        };
        let now = server.seams.clock.now();
        for shard in server.registry.led() {
            let lapsed = shard.leadership().map_or(0, |leadership| {
                leadership.lock_tables().into_iter().map(|table| table.sweep(now)).sum::<usize>()
            });
            if lapsed > 0 {
                tracing::info!(group = %shard.group(), lapsed, "the locks of silent gateways' transactions are gone");
            }
        }
        let seams = server.seams.clone();
        drop(server);
        seams.beat(LOCK_SWEEP_EVERY).await;
    }
}

impl ShardServer {
    /// Who waits for whom in the shards that this node leads, for at least `age`.
    pub fn lock_edges(&self, age: Duration) -> Vec<Edge> {
        let now = self.seams.clock.now();
        let leading = self.registry.led().into_iter().filter_map(|shard| shard.leadership());
        let edges = |l: Arc<Leadership>| l.lock_tables().map(|table| table.edges(age, now)).concat();
        leading.flat_map(edges).collect()
    }

    /// Ends the waiting of a deadlock's victim, if it waits here.
    pub fn sacrifice(&self, txn: TxnId) {
        self.registry
            .led()
            .iter()
            .filter_map(|shard| shard.leadership())
            .for_each(|l| l.lock_tables().into_iter().for_each(|table| table.sacrifice(txn)));
    }

    /// Whether this node leads the shard right before `child`, or one before that of the same split.
    fn leads_beside(&self, child: &ShardDescriptor) -> bool {
        self.registry.led().iter().any(|shard| {
            shard.leadership().is_some()
                && shard.descriptor().is_some_and(|d| d.epoch == child.epoch && d.replicas == child.replicas)
        })
    }
}

/// An error as a message.
pub fn failure_of(error: Error) -> pb::Failure {
    let mut failure = pb::Failure::default();
    let kind = match error {
        // (What has changed since a snapshot, the gateway finds out from an answer.)
        Error::Changed { key, rival, .. } | Error::Conflict { key, rival } => {
            failure.key = key;
            failure.txn = rival.map(crate::wire::txn_bytes).unwrap_or_default();
            pb::FailureKind::FailureConflict
        }
        Error::AlreadyExists { key } => {
            failure.key = key;
            pb::FailureKind::FailureAlreadyExists
        }
        Error::Locked { key, .. } => {
            failure.key = key;
            pb::FailureKind::FailureLocked
        }
        Error::Deadlock { key } => {
            failure.key = key;
            pb::FailureKind::FailureDeadlock
        }
        Error::SnapshotTooOld { at, safe_point } => {
            (failure.at, failure.safe_point) = (at.0, safe_point.0);
            pb::FailureKind::FailureSnapshotTooOld
        }
        Error::LocksLost(message) => {
            failure.message = message;
            pb::FailureKind::FailureLocksLost
        }
        Error::FenceMismatch { prefix } => {
            failure.key = prefix;
            pb::FailureKind::FailureFenceMismatch
        }
        Error::Aborted(message) => {
            failure.message = message;
            pb::FailureKind::FailureAborted
        }
        Error::Ambiguous(message) => {
            failure.message = message;
            pb::FailureKind::FailureAmbiguous
        }
        Error::Unavailable(message) => {
            failure.message = message;
            pb::FailureKind::FailureUnavailable
        }
        Error::TooLarge(message) => {
            failure.message = message;
            pb::FailureKind::FailureTooLarge
        }
        Error::Invalid(message) | Error::Unsupported(message) => {
            failure.message = message;
            pb::FailureKind::FailureInvalid
        }
        Error::Corruption(message) => {
            failure.message = message;
            pb::FailureKind::FailureCorruption
        }
        Error::Internal(message) => {
            failure.message = message;
            pb::FailureKind::FailureInternal
        }
    };
    failure.kind = kind.into();
    failure
}

/// An error from a message.
pub fn error_of(failure: pb::Failure) -> Error {
    let message = failure.message.clone();
    match failure.kind() {
        pb::FailureKind::FailureConflict => {
            Error::Conflict { key: failure.key, rival: crate::wire::parse_txn(&failure.txn).ok() }
        }
        pb::FailureKind::FailureAlreadyExists => Error::AlreadyExists { key: failure.key },
        pb::FailureKind::FailureLocked => Error::Locked { key: failure.key, timed_out: false },
        pb::FailureKind::FailureDeadlock => Error::Deadlock { key: failure.key },
        pb::FailureKind::FailureLocksLost => Error::LocksLost(message),
        pb::FailureKind::FailureFenceMismatch => Error::FenceMismatch { prefix: failure.key },
        pb::FailureKind::FailureSnapshotTooOld => Error::SnapshotTooOld {
            at: storage::ids::Timestamp(failure.at),
            safe_point: storage::ids::Timestamp(failure.safe_point),
        },
        pb::FailureKind::FailureAborted => Error::Aborted(message),
        pb::FailureKind::FailureAmbiguous => Error::Ambiguous(message),
        pb::FailureKind::FailureUnavailable => Error::Unavailable(message),
        pb::FailureKind::FailureTooLarge => Error::TooLarge(message),
        pb::FailureKind::FailureInvalid => Error::Invalid(message),
        pb::FailureKind::FailureCorruption => Error::Corruption(message),
        pb::FailureKind::FailureNotLeader => Error::Unavailable("the replica does not lead".to_owned()),
        pb::FailureKind::FailureWrongShard => Error::Unavailable("the shard has moved".to_owned()),
        pb::FailureKind::FailurePushed => Error::Unavailable("the commit was pushed".to_owned()),
        pb::FailureKind::FailureInternal | pb::FailureKind::FailureUnspecified => Error::Internal(message),
    }
}
