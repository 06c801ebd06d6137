//! A run: a workload on a cluster under faults, and everything that is needed to understand it, in a folder.
//!
//! | file | what |
//! |---|---|
//! | `run.json` | workload, seed, faults and all other settings |
//! | `schedule.json` | when what was to be done to whom (where a fault looks for a leader, the history tells whom it found) |
//! | `history.edn`, `history.json` | what was asked and answered |
//! | `verdict.json`, `verdict.txt` | what the checkers say |
//! | `timeline.svg`, `latency.svg` | pictures |
//! | `node-N.log` | the nodes' logs |

mod client;
mod nemesis;
mod progress;
mod replicas;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::checker::{self, Validity, Verdict, availability};
use crate::cluster::Cluster;
use crate::fault::{Fault, flip, schedule};
use crate::history::{Clock, History, Kind, Process, Recorder, Tally};
use crate::links::Links;
use crate::{report, workload};

pub use client::{Clients, drive};
pub(crate) use client::{connect, open};

/// How a workload is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which.
    pub workload: String,
    /// Seeds the schedule and the clients' choices.
    pub seed: u64,
    /// For how long clients work.
    pub time: Duration,
    /// How many of them.
    pub clients: u64,
    /// Calls per second of all of them together.
    pub rate: f64,
    /// How long a client waits for an answer.
    pub call_timeout: Duration,
    /// Operations written down, at most.
    pub ops_max: usize,
    /// The gap that is allowed under faults of a minority; none: it is told, and not judged.
    pub gap_max: Option<Duration>,
    /// What is done to the cluster.
    pub faults: Vec<&'static Fault>,
    /// Whether faults of the network come on top of faults of processes, instead of between them.
    pub mixed: bool,
    /// Makes tables without storage parameters: other databases don't know ours.
    pub plain_tables: bool,
    /// Tells how far it is while it runs.
    pub progress: bool,
    /// Where the run's folder is made.
    pub out: PathBuf,
}

/// What came out.
pub struct Outcome {
    /// The folder.
    pub folder: PathBuf,
    /// What the checkers say.
    pub verdicts: Vec<Verdict>,
    /// What went wrong with the harness or with bringing nodes back.
    pub troubles: Vec<String>,
    /// Calls and faults.
    pub tally: Tally,
    /// The longest time without an answer under faults of a minority, if there were any.
    pub gap: Option<Duration>,
}

impl Outcome {
    /// The worst of the verdicts.
    pub fn validity(&self) -> Validity {
        let worst = self.verdicts.iter().map(|verdict| verdict.validity).max().unwrap_or(Validity::Unknown);
        if self.troubles.is_empty() { worst } else { worst.max(Validity::Unknown) }
    }
}

/// Starts a cluster, runs a workload on it, breaks it, heals it, and checks what clients saw.
pub async fn run(options: &Options, cluster: &Cluster) -> Result<Outcome> {
    let entry = workload::find(&options.workload)
        .with_context(|| format!("there is no workload '{}'; `jepsen list` shows them", options.workload))?;
    let folder = make_folder(options)?;
    let plans = schedule::plans(
        options.seed,
        entry.name,
        &options.faults,
        cluster.nodes,
        options.time,
        options.mixed,
    );
    let planned: Vec<_> = plans.iter().flatten().map(schedule::Planned::json).collect();
    write_json(&folder, "schedule.json", &json!(planned))?;
    cluster.wipe().await?;
    // Before the nodes: they look for each other there.
    let links = if cluster.proxies { Some(Links::open(cluster, options.seed).await?) } else { None };
    cluster.up().await.context("starting the cluster")?;
    cluster.configure().await.context("making the settings")?;
    cluster.settled().await?;
    if options.faults.iter().any(|fault| fault.needs_rows()) {
        flip::prepare(cluster).await.context("filling the disks")?;
    }
    let patient = nemesis::Patient { cluster, links: links.as_ref(), table: entry.table };
    let breaking = async |recorder: &Recorder| {
        nemesis::asked(recorder, &options.faults);
        nemesis::run(&patient, &plans, options.time, recorder).await
    };
    let comparing = async || Some(replicas::compare(cluster).await);
    let outcome = conduct(options, folder.clone(), &|| cluster.urls(), breaking, comparing).await;
    for node in cluster.numbers() {
        // Best effort: a log that is missing is no reason to lose the verdict.
        let _ = std::fs::copy(cluster.log(node), folder.join(format!("node-{node}.log")));
    }
    outcome
}

