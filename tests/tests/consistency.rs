//! `flotilla admin check`: the replicas of each shard compared, and the tables' constraints looked at, while clients work. (That it
//! finds what is damaged is shown in `admin_check.rs`; by a build that loses rows, in `verify.rs`; and what is wrong in tables, in
//! `sql/testscripts/sql/inspection`.) And the comparison that nobody asks for, which replaces a replica that differs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use storage::Cf;
use storage::ids::KeyRange;
use storage::seam::Seams;
use tests::{Cluster, binary, pause, sabotaged_binary, sqlstate, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_compared_while_clients_write_and_one_that_is_away_is_named() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(2).await?;
    client
        .batch_execute(
            "CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE);
             INSERT INTO p SELECT n, 'c' || n FROM generate_series(0, 99) AS g(n);
             CREATE TABLE t (id int PRIMARY KEY, v text, p int REFERENCES p, u int UNIQUE CHECK (u >= 0))
             WITH (sharding = 'hash', shards = 3);
             INSERT INTO t SELECT n, repeat('x', 200), n % 100, n FROM generate_series(0, 1999) AS g(n)",
        )
        .await?;
    let writing = async {
        for n in 0.. {
            let changed = "UPDATE t SET v = 'new', u = u + 2000, p = (p + 7) % 100 WHERE id = $1";
            client.execute(changed, &[&(n % 2000)]).await?;
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    let checking = async {
        let host = format!("127.0.0.1:{}", cluster.rpc_port(1));
        let mut command = tokio::process::Command::new(binary());
        anyhow::Ok(command.args(["admin", "check", "--all", "--host", &host]).output().await?)
    };
    let output = tokio::select! {
        ended = writing => return ended,
        output = checking => output?,
    };
    let said = text(&output);
    ensure!(output.status.code() == Some(0), "{said}");
    ensure!(said.contains("0 differ, 0 not looked at"), "{said}");
    // The meta-group, the system's, the database's and those of the table, three replicas each.
    ensure!(said.matches(" equal").count() >= 3 * 6, "{said}");

    ensure!(
        said.contains("2 tables, 2100 rows") && said.contains(": 0 not consistent, 0 not looked at"),
        "{said}"
    );
    let output = cluster.check(&["--table", "public.t", "--table", "p"])?;
    ensure!(output.status.success() && !text(&output).contains("differ"), "{}", text(&output));
    let output = cluster.check(&["--table", "nobody"])?;
    ensure!(output.status.code() == Some(6) && text(&output).contains("\"nobody\""), "{}", text(&output));

    let output = cluster.check(&["g4711"])?;
    ensure!(output.status.code() == Some(2) && text(&output).contains("4711"), "{}", text(&output));

    let output = cluster.check(&["--all", "meta", "g3"])?;
    ensure!(text(&output).contains("2 groups, 6 replicas: 0 differ"), "{}", text(&output));

    cluster.script(&["pause", "3"])?;
    // Groups that it led elect others.
    pause(3_000).await;
    let output = cluster.check(&["--json"])?;
    cluster.script(&["resume", "3"])?;
    ensure!(output.status.code() == Some(7), "{}", text(&output));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let groups = &said["groups"];
    let states =
        groups.as_array().into_iter().flatten().flat_map(|group| group["replicas"].as_array()).flatten();
    let unknown = states.filter(|replica| replica["state"] == "unknown").count();
    ensure!(unknown == groups.as_array().map_or(0, Vec::len), "{groups:#}");
    let tables = said["tables"].as_array().into_iter().flatten();
    ensure!(
        tables.clone().count() == 4 && tables.clone().all(|table| table["state"] == "consistent"),
        "{said:#}"
    );
    Ok(())
}

/// Alters one row in the store of a stopped node; its replica's leader and the other follower have it as it was.
fn alter_a_row(store: &Path, from: &[u8], to: u8) -> Result<()> {
    let store = storage::Store::open(store, storage::StoreOptions::default(), Seams::real())?;
    let engine = store.engine();
    let view = engine.snapshot();
    let mut rows = view.iter(Cf::Data, &KeyRange::all());
    rows.seek_to_first();
    let mut batch = engine.batch();
    while let Some((key, value)) = rows.item() {
        if let Some(at) = value.windows(from.len()).position(|found| found == from) {
            let mut altered = value.to_vec();
            altered[at] = to;
            batch.put(Cf::Data, key, &altered);
        }
        rows.next();
    }
    rows.check()?;
    ensure!(batch.len() == 1, "{} rows are altered", batch.len());
    drop(rows);
    engine.write(batch)?;
    Ok(store.close()?)
}

/// The replica of the shard on that node.
fn replica_on(cluster: &Cluster, asked: usize, shard: &str, id: &str) -> Result<Option<u64>> {
    let shards = cluster.admin_json(asked, &["shards"])?;
    let mut shards = shards.as_array().context("a list of shards")?.iter();
    let found = shards.find(|known| known["group"].as_u64().is_some_and(|g| format!("g{g}") == shard));
    let replicas = found.context("the shard")?["replicas"].as_array().context("replicas")?;
    let there = replicas.iter().find(|replica| {
        let node = replica["node"].as_u64().map(|node| format!("n{node}"));
        node.as_deref() == Some(id) && replica["voter"] == true
    });
    Ok(there.and_then(|replica| replica["replica"].as_u64()))
}

/// Waits until the node has another replica of the shard, by the word of node 1.
async fn rebuilt(cluster: &Cluster, shard: &str, id: &str, before: u64) -> Result<()> {
    for _ in 0..720 {
        let now = replica_on(cluster, 1, shard, id).ok().flatten();
        if let Some(now) = now.filter(|now| *now != before) {
            ensure!(now > before, "r{now} comes after r{before}");
            return Ok(());
        }
        pause(250).await;
    }
    bail!("r{before} of {shard} is still on {id}\n{}", cluster.logs())
}

/// Waits until all replicas can be compared, and are equal.
async fn all_equal(cluster: &Cluster) -> Result<()> {
    for _ in 0..120 {
        if cluster.check(&[])?.status.success() {
            return Ok(());
        }
        pause(500).await;
    }
    bail!("{}\n{}", text(&cluster.check(&[])?), cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_found_by_itself_quarantined_and_rebuilt() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT n, 'this is row ' || n || '.' FROM generate_series(1, 2000) AS g(n)",
        )
        .await?;
    drop(client);
    let id = cluster.name(3)?;
    let differing =
        "SELECT 'g' || s.group_id FROM flotilla.shards s WHERE s.database_name = 'postgres' LIMIT 1";
    let shard = cluster.value(1, differing).await?;
    let before = replica_on(&cluster, 1, &shard, &id)?.context("a replica on node 3")?;
    cluster.script(&["stop", "3"])?;
    alter_a_row(&cluster.node_dir(3).join("store"), b"this is row 1234.", b'T')?;
    cluster.script(&["start", "3"])?;
    cluster.admin(1, &["status", "--wait", "30"])?;
    let output = cluster.check(&[])?;
    ensure!(output.status.code() == Some(8) && text(&output).contains("1 differ"), "{}", text(&output));
    // Nothing is done about it before it is time.
    ensure!(replica_on(&cluster, 1, &shard, &id)? == Some(before));

    cluster.admin(1, &["settings", "set", "consistency_check_interval", "3s"])?;
    rebuilt(&cluster, &shard, &id, before).await?;
    let log = fs::read_to_string(cluster.node_dir(3).join("log"))?;
    ensure!(log.contains("THIS REPLICA GOES INTO QUARANTINE"), "{log}");
    let logs: String =
        (1..=3).filter_map(|n| fs::read_to_string(cluster.node_dir(n).join("log")).ok()).collect();
    ensure!(logs.contains("IS NOT AS THE OTHERS"), "{}", cluster.logs());
    cluster.admin(1, &["status", "--wait", "30"])?;
    let output = cluster.check(&[])?;
    ensure!(output.status.code() == Some(0), "{}\n{}", text(&output), cluster.logs());
    for n in 1..=3 {
        ensure!(cluster.value(n, "SELECT count(*) FROM t WHERE v = 'this is row 1234.'").await? == "1");
    }
    Ok(())
}

/// The interval at which replicas are compared is a day: nothing but the node's own word brings this about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_fails_while_its_node_lives_is_rebuilt_at_once() -> Result<()> {
    let mut cluster = Cluster::prepare(3)?;
    cluster.set_environment("FLOTILLA_BIN", sabotaged_binary()?);
    cluster.script(&["up", "--nodes", "3"])?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 100) AS g(n)",
        )
        .await?;
    // The one that fails is to follow.
    cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
    let id = cluster.name(3)?;
    let differing =
        "SELECT 'g' || s.group_id FROM flotilla.shards s WHERE s.database_name = 'postgres' LIMIT 1";
    let shard = cluster.value(1, differing).await?;
    cluster.script(&["stop", "3"])?;
    cluster.set_environment("FLOTILLA_SABOTAGE", "fail-to-apply");
    cluster.script(&["start", "3"])?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let before = replica_on(&cluster, 1, &shard, &id)?.context("a replica on node 3")?;

    client.batch_execute("INSERT INTO t VALUES (101, 'THIS FAILS')").await?;
    rebuilt(&cluster, &shard, &id, before).await?;
    let log = fs::read_to_string(cluster.node_dir(3).join("log"))?;
    ensure!(log.contains("THIS REPLICA HAS FAILED") && log.contains("it says that it is to fail"), "{log}");
    ensure!(log.contains("THIS REPLICA GOES INTO QUARANTINE"), "{log}");
    cluster.admin(1, &["status", "--wait", "60"])?;
    all_equal(&cluster).await?;
    for n in 1..=3 {
        ensure!(cluster.value(n, "SELECT count(*) FROM t").await? == "101");
    }
    Ok(())
}

