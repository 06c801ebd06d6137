//! The last resort, when a group has lost its majority for good: which replica may be made its only member.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use harness::{Cluster, GROUP, close};
use prost::Message;
use proto::storage::ImportMarker;
use raft::NewGroup;
use raft::recover::{Survivor, recover, release, survivors};
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Cf, Store, StoreOptions};

/// Three members with a row, all stopped, one of them in quarantine; a good one, and that one.
async fn one_in_quarantine() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new();
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let members: BTreeMap<_, _> = (1..=3).map(|n| (ReplicaId(n), NodeId(n))).collect();
    for node in 1..=3 {
        let (group, me, members) = (GROUP, ReplicaId(node), members.clone());
        let new = NewGroup { group, me, members, campaign: node == 1 };
        cluster.multi(node).create_group(new).await.expect("create");
    }
    cluster.put("a", "1").await;
    cluster.converge(&[1, 2, 3]).await;
    let (good, _) = cluster.leader().await;
    let bad = (1..=3).find(|node| *node != good).expect("another");
    cluster.multi(bad).quarantine(GROUP, ReplicaId(bad), "a test wants it").await.expect("quarantine");
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    (cluster, good, bad)
}

fn open(cluster: &Cluster, node: u64) -> Arc<Store> {
    Store::open(cluster.dir(node), StoreOptions::default(), Seams::real()).expect("open the store")
}

/// The group's replica there. Without the others it has lost its majority.
fn survivor(store: &Store, node: u64) -> Survivor {
    let found = survivors(store).expect("survivors");
    let [survivor] = &found.survivors[..] else { panic!("{found:?}") };
    assert!(found.damaged.is_empty(), "{found:?}");
    let lost: BTreeSet<NodeId> = (1..=3).filter(|other| *other != node).map(NodeId).collect();
    assert!(survivor.has_lost_its_majority(&lost));
    survivor.clone()
}

/// Writes something into the state of a store that nobody runs.
fn put(store: &Store, key: &[u8], value: &[u8]) {
    let engine = store.engine();
    let mut batch = engine.batch();
    batch.put(Cf::Group, key, value);
    engine.write(batch).and_then(|()| engine.flush()).expect("write");
}

/// After it was recovered, the group is led there, and has what it had.
async fn assert_serves_alone(cluster: &mut Cluster, node: u64) {
    cluster.start(node).await;
    cluster.put("b", "2").await;
    let members: Vec<NodeId> = cluster.group(node).status().members.into_values().collect();
    assert_eq!(members, [NodeId(node)]);
    assert_eq!(cluster.get(node, "a").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_becomes_the_only_member() {
    let (mut cluster, good, _) = one_in_quarantine().await;
    let store = open(&cluster, good);
    let survivor = survivor(&store, good);
    assert!(!survivor.quarantined);
    recover(&store, &survivor).await.expect("recover");
    close(store).await;
    assert_serves_alone(&mut cluster, good).await;
}

/// Its rows differ from those of a majority, nobody knows where else: passed for a survivor like any other, it made that the
/// truth; and not even that, for after its start it was in quarantine still, and the group had no member that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_in_quarantine_is_the_only_member_of_nothing_until_it_is_released() {
    let (mut cluster, _, bad) = one_in_quarantine().await;
    let store = open(&cluster, bad);
    let found = survivor(&store, bad);
    assert!(found.quarantined);
    recover(&store, &found).await.expect_err("it is in quarantine");
    assert_eq!(survivor(&store, bad).last, found.last, "nothing was written");
    // There is nothing better.
    release(&store, &found).expect("release");
    let released = survivor(&store, bad);
    assert!(!released.quarantined);
    recover(&store, &released).await.expect("recover");
    close(store).await;
    assert_serves_alone(&mut cluster, bad).await;
}

/// A node may have ten thousand replicas. One that can't be read is no reason to recover none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_be_read_is_named_and_the_others_are_judged() {
    const OTHER: GroupId = GroupId(9);
    let mut cluster = Cluster::new();
    cluster.start(1).await;
    for (group, me) in [(GROUP, ReplicaId(1)), (OTHER, ReplicaId(2))] {
        let members = BTreeMap::from([(me, NodeId(1))]);
        cluster.multi(1).create_group(NewGroup { group, me, members, campaign: true }).await.expect("create");
    }
    cluster.put("a", "1").await;
    cluster.stop(1).await;

    let store = open(&cluster, 1);
    let all = survivors(&store).expect("survivors");
    assert_eq!((all.survivors.len(), all.damaged.len()), (2, 0), "{all:?}");
    // How far it is.
    put(&store, &[&OTHER.0.to_be_bytes()[..], &[0x00]].concat(), &[0xff; 5]);
    let found = survivors(&store).expect("survivors");
    assert_eq!(found.survivors.iter().map(|survivor| survivor.group).collect::<Vec<_>>(), [GROUP]);
    let [damaged] = &found.damaged[..] else { panic!("{found:?}") };
    assert_eq!((damaged.group, damaged.replica), (OTHER, Some(ReplicaId(2))));
    assert!(damaged.why.to_string().contains("corrupt"), "{}", damaged.why);
    close(store).await;
}

/// Made the only member, it would be neither what it was nor what it was to become; and the next start would put the snapshot over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_snapshot_was_being_installed_is_the_only_member_of_nothing() {
    let (cluster, good, _) = one_in_quarantine().await;
    let store = open(&cluster, good);
    let whole = survivor(&store, good);
    assert!(!whole.unfinished);
    let marker = ImportMarker { group: GROUP.0, ..ImportMarker::default() };
    let key = [&0_u64.to_be_bytes()[..], &[1_u8], &GROUP.0.to_be_bytes()].concat();
    put(&store, &key, &marker.encode_to_vec());
    let found = survivor(&store, good);
    assert!(found.unfinished && !found.quarantined);
    recover(&store, &whole).await.expect_err("it has become one that is not whole");
    recover(&store, &found).await.expect_err("it is not whole");
    assert_eq!(survivor(&store, good).last, whole.last, "nothing was written");
    close(store).await;
}
