//! What happens to the cluster, and how it comes to rest.

use std::collections::BTreeMap;

use super::bound::moves_min;
use super::cluster::{Pass, Simulation, Size};
use crate::placement::survey::scramble;
use crate::placement::{Duty, Evenness, Load};

/// Something happens.
pub struct Scenario {
    pub name: &'static str,
    /// The part of the nodes that has data at first.
    used: fn(Size) -> usize,
    happens: fn(&mut Simulation, Size),
    /// Happens before each pass.
    meanwhile: fn(&mut Simulation, u64),
    /// Moves may be so many times what is needed at least.
    moves_max: f64,
}

fn all(size: Size) -> usize {
    size.nodes
}

/// What is simulated.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a tenth more nodes",
        used: |size| size.nodes * 9 / 10,
        happens: |_, _| {},
        meanwhile: |_, _| {},
        moves_max: 1.1,
    },
    Scenario {
        name: "1 % of the nodes die",
        used: all,
        happens: |simulation, size| (0..size.nodes / 100).for_each(|n| simulation.kill(n * 10)),
        meanwhile: |_, _| {},
        moves_max: 1.05,
    },
    Scenario {
        name: "2 % of the nodes leave",
        used: all,
        happens: |simulation, size| {
            for node in 0..size.nodes / 50 {
                simulation.cluster.nodes[node * 7].duty = Duty::Leaving;
            }
        },
        meanwhile: |_, _| {},
        moves_max: 1.05,
    },
    Scenario {
        name: "replicas lie by chance",
        used: all,
        happens: shuffle,
        meanwhile: |_, _| {},
        moves_max: 3.0,
    },
    Scenario { name: "the load moves", used: all, happens: heat, meanwhile: |_, _| {}, moves_max: 8.0 },
    Scenario { name: "all jitters by 3 %", used: all, happens: |_, _| {}, meanwhile: jitter, moves_max: 1.0 },
];

/// Each replica goes to another node of its zone.
fn shuffle(simulation: &mut Simulation, size: Size) {
    let zones = size.nodes.min(10);
    for (place, group) in simulation.cluster.groups.iter_mut().enumerate() {
        let leader = group.replicas.iter().position(|r| Some(r.node) == group.leader);
        for (turn, replica) in group.replicas.iter_mut().enumerate() {
            let zone = (replica.node.0 as usize - 1) % zones;
            let chance = scramble((place * 3 + turn) as u64 ^ 0x5555_0000_0000) as usize;
            replica.node.0 = (zone + zones * (chance % (size.nodes / zones)) + 1) as u64;
        }
        group.leader = leader.map(|place| group.replicas[place].node);
    }
}

/// What all the replicas of a fiftieth of the nodes are asked doubles.
fn heat(simulation: &mut Simulation, size: Size) {
    for group in &mut simulation.cluster.groups {
        let hot = group.replicas.iter().any(|r| r.node.0 as usize <= size.nodes / 50);
        let times = if hot { 2 } else { 1 };
        (group.load.reads, group.load.writes) = (group.load.reads * times, group.load.writes * times);
    }
}

/// Bytes and requests waver about what they were.
fn jitter(simulation: &mut Simulation, round: u64) {
    for (place, group) in simulation.cluster.groups.iter_mut().enumerate() {
        let chance = u64::from(scramble(round << 32 | place as u64));
        let waver = |amount: u64| (amount * (97 + chance % 7) + 50) / 100;
        let shard = group.id.0 as usize - 2;
        group.bytes = Some(waver(super::cluster::bytes_of(shard)));
        let load = super::cluster::load_of(shard);
        let (reads, writes) = (waver(load.reads.into()) as u32, waver(load.writes.into()) as u32);
        group.load = Load { reads, writes, ..load };
    }
}

