//! What groups cost that have no work: `jepsen idle`.
//!
//! ```text
//!   up ── baseline ── create the groups ── all at rest ── watch ── operators' questions ── write ── rest ── kill ── write
//!         (memory)                                      (CPU,       (seconds)             (wake)           (a node)
//!                                                       memory)
//! ```

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use crate::cluster::Cluster;
use crate::observe::{Metrics, kilobytes, process};
use crate::run::{open, sleep};

/// As many as a table may have.
const SHARDS_PER_TABLE: usize = 256;
/// Nodes that have so many groups awake are at rest, but for what their own work needs.
const AWAKE_MAX: f64 = 16.0;
/// … and may have when more are created: above 512 they go to rest soon.
const CREATED_AWAKE_MAX: f64 = 560.0;
const REST_LIMIT: Duration = Duration::from_secs(900);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the leaderships of a dead node are awaited, and a statement.
const LIMIT: Duration = Duration::from_secs(60);
const TICKS_PER_SECOND: f64 = 100.0;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many groups there are to be.
    pub groups: usize,
    /// Writes to groups at rest.
    pub writes: usize,
    /// How long the idle nodes are watched.
    pub watch: Duration,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// It is to be no more than this.
    at_most: Option<f64>,
}

impl Figure {
    /// Whether what is promised was kept.
    pub fn is_kept(&self) -> bool {
        self.at_most.is_none_or(|most| self.value <= most)
    }
}

/// Measures everything, and tells how far it is.
pub async fn measure(
    options: &Options,
    cluster: &Cluster,
    mut tell: impl FnMut(&str),
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut add = |what: String, value: f64, unit: &'static str, at_most: Option<f64>| {
        let figure = Figure { what, value, unit, at_most };
        let shown = markdown(std::slice::from_ref(&figure));
        tell(shown.lines().last().unwrap_or_default());
        figures.push(figure);
    };
    cluster.wipe().await?;
    cluster.up().await.context("starting the cluster")?;
    cluster.settled().await?;
    let client = connect(cluster, 1).await?;
    let before = memory(cluster).await?;

    let tables = options.groups.div_ceil(SHARDS_PER_TABLE);
    let began = now();
    for n in 0..tables {
        let shards = SHARDS_PER_TABLE.min(options.groups - n * SHARDS_PER_TABLE);
        let create = format!(
            "CREATE TABLE quiet_{n} (id int PRIMARY KEY) WITH (sharding = 'hash', shards = {shards})"
        );
        client.batch_execute(&create).await.with_context(|| format!("creating table {n}"))?;
        // Two cores do not run thousands of groups that are awake: those before go to rest first.
        rested(cluster, &cluster.all(), CREATED_AWAKE_MAX).await?;
    }
    add("groups".to_owned(), options.groups as f64, "", None);
    add("creating them".to_owned(), began.elapsed().as_secs_f64(), "s", None);
    let began = now();
    rested(cluster, &cluster.all(), AWAKE_MAX).await?;
    add("until all are at rest".to_owned(), began.elapsed().as_secs_f64(), "s", None);

    let (ticks, began) = (cpu(cluster).await?, now());
    sleep(options.watch).await;
    let elapsed = began.elapsed().as_secs_f64();
    let after = cpu(cluster).await?;
    let held = memory(cluster).await?;
    for node in cluster.all() {
        let of = node - 1;
        let percent = (after[of] - ticks[of]) / TICKS_PER_SECOND / elapsed * 100.0;
        add(format!("node {node}, idle: of one core"), percent, "%", Some(2.0));
        let each = (held[of] - before[of]).max(0.0) / options.groups as f64;
        add(format!("node {node}, idle: memory per group"), each, "KB", Some(30.0));
        add(format!("node {node}, idle: memory in all"), held[of] / 1024.0, "MB", None);
    }
    for (what, command, most) in [
        ("admin status", &["status"][..], 1.0),
        ("admin shards", &["shards"], 1.0),
        ("admin rebalance --dry-run", &["rebalance", "--dry-run"], 1.0),
    ] {
        let began = now();
        cluster.operate(command).await?;
        add(what.to_owned(), began.elapsed().as_secs_f64(), "s", Some(most));
    }

    let mut took = Vec::new();
    for n in 0..options.writes {
        took.push(write(&client, n % tables, n).await?);
    }
    spread("a write to a group at rest", took, "ms", 20.0, &mut add);
    rested(cluster, &cluster.all(), AWAKE_MAX).await?;

    let (victim, survivors) = (3, [1, 2]);
    cluster.each("kill", &[victim]).await?;
    let began = now();
    let mut took = Vec::new();
    for n in 0..50 {
        took.push(write(&client, n % tables, 1_000_000 + n).await?);
    }
    spread("a write right after the death of a node", took, "ms", 1_500.0, &mut add);
    loop {
        let status = cluster.operate(&["status"]).await?;
        if status["groups_without_leader"] == 0 && status["nodes_dead"] != 0 {
            break;
        }
        if began.elapsed() > LIMIT {
            bail!("leaderships of the dead node are not served again: {status}");
        }
        sleep(LOOK_EVERY / 5).await;
    }
    add("until all it led is led again".to_owned(), began.elapsed().as_secs_f64(), "s", Some(5.0));
    rested(cluster, &survivors, AWAKE_MAX).await?;
    cluster.each("start", &[victim]).await?;
    let began = now();
    cluster.settled().await?;
    add(
        "until the node is back and nothing is owed to it".to_owned(),
        began.elapsed().as_secs_f64(),
        "s",
        None,
    );
    Ok(figures)
}

