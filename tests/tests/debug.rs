//! `flotilla debug`: what is in a stopped node's files, and that looking does no harm.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tests::{Cluster, binary, text};

fn debug(cluster: &Cluster, arguments: &[&str], node: u16, rest: &[&str]) -> Result<Output> {
    let store = cluster.node_dir(node.into()).join("store");
    Ok(Command::new(binary()).arg("debug").args(arguments).arg(store).args(rest).output()?)
}

fn json(output: &Output) -> Result<Json> {
    ensure!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).with_context(|| text(output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_stopped_node_can_be_read() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, note text); ALTER TABLE t SPLIT AT VALUES (0);
             INSERT INTO t SELECT n, 'note ' || n FROM generate_series(1, 500) AS g(n)",
        )
        .await?;

    let refused = debug(&cluster, &["store"], 1, &[])?;
    ensure!(refused.status.code() == Some(4), "a running node's store: {}", text(&refused));

    // A gentle stop flushes everything, so that equal replicas have equal rows in their tables.
    for node in 1..=3 {
        cluster.script(&["stop", &node.to_string()])?;
    }
    let mut digests = Vec::new();
    for node in 1..=3 {
        let store = json(&debug(&cluster, &["--json", "store"], node, &[])?)?;
        ensure!(store["format"] == 2 && store["node"].is_u64(), "{store}");
        let groups = store["groups"].as_array().context("groups")?;
        ensure!(groups.iter().any(|group| group["group"] == 1), "no meta-group: {store}");
        // That of the rows is the last one that was made.
        let group = groups.iter().filter_map(|group| group["group"].as_u64()).max().context("a group")?;
        let page = json(&debug(&cluster, &["--json", "group"], node, &[&format!("g{group}")])?)?;
        ensure!(page["last"]["index"].as_u64() >= page["applied"]["index"].as_u64(), "{page}");
        let data = page["rows"].as_array().and_then(|rows| rows.first()).context("rows")?.clone();
        ensure!(data["rows"].as_u64() >= Some(500), "{page}");
        digests.push((group, data));

        let shown = debug(&cluster, &["log"], node, &["meta", "--limit", "3"])?;
        ensure!(shown.status.success() && text(&shown).lines().count() == 3, "{}", text(&shown));
        let line = debug(&cluster, &["--json", "log"], node, &[&format!("g{group}"), "--limit", "1"])?;
        ensure!(json(&line)?["index"].is_u64(), "{}", text(&line));
    }
    digests.dedup();
    ensure!(digests.len() == 1, "replicas differ: {digests:?}");

    let unknown = debug(&cluster, &["group"], 1, &["g4711"])?;
    ensure!(unknown.status.code() == Some(2) && text(&unknown).contains("g4711"), "{}", text(&unknown));
    let nothing = Command::new(binary()).args(["debug", "store", "/nowhere"]).output()?;
    ensure!(nothing.status.code() == Some(4) && text(&nothing).contains("/nowhere"), "{}", text(&nothing));

    cluster.script(&["up"])?;
    ensure!(cluster.value(2, "SELECT count(*) FROM t").await? == "500");
    Ok(())
}
