//! AS OF SYSTEM TIME without leaders: closed timestamps, end to end.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits for them in real time")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause};
use tokio_postgres::{Client, SimpleQueryMessage};

/// One value, as text.
async fn value(client: &Client, sql: &str) -> Result<String> {
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).unwrap_or("NULL").to_owned());
        }
    }
    anyhow::bail!("{sql} gave no row")
}

/// How many reads of the past the replicas of node `n` have answered, and how many they have left to leaders.
fn counters(cluster: &Cluster, n: usize) -> Result<(f64, f64)> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.http_port(n)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Ok((sum("flotilla_past_reads_total"), sum("flotilla_past_reads_passed_on_total")))
}

/// Every survivor goes on answering while nobody leads, and says what was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_read_at_survivors_while_nobody_leads() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.admin(1, &["settings", "set", "closed_timestamp_lag", "1s"])?;
    let first = cluster.connect(1).await?;
    first
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int);
             INSERT INTO t SELECT i, 1 FROM generate_series(1, 100) i",
        )
        .await?;
    // (The oracle may be ahead of the clock by its window, where a leader of the meta-group has followed another.)
    pause(3_500).await;
    let then = value(&first, "SELECT clock_timestamp()::text").await?;
    pause(3_500).await;
    first.batch_execute("UPDATE t SET v = 2").await?;
    let past = format!("SELECT count(*) || ' ' || sum(v) FROM t AS OF SYSTEM TIME '{then}'");

    let leader = cluster.leader().await?;
    let survivors: Vec<usize> = (1..=3).filter(|n| *n != leader).collect();
    let mut clients = Vec::new();
    for n in &survivors {
        clients.push(cluster.connect(*n).await?);
    }
    // Until each survivor answers from its own replicas: of the table's shard, and of the catalog's.
    let deadline = Instant::now() + Duration::from_secs(20);
    for (n, client) in survivors.iter().zip(&clients) {
        loop {
            let before = counters(&cluster, *n)?;
            ensure!(value(client, &past).await? == "100 100");
            let after = counters(&cluster, *n)?;
            if after.0 > before.0 && after.1 == before.1 {
                break;
            }
            ensure!(Instant::now() < deadline, "node {n} answers nothing itself\n{}", cluster.logs());
            pause(200).await;
        }
    }

    // (Connected before: a session begins with a look at the catalog's leader.)
    let writer = cluster.connect(survivors[0]).await?;
    cluster.script(&["kill", &leader.to_string()])?;
    let write = tokio::spawn(async move {
        loop {
            match writer.batch_execute("UPDATE t SET v = 3 WHERE id = 1").await {
                Ok(()) => return Instant::now(),
                Err(_) => pause(10).await,
            }
        }
    });
    let mut reads = vec![Vec::new(); clients.len()];
    while !write.is_finished() {
        for (at, client) in clients.iter().enumerate() {
            ensure!(value(client, &past).await? == "100 100");
            reads[at].push(Instant::now());
        }
    }
    let written = write.await?;
    for (n, reads) in survivors.iter().zip(&reads) {
        let during = reads.iter().filter(|at| **at < written).count();
        ensure!(during >= 3, "node {n} has answered {during} times before there was a leader again");
    }
    // Afterwards the past is what it was, and the present is not.
    for client in &clients {
        ensure!(value(client, &past).await? == "100 100");
        ensure!(value(client, "SELECT sum(v) FROM t").await? == "201");
    }
    Ok(())
}

/// Whoever reads '-Ns' again and again sees sums that were there, whatever replica answers, while the rows change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replicas_say_of_a_bank_adds_up() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.admin(1, &["settings", "set", "closed_timestamp_lag", "500ms"])?;
    let first = cluster.connect(1).await?;
    first
        .batch_execute(
            "CREATE TABLE bank (id int PRIMARY KEY, v int) WITH (sharding = 'hash', shards = 4);
             INSERT INTO bank SELECT i, 100 FROM generate_series(1, 20) i",
        )
        .await?;
    let began = Instant::now();
    let transfers = tokio::spawn(async move {
        let mut done = 0;
        while began.elapsed() < Duration::from_secs(15) {
            let (from, to) = (done % 20 + 1, done * 7 % 20 + 1);
            let transfer = format!(
                "BEGIN; UPDATE bank SET v = v - 1 WHERE id = {from}; UPDATE bank SET v = v + 1 WHERE id = {to}; COMMIT"
            );
            match first.batch_execute(&transfer).await {
                Ok(()) => done += 1,
                Err(_) => drop(first.batch_execute("ROLLBACK").await),
            }
        }
        done
    });
    // The table was there, and full.
    pause(3_500).await;
    let mut clients = Vec::new();
    for n in 1..=3 {
        clients.push(cluster.connect(n).await?);
    }
    let mut sums = 0;
    while !transfers.is_finished() {
        for (n, client) in clients.iter().enumerate() {
            let sum = value(client, "SELECT sum(v) FROM bank AS OF SYSTEM TIME '-2s'").await?;
            ensure!(sum == "2000", "node {} says {sum}", n + 1);
            sums += 1;
        }
    }
    let transferred = transfers.await?;
    ensure!(transferred > 20 && sums > 20, "{transferred} transfers, {sums} sums");
    for n in 1..=3 {
        let (count, _) = counters(&cluster, n).context("metrics")?;
        ensure!(count > 0.0, "node {n} has answered nothing itself");
    }
    Ok(())
}
