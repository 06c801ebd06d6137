//! Schema changes that read all rows of a table, while clients insert into it: they come to their end, and reach each row.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use tests::{Cluster, pause, sqlstate};

/// Rows that are there from the beginning.
const ROWS: u64 = 2_000;
/// Clients that insert, spread over the nodes.
const CLIENTS: u64 = 6;
/// Each has numbers of its own.
const NUMBERS: u64 = 1_000_000;
/// Rows that are inserted between two changes, at least.
const BETWEEN: u64 = 30;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// In this order; the last ones leave indexes and a foreign key that can be compared with the rows.
const CHANGES: [&str; 8] = [
    "ALTER TABLE t ADD COLUMN a int DEFAULT 7",
    "ALTER TABLE t ADD COLUMN b uuid NOT NULL DEFAULT gen_random_uuid()",
    "CREATE UNIQUE INDEX t_by_n ON t (n)",
    "DROP INDEX t_by_n",
    "ALTER TABLE t DROP COLUMN b",
    "ALTER TABLE t ADD COLUMN b uuid NOT NULL DEFAULT gen_random_uuid()",
    "ALTER TABLE t ADD CONSTRAINT n_is_unique UNIQUE (n)",
    "ALTER TABLE t ADD CONSTRAINT t_a FOREIGN KEY (a) REFERENCES parent (id)",
];

/// What one client has inserted, as far as it was told.
#[derive(Default)]
struct Inserted {
    certain: Vec<u64>,
    /// The answer was lost.
    perhaps: Vec<u64>,
}

async fn insert(cluster: &Cluster, client: u64, count: &AtomicU64, stop: &AtomicBool) -> Result<Inserted> {
    let session = cluster.connect(client as usize % cluster.nodes + 1).await?;
    let mut inserted = Inserted::default();
    let mut id = client * NUMBERS + ROWS;
    while !stop.load(Ordering::SeqCst) {
        id += 1;
        match session.batch_execute(&format!("INSERT INTO t (id, n) VALUES ({id}, {id})")).await {
            Ok(()) => {
                inserted.certain.push(id);
                count.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => match sqlstate(&error).as_str() {
                // It had no effect.
                "40001" | "40P01" => {}
                "40003" => inserted.perhaps.push(id),
                _ => return Err(error).with_context(|| cluster.logs()),
            },
        }
    }
    Ok(inserted)
}

/// Waits until some more rows were inserted.
async fn more(count: &AtomicU64) -> Result<()> {
    let (before, step) = (count.load(Ordering::SeqCst), 50);
    for _ in 0..PATIENCE.as_millis() / u128::from(step) {
        if count.load(Ordering::SeqCst) >= before + BETWEEN {
            return Ok(());
        }
        pause(step).await;
    }
    bail!("the clients don't get on")
}

async fn under_load(cluster: &Arc<Cluster>, options: &str) -> Result<()> {
    let session = cluster.connect(1).await?;
    session
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS parent; CREATE TABLE parent (id int PRIMARY KEY);
             INSERT INTO parent VALUES (7); CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL){options}"
        ))
        .await?;
    session.batch_execute(&format!("INSERT INTO t SELECT g, g FROM generate_series(1, {ROWS}) AS g")).await?;
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (cluster, count, stop) = (cluster.clone(), count.clone(), stop.clone());
            #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
            tokio::spawn(async move { insert(&cluster, client, &count, &stop).await })
        })
        .collect();
    let changing = async {
        for change in CHANGES {
            more(&count).await?;
            session.batch_execute(change).await.with_context(|| format!("{change}\n{}", cluster.logs()))?;
        }
        more(&count).await
    };
    let changed = changing.await;
    stop.store(true, Ordering::SeqCst);
    let inserted = try_join_all(clients).await?.into_iter().collect::<Result<Vec<_>>>()?;
    changed?;

    let found = session.query("SELECT id FROM t", &[]).await?;
    let found: BTreeSet<u64> = found.iter().map(|row| i64::from(row.get::<_, i32>(0)) as u64).collect();
    let certain = (1..=ROWS).chain(inserted.iter().flat_map(|client| client.certain.iter().copied()));
    let certain: BTreeSet<u64> = certain.collect();
    let perhaps: BTreeSet<u64> = inserted.iter().flat_map(|client| client.perhaps.iter().copied()).collect();
    let lost: Vec<_> = certain.difference(&found).collect();
    ensure!(lost.is_empty(), "rows that were acknowledged are not there: {lost:?}");
    ensure!(found.iter().all(|id| certain.contains(id) || perhaps.contains(id)), "there are rows of nobody");
    for unfilled in ["a IS DISTINCT FROM 7", "b IS NULL"] {
        let sql = format!("SELECT count(*) FROM t WHERE {unfilled}");
        ensure!(cluster.value(2, &sql).await? == "0", "rows that the change has not reached: {unfilled}");
    }
    // Each value has its entry.
    let again = "INSERT INTO t (id, n) SELECT -id, n FROM t ON CONFLICT (n) DO NOTHING";
    ensure!(session.execute(again, &[]).await? == 0, "a value without an entry");
    let referred = session.execute("DELETE FROM parent", &[]).await;
    let state = referred.err().map(|error| sqlstate(&error));
    ensure!(state.as_deref() == Some("23503"), "what is referred to is deleted: {state:?}");
    cluster.admin(1, &["check", "--table", "t"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_read_all_rows_end_while_clients_insert() -> Result<()> {
    let cluster = Arc::new(Cluster::start(3)?);
    for options in ["", " WITH (sharding = 'hash', shards = 4)"] {
        under_load(&cluster, options).await.with_context(|| format!("a table{options}"))?;
    }
    Ok(())
}
