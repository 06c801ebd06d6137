//! How long clients wait when a node fails: `jepsen gaps`.
//!
//! Each shard's rows are read and written every few milliseconds, through the nodes that survive ([`probe`]), while one
//! node is broken in one way. The *gap* of a trial is the longest time without a success, of reads or of writes, in any shard, that
//! begins or goes on after the fault. Trials of a kind are a line of the table ([`table`]).
//!
//! ```text
//!   settle ── lead ── probe ──┬── fault ─────────── observe ──┬── heal ── settle …
//!             (the victim     │   ◀──── gap ────▶             │
//!              leads them)   │  ✓✓✓✓              ✓✓✓✓✓✓✓✓✓✓ │
//! ```

mod probe;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::fault::{self, Fault, Harm};
use crate::links::Links;
use crate::run::sleep;
use probe::Probes;

pub(crate) use probe::longest;
pub(crate) use table::percentile;
pub use table::{Line, Trial, markdown};

/// The meta-group's number.
const META_GROUP: u64 = 1;
/// Groups with higher numbers are the probed tables'.
const LAST_OWN_GROUP: u64 = 3;
/// How long a healed cluster gets to calm down.
const CALM: Duration = Duration::from_millis(2_000);
/// Probes before the fault.
const BEFORE: Duration = Duration::from_millis(700);
/// How often a leader is asked to move.
const LEAD_TRIES: usize = 100;
const LEAD_PAUSE: Duration = Duration::from_millis(250);
/// How often in succession the victim is found to lead.
const LEAD_ROUNDS: usize = 6;

/// A way to lose a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it is called.
    pub name: &'static str,
    /// The fault of the registry; none: a clean shutdown.
    fault: Option<&'static str>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind { name: "kill", fault: Some("kill") },
    Kind { name: "pause", fault: Some("pause") },
    Kind { name: "disk-stall", fault: Some("disk-stall") },
    Kind { name: "partition", fault: Some("partition") },
    Kind { name: "partition-in", fault: Some("partition-in") },
    Kind { name: "partition-out", fault: Some("partition-out") },
    Kind { name: "shutdown", fault: None },
];

impl Kind {
    fn fault(&self) -> Result<Option<&'static Fault>> {
        let Some(name) = self.fault else { return Ok(None) };
        fault::find(name).map(Some).with_context(|| format!("there is no fault '{name}'"))
    }

    async fn harm(&self, cluster: &Cluster, links: &Links, victim: usize) -> Result<()> {
        match self.fault()? {
            Some(fault) => match fault.harm(cluster, Some(links), &[victim], 0).await? {
                Harm::Done => Ok(()),
                other => bail!("{}: {other:?}", fault.name),
            },
            None => cluster.each("stop", &[victim]).await,
        }
    }

    async fn heal(&self, cluster: &Cluster, links: &Links, victim: usize) -> Result<()> {
        match self.fault()? {
            Some(fault) => fault.heal(cluster, Some(links), &[victim]).await,
            None => cluster.each("start", &[victim]).await,
        }
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which kinds.
    pub kinds: Vec<Kind>,
    /// Of each, for nodes that lead the meta-group and for nodes that don't.
    pub meta: Vec<bool>,
    /// How many trials of each.
    pub trials: usize,
    /// Tables, each a shard of its own.
    pub shards: usize,
    /// Between two probes of a shard.
    pub period: Duration,
    /// How long a fault lasts, and is watched.
    pub observe: Duration,
    /// What the kernel's autogroup of each node is set to, on a machine that others use, too.
    pub autogroup: Option<i32>,
}

/// Measures everything, and tells of each trial as it ends.
pub async fn measure(
    options: &Options,
    cluster: &Cluster,
    mut tell: impl FnMut(&Trial),
) -> Result<Vec<Line>> {
    cluster.wipe().await?;
    let links = Links::open(cluster, 0).await?;
    cluster.up().await.context("starting the cluster")?;
    cluster.settled().await?;
    probe::make_tables(&cluster.urls(), options.shards).await?;
    let mut lines: Vec<Line> = Vec::new();
    for round in 0..options.trials {
        for (n, (kind, meta)) in options
            .kinds
            .iter()
            .flat_map(|kind| options.meta.iter().map(move |meta| (kind, *meta)))
            .enumerate()
        {
            let trial = trial(options, cluster, &links, *kind, meta).await;
            let trial = trial.with_context(|| format!("{}, round {}", kind.name, round + 1))?;
            tell(&trial);
            match lines.get_mut(n) {
                Some(line) => line.trials.push(trial),
                None => lines.push(Line { kind: kind.name, meta, trials: vec![trial] }),
            }
        }
    }
    Ok(lines)
}

