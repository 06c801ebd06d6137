//! A constant load, and how each of its calls went.
//!
//! Calls fall due at a fixed rate, whatever has become of those before, and latency counts from when a call was due: one that waits
//! for a slow predecessor is slow, too. What could not be made within a second of that is not made, and counts as unanswered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::Options;
use super::bulk::{CONNECT_LIMIT, Rows, list};
use crate::gaps::{longest, percentile};
use crate::history::Clock;
use crate::run::{connect, open, sleep};
use crate::workload::{Failure, Session};

const CALL_LIMIT: Duration = Duration::from_secs(5);
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// An answer that takes longer is late.
const LATE: Duration = Duration::from_millis(500);
/// Rows that are there from the beginning, and are read.
const READ_ROWS: u64 = 1_000;
/// So many different errors are remembered.
const ERRORS_MAX: usize = 12;
/// Rows that one statement looks for.
const LOOK_ROWS: usize = 500;

/// A call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    writes: bool,
    due: Duration,
    /// How long after that it was answered; none: it was not.
    took: Option<Duration>,
}

/// How calls of one kind were served for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// Whether they wrote.
    pub writes: bool,
    /// How many were due.
    pub due: usize,
    /// … and were answered.
    pub answered: usize,
    /// … more than 500 ms after they were due.
    pub late: usize,
    /// The latency of half of those that were answered is no higher.
    pub p50: Duration,
    /// … of 99 in a hundred.
    pub p99: Duration,
    /// The longest time without an answer.
    pub gap: Duration,
}

/// How the calls were served that were due within a time.
pub(super) fn served(calls: &[Call], writes: bool, from: Duration, to: Duration) -> Served {
    let of_kind = || calls.iter().filter(|call| call.writes == writes);
    let within: Vec<&Call> = of_kind().filter(|call| (from..to).contains(&call.due)).collect();
    let mut took: Vec<Duration> = within.iter().filter_map(|call| call.took).collect();
    took.sort_unstable();
    let answers: Vec<Duration> = of_kind().filter_map(|call| Some(call.due + call.took?)).collect();
    Served {
        writes,
        due: within.len(),
        answered: took.len(),
        late: took.len() - took.partition_point(|took| *took <= LATE),
        p50: percentile(&took, 50),
        p99: percentile(&took, 99),
        gap: longest(&answers, from, to),
    }
}

/// What is to be asked.
pub(super) struct Plan {
    urls: Vec<String>,
    table: String,
    shards: usize,
    clients: u64,
    /// Between two calls of a client.
    period: Duration,
}

impl Plan {
    /// A table of its own, with as many shards as the bulk's.
    pub fn new(options: &Options, urls: &[String], table: &str) -> Self {
        let clients = options.clients.max(1);
        Self {
            urls: urls.to_vec(),
            table: table.to_owned(),
            shards: options.shards,
            clients: clients as u64,
            period: Duration::from_secs_f64(clients as f64 / options.rate.max(0.1)),
        }
    }

    /// Makes the table, and the rows that are read.
    pub async fn create(&self) -> Result<()> {
        let Self { table, shards, .. } = self;
        let rows: Vec<String> = (0..READ_ROWS).map(|id| format!("({id}, {id})")).collect();
        let client = open(&self.urls[0], CONNECT_LIMIT).await?;
        for sql in [
            format!(
                "CREATE TABLE {table} (id bigint PRIMARY KEY, v bigint NOT NULL) WITH (sharding = 'hash', shards = {shards})"
            ),
            format!("INSERT INTO {table} VALUES {}", rows.join(", ")),
        ] {
            client.batch_execute(&sql).await.with_context(|| format!("making {table}"))?;
        }
        Ok(())
    }

    /// The row that a client's `n`th write makes: no other one does.
    fn id(&self, client: u64, n: u64) -> u64 {
        READ_ROWS + n * self.clients + client
    }
}

#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    /// Rows that were written.
    acknowledged: Vec<u64>,
    /// Reads that did not find their row.
    holes: u64,
    /// What clients were told, and when the calls were due that were told so.
    errors: BTreeMap<String, Vec<Duration>>,
}

