//! What placement knows of the cluster: its only input, beside the [`Policy`](super::Policy).
//!
//! Whoever fills it in leaves zero what is not known: without bytes, loads, capacities and localities, what is left
//! to balance are the numbers of replicas and leaders.

use std::time::Duration;

use storage::ids::{GroupId, NodeId, ReplicaId};

use super::locality::Locality;
use super::rule::Rule;

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All groups: the meta-group first, then the shards in the order of their keys, so that neighbours are neighbours
    /// and the shards of one table lie together.
    pub groups: Vec<Group>,
    /// What groups refer to by [`Group::rule`]. Empty: the default rule for all.
    pub rules: Vec<Rule>,
    /// No leader is moved: who leads how much is not known (not all have said so), or about to change (a node has
    /// just died, and is likely to come back).
    pub incomplete: bool,
    /// Of many candidates that are equally good, only some are looked at. Another number each time makes them others.
    pub salt: u64,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which.
    pub id: NodeId,
    /// Whether it is heard of.
    pub health: Health,
    /// What its operator wants of it.
    pub duty: Duty,
    /// It was away, and lacks much of what was written meanwhile: it is handed no leadership until it has caught up.
    pub behind: bool,
    /// Where it stands. `None`: it has not said so yet. It is given nothing then, and nothing is taken away anywhere for where
    /// it may stand.
    pub locality: Option<Locality>,
    /// The size of its disk. 0: not known, and taken to be like the others'.
    pub capacity_bytes: u64,
    /// How much of the disk is taken, by whatever.
    pub used_bytes: u64,
}

impl Node {
    /// A node that lives, of which nothing else is known.
    pub fn live(id: NodeId) -> Self {
        let (health, duty, behind, locality) =
            (Health::Live, Duty::Serving, false, Some(Locality::default()));
        Self { id, health, duty, behind, locality, capacity_bytes: 0, used_bytes: 0 }
    }
}

/// Whether a node is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It reports.
    Live,
    /// It has been silent for so long.
    Down(Duration),
}

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Everything.
    Serving,
    /// It is going to be stopped for a while: it leads nothing, takes no new replicas, and keeps those it has.
    Draining,
    /// It is going to be taken away: its replicas move elsewhere.
    Leaving,
}

/// The shards of one table: a table's load is shared by all nodes if its leaders are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family(pub u64);

/// Requests per second to a group, all of them served by its leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Served by the leader alone.
    pub reads: u32,
    /// Carried out by each replica.
    pub writes: u32,
    /// The processor time that they take at the leader, in milliseconds each second.
    pub cpu_ms: u32,
}

impl Load {
    /// What the leader serves.
    pub fn led(self) -> u64 {
        u64::from(self.reads) + u64::from(self.writes)
    }

    /// A replica's part of it, wherever the leader is: leaders are spread among the replicas, so each of them
    /// accounts for its part of the reads.
    pub(super) fn held(self, replicas: usize) -> f64 {
        f64::from(self.writes) + f64::from(self.reads) / replicas.max(1) as f64
    }
}

/// A Raft group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Which.
    pub id: GroupId,
    /// What its leader should be spread against. `None`: nothing in particular.
    pub family: Option<Family>,
    /// The node that leads it, as far as is known.
    pub leader: Option<NodeId>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// About how much each replica takes on the disk. `None`: not known, so the shard is neither split nor merged.
    pub bytes: Option<u64>,
    /// What it is asked.
    pub load: Load,
    /// The place of its rule in [`Description::rules`].
    pub rule: u16,
    /// An operation on it is under way, or its last one is not yet to be seen: leave it alone.
    pub busy: bool,
    /// Its leadership is being handed over, or it is being cut or absorbed: how much its nodes lead is about to change.
    pub changes_hands: bool,
    /// A change of voters was begun and not ended: its voters are those of before and of after.
    pub joint: bool,
    /// Its leader or its range has changed lately: don't change them again at once.
    pub restless: bool,
    /// Its leader or its range has changed so lately that what it is asked is a guess: no leader is moved on account of it.
    pub guessed: bool,
    /// Its range has changed lately, or could not be changed: what is known of its bytes and load counts for nothing yet.
    pub reshaped: bool,
    /// It was split off by command: don't merge it with its left neighbour.
    pub pinned: bool,
}

impl Group {
    /// A group of which nothing else is known.
    pub fn new(id: GroupId) -> Self {
        let (family, leader, replicas, load) = Default::default();
        let (bytes, rule, busy, changes_hands, joint) = Default::default();
        let (restless, guessed, reshaped, pinned) = Default::default();
        Self {
            id,
            family,
            leader,
            replicas,
            bytes,
            load,
            rule,
            busy,
            changes_hands,
            joint,
            restless,
            guessed,
            reshaped,
            pinned,
        }
    }

    /// The replica on a node.
    pub fn on(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.node == node)
    }
}

/// A replica, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Which.
    pub id: ReplicaId,
    /// Where.
    pub node: NodeId,
    /// Whether it votes; otherwise it is a learner.
    pub voter: bool,
    /// Its log is close behind the leader's.
    pub caught_up: bool,
    /// A learner was added to take its place. (A hint: without it, placement chooses again which one has to go.)
    pub replaced: bool,
    /// A learner of which nothing has been heard for long, though its node lives: another one has to be made.
    pub lost: bool,
}

impl Replica {
    /// A voter that has all of the log.
    pub fn voter(id: ReplicaId, node: NodeId) -> Self {
        Self { id, node, voter: true, caught_up: true, replaced: false, lost: false }
    }
}
