//! Tables that are locked for a change of schema, against real shards.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{TestCluster, bytes};
use storage::ids::KeyRange;
use txn::Error;
use txn::api::{BeginOptions, Database, Expect, Fence, LockWait, ScanRequest, Transaction, Write};

/// Changes of schema, each of which reads and writes all rows.
const CHANGES: u64 = 6;
/// Who writes meanwhile.
const WRITERS: u64 = 4;
/// How often a change is tried: a lock may be lost, but not each time.
const ATTEMPTS_MAX: usize = 5;

fn fence(version: u64) -> Fence {
    Fence { prefix: bytes("t/"), version }
}

fn put(key: Bytes, version: u64) -> Write {
    Write { key, value: Some(bytes(version.to_string())), expect: Expect::Any }
}

/// All rows of the table.
async fn rows(txn: &dyn Transaction, fences: &[Fence]) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let mut found = Vec::new();
    let mut rest = Some(KeyRange::new("t/a", "t0"));
    while let Some(range) = rest {
        let page = txn.scan(ScanRequest { range, reverse: false, rows_max: 100 }, fences).await?;
        found.extend(page.rows);
        rest = page.rest;
    }
    Ok(found)
}

/// Brings all rows to the next version, as a column is filled.
async fn change(db: &Arc<dyn Database>, version: u64) -> Result<(), Error> {
    let txn = db.begin(BeginOptions::default());
    txn.lock_table(&fence(version), LockWait::For(None)).await?;
    let fences = [fence(version)];
    let found = rows(&*txn, &fences).await?;
    let writes = found.into_iter().map(|(key, _)| put(key, version + 1)).collect();
    txn.write(writes, &fences).await?;
    txn.write_fence(bytes("t/"), Some(version + 1)).await?;
    txn.commit().await.map(|_| ())
}

/// Writes pairs of rows, of the version that the table has just then, until it is told to stop. Returns what was acknowledged.
async fn write(
    db: Arc<dyn Database>,
    writer: u64,
    version: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Vec<Bytes> {
    let mut acknowledged = Vec::new();
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let now = version.load(Ordering::SeqCst);
        let pair = ["a", "z"].map(|half| bytes(format!("t/{half}{writer:02}{n:08}")));
        let txn = db.begin(BeginOptions::default());
        txn.write(pair.iter().map(|key| put(key.clone(), now)).collect(), &[fence(now)]).await.unwrap();
        match txn.commit().await {
            Ok(_) => acknowledged.extend(pair),
            Err(Error::FenceMismatch { .. } | Error::Conflict { .. } | Error::Aborted(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_reads_all_rows_comes_to_its_end_under_load() {
    for (split, asynchronous) in [(false, false), (true, false), (true, true)] {
        let cluster = TestCluster::start(3).await;
        cluster.meta.asynchronous.store(asynchronous, Ordering::SeqCst);
        let db = cluster.database(0);
        let create = db.begin(BeginOptions::default());
        create.write_fence(bytes("t/"), Some(1)).await.unwrap();
        create.commit().await.unwrap();
        if split {
            db.split(&[bytes("t/m")], false).await.unwrap();
        }
        let (version, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let writing = write(cluster.database(n as usize % 3), n, version.clone(), stop.clone());
                #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
                tokio::spawn(writing)
            })
            .collect();
        for from in 1..=CHANGES {
            // What is to be read, and to be in the way.
            cluster.seams.sleep(Duration::from_millis(200)).await;
            let mut refused = Vec::new();
            while let Err(error) = change(&db, from).await {
                refused.push(error.to_string());
                assert!(refused.len() < ATTEMPTS_MAX, "it was always refused: {refused:?}");
            }
            version.store(from + 1, Ordering::SeqCst);
        }
        stop.store(true, Ordering::SeqCst);
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        let last = (CHANGES + 1).to_string();
        let reader = db.begin(BeginOptions::default());
        let found = rows(&*reader, &[fence(CHANGES + 1)]).await.unwrap();
        let old: Vec<_> = found.iter().filter(|(_, value)| *value != last.as_bytes()).collect();
        assert!(old.is_empty(), "rows that no change has reached: {old:?}");
        let there: std::collections::BTreeSet<&Bytes> = found.iter().map(|(key, _)| key).collect();
        assert!(!acknowledged.is_empty(), "nobody wrote anything");
        assert!(acknowledged.iter().all(|key| there.contains(key)), "an acknowledged row is not there");
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_is_waited_for() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let create = db.begin(BeginOptions::default());
    create.write_fence(bytes("t/"), Some(1)).await.unwrap();
    create.write(vec![put(bytes("t/a"), 1), put(bytes("u/a"), 1)], &[fence(1)]).await.unwrap();
    create.commit().await.unwrap();
    let holder = db.begin(BeginOptions::default());
    holder.lock_table(&fence(1), LockWait::For(None)).await.unwrap();
    // Readers don't wait, nor do those who write elsewhere.
    db.get_latest(&[bytes("t/a")], &[fence(1)]).await.unwrap();
    let elsewhere = db.begin(BeginOptions::default());
    elsewhere.get(&[bytes("t/a")], &[fence(1)]).await.unwrap();
    elsewhere.write(vec![put(bytes("u/a"), 2)], &[]).await.unwrap();
    elsewhere.commit().await.unwrap();
    // Another change of the table waits as long as it wants to, and one that was planned before the last is told so.
    let other = db.begin(BeginOptions::default());
    let limit = LockWait::For(Some(Duration::from_millis(50)));
    let refused = other.lock_table(&fence(1), limit).await;
    assert!(matches!(refused, Err(Error::Locked { timed_out: true, .. })), "{refused:?}");
    other.rollback().await;
    // A write and a change that reads nothing wait until the lock is gone.
    let (write, rename) = (db.begin(BeginOptions::default()), db.begin(BeginOptions::default()));
    write.write(vec![put(bytes("t/a"), 3)], &[fence(1)]).await.unwrap();
    rename.write_fence(bytes("t/"), Some(2)).await.unwrap();
    let (write, rename) = (write.commit(), rename.commit());
    tokio::pin!(write, rename);
    tokio::select! {
        written = &mut write => panic!("a locked table was written: {written:?}"),
        renamed = &mut rename => panic!("a locked table was changed: {renamed:?}"),
        () = cluster.seams.sleep(Duration::from_millis(500)) => {}
    }
    holder.rollback().await;
    let (written, renamed) = tokio::join!(write, rename);
    renamed.unwrap();
    assert!(matches!(written, Ok(_) | Err(Error::FenceMismatch { .. })), "{written:?}");
    let stale = db.begin(BeginOptions::default()).lock_table(&fence(1), LockWait::For(None)).await;
    assert!(matches!(stale, Err(Error::FenceMismatch { .. })), "{stale:?}");
    cluster.stop().await;
}
