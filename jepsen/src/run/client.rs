//! The clients: each makes one call at a time, and goes to another node when its own fails.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::{Client, NoTls};

use super::sleep;
use crate::history::{FINAL_READ, Kind, LAST_PROCESS, Recorder, Value};
use crate::workload::{Answer, Failure, Invocation, READ_KEYS, Session, Workload};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Between attempts of what must succeed: making tables, the last calls.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long that is tried.
const RETRIES_MAX: usize = 150;

/// Clients of a workload.
pub struct Clients {
    /// The nodes.
    pub urls: Vec<String>,
    /// What they ask.
    pub workload: Arc<dyn Workload>,
    /// How many.
    pub count: u64,
    /// Calls per second of all together.
    pub rate: f64,
    /// How long they wait for an answer.
    pub call_timeout: Duration,
    /// Without storage parameters.
    pub plain_tables: bool,
    /// Seeds their choices.
    pub seed: u64,
}

impl Clients {
    /// Makes the tables.
    pub async fn setup(&self) -> Result<()> {
        for mut sql in self.workload.setup() {
            if self.plain_tables
                && let Some(end) = sql.find(" WITH (")
            {
                sql.truncate(end);
            }
            let mut last = String::new();
            let mut done = false;
            for attempt in 0..RETRIES_MAX {
                let url = &self.urls[attempt % self.urls.len()];
                // Done before, and the answer lost: fine for DROP … IF EXISTS, and no other is repeated after that.
                match self.once(url, &sql).await {
                    Ok(()) => {
                        done = true;
                        break;
                    }
                    Err(error) => last = format!("{error:#}"),
                }
                sleep(RETRY_PAUSE).await;
            }
            anyhow::ensure!(done, "{sql}: {last}");
        }
        Ok(())
    }

    async fn once(&self, url: &str, sql: &str) -> Result<()> {
        let session = connect(url, false).await?;
        session.write(sql).await.map(|_| ()).map_err(|failure| anyhow::anyhow!("{failure:?}"))
    }

    /// The workload's last calls at each node, which must succeed in the end; says what did not.
    pub async fn last(&self, recorder: &Recorder) -> Vec<String> {
        let mut troubles = Vec::new();
        let mut process = LAST_PROCESS;
        let calls = self.workload.last();
        for (node, url) in self.urls.iter().enumerate() {
            let mut session: Option<Session> = None;
            for call in &calls {
                let processes = call.written(0, Kind::Invoke, &call.value).len() as u64;
                let mut error = String::new();
                let mut done = false;
                for _ in 0..RETRIES_MAX {
                    let first = process + 1;
                    process += processes;
                    let open = match session.take().filter(|session| !session.is_closed()) {
                        Some(open) => Ok(open),
                        None => connect(url, node % 2 == 1).await,
                    };
                    match open {
                        Ok(open) => {
                            done = self.call(&open, call, first, recorder).await;
                            // What failed may still be on its way on this connection.
                            session = done.then_some(open);
                        }
                        Err(failure) => error = format!("{failure:#}"),
                    }
                    if done {
                        break;
                    }
                    sleep(RETRY_PAUSE).await;
                }
                if !done {
                    troubles.push(format!(
                        "node {}: the last {} never succeeded ({error})",
                        node + 1,
                        call.f
                    ));
                }
            }
        }
        troubles
    }

    /// One call, written down; whether it succeeded.
    async fn call(&self, session: &Session, call: &Invocation, process: u64, recorder: &Recorder) -> bool {
        let record = |kind: Kind, value: &Value, error: Option<&str>| {
            for (process, kind, f, value) in call.written(process, kind, value) {
                recorder.record(process, kind, f, &value, error);
            }
        };
        record(Kind::Invoke, &call.value, None);
        let answer = tokio::time::timeout(self.call_timeout, self.workload.apply(session, call)).await;
        match answer.unwrap_or_else(|_| no_answer(call)) {
            Ok(value) => record(Kind::Ok, &value, None),
            Err(Failure::Fail(why)) => {
                record(Kind::Fail, &call.value, Some(&why));
                return false;
            }
            Err(Failure::Info(why)) => {
                record(Kind::Info, &call.value, Some(&why));
                return false;
            }
        }
        true
    }
}

