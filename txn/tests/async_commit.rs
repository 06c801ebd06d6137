//! Commits over several shards that are answered after one round: whoever meets their intents finds out what became of them.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{TestCluster, bytes, start_node};
use proto::shard as pb;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::ids::{NodeId, TxnId};
use txn::api::{BeginOptions, Database, Expect, Fence, Isolation, LockWait, Locking, Write};
use txn::{CoordinatorOptions, Directory, Error, LockMode};

fn put(key: &str, value: u64) -> Write {
    Write { key: bytes(key), value: Some(bytes(value.to_string())), expect: Expect::Any }
}

fn pair() -> [Bytes; 2] {
    [bytes("a"), bytes("z")]
}

async fn two_shards(nodes: u64) -> TestCluster {
    two_shards_with(nodes, CoordinatorOptions::default()).await
}

async fn two_shards_with(nodes: u64, options: CoordinatorOptions) -> TestCluster {
    let cluster = TestCluster::start_with(nodes, options).await;
    cluster.meta.asynchronous.store(true, Ordering::SeqCst);
    cluster.database(0).split(&[bytes("m")], false).await.unwrap();
    cluster
}

/// Raises both of the pair by one.
async fn raise(db: &dyn Database) -> Result<u64, Error> {
    let txn = db.begin(BeginOptions::default());
    let found = txn.get(&pair(), &[]).await?;
    let values: Vec<u64> = found
        .iter()
        .map(|v| v.as_ref().map_or(0, |v| std::str::from_utf8(v).unwrap().parse().unwrap()))
        .collect();
    assert_eq!(values[0], values[1], "half a transaction");
    txn.write(vec![put("a", values[0] + 1), put("z", values[0] + 1)], &[]).await?;
    txn.commit().await?;
    Ok(values[0] + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_found_in_one_round_too() {
    let cluster = two_shards(1).await;
    let db = cluster.database(0);
    assert_eq!(raise(&*db).await.unwrap(), 1);
    assert_eq!(raise(&*db).await.unwrap(), 2);
    // Two that have read the same: the second one's prewrite finds a newer version.
    for isolation in [Isolation::Serializable, Isolation::Snapshot] {
        let options = BeginOptions { isolation, ..BeginOptions::default() };
        let late = db.begin(options);
        late.get(&pair(), &[]).await.unwrap();
        raise(&*db).await.unwrap();
        late.write(vec![put("a", 7), put("z", 7)], &[]).await.unwrap();
        assert!(matches!(late.commit().await, Err(Error::Conflict { .. })));
    }
    // And of two inserts one.
    let insert = |value| [put("b", value), put("y", value)].map(|w| Write { expect: Expect::Absent, ..w });
    let (first, second) = (db.begin(BeginOptions::default()), db.begin(BeginOptions::default()));
    first.write(insert(1).into(), &[]).await.unwrap();
    second.write(insert(2).into(), &[]).await.unwrap();
    first.commit().await.unwrap();
    assert!(matches!(second.commit().await, Err(Error::AlreadyExists { .. })));
    assert_eq!(raise(&*db).await.unwrap(), 5);
}

/// A change of schema and a commit that was planned before it: one of them comes first, in all shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_schema_is_before_or_after() {
    let cluster = two_shards(1).await;
    let db = cluster.database(0);
    for round in 0..20_u64 {
        let fence = Fence { prefix: Bytes::new(), version: round };
        let writer = db.begin(BeginOptions::default());
        writer.write(vec![put("a", round), put("z", round)], std::slice::from_ref(&fence)).await.unwrap();
        let change = db.begin(BeginOptions::default());
        change.write_fence(Bytes::new(), Some(round + 1)).await.unwrap();
        let (written, changed) = tokio::join!(writer.commit(), change.commit());
        let changed = changed.unwrap();
        match written {
            Ok(at) => assert!(at < changed, "{at} of the old schema is after {changed}"),
            Err(error) => assert!(matches!(error, Error::FenceMismatch { .. }), "{error}"),
        }
    }
}

/// Gateways die at any moment of a commit; those who come after see all of it or nothing, and don't wait for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_dead_gateways_leave_behind_is_found_out() {
    let cluster = two_shards(3).await;
    let db = cluster.database(0);
    let mut rng = StdRng::seed_from_u64(11);
    let mut complete = 0;
    for round in 0..25_u64 {
        let (meta, seams) = (cluster.meta.clone(), cluster.seams.clone());
        let lives = Duration::from_micros(rng.random_range(0..60_000));
        let gateway = tokio::task::spawn_blocking(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let acknowledged = runtime.block_on(async {
                let id = NodeId(100 + round);
                let node = start_node(id, &meta, &seams, &CoordinatorOptions::default()).await;
                let db: Arc<dyn Database> = Arc::new(node.cluster.clone());
                // Routes are known, streams open.
                db.get_latest(&pair(), &[]).await.unwrap();
                let done = tokio::time::timeout(lives, raise(&*db)).await;
                // The process dies: nothing is said to anybody any more.
                std::mem::forget(node);
                matches!(done, Ok(Ok(_)))
            });
            runtime.shutdown_background();
            acknowledged
        });
        let before = raise(&*db).await;
        let acknowledged = gateway.await.unwrap();
        let after = loop {
            match raise(&*db).await {
                Ok(value) => break value,
                Err(error) => assert!(matches!(error, Error::Conflict { .. } | Error::Aborted(_)), "{error}"),
            }
        };
        if let (true, Ok(before)) = (acknowledged, before) {
            complete += 1;
            assert!(after >= before, "{after} after {before}");
        }
    }
    println!("{complete} of 25 gateways were answered");
}

