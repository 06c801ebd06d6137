//! The bank: clients move money between accounts on different shards; others look at all accounts at once.
//!
//! The table is spread over shards by a hash, so that a transfer and the look at the whole bank cross shards. Each transfer also
//! raises a counter, which orders all transfers and makes stale looks visible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::{Client, NoTls};

use crate::checker::bank::{Anomaly, Observation, check};

/// The account that counts transfers.
const COUNTER: i32 = -1;
/// What each account begins with.
const OPENING: i64 = 100;

/// How the bank is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes; clients are spread over them.
    pub urls: Vec<String>,
    /// How many accounts.
    pub accounts: i32,
    /// How many clients transfer, and how many look.
    pub clients: usize,
    /// For how long.
    pub duration: Duration,
    /// Seeds the clients' choices.
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Transfers that were acknowledged.
    pub acknowledged: i64,
    /// Transfers whose outcome the client does not know.
    pub unknown: i64,
    /// Transfers that were refused (conflicts, mostly).
    pub refused: i64,
    /// Looks at the whole bank.
    pub observations: usize,
    /// What is wrong.
    pub anomalies: Vec<Anomaly>,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicI64,
    unknown: AtomicI64,
    refused: AtomicI64,
}

/// Runs the workload and checks its history. The table `bank` is made anew.
#[allow(clippy::disallowed_methods, reason = "a client's clock and tasks: no simulator runs the harness")]
pub async fn run(options: Options) -> Result<Report> {
    let first = options.urls.first().context("no node to run against")?;
    let setup = connect(first).await?;
    setup
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS bank;
             CREATE TABLE bank (id int PRIMARY KEY, balance bigint NOT NULL) WITH (sharding = 'hash', shards = 6);
             INSERT INTO bank SELECT n, {OPENING} FROM generate_series(1, {}) AS g(n);
             INSERT INTO bank VALUES ({COUNTER}, 0)",
            options.accounts
        ))
        .await?;
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new(Counts::default());
    let mut movers = Vec::new();
    let mut lookers = Vec::new();
    for n in 0..options.clients {
        let url = options.urls[n % options.urls.len()].clone();
        let rng = StdRng::seed_from_u64(options.seed.wrapping_add(n as u64));
        movers.push(tokio::spawn(transfer(url.clone(), options.accounts, rng, stop.clone(), counts.clone())));
        lookers.push(tokio::spawn(look(url, began, stop.clone())));
    }
    tokio::time::sleep(options.duration).await;
    stop.store(true, Ordering::Relaxed);
    for mover in movers {
        mover.await?;
    }
    let mut observations = Vec::new();
    for looker in lookers {
        observations.extend(looker.await?);
    }
    // The last look, after everything: what is there must agree with what was acknowledged.
    let mut last = None;
    for attempt in 0..50 {
        match observe(&connect(first).await?, began).await {
            Ok(seen) => {
                last = Some(seen);
                break;
            }
            Err(error) if attempt == 49 => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    observations.extend(last);
    let count = |c: &AtomicI64| c.load(Ordering::Relaxed);
    let (acknowledged, unknown) = (count(&counts.acknowledged), count(&counts.unknown));
    let anomalies = check(i64::from(options.accounts) * OPENING, &observations, acknowledged, unknown);
    Ok(Report {
        acknowledged,
        unknown,
        refused: count(&counts.refused),
        observations: observations.len(),
        anomalies,
    })
}

#[allow(clippy::disallowed_methods, reason = "a client's tasks: no simulator runs the harness")]
async fn connect(url: &str) -> Result<Client> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // An error of the connection is an error of the statements on it.
        let _ = connection.await;
    });
    Ok(client)
}

async fn reconnect(client: &mut Option<Client>, url: &str, stop: &AtomicBool) -> bool {
    while client.as_ref().is_none_or(Client::is_closed) {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        *client = connect(url).await.ok();
        if client.is_none() {
            pause().await;
        }
    }
    true
}

#[allow(clippy::disallowed_methods, reason = "a client's clock: no simulator runs the harness")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn transfer(url: String, accounts: i32, mut rng: StdRng, stop: Arc<AtomicBool>, counts: Arc<Counts>) {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        if !reconnect(&mut client, &url, &stop).await {
            return;
        }
        let Some(open) = &client else { return };
        let from = rng.random_range(1..=accounts);
        let to = (from % accounts) + 1;
        let amount = rng.random_range(1..10);
        let body = format!(
            "BEGIN;
             UPDATE bank SET balance = balance - {amount} WHERE id = {from};
             UPDATE bank SET balance = balance + {amount} WHERE id = {to};
             UPDATE bank SET balance = balance + 1 WHERE id = {COUNTER}"
        );
        if open.batch_execute(&body).await.is_err() {
            // Nothing was committed: no COMMIT was sent.
            counts.refused.fetch_add(1, Ordering::Relaxed);
            let _ = open.batch_execute("ROLLBACK").await;
            continue;
        }
        match open.batch_execute("COMMIT").await {
            Ok(()) => counts.acknowledged.fetch_add(1, Ordering::Relaxed),
            Err(error) if error.code().is_some_and(|c| c.code().starts_with("40") && c.code() != "40003") => {
                counts.refused.fetch_add(1, Ordering::Relaxed)
            }
            Err(_) => counts.unknown.fetch_add(1, Ordering::Relaxed),
        };
    }
}

async fn look(url: String, began: Instant, stop: Arc<AtomicBool>) -> Vec<Observation> {
    let mut seen = Vec::new();
    let mut client = None;
    while !stop.load(Ordering::Relaxed) && reconnect(&mut client, &url, &stop).await {
        let Some(open) = &client else { break };
        match observe(open, began).await {
            Ok(observation) => seen.push(observation),
            Err(_) => pause().await,
        }
    }
    seen
}

async fn observe(client: &Client, began: Instant) -> Result<Observation, tokio_postgres::Error> {
    let asked = began.elapsed().as_micros() as u64;
    let rows = client.query("SELECT id, balance FROM bank ORDER BY id", &[]).await?;
    let answered = began.elapsed().as_micros() as u64;
    let mut observation = Observation { span_micros: (asked, answered), balances: Vec::new(), transfers: 0 };
    for row in rows {
        match row.get::<_, i32>(0) {
            COUNTER => observation.transfers = row.get(1),
            _ => observation.balances.push(row.get(1)),
        }
    }
    Ok(observation)
}
