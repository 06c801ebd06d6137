//! `flotilla admin meta`: the members of the meta-group. They are chosen like those of any shard, and replaced by
//! themselves; these commands are for whoever wants it otherwise.

use clap::{Args, Subcommand};
use proto::meta::{DescribeResponse, Move, NodeDuty, NodeStatus, ReplicaProgress};
use serde_json::json;

use super::{movement, names};
use crate::exit::Failure;

/// The meta-group's number.
const META_GROUP: u64 = 1;

/// Arguments of `meta`.
#[derive(Args)]
pub struct MetaArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Who is a member, and who leads
    Status,
    /// Make a node a member, in the place of another one
    Add {
        /// The node: n4, or one of its addresses
        node: String,
        /// The member that leaves. Without it: one that is down, or the one that has most to do, but not the leader
        #[arg(long, value_name = "NODE")]
        replacing: Option<String>,
        /// Return at once instead of when it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Have a node be no member any more; another one takes its place
    Remove {
        /// The node: n2, or one of its addresses
        node: String,
        /// The node that takes its place. Without it: the one that has least to do
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Return at once instead of when it is done
        #[arg(long)]
        no_wait: bool,
    },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// The replica on the first node moves to the second one.
    Move(u64, u64),
    /// Nothing: the node is what it shall be.
    Already(u64, &'static str),
}

/// Prints, or moves a replica of the meta-group.
pub async fn run(args: &MetaArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::cluster(host).await?;
    let (choice, no_wait) = match &args.action {
        None | Some(Action::Status) => return Ok(print(&cluster, as_json)),
        Some(Action::Add { node, replacing, no_wait }) => {
            (add(&cluster, node, replacing.as_deref())?, *no_wait)
        }
        Some(Action::Remove { node, to, no_wait }) => (remove(&cluster, node, to.as_deref())?, *no_wait),
    };
    match choice {
        Choice::Move(from, to) => movement::go("meta", from, to, no_wait, host, as_json).await,
        Choice::Already(node, what) => Ok(already(node, what, as_json)),
    }
}

fn members(cluster: &DescribeResponse) -> impl Iterator<Item = &ReplicaProgress> {
    let group = cluster.groups.iter().find(|group| group.group == META_GROUP);
    group.into_iter().flat_map(|group| &group.replicas)
}

fn is_member(cluster: &DescribeResponse, node: u64) -> bool {
    members(cluster).any(|member| member.node == node && !member.learner)
}

/// The move of the meta-group that is under way. A command that is repeated meanwhile means that one: what would be chosen now may
/// be another node.
fn under_way(cluster: &DescribeResponse) -> Option<&Move> {
    let mut moves = cluster.operations.iter().filter_map(|operation| operation.moving.as_ref());
    moves.find(|moving| moving.group == META_GROUP)
}

fn add(cluster: &DescribeResponse, node: &str, replacing: Option<&str>) -> Result<Choice, Failure> {
    let to = names::node(cluster, node)?;
    let begun = under_way(cluster).filter(|moving| moving.to == to);
    Ok(match (replacing, begun) {
        (None, Some(moving)) => Choice::Move(moving.from, to),
        (_, None) if is_member(cluster, to) => Choice::Already(to, "is a member already"),
        (Some(name), _) => Choice::Move(names::node(cluster, name)?, to),
        (None, None) => Choice::Move(dispensable(cluster, members(cluster).map(|member| member.node))?, to),
    })
}

fn remove(cluster: &DescribeResponse, node: &str, to: Option<&str>) -> Result<Choice, Failure> {
    let from = names::node(cluster, node)?;
    let begun = under_way(cluster).filter(|moving| moving.from == from);
    Ok(match (to, begun) {
        (None, Some(moving)) => Choice::Move(from, moving.to),
        (_, None) if !members(cluster).any(|member| member.node == from) => {
            Choice::Already(from, "is no member")
        }
        (Some(name), _) => Choice::Move(from, names::node(cluster, name)?),
        (None, None) => Choice::Move(from, idle(cluster)?),
    })
}

fn already(node: u64, what: &str, as_json: bool) -> String {
    match as_json {
        true => super::pretty(&json!({ "node": node, "done": true })),
        false => format!("n{node} {what} of the meta-group\n"),
    }
}

/// The member that is missed least.
fn dispensable(cluster: &DescribeResponse, members: impl Iterator<Item = u64>) -> Result<u64, Failure> {
    let members: Vec<u64> = members.collect();
    let leader = cluster.groups.iter().find(|group| group.group == META_GROUP).map(|group| group.leader_node);
    let candidates = cluster.nodes.iter().filter(|n| members.contains(&n.id) && Some(n.id) != leader);
    let least = candidates.min_by_key(|node| (node.alive, std::cmp::Reverse(node.replicas), node.id));
    least.map(|node| node.id).ok_or_else(|| {
        Failure::Refused(
            "the meta-group has one member only; it grows by itself when there are more nodes".into(),
        )
    })
}

/// The node that can best become a member.
fn idle(cluster: &DescribeResponse) -> Result<u64, Failure> {
    let able = |n: &&NodeStatus| n.alive && n.duty() == NodeDuty::NodeActive && !is_member(cluster, n.id);
    let least = cluster.nodes.iter().filter(able).min_by_key(|node| (node.replicas, node.id));
    least.map(|node| node.id).ok_or_else(|| {
        Failure::Refused("no other node lives that could take its place; start another one first".into())
    })
}

fn print(cluster: &DescribeResponse, as_json: bool) -> String {
    let group = cluster.groups.iter().find(|group| group.descriptor.is_none()).cloned().unwrap_or_default();
    if as_json {
        let members = group.replicas.iter().map(|r| {
            json!({ "node": r.node, "replica": r.replica, "voter": !r.learner, "reachable": r.reachable, "lag": r.lag, "leads": r.node == group.leader_node })
        });
        return super::pretty(
            &json!({ "term": group.term, "leader": group.leader_node, "members": members.collect::<Vec<_>>() }),
        );
    }
    let mut table = super::table(&["NODE", "REPLICA", "ROLE", "STATE"]);
    for replica in &group.replicas {
        let role = match (replica.node == group.leader_node, replica.learner) {
            (true, _) => "leads",
            (false, true) => "learns",
            (false, false) => "follows",
        };
        let state = match replica.reachable {
            true if replica.lag == 0 => "up to date".to_owned(),
            true => format!("{} entries behind", replica.lag),
            false => "not heard of".to_owned(),
        };
        table.add_row([
            format!("n{}", replica.node),
            format!("r{}", replica.replica),
            role.to_owned(),
            state,
        ]);
    }
    super::rendered(table)
}

#[cfg(test)]
mod tests {
    use proto::meta::{GroupStatus, Operation};

    use super::*;

    /// Five nodes, of which the first three, and those beside, are members; the first leads.
    fn cluster(also: &[u64], moving: Option<(u64, u64)>) -> DescribeResponse {
        let node = |id| NodeStatus { id, alive: true, replicas: 10 - id, ..Default::default() };
        let member = |node: &u64| ReplicaProgress { replica: *node, node: *node, ..Default::default() };
        let replicas = [1, 2, 3].iter().chain(also).map(member).collect();
        let group = GroupStatus { group: META_GROUP, leader_node: 1, replicas, ..Default::default() };
        let operation = |(from, to): (u64, u64)| Operation {
            moving: Some(Move { id: 1, group: META_GROUP, from, to }),
            ..Default::default()
        };
        DescribeResponse {
            nodes: (1..=5).map(node).collect(),
            groups: vec![group],
            operations: moving.map(operation).into_iter().collect(),
            ..Default::default()
        }
    }

    fn said(choice: Result<Choice, Failure>) -> Choice {
        choice.expect("there is something to do")
    }

    #[test]
    fn node_that_has_most_to_do_makes_room_and_the_idlest_comes() {
        let cluster = cluster(&[], None);
        assert_eq!(said(add(&cluster, "n4", None)), Choice::Move(2, 4));
        assert_eq!(said(add(&cluster, "n4", Some("n3"))), Choice::Move(3, 4));
        assert_eq!(said(remove(&cluster, "n2", None)), Choice::Move(2, 5));
        assert_eq!(said(add(&cluster, "n3", None)), Choice::Already(3, "is a member already"));
        assert_eq!(said(remove(&cluster, "n4", None)), Choice::Already(4, "is no member"));
    }

    #[test]
    fn command_that_is_repeated_goes_on_with_the_partner_it_had() {
        let cluster = cluster(&[], Some((3, 4)));
        assert_eq!(said(add(&cluster, "n4", None)), Choice::Move(3, 4));
        assert_eq!(said(remove(&cluster, "n3", None)), Choice::Move(3, 4));
        // Another one is another command, and refused by the cluster.
        assert_eq!(said(add(&cluster, "n5", None)), Choice::Move(2, 5));
    }

    #[test]
    fn member_that_has_not_replaced_the_other_yet_is_waited_for() {
        let cluster = cluster(&[4], Some((3, 4)));
        assert_eq!(said(add(&cluster, "n4", None)), Choice::Move(3, 4));
    }
}