async fn trial(options: &Options, cluster: &Cluster, links: &Links, kind: Kind, meta: bool) -> Result<Trial> {
    cluster.settled().await?;
    if let Some(nice) = options.autogroup {
        set_autogroups(cluster, nice)?;
    }
    let victim = prepare(cluster, meta).await?;
    let survivors: Vec<String> = {
        let urls = cluster.urls().into_iter().zip(cluster.all());
        urls.filter(|(_, node)| *node != victim).map(|(url, _)| url).collect()
    };
    let probes = Probes::start(&survivors, options.shards, options.period).await?;
    sleep(BEFORE).await;
    let load = load();
    let begun = probes.elapsed();
    // Some faults take a while to be done: a shutdown ends when the process has.
    let (harmed, ()) = futures::join!(kind.harm(cluster, links, victim), sleep(options.observe));
    let found = probes.stop(begun).await;
    let healed = kind.heal(cluster, links, victim).await;
    harmed?;
    healed?;
    sleep(CALM).await;
    Ok(Trial { kind: kind.name, meta, reads: found.reads, writes: found.writes, before: found.before, load })
}

/// Chooses the victim, and sees to it that it leads all that is probed.
async fn prepare(cluster: &Cluster, meta: bool) -> Result<usize> {
    let mut last = String::new();
    let mut found = None;
    for _ in 0..LEAD_TRIES {
        match lead(cluster, meta).await {
            // What is told of leaders is up to a second old: it must have been true for a while.
            Ok(Some(victim)) if found == Some((victim, LEAD_ROUNDS)) => return Ok(victim),
            Ok(Some(victim)) => {
                let rounds = found.filter(|(before, _)| *before == victim).map_or(0, |(_, rounds)| rounds);
                found = Some((victim, rounds + 1));
            }
            Ok(None) => found = None,
            Err(error) => (found, last) = (None, format!("{error:#}")),
        }
        sleep(LEAD_PAUSE).await;
    }
    bail!("no node is fit to be the victim: {last}")
}

/// The victim, if it leads all probed shards; has it lead them otherwise.
async fn lead(cluster: &Cluster, meta: bool) -> Result<Option<usize>> {
    let leads_meta = cluster.leader(META_GROUP).await?;
    let shards = cluster.operate(&["shards"]).await?;
    let probed = shards.as_array().into_iter().flatten().filter_map(|shard| {
        let group = shard["group"].as_u64().filter(|group| *group > LAST_OWN_GROUP)?;
        Some((group, shard["leader"].as_u64()))
    });
    let probed: Vec<(u64, Option<u64>)> = probed.collect();
    let candidates = cluster.all().into_iter().filter(|node| (*node == leads_meta) == meta);
    let mut ids = Vec::new();
    for node in candidates {
        ids.push((node, cluster.id(node).await?));
    }
    let led = |id: u64| probed.iter().filter(|(_, leader)| *leader == Some(id)).count();
    let (victim, id) = *ids.iter().max_by_key(|(_, id)| led(*id)).context("there are no candidates")?;
    if led(id) == probed.len() {
        return Ok(Some(victim));
    }
    let others = probed.iter().filter(|(_, leader)| *leader != Some(id));
    let moves = others.map(async |(group, _)| {
        cluster.operate(&["transfer-leader", &format!("g{group}"), &format!("n{id}")]).await
    });
    // Whoever refuses is asked again.
    let _ = futures::future::join_all(moves).await;
    Ok(None)
}

fn set_autogroups(cluster: &Cluster, nice: i32) -> Result<()> {
    for node in cluster.all() {
        let pid = std::fs::read_to_string(cluster.pid_file(node)).context("reading a node's pid")?;
        let path = format!("/proc/{}/autogroup", pid.trim());
        std::fs::write(&path, nice.to_string()).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

/// How many processes want the machine's processors.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}
