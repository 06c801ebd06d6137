//! The cluster that is simulated.

use storage::ids::{GroupId, NodeId, ReplicaId};

use crate::placement::survey::scramble;
use crate::placement::*;

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub shards: usize,
    pub tables: usize,
}

/// Nodes per rack, and racks per zone.
const RACK: usize = 10;
const ZONES: usize = 10;

/// A cluster that does what it is told.
#[derive(Clone)]
pub struct Simulation {
    pub cluster: Description,
    pub policy: Policy,
    next_replica: u64,
    /// Places of groups with learners that will have caught up at the next pass.
    learning: Vec<usize>,
}

/// What one plan came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    pub plan_ms: f64,
    pub steps: usize,
    pub moves: usize,
    pub bytes: u64,
    pub transfers: usize,
    pub before: Evenness,
}

impl Simulation {
    /// A cluster whose data are on the first `used` of its nodes, evenly: shards of one table follow each other around
    /// the zones.
    pub fn new(size: Size, used: usize) -> Self {
        let nodes: Vec<Node> = (0..size.nodes).map(|n| node(n, size.nodes)).collect();
        let zones = ZONES.min(used);
        let mut cluster = Description { nodes, ..Description::default() };
        let per_table = size.shards / size.tables;
        let mut next_replica = 0;
        // Each zone deals its nodes out in turn.
        let mut dealt = vec![0usize; zones];
        for shard in 0..size.shards {
            let mut group = Group::new(GroupId(shard as u64 + 2));
            group.family = Some(Family((shard / per_table) as u64));
            for replica in 0..3 {
                let stride = if zones > 6 { 1 + (shard / zones) % 3 } else { 1 };
                let zone = (shard + replica * stride) % zones;
                let in_zone = (used - zone).div_ceil(zones);
                let node = zone + zones * (dealt[zone] % in_zone);
                dealt[zone] += 1;
                next_replica += 1;
                group.replicas.push(Replica::voter(ReplicaId(next_replica), NodeId(node as u64 + 1)));
            }
            group.leader = Some(group.replicas[0].node);
            (group.bytes, group.load) = (Some(bytes_of(shard)), load_of(shard));
            cluster.groups.push(group);
        }
        let moves = size.nodes * 64;
        let policy = Policy {
            moves_max: moves,
            moves_per_node_max: 64,
            transfers_max: size.nodes * 10,
            ..Policy::default()
        };
        Self { cluster, policy, next_replica, learning: Vec::new() }
    }

    /// Brings the first `used` nodes to rest, as if there were no others and no bounds.
    pub fn settle(&mut self, used: usize) {
        let policy = self.policy.clone();
        let unused = self.cluster.nodes.split_off(used);
        let without_bounds = usize::MAX / 4;
        self.policy.transfers_max = without_bounds;
        while self.pass().steps > 0 {}
        self.policy = policy;
        self.cluster.nodes.extend(unused);
    }

    /// A plan, carried out.
    pub fn pass(&mut self) -> Pass {
        let begun = processor_ms();
        let plan = plan(&self.cluster, &self.policy);
        let plan_ms = processor_ms() - begun;
        self.cluster.salt += 1;
        for place in std::mem::take(&mut self.learning) {
            self.cluster.groups[place].replicas.iter_mut().for_each(|r| r.caught_up = true);
        }
        let mut pass = Pass { plan_ms, steps: plan.steps.len(), before: plan.before, ..Pass::default() };
        for step in &plan.steps {
            match step.operation {
                Operation::AddLearner { .. } => pass.moves += 1,
                Operation::TransferLeader { .. } => pass.transfers += 1,
                _ => {}
            }
            pass.bytes += step.bytes;
            self.execute(&step.operation);
        }
        pass
    }

    fn execute(&mut self, operation: &Operation) {
        let place = operation.group().0 as usize - 2;
        let group = &mut self.cluster.groups[place];
        match operation {
            Operation::AddLearner { node, replaces, .. } => {
                assert!(group.on(*node).is_none(), "{operation}: it has a replica there");
                self.next_replica += 1;
                let id = ReplicaId(self.next_replica);
                for old in group.replicas.iter_mut().filter(|r| Some(r.id) == *replaces) {
                    old.replaced = true;
                }
                let learner = Replica { voter: false, caught_up: false, ..Replica::voter(id, *node) };
                group.replicas.push(learner);
                self.learning.push(place);
            }
            Operation::ChangeVoters { voters, .. } => {
                group.replicas.retain(|r| !r.voter || voters.contains(&r.id));
                for replica in &mut group.replicas {
                    assert!(replica.caught_up, "{operation}: {replica:?} lags");
                    replica.voter = voters.contains(&replica.id);
                }
                let leads = |r: &Replica| Some(r.node) == group.leader && r.voter;
                assert!(group.replicas.iter().any(leads), "{operation}: the leader is gone");
            }
            Operation::RemoveReplica { replica, .. } => group.replicas.retain(|r| r.id != *replica),
            Operation::TransferLeader { node, .. } => group.leader = Some(*node),
            Operation::Split { .. } | Operation::Merge { .. } => {}
        }
        let voters = group.replicas.iter().filter(|r| r.voter).count();
        assert!(voters >= 3, "{operation}: {voters} voters are left");
    }

    /// The node has been silent for long, and what it led is led by others.
    pub fn kill(&mut self, node: usize) {
        let id = NodeId(node as u64 + 1);
        self.cluster.nodes[node].health = Health::Down(self.policy.repair_after);
        for group in self.cluster.groups.iter_mut().filter(|g| g.leader == Some(id)) {
            group.leader = group.replicas.iter().find(|r| r.node != id).map(|r| r.node);
        }
    }
}

/// What this thread has used of the processor: planning is all computing, and the machine may have other things to do.
/// 0 where Linux doesn't say.
fn processor_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
    nanos.unwrap_or(0) as f64 / 1e6
}

fn node(n: usize, nodes: usize) -> Node {
    let zones = ZONES.min(nodes);
    let (zone, rack) = (n % zones, n / zones / RACK);
    let locality = Some(format!("region=r,zone=z{zone},rack=z{zone}k{rack}").parse().expect("a locality"));
    let capacity_bytes = 4 << 40;
    Node { locality, capacity_bytes, ..Node::live(NodeId(n as u64 + 1)) }
}

/// From 65 to 240 MiB.
pub fn bytes_of(shard: usize) -> u64 {
    (65 + u64::from(scramble(shard as u64) % 176)) << 20
}

/// Mostly little, now and then much.
pub fn load_of(shard: usize) -> Load {
    let chance = scramble(shard as u64 ^ 0xabcd_0000);
    let reads = if chance.is_multiple_of(100) { 200 } else { chance % 16 };
    Load { reads, writes: reads / 4, cpu_ms: 0 }
}
