//! A bank at work while something is done to its cluster.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jepsen::checker::Validity;
use jepsen::history::{Clock, History, Recorder};
use jepsen::run::{Clients, drive, judge};
use jepsen::workload;

use crate::{Cluster, pause};

/// Runs the bank through these nodes, and `change` in the midst of it. All answers must be right, and none late.
pub async fn bank_while(
    cluster: &Arc<Cluster>,
    through: impl Iterator<Item = usize>,
    time: Duration,
    gap: Duration,
    change: impl AsyncFnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    let bank = workload::find("bank").context("the bank")?;
    let clients = Clients {
        urls: through.map(|n| cluster.url(n)).collect(),
        workload: (bank.make)(),
        count: 6,
        rate: 100.0,
        call_timeout: Duration::from_secs(5),
        plain_tables: false,
        seed: 7,
    };
    clients.setup().await.with_context(|| cluster.logs())?;
    let folder = tempfile::tempdir()?;
    let recorder = Recorder::create(folder.path(), Clock::start(), 100_000)?;
    let changing = async {
        pause(2_000).await;
        change(cluster).await
    };
    let (changed, ()) = futures::join!(changing, drive(&clients, &recorder, time));
    changed.with_context(|| cluster.logs())?;
    let troubles = clients.last(&recorder).await;
    ensure!(troubles.is_empty(), "{troubles:?}\n{}", cluster.logs());
    recorder.finish()?;
    let history = History::load(&folder.path().join("history.edn"))?;
    for verdict in judge(bank.checkers, &history, Some(gap)) {
        ensure!(verdict.validity == Validity::Valid, "{verdict}\n{}", cluster.logs());
    }
    Ok(())
}
