//! What a seed stands for: the cluster's shape, which faults hit whom and when, and what operators want meanwhile.

use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

use super::changes::{Changes, Shape};
use super::host::Lens;
use super::world::{Place, Purpose, generator};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000 * MS;
/// A node that is down for so long is away: other faults are shorter.
pub(super) const ABSENCE_MIN_NS: u64 = 4 * SECOND;
/// The pause without work after which no group of a seed rests before its end.
const NO_REST_NS: u64 = 40 * SECOND;
/// Clocks of different nodes run at rates that differ by less than a tenth.
const DRIFT_PPM_MAX: i64 = 40_000;
/// With [`Defect::RacingClocks`], the clock of a leader that is cut off runs slow by this, and the others' fast: it believes in its lease
/// while they elect another.
pub(super) const SLOW_PPM: i64 = -750_000;
pub(super) const FAST_PPM: i64 = 500_000;

/// Something that the simulated machine does and may not, to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Most syncs are acknowledged and not carried out.
    LyingDisks,
    /// Clocks run at rates that leases don't allow for.
    RacingClocks,
}

impl Defect {
    /// All of them, by name.
    pub const ALL: [(&'static str, Defect); 2] =
        [("lying-disks", Defect::LyingDisks), ("racing-clocks", Defect::RacingClocks)];
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A node, by its place.
    Node(Place),
    /// The leader of the meta-group, when it comes to it.
    MetaLeader,
    /// A leader of a shard.
    ShardLeader,
    /// The leader of the newest shard: it holds rows.
    RowsLeader,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Node(place) => write!(f, "node {}", place + 1),
            Who::MetaLeader => f.write_str("the meta-group's leader"),
            Who::ShardLeader => f.write_str("a shard's leader"),
            Who::RowsLeader => f.write_str("the leader of the rows' shard"),
        }
    }
}

/// What an operator asks of the cluster, which sees to it by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// A shard is cut in two before a row.
    Split,
    /// A shard absorbs its right neighbour.
    Merge,
    /// A node gives its replica of a group to a node that has none.
    Move,
    /// Another replica leads a group.
    Transfer,
    /// A new node joins: it is told the address of the node that is asked, and no other.
    Join,
    /// A node leads nothing for a while.
    Drain,
    /// The replicas of a node move elsewhere. It stays, and is empty.
    Decommission,
    /// The same; and when it is empty, it is stopped for good.
    Retire,
    /// What a dead node had is rebuilt elsewhere, when it has been away for too long.
    Rebuild,
    /// The same, at once: an operator says that the node is not awaited.
    Repair,
    /// Shards are to be small: they are split by themselves.
    Small,
    /// Shards that were split by themselves may be merged by themselves.
    Large,
}

impl Wish {
    /// All of them.
    pub const ALL: [Wish; 12] = [
        Wish::Split,
        Wish::Merge,
        Wish::Move,
        Wish::Transfer,
        Wish::Join,
        Wish::Drain,
        Wish::Decommission,
        Wish::Retire,
        Wish::Rebuild,
        Wish::Repair,
        Wish::Small,
        Wish::Large,
    ];

    /// What histories call it: as in real clusters.
    pub fn name(self) -> &'static str {
        match self {
            Wish::Split => "split",
            Wish::Merge => "merge",
            Wish::Move => "move",
            Wish::Transfer => "transfer-leader",
            Wish::Join => "join",
            Wish::Drain => "drain",
            Wish::Decommission => "decommission",
            Wish::Retire => "retire",
            Wish::Rebuild => "rebuild",
            Wish::Repair => "repair",
            Wish::Small => "automatic-split",
            Wish::Large => "automatic-merge",
        }
    }

    /// Whether it is about a node that the plan names, and not about whatever shards there are.
    pub fn is_of_node(self) -> bool {
        match self {
            Wish::Split | Wish::Merge | Wish::Move | Wish::Transfer | Wish::Small | Wish::Large => false,
            Wish::Join | Wish::Drain | Wish::Decommission => true,
            Wish::Retire | Wish::Rebuild | Wish::Repair => true,
        }
    }
}

