//! The command line: `jepsen run`, `jepsen sim`, `jepsen check`, `jepsen list`.
//!
//! Exit status: 0 if every checker is satisfied, 1 if one found an anomaly, 2 if the verdict is unknown or the harness failed.

mod interpose;
mod simulator;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use jepsen::checker::{self, Validity};
use jepsen::cluster::Cluster;
use jepsen::fault::{self, Fault};
use jepsen::history::History;
use jepsen::{report, run, workload};

#[derive(Parser)]
#[command(about = "Runs workloads against clusters, breaks these, and checks what clients saw")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster, run a workload on it, break it, and check the history
    Run(Run),
    /// Run a cluster in one process, in simulated time: what a seed does, it does again
    Sim(simulator::Sim),
    /// Check a history that was written before, by this or by Jepsen
    Check {
        /// An EDN file, or JSON by lines if it ends in .json
        history: PathBuf,
        /// Which checkers
        #[arg(long, value_delimiter = ',', required = true)]
        checker: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List workloads, faults and checkers
    List,
}

#[derive(Args)]
struct Run {
    /// Workloads, or `all`
    #[arg(value_delimiter = ',', required = true)]
    workloads: Vec<String>,
    /// Seeds the schedule of faults and the clients' choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs each workload with so many seeds in succession
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long clients work: 90s, 5m
    #[arg(long, default_value = "60s", value_parser = duration)]
    time_limit: Duration,
    /// Faults, or `all`
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Lets faults of the network come on top of faults of processes
    #[arg(long)]
    mixed: bool,
    /// A database that runs already, instead of a cluster of one's own: nothing is broken
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["faults", "nodes"])]
    urls: Vec<String>,
    /// Make tables without storage parameters, for databases other than Flotilla
    #[arg(long)]
    plain_tables: bool,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=19))]
    nodes: u16,
    /// Clients
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// Calls per second of all clients together
    #[arg(long, default_value_t = 150.0)]
    rate: f64,
    /// How long a client waits for an answer before it goes elsewhere
    #[arg(long, default_value = "5s", value_parser = duration)]
    call_timeout: Duration,
    /// Operations after which clients stop
    #[arg(long, default_value_t = 400_000)]
    ops_max: usize,
    /// The longest time without an answer that is allowed under faults of a minority; 0s: any
    #[arg(long, default_value = "1500ms", value_parser = duration)]
    gap_max: Duration,
    /// The first of the cluster's ports
    #[arg(long, default_value_t = 26_000)]
    base_port: u16,
    /// Where each run leaves its folder
    #[arg(long, default_value_os_t = std::env::temp_dir().join("jepsen"))]
    out: PathBuf,
    /// The script that starts and breaks the cluster
    #[arg(long, default_value_os_t = Cluster::default_script())]
    cluster_script: PathBuf,
}

/// `90s`, `1500ms`, `5m`
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("'{text}' is no duration: say 90s"))?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        unit => return Err(format!("'{unit}' is no unit: ms, s, m or h")),
    };
    millis.map(Duration::from_millis).ok_or_else(|| format!("{text} is too long"))
}

#[allow(clippy::print_stderr, reason = "what went wrong is for the terminal")]
fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run_real(arguments),
        Command::Sim(arguments) => simulator::run(&arguments),
        Command::Check { history, checker, json } => check(&history, &checker, json),
        Command::List => {
            list();
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(validity) => status(validity),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            status(Validity::Unknown)
        }
    }
}

fn status(validity: Validity) -> ExitCode {
    ExitCode::from(match validity {
        Validity::Valid => 0,
        Validity::Invalid => 1,
        Validity::Unknown => 2,
    })
}

#[allow(clippy::print_stdout, reason = "the list is what the command is for")]
fn list() {
    println!("workloads:");
    for entry in workload::ALL {
        println!("  {:<14} {} ({})", entry.name, entry.about, entry.checkers.join(", "));
    }
    println!("faults:");
    for entry in fault::ALL {
        println!("  {:<14} {}", entry.name, entry.about);
    }
    println!("checkers:");
    for entry in checker::ALL {
        println!("  {:<14} {}", entry.name, entry.about);
    }
}

