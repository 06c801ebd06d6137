//! Row locks as clients see them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause};
use tokio_postgres::Client;

async fn accounts(cluster: &Cluster) -> Result<()> {
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL) WITH (sharding = 'hash', shards = 3);
             INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 20) AS g(n)",
        )
        .await
        .with_context(|| cluster.logs())?;
    // Locks are lost with a leader that moves, and the leaders of new shards are spread.
    let leaders = "SELECT count(DISTINCT leader) FROM flotilla.shards WHERE table_name = 'accounts'";
    for _ in 0..200 {
        if cluster.value(2, leaders).await? == "3" {
            return Ok(());
        }
        pause(50).await;
    }
    anyhow::bail!("the leaders are not spread\n{}", cluster.logs())
}

fn state(result: Result<(), tokio_postgres::Error>) -> String {
    match result {
        Ok(()) => "done".into(),
        Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_row_is_updated_in_turn() -> Result<()> {
    let cluster = Cluster::start(3)?;
    accounts(&cluster).await?;
    let workers = (0..9).map(|n| {
        let cluster = &cluster;
        async move {
            let client = cluster.connect(n % 3 + 1).await?;
            for i in 0..10 {
                // Alone, in a block, and in a block that has read something else before.
                let sql = match i % 3 {
                    0 => "UPDATE accounts SET n = n + 1 WHERE id = 7",
                    1 => "BEGIN; UPDATE accounts SET n = n + 1 WHERE id = 7; COMMIT",
                    _ => "BEGIN; SELECT n FROM accounts WHERE id = 8; UPDATE accounts SET n = n + 1 WHERE id = 7; COMMIT",
                };
                client.batch_execute(sql).await.with_context(|| format!("worker {n}: {sql}"))?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(workers).await.with_context(|| cluster.logs())?;
    ensure!(cluster.value(2, "SELECT n FROM accounts WHERE id = 7").await? == "90");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_has_one_victim() -> Result<()> {
    let cluster = Cluster::start(3)?;
    accounts(&cluster).await?;
    // A circle over three nodes: each holds one row and wants the next one's.
    let mut clients: Vec<Client> = Vec::new();
    for n in 1..=3 {
        let client = cluster.connect(n).await?;
        client.batch_execute(&format!("BEGIN; UPDATE accounts SET n = n + 1 WHERE id = {n}")).await?;
        clients.push(client);
    }
    let wants = clients.iter().enumerate().map(|(at, client)| async move {
        let next = (at + 1) % 3 + 1;
        let sql = format!("UPDATE accounts SET n = n + 10 WHERE id = {next}");
        let result = state(client.batch_execute(&sql).await);
        // The victim lets its locks go; the others commit.
        let end = if result == "done" { "COMMIT" } else { "ROLLBACK" };
        (result, state(client.batch_execute(end).await))
    });
    let all = futures::future::join_all(wants);
    let ends = tokio::time::timeout(Duration::from_secs(20), all).await.context("they wait for ever")?;
    let victims = ends.iter().filter(|(result, _)| result == "40P01").count();
    let done = ends.iter().filter(|(result, end)| result == "done" && end == "done").count();
    ensure!((victims, done) == (1, 2), "{ends:?}\n{}", cluster.logs());
    ensure!(cluster.value(1, "SELECT sum(n) FROM accounts").await? == "22");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_with_the_timeout_the_gateway_or_the_node() -> Result<()> {
    let cluster = Cluster::start(3)?;
    accounts(&cluster).await?;
    let update = "UPDATE accounts SET n = n + 1 WHERE id = 5";
    let holder = cluster.connect(2).await?;
    holder.batch_execute(&format!("BEGIN; {update}")).await?;
    let waiter = cluster.connect(1).await?;
    waiter.batch_execute("SET lock_timeout = '100ms'").await?;
    ensure!(state(waiter.batch_execute(update).await) == "55P03");
    waiter.batch_execute("SET lock_timeout = 0; SET statement_timeout = '200ms'").await?;
    ensure!(state(waiter.batch_execute(update).await) == "57014");
    waiter.batch_execute("SET statement_timeout = 0").await?;
    // Whoever holds the lock goes away without a word, with its node.
    cluster.script(&["kill", "2"])?;
    let waited = tokio::time::timeout(Duration::from_secs(20), waiter.batch_execute(update));
    ensure!(state(waited.await.context("the lock outlives its node")?) == "done", "{}", cluster.logs());
    cluster.script(&["start", "2"])?;
    pause(1).await;
    ensure!(cluster.value(2, "SELECT n FROM accounts WHERE id = 5").await? == "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_selected_for_update() -> Result<()> {
    let cluster = Cluster::start(3)?;
    accounts(&cluster).await?;
    let (one, two) = (cluster.connect(1).await?, cluster.connect(2).await?);
    let ids = async |client: &Client, sql: &str| -> Result<Vec<i32>> {
        Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    one.batch_execute("BEGIN").await?;
    let queue = "SELECT id FROM accounts WHERE n = 0 ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED";
    ensure!(ids(&one, queue).await? == [1, 2]);
    // Whoever comes next gets what is free, and others' rows don't count.
    two.batch_execute("BEGIN").await?;
    ensure!(ids(&two, queue).await? == [3, 4]);
    ensure!(
        ids(&two, "SELECT id FROM accounts WHERE id < 4 ORDER BY id FOR SHARE SKIP LOCKED").await? == [3]
    );
    // Rows that were skipped were not locked.
    two.batch_execute("ROLLBACK; BEGIN").await?;
    let nowait = two.query("SELECT * FROM accounts WHERE id = 1 FOR UPDATE NOWAIT", &[]).await;
    let error = nowait.err().context("a locked row was locked")?;
    let error = error.as_db_error().context("an error of the server")?;
    ensure!(error.code().code() == "55P03", "{error:?}");
    ensure!(error.message() == "could not obtain lock on row in relation \"accounts\"", "{error:?}");
    two.batch_execute("ROLLBACK").await?;
    // Read, think, write: nobody has changed it meanwhile, and who waited sees what was written.
    let waiting = two.query_one("SELECT n FROM accounts WHERE id = 1 FOR UPDATE", &[]);
    let writing = async {
        pause(300).await;
        one.batch_execute("UPDATE accounts SET n = 41 WHERE id = 1; COMMIT").await
    };
    let (waited, written) = futures::join!(waiting, writing);
    written?;
    ensure!(waited?.get::<_, i32>(0) == 41);
    let refused = two.batch_execute("BEGIN READ ONLY; SELECT * FROM accounts FOR UPDATE").await;
    ensure!(state(refused) == "25006");
    Ok(())
}
