//! Writers whose transactions put a row into each of two tables on different shards: what was acknowledged has to be there, and no
//! transaction by half.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

use crate::{Cluster, connect, pause};

/// A writer of pairs.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<i64>>,
}

impl Writer {
    /// Writes through `urls` in turn, moving on to the next when a connection is lost. Gives the ids that were acknowledged.
    pub fn start(urls: Vec<String>, first: i64) -> Self {
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

    /// Stops; the ids that were acknowledged.
    pub async fn finish(self) -> Result<Vec<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")
    }
}

/// Checks on node `n` that exactly whole transactions are there, and all of `acknowledged`.
pub async fn check(cluster: &Cluster, n: usize, acknowledged: &[i64]) -> Result<()> {
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

/// Makes the tables.
pub async fn create(cluster: &Cluster) -> Result<()> {
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE lefts (id bigint PRIMARY KEY, note text NOT NULL);
             CREATE TABLE rights (id bigint PRIMARY KEY, note text NOT NULL) WITH (sharding = 'hash', shards = 4)",
        )
        .await
        .with_context(|| cluster.logs())
}