/// Writes what does not decode into the store of a stopped node: what a replica knows of how far it is, and of what it is.
fn spoil(store: &Path, keys: [Vec<u8>; 2]) -> Result<()> {
    let store = storage::Store::open(store, storage::StoreOptions::default(), Seams::real())?;
    let engine = store.engine();
    let mut batch = engine.batch();
    for key in keys {
        ensure!(
            engine.get(Cf::Group, &key)?.is_some(),
            "there is nothing to spoil at {}",
            key.escape_ascii()
        );
        batch.put(Cf::Group, &key, &[0xff; 5]);
    }
    engine.write(batch)?;
    Ok(store.close()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_replicas_that_cannot_be_opened_starts_and_they_are_rebuilt() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text) WITH (sharding = 'hash', shards = 3);
             INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 1000) AS g(n)",
        )
        .await?;
    let shards = "SELECT 'g' || s.group_id FROM flotilla.shards s WHERE s.database_name = 'postgres'";
    let mut shards: Vec<String> = client.query(shards, &[]).await?.iter().map(|row| row.get(0)).collect();
    shards.sort();
    shards.truncate(2);
    ensure!(shards.len() == 2, "{shards:?}");
    let id = cluster.name(3)?;
    let (mut replicas, mut groups) = (Vec::new(), Vec::new());
    for shard in &shards {
        replicas.push(replica_on(&cluster, 1, shard, &id)?.context("a replica on node 3")?);
        groups.push(shard.trim_start_matches('g').parse::<u64>()?.to_be_bytes());
    }
    cluster.script(&["stop", "3"])?;
    let keys = [[&groups[0][..], &[0x00]].concat(), [&groups[1][..], &[0x10, b'd']].concat()];
    spoil(&cluster.node_dir(3).join("store"), keys)?;
    cluster.script(&["start", "3"])?;
    for (shard, before) in shards.iter().zip(replicas) {
        rebuilt(&cluster, shard, &id, before).await?;
    }
    let log = fs::read_to_string(cluster.node_dir(3).join("log"))?;
    ensure!(log.matches("it cannot be opened").count() >= 2, "{log}");
    cluster.admin(1, &["status", "--wait", "60"])?;
    all_equal(&cluster).await?;
    for n in 1..=3 {
        ensure!(cluster.value(n, "SELECT count(*) FROM t").await? == "1000");
    }
    Ok(())
}

