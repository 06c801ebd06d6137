//! Advisory locks over three nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, pause};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The first value of the last row.
async fn ask(client: &Client, sql: &str) -> Result<String> {
    let messages = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
    let value = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
        _ => None,
    });
    value.with_context(|| format!("no rows: {sql}"))
}

async fn fails(client: &Client, sql: &str) -> Result<String> {
    match client.simple_query(sql).await {
        Ok(_) => anyhow::bail!("{sql} succeeded"),
        Err(error) => Ok(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_held_across_nodes() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let (one, two) = (cluster.connect(1).await?, cluster.connect(2).await?);
    // Session locks count, and survive a rollback.
    ensure!(ask(&one, "SELECT pg_advisory_lock(7)").await?.is_empty());
    ensure!(ask(&one, "BEGIN; SELECT pg_try_advisory_lock(7); ROLLBACK").await? == "t");
    ensure!(ask(&two, "SELECT pg_try_advisory_lock(7)").await? == "f");
    ensure!(ask(&two, "SELECT pg_try_advisory_lock_shared(7)").await? == "f");
    ensure!(ask(&two, "SELECT pg_try_advisory_lock(0, 7)").await? == "t", "another space of keys");
    ensure!(ask(&two, "SELECT pg_advisory_unlock(7)").await? == "f");
    ensure!(ask(&one, "SELECT pg_advisory_unlock(7)").await? == "t");
    ensure!(ask(&two, "SELECT pg_try_advisory_lock(7)").await? == "f", "taken twice, given back once");
    ensure!(ask(&one, "SELECT pg_advisory_unlock(7)").await? == "t");
    ensure!(ask(&one, "SELECT pg_advisory_unlock(7)").await? == "f");
    ensure!(ask(&two, "SELECT pg_try_advisory_lock(7)").await? == "t");
    // Seen from everywhere.
    let locks = "SELECT string_agg(key || ' ' || mode, ', ' ORDER BY key) || ' ' || count(DISTINCT node_id)
                 FROM flotilla.locks WHERE kind = 'advisory'";
    ensure!(ask(&one, locks).await? == "(0, 7) exclusive, (7) exclusive 1", "{}", ask(&one, locks).await?);
    let pg = "SELECT classid || ' ' || objid || ' ' || objsubid || ' ' || mode FROM pg_locks
              WHERE locktype = 'advisory' ORDER BY objsubid LIMIT 1";
    ensure!(ask(&one, pg).await? == "0 7 1 ExclusiveLock");
    ensure!(ask(&two, "SELECT pg_advisory_unlock_all()").await?.is_empty());
    ensure!(ask(&one, "SELECT count(*) FROM pg_locks").await? == "0");
    // Locks of a transaction end with it, and with a rollback to what was before.
    two.batch_execute("BEGIN; SAVEPOINT s").await?;
    ensure!(
        ask(&two, "SELECT pg_try_advisory_xact_lock(8), pg_try_advisory_xact_lock_shared(9)").await? == "t"
    );
    ensure!(ask(&one, "SELECT pg_try_advisory_xact_lock_shared(9)").await? == "t");
    ensure!(ask(&one, "SELECT pg_try_advisory_lock(8)").await? == "f");
    two.batch_execute("ROLLBACK TO s").await?;
    ensure!(ask(&one, "SELECT pg_try_advisory_lock(8)").await? == "t");
    ensure!(fails(&two, "SELECT pg_try_advisory_xact_lock(9); SELECT 1 / 0").await? == "22012");
    two.batch_execute("ROLLBACK").await?;
    ensure!(ask(&one, "SELECT pg_try_advisory_lock(9)").await? == "t");
    // A session's end.
    drop(one);
    two.batch_execute("SET lock_timeout = '5s'").await?;
    ensure!(ask(&two, "SELECT pg_advisory_lock(9)").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_taken_row_by_row_and_waited_for() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let (one, two) = (cluster.connect(1).await?, cluster.connect(3).await?);
    one.batch_execute("CREATE TABLE jobs (id int PRIMARY KEY, n int); INSERT INTO jobs SELECT g, 0 FROM generate_series(1, 100) AS t(g)").await?;
    ensure!(
        ask(&one, "SELECT count(*) FROM (SELECT pg_advisory_lock(id) FROM jobs ORDER BY id LIMIT 3) s")
            .await?
            == "3"
    );
    let held = "SELECT string_agg(objid::text, ',' ORDER BY objid) FROM pg_locks WHERE locktype = 'advisory'";
    ensure!(ask(&two, held).await? == "1,2,3", "{}", ask(&two, held).await?);
    // A queue: what is taken is passed over, and no more is taken than is asked for.
    let next = "SELECT id FROM jobs WHERE pg_try_advisory_lock(id) LIMIT 1";
    ensure!(ask(&two, next).await? == "4");
    ensure!(ask(&two, held).await? == "1,2,3,4", "{}", ask(&two, held).await?);
    ensure!(ask(&two, "SELECT j.id FROM jobs j JOIN jobs k ON j.id = k.id WHERE pg_try_advisory_lock(j.id + 3) ORDER BY j.id LIMIT 1").await? == "1");
    ensure!(ask(&two, "SELECT ok FROM (SELECT pg_try_advisory_lock(1) AS ok) s").await? == "f");
    ensure!(
        ask(&two, "WITH l AS MATERIALIZED (SELECT pg_try_advisory_lock(50) AS ok) SELECT ok FROM l").await?
            == "t"
    );
    ensure!(ask(&two, "SELECT * FROM pg_try_advisory_lock(51)").await? == "t");
    // Waiting.
    ensure!(fails(&two, "SET lock_timeout = '200ms'; SELECT pg_advisory_lock(1)").await? == "55P03");
    ensure!(
        fails(&two, "SET lock_timeout = 0; SET statement_timeout = '200ms'; SELECT pg_advisory_lock(1)")
            .await?
            == "57014"
    );
    two.batch_execute("SET statement_timeout = 0").await?;
    let waiting = ask(&two, "SELECT pg_advisory_lock(1)");
    let giving = async {
        pause(300).await;
        let waits =
            ask(&one, "SELECT blocked_by || ' ' || statement FROM flotilla.locks WHERE NOT granted").await;
        one.batch_execute("SELECT pg_advisory_unlock(1)").await?;
        waits
    };
    let (waited, waits) = futures::join!(waiting, giving);
    waited?;
    let waits = waits?;
    ensure!(waits.starts_with("1/") && waits.ends_with("SELECT pg_advisory_lock(1)"), "{waits}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circles_of_rows_and_advisory_locks_are_found() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let (one, two) = (cluster.connect(1).await?, cluster.connect(2).await?);
    one.batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0)").await?;
    one.batch_execute("SELECT pg_advisory_lock(1)").await?;
    two.batch_execute("BEGIN; UPDATE t SET n = 1 WHERE id = 1").await?;
    let both = async {
        let first = one.batch_execute("UPDATE t SET n = 2 WHERE id = 1");
        let second = async {
            let result = two.batch_execute("SELECT pg_advisory_lock(1)").await;
            two.batch_execute("ROLLBACK").await?;
            result
        };
        let third = async {
            let result = first.await;
            one.batch_execute("SELECT pg_advisory_unlock_all()").await?;
            result
        };
        futures::join!(third, second)
    };
    let (first, second) = tokio::time::timeout(Duration::from_secs(20), both).await.context("for ever")?;
    let states: Vec<_> = [first, second]
        .into_iter()
        .map(|r| r.err().and_then(|e| e.code().map(|c| c.code().to_owned())))
        .collect();
    let victims = states.iter().flatten().filter(|state| *state == "40P01").count();
    ensure!(victims == 1 && states.iter().flatten().count() == 1, "{states:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_outlive_their_leader_but_not_their_gateway() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let leader = cluster.leader().await?;
    let (gateway, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let (holder, rival) = (cluster.connect(gateway).await?, cluster.connect(other).await?);
    holder.batch_execute("SELECT pg_advisory_lock(1)").await?;
    cluster.script(&["kill", &leader.to_string()])?;
    // Never both, and the holder keeps it.
    for _ in 0..10 {
        ensure!(ask(&rival, "SELECT pg_try_advisory_lock(1)").await? == "f", "{}", cluster.logs());
        ensure!(ask(&holder, "SELECT 1").await? == "1", "{}", cluster.logs());
        pause(200).await;
    }
    cluster.script(&["start", &leader.to_string()])?;
    // A gateway that sleeps: others get the lock, and its session learns that it has lost it.
    cluster.script(&["pause", &gateway.to_string()])?;
    rival
        .batch_execute("SET lock_timeout = '20s'; SELECT pg_advisory_lock(1)")
        .await
        .with_context(|| cluster.logs())?;
    cluster.script(&["resume", &gateway.to_string()])?;
    let lost = fails(&holder, "SELECT 1").await?;
    ensure!(lost == "57P01" || holder.is_closed(), "{lost}");
    ensure!(ask(&rival, "SELECT pg_advisory_unlock(1)").await? == "t");
    Ok(())
}
