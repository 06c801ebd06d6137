//! How long things take. Not checked: run with `--run-ignored all` on an idle machine and look.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a measurement"
)]

mod common;

use std::time::Instant;

use common::{TestCluster, bytes};
use storage::ids::KeyRange;
use txn::api::{BeginOptions, Expect, ScanRequest, Write};

fn row(i: u64) -> Write {
    Write { key: bytes(format!("t/{i:012}")), value: Some(bytes([7; 100])), expect: Expect::Absent }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bulk_load_and_single_inserts() {
    let cluster = TestCluster::start(1).await;
    let db = cluster.database(0);
    let rows = 200_000;
    let began = Instant::now();
    let txn = db.begin(BeginOptions::default());
    for batch in 0..rows / 1000 {
        txn.write((0..1000).map(|i| row(batch * 1000 + i)).collect(), &[]).await.unwrap();
    }
    println!("{rows} rows written after {:?}", began.elapsed());
    txn.commit().await.unwrap();
    println!("committed after {:?}", began.elapsed());
    for round in 0..3 {
        let began = Instant::now();
        let reader = db.begin(BeginOptions::default());
        let (mut left, mut found) = (Some(KeyRange::prefix(b"t/")), 0);
        while let Some(range) = left {
            let page =
                reader.scan(ScanRequest { range, reverse: false, rows_max: 100_000 }, &[]).await.unwrap();
            found += page.rows.len();
            left = page.rest;
        }
        println!("scan {round}: {found} rows in {:?}", began.elapsed());
    }
    let began = Instant::now();
    for i in 0..500 {
        let txn = db.begin(BeginOptions::default());
        txn.write(vec![row(rows + i)], &[]).await.unwrap();
        txn.commit().await.unwrap();
    }
    println!("a single insert takes {:?}", began.elapsed() / 500);
    let began = Instant::now();
    for i in 0..2000 {
        db.get_latest(&[row(i).key], &[]).await.unwrap();
    }
    println!("a point read takes {:?}", began.elapsed() / 2000);
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32 {
        let db = db.clone();
        tasks.spawn(async move {
            for i in 0..50 {
                let txn = db.begin(BeginOptions::default());
                txn.write(vec![row(2 * rows + task * 1000 + i)], &[]).await.unwrap();
                txn.commit().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    println!("32 at once: {:.0} inserts a second", 1600.0 / began.elapsed().as_secs_f64());
    cluster.stop().await;
}
