//! Room for one more group that is awake.
//!
//! Requests wake no more than `awake_limit` ([`crate::crowd`]). A group that a message wakes has found its place where it is led, or is to
//! be led by somebody; to refuse it here may leave it without a majority there, and groups that wait for each other's places on several
//! nodes would wait for ever. So beyond that limit
//!
//! 1. the group that nobody has used for the longest time, of those that are led here, is laid to rest for it;
//! 2. if there is none, it wakes all the same, as long as fewer than [`RaftOptions::awake_most`](crate::RaftOptions) are awake;
//! 3. at that limit it does not: whoever asked comes again, as after any message that was lost. (Its leader goes on with the others.)
//!
//! What a start or a request of placement opens is awake whatever the number: it cannot rest before it has a leader.

use std::cmp::Reverse;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Roll;
use crate::crowd::Place;
use crate::group::Group;

/// So many are tried before it is taken for certain that none can be laid to rest now.
const TRIED_MAX: usize = 8;

impl Group {
    /// A place among those awake, for a group that others need; nothing if there is none.
    pub(super) async fn place(&self) -> Option<Place> {
        let (roll, options) = (&self.nursery.roll, &self.options);
        if let Some(place) = roll.enter(options.awake_limit) {
            return Some(place);
        }
        roll.make_room().await;
        let place = roll.enter(options.awake_limit).or_else(|| roll.enter(options.awake_most()));
        if place.is_none() {
            metrics::counter!("flotilla_raft_wakes_refused_total").increment(1);
            tracing::debug!(group = %self.id(), "it stays at rest: too many groups are awake");
        }
        place
    }
}

impl Roll {
    /// Lays a group to rest here, if one can be: of those that are led here, the one that nobody has used for the longest time. (Boxed, for
    /// a group that rests may have to wake by itself.)
    fn make_room(&self) -> BoxFuture<'_, ()> {
        let mut idle: Vec<(u32, Arc<Group>)> = self
            .awake()
            .into_iter()
            .map(|group| (group.rest.idle(), group))
            .filter(|(idle, group)| *idle > 0 && group.leads().is_some())
            .collect();
        idle.sort_by_key(|(idle, _)| Reverse(*idle));
        async move {
            for (_, group) in idle.into_iter().take(TRIED_MAX) {
                if let Some((rest, others)) = group.go_to_rest().await {
                    // Nobody waits until the others know.
                    let seams = group.seams.clone();
                    seams.spawn("raft-rest", async move { group.tell_to_rest(rest, others).await });
                    return;
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use storage::ids::{GroupId, NodeId, ReplicaId};

    use crate::create::NewGroup;
    use crate::options::RaftOptions;
    use crate::rest::NotAwake;
    use crate::test_node::TestNode;

    use super::*;

    async fn led_here(node: &TestNode, id: u64) -> Arc<Group> {
        let me = ReplicaId(2);
        let members = BTreeMap::from([(me, NodeId(2))]);
        let group = node.multi.create_group(NewGroup { group: GroupId(id), me, members, campaign: false });
        let group = group.await.expect("create");
        node.eventually("it leads", || group.leads().is_some()).await;
        group
    }

    /// Memory would be without a bound: what other nodes lead wakes here by their messages.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_groups_wake_for_others_than_the_node_can_hold() {
        const LIMIT: usize = 2;
        let node = TestNode::start(RaftOptions { awake_limit: LIMIT, ..RaftOptions::default() }).await;
        let most = RaftOptions { awake_limit: LIMIT, ..RaftOptions::default() }.awake_most();
        let mut groups = Vec::new();
        for id in 1..=most as u64 + 1 {
            groups.push(node.group_at_rest(id).await);
        }
        let (last, first) = groups.split_last().expect("groups");
        for group in first {
            group.awake().await.expect("there is room");
        }
        assert!(matches!(last.awake().await, Err(NotAwake::Crowded)));
        assert!(last.rests() && node.multi.awake().len() == most);
        // Whoever is awake answers on, and whoever comes again finds what has become free.
        first[0].awake().await.expect("it is awake");
        node.lay_to_rest(&first[0]).await;
        last.awake().await.expect("there is room again");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_group_that_was_unused_longest_makes_room() {
        let node = TestNode::start(RaftOptions::default()).await;
        let (used, unused) = (led_here(&node, 1).await, led_here(&node, 2).await);
        node.eventually("it is found to be unused", || unused.rest.idle() > 0).await;
        used.touch();
        node.multi.roll().make_room().await;
        assert!(unused.rests() && !used.rests());
        // Nobody else can be spared.
        used.touch();
        node.multi.roll().make_room().await;
        assert!(!used.rests());
    }
}
