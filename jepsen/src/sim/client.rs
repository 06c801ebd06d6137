//! Simulated clients: tasks of the node that they talk to. They die with it; the call they were in is then of unknown outcome.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use storage::seam::Seams;
use tokio::sync::watch;
use txn::api::Database;

use super::host;
use super::workload::{DEFECT, Workload};
use super::world::World;
use crate::history::{Kind, LAST_PROCESS, Op, Process, SPLIT_AT, Value};
use crate::workload::{Answer, Failure, Invocation};

const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a call is drawn until it is a read.
const DRAWS_MAX: usize = 10;
/// Between attempts of what must succeed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing yet.
    Wait,
    /// Call.
    Work,
    /// Nothing any more.
    Rest,
}

/// The history while it happens.
pub struct Record {
    world: Arc<World>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    ops: Vec<Op>,
    calls: u64,
    calls_max: u64,
    next_process: u64,
    last_process: u64,
    underway: u64,
    defects: BTreeSet<String>,
}

impl Record {
    /// Of at most so many calls.
    pub fn new(world: Arc<World>, calls_max: u64) -> Arc<Self> {
        let inner = Inner { calls_max, last_process: LAST_PROCESS, ..Inner::default() };
        Arc::new(Self { world, inner: Mutex::new(inner) })
    }

    /// What was recorded, and errors that no fault excuses.
    pub fn take(&self) -> (Vec<Op>, Vec<String>) {
        let mut inner = self.inner.lock();
        let defects = std::mem::take(&mut inner.defects);
        (std::mem::take(&mut inner.ops), defects.into_iter().collect())
    }

    /// How many calls clients have made.
    pub fn calls(&self) -> u64 {
        self.inner.lock().calls
    }

    /// Whether no call is under way.
    pub fn is_quiet(&self) -> bool {
        self.inner.lock().underway == 0
    }

    /// A new process begins a call; `None` when there have been enough.
    fn begin(self: &Arc<Self>, call: &Invocation, last: bool) -> Option<Open> {
        let process = {
            let mut inner = self.inner.lock();
            if last {
                inner.last_process += 1;
                inner.last_process
            } else {
                if inner.calls >= inner.calls_max {
                    return None;
                }
                inner.calls += 1;
                inner.next_process += 1;
                inner.next_process
            }
        };
        let process = Process::Client(process);
        self.push(process, Kind::Invoke, call.f, &call.value, None);
        Some(Open { record: self.clone(), process, call: call.clone(), ended: false })
    }

    /// Notes what the nemesis does.
    pub fn nemesis(&self, f: &str, value: &Value) {
        self.push(Process::Nemesis, Kind::Info, f, value, None);
    }

    fn push(&self, process: Process, kind: Kind, f: &str, value: &Value, error: Option<&str>) {
        let mut inner = self.inner.lock();
        if let Some(defect) = error.filter(|error| error.starts_with(DEFECT)) {
            inner.defects.insert(defect.to_owned());
        }
        match (process, kind) {
            (Process::Nemesis, _) => {}
            (_, Kind::Invoke) => inner.underway += 1,
            _ => inner.underway -= 1,
        }
        // Who splits a shard is no client, as in `Invocation::written`.
        let (process, kind) = match (f, kind) {
            (SPLIT_AT, Kind::Invoke) => return,
            (SPLIT_AT, _) => (Process::Nemesis, Kind::Info),
            _ => (process, kind),
        };
        let op = Op {
            index: inner.ops.len(),
            process,
            kind,
            f: f.to_owned(),
            value: value.clone(),
            time: host::now_ns(),
            error: error.map(str::to_owned),
        };
        let text = op.to_string();
        self.world.note("op", &[u64::from(crc32fast::hash(text.as_bytes()))], || text);
        inner.ops.push(op);
    }
}

/// A call under way.
struct Open {
    record: Arc<Record>,
    process: Process,
    call: Invocation,
    ended: bool,
}

impl Open {
    fn end(mut self, answer: Answer) -> bool {
        self.ended = true;
        let (kind, value, error) = match answer {
            Ok(value) => (Kind::Ok, value, None),
            Err(Failure::Fail(why)) => (Kind::Fail, self.call.value.clone(), Some(why)),
            Err(Failure::Info(why)) => (Kind::Info, self.call.value.clone(), Some(why)),
        };
        self.record.push(self.process, kind, self.call.f, &value, error.as_deref());
        kind == Kind::Ok
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.ended {
            let (f, value) = (self.call.f, self.call.value.clone());
            self.record.push(self.process, Kind::Info, f, &value, Some("the node died"));
        }
    }
}

/// What a client works with.
#[derive(Clone)]
pub struct Client {
    /// What it asks.
    pub workload: Arc<dyn Workload>,
    /// Where that is written down.
    pub record: Arc<Record>,
    /// Whom it asks.
    pub database: Arc<dyn Database>,
    /// Its node's.
    pub seams: Seams,
}

impl Client {
    /// Works while it is time to.
    ///
    /// One that only reads never waits for a write that a leader without followers can't commit.
    pub async fn work(
        self,
        mut phase: watch::Receiver<Phase>,
        mut rng: StdRng,
        pause_ns: u64,
        only_reads: bool,
    ) {
        if phase.wait_for(|phase| *phase != Phase::Wait).await.is_err() {
            return;
        }
        while *phase.borrow() == Phase::Work {
            let mut call = self.workload.next(&mut rng);
            for _ in 0..DRAWS_MAX {
                if only_reads && call.f != "read" {
                    call = self.workload.next(&mut rng);
                }
            }
            let Some(open) = self.record.begin(&call, false) else { return };
            open.end(self.answer(&call).await);
            self.seams.sleep(Duration::from_nanos(rng.random_range(0..2 * pause_ns))).await;
        }
    }

    /// Makes the workload's last calls until they have succeeded.
    pub async fn last(self) {
        for call in self.workload.last() {
            loop {
                let Some(open) = self.record.begin(&call, true) else { return };
                if open.end(self.answer(&call).await) {
                    break;
                }
                self.seams.sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn answer(&self, call: &Invocation) -> Answer {
        tokio::select! {
            biased;
            answer = self.workload.apply(&self.database, call) => answer,
            () = self.seams.sleep(CALL_TIMEOUT) => Err(match call.f {
                "read" => Failure::Fail("no answer in time".to_owned()),
                _ => Failure::Info("no answer in time".to_owned()),
            }),
        }
    }
}
