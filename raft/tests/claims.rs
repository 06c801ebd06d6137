//! Snapshots that take long to install: whom they keep waiting, and whom they do not.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use harness::{Cluster, GROUP, Held, eventually};
use raft::{Error, Group, NewGroup, private_keys};
use storage::ids::{GroupId, NodeId, ReplicaId};

/// So many snapshots are sent before it counts as refused.
const ATTEMPTS: usize = 4;
const NEIGHBOUR: GroupId = GroupId(8);
/// No group of its own.
const ELSEWHERE: GroupId = GroupId(9);
const FIRST: ReplicaId = ReplicaId(1);
const SECOND: ReplicaId = ReplicaId(2);

/// A group that has one member, on that node.
async fn sole(cluster: &Cluster, group: GroupId, node: u64) -> Arc<Group> {
    let members = BTreeMap::from([(FIRST, NodeId(node))]);
    let new = NewGroup { group, me: FIRST, members, campaign: false };
    let group = cluster.multi(node).create_group(new).await.expect("create");
    eventually("it is led", || group.leads().is_some()).await;
    group
}

/// Two nodes. The group's first member is on the first, and its second one is being installed on the second, for as long as this is held:
/// with keys that its state does not speak of.
async fn installing() -> (Cluster, Held) {
    let mut cluster = Cluster::new();
    cluster.start(1).await;
    cluster.start(2).await;
    let leader = sole(&cluster, GROUP, 1).await;
    cluster.put("a", "1").await;
    cluster.claim(GROUP, Some(private_keys(ELSEWHERE)));
    let held = cluster.hold_installs();
    cluster.multi(2).create_replica(GROUP, SECOND).await.expect("create");
    leader.add_learner(SECOND, NodeId(2)).await.expect("add");
    eventually("it is about to be installed", || held.is_met()).await;
    cluster.claim(GROUP, None);
    (cluster, held)
}

/// All of a node's replicas were kept where they were for as long as one of them was being installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_install_keeps_no_other_replica_from_leaving() {
    let (cluster, held) = installing().await;
    drop(sole(&cluster, NEIGHBOUR, 2).await);
    let multi = cluster.multi(2);
    let removing = tokio::spawn(async move { multi.remove_replica(NEIGHBOUR, FIRST).await });
    eventually("it is removed", || removing.is_finished()).await;
    removing.await.expect("a task").expect("remove");
    assert_eq!(held.count(), 1, "it is installed still");
    drop(held);
    eventually("it is there", || cluster.get(2, "a").as_deref() == Some("1")).await;
}

/// By the time at which it is done, its rows would lie among another one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_being_installed_nobody_else_gets_meanwhile() {
    let (cluster, held) = installing().await;
    let neighbour = sole(&cluster, NEIGHBOUR, 1).await;
    cluster.claim(NEIGHBOUR, Some(private_keys(ELSEWHERE)));
    let second = cluster.multi(2).create_replica(NEIGHBOUR, SECOND).await.expect("create");
    neighbour.add_learner(SECOND, NodeId(2)).await.expect("add");
    // The next one begins when the one before was refused.
    let tried = || cluster.snapshots_begun(1, NEIGHBOUR) >= ATTEMPTS || held.count() > 1;
    eventually("it is tried again and again", tried).await;
    assert_eq!(held.count(), 1, "it was let in");
    drop(held);
    eventually("it gets them in the end", || second.status().applied.is_some()).await;
}

/// What is removed stays so: an import that went on would write it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removal_waits_for_the_install_of_its_replica() {
    let (cluster, held) = installing().await;
    cluster.group(1).remove(SECOND).await.expect("a change of members");
    let multi = cluster.multi(2);
    let removing = tokio::spawn(async move { multi.remove_replica(GROUP, SECOND).await });
    // (Time enough for all of it.)
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!removing.is_finished(), "it has not waited");
    // Nor does it keep others waiting.
    let refused = cluster.multi(2).create_replica(GROUP, FIRST).await;
    assert!(matches!(refused, Err(Error::OtherReplica { .. })), "{refused:?}");
    drop(held);
    removing.await.expect("a task").expect("remove");
    assert_eq!(cluster.rows(2).len(), 1, "nothing but the tombstone: {:?}", cluster.rows(2));
}