/// Of one about a node, what comes before "of node 3".
impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wish::Split => "a split of a shard",
            Wish::Merge => "a merge of two shards",
            Wish::Move => "a move of a replica",
            Wish::Transfer => "another leader of a group",
            Wish::Join => "the admission",
            Wish::Drain => "a drain",
            Wish::Decommission => "the decommission",
            Wish::Retire => "the decommission for good",
            Wish::Rebuild => "the replacement in time",
            Wish::Repair => "the replacement at once",
            Wish::Small => "splits of shards by themselves",
            Wish::Large => "merges of shards by themselves",
        })
    }
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// So many nodes, beginning with one, die, and start again at the end. With `power`, their disks lose what was not synced.
    Crash {
        /// The first.
        who: Who,
        /// And the next ones.
        count: usize,
        /// Not only the processes.
        power: bool,
    },
    /// It stands still, and doesn't know.
    Pause(Who),
    /// Nothing comes through from it, or to it.
    Isolate {
        /// Which.
        who: Who,
        /// What it sends.
        outgoing: bool,
        /// What is sent to it.
        incoming: bool,
    },
    /// Nothing comes through from it, or to it, and its clock runs slow while the others' run fast: no fault, but a [`Defect`].
    Race(Who),
    /// Two halves don't hear each other: which places are in the first.
    Halves(Vec<Place>),
    /// All that it sends takes longer, and some of it is lost at first.
    Slow {
        /// Which.
        who: Who,
        /// By up to this.
        slow_ns: u64,
        /// Of a thousand pieces.
        lost_permille: u64,
    },
    /// Its connections are reset.
    Reset(Who),
    /// Its syncs take longer.
    Stall {
        /// Which.
        who: Who,
        /// By this.
        stall_ns: u64,
    },
    /// Its wall clock jumps, and back at the end.
    WallJump {
        /// Which.
        who: Who,
        /// By this.
        ms: i64,
    },
    /// No fault: an operator's wish. It is called off at the fault's end, if that is not its beginning; otherwise it ends when the cluster
    /// says so.
    Operate {
        /// What is wanted.
        wish: Wish,
        /// The node that is asked; if it doesn't run, the next one that does.
        asked: Place,
        /// Which shard, and which node, of those that there are when it comes to it; of a wish about a node ([`Wish::is_of_node`]),
        /// that node's place.
        dice: u64,
    },
}

impl Deed {
    /// What histories call it: as faults of real clusters are called, where there is one like it.
    pub fn name(&self) -> &'static str {
        match self {
            Deed::Crash { power: true, .. } => "power-cut",
            Deed::Crash { .. } => "kill",
            Deed::Pause(_) => "pause",
            Deed::Isolate { outgoing: true, incoming: true, .. } => "partition",
            Deed::Isolate { outgoing: true, .. } => "partition-out",
            Deed::Isolate { .. } => "partition-in",
            Deed::Race(_) => "racing-clocks",
            Deed::Halves(_) => "partition-halves",
            Deed::Slow { lost_permille: 0, .. } => "slow-link",
            Deed::Slow { .. } => "lossy-link",
            Deed::Reset(_) => "reset",
            Deed::Stall { .. } => "disk-stall",
            Deed::WallJump { .. } => "clock-jump",
            Deed::Operate { wish, .. } => wish.name(),
        }
    }
}

/// A fault: from when, for how long, what.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Since clients began to work.
    pub at_ns: u64,
    /// Its duration.
    pub for_ns: u64,
    /// What.
    pub deed: Deed,
}

impl Fault {
    /// Whether it takes a node away for so long that it may be replaced. Clients work until it is back.
    pub fn is_absence(&self) -> bool {
        matches!(self.deed, Deed::Crash { .. }) && self.for_ns >= ABSENCE_MIN_NS
    }

