//! A leader whose disk stalls hands over what it leads, says so, and leads nothing until its disk is well.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jepsen::fault::disk;
use tests::{Cluster, pause};

fn metric(cluster: &Cluster, n: usize, name: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.http_port(n)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.map_or(0.0, |value| value.trim().parse().unwrap_or(f64::NAN)))
}

/// The shards that a node leads, as another one knows.
fn led(cluster: &Cluster, asked: usize, id: &str) -> Result<Vec<String>> {
    let shards = cluster.admin_json(asked, &["shards"])?;
    let shards = shards.as_array().context("a list of shards")?.iter();
    let own =
        shards.filter(|shard| shard["leader"].as_u64().is_some_and(|leader| format!("n{leader}") == id));
    Ok(own.filter_map(|shard| Some(format!("g{}", shard["group"].as_u64()?))).collect())
}

async fn until(what: &str, cluster: &Cluster, seconds: u64, so: impl Fn() -> Result<bool>) -> Result<()> {
    for _ in 0..seconds * 10 {
        if so().unwrap_or(false) {
            return Ok(());
        }
        pause(100).await;
    }
    bail!("{what}: not within {seconds} s\n{}", cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_hands_over_and_takes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = disk::build(folder.path()).await?;
    let mut cluster = Cluster::prepare(3)?;
    cluster.set_environment("LD_PRELOAD", &library);
    cluster.script(&["up", "--nodes", "3"])?;
    let victim = cluster.leader().await?;
    let (id, other) = (cluster.name(victim)?, victim % 3 + 1);
    let client = cluster.connect(other).await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    // Leaders are moved by nobody else.
    cluster.admin(other, &["settings", "set", "rebalance", "off"])?;
    let shard = led(&cluster, other, &id)?.pop().context("the leader leads a shard")?;
    let ill = cluster.node_dir(victim).join("disk");
    std::fs::write(&ill, "s")?;

    // Clients go on all the time.
    let mut longest = Duration::ZERO;
    #[allow(clippy::disallowed_methods, reason = "a test has no simulator")]
    let now = std::time::Instant::now;
    let (begun, mut last, mut n) = (now(), now(), 0);
    while begun.elapsed() < Duration::from_secs(6) {
        n += 1;
        let insert = format!("INSERT INTO t VALUES ({n})");
        if client.batch_execute(&insert).await.is_ok() {
            longest = longest.max(last.elapsed());
            last = now();
        }
        pause(10).await;
    }
    ensure!(longest < Duration::from_secs(3), "no write for {longest:?}\n{}", cluster.logs());
    let log = cluster.node_dir(victim).join("log");
    let said = |text: &str| Ok(std::fs::read_to_string(&log)?.contains(text));
    until("the node says that its disk stalls", &cluster, 1, || said("the disk stalls")).await?;
    until("it leads nothing", &cluster, 10, || Ok(led(&cluster, other, &id)?.is_empty())).await?;
    ensure!(metric(&cluster, victim, "flotilla_raft_disk_stalled_total")? >= 1.0);
    ensure!(metric(&cluster, victim, "flotilla_raft_disk_stalled")? == 1.0);
    let given = cluster.admin(other, &["transfer-leader", &shard, &id]);
    ensure!(given.is_err() && led(&cluster, other, &id)?.is_empty(), "{given:?}\n{}", cluster.logs());

    std::fs::remove_file(&ill)?;
    until("the disk is well", &cluster, 20, || said("this node may lead again")).await?;
    ensure!(metric(&cluster, victim, "flotilla_raft_disk_stalled")? == 0.0);
    // The others have heard of it within a pulse.
    until("it takes a leadership", &cluster, 20, || {
        Ok(cluster.admin(other, &["transfer-leader", &shard, &id]).is_ok())
    })
    .await?;
    until("it leads", &cluster, 10, || Ok(led(&cluster, other, &id)?.contains(&shard))).await?;
    ensure!(cluster.value(victim, "SELECT count(*) > 0 FROM t").await? == "t");
    println!("the longest time without a write was {longest:?}");
    Ok(())
}
