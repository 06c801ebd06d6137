//! A bank at work while something is done to its cluster.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jepsen::checker::{Validity, availability};
use jepsen::history::{Clock, History, Kind, Process, Recorder, Value};
use jepsen::run::{Clients, drive, judge};
use jepsen::workload;

use crate::{Cluster, pause};

/// What the history calls the change.
const CHANGE: &str = "change";

/// Runs the bank through these nodes, and `change` in the midst of it. All answers must be right, and from its beginning to five
/// seconds after its end nobody may wait for one for longer than `gap`.
#[allow(clippy::print_stdout, reason = "how near the bound it came is for whoever reads the test's output")]
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
    let (clients, recorder) = (Arc::new(clients), Arc::new(recorder));
    let working = {
        let (clients, recorder) = (clients.clone(), recorder.clone());
        async move { drive(&clients, &recorder, time).await }
    };
    // A task of its own: commands and scripts block the one that runs them.
    #[allow(clippy::disallowed_methods, reason = "clients' task: no simulator runs the tests")]
    let working = tokio::spawn(working);
    pause(2_000).await;
    note(&recorder, "begin");
    let changed = change(cluster).await;
    note(&recorder, "end");
    changed.with_context(|| cluster.logs())?;
    working.await.context("the clients")?;
    let troubles = clients.last(&recorder).await;
    ensure!(troubles.is_empty(), "{troubles:?}\n{}", cluster.logs());
    recorder.finish()?;
    let history = History::load(&folder.path().join("history.edn"))?;
    let longest = availability::longest_gap(&history).context("nobody looked for gaps")?;
    println!(
        "the longest time without an answer: {:.2} s; {:.2} s are allowed",
        longest.as_secs_f64(),
        gap.as_secs_f64()
    );
    for verdict in judge(bank.checkers, &history, Some(gap)) {
        ensure!(verdict.validity == Validity::Valid, "{verdict}\n{}", cluster.logs());
    }
    Ok(())
}

/// As the nemesis does: the checker of availability looks for gaps where something was done to a minority.
fn note(recorder: &Recorder, phase: &str) {
    let entries = [("phase", Value::keyword(phase)), ("minority", Value::Bool(true))];
    let value = Value::Map(entries.map(|(name, value)| (Value::keyword(name), value)).to_vec());
    recorder.record(Process::Nemesis, Kind::Info, CHANGE, &value, None);
}
