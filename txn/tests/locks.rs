//! Row locks against real shards.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{TestCluster, bytes};
use txn::api::{BeginOptions, Database, Expect, LockWait, LockedRow, Locking, Transaction, Write};
use txn::{Error, LockMode};

const UPDATE: Locking = Locking { mode: LockMode::NoKeyUpdate, wait: LockWait::For(None) };

fn begin(db: &Arc<dyn Database>) -> Arc<dyn Transaction> {
    db.begin(BeginOptions::default())
}

async fn put(txn: &Arc<dyn Transaction>, key: &str, value: u64) {
    let write = Write { key: bytes(key), value: Some(bytes(value.to_string())), expect: Expect::Any };
    txn.write(vec![write], &[]).await.unwrap();
}

/// Locks one row and reads it.
async fn lock(txn: &Arc<dyn Transaction>, key: &str) -> Result<u64, Error> {
    let rows = txn.lock(&[bytes(key)], UPDATE, &[]).await?;
    Ok(number(rows.into_iter().next().and_then(LockedRow::value)))
}

fn number(value: Option<bytes::Bytes>) -> u64 {
    value.map_or(0, |value| String::from_utf8(value.to_vec()).unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_queues_for_a_row_never_conflicts() {
    let cluster = TestCluster::start(3).await;
    let db = cluster.database(0);
    // In one shard and, with a second row elsewhere, over two.
    for rows in [vec!["hot"], vec!["hot", "z"]] {
        if rows.len() > 1 {
            db.split(&[bytes("m")], false).await.unwrap();
        }
        let rows = Arc::new(rows);
        let before = number(db.get_latest(&[bytes("hot")], &[]).await.unwrap().remove(0));
        let tasks: Vec<_> = (0..9)
            .map(|n| {
                let (db, rows) = (cluster.database(n % 3), rows.clone());
                #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
                tokio::spawn(async move {
                    for _ in 0..10 {
                        let txn = begin(&db);
                        for row in rows.iter() {
                            let value = lock(&txn, row).await.unwrap();
                            let again = txn.get(&[bytes(row)], &[]).await.unwrap().remove(0);
                            assert_eq!(number(again), value, "a locked row is read as it was locked");
                            put(&txn, row, value + 1).await;
                        }
                        txn.commit().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let after = number(db.get_latest(&[bytes("hot")], &[]).await.unwrap().remove(0));
        assert_eq!(after - before, 90);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_moves_with_the_lock_where_it_can() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let (first, second, third) = (begin(&db), begin(&db), begin(&db));
    second.get(&[bytes("other")], &[]).await.unwrap();
    third.get(&[bytes("row")], &[]).await.unwrap();
    third.begin_statement();
    lock(&first, "row").await.unwrap();
    put(&first, "row", 7).await;
    first.commit().await.unwrap();
    // What it has read is as it was: the snapshot moves.
    assert_eq!(lock(&second, "row").await.unwrap(), 7);
    put(&second, "row", 8).await;
    second.commit().await.unwrap();
    // It has read the row before: the client may have seen it.
    assert!(matches!(lock(&third, "row").await, Err(Error::Conflict { .. })));
    assert!(!third.retry_statement(0).await.unwrap());
    third.rollback().await;

    // What only the statement has read is read again.
    let fourth = begin(&db);
    fourth.get(&[bytes("other")], &[]).await.unwrap();
    let mark = fourth.savepoint();
    fourth.begin_statement();
    fourth.get(&[bytes("row")], &[]).await.unwrap();
    let fifth = begin(&db);
    lock(&fifth, "row").await.unwrap();
    put(&fifth, "row", 9).await;
    fifth.commit().await.unwrap();
    assert!(matches!(lock(&fourth, "row").await, Err(Error::Conflict { .. })));
    assert!(fourth.retry_statement(mark).await.unwrap());
    assert_eq!(lock(&fourth, "row").await.unwrap(), 9);
    put(&fourth, "row", 10).await;
    fourth.commit().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_bounded_as_the_caller_wants() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let holder = begin(&db);
    lock(&holder, "a").await.unwrap();
    let other = begin(&db);
    let ask = |wait| {
        let other = other.clone();
        async move {
            let how = Locking { mode: LockMode::Share, wait };
            other.lock(&[bytes("a"), bytes("b")], how, &[]).await
        }
    };
    assert!(matches!(ask(LockWait::Never).await, Err(Error::Locked { timed_out: false, .. })));
    assert_eq!(ask(LockWait::Skip).await.unwrap(), [LockedRow::Skipped, LockedRow::Held(None)]);
    let limit = LockWait::For(Some(Duration::from_millis(50)));
    assert!(matches!(ask(limit).await, Err(Error::Locked { timed_out: true, .. })));
    holder.rollback().await;
    assert_eq!(ask(LockWait::For(None)).await.unwrap(), [LockedRow::Held(None), LockedRow::Held(None)]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_kept_for_as_long_as_its_gateway_lives() {
    let cluster = TestCluster::start(3).await;
    let db = cluster.database(1);
    let holder = begin(&db);
    lock(&holder, "a").await.unwrap();
    let (other, how) = (begin(&db), Locking { mode: LockMode::Update, wait: LockWait::Never });
    cluster.seams.sleep(Duration::from_secs(3)).await;
    assert!(matches!(other.lock(&[bytes("a")], how, &[]).await, Err(Error::Locked { .. })));
    // Dropped without a word.
    drop(holder);
    lock(&other, "a").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_free_when_the_end_of_their_transaction_is_known() {
    let cluster = TestCluster::start(3).await;
    let db = cluster.database(1);
    db.split(&[bytes("m")], false).await.unwrap();
    let nowait = Locking { mode: LockMode::Update, wait: LockWait::Never };
    for round in 0..12 {
        let (first, second) = (begin(&db), begin(&cluster.database(2)));
        first.lock(&[bytes("a"), bytes("z")], UPDATE, &[]).await.unwrap();
        // (After a commit over several shards the locks go in the background, behind the intents.)
        if round % 2 == 0 {
            first.commit().await.unwrap();
        } else {
            first.rollback().await;
        }
        second.lock(&[bytes("a"), bytes("z")], nowait, &[]).await.unwrap();
        second.rollback().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_names_who_has_written() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    db.split(&[bytes("m")], false).await.unwrap();
    for keys in [vec!["a"], vec!["a", "z"]] {
        // Found by a commit in one shard, and where it lays its intents.
        for own in [vec!["b"], vec!["a", "y"]] {
            let (reader, writer) = (begin(&db), begin(&db));
            reader.get(&[bytes("a")], &[]).await.unwrap();
            for key in &keys {
                put(&writer, key, 1).await;
            }
            writer.commit().await.unwrap();
            for key in own {
                put(&reader, key, 2).await;
            }
            match reader.commit().await {
                Err(Error::Conflict { rival, .. }) => assert_eq!(rival, Some(writer.id())),
                other => panic!("{other:?}"),
            }
        }
        let snapshot =
            db.begin(BeginOptions { isolation: txn::api::Isolation::Snapshot, ..BeginOptions::default() });
        snapshot.get(&[bytes("b")], &[]).await.unwrap();
        let writer = begin(&db);
        for key in &keys {
            put(&writer, key, 3).await;
        }
        writer.commit().await.unwrap();
        match snapshot.lock(&[bytes("a")], UPDATE, &[]).await {
            Err(Error::Changed { rival, .. }) => assert_eq!(rival, Some(writer.id())),
            other => panic!("{other:?}"),
        }
        snapshot.rollback().await;
    }
    cluster.stop().await;
}

/// A row that was written without a lock, by a large transaction that has sent it early, is a locked row for whoever wants no wait,
/// or only a short one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_without_a_lock_is_as_good_as_one() {
    let options = txn::CoordinatorOptions { flush_bytes: 1_000, ..Default::default() };
    let cluster = TestCluster::start_with(1, options).await;
    let db = cluster.database(0);
    let large = begin(&db);
    for n in 0..500 {
        put(&large, &format!("k{n:04}"), 1).await;
    }
    // One batch of early intents is on its way at most: the first, with k0000, has arrived before the second was sent.
    for wait in [LockWait::Never, LockWait::For(Some(Duration::from_millis(30)))] {
        let other = begin(&db);
        let how = Locking { mode: LockMode::Update, wait };
        match other.lock(&[bytes("k0000")], how, &[]).await {
            Err(Error::Locked { timed_out, .. }) => assert_eq!(timed_out, wait != LockWait::Never),
            locked => panic!("{locked:?}"),
        }
        other.rollback().await;
    }
    large.rollback().await;
    cluster.stop().await;
}
