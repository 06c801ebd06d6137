//! The harness against a real cluster, in a short form: what operators run for hours with `jepsen run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::fault::{Fault, disk, nodes_for};
use jepsen::run::{Options, Outcome, run, run_against};
use tests::peer::Postgres;
use tests::ports::Ports;

fn options(workload: &str, seconds: u64, out: &Path) -> Options {
    Options {
        workload: workload.to_owned(),
        seed: 4,
        time: Duration::from_secs(seconds),
        clients: 9,
        rate: 100.0,
        call_timeout: Duration::from_secs(5),
        ops_max: 100_000,
        // How long an outage takes is for a machine that runs nothing else.
        gap_max: None,
        faults: Vec::new(),
        mixed: false,
        plain_tables: false,
        progress: false,
        out: out.to_owned(),
    }
}

fn shown(outcome: &Outcome) -> String {
    let verdicts: Vec<String> = outcome.verdicts.iter().map(ToString::to_string).collect();
    format!("{}\n{:?}", verdicts.join("\n"), outcome.troubles)
}

async fn verify(workload: &str, faults: &[&str]) -> Result<()> {
    let outcome = outcome(workload, faults).await?;
    ensure!(outcome.validity() == Validity::Valid, "{}", shown(&outcome));
    Ok(())
}

async fn outcome(workload: &str, faults: &[&str]) -> Result<Outcome> {
    outcome_of(tests::binary(), Vec::new(), &options(workload, 18, Path::new("")), faults).await
}

async fn outcome_of(
    binary: PathBuf,
    environment: Vec<(String, String)>,
    options: &Options,
    faults: &[&str],
) -> Result<Outcome> {
    let out = tempfile::tempdir()?;
    let find = |name: &&str| jepsen::fault::find(name).with_context(|| format!("there is no fault '{name}'"));
    let faults: Vec<&'static Fault> = faults.iter().map(find).collect::<Result<_>>()?;
    let broken_disk = faults.iter().any(|fault| fault.needs_disk());
    let preload = if broken_disk { Some(disk::build(out.path()).await?) } else { None };
    let ports = Ports::take()?;
    let cluster = Cluster {
        script: tests::root().join("cluster-scripts/cluster"),
        binary: Some(binary),
        preload,
        environment,
        dir: out.path().join("cluster"),
        base_port: ports.base,
        nodes: nodes_for(3, &faults),
        present: Default::default(),
        proxies: faults.iter().any(|fault| fault.needs_links()),
    };
    let outcome = run(&Options { faults, out: out.path().to_owned(), ..options.clone() }, &cluster).await;
    cluster.wipe().await?;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_strictly_serializable_while_nodes_are_killed_and_paused() -> Result<()> {
    verify("list-append", &["kill", "pause"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_tells_nobody_anything_old() -> Result<()> {
    verify("register", &["partition", "partition-in", "partition-out"]).await
}

/// Kills leave what the kernel holds; a power cut takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_power_cut() -> Result<()> {
    verify("set", &["power-cut-all", "power-cut", "disk-stall"]).await
}

/// What acknowledges before it is on disk is caught: here it is the disks that lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_lie_about_syncs_are_found_out() -> Result<()> {
    let outcome = outcome("set", &["lying-disks"]).await?;
    // Some nodes may even refuse to start, which is as well.
    ensure!(outcome.validity() != Validity::Valid, "{}", shown(&outcome));
    Ok(())
}

/// Runs a build that breaks its promises on demand, until the workload finds out.
async fn is_found_out(
    (sabotage, workload, faults): (&str, &str, &[&str]),
    (seconds, clients, rate): (u64, u64, f64),
) -> Result<()> {
    let binary = tests::sabotaged_binary()?;
    let environment = vec![("FLOTILLA_SABOTAGE".to_owned(), sabotage.to_owned())];
    // What a fault hits is a matter of luck, within bounds.
    for seed in 1..=8 {
        let base = options(workload, seconds, Path::new(""));
        // A machine that has other things to do is to be told from a cluster that answers nobody.
        let options = Options { seed, clients, rate, call_timeout: Duration::from_secs(10), ..base };
        let outcome = outcome_of(binary.clone(), environment.clone(), &options, faults).await?;
        if outcome.validity() == Validity::Invalid {
            return Ok(());
        }
        eprintln!("{sabotage}: not found yet: {}", shown(&outcome));
    }
    bail!("{workload} with {faults:?} does not find {sabotage}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_builds_are_found_out() -> Result<()> {
    is_found_out(("skip-read-validation", "write-skew", &[]), (25, 9, 300.0)).await?;
    is_found_out(("answer-before-fsync", "set", &["power-cut-all"]), (25, 9, 300.0)).await?;
    is_found_out(("oracle-goes-back", "list-append", &["kill-meta"]), (25, 9, 300.0)).await?;
    // A leader that was cut off needs what others lead, too, before it answers: unless it leads everything.
    is_found_out(("trust-lease", "one-shard", &["partition-sole-leader"]), (25, 9, 300.0)).await?;
    is_found_out(("lose-row", "set", &[]), (6, 9, 100.0)).await
}

/// PostgreSQL's weaker levels allow what the checkers look for, so this shows that they find it in a real database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_levels_of_postgresql_are_told_apart() -> Result<()> {
    let postgres = Postgres::start()?;
    let out = tempfile::tempdir()?;
    for (workload, level, expected) in [
        ("rw-register", "serializable", None),
        ("rw-register", "repeatable read", Some("G2-item")),
        ("rw-register", "read committed", Some("lost-update")),
        ("write-skew", "serializable", None),
        ("write-skew", "repeatable read", Some("G2")),
        ("hot-row", "read committed", Some("lost-update")),
        ("foreign-key", "read committed", None),
    ] {
        let url = format!(
            "{}&options=-c%20default_transaction_isolation%3D{}",
            postgres.url(),
            level.replace(' ', "%5C%20")
        );
        let options = Options { plain_tables: true, rate: 400.0, ..options(workload, 4, out.path()) };
        let outcome = run_against(&options, vec![url]).await?;
        let names: Vec<&str> = outcome.verdicts.iter().flat_map(|verdict| verdict.names()).collect();
        match expected {
            None => ensure!(names.is_empty(), "{workload}, {level}: {}", shown(&outcome)),
            Some(name) => ensure!(names.contains(&name), "{workload}, {level}: {}", shown(&outcome)),
        }
    }
    Ok(())
}
