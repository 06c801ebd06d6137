//! The harness against a real cluster, in a short form: what operators run for hours with `jepsen run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::fault::{Family, Fault, disk, nodes_for};
use jepsen::history::Clock;
use jepsen::run::{Options, Outcome, run, run_against};
use jepsen::workload;
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
        settings: Vec::new(),
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

/// A defect is to be found within this time.
const FOUND_WITHIN: Duration = Duration::from_secs(300);

/// What shows that something was found: a checker, and how the anomaly's name that it must tell begins.
type Finding = (&'static str, &'static str);

fn has(outcome: &Outcome, (checker, anomaly): Finding) -> bool {
    let found = outcome.verdicts.iter().filter(|verdict| verdict.checker == checker);
    found.flat_map(|verdict| verdict.names()).any(|name| name.starts_with(anomaly))
}

/// What a defect is looked for with.
struct Search {
    workload: &'static str,
    faults: &'static [&'static str],
    seconds: u64,
    rate: f64,
    finding: Finding,
}

impl Search {
    async fn run(&self, binary: PathBuf, environment: &[(String, String)], seed: u64) -> Result<Outcome> {
        let base = options(self.workload, self.seconds, Path::new(""));
        // A machine that has other things to do is to be told from a cluster that answers nobody.
        let options = Options { seed, rate: self.rate, call_timeout: Duration::from_secs(10), ..base };
        outcome_of(binary, environment.to_vec(), &options, self.faults).await
    }

    /// Until it is found: what a fault hits is a matter of luck, within bounds.
    async fn finds(&self, binary: PathBuf, environment: &[(String, String)]) -> Result<()> {
        let begun = Clock::start();
        for seed in 1..=6 {
            let outcome = self.run(binary.clone(), environment, seed).await?;
            ensure!(begun.elapsed() < FOUND_WITHIN, "not found in time: {}", shown(&outcome));
            if has(&outcome, self.finding) {
                return Ok(());
            }
            eprintln!("not found yet: {}", shown(&outcome));
        }
        bail!("{} with {:?} does not find {:?}", self.workload, self.faults, self.finding)
    }

    /// A build that breaks a promise on demand is found out, and the sound one, under the same conditions, is not.
    async fn finds_out(&self, sabotage: &str) -> Result<()> {
        let broken = tests::sabotaged_binary()?;
        let sound = self.run(tests::binary(), &[], 1).await?;
        let anomalies: Vec<&str> = sound.verdicts.iter().flat_map(|verdict| verdict.names()).collect();
        ensure!(anomalies.is_empty(), "the sound build: {}", shown(&sound));
        self.finds(broken, &[("FLOTILLA_SABOTAGE".to_owned(), sabotage.to_owned())]).await
    }
}

