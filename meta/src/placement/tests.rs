//! Golden scripts: `testscripts/placement/`.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Command, Context, Runner};

use super::*;

#[derive(Default)]
struct Script {
    cluster: Description,
}

fn number(text: &str) -> Result<u64, Box<dyn Error>> {
    Ok(text.trim_start_matches(['n', 'g', 'r']).parse()?)
}

/// `r7@n2` is a voter, `r7@n2/learner` a learner, `r7@n2/lags` lags behind.
fn replica(text: &str) -> Result<(ReplicaId, Replica), Box<dyn Error>> {
    let mut parts = text.split('/');
    let (id, node) = parts.next().and_then(|place| place.split_once('@')).ok_or("replica@node")?;
    let mut replica = Replica { node: NodeId(number(node)?), voter: true, caught_up: true };
    for part in parts {
        match part {
            "learner" => replica.voter = false,
            "lags" => replica.caught_up = false,
            _ => return Err(format!("unknown {part}").into()),
        }
    }
    Ok((ReplicaId(number(id)?), replica))
}

impl Script {
    /// Pretends that an operation has been carried out, with replica ids made of group and node.
    fn execute(&mut self, operation: &Operation) {
        let Some(group) = self.cluster.groups.get_mut(&operation.group()) else { return };
        match operation {
            Operation::AddLearner { group: id, node } => {
                let replica = Replica { node: *node, voter: false, caught_up: true };
                group.replicas.insert(ReplicaId(id.0 * 10 + node.0), replica);
            }
            Operation::Promote { voters, .. } => {
                for (id, replica) in &mut group.replicas {
                    replica.voter = voters.contains(id);
                }
            }
            Operation::TransferLeader { node, .. } => group.leader = Some(*node),
        }
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            "cluster" => {
                self.cluster.replication_factor = args.take_key("rf").map_or(Ok(3), str::parse)?;
                self.cluster.incomplete = args.take_key("incomplete").map_or(Ok(false), str::parse)?;
                let dead: Vec<u64> = args.take_key("dead").map(number).transpose()?.into_iter().collect();
                for node in 1..=args.take_key("nodes").map_or(Ok(3), str::parse)? {
                    self.cluster.nodes.insert(NodeId(node), !dead.contains(&node));
                }
            }
            "group" => {
                let id = GroupId(number(args.next_pos().ok_or("a group")?)?);
                let mut group = Group {
                    family: args.take_key("table").map(|t| Bytes::from(t.to_owned())),
                    leader: args.take_key("leader").map(number).transpose()?.map(NodeId),
                    busy: args.take_key("busy").map_or(Ok(false), str::parse)?,
                    replicas: BTreeMap::new(),
                    restless: args.take_key("restless").map_or(Ok(false), str::parse)?,
                };
                while let Some(text) = args.next_pos() {
                    let (id, replica) = replica(text)?;
                    group.replicas.insert(id, replica);
                }
                self.cluster.groups.insert(id, group);
            }
            "plan" => {
                for operation in plan(&self.cluster) {
                    writeln!(output, "{operation}")?;
                }
            }
            // Plans and carries out until there is nothing left to do.
            "settle" => {
                for round in 1.. {
                    let operations = plan(&self.cluster);
                    if operations.is_empty() {
                        break;
                    }
                    if round > 100 {
                        return Err("does not settle".into());
                    }
                    for operation in &operations {
                        writeln!(output, "{round}. {operation}")?;
                        self.execute(operation);
                    }
                }
            }
            "leaders" => {
                let mut count: BTreeMap<NodeId, usize> = BTreeMap::new();
                for leader in self.cluster.groups.values().filter_map(|g| g.leader) {
                    *count.entry(leader).or_default() += 1;
                }
                writeln!(output, "{count:?}")?;
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}

fn run(name: &str) {
    let path = format!("{}/testscripts/placement/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Script::default(), &path).expect(&path);
}

#[test]
fn first_nodes_join_grows_groups() {
    run("first_nodes_join_grows_groups");
}

#[test]
fn dead_node_keeps_its_replicas() {
    run("dead_node_keeps_its_replicas");
}

#[test]
fn table_of_eight_shards_uses_all_nodes() {
    run("table_of_eight_shards_uses_all_nodes");
}

#[test]
fn incomplete_reports_move_no_leader() {
    run("incomplete_reports_move_no_leader");
}