/// The figures as a table.
pub fn markdown(figures: &[Figure]) -> String {
    let mut table = String::from("| what | measured | goal |\n|---|--:|--:|\n");
    for figure in figures {
        let goal = figure.at_most.map_or(String::new(), |most| format!("≤ {most} {}", figure.unit));
        let digits = if figure.value < 10.0 && !figure.unit.is_empty() { 2 } else { 0 };
        // Writing to a string doesn't fail.
        let _ = writeln!(table, "| {} | {:.digits$} {} | {goal} |", figure.what, figure.value, figure.unit);
    }
    table
}

fn spread(
    what: &str,
    mut took: Vec<f64>,
    unit: &'static str,
    most: f64,
    add: &mut impl FnMut(String, f64, &'static str, Option<f64>),
) {
    took.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| took.get(((took.len() as f64 * part) as usize).min(took.len() - 1)).copied();
    let at = |part| at(part).unwrap_or_default();
    add(format!("{what}, median"), at(0.5), unit, None);
    add(format!("{what}, 99 of 100"), at(0.99), unit, Some(most));
    add(format!("{what}, slowest"), at(1.0), unit, None);
}

async fn connect(cluster: &Cluster, node: usize) -> Result<Client> {
    open(&cluster.url(node), LIMIT).await.context("connecting")
}

/// One row, in milliseconds. Keys are hashed, so each goes to another shard.
async fn write(client: &Client, table: usize, id: usize) -> Result<f64> {
    let began = now();
    let insert = format!("INSERT INTO quiet_{table} VALUES ({id})");
    tokio::time::timeout(LIMIT, client.batch_execute(&insert)).await.context("a write hangs")??;
    Ok(began.elapsed().as_secs_f64() * 1_000.0)
}

#[allow(clippy::disallowed_methods, reason = "what is measured is real time")]
fn now() -> Instant {
    Instant::now()
}

/// Resident kilobytes of each node.
async fn memory(cluster: &Cluster) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for node in cluster.all() {
        all.push(kilobytes(cluster, node, "VmRSS").await?);
    }
    Ok(all)
}

/// Ticks of processor time that each node has used.
async fn cpu(cluster: &Cluster) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for node in cluster.all() {
        let stat = tokio::fs::read_to_string(format!("/proc/{}/stat", process(cluster, node).await?)).await?;
        // The name, in parentheses, may hold spaces.
        let after = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).context("a short /proc/PID/stat")?.parse::<f64>().context("ticks");
        all.push(ticks(11)? + ticks(12)?);
    }
    Ok(all)
}

/// Waits until no more than so many groups are awake on each of these nodes.
async fn rested(cluster: &Cluster, nodes: &[usize], awake_max: f64) -> Result<()> {
    let began = now();
    loop {
        let mut most = 0.0_f64;
        for node in nodes {
            most = most.max(awake(cluster, *node).await?);
        }
        if most <= awake_max {
            return Ok(());
        }
        if began.elapsed() > REST_LIMIT {
            bail!("{most} groups are still awake on a node");
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How many groups are awake on a node, as its `/metrics` say.
async fn awake(cluster: &Cluster, node: usize) -> Result<f64> {
    const AWAKE: &str = "flotilla_raft_groups_awake";
    Metrics::of(cluster, node).await?.value(AWAKE, "").with_context(|| format!("no {AWAKE}"))
}
