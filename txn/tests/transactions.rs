//! Transactions against real shards.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{TestCluster, bytes};
use storage::ids::KeyRange;
use txn::api::{BeginOptions, Database, Expect, Fence, Isolation, ScanRequest, Transaction, Write};
use txn::{CoordinatorOptions, Error};

fn put(key: &str, value: &str) -> Write {
    Write { key: bytes(key), value: Some(bytes(value)), expect: Expect::Any }
}

fn insert(key: &str, value: &str) -> Write {
    Write { expect: Expect::Absent, ..put(key, value) }
}

async fn commit(db: &dyn Database, writes: Vec<Write>) -> Result<(), Error> {
    let txn = db.begin(BeginOptions::default());
    txn.write(writes, &[]).await?;
    txn.commit().await.map(|_| ())
}

async fn latest(db: &dyn Database, key: &str) -> Option<String> {
    let value = db.get_latest(&[bytes(key)], &[]).await.unwrap().remove(0);
    value.map(|v| String::from_utf8(v.to_vec()).unwrap())
}

async fn scan_all(txn: &dyn Transaction, range: KeyRange, reverse: bool, rows_max: usize) -> String {
    let mut rows = Vec::new();
    let mut left = Some(range);
    while let Some(range) = left {
        let page = txn.scan(ScanRequest { range, reverse, rows_max }, &[]).await.unwrap();
        assert!(page.rows.len() <= rows_max);
        rows.extend(page.rows.into_iter().map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii())));
        left = page.rest;
    }
    rows.join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shard_then_two() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let db = &*db;

    commit(db, vec![insert("a", "1"), insert("m", "1"), insert("z", "1")]).await.unwrap();
    assert_eq!(latest(db, "a").await.as_deref(), Some("1"));
    assert!(matches!(commit(db, vec![insert("a", "2")]).await, Err(Error::AlreadyExists { .. })));

    // Two writers of one row that both have read it.
    for split in [false, true] {
        if split {
            db.split(&[bytes("m")], false).await.unwrap();
            assert_eq!(db.shards(&KeyRange::all()).await.unwrap().len(), 2);
        }
        for isolation in [Isolation::Serializable, Isolation::Snapshot] {
            let options = BeginOptions { isolation, ..BeginOptions::default() };
            let (first, second) = (db.begin(options.clone()), db.begin(options));
            first.get(&[bytes("a"), bytes("z")], &[]).await.unwrap();
            second.get(&[bytes("a")], &[]).await.unwrap();
            first.write(vec![put("a", "f"), put("z", "f")], &[]).await.unwrap();
            second.write(vec![put("a", "s")], &[]).await.unwrap();
            first.commit().await.unwrap();
            assert!(
                matches!(second.commit().await, Err(Error::Conflict { .. })),
                "{isolation:?}, split: {split}"
            );
            assert_eq!(latest(db, "a").await.as_deref(), Some("f"));
        }
    }

    // Write skew: refused when serializable, over two shards.
    let (first, second) = (db.begin(BeginOptions::default()), db.begin(BeginOptions::default()));
    for txn in [&first, &second] {
        txn.get(&[bytes("a"), bytes("z")], &[]).await.unwrap();
    }
    first.write(vec![put("a", "skew")], &[]).await.unwrap();
    second.write(vec![put("z", "skew")], &[]).await.unwrap();
    first.commit().await.unwrap();
    assert!(matches!(second.commit().await, Err(Error::Conflict { .. })));

    // A snapshot stays what it was; own writes are seen; pages merge both, from either end.
    let txn = db.begin(BeginOptions::default());
    assert_eq!(scan_all(&*txn, KeyRange::all(), false, 10).await, "a=skew m=1 z=f");
    commit(db, vec![put("b", "later"), put("y", "later")]).await.unwrap();
    txn.write(vec![put("c", "own"), Write { key: bytes("m"), value: None, expect: Expect::Any }], &[])
        .await
        .unwrap();
    for rows_max in [1, 2, 10] {
        assert_eq!(scan_all(&*txn, KeyRange::all(), false, rows_max).await, "a=skew c=own z=f");
        assert_eq!(scan_all(&*txn, KeyRange::all(), true, rows_max).await, "z=f c=own a=skew");
    }
    assert!(!txn.refresh().await.unwrap(), "it has read where others have written");
    assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transaction_is_sent_early_and_reads_itself() {
    let options = CoordinatorOptions { flush_bytes: 20_000, ..CoordinatorOptions::default() };
    let cluster = TestCluster::start_with(1, options).await;
    let db = cluster.database(0);
    db.split(&[bytes("k0500")], false).await.unwrap();
    commit(&*db, vec![put("k0007x", "old")]).await.unwrap();
    let rolled_back = db.begin(BeginOptions::default());
    let txn = db.begin(BeginOptions::default());
    for batch in 0..10 {
        for txn in [&rolled_back, &txn] {
            let prefix = if std::ptr::eq(txn, &rolled_back) { "r" } else { "k" };
            let writes = (0..100).map(|i| insert(&format!("{prefix}{:04}", batch * 100 + i), "v")).collect();
            txn.write(writes, &[]).await.unwrap();
        }
        let found = txn
            .get(&[bytes("k0003"), bytes(format!("k{:04}", batch * 100)), bytes("k9")], &[])
            .await
            .unwrap();
        assert_eq!(found, vec![Some(Bytes::from("v")), Some(Bytes::from("v")), None]);
    }
    rolled_back.rollback().await;
    let range = KeyRange::prefix(b"k");
    let all = scan_all(&*txn, range.clone(), false, 64).await;
    assert_eq!(all.split(' ').count(), 1001);
    // Others don't see it, and don't wait.
    assert_eq!(scan_all(&*db.begin(BeginOptions::default()), KeyRange::all(), false, 64).await, "k0007x=old");
    assert!(matches!(commit(&*db, vec![put("k0001", "x")]).await, Err(Error::Conflict { .. })));
    txn.commit().await.unwrap();
    let reader = db.begin(BeginOptions::default());
    assert_eq!(scan_all(&*reader, KeyRange::all(), false, 64).await, all);
    let mut reversed: Vec<_> = all.split(' ').collect();
    reversed.reverse();
    assert_eq!(scan_all(&*reader, KeyRange::all(), true, 64).await, reversed.join(" "));
    db.clear_range(&range).await.unwrap();
    assert_eq!(scan_all(&*db.begin(BeginOptions::default()), KeyRange::all(), false, 64).await, "");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_guard_a_table_in_all_its_shards() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let fence = |version| [Fence { prefix: bytes("t/"), version }];
    let create = db.begin(BeginOptions::default());
    create.write_fence(bytes("t/"), Some(1)).await.unwrap();
    create.write(vec![put("t/a", "1"), put("t/z", "1")], &fence(1)).await.unwrap();
    create.commit().await.unwrap();
    for split in [false, true] {
        if split {
            db.split(&[bytes("t/m")], false).await.unwrap();
        }
        let version = 1 + u64::from(split);
        let keys = [bytes("t/a"), bytes("t/z")];
        db.get_latest(&keys, &fence(version)).await.unwrap();
        let stale = db.begin(BeginOptions::default());
        stale.get(&keys, &fence(version)).await.unwrap();
        stale.write(vec![put("t/n", "stale")], &fence(version)).await.unwrap();
        let alter = db.begin(BeginOptions::default());
        alter.write(vec![put("catalog", "2")], &[]).await.unwrap();
        alter.write_fence(bytes("t/"), Some(version + 1)).await.unwrap();
        alter.commit().await.unwrap();
        assert!(matches!(stale.commit().await, Err(Error::FenceMismatch { .. })), "split: {split}");
        for key in keys {
            let result = db.get_latest(std::slice::from_ref(&key), &fence(version)).await;
            assert!(matches!(result, Err(Error::FenceMismatch { .. })));
            db.get_latest(&[key], &fence(version + 1)).await.unwrap();
        }
        let reader = db.begin(BeginOptions::default());
        assert_eq!(scan_all(&*reader, KeyRange::new("t/a", "t0"), false, 10).await, "t/a=1 t/z=1");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_transaction_is_ended_by_whoever_meets_it() {
    let options = CoordinatorOptions {
        flush_bytes: 1,
        heartbeat: std::time::Duration::from_secs(3600),
        conflict_wait: std::time::Duration::from_secs(9),
        ..CoordinatorOptions::default()
    };
    let cluster = TestCluster::start_with(1, options).await;
    let db = cluster.database(0);
    commit(&*db, vec![put("a", "before"), put("z", "before")]).await.unwrap();
    db.split(&[bytes("m")], false).await.unwrap();
    // Older than who will meet it: that one may not end it while it seems alive.
    let silent = db.begin(BeginOptions::default());
    silent.read_timestamp().await.unwrap();
    silent.write(vec![put("z", "silent"), put("a", "silent")], &[]).await.unwrap();
    // Sent when the first ones have arrived.
    silent.write(vec![put("y", "silent")], &[]).await.unwrap();
    let reader = db.begin(BeginOptions::default());
    assert_eq!(scan_all(&*reader, KeyRange::all(), false, 9).await, "a=before z=before");
    commit(&*db, vec![put("a", "after"), put("z", "after")]).await.unwrap();
    assert!(matches!(silent.commit().await, Err(Error::Aborted(_))));
    assert_eq!(latest(&*db, "a").await.as_deref(), Some("after"));
    assert_eq!(latest(&*db, "z").await.as_deref(), Some("after"));
    cluster.stop().await;
}

/// A table's old keys are cleared while its new ones, and its fence, lie in shards that begin among the old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_spares_what_goes_on() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let fence = |version| [Fence { prefix: bytes("t/"), version }];
    let create = db.begin(BeginOptions::default());
    create.write_fence(bytes("t/"), Some(1)).await.unwrap();
    let old: Vec<Write> = (0..100).map(|i| put(&format!("t/1/{i:03}"), "old")).collect();
    create.write(old, &[]).await.unwrap();
    create.write(vec![put("s/before", "1"), put("u/after", "1")], &[]).await.unwrap();
    create.commit().await.unwrap();
    db.split(&[bytes("t/1/020"), bytes("t/1/050")], false).await.unwrap();
    // Somebody writes to the old keys, and to others, over several shards, before they are given up …
    let slow = db.begin(BeginOptions::default());
    slow.get(&[bytes("t/1/001")], &fence(1)).await.unwrap();
    slow.write(vec![put("t/1/001", "slow"), put("t/1/060", "slow")], &fence(1)).await.unwrap();
    let truncate = db.begin(BeginOptions::default());
    truncate.write_fence(bytes("t/"), Some(2)).await.unwrap();
    truncate.write(vec![put("t/2/a", "new"), put("t/2/b", "new")], &[]).await.unwrap();
    truncate.commit().await.unwrap();
    // … and a split comes at the same time, several times over, as does another sweeper.
    let range = KeyRange::prefix(b"t/1/");
    let points = [bytes("t/1/030"), bytes("t/1/080"), bytes("t/1/010")];
    let (one, other, split) =
        tokio::join!(db.clear_range(&range), db.clear_range(&range), db.split(&points, false));
    one.unwrap();
    other.unwrap();
    split.unwrap();
    db.clear_range(&range).await.unwrap();
    assert!(slow.commit().await.is_err(), "the fence has changed");
    let now = db.begin(BeginOptions::default());
    assert_eq!(scan_all(&*now, range.clone(), false, 10).await, "");
    let keys = [bytes("t/2/a"), bytes("t/2/b"), bytes("s/before"), bytes("u/after")];
    assert!(db.get_latest(&keys, &[]).await.unwrap().iter().all(Option::is_some));
    // Each shard still knows the table's version: it serves the new one, and refuses the old one.
    for key in ["t/1/005", "t/1/015", "t/1/025", "t/1/040", "t/1/060", "t/1/090", "t/2/a"].map(bytes) {
        let key = std::slice::from_ref(&key);
        db.get_latest(key, &fence(2)).await.unwrap();
        let result = db.get_latest(key, &fence(1)).await;
        assert!(matches!(result, Err(Error::FenceMismatch { .. })), "{key:?}");
    }
    let writer = db.begin(BeginOptions::default());
    writer.write(vec![put("t/2/c", "later"), put("t/1/070", "later")], &fence(2)).await.unwrap();
    writer.commit().await.unwrap();
    // A transaction whose primary lies in a range that is cleared is found committed by its other keys.
    let wide = db.begin(BeginOptions::default());
    wide.write(vec![put("a/primary", "1"), put("t/1/001", "1"), put("u/after", "2"), put("z", "2")], &[])
        .await
        .unwrap();
    wide.commit().await.unwrap();
    db.clear_range(&KeyRange::prefix(b"a/")).await.unwrap();
    db.clear_range(&range).await.unwrap();
    assert_eq!(latest(&*db, "u/after").await.as_deref(), Some("2"));
    assert_eq!(latest(&*db, "z").await.as_deref(), Some("2"));
    cluster.stop().await;
}
