//! A node has fallen silent: what it led elects.
//!
//! All survivors see the silence at about the same time, and the same silence for all groups. So that they neither collide nor wait for
//! each other longer than they must, each group's survivors have an order, by which they begin one after the other: the first
//! at once, each next one a step later, with a little chance in it. The order turns with the group's number, so that the
//! leaderships of a dead node are spread over the others. Groups begin a moment apart: elections cost an fsync.
//!
//! Groups at rest have no leader to lose: another one is their home from now on ([`crate::rest`]), and whoever is asked for one holds
//! an election then ([`Group::rouse`]).
//!
//! Standing for election begins with a pre-vote. Whoever still hears the leader refuses it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use storage::ids::{GroupId, NodeId};

use crate::api::Role;
use crate::group::Group;
use crate::multi::MultiRaft;
use crate::transport::Hub;

/// Between a group's first candidate and its second.
const STEP: Duration = Duration::from_millis(90);
/// … more or less.
const CHANCE: Duration = Duration::from_millis(30);
/// Between two groups.
const GROUP_STEP: Duration = Duration::from_micros(300);
/// Between two attempts of the same candidate: leases of followers end at different moments.
const AGAIN: Duration = Duration::from_millis(60);
/// After these, openraft's own timers have long run out.
const ATTEMPTS_MAX: u32 = 12;

/// Stands for election in all groups awake that `node` led, until each has another leader or the node is back.
pub(super) async fn succeed(multi: Weak<MultiRaft>, hub: Arc<Hub>, node: NodeId) {
    let seams = hub.seams.clone();
    let start = seams.clock.now();
    let mut due: BinaryHeap<Reverse<(Instant, GroupId, u32)>> = BinaryHeap::new();
    {
        let Some(multi) = multi.upgrade() else { return };
        let groups = multi.awake().into_iter().filter(|group| follows(group, node));
        for (n, group) in groups.enumerate() {
            // One without a vote does not stand.
            let Some(place) = place(&group, node) else { continue };
            let patience = patience(place, seams.random_f64());
            due.push(Reverse((start + GROUP_STEP * n as u32 + patience, group.id(), 0)));
        }
    }
    while let Some(Reverse((at, id, attempt))) = due.pop() {
        let wait = at.saturating_duration_since(seams.clock.now());
        if !wait.is_zero() {
            seams.sleep(wait).await;
        }
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() || !hub.liveness.is_silent(node) {
            return;
        }
        let Some(group) = multi.group(id).filter(|group| !group.rests() && follows(group, node)) else {
            continue;
        };
        drop(multi);
        if !group.is_gated() {
            group.campaign().await;
        }
        if attempt + 1 < ATTEMPTS_MAX {
            let pause = AGAIN.mul_f64(1.0 + seams.random_f64());
            due.push(Reverse((seams.clock.now() + pause, id, attempt + 1)));
        }
    }
}

/// Whether the replica takes its leader to be on that node.
fn follows(group: &Group, node: NodeId) -> bool {
    matches!(&*group.role().borrow(), Role::Follower { leader: Some(leader) } if leader.node == node)
}

/// How many others stand for election before this replica does.
fn place(group: &Group, dead: NodeId) -> Option<u32> {
    let mut survivors = group.voters();
    survivors.retain(|(_, node)| *node != dead);
    let mine = survivors.iter().position(|(replica, _)| *replica == group.replica())?;
    Some(turn(group.id(), mine, survivors.len()))
}

/// The turn of one of `count` survivors, who is the `n`th in the order that all know.
pub(crate) fn turn(group: GroupId, n: usize, count: usize) -> u32 {
    ((n + group.0 as usize) % count) as u32
}

/// How long the one whose turn it is after `place` others waits; `chance` is in `0.0..1.0`.
fn patience(place: u32, chance: f64) -> Duration {
    STEP * place + CHANCE.mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What all survivors work out by themselves agrees: each has a turn of its own, and one of them the first.
    #[test]
    fn the_survivors_of_a_group_begin_one_after_the_other() {
        for count in 1..=6 {
            for group in 0..20 {
                let turns: BTreeSet<u32> = (0..count).map(|n| turn(GroupId(group), n, count)).collect();
                assert!(turns.into_iter().eq(0..count as u32), "{group} with {count} survivors");
            }
        }
    }

    /// Without that the survivor with the lowest id would get all that a dead node led.
    #[test]
    fn what_a_dead_node_led_is_spread_over_the_survivors() {
        for count in 1..=6 {
            for n in 0..count {
                let first = (0..600).filter(|group| turn(GroupId(*group), n, count) == 0).count();
                assert_eq!(first, 600 / count, "the {n}th of {count}");
            }
        }
    }

    /// Two that stood at the same moment would both miss a majority. The first one has time for its pre-vote and its vote
    /// before the second begins, whatever the chance.
    #[test]
    fn turns_do_not_overlap() {
        const LATEST: f64 = 0.999_999;
        assert!(patience(0, LATEST) <= CHANCE);
        for place in 0..6 {
            assert!(patience(place, 0.5) > patience(place, 0.0), "some chance");
            let between = patience(place + 1, 0.0) - patience(place, LATEST);
            assert!(between >= STEP / 2, "{between:?} after {place}");
        }
    }
}