/// So many calls a client makes at another node than its own, before it sees whether its own is there again.
const CALLS_ABROAD: u64 = 10;

/// Where the call was when time ran out isn't known: a COMMIT may be on its way.
fn no_answer(call: &Invocation) -> Answer {
    Err(match call.f {
        "read" | FINAL_READ | READ_KEYS => Failure::Fail("no answer in time".to_owned()),
        _ => Failure::Info("no answer in time".to_owned()),
    })
}

/// Lets all clients work for a time.
pub async fn drive(clients: &Clients, recorder: &Recorder, time: Duration) {
    join_all((0..clients.count).map(|worker| work(clients, worker, recorder, time))).await;
}

async fn work(clients: &Clients, worker: u64, recorder: &Recorder, time: Duration) {
    let mut rng = StdRng::seed_from_u64(clients.seed.wrapping_mul(1_000_003).wrapping_add(worker));
    let home = worker as usize % clients.urls.len();
    let (mut node, mut abroad) = (home, 0);
    let mut process = worker;
    let mut connections = worker / clients.urls.len() as u64;
    let mut session: Option<Session> = None;
    let pause_ms_max = (2_000.0 * clients.count as f64 / clients.rate.max(0.01)).max(1.0);
    while recorder.clock().elapsed() < time && !recorder.is_full() {
        let Some(open) = session.as_ref().filter(|session| !session.is_closed()) else {
            // Each connection of a client speaks the other protocol.
            connections += 1;
            session = connect(&clients.urls[node], connections % 2 == 1).await.ok();
            if session.is_none() {
                node = (node + 1) % clients.urls.len();
                sleep(RECONNECT_PAUSE).await;
            }
            continue;
        };
        let call = clients.workload.next(worker, &mut rng);
        let (before, this) = (recorder.clock().elapsed(), process);
        let succeeded = clients.call(open, &call, this, recorder).await;
        if !succeeded {
            // Whoever ended unknown is dead; a number is never used twice, and saying so of others does no harm.
            process += clients.count;
            // Lost, or too slow: what is still on its way on this connection must not mix with what follows.
            if open.is_closed() || recorder.clock().elapsed() - before >= clients.call_timeout {
                session = None;
                node = (node + 1) % clients.urls.len();
            }
        }
        // A client whose node went away comes back to it: else all would gather at the one that was never hit.
        abroad = if node == home { 0 } else { abroad + 1 };
        if abroad > CALLS_ABROAD {
            (session, node, abroad) = (None, home, 0);
        }
        sleep(Duration::from_micros((rng.random_range(0.0..pause_ms_max) * 1e3) as u64)).await;
    }
}

pub(crate) async fn connect(url: &str, extended: bool) -> Result<Session> {
    Ok(Session::new(open(url, CONNECT_TIMEOUT).await?, extended))
}

/// The bare connection, if it comes about within the time.
pub(crate) async fn open(url: &str, limit: Duration) -> Result<Client> {
    let mut config: tokio_postgres::Config = url.parse().context("a node's URL")?;
    config.connect_timeout(limit);
    // The timeout of the configuration is that of TCP; a paused node still accepts, and doesn't answer.
    let (client, connection) =
        tokio::time::timeout(limit, config.connect(NoTls)).await.context("no answer in time")??;
    #[allow(clippy::disallowed_methods, reason = "a client's task: no simulator runs the harness")]
    tokio::spawn(async move {
        // An error of the connection is an error of the statements on it.
        let _ = connection.await;
    });
    Ok(client)
}
