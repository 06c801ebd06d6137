//! A node has fallen silent: what it led elects.
//!
//! All survivors see the silence at about the same time, and the same silence for all groups. So that they neither collide nor wait for
//! each other longer than they must, each group's survivors have an order, by which they begin one after the other: the first
//! at once, each next one a step later, with a little chance in it. The order turns with the group's number, so that the
//! leaderships of a dead node are spread over the others. Groups begin a moment apart: elections cost an fsync.
//!
//! Groups at rest follow a few at a time, and are laid to rest again as soon as they have a leader: a node of ten thousand groups may have been
//! the home of a third of them, and to wake all these at once would take the machine away from those that are asked for. Nobody has to wait for
//! his turn: whoever asks for a group whose home is silent wakes it ([`Group::rouse`]).
//!
//! Standing for election begins with a pre-vote. Whoever still hears the leader refuses it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
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
/// Campaigns that are under way at a time: each of them waits until its group is awake.
const CAMPAIGNS_MAX: usize = 64;
/// Of the groups at rest, so many are awake at a time to get another home.
const WOKEN_MAX: usize = 128;
/// How often it is looked whether there is room for more of them.
const ROOM_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stands for election in all groups that `node` led, until each has another leader or the node is back.
pub(super) async fn succeed(multi: Weak<MultiRaft>, hub: Arc<Hub>, node: NodeId) {
    let seams = hub.seams.clone();
    let start = seams.clock.now();
    let mut due: BinaryHeap<Reverse<(Instant, GroupId, u32)>> = BinaryHeap::new();
    let mut resting: VecDeque<(GroupId, Duration)> = VecDeque::new();
    let mut woken: Vec<Arc<Group>> = Vec::new();
    {
        let Some(multi) = multi.upgrade() else { return };
        let mut groups: Vec<Arc<Group>> = multi.groups().into_iter().filter(|g| follows(g, node)).collect();
        groups.sort_unstable_by_key(|group| group.id());
        for (n, group) in groups.iter().enumerate() {
            // One without a vote does not stand.
            let Some(place) = place(group, node) else { continue };
            let patience = patience(place, seams.random_f64());
            if group.rests() {
                resting.push_back((group.id(), patience));
            } else {
                due.push(Reverse((start + GROUP_STEP * n as u32 + patience, group.id(), 0)));
            }
        }
    }
    // One whose group is slow to wake keeps nobody else waiting.
    let mut campaigns: FuturesUnordered<BoxFuture<'static, Campaign>> = FuturesUnordered::new();
    let mut ended: Option<Campaign> = None;
    loop {
        let all_ended = std::iter::from_fn(|| campaigns.next().now_or_never().flatten());
        for Campaign { id, attempt, woken: group } in ended.take().into_iter().chain(all_ended) {
            woken.extend(group);
            if attempt + 1 < ATTEMPTS_MAX {
                let pause = AGAIN.mul_f64(1.0 + seams.random_f64());
                due.push(Reverse((seams.clock.now() + pause, id, attempt + 1)));
            }
        }
        if multi.upgrade().is_none_or(|multi| multi.is_stopping()) || !hub.liveness.is_silent(node) {
            return;
        }
        woken.retain(|group| !group.rests() && !group.is_stopping());
        while woken.len() + due.len() + campaigns.len() < WOKEN_MAX
            && let Some((id, patience)) = resting.pop_front()
        {
            due.push(Reverse((seams.clock.now() + patience, id, 0)));
        }
        let wait = match due.peek() {
            Some(Reverse((at, ..))) if campaigns.len() < CAMPAIGNS_MAX => {
                at.saturating_duration_since(seams.clock.now())
            }
            None if campaigns.is_empty() && resting.is_empty() => return,
            _ => ROOM_LOOK_EVERY,
        };
        if !wait.is_zero() {
            ended = tokio::select! {
                Some(campaign) = campaigns.next() => Some(campaign),
                () = seams.sleep(wait) => None,
            };
            continue;
        }
        let Some(Reverse((_, id, attempt))) = due.pop() else { continue };
        let group = multi.upgrade().and_then(|multi| multi.group(id));
        if let Some(group) = group.filter(|group| follows(group, node)) {
            campaigns.push(campaign(group, attempt).boxed());
        }
    }
}

/// One that has ended, however.
struct Campaign {
    id: GroupId,
    attempt: u32,
    /// The group, if it was at rest before.
    woken: Option<Arc<Group>>,
}

async fn campaign(group: Arc<Group>, attempt: u32) -> Campaign {
    let id = group.id();
    if group.is_gated() {
        return Campaign { id, attempt, woken: None };
    }
    let rested = group.rests();
    group.campaign().await;
    if rested {
        group.hurry_to_rest();
    }
    Campaign { id, attempt, woken: rested.then_some(group) }
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
fn turn(group: GroupId, n: usize, count: usize) -> u32 {
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
    use crate::options::RaftOptions;
    use crate::test_node::{LEADER, TestNode};

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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_group_that_is_slow_to_wake_delays_no_other() {
        let node = TestNode::start(RaftOptions::default()).await;
        // Of the survivors of even groups this node is the first, of odd ones the second.
        let slow = node.group_at_rest(2).await;
        let mut others = Vec::new();
        for id in [3, 5, 7] {
            others.push(node.group_at_rest(id).await);
        }
        let turn = slow.rest.turn().await;
        node.leaves(LEADER.node);
        node.eventually("the others wake", || others.iter().all(|group| !group.rests())).await;
        assert!(slow.rests());
        drop(turn);
        node.eventually("it wakes in the end", || !slow.rests()).await;
    }
}
