//! Nodes in three regions: a table's replicas are where its rule wants them, and nothing of them is taken away when the leader of
//! the meta-group dies.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tests::{Cluster, pause, text};

/// Where node 1, 2, … stands.
const REGIONS: [&str; 6] = ["eu", "eu", "eu", "us", "us", "asia"];
/// How often it is looked whether something has been taken away, five times a second.
const LOOKS: usize = 50;

fn start() -> Result<Cluster> {
    let cluster = Cluster::prepare(REGIONS.len())?;
    let localities = REGIONS.map(|region| format!("region={region}")).join(" ");
    cluster.script(&["up", "--nodes", &REGIONS.len().to_string(), "--localities", &localities])?;
    Ok(cluster)
}

fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or(0)
}

fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}

/// The ids of the nodes in these regions, as they have said themselves.
fn nodes_in(cluster: &Cluster, regions: &[&str]) -> Result<BTreeSet<u64>> {
    let nodes = cluster.admin_json(1, &["nodes"])?;
    let within = |node: &&Json| regions.iter().any(|region| node["locality"] == format!("region={region}"));
    Ok(list(&nodes).filter(within).map(|node| number(&node["id"])).collect())
}

/// The nodes of a shard's voters. Empty: its leader has not told of them yet.
fn voters(shard: &Json) -> BTreeSet<u64> {
    list(&shard["replicas"]).filter(|r| r["voter"] == Json::Bool(true)).map(|r| number(&r["node"])).collect()
}

/// … of each shard of a table.
fn placed(cluster: &Cluster, asked: usize, table: &str) -> Result<Vec<BTreeSet<u64>>> {
    let shards = cluster.admin_json(asked, &["shards", table])?;
    // What lies before the table may hold nothing of it, and is listed all the same.
    let last = list(&shards).last().context("a shard")?["table"].clone();
    Ok(list(&shards).filter(|shard| shard["table"] == last).map(voters).collect())
}

async fn until_placed(cluster: &Cluster, table: &str, wanted: &BTreeSet<u64>) -> Result<()> {
    let mut last = Vec::new();
    for _ in 0..300 {
        if let Ok(placed) = placed(cluster, 1, table) {
            if !placed.is_empty() && placed.iter().all(|voters| voters == wanted) {
                return Ok(());
            }
            last = placed;
        }
        pause(200).await;
    }
    bail!("{table} is not on {wanted:?}, but on {last:?}\n{}", cluster.logs())
}

/// The id of the node that leads the meta-group.
fn meta_leader(cluster: &Cluster, asked: usize) -> Result<u64> {
    Ok(number(&cluster.admin_json(asked, &["meta", "status"])?["leader"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_stay_in_their_regions_when_the_leader_of_the_meta_group_dies() -> Result<()> {
    let cluster = start()?;
    let client = cluster.connect(1).await?;
    let home = nodes_in(&cluster, &["eu"])?;
    let abroad = nodes_in(&cluster, &["us", "asia"])?;
    ensure!((home.len(), abroad.len()) == (3, 3), "{home:?} {abroad:?}");
    let places = [("home", "region=eu", &home), ("abroad", "not region=eu; 2 in region=us", &abroad)];
    for (table, place, _) in places {
        client.batch_execute(&format!("CREATE TABLE {table} (a int PRIMARY KEY)")).await?;
        client.batch_execute(&format!("INSERT INTO {table} SELECT generate_series(1, 100)")).await?;
        client.batch_execute(&format!("ALTER TABLE {table} SET (placement = '{place}')")).await?;
    }
    for (table, _, wanted) in places {
        until_placed(&cluster, table, wanted).await?;
    }
    cluster.admin(1, &["status", "--wait", "60"])?;

    let leader = meta_leader(&cluster, 1)?;
    let all = 1..=cluster.nodes;
    let victim = all.clone().find(|n| cluster.name(*n).is_ok_and(|name| name == format!("n{leader}")));
    let victim = victim.with_context(|| format!("no process is n{leader}"))?;
    let asked = all.clone().find(|n| *n != victim).context("another node")?;
    cluster.script(&["kill", &victim.to_string()])?;
    // From the first answer of the next leader on, which has heard of hardly anybody.
    let (mut looks, mut seen) = (0, 0);
    for _ in 0..300 {
        let led = meta_leader(&cluster, asked).is_ok_and(|now| now != 0 && now != leader);
        looks += usize::from(led || looks > 0);
        for (table, _, wanted) in places {
            for voters in placed(&cluster, asked, table).unwrap_or_default() {
                ensure!(
                    voters.is_empty() || voters == *wanted,
                    "{table} is on {voters:?}\n{}",
                    cluster.logs()
                );
                seen += usize::from(looks > 0 && !voters.is_empty());
            }
        }
        let shards = cluster.admin_json(asked, &["shards"]).unwrap_or_default();
        for voters in list(&shards).map(voters).filter(|voters| !voters.is_empty()) {
            ensure!(voters.len() >= 3, "a shard has {voters:?}\n{}", cluster.logs());
        }
        if looks >= LOOKS && seen > 0 {
            break;
        }
        pause(200).await;
    }
    ensure!(looks >= LOOKS && seen > 0, "nobody leads the meta-group\n{}", cluster.logs());
    for (table, _, _) in places {
        ensure!(cluster.value(asked, &format!("SELECT count(*) FROM {table}")).await? == "100");
    }
    cluster.script(&["start", &victim.to_string()])?;
    cluster.admin(asked, &["status", "--wait", "60"])?;

    // A slip of the pen is told, and takes nothing away.
    let slip = "ALTER TABLE home SET (placement = 'region=eux')";
    let answer = text(&cluster.psql(asked, &["-v", "ON_ERROR_STOP=1"], slip)?);
    ensure!(answer.contains("no node is where all replicas shall be"), "{answer}");
    for _ in 0..LOOKS {
        for voters in placed(&cluster, asked, "home").unwrap_or_default() {
            ensure!(voters.is_empty() || voters.len() >= 3, "home is on {voters:?}\n{}", cluster.logs());
        }
        pause(200).await;
    }
    cluster.admin(asked, &["status", "--wait", "60"])?;
    Ok(())
}
