//! Crashes: every acknowledged row survives, and no transaction is half there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jepsen::checker::Validity;
use jepsen::history::{Clock, History, Recorder};
use jepsen::run::{Clients, drive, judge};
use jepsen::workload;
use tests::{Cluster, connect, pause};

/// A writer whose transactions put one row into each of two tables that live on different shards.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<i64>>,
}

impl Writer {
    /// Writes through `urls` in turn, moving on to the next when a connection is lost. Gives the ids that were acknowledged.
    fn start(urls: Vec<String>, first: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            let (mut id, mut at) = (first, 0);
            let mut client = None;
            while !stopped.load(Ordering::Relaxed) {
                let open = match client.take() {
                    Some(open) => open,
                    None => match connect(&urls[at % urls.len()]).await {
                        Ok(open) => open,
                        Err(_) => {
                            at += 1;
                            pause(20).await;
                            continue;
                        }
                    },
                };
                id += 1;
                let sql = format!(
                    "BEGIN; INSERT INTO lefts VALUES ({id}, 'row {id}'); INSERT INTO rights VALUES ({id}, 'row {id}'); COMMIT"
                );
                match open.batch_execute(&sql).await {
                    Ok(()) => {
                        acknowledged.push(id);
                        client = Some(open);
                    }
                    // Unknown or refused: the id is not used again.
                    Err(error) if error.code().is_some() => {
                        let _ = open.batch_execute("ROLLBACK").await;
                        client = Some(open);
                        at += 1;
                    }
                    Err(_) => at += 1,
                }
            }
            acknowledged
        });
        Self { stop, task }
    }

    async fn finish(self) -> Result<Vec<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")
    }
}

/// Checks on node `n` that exactly whole transactions are there, and all of `acknowledged`.
async fn check(cluster: &Cluster, n: usize, acknowledged: &[i64]) -> Result<()> {
    let client = cluster.connect(n).await?;
    let ids = async |table: &str| -> Result<Vec<i64>> {
        let rows = client.query(&format!("SELECT id, note FROM {table} ORDER BY id"), &[]).await?;
        rows.iter()
            .map(|row| {
                let (id, note): (i64, String) = (row.get(0), row.get(1));
                ensure!(note == format!("row {id}"), "row {id} of {table} holds {note:?}");
                Ok(id)
            })
            .collect()
    };
    let (lefts, rights) = (ids("lefts").await?, ids("rights").await?);
    ensure!(lefts == rights, "half a transaction on node {n}: {} against {} rows", lefts.len(), rights.len());
    for id in acknowledged {
        ensure!(lefts.binary_search(id).is_ok(), "acknowledged row {id} is lost (seen from node {n})");
    }
    Ok(())
}

async fn create(cluster: &Cluster) -> Result<()> {
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE lefts (id bigint PRIMARY KEY, note text NOT NULL);
             CREATE TABLE rights (id bigint PRIMARY KEY, note text NOT NULL) WITH (sharding = 'hash', shards = 4)",
        )
        .await
        .with_context(|| cluster.logs())
}

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
