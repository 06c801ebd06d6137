//! What operators' commands leave behind: nothing that waits for ever, and nothing done twice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, binary, pause};

/// What is under way, in words.
fn under_way(cluster: &Cluster, asked: usize) -> Result<Vec<String>> {
    let list = cluster.admin_json(asked, &["operations"])?;
    let states = list.as_array().context("a list of operations")?.iter();
    Ok(states.filter_map(|operation| Some(operation["state"].as_str()?.to_owned())).collect())
}

/// Group and first key of all shards.
fn shards(cluster: &Cluster, asked: usize) -> Result<Vec<(u64, String)>> {
    let shards = cluster.admin_json(asked, &["shards"])?;
    let list = shards.as_array().context("a list of shards")?.iter();
    Ok(list.filter_map(|s| Some((s["group"].as_u64()?, s["start"].as_str()?.to_owned()))).collect())
}

/// Has a command begin something with a shard that node `silent` leads, which takes the request and says nothing, so that it is under
/// way for seconds; and interrupts the command then. `what` is what begins so, in words.
async fn interrupt(cluster: &Cluster, asked: usize, silent: usize, args: &[&str], what: &str) -> Result<()> {
    cluster.script(&["pause", &silent.to_string()])?;
    let mut command = Command::new(binary())
        .args(["admin", "--host", &format!("127.0.0.1:{}", cluster.rpc_port(asked))])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut begun = false;
    for _ in 0..200 {
        let listed = under_way(cluster, asked);
        begun = listed.is_ok_and(|states| states.iter().any(|state| state.starts_with(what)));
        if begun {
            break;
        }
        pause(20).await;
    }
    let ended = command.kill().and(command.wait());
    cluster.script(&["resume", &silent.to_string()])?;
    ended?;
    ensure!(begun, "{args:?}: never under way\n{}", cluster.logs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_that_is_interrupted_leaves_its_shard_free() -> Result<()> {
    let cluster = Cluster::start(3)?;
    // Leaders are moved by nobody else.
    cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let asked = cluster.meta_leader(1)?;
    let silent = asked % 3 + 1;
    let heir = cluster.name(silent % 3 + 1)?;
    cluster.admin(asked, &["transfer-leader", "g3", &cluster.name(silent)?])?;
    interrupt(&cluster, asked, silent, &["transfer-leader", "g3", &heir], "g3: transfer leader").await?;
    // All steps end: the shard is looked after again.
    cluster.admin(asked, &["status", "--wait", "60"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_is_under_way_for_all_to_see_and_done_once() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE cut (a int PRIMARY KEY, b text)").await?;
    client.batch_execute("INSERT INTO cut SELECT n, md5(n::text) FROM generate_series(1, 2000) n").await?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let asked = cluster.meta_leader(1)?;
    let before = shards(&cluster, asked)?.len();
    let split = cluster.admin_json(asked, &["split", "cut"])?;
    let (left, right) = (split["group"].as_u64().context("a shard")?, &split["right"]);
    let key = split["key"].as_str().context("a key")?;
    ensure!(shards(&cluster, asked)?.len() == before + 1, "{split}");
    let (left, right) = (format!("g{left}"), format!("g{right}"));
    // That cut again is that cut.
    let again = cluster.admin_json(asked, &["split", &left, "--at", key])?;
    ensure!(again["right"] == split["right"] && shards(&cluster, asked)?.len() == before + 1, "{again}");

    cluster.admin(asked, &["status", "--wait", "60"])?;
    let silent = asked % 3 + 1;
    cluster.admin(asked, &["transfer-leader", &right, &cluster.name(silent)?])?;
    let cut = ["split", &right, "--at", &format!("{key}00")];
    interrupt(&cluster, asked, silent, &cut, &format!("{right}: split")).await?;
    cluster.admin(asked, &["status", "--wait", "60"])?;
    // Whether or not it was cut then, it is now, once.
    cluster.admin(asked, &cut)?;
    let after = shards(&cluster, asked)?;
    let there = after.iter().filter(|(_, start)| *start == format!("{key}00")).count();
    ensure!((after.len(), there) == (before + 2, 1), "{after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_what_for() -> Result<()> {
    let cluster = Cluster::start(3)?;
    // It never ends: nobody can take the place of a third node.
    let emptied = cluster.admin(1, &["decommission", "n2", "--force", "--timeout", "1"]);
    let emptied = emptied.err().context("n2 is empty")?.to_string();
    // Where there is no terminal, progress is a line with figures.
    ensure!(emptied.contains(" (0/") && emptied.contains(" replicas"), "{emptied}");
    ensure!(emptied.contains("not yet, after 1 s"), "{emptied}");
    let watched = cluster.admin(1, &["operations", "watch", "--timeout", "1"]);
    let watched = watched.err().context("nothing is under way")?.to_string();
    ensure!(watched.contains("not yet, after 1 s"), "{watched}");
    cluster.admin(1, &["recommission", "n2"])?;
    cluster.admin(1, &["settings", "set", "node_down_replace_after", "5s"])?;
    cluster.script(&["kill", "3"])?;
    let mut said = String::new();
    for _ in 0..60 {
        let answer = cluster.admin(1, &["rebalance", "--timeout", "1"]);
        said = answer.unwrap_or_else(|refused| refused.to_string());
        if said.contains("nothing can be done now") {
            break;
        }
        pause(500).await;
    }
    ensure!(said.contains("waiting for a node that has room"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_an_address_where_nobody_is_ends() -> Result<()> {
    let cluster = Cluster::prepare(1)?;
    let mut command = Command::new(binary())
        .args(["admin", "--host", &format!("127.0.0.1:{}", cluster.rpc_port(1)), "operations", "watch"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut status = None;
    for _ in 0..300 {
        status = command.try_wait().ok().flatten();
        if status.is_some() {
            break;
        }
        pause(100).await;
    }
    let killed = command.kill();
    command.wait()?;
    let status = status.with_context(|| format!("it watches nobody, for ever: {killed:?}"))?;
    ensure!(!status.success(), "{status}");
    Ok(())
}

/// How often a leader of the meta-group has planned for an operator.
fn plans(cluster: &Cluster) -> Result<u64> {
    let mut plans = 0;
    for n in 1..=cluster.nodes {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.http_port(n)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let name = "flotilla_placement_plan_seconds_count{asked_by=\"operator\"} ";
        let count = answer.lines().find_map(|line| line.strip_prefix(name));
        plans += count.map_or(Ok(0), |count| count.trim().parse::<u64>())?;
    }
    Ok(plans)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_asks_for_a_plan_has_one_made() -> Result<()> {
    let cluster = Cluster::start(3)?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let before = plans(&cluster)?;
    cluster.admin(2, &["nodes"])?;
    cluster.admin(2, &["shards"])?;
    cluster.admin(2, &["operations"])?;
    cluster.admin(2, &["settings"])?;
    cluster.admin(2, &["settings", "set", "gc_ttl", "2h"])?;
    let setting = "SELECT value FROM flotilla.settings WHERE name = 'gc_ttl'";
    ensure!(cluster.value(2, setting).await? == "2h");
    cluster.value(3, "SELECT count(*) FROM flotilla.operations").await?;
    ensure!(plans(&cluster)? == before, "something is planned for nobody");
    cluster.admin(2, &["rebalance", "--dry-run"])?;
    ensure!(plans(&cluster)? > before, "plans are not counted");
    Ok(())
}
