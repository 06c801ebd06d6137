//! `jepsen idle`: what groups cost that have no work, and how soon they are there when they have.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jepsen::checker::Validity;
use jepsen::quiet;

use crate::measurement::{Place, conduct};

#[derive(Args)]
pub struct Idle {
    /// Groups
    #[arg(long, default_value_t = 10_000)]
    groups: usize,
    /// Writes to groups at rest
    #[arg(long, default_value_t = 300)]
    writes: usize,
    /// How long the idle nodes are watched
    #[arg(long, default_value = "60s", value_parser = crate::duration)]
    watch: Duration,
    #[command(flatten)]
    place: Place,
}

/// Measures, prints, and says whether what is promised was kept.
#[tokio::main]
#[allow(clippy::print_stdout, reason = "progress is for whoever watches")]
pub async fn run(arguments: Idle) -> Result<Validity> {
    let options =
        quiet::Options { groups: arguments.groups, writes: arguments.writes, watch: arguments.watch };
    let folder = arguments.place.folder("idle");
    let cluster = arguments.place.cluster(&folder, 3);
    let measuring = quiet::measure(&options, &cluster, |line| println!("{line}"));
    let figures = conduct(&cluster, &folder, measuring, |_| true).await?;
    arguments.place.show(&quiet::markdown(&figures))?;
    let kept = figures.iter().all(quiet::Figure::is_kept);
    Ok(if kept { Validity::Valid } else { Validity::Invalid })
}