/// What the sweep does after a minute.
async fn sweep(cluster: &TestCluster, key: &str, txn: TxnId) {
    let shard = cluster.meta.lookup(key.as_bytes()).await.unwrap();
    let forget = pb::Forget { txn: txn.0.to_be_bytes().to_vec().into(), primary: bytes(key) };
    let request = pb::Request {
        group: shard.group.0,
        epoch: shard.epoch.0,
        timeout_ms: 10_000,
        body: Some(pb::request::Body::Forget(forget)),
        ..pb::Request::default()
    };
    let answer = cluster.nodes[0].server.handle(request).await;
    assert!(matches!(answer.body, Some(pb::response::Body::Done(_))), "{answer:?}");
}

/// A prewrite waits for a lock. Meanwhile others end its transaction, and the records that say so are swept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_that_takes_long_does_not_go_by_old_answers() {
    let answers_hold = Duration::from_millis(300);
    let cluster = two_shards_with(1, CoordinatorOptions { answers_hold, ..Default::default() }).await;
    let db = cluster.database(0);
    let first = db.begin(BeginOptions::default());
    first.write(vec![put("z", 1)], &[]).await.unwrap();
    first.commit().await.unwrap();
    let holder = db.begin(BeginOptions::default());
    let how = Locking { mode: LockMode::Update, wait: LockWait::For(None) };
    holder.lock(&[bytes("z")], how, &[]).await.unwrap();
    holder.write(vec![Write { value: None, ..put("z", 0) }], &[]).await.unwrap();

    let late = db.begin(BeginOptions::default());
    let insert = [put("a", 7), put("z", 7)].map(|write| Write { expect: Expect::Absent, ..write });
    late.write(insert.into(), &[]).await.unwrap();
    let committing = late.clone();
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    let committing = tokio::spawn(async move { committing.commit().await });
    cluster.seams.sleep(Duration::from_millis(500)).await;
    // One of its intents lies, the other one waits: whoever reads the first does not wait for the second.
    assert_eq!(db.get_latest(&[bytes("a")], &[]).await.unwrap(), [None]);
    assert!(!committing.is_finished());
    for key in ["a", "z"] {
        sweep(&cluster, key, late.id()).await;
    }
    holder.commit().await.unwrap();
    let committed = committing.await.unwrap();
    assert!(matches!(committed, Err(Error::Aborted(_) | Error::Ambiguous(_))), "{committed:?}");
    assert_eq!(db.get_latest(&[bytes("a")], &[]).await.unwrap(), [None]);
    assert_eq!(db.get_latest(&[bytes("z")], &[]).await.unwrap(), [None]);
    cluster.stop().await;
}
