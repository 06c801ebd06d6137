//! The command line: `jepsen run`, `jepsen sim`, `jepsen gaps`, `jepsen idle`, `jepsen catchup`, `jepsen check`, `jepsen list`.
//!
//! Exit status: 0 if every checker is satisfied, 1 if one found an anomaly, 2 if the verdict is unknown or the harness failed.

mod campaign;
mod catchup;
mod failover;
mod idle;
mod interpose;
mod measurement;
mod simulator;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use jepsen::checker::{self, Validity};
use jepsen::cluster::Cluster;
use jepsen::history::History;
use jepsen::{fault, report, workload};

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
    /// Measure how long clients wait when a node fails, in all ways that a node can fail
    Gaps(failover::Gaps),
    /// Measure what groups cost that have no work
    Idle(idle::Idle),
    /// Measure how a node catches up that was away while others wrote
    Catchup(catchup::Catchup),
    /// Check a history that was written before, by this or by Jepsen
    Check {
        /// An EDN file, or JSON (an array, or one operation a line) if it ends in .json
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
    #[arg(value_delimiter = ',')]
    workloads: Vec<String>,
    /// … said by name
    #[arg(long, value_delimiter = ',', value_name = "WORKLOADS")]
    workload: Vec<String>,
    /// `local`: one of its own, on this machine; or URLs of a database that runs already, and is not broken
    #[arg(long, value_delimiter = ',', default_value = "local")]
    cluster: Vec<String>,
    /// Seeds the schedule of faults and the clients' choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs each workload with so many seeds in succession
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long clients work: 90s, 5m
    #[arg(long, visible_alias = "time", default_value = "60s", value_parser = duration)]
    time_limit: Duration,
    /// Goes on with further seeds until so much time has passed, and begins nothing after that
    #[arg(long, value_parser = duration)]
    total: Option<Duration>,
    /// Faults by name or family, or `all`; all faults on all workloads are tried family by family, and then mixed
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Lets faults of the network come on top of faults of processes
    #[arg(long)]
    mixed: bool,
    /// A database that runs already, instead of a cluster of one's own: nothing is broken
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["faults", "nodes", "cluster"])]
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
    /// Of several runs, keeps all folders, not only those of runs that failed
    #[arg(long)]
    keep: bool,
    /// Writes the table of several runs here, as Markdown, after each
    #[arg(long)]
    table: Option<PathBuf>,
    /// The script that starts and breaks the cluster
    #[arg(long, default_value_os_t = Cluster::default_script())]
    cluster_script: PathBuf,
}

impl Run {
    /// Of a database that runs already.
    fn urls(&self) -> Vec<String> {
        if self.cluster == ["local"] { self.urls.clone() } else { self.cluster.clone() }
    }
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
        Command::Gaps(arguments) => failover::run(arguments),
        Command::Idle(arguments) => idle::run(arguments),
        Command::Catchup(arguments) => catchup::run(arguments),
        Command::Check { history, checker, json } => check(&history, &checker, json),
        Command::List => {
            list();
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(validity) => ExitCode::from(status(validity)),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(status(Validity::Unknown))
        }
    }
}

/// Also the simulator's processes tell those that started them so.
fn status(validity: Validity) -> u8 {
    match validity {
        Validity::Valid => 0,
        Validity::Invalid => 1,
        Validity::Unknown => 2,
    }
}

#[allow(clippy::print_stdout, reason = "the list is what the command is for")]
fn list() {
    println!("workloads:");
    for entry in workload::ALL {
        println!("  {:<14} {} ({})", entry.name, entry.about, entry.checkers.join(", "));
    }
    println!("faults:");
    for entry in fault::ALL {
        println!("  {:<18} {:<8} {}", entry.name, entry.family().name(), entry.about);
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
    campaign::conduct(&arguments).await
}
