//! `flotilla debug recover`: two of three nodes are lost for good, and what the third one has is all there is. From it a cluster with
//! three replicas of everything grows again.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tests::{Cluster, binary, pause, text};

/// What is left of everything.
const SURVIVOR: usize = 1;
/// The number of the rows, and their sum.
const SUM: &str = "SELECT count(*)::text || ' ' || sum(v)::text FROM t";

fn recover(cluster: &Cluster, lost: &[&str], rest: &[&str]) -> Result<Output> {
    let store = cluster.node_dir(SURVIVOR).join("store");
    let mut command = Command::new(binary());
    command.args(["debug", "recover", "--lost", &lost.join(","), "--store"]).arg(store).args(rest);
    Ok(command.output()?)
}

fn refused(output: &Output, status: i32, what: &str) -> Result<()> {
    ensure!(output.status.code() == Some(status) && text(output).contains(what), "{}", text(output));
    Ok(())
}

/// The one value of a query, as soon as somebody answers: a node is ready before it leads all its groups.
async fn value_at_last(cluster: &Cluster, sql: &str) -> Result<String> {
    let mut failure = None;
    for _ in 0..300 {
        match cluster.value(SURVIVOR, sql).await {
            Ok(value) => return Ok(value),
            Err(error) => failure = Some(error),
        }
        pause(200).await;
    }
    bail!("{sql}: not within a minute: {failure:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_of_three_nodes_has_becomes_a_whole_cluster_again() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let client = cluster.connect(SURVIVOR).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int UNIQUE) WITH (sharding = 'hash', shards = 2);
             INSERT INTO t SELECT n, 2 * n FROM generate_series(1, 500) AS g(n)",
        )
        .await?;
    for n in 501..=520_i32 {
        client.execute("INSERT INTO t VALUES ($1, $2)", &[&n, &(2 * n)]).await?;
    }
    drop(client);
    let sum = format!("520 {}", 520 * 521);
    ensure!(cluster.value(2, SUM).await? == sum);
    // Equal at an index beyond all those rows: so the survivor has them, and none that was acknowledged may be missing later.
    let compared = cluster.check(&[])?;
    ensure!(compared.status.success(), "{}", text(&compared));
    let (me, second, third) = (cluster.name(SURVIVOR)?, cluster.name(2)?, cluster.name(3)?);
    let lost = [second.as_str(), third.as_str()];

    refused(&recover(&cluster, &lost, &["--accept-data-loss"])?, 4, "in use by another process")?;
    for node in [2, 3] {
        cluster.script(&["kill", &node.to_string()])?;
        std::fs::remove_dir_all(cluster.node_dir(node).join("store"))?;
    }
    cluster.script(&["kill", &SURVIVOR.to_string()])?;

    refused(
        &recover(&cluster, &[&third], &["--accept-data-loss"])?,
        6,
        "no group here has lost its majority",
    )?;
    refused(&recover(&cluster, &[&me, &second], &["--accept-data-loss"])?, 2, "which is not lost")?;
    refused(&recover(&cluster, &["node-2"], &[])?, 2, "is meant")?;
    let shown = || -> Result<Json> {
        let output = recover(&cluster, &lost, &["--json"])?;
        ensure!(output.status.success(), "{}", text(&output));
        let found: Json = serde_json::from_slice(&output.stdout)?;
        Ok(found["groups"].clone())
    };
    let found = shown()?;
    let groups = found.as_array().context("groups")?;
    // The meta-group, the system's, the database's, and two of the table at least.
    ensure!(groups.len() >= 5 && groups.iter().any(|group| group["group"] == 1), "{found}");
    ensure!(groups.iter().all(|group| group["recovered"] == false), "{found}");
    ensure!(shown()? == found, "showing it has changed it");
    let done = recover(&cluster, &lost, &["--accept-data-loss"])?;
    ensure!(done.status.success(), "{}", text(&done));
    ensure!(text(&done).matches("is the only member now").count() == groups.len(), "{}", text(&done));
    refused(&recover(&cluster, &lost, &["--accept-data-loss"])?, 6, "nothing was changed")?;

    cluster.script(&["start", &SURVIVOR.to_string()])?;
    ensure!(value_at_last(&cluster, SUM).await? == sum, "acknowledged rows are missing");
    cluster.connect(SURVIVOR).await?.batch_execute("INSERT INTO t VALUES (0, -1)").await?;
    let sum = format!("521 {}", 520 * 521 - 1);

    for nodes in [4, 5] {
        cluster.script(&["add"])?;
        cluster.nodes = nodes;
    }
    for name in lost {
        cluster.admin(SURVIVOR, &["decommission", name, "--timeout", "180"])?;
    }
    // Nodes that are decommissioned count no more: the three others live, and all groups have three replicas.
    cluster.admin(SURVIVOR, &["status", "--wait", "180"])?;
    let shards = cluster.admin_json(SURVIVOR, &["shards"])?;
    for shard in shards.as_array().context("a list of shards")? {
        let voters = shard["replicas"].as_array().into_iter().flatten().filter(|r| r["voter"] == true);
        ensure!(voters.count() == 3, "{shard}");
    }
    let compared = cluster.check(&[])?;
    ensure!(compared.status.success(), "{}", text(&compared));
    ensure!(cluster.value(5, SUM).await? == sum);
    Ok(())
}
