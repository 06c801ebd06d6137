//! Closed timestamps: any replica answers reads of the past, as its leader would have, and without one.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests of the real thing run on the real clock"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{FIRST, Node, TestCluster, bytes, orphan_prewrite, request, set};
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, KeyRange, Timestamp};
use txn::CoordinatorOptions;
use txn::api::{BeginOptions, Database, ScanRequest};
use txn::shard::Shard;

/// Rounds of a writer who goes on until others have seen enough.
const ROUNDS_MAX: u32 = 20_000;

/// As of then, through the gateway.
async fn value_at(db: &dyn Database, at: Timestamp, key: &str) -> Option<Bytes> {
    let txn = db.begin(BeginOptions { as_of: Some(at), ..BeginOptions::default() });
    txn.get(&[bytes(key)], &[]).await.unwrap()[0].clone()
}

/// As of then, of this node's own replica: `None` if that has no answer.
async fn asked_of(node: &Node, at: Timestamp, key: &str) -> Option<Option<Bytes>> {
    let read = pb::Read { at: at.0, keys: vec![bytes(key)], ..pb::Read::default() };
    let body = Some(Ask::Read(read));
    let request =
        pb::Request { group: FIRST.0, timeout_ms: 1_000, past: true, body, ..pb::Request::default() };
    match node.server.handle(request).await.body.unwrap() {
        Answer::Values(found) => Some(found.values[0].value.clone()),
        Answer::Failure(failure) => {
            assert_eq!(failure.kind(), pb::FailureKind::FailureNotLeader, "{failure:?}");
            None
        }
        other => panic!("{other:?}"),
    }
}

fn shard(node: &Node, group: GroupId) -> Arc<Shard> {
    node.server.registry().get(group).unwrap()
}

/// Until every replica has closed it.
async fn until_closed(cluster: &TestCluster, group: GroupId, at: Timestamp) {
    cluster
        .eventually("it is closed", || cluster.nodes.iter().all(|node| shard(node, group).closed() >= at))
        .await;
}

