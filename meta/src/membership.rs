//! Who becomes a member of the meta-group, and who leaves it, when an operator says less than both.

use proto::meta::{DescribeResponse, Move, NodeDuty, NodeStatus, ReplicaProgress};
use storage::ids::META_GROUP;

use crate::Error;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// The replica on the first node moves to the second one.
    Move(u64, u64),
    /// Nothing: the node is what it shall be.
    Already(u64, &'static str),
}

fn members(cluster: &DescribeResponse) -> impl Iterator<Item = &ReplicaProgress> {
    let group = cluster.groups.iter().find(|group| group.group == META_GROUP.0);
    group.into_iter().flat_map(|group| &group.replicas)
}

fn is_member(cluster: &DescribeResponse, node: u64) -> bool {
    members(cluster).any(|member| member.node == node && !member.learner)
}

/// The move of the meta-group that is under way. A command that is repeated meanwhile means that one: what would be chosen now may
/// be another node.
fn under_way(cluster: &DescribeResponse) -> Option<&Move> {
    let mut moves = cluster.operations.iter().filter_map(|operation| operation.moving.as_ref());
    moves.find(|moving| moving.group == META_GROUP.0)
}

/// The node `to` becomes a member, in the place of `replacing`, or of whoever is missed least.
pub fn add(cluster: &DescribeResponse, to: u64, replacing: Option<u64>) -> Result<Choice, Error> {
    let begun = under_way(cluster).filter(|moving| moving.to == to);
    Ok(match (replacing, begun) {
        (None, Some(moving)) => Choice::Move(moving.from, to),
        (_, None) if is_member(cluster, to) => Choice::Already(to, "is a member already"),
        (Some(from), _) => Choice::Move(from, to),
        (None, None) => Choice::Move(dispensable(cluster, members(cluster).map(|member| member.node))?, to),
    })
}

/// The node `from` is no member any more, and `to` becomes one, or whoever has least to do.
pub fn remove(cluster: &DescribeResponse, from: u64, to: Option<u64>) -> Result<Choice, Error> {
    let begun = under_way(cluster).filter(|moving| moving.from == from);
    Ok(match (to, begun) {
        (None, Some(moving)) => Choice::Move(from, moving.to),
        (_, None) if !members(cluster).any(|member| member.node == from) => {
            Choice::Already(from, "is no member")
        }
        (Some(to), _) => Choice::Move(from, to),
        (None, None) => Choice::Move(from, idle(cluster)?),
    })
}

/// The member that is missed least.
fn dispensable(cluster: &DescribeResponse, members: impl Iterator<Item = u64>) -> Result<u64, Error> {
    let members: Vec<u64> = members.collect();
    let leader =
        cluster.groups.iter().find(|group| group.group == META_GROUP.0).map(|group| group.leader_node);
    let candidates = cluster.nodes.iter().filter(|n| members.contains(&n.id) && Some(n.id) != leader);
    let least = candidates.min_by_key(|node| (node.alive, std::cmp::Reverse(node.replicas), node.id));
    least.map(|node| node.id).ok_or_else(|| {
        Error::Rejected(
            "the meta-group has one member only; it grows by itself when there are more nodes".into(),
        )
    })
}

/// The node that can best become a member.
fn idle(cluster: &DescribeResponse) -> Result<u64, Error> {
    let able = |n: &&NodeStatus| n.alive && n.duty() == NodeDuty::NodeActive && !is_member(cluster, n.id);
    let least = cluster.nodes.iter().filter(able).min_by_key(|node| (node.replicas, node.id));
    least.map(|node| node.id).ok_or_else(|| {
        Error::Rejected("no other node lives that could take its place; start another one first".into())
    })
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
        let group = GroupStatus { group: META_GROUP.0, leader_node: 1, replicas, ..Default::default() };
        let operation = |(from, to): (u64, u64)| Operation {
            moving: Some(Move { id: 1, group: META_GROUP.0, from, to }),
            ..Default::default()
        };
        DescribeResponse {
            nodes: (1..=5).map(node).collect(),
            groups: vec![group],
            operations: moving.map(operation).into_iter().collect(),
            ..Default::default()
        }
    }

    fn said(choice: Result<Choice, Error>) -> Choice {
        choice.expect("there is something to do")
    }

    #[test]
    fn node_that_has_most_to_do_makes_room_and_the_idlest_comes() {
        let cluster = cluster(&[], None);
        assert_eq!(said(add(&cluster, 4, None)), Choice::Move(2, 4));
        assert_eq!(said(add(&cluster, 4, Some(3))), Choice::Move(3, 4));
        assert_eq!(said(remove(&cluster, 2, None)), Choice::Move(2, 5));
        assert_eq!(said(add(&cluster, 3, None)), Choice::Already(3, "is a member already"));
        assert_eq!(said(remove(&cluster, 4, None)), Choice::Already(4, "is no member"));
    }

    #[test]
    fn command_that_is_repeated_goes_on_with_the_partner_it_had() {
        let cluster = cluster(&[], Some((3, 4)));
        assert_eq!(said(add(&cluster, 4, None)), Choice::Move(3, 4));
        assert_eq!(said(remove(&cluster, 3, None)), Choice::Move(3, 4));
        // Another one is another command, and refused by the cluster.
        assert_eq!(said(add(&cluster, 5, None)), Choice::Move(2, 5));
    }

    #[test]
    fn member_that_has_not_replaced_the_other_yet_is_waited_for() {
        let cluster = cluster(&[4], Some((3, 4)));
        assert_eq!(said(add(&cluster, 4, None)), Choice::Move(3, 4));
    }
}
