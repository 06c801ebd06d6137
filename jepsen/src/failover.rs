//! `jepsen gaps`: how long clients wait when a node fails.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::fault::disk;
use jepsen::gaps::{self, KINDS, Kind};

/// What is promised.
const GAP_MAX: Duration = Duration::from_millis(1_500);
/// … of a clean shutdown.
const SHUTDOWN_GAP_MAX: Duration = Duration::from_millis(100);

#[derive(Args)]
pub struct Gaps {
    /// Which faults; all of them if none is named
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Only of nodes that lead the meta-group (`only`), or of others (`never`)
    #[arg(long, default_value = "both", value_parser = ["both", "only", "never"])]
    meta: String,
    /// Trials of each
    #[arg(long, default_value_t = 20)]
    trials: usize,
    /// Shards that are read and written
    #[arg(long, default_value_t = 3)]
    shards: usize,
    /// Between two reads of a shard, and between two writes
    #[arg(long, default_value = "10ms", value_parser = crate::duration)]
    period: Duration,
    /// How long a fault lasts
    #[arg(long, default_value = "4s", value_parser = crate::duration)]
    observe: Duration,
    /// Gives the nodes this priority among sessions (`/proc/PID/autogroup`), for machines that do other things, too
    #[arg(long, allow_hyphen_values = true)]
    autogroup: Option<i32>,
    /// Nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// The first of the cluster's ports
    #[arg(long, default_value_t = 26_000)]
    base_port: u16,
    /// Where the cluster lives
    #[arg(long, default_value_os_t = std::env::temp_dir().join("jepsen-gaps"))]
    out: PathBuf,
    /// Writes the table here, too
    #[arg(long)]
    table: Option<PathBuf>,
    /// The script that starts and breaks the cluster
    #[arg(long, default_value_os_t = Cluster::default_script())]
    cluster_script: PathBuf,
}

impl Gaps {
    fn kinds(&self) -> Result<Vec<Kind>> {
        if self.kinds.is_empty() {
            return Ok(KINDS.to_vec());
        }
        let find = |name: &String| {
            let known = || KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
            let found = KINDS.iter().find(|kind| kind.name == name);
            found.copied().with_context(|| format!("'{name}' is no kind of fault: {}", known()))
        };
        self.kinds.iter().map(find).collect()
    }
}

/// Measures, prints, and says whether what is promised was kept.
#[tokio::main]
#[allow(clippy::print_stdout, reason = "the table is what the command is for")]
pub async fn run(arguments: Gaps) -> Result<Validity> {
    let options = gaps::Options {
        kinds: arguments.kinds()?,
        meta: match arguments.meta.as_str() {
            "only" => vec![true],
            "never" => vec![false],
            _ => vec![false, true],
        },
        trials: arguments.trials,
        shards: arguments.shards,
        period: arguments.period,
        observe: arguments.observe,
        autogroup: arguments.autogroup,
    };
    let cluster = Cluster {
        script: arguments.cluster_script.clone(),
        binary: None,
        preload: Some(disk::build(&arguments.out.join("interposer")).await?),
        environment: Vec::new(),
        settings: Vec::new(),
        dir: arguments.out.join("cluster"),
        base_port: arguments.base_port,
        nodes: arguments.nodes,
        present: Default::default(),
        proxies: true,
    };
    let measured = tokio::select! {
        measured = gaps::measure(&options, &cluster, |trial| println!("{}", trial.line())) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    for node in cluster.all() {
        // Best effort: they are for whoever wonders about a figure.
        let _ = std::fs::copy(cluster.log(node), arguments.out.join(format!("node-{node}.log")));
    }
    let wiped =
        if measured.is_ok() { cluster.wipe().await } else { cluster.each("kill", &cluster.all()).await };
    let lines = measured?;
    wiped?;
    let table = gaps::markdown(&lines);
    println!("\n{table}");
    if let Some(path) = &arguments.table {
        std::fs::write(path, &table).with_context(|| format!("writing {}", path.display()))?;
    }
    let kept = lines
        .iter()
        .flat_map(|line| &line.trials)
        .all(|trial| trial.gap() <= if trial.kind == "shutdown" { SHUTDOWN_GAP_MAX } else { GAP_MAX });
    Ok(if kept { Validity::Valid } else { Validity::Invalid })
}
