//! A node that is drained sends its clients elsewhere, and breaks no transaction.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::{Cluster, connect, pause, sqlstate};
use tokio_postgres::NoTls;

/// What the node answers to `GET /ready`.
fn ready(cluster: &Cluster, n: usize) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.http_port(n)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits, for half a minute.
async fn until(what: &str, cluster: &Cluster, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..300 {
        if is_so().await? {
            return Ok(());
        }
        pause(100).await;
    }
    bail!("{what}: not within half a minute\n{}", cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_ends_sessions_between_transactions_and_lets_nobody_in() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.connect(1).await?.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await?;
    let name = cluster.name(2)?;
    let busy = cluster.connect(2).await?;
    busy.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await?;
    let (idle, connection) = cluster.url(2).parse::<tokio_postgres::Config>()?.connect(NoTls).await?;
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    let driven = tokio::spawn(connection);
    idle.batch_execute("INSERT INTO t VALUES (2)").await?;

    // At the node itself, which answers operators as ever.
    cluster.admin(2, &["drain", &name, "--no-wait"])?;
    until("the idle session ends", &cluster, async || Ok(driven.is_finished())).await?;
    busy.batch_execute("INSERT INTO t VALUES (3); COMMIT").await.context("the open transaction")?;
    let told = driven.await?.err().context("the idle session ended without a word")?;
    ensure!(sqlstate(&told) == "57P01", "{told:?}");
    until("the other session ends after its transaction", &cluster, async || Ok(busy.is_closed())).await?;

    let refused = connect(&cluster.url(2)).await.err().context("a session was let in")?;
    let refused = refused.downcast::<tokio_postgres::Error>()?;
    ensure!(sqlstate(&refused) == "57P03", "{refused:?}");
    let answer = ready(&cluster, 2)?;
    ensure!(answer.starts_with("HTTP/1.1 503") && answer.contains("drained"), "{answer}");
    let drained = cluster.admin(2, &["drain", &name])?;
    ensure!(drained.contains("leads nothing, has no session"), "{drained}");
    let seen = cluster.value(1, "SELECT count(*) FROM t").await?;
    ensure!(seen == "3", "{seen} rows");

    // It stays drained when it starts again: what is wanted of it is replicated.
    cluster.script(&["stop", "2"])?;
    cluster.script(&["start", "2"])?;
    until("the node is still drained", &cluster, async || Ok(ready(&cluster, 2)?.contains("drained")))
        .await?;
    cluster.admin(2, &["undrain", &name])?;
    until("the node is ready", &cluster, async || Ok(ready(&cluster, 2)?.starts_with("HTTP/1.1 200")))
        .await?;
    let seen = cluster.value(2, "SELECT count(*) FROM t").await?;
    ensure!(seen == "3", "{seen} rows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_does_not_end_is_broken_when_its_time_is_up() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await?;
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await?;
    let drained = cluster.admin(1, &["drain", "n1", "--no-wait"]);
    drained.context("the only node may be drained")?;
    until("the session ends", &cluster, async || Ok(client.is_closed())).await?;
    cluster.admin(1, &["undrain", "n1"])?;
    let seen = cluster.value(1, "SELECT count(*) FROM t").await?;
    ensure!(seen == "0", "{seen} rows of a transaction that never committed");
    Ok(())
}
