//! Crashes: every acknowledged row survives, and no transaction is half there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jepsen::checker::Validity;
use jepsen::history::{Clock, History, Recorder};
use jepsen::run::{Clients, drive, judge};
use jepsen::workload;
use tests::pairs::{Writer, check, create};
use tests::{Cluster, pause};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_killed_in_turn_while_another_is_written_to_lose_nothing() -> Result<()> {
    let cluster = Cluster::start(3)?;
    create(&cluster).await?;
    let mut acknowledged = Vec::new();
    for round in 0..10 {
        let victim = round % 3 + 1;
        let other = victim % 3 + 1;
        let writer = Writer::start(vec![cluster.url(other)], round as i64 * 1_000_000);
        pause(300).await;
        cluster.script(&["kill", &victim.to_string()])?;
        pause(1500).await;
        cluster.script(&["start", &victim.to_string()])?;
        pause(300).await;
        let mut written = writer.finish().await?;
        ensure!(
            !written.is_empty(),
            "round {round}: nothing was written through node {other}\n{}",
            cluster.logs()
        );
        acknowledged.append(&mut written);
    }
    for n in 1..=3 {
        check(&cluster, n, &acknowledged).await.with_context(|| cluster.logs())?;
    }
    // All at once, in the middle of writing.
    let writer = Writer::start((1..=3).map(|n| cluster.url(n)).collect(), 100_000_000);
    pause(1000).await;
    for n in 1..=3 {
        cluster.script(&["kill", &n.to_string()])?;
    }
    let mut written = writer.finish().await?;
    ensure!(!written.is_empty(), "nothing was written before all nodes were killed");
    acknowledged.append(&mut written);
    cluster.script(&["up"])?;
    for n in 1..=3 {
        check(&cluster, n, &acknowledged).await.with_context(|| cluster.logs())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_stopped_gently_has_everything() -> Result<()> {
    let cluster = Cluster::start(3)?;
    create(&cluster).await?;
    let writer = Writer::start((1..=3).map(|n| cluster.url(n)).collect(), 0);
    pause(500).await;
    let acknowledged = writer.finish().await?;
    cluster.script(&["down"])?;
    cluster.script(&["up"])?;
    for n in 1..=3 {
        check(&cluster, n, &acknowledged).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bank_keeps_its_money_while_a_node_is_killed() -> Result<()> {
    let cluster = Arc::new(Cluster::start(3)?);
    let bank = workload::find("bank").context("the bank")?;
    let clients = Clients {
        urls: (1..=3).map(|n| cluster.url(n)).collect(),
        workload: (bank.make)(),
        count: 6,
        rate: 150.0,
        call_timeout: Duration::from_secs(5),
        plain_tables: false,
        seed: 1,
    };
    clients.setup().await?;
    let folder = tempfile::tempdir()?;
    let recorder = Recorder::create(folder.path(), Clock::start(), 100_000)?;
    let killer = cluster.clone();
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    let killing = tokio::spawn(async move {
        pause(3000).await;
        killer.script(&["kill", "2"])?;
        pause(1500).await;
        killer.script(&["start", "2"])
    });
    drive(&clients, &recorder, Duration::from_secs(8)).await;
    killing.await??;
    let troubles = clients.last(&recorder).await;
    ensure!(troubles.is_empty(), "{troubles:?}\n{}", cluster.logs());
    recorder.finish()?;
    let history = History::load(&folder.path().join("history.edn"))?;
    for verdict in judge(bank.checkers, &history, None) {
        ensure!(verdict.validity == Validity::Valid, "{verdict}\n{}", cluster.logs());
    }
    Ok(())
}