/// What acknowledges before it is on disk is caught: here it is the disks that lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_lie_about_syncs_are_found_out() -> Result<()> {
    let faults = &["lying-disks"];
    let search = Search { workload: "set", faults, seconds: 12, rate: 100.0, finding: ("set", "lost") };
    search.finds(tests::binary(), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_build_that_skips_read_validation_is_found_out() -> Result<()> {
    let finding = ("write-skew", "G2");
    let search = Search { workload: "write-skew", faults: &[], seconds: 20, rate: 300.0, finding };
    search.finds_out("skip-read-validation").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_build_that_answers_before_fsync_is_found_out() -> Result<()> {
    let faults = &["power-cut-all"];
    let search = Search { workload: "set", faults, seconds: 25, rate: 300.0, finding: ("set", "lost") };
    search.finds_out("answer-before-fsync").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_build_whose_oracle_goes_back_is_found_out() -> Result<()> {
    let faults = &["kill-meta"];
    // Cycles of any kind, with those that only real time closes.
    let finding = ("list-append", "G");
    let search = Search { workload: "list-append", faults, seconds: 25, rate: 300.0, finding };
    search.finds_out("oracle-goes-back").await
}

/// A leader that was cut off needs what others lead, too, before it answers: unless it leads everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_build_that_trusts_its_lease_is_found_out() -> Result<()> {
    let faults = &["partition-sole-leader"];
    let finding = ("linear", "not-linearizable");
    let search = Search { workload: "one-shard", faults, seconds: 25, rate: 300.0, finding };
    search.finds_out("trust-lease").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_build_that_loses_rows_is_found_out() -> Result<()> {
    let finding = ("replicas", "replicas-differ");
    let search = Search { workload: "set", faults: &[], seconds: 6, rate: 100.0, finding };
    search.finds_out("lose-row").await
}

/// Every workload, each with a fault of another kind.
const MATRIX: &[(&str, &str)] = &[
    ("register", "partition"),
    ("one-shard", "kill-leader"),
    ("bank", "kill"),
    ("set", "power-cut-all"),
    ("list-append", "pause"),
    ("split", "split"),
    ("rw-register", "partition-out"),
    ("monotonic", "clock-jump"),
    ("sequential", "restart"),
    ("comments", "slow-link"),
    ("long-fork", "lossy-link"),
    ("write-skew", "kill-meta"),
    ("unique", "transfer-leader"),
    ("foreign-key", "drain"),
    ("upsert", "power-cut"),
    ("hot-row", "pause-meta"),
    ("lock", "kill-majority"),
    ("advisory", "partition-in"),
    ("ddl", "disk-stall"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_workload_passes_with_a_fault() -> Result<()> {
    for entry in workload::ALL {
        ensure!(MATRIX.iter().any(|(name, _)| *name == entry.name), "{} is not in the matrix", entry.name);
    }
    for family in Family::ALL {
        let is_of = |name: &str| jepsen::fault::find(name).is_some_and(|fault| fault.family() == family);
        ensure!(MATRIX.iter().any(|(_, fault)| is_of(fault)), "no fault of {}", family.name());
    }
    let mut wrong = Vec::new();
    for (workload, fault) in MATRIX {
        // A run as short as this may have shown nothing: then there is another one.
        for seed in 1..=3 {
            let options = Options { seed, ..options(workload, 7, Path::new("")) };
            let outcome = outcome_of(tests::binary(), Vec::new(), &options, &[fault]).await?;
            println!("{workload}, {fault}, seed {seed}: {:?}, {:?}", outcome.validity(), outcome.tally);
            match outcome.validity() {
                Validity::Valid => break,
                Validity::Unknown if seed < 3 => println!("{}", shown(&outcome)),
                _ => {
                    wrong.push(format!("{workload}, {fault}, seed {seed}: {}", shown(&outcome)));
                    break;
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
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

/// The command as operators give it; the program `jepsen` lies beside it.
#[test]
fn the_command_breaks_a_cluster_of_its_own_and_leaves_a_folder() -> Result<()> {
    let (out, ports) = (tempfile::tempdir()?, Ports::take()?);
    let arguments = "verify --cluster local --workload list-append --faults kill,partition --time 15s --seed 7 --gap-max 0s";
    let output = std::process::Command::new(tests::binary())
        .args(arguments.split(' '))
        .args(["--base-port", &ports.base.to_string(), "--out"])
        .arg(out.path())
        .output()?;
    ensure!(output.status.code() == Some(0), "{}", tests::text(&output));
    let folder = out.path().join("list-append-kill+partition-seed-7");
    let left = [
        "run.json",
        "schedule.json",
        "history.edn",
        "history.json",
        "verdict.json",
        "timeline.svg",
        "latency.svg",
    ];
    for file in left.into_iter().chain(["verdict.txt", "node-1.log"]) {
        ensure!(
            folder.join(file).metadata().is_ok_and(|file| file.len() > 0),
            "no {file}\n{}",
            tests::text(&output)
        );
    }
    Ok(())
}
