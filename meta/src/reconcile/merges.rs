//! A merge that is wanted: its next step, from what is. First the right shard's replicas come to the left one's nodes, one by one;
//! when they are there, and all is well, the two are merged.

use std::collections::BTreeSet;

use proto::meta::{Merge, Move};
use storage::ids::{GroupId, NodeId};

use super::moves::{self, Next};
use crate::placement::{Group, Operation, Replica};

/// Decides. `left` and `right` are what their leaders last said; `neighbours` whether the one ends where the other begins, as far as
/// the meta-group knows, and `None` if there is no right one any more. Both are left alone by placement meanwhile: so a merge must
/// not wait for a node that is not awaited any more, and keep it from being replaced.
pub(crate) fn next(
    wanted: &Merge,
    left: &Group,
    right: &Group,
    neighbours: Option<bool>,
    live: impl Fn(NodeId) -> bool + Copy,
    awaited: impl Fn(NodeId) -> bool,
) -> Next {
    let (left_id, right_id) = (GroupId(wanted.left), GroupId(wanted.right));
    match neighbours {
        None => return Next::Done,
        Some(false) => return Next::Impossible("they are no neighbours".to_owned()),
        Some(true) => {}
    }
    let nodes = |group: &Group| group.replicas.iter().map(|r| r.node).collect::<BTreeSet<_>>();
    let (there, here) = (nodes(left), nodes(right));
    if there.union(&here).any(|node| !live(*node) && (wanted.automatic || !awaited(*node))) {
        return Next::Impossible("a node of theirs is down".to_owned());
    }
    let led = |group: &Group| group.leader.is_some_and(live);
    if !led(left) || !led(right) {
        return Next::Wait("nobody is known to lead one of them");
    }
    // What placement has begun with them is ended here: it leaves them alone as long as the merge is wanted.
    if let Some(step) = settle(left_id, left, |_| true, |_| true) {
        return Next::Step(step);
    }
    if there.union(&here).any(|node| !live(*node)) {
        return Next::Wait("a node of theirs is down");
    }
    // What comes has to have its vote before the next one comes.
    if let Some(step) = settle(right_id, right, |node| !there.contains(&node), |node| there.contains(&node)) {
        return Next::Step(step);
    }
    let from = right.replicas.iter().find(|r| r.voter && !there.contains(&r.node)).map(|r| r.node);
    let learner = right.replicas.iter().find(|r| !r.voter).map(|r| r.node);
    let to = learner.or_else(|| there.difference(&here).next().copied());
    match (from, to) {
        (Some(from), Some(to)) => {
            let moving = Move { id: wanted.id, group: wanted.right, from: from.0, to: to.0 };
            match moves::next(&moving, Some(right), live, &awaited) {
                Next::Done => Next::Wait("a replica has moved"),
                next => next,
            }
        }
        (None, None) if right.replicas.iter().chain(&left.replicas).any(|r| !r.caught_up) => {
            Next::Wait("a replica is behind")
        }
        (None, None) => Next::Step(Operation::Merge { group: left_id, right: right_id }),
        // One too many: what is left of a move that was cut off.
        (Some(from), None) if here.len() > there.len() => {
            let able = |r: &&Replica| r.voter && r.caught_up && r.node != from && there.contains(&r.node);
            let on_from = right.replicas.iter().find(|r| r.node == from);
            match (on_from, right.replicas.iter().find(able)) {
                (Some(_), Some(to)) if right.leader == Some(from) => {
                    let (replica, node) = (to.id, to.node);
                    Next::Step(Operation::TransferLeader { group: right_id, replica, node })
                }
                (Some(old), _) if right.leader != Some(from) => {
                    Next::Step(Operation::RemoveReplica { group: right_id, replica: old.id, node: from })
                }
                _ => Next::Wait("the right one's replicas are behind"),
            }
        }
        _ => Next::Impossible("they have different numbers of replicas".to_owned()),
    }
}

