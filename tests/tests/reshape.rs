//! Shards that are split and merged while a bank is at work, by command, by themselves, and with nodes killed in between.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tests::bank::bank_while;
use tests::{Cluster, pause};

/// What splits, merges and dying nodes may cost a client.
const GAP: Duration = Duration::from_secs(6);

/// Group and first key, in key order.
fn shards(cluster: &Cluster, asked: usize) -> Result<Vec<(u64, String)>> {
    let shards = cluster.admin_json(asked, &["shards"])?;
    let list = shards.as_array().context("a list of shards")?.iter();
    let shard = |shard: &Json| Some((shard["group"].as_u64()?, shard["start"].as_str()?.to_owned()));
    Ok(list.filter_map(shard).collect())
}

fn name(group: u64) -> String {
    format!("g{group}")
}

/// Splits a shard of the bank: each bucket of the hash has one; its accounts are cut between 3 and 4.
fn cut(cluster: &Cluster, asked: usize, round: usize) -> Result<Json> {
    let own = cluster.admin_json(asked, &["shards", "bank"])?;
    let buckets = own.as_array().context("shards")?.iter().filter_map(|shard| {
        let start = shard["start"].as_str()?;
        let bucket = &start[start.len().checked_sub(4)?..];
        bucket.starts_with("800").then(|| Some((shard["group"].as_u64()?, start.to_owned())))?
    });
    let buckets: Vec<(u64, String)> = buckets.collect();
    ensure!(buckets.len() > 1, "{own}");
    let (left, start) = &buckets[round % (buckets.len() - 1)];
    cluster.admin_json(asked, &["split", &name(*left), "--at", &format!("{start}80000004")])
}

/// The right neighbour.
fn after(cluster: &Cluster, group: u64) -> Result<u64> {
    let shards = shards(cluster, 1)?;
    let at = shards.iter().position(|shard| shard.0 == group).context("the shard")?;
    Ok(shards.get(at + 1).context("a right neighbour")?.0)
}

