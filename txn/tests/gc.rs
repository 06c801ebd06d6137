//! Garbage collection: old versions go, what anybody may read stays, and who comes too late is told so.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{TestCluster, bytes, set};
use raft::StateMachineFactory;
use storage::Cf;
use storage::ids::{KeyRange, ReplicaId};
use txn::api::{BeginOptions, Expect, Isolation, Write};
use txn::{Error, Registry, ShardFactory};

/// Versions that each replica keeps of user keys.
fn versions(cluster: &TestCluster) -> Vec<usize> {
    let count = |node: &common::Node| {
        let snapshot = node.store.engine().snapshot();
        let mut iter = snapshot.iter(Cf::Data, &KeyRange::all());
        iter.seek_to_first();
        let mut versions = 0;
        while iter.item().is_some() {
            versions += 1;
            iter.next();
        }
        versions
    };
    cluster.nodes.iter().map(count).collect()
}

/// Until every replica keeps so many.
async fn until_there_are(cluster: &TestCluster, expected: usize) {
    for _ in 0..400 {
        if versions(cluster).iter().all(|n| *n == expected) {
            return;
        }
        cluster.seams.sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?} versions instead of {expected}", versions(cluster));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_below_the_safe_point_go_on_every_replica() {
    let cluster = TestCluster::start(3).await;
    let db = cluster.database(0);
    for round in 0..10 {
        set(&*db, "a", Some(&round.to_string())).await;
        set(&*db, "b", Some("x")).await;
    }
    db.split(&[bytes("m")], false).await.unwrap();
    set(&*db, "z", Some("short-lived")).await;
    let deleted = set(&*db, "z", None).await;
    until_there_are(&cluster, 22).await;

    // Two that look at the past: one tells of itself, the other one is stopped in its tracks by the safe point.
    let early = db.begin(BeginOptions::default());
    early.get(&[bytes("a"), bytes("z")], &[]).await.unwrap();
    let snapshot = db.begin(BeginOptions { isolation: Isolation::Snapshot, ..BeginOptions::default() });
    snapshot.get(&[bytes("a")], &[]).await.unwrap();
    let late = set(&*db, "a", Some("last")).await;
    cluster.seams.sleep(Duration::from_millis(1_200)).await;
    let held = cluster.meta.held.lock().expect("a snapshot is open");
    assert!(held > deleted && held < late, "{held:?}");

    cluster.meta.safe_point.store(held.0, Ordering::SeqCst);
    // Of a: what the open snapshot sees, and the last; of b one; nothing of z.
    until_there_are(&cluster, 3).await;
    let seen = early.get(&[bytes("a"), bytes("b")], &[]).await.unwrap();
    assert_eq!(seen, [Some(bytes("9")), Some(bytes("x"))]);

    cluster.meta.safe_point.store(late.0 + 1, Ordering::SeqCst);
    until_there_are(&cluster, 2).await;
    assert_eq!(db.get_latest(&[bytes("a")], &[]).await.unwrap(), [Some(bytes("last"))]);
    // What they would read, and what they would have validated, may be gone.
    let read = early.get(&[bytes("c")], &[]).await;
    assert!(matches!(read, Err(Error::SnapshotTooOld { .. })), "{read:?}");
    for txn in [early, snapshot] {
        let write = Write { key: bytes("d"), value: Some(bytes("1")), expect: Expect::Any };
        txn.write(vec![write], &[]).await.unwrap();
        let committed = txn.commit().await;
        assert!(matches!(committed, Err(Error::SnapshotTooOld { .. })), "{committed:?}");
    }
    assert_eq!(db.get_latest(&[bytes("d")], &[]).await.unwrap(), [None]);
    *cluster.meta.held.lock() = None;
    cluster.seams.sleep(Duration::from_millis(1_200)).await;
    assert_eq!(*cluster.meta.held.lock(), None, "nobody is there any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_point_is_kept_and_inherited() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    set(&*db, "a", Some("1")).await;
    set(&*db, "a", Some("2")).await;
    set(&*db, "z", Some("1")).await;
    let now = db.timestamp().await.unwrap();
    cluster.meta.safe_point.store(now.0, Ordering::SeqCst);
    until_there_are(&cluster, 2).await;
    db.split(&[bytes("m")], false).await.unwrap();
    // As a node does that opens its store again.
    let node = &cluster.nodes[0];
    let (registry, _births) = Registry::new(node.id);
    let factory = ShardFactory::new(registry.clone(), cluster.seams.clone());
    for shard in node.server.registry().all() {
        factory.open(shard.group(), ReplicaId(1), node.store.engine()).unwrap();
        assert_eq!(registry.get(shard.group()).unwrap().safe_point(), now, "{shard:?}");
        assert_eq!(shard.safe_point(), now, "{shard:?}");
    }
    assert_eq!(registry.all().len(), 2);
}
