//! How a node catches up that was away while others wrote: `jepsen catchup`.
//!
//! ```text
//!   load ────────────────────────────────────────────────────────────────────────────▶ stop ── compare
//!    │   before   │               away                 │           back        │ after │
//!                 kill -9 ── write so many bytes ──── start ──────────── nothing is owed
//!                                                       └── kill -9 ── start ───┘
//!                                                       (a second round, if it is asked for)
//! ```
//!
//! A constant, modest load ([`load`]) goes on through the nodes that stay, so that the table ([`table`]) can say what clients notice of
//! it. What is written meanwhile ([`bulk`]) is more than the others keep in their logs, so that most of it comes as snapshots. Leaders
//! say what the node lacks ([`watch`]). In the end every acknowledged row must be there, and all replicas equal. [`stage`] puts it
//! together.

mod bulk;
mod load;
mod stage;
mod table;
mod watch;

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::observe::{Metrics, kilobytes};
use crate::run::sleep;
use stage::Stage;

pub use load::Served;
pub use table::markdown;

/// The setting that bounds how fast a node sends snapshots.
pub const SNAPSHOT_RATE: &str = "snapshot_mib_per_second";
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many bytes of rows are written while the node is away.
    pub bytes: u64,
    /// How long a row is.
    pub row_bytes: usize,
    /// Shards of the table that they go to. Smaller ones than what logs keep (64 MiB of each) are caught up with by the log alone.
    pub shards: usize,
    /// Clients that write them.
    pub writers: usize,
    /// Clients of the constant load.
    pub clients: usize,
    /// Their calls per second, of all together: half of them are reads, half are writes.
    pub rate: f64,
    /// How long the load is watched before the node goes away.
    pub before: Duration,
    /// How long the load is watched after the node has caught up.
    pub after: Duration,
    /// How long the node may take to catch up.
    pub limit: Duration,
    /// Whether there is a second round, in which the node is killed again on its way back.
    pub interrupt: bool,
    /// Seeds the rows.
    pub seed: u64,
}

/// What part of a round a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All nodes are there.
    Before,
    /// The node is away, and others write.
    Away,
    /// It catches up.
    Back,
    /// It has caught up, and is given back what it led.
    After,
}

/// What came of a round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The node was killed again on its way back.
    pub interrupted: bool,
    /// Bytes of rows that were acknowledged while the node was away.
    pub written_bytes: u64,
    /// Statements that were not acknowledged, and others written in their place.
    pub refused: u64,
    /// How long the node was away.
    pub away: Duration,
    /// MiB per second of snapshots that a node may send.
    pub snapshot_rate: String,
    /// What reached the node.
    pub arrived: Arrived,
    /// What the others sent.
    pub sent: Sent,
    /// From the node's start until nothing was owed to it; none: it did not come to that.
    pub caught_up: Option<Duration>,
    /// How the load was served: reads and writes of each phase.
    pub served: Vec<(Phase, Served)>,
    /// What clients of the load were told, if it was no answer, and how many of them.
    pub errors: Vec<(Phase, String, usize)>,
    /// What is not as it should be.
    pub failures: Vec<String>,
}

impl Round {
    /// Whether the node has caught up, nothing is lost, and all replicas are equal.
    pub fn is_well(&self) -> bool {
        self.failures.is_empty()
    }
}

/// What has reached a node since its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arrived {
    /// Bytes of snapshots.
    pub snapshot_bytes: f64,
    /// Bytes that it wrote to its log: entries, votes and what goes with them.
    pub log_bytes: f64,
    /// The most memory that was resident.
    pub peak_kilobytes: f64,
}

impl Arrived {
    async fn at(cluster: &Cluster, node: usize) -> Result<Self> {
        let metrics = Metrics::of(cluster, node).await?;
        // What has not been counted yet isn't listed.
        let value = |name, label| metrics.value(name, label).unwrap_or_default();
        Ok(Self {
            snapshot_bytes: value("flotilla_raft_snapshot_bytes_total", "direction=\"received\""),
            log_bytes: value("flotilla_log_bytes_total", ""),
            peak_kilobytes: kilobytes(cluster, node, "VmHWM").await?,
        })
    }

    /// Of two processes, one after the other.
    fn and(self, later: Self) -> Self {
        Self {
            snapshot_bytes: self.snapshot_bytes + later.snapshot_bytes,
            log_bytes: self.log_bytes + later.log_bytes,
            peak_kilobytes: self.peak_kilobytes.max(later.peak_kilobytes),
        }
    }
}

/// What nodes have sent of snapshots since their processes began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    /// Bytes, of those that did not arrive too.
    pub bytes: f64,
    /// How often one went on after a break.
    pub resumes: f64,
    /// Bytes that were not sent again then.
    pub spared_bytes: f64,
}

impl Sent {
    async fn by(cluster: &Cluster, nodes: &[usize]) -> Result<Self> {
        let mut sum = Self::default();
        for node in nodes {
            let metrics = Metrics::of(cluster, *node).await?;
            let value = |name, label| metrics.value(name, label).unwrap_or_default();
            sum.bytes += value("flotilla_raft_snapshot_bytes_total", "direction=\"sent\"");
            sum.resumes += value("flotilla_raft_snapshot_resumes_total", "");
            sum.spared_bytes += value("flotilla_raft_snapshot_spared_bytes_total", "");
        }
        Ok(sum)
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes - earlier.bytes,
            resumes: self.resumes - earlier.resumes,
            spared_bytes: self.spared_bytes - earlier.spared_bytes,
        }
    }
}

/// Measures everything, and tells how far it is.
pub async fn measure(options: &Options, cluster: &Cluster, tell: impl Fn(&str)) -> Result<Vec<Round>> {
    cluster.wipe().await?;
    cluster.up().await.context("starting the cluster")?;
    cluster.settled().await?;
    cluster.configure().await.context("making the settings")?;
    let stage = Stage { options, cluster, tell: &tell };
    let mut rounds = Vec::new();
    for (n, interrupted) in [false, true].into_iter().enumerate() {
        if interrupted && !options.interrupt {
            break;
        }
        let round = stage.round(n, interrupted).await?;
        let well = round.is_well();
        rounds.push(round);
        if !well {
            break;
        }
    }
    Ok(rounds)
}

/// Tells how far some work is, every few seconds, until it is done.
async fn telling<T>(work: impl Future<Output = T>, tell: &dyn Fn(&str), line: impl Fn() -> String) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(TELL_EVERY) => tell(&line()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_processes_got_is_added_up_and_their_peaks_are_not() {
        let first = Arrived { snapshot_bytes: 10.0, log_bytes: 3.0, peak_kilobytes: 70.0 };
        let second = Arrived { snapshot_bytes: 5.0, log_bytes: 1.0, peak_kilobytes: 40.0 };
        let both = Arrived { snapshot_bytes: 15.0, log_bytes: 4.0, peak_kilobytes: 70.0 };
        assert_eq!(first.and(second), both);
    }
}
