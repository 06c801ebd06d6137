//! The clients that people use: psql, pgbench, our own shell.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, binary, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_sees_the_same_on_every_node() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let made = cluster.psql(
        1,
        &["-v", "ON_ERROR_STOP=1"],
        "CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL);
         INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three');
         BEGIN; UPDATE t SET name = 'zwei' WHERE id = 2; ROLLBACK;
         BEGIN; DELETE FROM t WHERE id = 3; COMMIT;",
    )?;
    ensure!(made.status.success(), "{}", text(&made));
    for n in 1..=3 {
        let seen = cluster.psql(n, &["-At"], "SELECT * FROM t ORDER BY id")?;
        ensure!(text(&seen) == "1|one\n2|two\n", "node {n}: {}", text(&seen));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_sharded_table_has_leaders_on_all_nodes() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute(
            "CREATE TABLE spread (id int PRIMARY KEY, v int) WITH (sharding = 'hash', shards = 8);
             INSERT INTO spread SELECT n, n FROM generate_series(1, 1000) AS g(n);
             CREATE TABLE heap (v int) WITH (sharding = 'round_robin', shards = 3);
             INSERT INTO heap SELECT n FROM generate_series(1, 500) AS g(n);
             CREATE TABLE cut (a int, b text, PRIMARY KEY (a, b));
             INSERT INTO cut SELECT n, 'x' FROM generate_series(1, 300) AS g(n);
             ALTER TABLE cut SPLIT AT VALUES (100), (200);
             INSERT INTO cut SELECT n, 'y' FROM generate_series(1, 300) AS g(n)",
        )
        .await
        .with_context(|| cluster.logs())?;
    for n in 1..=3 {
        ensure!(cluster.value(n, "SELECT count(*) FROM spread").await? == "1000");
        ensure!(cluster.value(n, "SELECT sum(v) FROM heap").await? == "125250");
        ensure!(cluster.value(n, "SELECT count(*) FROM cut WHERE a BETWEEN 50 AND 250").await? == "402");
    }
    let oid: u64 = cluster.value(1, "SELECT oid FROM pg_class WHERE relname = 'spread'").await?.parse()?;
    let view = "SELECT count(DISTINCT leader) AS n FROM flotilla.shards WHERE table_name = 'spread'";
    let mut seen = (0, 0, String::new());
    for _ in 0..300 {
        let listed: serde_json::Value = serde_json::from_str(&admin_shards(&cluster, &["--json"])?)?;
        let shards = listed.as_array().context("a list of shards")?;
        let ours: Vec<_> = shards.iter().filter(|shard| shard["table"].as_u64() == Some(oid)).collect();
        let leaders: std::collections::BTreeSet<_> =
            ours.iter().filter_map(|shard| shard["leader"].as_u64()).collect();
        seen = (ours.len(), leaders.len(), cluster.value(2, view).await?);
        if seen.0 >= 8 && (seen.1, &seen.2[..]) == (3, "3") {
            return Ok(());
        }
        tests::pause(100).await;
    }
    anyhow::bail!("shards, leaders, leaders in the view: {seen:?}\n{}", admin_shards(&cluster, &[])?)
}

fn admin_shards(cluster: &Cluster, more: &[&str]) -> Result<String> {
    let listed = Command::new(binary())
        .args(["admin", "shards", "--host", &format!("127.0.0.1:{}", cluster.rpc_port(1))])
        .args(more)
        .output()?;
    ensure!(listed.status.success(), "{}", text(&listed));
    Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_has_just_made_exists() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let (maker, second, third) =
        (cluster.connect(1).await?, cluster.connect(2).await?, cluster.connect(3).await?);
    maker.batch_execute("CREATE TABLE kept (id int PRIMARY KEY, n int)").await?;
    // The other nodes have read the catalog, and have no reason to read it again.
    second.batch_execute("SELECT * FROM kept").await?;
    third.batch_execute("SELECT * FROM kept").await?;
    maker.batch_execute("CREATE TABLE late (id int)").await?;
    maker.batch_execute("CREATE UNIQUE INDEX by_n ON kept (n)").await?;
    second.batch_execute("BEGIN; DROP TABLE IF EXISTS late; COMMIT").await?;
    third.batch_execute("DROP INDEX IF EXISTS by_n").await?;
    let left = "SELECT count(*) FROM pg_class WHERE relname IN ('late', 'by_n')";
    for node in 1..=3 {
        ensure!(cluster.value(node, left).await? == "0", "seen at node {node}\n{}", cluster.logs());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_keeps_its_balances() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.pgbench(1, &["-i", "-s", "1", "-q"])?;
    ensure!(cluster.value(2, "SELECT count(*) FROM pgbench_accounts").await? == "100000");
    for script in [&["-S"][..], &["-N"], &[]] {
        let report =
            cluster.pgbench(2, &[script, &["-n", "-c", "4", "-T", "3", "--max-tries=100"]].concat())?;
        ensure!(report.contains("number of failed transactions: 0 "), "{script:?}: {report}");
    }
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS a, (SELECT sum(bbalance) FROM pgbench_branches) AS b,
                       (SELECT sum(tbalance) FROM pgbench_tellers) AS t";
    let seen = text(&cluster.psql(3, &["-At"], sums)?);
    let sums: Vec<&str> = seen.trim().split('|').collect();
    // The -N script changes accounts alone, so those of branches and tellers are compared.
    ensure!(sums.len() == 3 && sums[1] == sums[2], "{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shell_says_by_its_status_whether_a_statement_failed() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let shell = |args: &[&str]| Command::new(binary()).args(["sql", &cluster.url(1)]).args(args).output();
    let made = shell(&[
        "-e",
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(6,2)); INSERT INTO t VALUES (1, 2.5), (2, NULL)",
    ])?;
    ensure!(made.status.code() == Some(0), "{}", text(&made));
    let aligned = shell(&["-e", "SELECT * FROM t ORDER BY id"])?;
    ensure!(text(&aligned).contains(" id |    n\n"), "{}", text(&aligned));
    let csv = shell(&["--format", "csv", "-e", "SELECT * FROM t ORDER BY id"])?;
    ensure!(text(&csv) == "id,n\n1,2.50\n2,\n", "{}", text(&csv));
    let json = shell(&["--format", "json", "-e", "SELECT id, n FROM t ORDER BY id"])?;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    ensure!(json == serde_json::json!([{"id": 1, "n": 2.5}, {"id": 2, "n": null}]), "{json}");
    let tables = shell(&["-e", "\\dt"])?;
    ensure!(text(&tables).contains(" public | t "), "{}", text(&tables));
    let table = shell(&["-e", "\\d t"])?;
    ensure!(text(&table).contains("primary key"), "{}", text(&table));
    let failed = shell(&["-e", "SELECT 1/0"])?;
    ensure!(failed.status.code() == Some(1) && text(&failed).contains("22012"), "{}", text(&failed));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "COPY t FROM STDIN;\n7\t1.25\n8\t\\N\n\\.\nSELECT count(*) FROM t")?;
    let path = file.path().to_str().context("a path in UTF-8")?;
    let copied = shell(&["-f", path])?;
    ensure!(copied.status.success() && text(&copied).contains("COPY 2"), "{}", text(&copied));
    let nobody = Command::new(binary())
        .args(["sql", "postgresql://root@127.0.0.1:1/postgres", "-e", "SELECT 1"])
        .output()?;
    ensure!(nobody.status.code() == Some(2), "{}", text(&nobody));
    Ok(())
}
