//! What operators do, in SQL.

use anyhow::{Context, Result, bail, ensure};
use tests::{Cluster, pause, sqlstate};

/// Waits, for half a minute, until `sql` gives `wanted`.
async fn until(cluster: &Cluster, sql: &str, wanted: &str) -> Result<()> {
    let mut seen = String::new();
    for _ in 0..150 {
        seen = cluster.value(1, sql).await?;
        if seen == wanted {
            return Ok(());
        }
        pause(200).await;
    }
    bail!("{sql}: {seen}, and not {wanted}\n{}", cluster.logs())
}

async fn said(cluster: &Cluster, call: &str, wanted: &str) -> Result<()> {
    let said = cluster.value(1, &format!("SELECT flotilla.{call}")).await?;
    ensure!(said == wanted, "{call}: {said}, and not {wanted}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_do_what_the_command_line_does() -> Result<()> {
    let cluster = Cluster::start(3)?;
    said(&cluster, "set_setting('rebalance', 'off')", "rebalance = off").await?;
    until(&cluster, "SELECT value FROM flotilla.settings WHERE name = 'rebalance'", "off").await?;
    let planned = cluster.value(1, "SELECT flotilla.rebalance()").await?;
    ensure!(planned.contains("to be taken next") && planned.contains("rebalance is off"), "{planned}");

    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE cut (a int PRIMARY KEY, b text)").await?;
    client.batch_execute("INSERT INTO cut SELECT n, md5(n::text) FROM generate_series(1, 2000) n").await?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let first =
        "SELECT group_id FROM flotilla.shards WHERE database_name = 'postgres' ORDER BY start_key LIMIT 1";
    let shard = cluster.value(1, first).await?;
    let count = "SELECT count(*) FROM flotilla.shards";
    let before: usize = cluster.value(1, count).await?.parse()?;
    let cut = cluster.value(1, &format!("SELECT flotilla.split({shard})")).await?;
    ensure!(cut.contains(" begins at \\x"), "{cut}");
    until(&cluster, count, &(before + 1).to_string()).await?;
    let merged = cluster.value(1, &format!("SELECT flotilla.merge('g{shard}')")).await?;
    ensure!(merged.contains(&format!("g{shard} absorbs ")), "{merged}");
    until(&cluster, count, &before.to_string()).await?;
    said(&cluster, &format!("transfer_leader({shard}, 3)"), &format!("g{shard} is led by n3")).await?;

    said(&cluster, "repair()", "no node is down").await?;
    said(&cluster, "meta_add(2)", "n2 is a member already of the meta-group").await?;
    let name = cluster.name(2)?;
    let number = &name[1..];
    said(&cluster, &format!("drain({number})"), &format!("{name} is draining")).await?;
    until(&cluster, "SELECT subject FROM flotilla.operations WHERE kind = 'drain' LIMIT 1", &name).await?;
    said(&cluster, &format!("cancel('drain-{number}')"), &format!("drain-{number} is cancelled")).await?;
    until(&cluster, &format!("SELECT duty FROM flotilla.nodes WHERE node_id = {number}"), "active").await?;

    for (call, why) in [
        ("drain('n9')", "there is no node"),
        ("merge('g999')", "there is no shard"),
        ("undrain(77)", "there is no node"),
        ("cancel('nothing')", "no operation that can be cancelled"),
        ("set_setting('no_such_thing', 'x')", "no_such_thing"),
    ] {
        let refused = client.batch_execute(&format!("SELECT flotilla.{call}")).await;
        let refused = refused.err().with_context(|| format!("{call} was not refused"))?;
        let told = refused.as_db_error().map_or("", |error| error.message());
        ensure!(sqlstate(&refused) == "22023" && told.contains(why), "{call}: {refused:?}");
    }
    // Where they may not be called, they do nothing.
    for (statement, state) in [
        ("BEGIN READ ONLY; SELECT flotilla.repair()", "25006"),
        ("SELECT 1 WHERE flotilla.repair() <> ''", "0A000"),
    ] {
        let refused = client.batch_execute(statement).await;
        let refused = refused.err().with_context(|| format!("{statement} was not refused"))?;
        ensure!(sqlstate(&refused) == state, "{statement}: {refused:?}");
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_show_disks_sizes_and_lag() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(2).await?;
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    let nodes = "SELECT count(*) FROM flotilla.nodes WHERE disk_bytes > disk_used_bytes AND disk_used_bytes > 0 AND locality = ''";
    until(&cluster, nodes, "3").await?;
    let sessions = "SELECT sum(sessions) > 0 FROM flotilla.nodes";
    until(&cluster, sessions, "t").await?;
    let shards = "SELECT count(*) > 0 FROM flotilla.shards WHERE voters <> '' AND lag = 0 AND unreachable = '' AND bytes >= 0 \
                  AND reads_per_second >= 0 AND writes_per_second >= 0";
    until(&cluster, shards, "t").await
}
