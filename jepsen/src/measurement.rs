//! What `jepsen gaps`, `jepsen idle` and `jepsen catchup` share: where their cluster lives, how they end, and where the table goes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use jepsen::cluster::Cluster;

// (Not a doc comment: it would stand in the place of the command's own.)
#[derive(Args)]
pub struct Place {
    /// The first of the cluster's ports
    #[arg(long, default_value_t = 26_000)]
    base_port: u16,
    /// Where the cluster lives [default: a folder named after the command, among the temporary files]
    #[arg(long, visible_alias = "dir")]
    out: Option<PathBuf>,
    /// Writes the table here, too
    #[arg(long)]
    table: Option<PathBuf>,
    /// The script that starts and breaks the cluster
    #[arg(long, default_value_os_t = Cluster::default_script())]
    cluster_script: PathBuf,
}

impl Place {
    /// Where the cluster of the command with this name lives.
    pub fn folder(&self, command: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("jepsen-{command}")))
    }

    /// A cluster in a folder: without proxies, without settings.
    pub fn cluster(&self, folder: &Path, nodes: usize) -> Cluster {
        Cluster {
            script: self.cluster_script.clone(),
            binary: None,
            preload: None,
            environment: Vec::new(),
            settings: Vec::new(),
            dir: folder.join("cluster"),
            base_port: self.base_port,
            nodes,
            present: Default::default(),
            proxies: false,
        }
    }

    /// The table goes to the terminal, and where else it is wanted.
    #[allow(clippy::print_stdout, reason = "the table is what the command is for")]
    pub fn show(&self, table: &str) -> Result<()> {
        println!("\n{table}");
        match &self.table {
            Some(path) => std::fs::write(path, table).with_context(|| format!("writing {}", path.display())),
            None => Ok(()),
        }
    }
}

/// Measures until it is done, or somebody presses Ctrl-C; no node is left running. The nodes' logs stay in the folder; their data
/// stay only if nothing was measured, or what was found is not as it should be.
pub async fn conduct<T>(
    cluster: &Cluster,
    folder: &Path,
    measuring: impl Future<Output = Result<T>>,
    is_well: impl FnOnce(&T) -> bool,
) -> Result<T> {
    let measured = tokio::select! {
        measured = measuring => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    for node in cluster.all() {
        // Best effort: they are for whoever wonders about a figure.
        let _ = std::fs::copy(cluster.log(node), folder.join(format!("node-{node}.log")));
    }
    let ended = match &measured {
        Ok(found) if is_well(found) => cluster.wipe().await,
        _ => cluster.down().await,
    };
    let found = measured?;
    ended?;
    Ok(found)
}
