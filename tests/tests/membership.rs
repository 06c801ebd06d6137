//! Replicas and nodes that come and go, while a bank is at work: no money is lost, and clients hardly notice.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tests::bank::bank_while;
use tests::{Cluster, pause};

/// What a planned change may cost a client, on a machine that has other things to do.
const GAP_PLANNED: Duration = Duration::from_millis(2_500);
/// What the death of a node may.
const GAP_CRASH: Duration = Duration::from_secs(6);

/// By shard: its group, its leader, and its voters' nodes.
fn placement(cluster: &Cluster, asked: usize) -> Result<Vec<(u64, u64, Vec<u64>)>> {
    let shards = cluster.admin_json(asked, &["shards"])?;
    let number = |json: &Json| json.as_u64().unwrap_or(0);
    let voters = |shard: &Json| -> Vec<u64> {
        let replicas = shard["replicas"].as_array().into_iter().flatten();
        replicas.filter(|r| r["voter"] == Json::Bool(true)).map(|r| number(&r["node"])).collect()
    };
    let list = shards.as_array().context("a list of shards")?;
    Ok(list.iter().map(|s| (number(&s["group"]), number(&s["leader"]), voters(s))).collect())
}

/// Waits until `asked` says that it is so of all shards.
async fn until(
    cluster: &Cluster,
    asked: usize,
    what: &str,
    so: impl Fn(&(u64, u64, Vec<u64>)) -> bool,
) -> Result<()> {
    let mut last = Vec::new();
    for _ in 0..300 {
        if let Ok(placed) = placement(cluster, asked) {
            if !placed.is_empty() && placed.iter().all(&so) {
                return Ok(());
            }
            last = placed;
        }
        pause(200).await;
    }
    bail!("{what}: not within a minute, but {last:?}\n{}", cluster.logs())
}

