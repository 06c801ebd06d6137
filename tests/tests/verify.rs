//! The harness against a real cluster, in a short form: what operators run for hours with `jepsen run`.

use std::time::Duration;

use anyhow::{Result, ensure};
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::fault::Fault;
use jepsen::run::{Options, run};

/// A cluster with proxies takes 80 ports; these lie above those of the other tests.
fn base_port(n: u16) -> u16 {
    46_000 + (std::process::id() % 90) as u16 * 160 + n * 80
}

async fn verify(workload: &str, faults: &[&str], n: u16) -> Result<()> {
    let out = tempfile::tempdir()?;
    let faults: Vec<&'static Fault> = faults.iter().filter_map(|name| jepsen::fault::find(name)).collect();
    let cluster = Cluster {
        script: tests::root().join("cluster-scripts/cluster"),
        binary: Some(tests::binary()),
        dir: out.path().join("cluster"),
        base_port: base_port(n),
        nodes: 3,
        proxies: faults.iter().any(|fault| fault.needs_links()),
    };
    let options = Options {
        workload: workload.to_owned(),
        seed: 4,
        time: Duration::from_secs(18),
        clients: 9,
        rate: 100.0,
        call_timeout: Duration::from_secs(5),
        ops_max: 100_000,
        // How long an outage takes is for a machine that runs nothing else.
        gap_max: None,
        faults,
        mixed: false,
        out: out.path().to_owned(),
    };
    let outcome = run(&options, &cluster).await;
    cluster.wipe().await?;
    let outcome = outcome?;
    let shown: Vec<String> = outcome.verdicts.iter().map(ToString::to_string).collect();
    ensure!(outcome.validity() == Validity::Valid, "{}\n{:?}", shown.join("\n"), outcome.troubles);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_strictly_serializable_while_nodes_are_killed_and_paused() -> Result<()> {
    verify("list-append", &["kill", "pause"], 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_tells_nobody_anything_old() -> Result<()> {
    verify("register", &["partition", "partition-in", "partition-out"], 1).await
}