#[allow(clippy::print_stdout, reason = "the verdict is what the command is for")]
fn check(path: &std::path::Path, names: &[String], as_json: bool) -> Result<Validity> {
    let history = History::load(path)?;
    let mut worst = Validity::Valid;
    for name in names {
        let checker = checker::find(name).with_context(|| format!("there is no checker '{name}'"))?;
        let verdict = (checker.check)(&history);
        worst = worst.max(verdict.validity);
        if as_json {
            println!("{}", report::verdict(&verdict));
        } else {
            println!("{verdict}");
        }
    }
    Ok(worst)
}

#[tokio::main]
async fn run_real(arguments: Run) -> Result<Validity> {
    run_all(arguments).await
}

#[allow(clippy::print_stdout, reason = "the verdict is what the command is for")]
async fn run_all(arguments: Run) -> Result<Validity> {
    let names: Vec<&str> = match &arguments.workloads[..] {
        [all] if all == "all" => workload::ALL.iter().map(|entry| entry.name).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    if let Some(name) = names.iter().find(|name| workload::find(name).is_none()) {
        bail!("there is no workload '{name}'; `jepsen list` shows them");
    }
    let faults = choose_faults(&arguments.faults)?;
    let mut table = Vec::new();
    let mut worst = Validity::Valid;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        for name in &names {
            println!("— {name}, seed {seed}");
            let outcome = one(&arguments, name, seed, faults.clone()).await?;
            print!("{}", report::text(&outcome));
            println!("in {}", outcome.folder.display());
            let validity = outcome.validity();
            worst = worst.max(validity);
            let found: Vec<&str> = outcome.verdicts.iter().flat_map(|verdict| verdict.names()).collect();
            table.push(format!("{name:<14} {seed:>6} {validity:?} {}", found.join(" ")));
        }
    }
    if table.len() > 1 {
        println!("\n{}", table.join("\n"));
    }
    Ok(worst)
}

fn choose_faults(names: &[String]) -> Result<Vec<&'static Fault>> {
    if let [all] = names
        && all == "all"
    {
        return Ok(fault::ALL.iter().filter(|fault| fault.is_fair()).collect());
    }
    let find = |name: &String| fault::find(name).with_context(|| format!("there is no fault '{name}'"));
    names.iter().filter(|name| *name != "none").map(find).collect()
}

async fn one(arguments: &Run, name: &str, seed: u64, faults: Vec<&'static Fault>) -> Result<run::Outcome> {
    let disk = if faults.iter().any(|fault| fault.needs_disk()) {
        Some(fault::disk::build(&arguments.out.join("interposer")).await?)
    } else {
        None
    };
    let cluster = Cluster {
        script: arguments.cluster_script.clone(),
        binary: None,
        preload: disk,
        environment: Vec::new(),
        dir: arguments.out.join(format!("cluster-{}", arguments.base_port)),
        base_port: arguments.base_port,
        nodes: arguments.nodes.into(),
        proxies: faults.iter().any(|fault| fault.needs_links()),
    };
    let options = run::Options {
        workload: name.to_owned(),
        seed,
        time: arguments.time_limit,
        clients: arguments.clients,
        rate: arguments.rate,
        call_timeout: arguments.call_timeout,
        ops_max: arguments.ops_max,
        gap_max: (!arguments.gap_max.is_zero()).then_some(arguments.gap_max),
        faults,
        mixed: arguments.mixed,
        plain_tables: arguments.plain_tables,
        out: arguments.out.clone(),
    };
    if !arguments.urls.is_empty() {
        return run::run_against(&options, arguments.urls.clone()).await;
    }
    let outcome = tokio::select! {
        outcome = run::run(&options, &cluster) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // However it ended: no process is left behind.
    let wiped = cluster.wipe().await;
    let outcome = outcome?;
    wiped?;
    Ok(outcome)
}