/// Runs a workload on a database that is there already, and not broken: any that speaks PostgreSQL's protocol.
pub async fn run_against(options: &Options, urls: Vec<String>) -> Result<Outcome> {
    anyhow::ensure!(
        options.faults.is_empty(),
        "a database that is there already is not broken: there can be no faults"
    );
    let breaking = async |_: &Recorder| Vec::new();
    conduct(options, make_folder(options)?, &|| urls.clone(), breaking, async || None).await
}

async fn conduct(
    options: &Options,
    folder: PathBuf,
    urls: &dyn Fn() -> Vec<String>,
    breaking: impl AsyncFnOnce(&Recorder) -> Vec<String>,
    comparing: impl AsyncFnOnce() -> Option<Verdict>,
) -> Result<Outcome> {
    let entry = workload::find(&options.workload)
        .with_context(|| format!("there is no workload '{}'; `jepsen list` shows them", options.workload))?;
    write_json(&folder, "run.json", &describe(options, urls().len()))?;
    let mut clients = Clients {
        urls: urls(),
        workload: (entry.make)(),
        count: options.clients,
        rate: options.rate,
        call_timeout: options.call_timeout,
        plain_tables: options.plain_tables,
        seed: options.seed,
    };
    clients.setup().await.context("making the tables")?;
    let recorder = Recorder::create(&folder, Clock::start(), options.ops_max)?;
    if let Some(call) = clients.workload.opening() {
        for kind in [Kind::Invoke, Kind::Ok] {
            recorder.record(Process::Client(0), kind, call.f, &call.value, None);
        }
    }
    let working = async { futures::join!(breaking(&recorder), drive(&clients, &recorder, options.time)) };
    let (mut troubles, ()) = tokio::select! {
        done = working => done,
        () = progress::tell(&recorder, options.time), if options.progress => Default::default(),
    };
    // Nodes may have come and gone.
    clients.urls = urls();
    troubles.extend(clients.last(&recorder).await);
    let compared = comparing().await;
    recorder.finish()?;
    let history = History::load(&folder.join("history.edn"))?;
    let mut verdicts = judge(entry.checkers, &history, options.gap_max);
    verdicts.extend(compared);
    let gap = availability::longest_gap(&history);
    let outcome = Outcome { folder, verdicts, troubles, tally: recorder.tally(), gap };
    report::write(&outcome, &history, options)?;
    Ok(outcome)
}

/// What the named checkers say, and those that every history must pass.
pub fn judge(names: &[&str], history: &History, gap_max: Option<Duration>) -> Vec<Verdict> {
    let judged = |name: &&str| match checker::find(name) {
        Some(checker) => (checker.check)(history),
        None => {
            let mut verdict = Verdict::new("none");
            verdict.unknown(format!("there is no checker '{name}'"));
            verdict
        }
    };
    let mut verdicts: Vec<Verdict> = names.iter().map(judged).collect();
    verdicts.push(checker::faults::check(history));
    verdicts.push(availability::check_within(history, gap_max.unwrap_or(Duration::MAX)));
    verdicts.push(checker::progress::check(history));
    verdicts
}

fn describe(options: &Options, nodes: usize) -> serde_json::Value {
    json!({
        "workload": options.workload,
        "seed": options.seed,
        "time_s": options.time.as_secs_f64(),
        "nodes": nodes,
        "clients": options.clients,
        "rate": options.rate,
        "call_timeout_ms": options.call_timeout.as_millis() as u64,
        "ops_max": options.ops_max,
        "gap_max_ms": options.gap_max.map(|gap| gap.as_millis() as u64),
        "plain_tables": options.plain_tables,
        "mixed": options.mixed,
        "faults": options.faults.iter().map(|fault| fault.name).collect::<Vec<_>>(),
    })
}

/// A folder of its own, named after what is run.
fn make_folder(options: &Options) -> Result<PathBuf> {
    let faults: Vec<&str> = options.faults.iter().map(|fault| fault.name).collect();
    let faults = match faults.len() {
        0 => "calm".to_owned(),
        1..=3 => faults.join("+"),
        n => format!("{n}-faults"),
    };
    let name = format!("{}-{faults}-seed-{}", options.workload, options.seed);
    std::fs::create_dir_all(&options.out).with_context(|| format!("making {}", options.out.display()))?;
    for n in 1..1_000 {
        let folder = options.out.join(if n == 1 { name.clone() } else { format!("{name}-{n}") });
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("making {}", folder.display())),
        }
    }
    bail!("{} is full of runs", options.out.display())
}

pub(crate) fn write_json(folder: &Path, name: &str, json: &serde_json::Value) -> Result<()> {
    let path = folder.join(name);
    let text = serde_json::to_string_pretty(json)?;
    std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// The harness runs in real time: no simulator drives it.
#[allow(clippy::disallowed_methods, reason = "a client's clock: no simulator runs the harness")]
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}
