//! Transfers between accounts in several shards, from several nodes at once: the total never changes, and nobody sees
//! less than what was acknowledged before they looked.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{TestCluster, bytes};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::ids::{KeyRange, ReplicaId};
use txn::api::{BeginOptions, Database, Expect, ScanRequest, Transaction, Write};
use txn::{Error, Remedy};

const ACCOUNTS: u64 = 12;
const OPENING: u64 = 100;
const TELLERS: u64 = 4;
const TRANSFERS: u64 = 25;

fn account(n: u64) -> Bytes {
    bytes(format!("acct{n:02}"))
}

fn amount(n: u64) -> Bytes {
    bytes(n.to_string())
}

fn parse(value: &Option<Bytes>) -> u64 {
    std::str::from_utf8(value.as_ref().unwrap()).unwrap().parse().unwrap()
}

fn write(key: Bytes, value: u64) -> Write {
    Write { key, value: Some(amount(value)), expect: Expect::Any }
}

/// The sum over all accounts, and how many transfers the tellers' counters say were made.
async fn audit(txn: &dyn Transaction, scan: bool) -> Result<(u64, u64), txn::Error> {
    let mut total = 0;
    if scan {
        let mut left = Some(KeyRange::prefix(b"acct"));
        while let Some(range) = left {
            let page = txn.scan(ScanRequest { range, reverse: false, rows_max: 5 }, &[]).await?;
            total += page.rows.iter().map(|(_, v)| parse(&Some(v.clone()))).sum::<u64>();
            left = page.rest;
        }
    } else {
        let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
        total = txn.get(&keys, &[]).await?.iter().map(parse).sum();
    }
    let counters: Vec<_> = (0..TELLERS).map(|t| bytes(format!("done{t}"))).collect();
    let made = txn.get(&counters, &[]).await?.iter().map(parse).sum();
    Ok((total, made))
}

async fn transfer(db: &dyn Database, rng: &mut StdRng, teller: u64) -> Result<(), txn::Error> {
    let txn = db.begin(BeginOptions::default());
    let from = rng.random_range(0..ACCOUNTS);
    let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    let counter = bytes(format!("done{teller}"));
    let found = txn.get(&[account(from), account(to), counter.clone()], &[]).await?;
    let sum = rng.random_range(0..=parse(&found[0]));
    let writes = vec![
        write(account(from), parse(&found[0]) - sum),
        write(account(to), parse(&found[1]) + sum),
        write(counter, parse(&found[2]) + 1),
    ];
    txn.write(writes, &[]).await?;
    txn.commit().await.map(|_| ())
}

async fn run(nodes: u64, seed: u64, unrest: bool, asynchronous: bool) {
    // To look for more: another seed each time.
    let seed = std::env::var("BANK_SEED").map_or(seed, |seed| seed.parse().unwrap());
    let cluster = TestCluster::start(nodes).await;
    cluster.meta.asynchronous.store(asynchronous, Ordering::SeqCst);
    let setup = cluster.database(0);
    let open = setup.begin(BeginOptions::default());
    open.write((0..ACCOUNTS).map(|n| write(account(n), OPENING)).collect(), &[]).await.unwrap();
    open.write((0..TELLERS).map(|t| write(bytes(format!("done{t}")), 0)).collect(), &[]).await.unwrap();
    open.commit().await.unwrap();
    setup.split(&[bytes("acct06")], false).await.unwrap();

    #[allow(clippy::disallowed_methods, reason = "for the curious")]
    let began = std::time::Instant::now();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let retries = Arc::new(AtomicU64::new(0));
    let ambiguous = Arc::new(AtomicU64::new(0));
    let finished = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for teller in 0..TELLERS {
        let db = cluster.database((teller % nodes) as usize);
        let (acknowledged, retries, ambiguous) = (acknowledged.clone(), retries.clone(), ambiguous.clone());
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed * 1000 + teller);
            let mut made = 0;
            while made < TRANSFERS {
                match transfer(&*db, &mut rng, teller).await {
                    Ok(()) => {
                        made += 1;
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    // Its counter, which nobody else writes, tells whether it was made.
                    Err(Error::Ambiguous(_)) => {
                        ambiguous.fetch_add(1, Ordering::SeqCst);
                        let counter = loop {
                            match db.get_latest(&[bytes(format!("done{teller}"))], &[]).await {
                                Ok(values) => break parse(&values[0]),
                                Err(error) => assert_eq!(error.remedy(), Remedy::Retry, "{error}"),
                            }
                        };
                        assert!(counter == made || counter == made + 1);
                        acknowledged.fetch_add(counter - made, Ordering::SeqCst);
                        made = counter;
                    }
                    Err(error) => {
                        assert_eq!(error.remedy(), Remedy::Retry, "{error}");
                        retries.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        });
    }
    for auditor in 0..2 {
        let db = cluster.database((auditor % nodes) as usize);
        let acknowledged = acknowledged.clone();
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed * 1000 + 500 + auditor);
            loop {
                let before = acknowledged.load(Ordering::SeqCst);
                let txn = db.begin(BeginOptions { read_only: true, ..BeginOptions::default() });
                let (total, made) = match audit(&*txn, rng.random()).await {
                    Ok(found) => found,
                    Err(error) if unrest && error.remedy() == Remedy::Retry => continue,
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(total, ACCOUNTS * OPENING);
                assert!(made >= before, "a snapshot misses acknowledged transfers: {made} of {before}");
                // Read one by one, outside a transaction: not of one moment, but never from the past.
                let before = acknowledged.load(Ordering::SeqCst);
                let mut made = 0;
                for t in 0..TELLERS {
                    made += parse(&db.get_latest(&[bytes(format!("done{t}"))], &[]).await.unwrap()[0]);
                }
                assert!(made >= before, "the latest misses acknowledged transfers: {made} of {before}");
                if before >= TELLERS * TRANSFERS {
                    return;
                }
            }
        });
    }
    // In the middle of it, a shard is cut.
    let splitter = cluster.database(0);
    tasks.spawn(async move { splitter.split(&[bytes("acct03"), bytes("done3")], false).await.unwrap() });
    let mut changes = tokio::task::JoinSet::new();
    if unrest {
        let (multis, seams, finished) = (cluster.multis(), cluster.seams.clone(), finished.clone());
        changes.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            while !finished.load(Ordering::SeqCst) {
                for group in
                    multis.iter().flat_map(|multi| multi.groups()).filter(|group| group.leads().is_some())
                {
                    // It may fail: then there is an election, which is as good.
                    let _ = group.transfer_leader(ReplicaId(rng.random_range(1..=nodes))).await;
                }
                seams.sleep(Duration::from_millis(rng.random_range(50..500))).await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    finished.store(true, Ordering::SeqCst);
    changes.join_all().await;
    let (total, made) = audit(&*setup.begin(BeginOptions::default()), true).await.unwrap();
    assert_eq!((total, made), (ACCOUNTS * OPENING, TELLERS * TRANSFERS));
    println!(
        "{nodes} nodes: {made} transfers, {} retries, {} ambiguous, {:?}",
        retries.load(Ordering::SeqCst),
        ambiguous.load(Ordering::SeqCst),
        began.elapsed()
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bank_on_one_node() {
    run(1, 1, false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bank_on_three_nodes() {
    run(3, 2, false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bank_while_leaders_change() {
    run(3, 3, true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bank_with_asynchronous_commits() {
    run(3, 4, false, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bank_with_asynchronous_commits_while_leaders_change() {
    run(3, 5, true, true).await;
}