/// Replicas that were absorbed are removed from all nodes after a while; what stays has to be equal everywhere.
fn all_is_well(cluster: &Cluster) -> Result<()> {
    cluster.admin(1, &["status", "--wait", "60"])?;
    cluster.admin(1, &["check"])?;
    for n in 1..=cluster.nodes {
        let log = std::fs::read_to_string(cluster.node_dir(n).join("log"))?;
        ensure!(!log.contains("HAS FAILED"), "a replica has failed on node {n}\n{}", cluster.logs());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_split_and_merged_by_command_under_load() -> Result<()> {
    let cluster = Arc::new(Cluster::start(3)?);
    bank_while(&cluster, 1..=3, Duration::from_secs(25), GAP, async |cluster| {
        let before = shards(cluster, 1)?;
        let last = before.last().context("a shard")?.0;
        for round in 0..5 {
            let split = cut(cluster, 1, round)?;
            let (left, right) = (split["group"].as_u64(), split["right"].as_u64());
            let (left, right) = (left.context("a shard")?, right.context("a shard")?);
            ensure!(after(cluster, left)? == right, "{split}");
            // Again, at that key: it is so already.
            let key = split["key"].as_str().context("a key")?.to_owned();
            let again = cluster.admin_json(2, &["split", &name(left), "--at", &key]);
            ensure!(again.is_err() || again.is_ok_and(|again| again["right"] == right), "split again");
            cluster.admin(1, &["merge", &name(left)])?;
            ensure!(shards(cluster, 2)? == before, "{:?}", shards(cluster, 2)?);
        }
        // What was split off by command at the start goes as well.
        let mut merged = 0;
        for (group, _) in before.iter().rev().skip(1).take(3) {
            cluster.admin(3, &["merge", &name(*group)])?;
            merged += 1;
        }
        ensure!(shards(cluster, 1)?.len() == before.len() - merged);
        ensure!(!shards(cluster, 1)?.iter().any(|shard| shard.0 == last), "{last} is still there");
        Ok(())
    })
    .await?;
    all_is_well(&cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_are_exact_when_nodes_die_in_their_midst() -> Result<()> {
    let cluster = Arc::new(Cluster::start(3)?);
    bank_while(&cluster, 1..=3, Duration::from_secs(45), GAP, async |cluster| {
        for round in 0..6usize {
            let asked = round % 3 + 1;
            cluster.admin(asked, &["status", "--wait", "60"])?;
            let split = cut(cluster, asked, round)?;
            let left = split["group"].as_u64().context("a shard")?;
            cluster.admin(asked, &["merge", &name(left), "--no-wait"])?;
            // A little later each time: before the freeze, in its midst, after it.
            pause(round as u64 * 25).await;
            let victim = (round + 1) % 3 + 1;
            cluster.script(&["kill", &victim.to_string()])?;
            pause(300).await;
            cluster.script(&["start", &victim.to_string()])?;
        }
        for n in 1..=3 {
            cluster.admin(n, &["status", "--wait", "60"])?;
        }
        // (Leaders may be on their way back to where they were.)
        let operations = cluster.admin_json(1, &["operations"])?;
        let merges = operations.as_array().context("a list")?.iter().filter(|known| known["kind"] == "merge");
        ensure!(merges.count() == 0, "merges are left over: {operations}");
        Ok(())
    })
    .await?;
    all_is_well(&cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_hot_shards_are_split_and_small_ones_merged_by_themselves() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE filled (a int PRIMARY KEY, b text)").await?;
    client.batch_execute("ALTER TABLE filled SPLIT AT VALUES (-2147483648)").await?;
    let before = shards(&cluster, 1)?.len();
    cluster.admin(1, &["settings", "set", "shard_max_bytes", "256kB"])?;
    // (Rows that hardly compress: it is the bytes on disk that count.)
    let fill = "INSERT INTO filled SELECT n, md5(n::text) || md5((n * 7)::text) || md5((n * 11)::text) || md5((n * 13)::text)
                || md5((n * 17)::text) || md5((n * 19)::text) || md5((n * 23)::text) || md5((n * 29)::text)
                FROM generate_series(1, 9000) n";
    client.batch_execute(fill).await?;
    let mut most = before;
    for _ in 0..240 {
        most = most.max(shards(&cluster, 1)?.len());
        if most > before + 1 {
            break;
        }
        pause(500).await;
    }
    ensure!(most > before + 1, "{most} shards\n{}", cluster.logs());
    ensure!(cluster.value(2, "SELECT count(*) FROM filled").await? == "9000");
    // Small again, compared with what may be.
    cluster.admin(1, &["settings", "reset", "shard_max_bytes"])?;
    for _ in 0..240 {
        if shards(&cluster, 1)?.len() <= before {
            break;
        }
        pause(500).await;
    }
    ensure!(shards(&cluster, 1)?.len() <= before, "{:?}\n{}", shards(&cluster, 1)?, cluster.logs());
    ensure!(cluster.value(3, "SELECT count(*), min(a), max(a) FROM filled").await.is_ok());
    all_is_well(&cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_shard_is_cut_where_its_requests_halve() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE hot (a int PRIMARY KEY, b int)").await?;
    client.batch_execute("INSERT INTO hot SELECT n, 0 FROM generate_series(1, 1000) n").await?;
    let before = shards(&cluster, 1)?.len();
    cluster.admin(1, &["settings", "set", "shard_max_requests_per_second", "40"])?;
    let mut cut = false;
    for n in 0..6_000 {
        client.execute("UPDATE hot SET b = b + 1 WHERE a = $1", &[&(n * 7_919 % 100 + 1)]).await?;
        if n % 200 == 199 && shards(&cluster, 1)?.len() > before {
            cut = true;
            break;
        }
    }
    ensure!(cut, "not cut\n{}", cluster.logs());
    all_is_well(&cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_has_as_many_replicas_as_it_is_told() -> Result<()> {
    let cluster = Cluster::start(4)?;
    let client = cluster.connect(1).await?;
    let create = "CREATE TABLE precious (a int PRIMARY KEY) WITH (replication_factor = 4)";
    client.batch_execute(create).await?;
    client.batch_execute("INSERT INTO precious SELECT generate_series(1, 100)").await?;
    let voters = || -> Result<Vec<usize>> {
        let shards = cluster.admin_json(1, &["shards", "precious"])?;
        let database = cluster.admin_json(1, &["shards"])?;
        // The table's own shards begin in it; what is before holds nothing of it.
        let own = shards.as_array().context("shards")?.iter().filter(|shard| !shard["table"].is_null());
        ensure!(database.as_array().is_some_and(|all| all.len() > 2), "{database}");
        let count = |shard: &Json| {
            let replicas = shard["replicas"].as_array().into_iter().flatten();
            replicas.filter(|replica| replica["voter"] == Json::Bool(true)).count()
        };
        Ok(own.map(count).collect())
    };
    let until = async |wanted: usize| -> Result<()> {
        for _ in 0..200 {
            let counts = voters()?;
            if !counts.is_empty() && counts.iter().all(|count| *count == wanted) {
                return Ok(());
            }
            pause(300).await;
        }
        anyhow::bail!("not {wanted} but {:?}\n{}", voters()?, cluster.logs())
    };
    until(4).await?;
    // The cluster's own factor is three, so of the other tables' shards nothing would be lacking.
    let refused = cluster.admin(1, &["decommission", "n4", "--no-wait"]);
    let refused = refused.err().context("a node that the table needs is given up")?.to_string();
    ensure!(refused.contains("SET (replication_factor = 3)"), "{refused}");
    client.batch_execute("ALTER TABLE precious SET (replication_factor = 3)").await?;
    until(3).await?;
    for (wrong, what) in [
        ("ALTER TABLE precious SET (replication_factor = 99)", "invalid value for \"replication_factor\""),
        ("ALTER TABLE precious SET (placement = 'planet=mars')", "invalid value for \"placement\""),
        ("ALTER TABLE precious SET (colour = 1)", "unrecognized parameter \"colour\""),
        ("BEGIN; ALTER TABLE precious SET (replication_factor = 3)", "cannot run inside a transaction block"),
    ] {
        let error = client.batch_execute(wrong).await.err().with_context(|| wrong.to_owned())?;
        let message = error.as_db_error().context("an answer of the server")?.message().to_owned();
        ensure!(message.contains(what), "{wrong}: {message}");
        let _ = client.batch_execute("ROLLBACK").await;
    }
    ensure!(cluster.value(2, "SELECT count(*) FROM precious").await? == "100");
    // The other shards have their three.
    cluster.admin(1, &["status", "--wait", "60"])?;
    Ok(())
}