/// Clients at work, until it is finished or dropped.
pub(super) struct Load {
    plan: Arc<Plan>,
    clock: Clock,
    stopped: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    workers: JoinSet<()>,
}

impl Load {
    /// Begins.
    pub fn start(plan: Plan) -> Self {
        let (plan, clock, stopped) = (Arc::new(plan), Clock::start(), Arc::new(AtomicBool::new(false)));
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut workers = JoinSet::new();
        for number in 0..plan.clients {
            let worker = Worker {
                plan: plan.clone(),
                number,
                node: number as usize / 2,
                session: None,
                due: Duration::ZERO,
                seen: seen.clone(),
            };
            workers.spawn(worker.work(clock, stopped.clone()));
        }
        Self { plan, clock, stopped, seen, workers }
    }

    /// Since the beginning; calls fall due by it.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Ends, after the calls that are under way.
    pub async fn finish(mut self) -> Result<Finished> {
        self.stopped.store(true, Ordering::SeqCst);
        while let Some(ended) = self.workers.join_next().await {
            ended.context("a client of the load")?;
        }
        let seen = std::mem::take(&mut *self.seen.lock());
        Ok(Finished { plan: self.plan, seen })
    }
}

/// A client: makes one call at a time, and goes to another node when its own fails. Even ones read, odd ones write.
struct Worker {
    plan: Arc<Plan>,
    number: u64,
    node: usize,
    session: Option<Session>,
    /// When the call was due that is being made.
    due: Duration,
    seen: Arc<Mutex<Seen>>,
}

impl Worker {
    async fn work(mut self, clock: Clock, stopped: Arc<AtomicBool>) {
        let writes = self.number % 2 == 1;
        let period = self.plan.period;
        // One after the other, and not all at once.
        let mut due = period.mul_f64(self.number as f64 / self.plan.clients as f64);
        let mut n = 0;
        while !stopped.load(Ordering::SeqCst) {
            let now = clock.elapsed();
            if now < due {
                sleep(due - now).await;
                continue;
            }
            let late = now - due > BEHIND_MAX;
            self.due = due;
            let answered = !late && if writes { self.write(n).await } else { self.read(n).await };
            let took = answered.then(|| clock.elapsed() - due);
            self.seen.lock().calls.push(Call { writes, due, took });
            n += 1;
            due += period;
        }
    }

    async fn read(&mut self, n: u64) -> bool {
        let id = self.plan.id(self.number, n) % READ_ROWS;
        let found = self.ask(&format!("SELECT v FROM {} WHERE id = {id}", self.plan.table)).await;
        if found == Some(0) {
            self.seen.lock().holes += 1;
        }
        found.is_some()
    }

    async fn write(&mut self, n: u64) -> bool {
        let id = self.plan.id(self.number, n);
        let written = self.ask(&format!("INSERT INTO {} VALUES ({id}, {id})", self.plan.table)).await;
        if written.is_some() {
            self.seen.lock().acknowledged.push(id);
        }
        written.is_some()
    }

    /// How many rows a statement has found; none if it was not answered.
    async fn ask(&mut self, sql: &str) -> Option<usize> {
        let answer = tokio::time::timeout(CALL_LIMIT, self.try_once(sql)).await;
        let why = match answer.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(rows) => return Some(rows),
            Err(why) => why,
        };
        let mut seen = self.seen.lock();
        if seen.errors.len() < ERRORS_MAX || seen.errors.contains_key(&why) {
            seen.errors.entry(why).or_default().push(self.due);
        }
        drop(seen);
        // A statement that hangs must not mix with what follows; a node that is refused is left.
        if self.session.is_none() {
            self.node += 1;
        }
        None
    }

    async fn try_once(&mut self, sql: &str) -> Result<usize, String> {
        // Back in its place only after an answer.
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => {
                let url = &self.plan.urls[self.node % self.plan.urls.len()];
                connect(url, false).await.map_err(|error| format!("{error:#}"))?
            }
        };
        let answer = session.write(sql).await;
        if !session.is_closed() {
            self.session = Some(session);
        }
        match answer {
            Ok((rows, _)) => Ok(rows.len()),
            Err(Failure::Fail(why) | Failure::Info(why)) => Err(why),
        }
    }
}

