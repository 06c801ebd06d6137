//! `jepsen gaps`: how long clients wait when a node fails.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::fault::disk;
use jepsen::gaps::{self, KINDS, Kind};

use crate::measurement::{Place, conduct};

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
    #[command(flatten)]
    place: Place,
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
#[allow(clippy::print_stdout, reason = "progress is for whoever watches")]
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
    let folder = arguments.place.folder("gaps");
    let cluster = Cluster {
        preload: Some(disk::build(&folder.join("interposer")).await?),
        proxies: true,
        ..arguments.place.cluster(&folder, arguments.nodes)
    };
    let measuring = gaps::measure(&options, &cluster, |trial| println!("{}", trial.line()));
    let lines = conduct(&cluster, &folder, measuring, |_| true).await?;
    arguments.place.show(&gaps::markdown(&lines))?;
    let kept = lines
        .iter()
        .flat_map(|line| &line.trials)
        .all(|trial| trial.gap() <= if trial.kind == "shutdown" { SHUTDOWN_GAP_MAX } else { GAP_MAX });
    Ok(if kept { Validity::Valid } else { Validity::Invalid })
}