async fn closing(nodes: u64) -> TestCluster {
    let cluster = TestCluster::start(nodes).await;
    cluster.meta.closed_behind.store(1, Ordering::SeqCst);
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_closed_is_answered_by_every_replica_and_by_the_last_one_left() {
    let cluster = closing(3).await;
    let db = cluster.database(0);
    let first = set(&*db, "a", Some("1")).await;
    let second = set(&*db, "a", Some("2")).await;
    // Nothing else is written: the leader has a last word all the same.
    until_closed(&cluster, FIRST, second).await;
    for node in &cluster.nodes {
        assert_eq!(asked_of(node, first, "a").await, Some(Some(bytes("1"))), "{}", node.id);
        assert_eq!(asked_of(node, second, "a").await, Some(Some(bytes("2"))), "{}", node.id);
        assert_eq!(asked_of(node, second, "b").await, Some(None), "{}", node.id);
        assert_eq!(asked_of(node, Timestamp(first.0 - 1), "a").await, Some(None), "{}", node.id);
        // What is still to come it leaves to the leader, the leader's own replica included.
        let later = Timestamp(second.0 + 1_000_000);
        assert_eq!(asked_of(node, later, "a").await, None, "{}", node.id);
    }

    for gone in &cluster.nodes[..2] {
        gone.multi.shutdown().await;
    }
    let last = cluster.database(2);
    assert_eq!(value_at(&*last, first, "a").await, Some(bytes("1")));
    let txn = last.begin(BeginOptions { as_of: Some(second), ..BeginOptions::default() });
    let request = ScanRequest { range: KeyRange::all(), reverse: false, rows_max: 10 };
    let page = txn.scan(request, &[]).await.unwrap();
    assert_eq!(page.rows, [(bytes("a"), bytes("2"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_nobody_writes_or_reads_closes_nothing() {
    let cluster = closing(1).await;
    let db = cluster.database(0);
    let written = set(&*db, "a", Some("1")).await;
    until_closed(&cluster, FIRST, written).await;
    let group = cluster.nodes[0].multi.group(FIRST).unwrap();
    cluster.seams.sleep(Duration::from_millis(500)).await;
    let (closed, last) = (shard(&cluster.nodes[0], FIRST).closed(), group.status().last);
    for _ in 0..20 {
        db.timestamp().await.unwrap();
    }
    cluster.seams.sleep(Duration::from_millis(700)).await;
    assert_eq!((shard(&cluster.nodes[0], FIRST).closed(), group.status().last), (closed, last));

    // Somebody reads what is not closed yet: from then on it goes on.
    let now = db.timestamp().await.unwrap();
    assert_eq!(value_at(&*db, now, "a").await, Some(bytes("1")));
    until_closed(&cluster, FIRST, now).await;
}

/// What replicas say while somebody writes is what was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_say_what_was_there_while_it_changes() {
    let cluster = Arc::new(closing(3).await);
    let writer = cluster.clone();
    let enough = Arc::new(AtomicBool::new(false));
    let goes_on = enough.clone();
    let written = tokio::spawn(async move {
        let db = writer.database(0);
        let mut history = BTreeMap::from([(Timestamp(0), None)]);
        for round in 0..ROUNDS_MAX {
            if goes_on.load(Ordering::SeqCst) {
                break;
            }
            let value = round.to_string();
            history.insert(set(&*db, "a", Some(&value)).await, Some(bytes(&value)));
        }
        history
    });
    let mut seen = Vec::new();
    let mut turn = 0_u64;
    while !written.is_finished() {
        turn += 1;
        let node = &cluster.nodes[turn as usize % 3];
        let closed = shard(node, FIRST).closed();
        let at = Timestamp(closed.0.saturating_sub(turn * 7 % 40));
        if at > Timestamp(1 << 30)
            && let Some(value) = asked_of(node, at, "a").await
        {
            seen.push((node.id, at, value));
            enough.store(seen.len() >= 100, Ordering::SeqCst);
        }
        cluster.seams.sleep(Duration::from_millis(2)).await;
    }
    let history = written.await.unwrap();
    assert!(seen.len() >= 100, "{} answers", seen.len());
    for (node, at, value) in seen {
        let (_, expected) = history.range(..=at).next_back().unwrap();
        assert_eq!(&value, expected, "{node} at {at:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_that_may_have_been_committed_is_left_to_the_leader() {
    let cluster = closing(3).await;
    let db = cluster.database(0);
    let before = set(&*db, "a", Some("1")).await;
    let started = db.timestamp().await.unwrap();
    let leader = cluster.nodes.iter().find(|node| node.leads().is_some()).unwrap();
    let answer = leader.server.handle(request(orphan_prewrite("a", "2", started))).await;
    assert!(matches!(answer.body, Some(Answer::Done(_))), "{answer:?}");
    let after = db.timestamp().await.unwrap();
    until_closed(&cluster, FIRST, after).await;
    for node in &cluster.nodes {
        // It commits above the timestamp at which it began …
        assert_eq!(asked_of(node, before, "a").await, Some(Some(bytes("1"))), "{}", node.id);
        // … but that is all that can be told here.
        assert_eq!(asked_of(node, after, "a").await, None, "{}", node.id);
    }
    // Its coordinator is nobody: the leader finds out, and the rest is as ever.
    assert_eq!(value_at(&*cluster.database(1), after, "a").await, Some(bytes("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_a_split_inherit_what_is_closed() {
    let cluster = closing(3).await;
    let db = cluster.database(0);
    set(&*db, "a", Some("1")).await;
    let written = set(&*db, "z", Some("1")).await;
    until_closed(&cluster, FIRST, written).await;
    db.split(&[bytes("m")], false).await.unwrap();
    let child = db.shards(&KeyRange::all()).await.unwrap()[1].group;
    cluster
        .eventually("the child is everywhere", || {
            cluster.nodes.iter().all(|node| node.server.registry().get(child).is_some())
        })
        .await;
    for node in &cluster.nodes {
        assert!(shard(node, child).closed() >= written, "{}", node.id);
        assert_eq!(asked_of(node, written, "z").await, None, "not the parent's any more: {}", node.id);
    }
    // (`asked_of` asks the parent; the gateway finds the child.)
    assert_eq!(value_at(&*cluster.database(2), written, "z").await, Some(bytes("1")));
}

/// Two replicas at rest are a majority: they need neither the home, nor to wake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_at_rest_is_closed_by_a_majority_that_has_elected_nobody() {
    let rest_after = Duration::from_secs(1);
    let cluster = TestCluster::start_resting(3, CoordinatorOptions::default(), rest_after).await;
    cluster.meta.closed_behind.store(1, Ordering::SeqCst);
    let db = cluster.database(0);
    set(&*db, "a", Some("1")).await;
    cluster
        .eventually("it rests", || cluster.nodes.iter().all(|node| node.multi.group(FIRST).unwrap().rests()))
        .await;
    let now = db.timestamp().await.unwrap();
    assert!(shard(&cluster.nodes[1], FIRST).closed() < now, "nobody has closed that");
    for node in &cluster.nodes {
        assert_eq!(asked_of(node, now, "a").await, Some(Some(bytes("1"))), "{}", node.id);
        assert!(node.multi.group(FIRST).unwrap().rests(), "{} was woken", node.id);
    }
    // Written again: what was found at rest stays true, and what comes is not covered by it.
    let later = set(&*db, "a", Some("2")).await;
    for node in &cluster.nodes {
        assert_eq!(asked_of(node, now, "a").await, Some(Some(bytes("1"))), "{}", node.id);
        let seen = asked_of(node, later, "a").await;
        assert!(seen.is_none() || seen == Some(Some(bytes("2"))), "{}: {seen:?}", node.id);
    }
}
