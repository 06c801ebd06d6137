//! What the rooms above see: traits they implement, and the words for roles, states and failures.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::ids::{GroupId, KeyRange, LogIndex, NodeId, ReplicaId, Term};
use storage::{Batch, Cf, Engine};

/// The place of an entry in a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The term of the leader that proposed it.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
}

/// What a group's commands mean. One instance per replica; its methods are never called concurrently, except for
/// [`StateMachine::spans`].
pub trait StateMachine: Send + Sync + 'static {
    /// Turns a committed command into writes. raft adds the applied index to `batch` and writes it, so that effects
    /// and index become visible, and durable, together.
    ///
    /// The same on every replica: it depends on nothing but the state and the command. It is called again for
    /// commands that a crash undid. An error means that the local state is broken: the replica stops, visibly.
    fn apply(&self, batch: &mut Batch, at: Applied, command: &[u8]) -> Result<Bytes, Fatal>;

    /// The batch of the command at `at` is visible. Also called for entries that are not commands, with everything
    /// before them applied.
    fn applied(&self, at: Applied);

    /// What a snapshot of this group consists of; raft's own keys are not in it. Only what
    /// `engine` says at the moment counts, so that it fits a snapshot taken under the same lock as the applied index.
    fn spans(&self) -> Vec<(Cf, KeyRange)>;

    /// The spans of what an incoming snapshot replaces, and the state in memory was built on, are about to go.
    /// After the import [`StateMachine::restored`] is called.
    fn restoring(&self) {}

    /// A snapshot was installed: load what is kept in memory from the engine again.
    fn restored(&self) -> Result<(), Fatal>;

    /// Whether the group's members must stay as they are now. Asked at the leader before each change of them.
    fn keeps_members(&self) -> bool {
        false
    }

    /// Whether a snapshot of that group may overlap what this replica holds: it has taken this one's place, or is about to.
    fn yields_to(&self, _group: GroupId) -> bool {
        false
    }

    /// Whether this replica holds nothing any more, because another group's does: then it has no state to give to others.
    fn is_retired(&self) -> bool {
        false
    }

    /// Whether the group may be laid to rest when nobody has asked for it for a while: what the leader knows in memory alone, or
    /// does by itself, can be done without. Asked at the leader, and at a start of the process. See [`crate::rest`].
    fn may_rest(&self) -> bool {
        false
    }

    /// The role changed. Called with `Leader` once an entry of the own term is applied (so that everything committed
    /// before is, too), before [`crate::Group::role`] says so; it must not block.
    fn role_changed(&self, role: &Role);
}

/// Makes the state machines of a node.
pub trait StateMachineFactory: Send + Sync + 'static {
    /// Opens the state machine of a replica over what the engine holds of it, which may be nothing.
    fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        engine: Arc<Engine>,
    ) -> Result<Arc<dyn StateMachine>, Fatal>;

    /// Groups that the engine's state says this node is a member of: children of a split, whose start a crash may
    /// have prevented. Asked at start; those that have no log yet are created.
    fn expected(&self, engine: &Arc<Engine>) -> Result<Vec<Expected>, Fatal>;

    /// Whether a node whose replica of that group cannot be opened had better not start.
    fn is_vital(&self, _group: GroupId) -> bool {
        false
    }
}

/// A replica that should exist on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The group.
    pub group: GroupId,
    /// This node's replica of it.
    pub replica: ReplicaId,
    /// All its first members.
    pub members: BTreeMap<ReplicaId, NodeId>,
}

/// Where nodes are.
pub trait AddressBook: Send + Sync + 'static {
    /// `host:port` of a node's gRPC server, as far as is known.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// A message came for a replica that this node doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownReplica {
    /// The group.
    pub group: GroupId,
    /// The replica that the message is for.
    pub replica: ReplicaId,
    /// Who sent it.
    pub from: Peer,
}

/// The local state or the local disk is broken: whoever meets this stops what depends on it, visibly.
#[derive(Clone, Debug)]
pub struct Fatal(Arc<dyn std::error::Error + Send + Sync>);

impl Fatal {
    /// Of any error.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(Arc::from(source.into()))
    }

    /// The error of the local disk that it is, if it is one.
    pub fn of_storage(&self) -> Option<&storage::Error> {
        self.0.downcast_ref()
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Fatal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<storage::Error> for Fatal {
    fn from(error: storage::Error) -> Self {
        Self::new(error)
    }
}

/// A replica and where it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The replica.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
}

/// What a replica is to its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows, or learns, or waits, or stands for election.
    Follower {
        /// The leader, if it is known.
        leader: Option<Peer>,
    },
    /// Leads, and has applied everything that was committed before its term.
    Leader {
        /// The term that it leads in.
        term: Term,
    },
    /// Takes part no more: a failure, a shutdown or a removal.
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
}