/// Flips a bit in the middle of the largest table of a node's state, while the node runs: it lies in the rows.
fn flip_a_bit(store: &Path) -> Result<()> {
    let mut tables = Vec::new();
    for entry in fs::read_dir(store.join("state"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "sst") {
            tables.push((fs::metadata(&path)?.len(), path));
        }
    }
    let (bytes, path) = tables.into_iter().max().context("a table")?;
    ensure!(bytes > 100_000, "{} is too small to be what is meant", path.display());
    let file = fs::File::options().read(true).write(true).open(&path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, bytes / 2)?;
    file.write_all_at(&[byte[0] ^ 0x40], bytes / 2)?;
    Ok(())
}

/// The interval at which replicas are compared is a day. (What becomes of the file is another matter: as soon as RocksDB comes to rewrite it, the
/// node stops. So nothing is expected of node 3 afterwards but that it has lost the replica.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_meets_damage_in_a_read_is_replaced_at_once() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT n, md5(n::text) || md5((-n)::text) FROM generate_series(1, 10000) AS g(n)",
        )
        .await?;
    cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
    let shard = "SELECT 'g' || s.group_id FROM flotilla.shards s WHERE s.database_name = 'postgres'
                 ORDER BY s.start_key LIMIT 1";
    let (shard, id) = (cluster.value(1, shard).await?, cluster.name(3)?);
    // A gentle stop brings the rows into tables, a start empties the cache.
    cluster.script(&["stop", "3"])?;
    cluster.script(&["start", "3"])?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let before = replica_on(&cluster, 1, &shard, &id)?.context("a replica on node 3")?;
    flip_a_bit(&cluster.node_dir(3).join("store"))?;
    let mut leads = false;
    for _ in 0..120 {
        // It may be refused while the node has just come back.
        let _ = cluster.admin(1, &["transfer-leader", &shard, &id]);
        leads = cluster.leader().await.is_ok_and(|leader| leader == 3);
        if leads {
            break;
        }
        pause(500).await;
    }
    ensure!(leads, "node 3 does not lead {shard}\n{}", cluster.logs());

    let read = "SELECT count(*), max(v) FROM t";
    // (If the node itself has met it before, this is answered by another leader.)
    if let Err(error) = client.query_one(read, &[]).await {
        ensure!(sqlstate(&error) == "XX001", "{error:?}\n{}", cluster.logs());
    }
    let mut is_gone = false;
    for _ in 0..480 {
        is_gone = replica_on(&cluster, 1, &shard, &id).is_ok_and(|now| now != Some(before));
        if is_gone {
            break;
        }
        pause(250).await;
    }
    let log = fs::read_to_string(cluster.node_dir(3).join("log"))?;
    ensure!(is_gone, "r{before} is still there\n{}", cluster.logs());
    ensure!(log.contains("DAMAGE WAS MET") && log.contains("THIS REPLICA GOES INTO QUARANTINE"), "{log}");
    // Another one leads.
    let mut rows = None;
    for _ in 0..120 {
        rows = client.query_one(read, &[]).await.ok().map(|row| row.get::<_, i64>(0));
        if rows.is_some() {
            break;
        }
        pause(250).await;
    }
    ensure!(rows == Some(10_000), "{rows:?}\n{}", cluster.logs());
    Ok(())
}