    /// For `schedule.json`. Whom it hits, if that is a leader, the history says.
    pub fn json(&self, number: usize) -> Json {
        json!({
            "number": number,
            "at_ms": self.at_ns / MS,
            "lasts_ms": self.for_ns / MS,
            "fault": self.deed.name(),
            "about": self.to_string(),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, end) = (self.at_ns as f64 / 1e9, (self.at_ns + self.for_ns) as f64 / 1e9);
        match self.for_ns {
            0 => write!(f, "{at:.3} s: ")?,
            _ => write!(f, "{at:.3}–{end:.3} s: ")?,
        }
        match &self.deed {
            Deed::Crash { who, count, power } => {
                write!(f, "{} of {count} from {who} on", if *power { "power failure" } else { "kill" })
            }
            Deed::Pause(who) => write!(f, "pause of {who}"),
            Deed::Isolate { who, outgoing, incoming } => {
                let what = match (outgoing, incoming) {
                    (true, true) => "isolation",
                    (true, false) => "deaf ears for what comes",
                    _ => "silence towards",
                };
                write!(f, "{what} {} {who}", if *outgoing && !*incoming { "from" } else { "of" })
            }
            Deed::Race(who) => write!(f, "isolation of {who}, whose clock is slow"),
            Deed::Halves(first) => write!(f, "partition of {:?} from the rest", first),
            Deed::Slow { who, slow_ns, lost_permille } => {
                write!(f, "{who} sends up to {} ms late, {lost_permille} ‰ lost", slow_ns / MS)
            }
            Deed::Reset(who) => write!(f, "connections of {who} reset"),
            Deed::Stall { who, stall_ns } => write!(f, "syncs of {who} take {} ms longer", stall_ns / MS),
            Deed::WallJump { who, ms } => write!(f, "wall clock of {who} ahead by {ms} ms"),
            Deed::Operate { wish, asked, dice } => {
                write!(f, "node {} is asked for {wish}", asked + 1)?;
                if wish.is_of_node() {
                    write!(f, " of node {}", dice + 1)?;
                }
                f.write_str(if self.for_ns > 0 { ", and to leave it at the end" } else { "" })
            }
        }
    }
}

/// All that is settled before the start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes found the cluster. Those that may join later have the places after theirs.
    pub nodes: usize,
    /// How many voters each group has: replicas move where there are more nodes.
    pub replicas: usize,
    /// Which workload.
    pub workload: &'static str,
    /// The clocks of all nodes, of those that may join later, too.
    pub lenses: Vec<Lens>,
    /// What is set for the whole cluster from the beginning: names and values.
    pub settings: Vec<(&'static str, &'static str)>,
    /// What each shard is said to take on the disk.
    pub shard_bytes: u64,
    /// Shards are split by themselves before clients begin, and kept from being merged until an operator allows it.
    pub presplit: bool,
    /// Log entries that are kept though they are flushed: few make snapshots frequent.
    pub keep_entries: u64,
    /// Between flushes.
    pub checkpoint_ns: u64,
    /// A group that nobody asks for rests after so long.
    pub rest_after_ns: u64,
    /// Where the rows are cut into shards.
    pub splits: usize,
    /// The mean pause of a client between calls.
    pub pause_ns: u64,
    /// In the order of their beginnings; what operators want is among them.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// Of a seed, for clients that work for so long.
    pub fn draw(seed: u64, workloads: &[&'static str], work_ns: u64, defect: Option<Defect>) -> Self {
        let rng = &mut generator(seed, Purpose::Plan);
        let (nodes, replicas) = match rng.random_range(0..12) {
            0 => (5, 5),
            1 | 2 => (5, 3),
            3..6 => (4, 3),
            _ => (3, 3),
        };
        let workload = workloads[rng.random_range(0..workloads.len())];
        let drift_max = if rng.random_bool(0.5) { DRIFT_PPM_MAX } else { 0 };
        let mut lenses: Vec<Lens> = (0..nodes)
            .map(|_| Lens {
                drift_ppm: rng.random_range(-drift_max..=drift_max),
                wall_ahead_ms: rng.random_range(-2_000..=2_000),
                ..Lens::default()
            })
            .collect();
        let keep_entries = if rng.random_bool(0.5) { rng.random_range(5..60) } else { 10_000 };
        let checkpoint_ns = rng.random_range(500 * MS..5 * SECOND);
        let mut rest_after_ns =
            if rng.random_bool(0.5) { rng.random_range(200 * MS..1_500 * MS) } else { NO_REST_NS };
        let mut splits: usize = rng.random_range(0..4);
        let pause_ns = rng.random_range(80 * MS..300 * MS);
        let mut faults: Vec<Fault> =
            (0..rng.random_range(0..6)).map(|_| fault(rng, nodes, work_ns)).collect();
        let wishes = rng.random_range(0..8);
        faults.extend((0..wishes).map(|_| operation(rng, nodes, replicas, work_ns)));
        let changes = match defect {
            // One node shall lead the rows, and all others elect another one.
            Some(Defect::RacingClocks) => Changes::default(),
            _ => Changes::draw(seed, Shape { nodes, replicas, drift_max, work_ns }),
        };
        faults.extend(changes.faults);
        lenses.extend(changes.lenses);
        if changes.shard_bytes > 0 {
            // All rows lie in shards that begin in their table; and placement reshapes no group whose leader is new because it has just
            // woken.
            splits = splits.max(1);
            rest_after_ns = NO_REST_NS;
        }
        if defect == Some(Defect::RacingClocks) {
            // All rows in one shard: whoever leads it answers for all of them.
            splits = 0;
            let race = |at_ns| Fault { at_ns, for_ns: 3 * SECOND, deed: Deed::Race(Who::RowsLeader) };
            faults = (0..work_ns / (5 * SECOND)).map(|n| race((5 * n + 1) * SECOND)).collect();
        }
        faults.sort_by_key(|fault| fault.at_ns);
        Self {
            nodes,
            replicas,
            workload,
            lenses,
            settings: changes.settings,
            shard_bytes: changes.shard_bytes,
            presplit: changes.presplit,
            keep_entries,
            checkpoint_ns,
            rest_after_ns,
            splits,
            pause_ns,
            faults,
        }
    }

    /// How many nodes there may ever be.
    pub fn places(&self) -> usize {
        self.lenses.len()
    }

    /// The faults with the numbers in `only`, or all.
    pub fn chosen(&self, only: Option<&[usize]>) -> Vec<(usize, Fault)> {
        let numbered = self.faults.iter().cloned().enumerate();
        numbered.filter(|(number, _)| only.is_none_or(|only| only.contains(number))).collect()
    }
}

fn fault(rng: &mut StdRng, nodes: usize, work_ns: u64) -> Fault {
    let who = match rng.random_range(0..4) {
        0 => Who::MetaLeader,
        1 => Who::ShardLeader,
        _ => Who::Node(rng.random_range(0..nodes)),
    };
    let deed = deed(rng, who, nodes);
    let for_ns = rng.random_range(200 * MS..3 * SECOND);
    Fault { at_ns: rng.random_range(0..work_ns), for_ns, deed }
}

/// Something that breaks.
pub(super) fn deed(rng: &mut StdRng, who: Who, nodes: usize) -> Deed {
    match rng.random_range(0..20) {
        0..6 => {
            let count = match rng.random_range(0..6) {
                0 => nodes,
                1 => nodes / 2 + 1,
                _ => 1,
            };
            Deed::Crash { who, count, power: rng.random_bool(0.7) }
        }
        6..9 => Deed::Pause(who),
        9..12 => {
            let both = rng.random_bool(0.5);
            let outgoing = rng.random_bool(0.5);
            Deed::Isolate { who, outgoing: both || outgoing, incoming: both || !outgoing }
        }
        12..14 => {
            let mut places: Vec<Place> = (0..nodes).collect();
            for n in (1..nodes).rev() {
                places.swap(n, rng.random_range(0..=n));
            }
            places.truncate(nodes / 2);
            Deed::Halves(places)
        }
        14..16 => Deed::Slow {
            who,
            slow_ns: rng.random_range(20 * MS..400 * MS),
            lost_permille: if rng.random_bool(0.5) { rng.random_range(20..300) } else { 0 },
        },
        16 => Deed::Reset(who),
        17 | 18 => Deed::Stall { who, stall_ns: rng.random_range(50 * MS..2 * SECOND) },
        _ => Deed::WallJump { who, ms: rng.random_range(-600_000..600_000) },
    }
}

fn operation(rng: &mut StdRng, nodes: usize, replicas: usize, work_ns: u64) -> Fault {
    let wish = match (rng.random_range(0..12), nodes > replicas) {
        (0..3, _) | (7..9, false) => Wish::Split,
        (3..7, _) => Wish::Merge,
        (7..10, true) => Wish::Move,
        _ => Wish::Transfer,
    };
    let deed = Deed::Operate { wish, asked: rng.random_range(0..nodes), dice: rng.random() };
    // Those that take a while are called off now and then.
    let lasts = matches!(wish, Wish::Merge | Wish::Move) && rng.random_ratio(1, 5);
    let for_ns = if lasts { rng.random_range(20 * MS..SECOND) } else { 0 };
    Fault { at_ns: rng.random_range(0..work_ns), for_ns, deed }
}
