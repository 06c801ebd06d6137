//! Reads and writes, every few milliseconds, whatever has become of the ones before.
//!
//! Each statement has a connection and a row of its own, so that one that hangs keeps no other from succeeding. When many
//! hang, new ones come at longer intervals: a long gap is measured a little more coarsely than a short one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use tokio_postgres::Client;

use crate::history::Clock;
use crate::run::{open, sleep};

/// Statements of one kind on one shard that may hang.
const SLOTS: usize = 24;
/// After so many more that hang, the interval doubles.
const SLOTS_PER_DOUBLING: usize = 4;
/// Hanging statements are not waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TABLE_TRIES: usize = 50;
const TABLE_PAUSE: Duration = Duration::from_millis(200);

/// The longest times without a success.
pub(super) struct Found {
    pub reads: Duration,
    pub writes: Duration,
    /// Without any fault: what of the above is the machine's doing.
    pub before: Duration,
}

/// When statements of one kind on one shard succeeded.
struct Series {
    writes: bool,
    successes: Mutex<Vec<Duration>>,
}

/// The probes of a trial.
pub(super) struct Probes {
    clock: Clock,
    stopped: Arc<AtomicBool>,
    series: Vec<Arc<Series>>,
}

/// Makes a table for each shard.
pub(super) async fn make_tables(urls: &[String], shards: usize) -> Result<()> {
    let client = open(&urls[0], CONNECT_TIMEOUT).await?;
    for shard in 0..shards {
        let rows: Vec<String> = (0..SLOTS).map(|slot| format!("({slot}, 0)")).collect();
        let sql = [
            format!("DROP TABLE IF EXISTS gaps_{shard}"),
            format!(
                "CREATE TABLE gaps_{shard} (k int PRIMARY KEY, v int NOT NULL) WITH (sharding = 'hash', shards = 1)"
            ),
            format!("INSERT INTO gaps_{shard} VALUES {}", rows.join(", ")),
        ];
        for sql in sql {
            let mut tries = 0;
            while let Err(error) = client.batch_execute(&sql).await {
                tries += 1;
                anyhow::ensure!(tries < TABLE_TRIES, "{sql}: {error}");
                sleep(TABLE_PAUSE).await;
            }
        }
    }
    Ok(())
}

impl Probes {
    /// Begins.
    pub async fn start(urls: &[String], shards: usize, period: Duration) -> Result<Self> {
        let (clock, stopped) = (Clock::start(), Arc::new(AtomicBool::new(false)));
        let mut series = Vec::new();
        for n in 0..2 * shards {
            let (shard, writes) = (n / 2, n % 2 == 1);
            let connecting = (0..SLOTS).map(|slot| open(&urls[slot % urls.len()], CONNECT_TIMEOUT));
            let clients = futures::future::try_join_all(connecting).await?;
            let one = Arc::new(Series { writes, successes: Mutex::default() });
            series.push(one.clone());
            spawn(issue(clients, shard, one, period, clock, stopped.clone()));
        }
        Ok(Self { clock, stopped, series })
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Ends; the gaps since `fault`.
    pub async fn stop(self, fault: Duration) -> Found {
        self.stopped.store(true, Ordering::SeqCst);
        let end = self.elapsed();
        let worst = |writes: bool, from: Duration, to: Duration| {
            let of_kind = self.series.iter().filter(|series| series.writes == writes);
            of_kind.map(|series| longest(&series.successes.lock(), from, to)).max().unwrap_or_default()
        };
        let before = worst(false, Duration::ZERO, fault).max(worst(true, Duration::ZERO, fault));
        Found { reads: worst(false, fault, end), writes: worst(true, fault, end), before }
    }
}

/// The longest time between two successes, of which the later one is after `from`.
pub(crate) fn longest(successes: &[Duration], from: Duration, to: Duration) -> Duration {
    let mut sorted: Vec<Duration> = successes.iter().copied().filter(|at| *at < to).collect();
    sorted.sort_unstable();
    let first = sorted.partition_point(|at| *at < from);
    let mut previous = first.checked_sub(1).map_or(from, |n| sorted[n]);
    let mut longest = Duration::ZERO;
    for at in sorted[first..].iter().copied().chain([to]) {
        longest = longest.max(at - previous);
        previous = at;
    }
    longest
}

async fn issue(
    clients: Vec<Client>,
    shard: usize,
    series: Arc<Series>,
    period: Duration,
    clock: Clock,
    stopped: Arc<AtomicBool>,
) {
    let (free, mut frees) = tokio::sync::mpsc::channel(SLOTS);
    for (slot, client) in clients.into_iter().enumerate() {
        // There is room for all of them.
        let _ = free.try_send((slot, client));
    }
    while !stopped.load(Ordering::SeqCst) {
        let hanging = SLOTS - frees.len();
        sleep(period * (1 << (hanging / SLOTS_PER_DOUBLING))).await;
        let Ok((slot, client)) = frees.try_recv() else { continue };
        let sql = match series.writes {
            true => format!("UPDATE gaps_{shard} SET v = v + 1 WHERE k = {slot}"),
            false => format!("SELECT v FROM gaps_{shard} WHERE k = {slot}"),
        };
        let (series, free) = (series.clone(), free.clone());
        spawn(async move {
            if client.batch_execute(&sql).await.is_ok() {
                series.successes.lock().push(clock.elapsed());
            }
            // Nobody waits for it after the end.
            let _ = free.try_send((slot, client));
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "a client's task: no simulator runs the harness")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(numbers: &[u64]) -> Vec<Duration> {
        numbers.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_gap_reaches_from_the_last_success_before_the_fault_to_the_first_after_it() {
        let at = Duration::from_millis;
        let successes = ms(&[10, 20, 500, 900, 910, 920]);
        assert_eq!(longest(&successes, at(25), at(1_000)), at(480));
        assert_eq!(longest(&successes, at(600), at(1_000)), at(400));
        assert_eq!(longest(&successes, at(905), at(1_000)), at(80), "the end is one, too");
        assert_eq!(longest(&[], at(100), at(1_000)), at(900));
    }
}
