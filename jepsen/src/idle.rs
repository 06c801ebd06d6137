//! `jepsen idle`: what groups cost that have no work, and how soon they are there when they have.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::quiet;

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
    /// The first of the cluster's ports
    #[arg(long, default_value_t = 26_000)]
    base_port: u16,
    /// Where the cluster lives
    #[arg(long, default_value_os_t = std::env::temp_dir().join("jepsen-idle"))]
    out: PathBuf,
    /// Writes the table here, too
    #[arg(long)]
    table: Option<PathBuf>,
    /// The script that starts and breaks the cluster
    #[arg(long, default_value_os_t = Cluster::default_script())]
    cluster_script: PathBuf,
}

/// Measures, prints, and says whether what is promised was kept.
#[tokio::main]
#[allow(clippy::print_stdout, reason = "the table is what the command is for")]
pub async fn run(arguments: Idle) -> Result<Validity> {
    let options =
        quiet::Options { groups: arguments.groups, writes: arguments.writes, watch: arguments.watch };
    let cluster = Cluster {
        script: arguments.cluster_script.clone(),
        binary: None,
        preload: None,
        environment: Vec::new(),
        settings: Vec::new(),
        dir: arguments.out.join("cluster"),
        base_port: arguments.base_port,
        nodes: 3,
        present: Default::default(),
        proxies: false,
    };
    let measured = tokio::select! {
        measured = quiet::measure(&options, &cluster, |line| println!("{line}")) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let wiped =
        if measured.is_ok() { cluster.wipe().await } else { cluster.each("kill", &cluster.all()).await };
    let figures = measured?;
    wiped?;
    let table = quiet::markdown(&figures);
    println!("\n{table}");
    if let Some(path) = &arguments.table {
        std::fs::write(path, &table)?;
    }
    let kept = figures.iter().all(quiet::Figure::is_kept);
    Ok(if kept { Validity::Valid } else { Validity::Invalid })
}
