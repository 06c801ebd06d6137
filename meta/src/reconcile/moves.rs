//! A move that an operator has asked for: its next step, from what is.

use std::collections::BTreeSet;

use proto::meta::Move;
use storage::ids::{GroupId, NodeId, ReplicaId};

use crate::placement::{Group, Operation, Replica};

/// What is to be done about a move.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This.
    Step(Operation),
    /// Nothing yet.
    Wait(&'static str),
    /// Nothing any more: the replica has moved.
    Done,
    /// Nothing any more: it can't be done.
    Impossible(String),
}

/// Decides. `group` is what its leader last said, if there is such a shard still; `live` whether a node is heard of, `awaited` whether one that isn't may come back
/// before placement replaces what it has. Placement leaves the group alone for as long as it is to be moved: so a move must wait for
/// nothing that never comes, and must not keep a lost voter from being replaced.
pub(crate) fn next(
    wanted: &Move,
    group: Option<&Group>,
    live: impl Fn(NodeId) -> bool,
    awaited: impl Fn(NodeId) -> bool,
) -> Next {
    let (id, from, to) = (GroupId(wanted.group), NodeId(wanted.from), NodeId(wanted.to));
    let Some(group) = group else {
        return Next::Impossible("its keys are another shard's by now".to_owned());
    };
    let Some(leader) = group.leader.filter(|leader| live(*leader)) else {
        return Next::Wait("nobody is known to lead it");
    };
    // (One that is lost with the node that gives its replica away is replaced by the move.)
    let lost = |r: &&Replica| r.voter && r.node != from && !live(r.node) && !awaited(r.node);
    if let (Some(_), Some(lost)) = (group.on(from), group.replicas.iter().find(lost)) {
        return Next::Impossible(format!("{} is lost with {}, and is replaced first", lost.id, lost.node));
    }
    match (group.on(from), group.on(to)) {
        (_, taker) if taker.is_none_or(|t| !t.voter) && !live(to) => {
            Next::Impossible(format!("{to} is down"))
        }
        (None, Some(taker)) if taker.voter && !group.joint => Next::Done,
        (None, Some(taker)) if taker.voter => Next::Step(change(id, group, |_| true)),
        (None, _) => Next::Impossible(format!("{from} has no replica of it")),
        (Some(giver), None) => match giver.voter {
            true => Next::Step(Operation::AddLearner { group: id, node: to, replaces: Some(giver.id) }),
            false => Next::Impossible(format!("the replica on {from} has no vote; placement looks after it")),
        },
        // It isn't there, or can't be made whole: another one is made.
        (Some(_), Some(taker)) if taker.lost => {
            Next::Step(Operation::RemoveReplica { group: id, replica: taker.id, node: to })
        }
        (Some(_), Some(taker)) if !taker.caught_up => Next::Wait("the new replica is catching up"),
        (Some(giver), Some(_)) if !giver.voter => {
            Next::Step(Operation::RemoveReplica { group: id, replica: giver.id, node: from })
        }
        (Some(_), Some(taker)) if leader == from => {
            let able = |r: &&Replica| r.voter && r.caught_up && r.node != from && live(r.node);
            // The new one first: the leadership goes where the replica goes.
            let next = group.replicas.iter().filter(able).min_by_key(|r| (r.node != to, r.id));
            match next {
                Some(next) => {
                    Next::Step(Operation::TransferLeader { group: id, replica: next.id, node: next.node })
                }
                None => Next::Step(change(id, group, |r| r.voter || r.id == taker.id)),
            }
        }
        (Some(_), Some(_)) => Next::Step(change(id, group, |r| r.node != from && (r.voter || r.node == to))),
    }
}

