//! Whether the other nodes can hold as many replicas as are wanted, when one node is taken away.

use storage::ids::{GroupId, META_GROUP, NodeId};

use crate::placement::{Constraint, Description, Duty, Group, Health, Node, Rule};
use crate::reconcile::meta_members;

/// A group that would lack replicas.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub group: GroupId,
    /// How many voters it has and shall have.
    pub wanted: usize,
    /// How many other nodes can have one.
    pub room: usize,
    /// A rule of its table's own says so.
    pub own_rule: bool,
}

/// The group that would lack most, if any does.
pub(crate) fn without(cluster: &Description, node: NodeId) -> Option<Shortage> {
    let default = Rule::default();
    let factor = cluster.rules.first().unwrap_or(&default).replicas;
    let staying =
        cluster.nodes.iter().filter(|other| other.id != node && other.duty != Duty::Leaving).count();
    let shortage = |group: &Group| {
        let rule = cluster.rules.get(usize::from(group.rule)).unwrap_or(&default);
        let voters = group.replicas.iter().filter(|replica| replica.voter).count();
        // The meta-group's own follows the nodes that stay.
        let meta = group.id == META_GROUP;
        let wanted = if meta { meta_members(factor, staying) } else { rule.replicas };
        // Where there never were as many nodes as replicas are wanted, no more is asked than there is.
        let wanted = wanted.min(voters);
        // A place that no node is in can't be meant.
        let placed = cluster.nodes.iter().any(|node| allows(rule, node));
        let stays = |other: &&Node| {
            let holds = group.on(other.id).is_some_and(|replica| replica.voter);
            let takes = match other.duty {
                Duty::Serving => true,
                Duty::Draining => holds,
                Duty::Leaving => false,
            };
            other.id != node && other.health == Health::Live && takes && (!placed || allows(rule, other))
        };
        let room = cluster.nodes.iter().filter(stays).count();
        Shortage { group: group.id, wanted, room, own_rule: !meta && group.rule != 0 }
    };
    let concerned = cluster.groups.iter().filter(|group| group.on(node).is_some());
    let short = concerned.map(shortage).filter(|shortage| shortage.room < shortage.wanted);
    short.max_by_key(|shortage| (shortage.wanted - shortage.room, std::cmp::Reverse(shortage.group)))
}

/// One of which nobody knows where it stands is counted on for nothing that depends on it.
fn allows(rule: &Rule, node: &Node) -> bool {
    let stands = |inside: bool, place| node.locality.as_ref().is_some_and(|at| at.lies_in(place) == inside);
    rule.constraints.iter().all(|constraint| match constraint {
        Constraint::Within(place) => stands(true, place),
        Constraint::Outside(place) => stands(false, place),
        Constraint::AtLeast(..) => true,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage::ids::ReplicaId;

    use super::*;

    /// Nodes 1, 2, … in these regions; a group of three on the first ones, and one of the second rule with a voter on each node.
    fn cluster(regions: &[&str], second: &str) -> Description {
        let node = |(place, region): (usize, &&str)| Node {
            locality: Some(format!("region={region}").parse().expect("a locality")),
            ..Node::live(NodeId(place as u64 + 1))
        };
        let nodes: Vec<Node> = regions.iter().enumerate().map(node).collect();
        let group = |id: u64, rule: u16, voters: usize| {
            let replica = |node: &Node| voter(id, node.id);
            let replicas = nodes.iter().take(voters).map(replica).collect();
            Group { rule, replicas, ..Group::new(GroupId(id)) }
        };
        let groups = vec![group(7, 0, 3), group(8, 1, nodes.len())];
        let places: Rule = second.parse().expect("a rule");
        let rules = vec![Rule::default(), Rule { replicas: regions.len(), ..places }];
        Description { nodes, groups, rules, ..Description::default() }
    }

    fn voter(group: u64, node: NodeId) -> crate::placement::Replica {
        crate::placement::Replica::voter(ReplicaId(group * 10 + node.0), node)
    }

    fn said(cluster: &Description, node: u64) -> Option<(u64, usize, usize, bool)> {
        without(cluster, NodeId(node)).map(|s| (s.group.0, s.wanted, s.room, s.own_rule))
    }

    #[test]
    fn table_with_more_replicas_than_the_cluster_counts() {
        let mut cluster = cluster(&["eu"; 5], "");
        assert_eq!(said(&cluster, 5), Some((8, 5, 4, true)));
        cluster.groups.pop();
        assert_eq!((said(&cluster, 5), said(&cluster, 1)), (None, None));
        // More is wanted than was ever there.
        cluster.rules[0].replicas = 9;
        assert_eq!(said(&cluster, 1), None);
    }

    #[test]
    fn meta_group_is_content_with_the_nodes_that_stay() {
        let mut cluster = cluster(&["eu"; 3], "");
        cluster.groups.remove(0);
        cluster.groups[0].id = META_GROUP;
        // (Its rule is not the first one where shards have another number of replicas.)
        cluster.rules[0].replicas = 2;
        assert_eq!(said(&cluster, 3), None, "one of two is enough");
        cluster.nodes[1].duty = Duty::Leaving;
        assert_eq!(said(&cluster, 3), Some((META_GROUP.0, 2, 1, false)), "two are wanted, as of each shard");
        cluster.rules[0].replicas = 1;
        assert_eq!(said(&cluster, 3), None);
        cluster.nodes[0].health = Health::Down(Duration::from_secs(5));
        assert_eq!(said(&cluster, 3), Some((META_GROUP.0, 1, 0, false)));
    }

    #[test]
    fn draining_node_keeps_what_it_has_and_takes_nothing() {
        let mut cluster = cluster(&["eu"; 4], "");
        cluster.groups.pop();
        cluster.nodes[3].duty = Duty::Draining;
        assert_eq!(said(&cluster, 1), Some((7, 3, 2, false)));
        cluster.groups[0].replicas = [1, 2, 4].map(|node| voter(7, NodeId(node))).to_vec();
        assert_eq!(said(&cluster, 1), None);
        cluster.nodes[2].health = Health::Down(Duration::from_secs(5));
        assert_eq!(said(&cluster, 1), Some((7, 3, 2, false)));
        assert_eq!(said(&cluster, 3), None, "it has nothing");
    }

    #[test]
    fn nodes_where_the_table_must_not_be_are_no_room() {
        let mut cluster = cluster(&["eu", "eu", "eu", "us"], "region=eu");
        cluster.groups.remove(0);
        cluster.groups[0].replicas.truncate(3);
        assert_eq!(said(&cluster, 1), Some((8, 3, 2, true)));
        cluster.rules[1].constraints = vec![Constraint::Outside("region=us".parse().expect("a place"))];
        assert_eq!(said(&cluster, 1), Some((8, 3, 2, true)));
        cluster.rules[1].constraints = vec![Constraint::Within("region=mars".parse().expect("a place"))];
        assert_eq!(said(&cluster, 1), None);
    }
}