/// What came of a load.
pub(super) struct Finished {
    plan: Arc<Plan>,
    seen: Seen,
}

impl Finished {
    pub fn calls(&self) -> &[Call] {
        &self.seen.calls
    }

    /// What clients were told that got no answer to calls that were due within a time, and how many of these.
    pub fn errors(&self, from: Duration, to: Duration) -> Vec<(String, usize)> {
        let within = |dues: &Vec<Duration>| dues.iter().filter(|due| (from..to).contains(due)).count();
        let told = self.seen.errors.iter().map(|(why, dues)| (why.clone(), within(dues)));
        told.filter(|(_, count)| *count > 0).collect()
    }

    /// What clients miss of what was acknowledged, asked of a node.
    pub async fn lost(&self, url: &str) -> Result<Option<String>> {
        let mut rows = Rows::at(url);
        let mut missing = 0;
        for ids in self.seen.acknowledged.chunks(LOOK_ROWS) {
            let sql = format!("SELECT id FROM {} WHERE id IN ({})", self.plan.table, list(ids));
            let found = rows.fetch(&sql).await?;
            missing += ids.len().saturating_sub(found.len());
        }
        let holes = self.seen.holes;
        Ok((missing > 0 || holes > 0).then(|| {
            format!("{missing} acknowledged rows of the load are missing; {holes} reads found no row")
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn what_is_due_within_a_time_counts_and_gaps_reach_into_it() {
        let read = |due, took: Option<u64>| Call {
            writes: false,
            due: ms(due),
            took: took.map(Duration::from_millis),
        };
        let write = Call { writes: true, due: ms(150), took: Some(ms(1)) };
        let calls = [
            read(50, Some(2)),
            read(100, Some(4)),
            read(200, None),
            read(300, Some(90)),
            write,
            read(500, Some(3)),
        ];
        let found = served(&calls, false, ms(100), ms(500));
        assert_eq!((found.due, found.answered, found.late), (3, 2, 0));
        assert_eq!((found.p50, found.p99), (ms(4), ms(90)));
        assert_eq!(found.gap, ms(390 - 104), "from the answer to the first to that of the last");
        let writes = served(&calls, true, ms(100), ms(500));
        assert_eq!((writes.due, writes.answered, writes.gap), (1, 1, ms(349)));
        assert_eq!(served(&calls, true, ms(600), ms(700)).gap, ms(549), "it has begun before");
        let calls = [read(10, Some(500)), read(20, Some(501)), read(30, Some(2_000)), read(40, None)];
        assert_eq!(served(&calls, false, ms(0), ms(50)).late, 2);
    }

    #[test]
    fn what_clients_are_told_belongs_to_when_their_calls_were_due() {
        let plan =
            Plan { urls: Vec::new(), table: String::new(), shards: 1, clients: 1, period: Duration::ZERO };
        let errors = [("away", vec![ms(10)]), ("slow", vec![ms(10), ms(20), ms(35)])];
        let errors = errors.map(|(why, dues)| (why.to_owned(), dues)).into();
        let finished = Finished { plan: Arc::new(plan), seen: Seen { errors, ..Seen::default() } };
        let told = |from, to| finished.errors(ms(from), ms(to));
        assert_eq!(told(0, 20), [("away".to_owned(), 1), ("slow".to_owned(), 1)]);
        assert_eq!(told(20, 40), [("slow".to_owned(), 2)]);
        assert!(told(40, 90).is_empty());
    }

    #[test]
    fn no_two_writes_make_the_same_row() {
        let plan =
            Plan { urls: Vec::new(), table: String::new(), shards: 1, clients: 3, period: Duration::ZERO };
        let ids: BTreeSet<u64> = (0..3)
            .flat_map(|client| (0..5).map(move |n| (client, n)))
            .map(|(client, n)| plan.id(client, n))
            .collect();
        assert_eq!(ids.len(), 15);
        assert!(ids.iter().all(|id| *id >= READ_ROWS), "nor one that was there from the beginning");
    }
}