fn id(name: &str) -> u64 {
    name.trim_start_matches('n').parse().expect("n and a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_of_everything_is_decommissioned_under_load() -> Result<()> {
    let cluster = Arc::new(Cluster::start(4)?);
    let leader = cluster.leader().await?;
    let name = cluster.name(leader)?;
    let other = leader % 4 + 1;
    bank_while(&cluster, 1..=4, Duration::from_secs(15), GAP_PLANNED, async |cluster| {
        cluster.admin(other, &["decommission", &name])?;
        // Again: it is so already.
        cluster.admin(other, &["decommission", &name])?;
        ensure!(placement(cluster, other)?.iter().all(|(_, _, nodes)| !nodes.contains(&id(&name))));
        let refused = cluster.admin(other, &["drain", &name]);
        ensure!(refused.is_err(), "a decommissioned node was drained");
        Ok(())
    })
    .await?;
    let duty = format!("SELECT duty FROM flotilla.nodes WHERE node_id = {}", id(&name));
    ensure!(cluster.value(other, &duty).await? == "decommissioned");
    // What is done is not cancelled.
    let operation = format!("decommission-{}", id(&name));
    let answer = cluster.admin(other, &["operations", "cancel", &operation])?;
    ensure!(answer.contains("not under way any more"), "{answer}");
    ensure!(cluster.value(other, &duty).await? == "decommissioned");
    // It can go, and nobody misses it.
    cluster.script(&["stop", &leader.to_string()])?;
    cluster.admin(other, &["status", "--wait", "30"])?;
    // And it is kept if its operator thinks better of it.
    cluster.script(&["start", &leader.to_string()])?;
    cluster.admin(other, &["recommission", &name])?;
    until(&cluster, other, "the shards have three voters", |(_, _, nodes)| nodes.len() == 3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_died_is_replaced_and_cleaned_up_when_it_returns() -> Result<()> {
    let cluster = Arc::new(Cluster::start(4)?);
    let victim = cluster.leader().await?;
    let name = cluster.name(victim)?;
    let asked = victim % 4 + 1;
    cluster.admin(asked, &["settings", "set", "node_down_replace_after", "5s"])?;
    let others = (1..=4).filter(|n| *n != victim);
    bank_while(&cluster, others, Duration::from_secs(20), GAP_CRASH, async |cluster| {
        cluster.script(&["kill", &victim.to_string()])?;
        let rebuilt = |(_, _, nodes): &(u64, u64, Vec<u64>)| nodes.len() == 3 && !nodes.contains(&id(&name));
        until(cluster, asked, "what the dead node had is rebuilt", rebuilt).await
    })
    .await?;
    // Not to be moved back for evenness, so that what it has is what was left.
    cluster.admin(asked, &["settings", "set", "rebalance", "off"])?;
    cluster.script(&["start", &victim.to_string()])?;
    let log = cluster.node_dir(victim).join("log");
    let mut removed = 0;
    for _ in 0..300 {
        removed = std::fs::read_to_string(&log)?.matches("was no member any more").count();
        if removed > 0 {
            break;
        }
        pause(200).await;
    }
    ensure!(removed > 0, "what was left was not removed\n{}", cluster.logs());
    cluster.admin(asked, &["settings", "reset", "rebalance"])?;
    cluster.admin(asked, &["status", "--wait", "60"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_go_on_when_the_leader_dies_in_their_midst() -> Result<()> {
    let cluster = Arc::new(Cluster::start(4)?);
    let names: Vec<u64> = (1..=4).map(|n| Ok(id(&cluster.name(n)?))).collect::<Result<_>>()?;
    // Placement shall not move the same replicas meanwhile.
    cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
    bank_while(&cluster, 1..=4, Duration::from_secs(30), GAP_CRASH, async |cluster| {
        for _ in 0..3 {
            cluster.admin(1, &["status", "--wait", "30"])?;
            let placed = placement(cluster, 1)?;
            let (group, leader, nodes) = placed.iter().max().context("a shard")?.clone();
            let taker = (1..=4).find(|n| !nodes.contains(n)).context("a free node")?;
            let victim = names.iter().position(|name| *name == leader).context("the leader's number")? + 1;
            let (shard, from, to) = (format!("g{group}"), format!("n{leader}"), format!("n{taker}"));
            let moving = ["move", &shard, "--from", &from, "--to", &to, "--no-wait"];
            cluster.admin(1, &moving)?;
            cluster.script(&["kill", &victim.to_string()])?;
            // Said again: it is under way, or done.
            cluster.admin(victim % 4 + 1, &moving)?;
            pause(500).await;
            cluster.script(&["start", &victim.to_string()])?;
        }
        cluster.admin(1, &["status", "--wait", "60"])?;
        Ok(())
    })
    .await?;
    ensure!(cluster.admin_json(1, &["operations"])? == Json::Array(Vec::new()), "moves are left over");
    until(&cluster, 1, "the shards have three voters", |(_, _, nodes)| nodes.len() == 3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_told_what_to_do() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let refused = |args: &[&str], what: &str| -> Result<()> {
        let error = cluster.admin(1, args).err().with_context(|| format!("{args:?} was not refused"))?;
        ensure!(error.to_string().contains(what), "{args:?}: {error}");
        Ok(())
    };
    refused(&["decommission", "n2"], "Start another node first")?;
    refused(&["decommission", "n7"], "there are n1, n2, n3")?;
    refused(&["move", "g3", "--from", "n1", "--to", "n2"], "has a replica of g3 already")?;
    refused(&["transfer-leader", "g77", "n1"], "flotilla admin shards")?;
    refused(&["repair", "n2"], "is not down")?;
    for nothing in ["move-1x", "move-99", "decommission-9"] {
        refused(&["operations", "cancel", nothing], "flotilla admin operations")?;
    }
    for _ in 0..2 {
        cluster.admin(1, &["drain", "n2"])?;
    }
    ensure!(placement(&cluster, 1)?.iter().all(|(_, leader, _)| *leader != 2), "a drained node leads");
    let listed = cluster.value(1, "SELECT kind || ' ' || subject FROM flotilla.operations LIMIT 1").await?;
    ensure!(listed == "drain n2", "{listed}");
    for said in ["is cancelled", "is not under way any more"] {
        let answer = cluster.admin(1, &["operations", "cancel", "drain-2"])?;
        ensure!(answer.contains(said), "{answer}");
    }
    let create = "CREATE TABLE spread (a int PRIMARY KEY) WITH (sharding = 'hash', shards = 2)";
    cluster.connect(1).await?.batch_execute(create).await?;
    let shards = cluster.admin_json(1, &["shards", "spread"])?;
    // What is before and after the two lies in other shards; the first key may be in the one before.
    ensure!(shards.as_array().is_some_and(|list| (2..=4).contains(&list.len())), "{shards}");
    refused(&["shards", "nowhere"], "does not exist")?;
    let plan = cluster.admin_json(1, &["rebalance", "--dry-run"])?;
    ensure!(plan["steps"].is_array() && plan["before"].is_string(), "{plan}");
    for _ in 0..2 {
        cluster.admin(1, &["transfer-leader", "g3", "n3"])?;
    }
    let value = "SELECT value FROM flotilla.settings WHERE name = 'node_down_replace_after'";
    ensure!(cluster.value(1, value).await? == "5min");
    Ok(())
}
