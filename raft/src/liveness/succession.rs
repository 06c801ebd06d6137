//! A node has fallen silent: what it led elects.
//!
//! All survivors see the silence at about the same time, and the same silence for all groups. So that they neither collide nor wait for
//! each other longer than they must, each group's survivors have an order, by which they stand one after the other: the first
//! at once, each next one a step later, with a little chance in it; then the first again, until one is elected. (The lease that somebody
//! has granted with the dead leader's last message may end up to a pulse after the silence was noticed.) The order turns with the group's
//! number, so that the leaderships of a dead node are spread over the others. Groups begin a moment apart: elections cost an fsync.
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
use storage::seam::Seams;

use crate::api::Role;
use crate::group::{Group, within};
use crate::multi::MultiRaft;
use crate::transport::Hub;

/// Between a group's first candidate and its second.
const STEP: Duration = Duration::from_millis(90);
/// … more or less.
const CHANCE: Duration = Duration::from_millis(30);
/// Between two groups.
const GROUP_STEP: Duration = Duration::from_micros(300);
/// After these attempts of one candidate openraft's own timers have long run out.
const ATTEMPTS_MAX: u32 = 12;

/// When a replica stands for election.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// With a little chance in it.
    at: Instant,
    group: GroupId,
    /// Without.
    begins: Instant,
    /// Until all survivors have had theirs.
    round: Duration,
    attempt: u32,
}

impl Turn {
    /// `chance` is in `0.0..1.0`.
    fn first(group: GroupId, begins: Instant, survivors: usize, chance: f64) -> Self {
        let round = STEP * survivors as u32;
        Self { at: begins + CHANCE.mul_f64(chance), group, begins, round, attempt: 1 }
    }

    /// The next one that is yet to come; none if there were enough of them.
    fn next(self, now: Instant, chance: f64) -> Option<Self> {
        let mut begins = self.begins + self.round;
        while begins < now {
            begins += self.round;
        }
        let next = Self { at: begins + CHANCE.mul_f64(chance), begins, attempt: self.attempt + 1, ..self };
        (next.attempt <= ATTEMPTS_MAX).then_some(next)
    }
}

/// Stands for election in all groups awake that `node` led, until each has another leader or the node is back.
pub(super) async fn succeed(multi: Weak<MultiRaft>, hub: Arc<Hub>, node: NodeId) {
    let seams = hub.seams.clone();
    let start = seams.clock.now();
    let mut due: BinaryHeap<Reverse<Turn>> = BinaryHeap::new();
    {
        let Some(multi) = multi.upgrade() else { return };
        let groups = multi.awake().into_iter().filter(|group| follows(group, node));
        for (n, group) in groups.enumerate() {
            // One without a vote does not stand.
            let Some((place, survivors)) = place(&group, node) else { continue };
            let begins = start + GROUP_STEP * n as u32 + STEP * place;
            due.push(Reverse(Turn::first(group.id(), begins, survivors, seams.random_f64())));
        }
    }
    while let Some(Reverse(turn)) = due.pop() {
        let wait = turn.at.saturating_duration_since(seams.clock.now());
        if !wait.is_zero() {
            seams.sleep(wait).await;
        }
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() || !hub.liveness.is_silent(node) {
            return;
        }
        let Some(group) = multi.group(turn.group).filter(|group| !group.rests() && follows(group, node))
        else {
            continue;
        };
        drop(multi);
        if !group.is_gated() {
            // Beside the others: it may have gone to rest meanwhile, and be slow to wake.
            seams.spawn("raft-campaign", campaign(group, seams.clone()));
        }
        due.extend(turn.next(seams.clock.now(), seams.random_f64()).map(Reverse));
    }
}

/// Stands for election, unless it takes until the next one's turn to begin with that.
async fn campaign(group: Arc<Group>, seams: Seams) {
    within(&seams, STEP, group.campaign()).await;
}

/// Whether the replica takes its leader to be on that node.
fn follows(group: &Group, node: NodeId) -> bool {
    matches!(&*group.role().borrow(), Role::Follower { leader: Some(leader) } if leader.node == node)
}

/// How many others stand for election before this replica does, and how many survivors with a vote there are.
fn place(group: &Group, dead: NodeId) -> Option<(u32, usize)> {
    let mut survivors = group.voters();
    survivors.retain(|(_, node)| *node != dead);
    let mine = survivors.iter().position(|(replica, _)| *replica == group.replica())?;
    Some((turn(group.id(), mine, survivors.len()), survivors.len()))
}

/// The turn of one of `count` survivors, who is the `n`th in the order that all know.
pub(crate) fn turn(group: GroupId, n: usize, count: usize) -> u32 {
    ((n + group.0 as usize) % count) as u32
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

    /// Two that stood at the same moment would both miss a majority. Whoever stands has time for a pre-vote and a vote before the next one
    /// does, whatever the chance, and however often it takes.
    #[test]
    fn turns_do_not_overlap() {
        const LATEST: f64 = 0.999_999;
        let start = Seams::real().clock.now();
        for survivors in 1..=5 {
            // Each of them is now as early as can be, now as late.
            let turns = (0..survivors as u32).flat_map(|place| {
                let chance = move |n: u32| if (n + place).is_multiple_of(2) { 0.0 } else { LATEST };
                let first = Turn::first(GroupId(7), start + STEP * place, survivors, chance(0));
                let next = move |turn: &Turn| {
                    let Turn { at, group, begins, round, attempt } = *turn;
                    Turn { at, group, begins, round, attempt }.next(at, chance(attempt))
                };
                std::iter::successors(Some(first), next)
            });
            let mut at: Vec<Instant> = turns.map(|turn| turn.at).collect();
            at.sort_unstable();
            assert_eq!(at.len(), survivors * ATTEMPTS_MAX as usize);
            let apart = |pair: &[Instant]| pair[1] - pair[0] >= STEP - CHANCE;
            assert!(at.windows(2).all(apart), "{survivors} survivors");
        }
    }

    #[test]
    fn who_is_late_waits_for_a_turn_of_its_own() {
        let start = Seams::real().clock.now();
        let turn = Turn::first(GroupId(7), start, 2, 0.0);
        let late = turn.next(start + STEP * 5, 0.0).expect("another turn");
        assert_eq!(late.at, start + STEP * 6);
    }
}