/// Ends a change of members that was begun: the learner goes, if its node is one of those; a joint configuration becomes that of the
/// leader and of all its voters on nodes that are wanted.
fn settle(
    id: GroupId,
    group: &Group,
    of_no_use: impl Fn(NodeId) -> bool,
    wanted: impl Fn(NodeId) -> bool,
) -> Option<Operation> {
    if group.joint {
        let stays = |r: &&Replica| r.voter && (wanted(r.node) || Some(r.node) == group.leader);
        let voters = group.replicas.iter().filter(stays).map(|r| r.id).collect();
        return Some(Operation::ChangeVoters { group: id, voters });
    }
    let learner = group.replicas.iter().find(|r| !r.voter && of_no_use(r.node));
    learner.map(|Replica { id: replica, node, .. }| Operation::RemoveReplica {
        group: id,
        replica: *replica,
        node: *node,
    })
}

#[cfg(test)]
mod tests {
    use storage::ids::ReplicaId;

    use super::*;

    fn group(id: u64, leader: u64, nodes: &[u64]) -> Group {
        let mut group = Group::new(GroupId(id));
        group.leader = Some(NodeId(leader));
        group.replicas =
            nodes.iter().map(|node| Replica::voter(ReplicaId(id * 10 + node), NodeId(*node))).collect();
        group
    }

    const WANTED: Merge = Merge { id: 1, left: 7, right: 8, automatic: false };

    #[test]
    fn right_shard_comes_to_the_left_one_and_is_absorbed() {
        let (left, mut right) = (group(7, 1, &[1, 2, 3]), group(8, 4, &[3, 4, 5]));
        let mut steps = Vec::new();
        for _ in 0..20 {
            match next(&WANTED, &left, &right, Some(true), |_| true, |_| true) {
                Next::Wait(_) => right.replicas.iter_mut().for_each(|r| r.caught_up = true),
                Next::Step(step @ Operation::Merge { .. }) => {
                    steps.push(step.to_string());
                    break;
                }
                Next::Step(step) => {
                    steps.push(step.to_string());
                    match step {
                        Operation::AddLearner { node, .. } => {
                            let new = Replica::voter(ReplicaId(90 + node.0), node);
                            right.replicas.push(Replica { voter: false, caught_up: false, ..new });
                        }
                        Operation::ChangeVoters { voters, .. } => {
                            right.replicas.retain(|r| voters.contains(&r.id));
                            right.replicas.iter_mut().for_each(|r| r.voter = true);
                        }
                        Operation::TransferLeader { node, .. } => right.leader = Some(node),
                        other => panic!("{other}"),
                    }
                }
                other => panic!("{other:?} after {steps:?}"),
            }
        }
        let expected = [
            "g8: add learner on n1 for r84",
            "g8: transfer leader to r83 on n3",
            "g8: voters become r83 r85 r91",
            "g8: add learner on n2 for r85",
            "g8: voters become r83 r91 r92",
            "g7: merge with g8",
        ];
        assert_eq!(steps, expected);
        assert_eq!(next(&WANTED, &left, &right, None, |_| true, |_| true), Next::Done);
    }

    #[test]
    fn what_placement_has_begun_is_ended() {
        let (mut left, right) = (group(7, 1, &[1, 2, 3]), group(8, 1, &[1, 2, 3]));
        left.replicas.push(Replica { voter: false, ..Replica::voter(ReplicaId(79), NodeId(4)) });
        let said =
            |left: &Group, right: &Group| match next(&WANTED, left, right, Some(true), |_| true, |_| true) {
                Next::Step(step) => step.to_string(),
                other => panic!("{other:?}"),
            };
        assert_eq!(said(&left, &right), "g7: remove r79 from n4");
        left.replicas.pop();
        let mut right = right;
        right.joint = true;
        assert_eq!(said(&left, &right), "g8: voters become r81 r82 r83");
    }

    #[test]
    fn who_is_down_is_awaited_unless_nobody_asked() {
        let (left, right) = (group(7, 1, &[1, 2, 3]), group(8, 1, &[1, 2, 3]));
        let next = |automatic, awaited| {
            next(&Merge { automatic, ..WANTED }, &left, &right, Some(true), |n| n.0 != 3, |_| awaited)
        };
        let impossible = Next::Impossible("a node of theirs is down".to_owned());
        assert_eq!(next(false, true), Next::Wait("a node of theirs is down"));
        assert_eq!(
            (next(false, false), next(true, true)),
            (impossible, Next::Impossible("a node of theirs is down".to_owned()))
        );
    }
}