impl Role {
    /// The term, of a leader.
    pub fn leads(&self) -> Option<Term> {
        match self {
            Role::Leader { term } => Some(*term),
            _ => None,
        }
    }
}

/// This replica does not lead (in that term, with a valid lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the leader of this group{}", leader.map_or(String::new(), |l| format!("; it is {} on {}", l.replica, l.node)))]
pub struct NotLeader {
    /// Who does, if it is known.
    pub leader: Option<Peer>,
}

/// Why a proposal has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was refused and will never be applied.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// It may be applied, now or later, or never.
    #[error("whether the proposal is committed is unknown: {0}")]
    Ambiguous(String),
    /// Too much is in flight; it was refused and will never be applied. Try again.
    #[error("too many proposals are in flight")]
    Overloaded,
    /// It is larger than an entry may be; it was refused.
    #[error("a proposal of {bytes} bytes is larger than {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The replica has stopped; the proposal was refused.
    #[error("the replica has stopped: {0}")]
    Stopped(Arc<str>),
}

/// Why a change of a group's members was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Another change is not finished, or the leader is too fresh; try again.
    #[error("the members are being changed already: {0}")]
    InProgress(String),
    /// The change makes no sense.
    #[error("the change is refused: {0}")]
    Refused(String),
    /// It may be made or not.
    #[error("whether the change was made is unknown: {0}")]
    Ambiguous(String),
    /// It did not happen in time.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(Arc<str>),
}

/// Failures of starting, creating and removing replicas.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store has no identity yet: the node is not part of a cluster.
    #[error("the store does not belong to a cluster yet")]
    NoIdentity,
    /// The disk or the store failed.
    #[error("cannot {operation}")]
    Storage {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: storage::Error,
    },
    /// A replica could not be opened.
    #[error("cannot open {replica} of {group}: {source}")]
    Open {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// Why.
        source: Fatal,
    },
    /// This node has another replica of the group, or had one and may not have it again.
    #[error("{group} has {existing} on this node, which is not {wanted}")]
    OtherReplica {
        /// The group.
        group: GroupId,
        /// The replica there is.
        existing: ReplicaId,
        /// The replica that was asked for.
        wanted: ReplicaId,
    },
    /// This replica, or a later one, was removed from this node.
    #[error("{wanted} of {group} would be older than {removed}, which was removed from this node")]
    Removed {
        /// The group.
        group: GroupId,
        /// The replica that was asked for.
        wanted: ReplicaId,
        /// The last one that was removed.
        removed: ReplicaId,
    },
    /// No such group on this node.
    #[error("{0} has no replica on this node")]
    NoGroup(GroupId),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// Work on a thread of its own did not come to an end.
    #[error("{reason}")]
    Thread {
        /// Why.
        reason: String,
    },
    /// A setting is out of bounds.
    #[error("the options are not usable: {0}")]
    Options(String),
}

/// How a group is doing, as seen by this replica.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This replica.
    pub replica: ReplicaId,
    /// Its role.
    pub role: Role,
    /// The term it knows of.
    pub term: Term,
    /// The leader, if it is known.
    pub leader: Option<Peer>,
    /// The last entry of its log.
    pub last: Option<LogIndex>,
    /// The last entry known to be committed.
    pub committed: Option<LogIndex>,
    /// The last entry applied.
    pub applied: Option<LogIndex>,
    /// The last entry whose effects survive without the log.
    pub flushed: Option<LogIndex>,
    /// The last entry removed from the log.
    pub purged: Option<LogIndex>,
    /// Those who vote. During a joint change: those of the old and of the new configuration.
    pub members: BTreeMap<ReplicaId, NodeId>,
    /// Those who only learn.
    pub learners: BTreeMap<ReplicaId, NodeId>,
    /// A change of members is under way.
    pub joint: bool,
    /// Known to the leader only: how far the others are.
    pub progress: BTreeMap<ReplicaId, Progress>,
    /// The group rests here: all of this is from when it was laid to rest, and `leader` is its home.
    pub rests: bool,
}

impl GroupStatus {
    /// The term, if this replica leads, or is the home of a group at rest: where it would lead if anybody asked.
    pub fn serves(&self) -> Option<Term> {
        let at_home = self.rests && self.leader.is_some_and(|leader| leader.replica == self.replica);
        self.role.leads().or(at_home.then_some(self.term))
    }
}

/// How far a replica is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry it has on disk.
    pub matched: Option<LogIndex>,
    /// How many entries it lacks.
    pub lag: u64,
    /// How long ago it answered; `None`: not in this term.
    pub silent_for: Option<Duration>,
    /// Its node says that it lacks much, of this group or another one: it is catching up, and should be handed no leadership.
    pub behind: bool,
}