/// How it came out.
pub struct Outcome {
    pub name: &'static str,
    pub passes: Vec<Pass>,
    pub moves: usize,
    pub moves_min: usize,
    transfers: usize,
    bytes: u64,
    pub plan_ms_max: f64,
    plan_ms_mean: f64,
    moves_max: f64,
    moves_slack: usize,
    settled: bool,
    end: Evenness,
}

/// After so many plans, it is not going to settle.
const PASSES_MAX: usize = 3_000;
/// The cluster is at rest when so many plans in a row are empty.
const QUIET_PASSES: usize = 3;

/// Clusters at rest, by how many of their nodes have data.
pub type AtRest = BTreeMap<usize, Simulation>;

pub fn run(scenario: &Scenario, size: Size, at_rest: &mut AtRest) -> Outcome {
    let used = (scenario.used)(size);
    let settled = || {
        let mut simulation = Simulation::new(size, used);
        simulation.settle(used);
        simulation
    };
    let mut simulation = at_rest.entry(used).or_insert_with(settled).clone();
    (scenario.happens)(&mut simulation, size);
    let moves_min = moves_min(&simulation.cluster, &simulation.policy);
    let mut passes: Vec<Pass> = Vec::new();
    let mut quiet = 0;
    while quiet < QUIET_PASSES && passes.len() < PASSES_MAX {
        (scenario.meanwhile)(&mut simulation, passes.len() as u64);
        let pass = simulation.pass();
        quiet = if pass.steps == 0 { quiet + 1 } else { 0 };
        passes.push(pass);
    }
    let sum = |value: fn(&Pass) -> f64| passes.iter().map(value).sum::<f64>();
    Outcome {
        name: scenario.name,
        moves: passes.iter().map(|p| p.moves).sum(),
        moves_min,
        transfers: passes.iter().map(|p| p.transfers).sum(),
        bytes: passes.iter().map(|p| p.bytes).sum(),
        plan_ms_max: passes.iter().map(|p| p.plan_ms).fold(0.0, f64::max),
        plan_ms_mean: sum(|p| p.plan_ms) / passes.len() as f64,
        moves_max: scenario.moves_max,
        // What wavers may cross the edge of a band now and then.
        moves_slack: size.shards / 100,
        settled: quiet == QUIET_PASSES,
        end: passes.last().map(|p| p.before).unwrap_or_default(),
        passes,
    }
}

pub const HEADER: &str = "\
| what happens | plans until rest | moves | at least needed | ratio | copied | leader transfers | processor ms per plan (mean, max) | replicas per node before → after | load per node before → after |
|---|---|---|---|---|---|---|---|---|---|
";

impl Outcome {
    /// A row of the table.
    pub fn row(&self) -> String {
        let ratio = match self.moves_min {
            0 => "–".to_owned(),
            least => format!("{:.3}", self.moves as f64 / least as f64),
        };
        let begin = self.passes[0].before;
        let range = |(least, most): (u64, u64)| format!("{least}–{most}");
        format!(
            "| {} | {} | {} | {} | {ratio} | {:.1} TiB | {} | {:.0}, {:.0} | {} → {} | {} → {} |",
            self.name,
            self.passes.len() - QUIET_PASSES.min(self.passes.len()),
            self.moves,
            self.moves_min,
            self.bytes as f64 / f64::from(1 << 20) / f64::from(1 << 20),
            self.transfers,
            self.plan_ms_mean,
            self.plan_ms_max,
            range(begin.replicas),
            range(self.end.replicas),
            range(begin.load),
            range(self.end.load),
        )
    }

    /// It came to rest, without many more moves than needed.
    pub fn check(&self) {
        let last: Vec<usize> = self.passes.iter().rev().take(5).map(|p| p.steps).collect();
        assert!(self.settled, "{}: still moving: {last:?}", self.name);
        let most = (self.moves_min as f64 * self.moves_max).ceil() as usize + self.moves_slack;
        assert!(self.moves <= most, "{}: {} moves, {} needed", self.name, self.moves, self.moves_min);
    }
}
