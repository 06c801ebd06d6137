//! A node whose disk takes nothing any more stops, says why, and is replaced; what was acknowledged is there.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jepsen::fault::disk;
use tests::pairs::{Writer, check, create};
use tests::{Cluster, binary, connect, is_running, pause};

/// The exit status of a node whose store has failed while it ran.
const BROKEN: i32 = 9;
/// What takes moments may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, cluster: &Cluster, so: impl Fn() -> Result<bool>) -> Result<()> {
    for _ in 0..PATIENCE.as_millis() / 100 {
        if so().unwrap_or(false) {
            return Ok(());
        }
        pause(100).await;
    }
    bail!("{what}: not within {PATIENCE:?}\n{}", cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_stops_and_the_others_serve() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = disk::build(folder.path()).await?;
    let mut cluster = Cluster::prepare(3)?;
    cluster.set_environment("LD_PRELOAD", &library);
    cluster.script(&["up", "--nodes", "3"])?;
    create(&cluster).await?;
    let victim = cluster.leader().await?;
    let others: Vec<usize> = (1..=3).filter(|n| *n != victim).collect();
    let pid = cluster.pid(victim)?;
    let ill = cluster.node_dir(victim).join("disk");

    let writer = Writer::start(others.iter().map(|n| cluster.url(*n)).collect(), 1_000_000);
    pause(1_000).await;
    std::fs::write(&ill, "f")?;
    until("the node stops", &cluster, || Ok(!is_running(pid))).await?;
    let log = std::fs::read_to_string(cluster.node_dir(victim).join("log"))?;
    ensure!(log.contains("the store has failed") && log.contains("THIS NODE STOPS"), "{}", cluster.logs());
    ensure!(log.contains("No space left on device"), "the log does not say of what\n{log}");
    let mut acknowledged = writer.finish().await?;
    // Without it.
    let writer = Writer::start(others.iter().map(|n| cluster.url(*n)).collect(), 2_000_000);
    pause(3_000).await;
    let more = writer.finish().await?;
    ensure!(!acknowledged.is_empty() && !more.is_empty(), "{}", cluster.logs());
    acknowledged.extend(more);
    check(&cluster, others[0], &acknowledged).await?;

    std::fs::remove_file(&ill)?;
    cluster.script(&["start", &victim.to_string()])?;
    cluster.admin(victim, &["status", "--wait", "60"])?;
    check(&cluster, victim, &acknowledged).await.with_context(|| cluster.logs())?;
    for _ in 0..60 {
        if cluster.admin(victim, &["check"]).is_ok() {
            return Ok(());
        }
        pause(500).await;
    }
    bail!("the replicas are not equal\n{}", cluster.logs())
}

/// A node of its own, whose end is waited for.
fn single_node(cluster: &Cluster, library: &Path) -> Result<tokio::process::Child> {
    let dir = cluster.node_dir(1);
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log"))?;
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut command = tokio::process::Command::new(binary());
    command
        .args(["start-single-node", "--insecure", "--listen-sql", &address(cluster.sql_port(1))])
        .args([
            "--listen-rpc",
            &address(cluster.rpc_port(1)),
            "--listen-http",
            &address(cluster.http_port(1)),
        ])
        .arg("--store")
        .arg(dir.join("store"))
        .env("LD_PRELOAD", library)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    Ok(command.spawn()?)
}

/// A connection that works.
async fn connected(cluster: &Cluster) -> Result<tokio_postgres::Client> {
    for _ in 0..PATIENCE.as_millis() / 100 {
        if let Ok(client) = connect(&cluster.url(1)).await
            && client.batch_execute("SELECT 1").await.is_ok()
        {
            return Ok(client);
        }
        pause(100).await;
    }
    bail!("the node does not serve\n{}", cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_status_says_that_the_store_has_failed_and_nothing_acknowledged_is_lost() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = disk::build(folder.path()).await?;
    let cluster = Cluster::prepare(1)?;
    std::fs::create_dir_all(cluster.node_dir(1))?;
    let ill = cluster.node_dir(1).join("disk");
    let mut node = single_node(&cluster, &library)?;
    let client = connected(&cluster).await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    let mut acknowledged = 0;
    for id in 1..=200 {
        if id == 100 {
            std::fs::write(&ill, "f")?;
        }
        if client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.is_err() {
            break;
        }
        acknowledged = id;
    }
    ensure!((99..200).contains(&acknowledged), "{acknowledged} were acknowledged by a disk that was full");
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    let ended = tokio::time::timeout(PATIENCE, node.wait()).await;
    let status = ended.with_context(|| format!("the node goes on\n{}", cluster.logs()))??;
    ensure!(status.code() == Some(BROKEN), "{status}\n{}", cluster.logs());

    std::fs::remove_file(&ill)?;
    let _node = single_node(&cluster, &library)?;
    let client = connected(&cluster).await?;
    let row = client.query_one("SELECT count(*) FROM t WHERE id <= $1", &[&acknowledged]).await?;
    ensure!(row.get::<_, i64>(0) == i64::from(acknowledged), "rows that were acknowledged are lost");
    Ok(())
}