fn change(group: GroupId, of: &Group, votes: impl Fn(&Replica) -> bool) -> Operation {
    let voters: BTreeSet<ReplicaId> = of.replicas.iter().filter(|r| votes(r)).map(|r| r.id).collect();
    debug_assert!(!voters.is_empty(), "{group}: a change to no voters");
    Operation::ChangeVoters { group, voters }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(leader: u64, replicas: &[(u64, u64, bool, bool)]) -> Group {
        let mut group = Group::new(GroupId(7));
        group.leader = Some(NodeId(leader));
        group.replicas = replicas
            .iter()
            .map(|&(id, node, voter, caught_up)| Replica {
                voter,
                caught_up,
                ..Replica::voter(ReplicaId(id), NodeId(node))
            })
            .collect();
        group
    }

    /// Carries out what is said until it is done; the steps, in words.
    fn carry_out(mut group: Group, from: u64, to: u64) -> Vec<String> {
        let wanted = Move { id: 1, group: 7, from, to };
        let mut steps = Vec::new();
        for _ in 0..10 {
            match next(&wanted, Some(&group), |_| true, |_| true) {
                Next::Done => return steps,
                Next::Impossible(why) => panic!("{why} after {steps:?}"),
                Next::Wait(_) => group.replicas.iter_mut().for_each(|r| r.caught_up = true),
                Next::Step(step) => {
                    steps.push(step.to_string());
                    match step {
                        Operation::AddLearner { node, .. } => {
                            let new = Replica::voter(ReplicaId(9), node);
                            group.replicas.push(Replica { voter: false, caught_up: false, ..new });
                        }
                        Operation::ChangeVoters { voters, .. } => {
                            let leads = group.on(group.leader.expect("a leader")).expect("a replica").id;
                            assert!(voters.contains(&leads), "the leader was removed");
                            group.joint = false;
                            group.replicas.retain(|r| !r.voter || voters.contains(&r.id));
                            for replica in &mut group.replicas {
                                replica.voter |= voters.contains(&replica.id);
                            }
                        }
                        Operation::TransferLeader { node, .. } => group.leader = Some(node),
                        other => panic!("{other}"),
                    }
                }
            }
        }
        panic!("no end: {steps:?}")
    }

    const THREE: &[(u64, u64, bool, bool)] = &[(1, 1, true, true), (2, 2, true, true), (3, 3, true, true)];

    #[test]
    fn follower_moves_by_learner_and_joint_change() {
        let steps = carry_out(group(1, THREE), 3, 4);
        assert_eq!(steps, ["g7: add learner on n4 for r3", "g7: voters become r1 r2 r9"]);
    }

    #[test]
    fn leader_hands_over_before_it_goes() {
        let steps = carry_out(group(1, THREE), 1, 4);
        let expected =
            ["g7: add learner on n4 for r1", "g7: transfer leader to r2 on n2", "g7: voters become r2 r3 r9"];
        assert_eq!(steps, expected);
    }

    #[test]
    fn only_replica_hands_over_to_its_successor() {
        let steps = carry_out(group(1, &THREE[..1]), 1, 2);
        let expected = [
            "g7: add learner on n2 for r1",
            "g7: voters become r1 r9",
            "g7: transfer leader to r9 on n2",
            "g7: voters become r9",
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn interrupted_joint_change_is_ended_without_the_old_one() {
        let mut group =
            group(2, &[(1, 1, true, true), (2, 2, true, true), (3, 3, true, true), (9, 4, true, true)]);
        group.joint = true;
        assert_eq!(carry_out(group, 3, 4), ["g7: voters become r1 r2 r9"]);
    }

    #[test]
    fn impossible_moves_say_why() {
        let wanted = Move { id: 1, group: 7, from: 5, to: 4 };
        let Next::Impossible(why) = next(&wanted, Some(&group(1, THREE)), |_| true, |_| true) else {
            panic!("possible")
        };
        assert_eq!(why, "n5 has no replica of it");
        let wanted = Move { id: 1, group: 7, from: 3, to: 4 };
        let without_four = next(&wanted, Some(&group(1, THREE)), |n| n.0 != 4, |_| true);
        assert_eq!(without_four, Next::Impossible("n4 is down".to_owned()));
    }

    /// A new replica is on its way.
    const LEARNING: &[(u64, u64, bool, bool)] =
        &[(1, 1, true, true), (2, 2, true, true), (3, 3, true, true), (9, 4, false, false)];

    #[test]
    fn learner_that_is_lost_is_made_again() {
        let wanted = Move { id: 1, group: 7, from: 3, to: 4 };
        let mut group = group(1, LEARNING);
        let said = |group: &Group| next(&wanted, Some(group), |_| true, |_| true);
        assert_eq!(said(&group), Next::Wait("the new replica is catching up"));
        group.replicas[3].lost = true;
        let remove = Operation::RemoveReplica { group: GroupId(7), replica: ReplicaId(9), node: NodeId(4) };
        assert_eq!(said(&group), Next::Step(remove));
        group.replicas.pop();
        assert!(matches!(said(&group), Next::Step(Operation::AddLearner { .. })));
    }

    #[test]
    fn lost_voter_is_not_kept_from_being_replaced() {
        let group = group(1, LEARNING);
        let said = |from, awaited| {
            next(&Move { id: 1, group: 7, from, to: 4 }, Some(&group), |n| n.0 != 2, |_| awaited)
        };
        assert_eq!(said(3, true), Next::Wait("the new replica is catching up"));
        let why = "r2 is lost with n2, and is replaced first".to_owned();
        assert_eq!(said(3, false), Next::Impossible(why));
        // The move is what replaces it.
        assert_eq!(said(2, false), Next::Wait("the new replica is catching up"));
    }
}
