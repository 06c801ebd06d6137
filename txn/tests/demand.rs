//! Rows that must stand at the commit, and looks at the latest that the commit validates: what foreign keys are made of.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{TestCluster, bytes};
use txn::api::{
    BeginOptions, Database, Expect, Isolation, LockWait, Locking, ScanRequest, Transaction, Write,
};
use txn::ids::KeyRange;
use txn::{Error, LockMode};

const LEVELS: [Isolation; 3] = [Isolation::Serializable, Isolation::Snapshot, Isolation::ReadCommitted];
const KEY_SHARE: Locking = Locking { mode: LockMode::KeyShare, wait: LockWait::For(None) };

/// A transaction, and how its statements see it.
fn begin(db: &Arc<dyn Database>, isolation: Isolation) -> (Arc<dyn Transaction>, Arc<dyn Transaction>) {
    let txn = db.begin(BeginOptions { isolation, ..BeginOptions::default() });
    let statement = txn.statement(false).unwrap_or_else(|| txn.clone());
    (txn, statement)
}

async fn write(txn: &Arc<dyn Transaction>, key: &str, value: Option<&str>) {
    let write = Write { key: bytes(key), value: value.map(bytes), expect: Expect::Any };
    txn.write(vec![write], &[]).await.unwrap();
}

async fn alone(db: &Arc<dyn Database>, key: &str, value: Option<&str>) {
    let txn = db.begin(BeginOptions::default());
    write(&txn, key, value).await;
    txn.commit().await.unwrap();
}

async fn demand(txn: &Arc<dyn Transaction>, key: &str) -> bool {
    txn.demand(&[bytes(key)], KEY_SHARE, &[]).await.unwrap()[0]
}

/// The parent beside the child in one shard, and in another one.
const PLACES: [(&str, &str); 2] = [("b/parent", "a/child"), ("z/parent", "a/child")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_demanded_may_change_and_must_not_go() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    db.split(&[bytes("m")], false).await.unwrap();
    for isolation in LEVELS {
        for (parent, child) in PLACES {
            // Others change it; the demand is met.
            alone(&db, parent, Some("1")).await;
            let (txn, statement) = begin(&db, isolation);
            assert!(demand(&statement, parent).await);
            alone(&db, parent, Some("2")).await;
            write(&statement, child, Some("of parent")).await;
            txn.commit().await.unwrap();
            // It goes, without a look at locks: that it may be lost doesn't matter.
            let (txn, statement) = begin(&db, isolation);
            assert!(demand(&statement, parent).await);
            alone(&db, parent, None).await;
            write(&statement, child, Some("of nobody")).await;
            assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })), "{isolation:?}, {parent}");
            // It isn't there: that is an answer, and no demand.
            let (txn, statement) = begin(&db, isolation);
            assert!(!demand(&statement, parent).await);
            write(&statement, child, Some("of nobody")).await;
            txn.commit().await.unwrap();
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_writes_meet_a_demand_and_take_it_back() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    db.split(&[bytes("m")], false).await.unwrap();
    for isolation in LEVELS {
        for (parent, child) in PLACES {
            let (txn, statement) = begin(&db, isolation);
            write(&statement, parent, Some("new")).await;
            assert!(demand(&statement, parent).await, "{isolation:?}: its own row is there");
            write(&statement, child, Some("of parent")).await;
            txn.commit().await.unwrap();
            // What it deletes itself is not demanded any more, until that is taken back.
            let (txn, statement) = begin(&db, isolation);
            assert!(demand(&statement, parent).await);
            write(&statement, parent, None).await;
            txn.commit().await.unwrap();
            alone(&db, parent, Some("again")).await;
            let (txn, statement) = begin(&db, isolation);
            assert!(demand(&statement, parent).await);
            let mark = txn.savepoint();
            write(&statement, parent, None).await;
            txn.rollback_to(mark).await.unwrap();
            alone(&db, parent, None).await;
            write(&statement, child, Some("of nobody")).await;
            assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })), "{isolation:?}, {parent}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_at_the_latest_is_validated() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    db.split(&[bytes("m")], false).await.unwrap();
    for isolation in LEVELS {
        for (parent, _) in PLACES {
            alone(&db, parent, Some("1")).await;
            alone(&db, "a/1", None).await;
            let (txn, statement) = begin(&db, isolation);
            statement.get(&[bytes("other")], &[]).await.unwrap();
            if isolation != Isolation::Serializable {
                // It came after the snapshot, and is seen.
                alone(&db, "a/1", Some("1")).await;
            }
            let latest = statement.latest().unwrap_or_else(|| statement.clone());
            let range = KeyRange::prefix(b"a/");
            let page = latest.scan(ScanRequest { range, reverse: false, rows_max: 10 }, &[]).await.unwrap();
            let seen = page.rows.iter().filter(|(key, _)| *key == bytes("a/1")).count();
            assert_eq!(seen, usize::from(isolation != Isolation::Serializable));
            // What comes after the look is found by the commit.
            alone(&db, "a/2", Some("2")).await;
            write(&statement, parent, None).await;
            assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })), "{isolation:?}, {parent}");
            alone(&db, "a/2", None).await;
        }
    }
    cluster.stop().await;
}
