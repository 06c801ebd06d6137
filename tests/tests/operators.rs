//! What operators' commands leave behind: nothing that waits for ever, and nothing done twice.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, binary, pause};

/// The number of the node that leads the meta-group.
fn meta_leader(cluster: &Cluster) -> Result<usize> {
    let status = cluster.admin_json(1, &["meta", "status"])?;
    let id = format!("n{}", status["leader"].as_u64().context("a leader")?);
    for n in 1..=cluster.nodes {
        if cluster.name(n)? == id {
            return Ok(n);
        }
    }
    anyhow::bail!("{id} is none of the nodes: {status}")
}

/// What is under way, in words.
fn under_way(cluster: &Cluster, asked: usize) -> Result<Vec<String>> {
    let list = cluster.admin_json(asked, &["operations"])?;
    let states = list.as_array().context("a list of operations")?.iter();
    Ok(states.filter_map(|operation| Some(operation["state"].as_str()?.to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_that_is_interrupted_leaves_its_shard_free() -> Result<()> {
    let cluster = Cluster::start(3)?;
    // Leaders are moved by nobody else.
    cluster.admin(1, &["settings", "set", "rebalance", "off"])?;
    cluster.admin(1, &["status", "--wait", "60"])?;
    let asked = meta_leader(&cluster)?;
    let silent = asked % 3 + 1;
    let heir = cluster.name(silent % 3 + 1)?;
    cluster.admin(asked, &["transfer-leader", "g3", &cluster.name(silent)?])?;
    // The shard's leader takes the request and says nothing, so the transfer is under way for seconds.
    cluster.script(&["pause", &silent.to_string()])?;
    let mut command = Command::new(binary())
        .args(["admin", "--host", &format!("127.0.0.1:{}", cluster.rpc_port(asked))])
        .args(["transfer-leader", "g3", &heir])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut begun = false;
    for _ in 0..200 {
        let transfers = |state: &String| state.starts_with("g3: transfer leader");
        begun = under_way(&cluster, asked).is_ok_and(|states| states.iter().any(transfers));
        if begun {
            break;
        }
        pause(20).await;
    }
    let ended = command.kill().and(command.wait());
    cluster.script(&["resume", &silent.to_string()])?;
    ended?;
    ensure!(begun, "the transfer was never under way\n{}", cluster.logs());
    // All steps end: the shard is looked after again.
    cluster.admin(asked, &["status", "--wait", "60"])?;
    Ok(())
}
