//! The simulated disk under the Raft log, and where the state's database lives.
//!
//! [`SimLog`] is a [`LogEngine`] as `storage::raft_log` promises it: what a call changed is readable at once, and durable when an
//! fsync that began later has ended, which takes a time of its own. A crash keeps what was durable, and of what came after it a
//! beginning of random length: the disk may have written more than it was asked to, in order.
//!
//! The state is a real RocksDB in a directory. It has no log of its own, so that a crash takes what was not flushed: the node's next
//! life begins from a copy of the files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use storage::Error;
use storage::crash_image::crash_image;
use storage::ids::{GroupId, LogIndex};
use storage::raft_log::{Done, LogEngine, LogState};
use tokio::sync::Notify;

use super::world::{Place, Purpose, World, generator_of};

/// Of so many syncs, one takes much longer.
const SLOW_ONE_IN: u32 = 100;
/// Of so many syncs, a disk that lies carries out one.
const LIES: u32 = 100;
const US: u64 = 1_000;

#[derive(Clone, Debug, Default)]
struct Stored {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<Bytes>,
    first: LogIndex,
    entries: BTreeMap<LogIndex, Bytes>,
}

type Groups = BTreeMap<GroupId, Stored>;

#[derive(Clone)]
enum Op {
    Append(Vec<(LogIndex, Bytes)>),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<LogIndex>),
    Purge(LogIndex, Bytes),
    Remove,
}

impl Op {
    fn apply(&self, group: GroupId, groups: &mut Groups) {
        if let Op::Remove = self {
            groups.remove(&group);
            return;
        }
        let stored = groups.entry(group).or_default();
        match self {
            Op::Append(entries) => {
                if stored.entries.is_empty()
                    && stored.purged.is_none()
                    && let Some((first, _)) = entries.first()
                {
                    stored.first = *first;
                }
                stored.entries.extend(entries.iter().cloned());
            }
            Op::Vote(vote) => stored.vote = Some(vote.clone()),
            Op::Committed(committed) => stored.committed = Some(committed.clone()),
            Op::Truncate(last_kept) => {
                let end = last_kept.map_or(LogIndex(0), |kept| LogIndex(kept.0 + 1));
                stored.entries.split_off(&end);
            }
            Op::Purge(upto, log_id) => {
                let first = LogIndex(upto.0 + 1);
                if stored.purged.is_none() || first > stored.first {
                    stored.entries = stored.entries.split_off(&first);
                    stored.first = first;
                    stored.purged = Some(log_id.clone());
                }
            }
            Op::Remove => {}
        }
    }
}

/// What a node's disk does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// Every sync takes this much longer.
    pub stall_ns: u64,
    /// Most syncs are acknowledged and not carried out: a defect, to see whether it is found.
    pub lies: bool,
}

struct Inner {
    durable: Groups,
    random: StdRng,
    sync_ns: u64,
    manners: Manners,
    /// What is written and not durable: of the present life.
    volatile: Vec<(GroupId, Op)>,
}

/// A node's disk, which outlives its processes.
pub struct Disk {
    world: Arc<World>,
    place: Place,
    dir: PathBuf,
    inner: Mutex<Inner>,
}

impl Disk {
    /// An empty one; the state goes below `dir`.
    pub fn new(seed: u64, place: Place, dir: PathBuf, manners: Manners, world: Arc<World>) -> Arc<Self> {
        let mut random = generator_of(seed, Purpose::Disk, place as u64);
        let sync_ns = random.random_range(50 * US..1_000 * US);
        let inner = Inner { durable: Groups::new(), random, sync_ns, manners, volatile: Vec::new() };
        Arc::new(Self { world, place, dir, inner: Mutex::new(inner) })
    }

    /// Where the state is in a node's life (the first is 0).
    pub fn state_dir(&self, life: u64) -> PathBuf {
        self.dir.join(life.to_string())
    }

    /// Makes syncs slow, or normal again.
    pub fn stall(&self, stall_ns: u64) {
        self.inner.lock().manners.stall_ns = stall_ns;
    }

    /// How long something that reads or writes takes.
    pub fn latency_ns(&self) -> u64 {
        let inner = &mut *self.inner.lock();
        let mut latency = inner.sync_ns / 2 + inner.random.random_range(0..=inner.sync_ns);
        if inner.random.random_ratio(1, SLOW_ONE_IN) {
            latency += inner.random.random_range(5_000 * US..50_000 * US);
        }
        latency + inner.manners.stall_ns
    }

    /// The power fails, or the process dies: what is not durable is lost, but for a beginning of it. (Of a process alone the
    /// kernel would keep everything: that is the longest beginning.) The state's files are copied for the next life.
    pub fn crash(&self, life: u64, power: bool) -> Result<()> {
        {
            let inner = &mut *self.inner.lock();
            let lost = std::mem::take(&mut inner.volatile);
            let kept = if power { inner.random.random_range(0..=lost.len()) } else { lost.len() };
            for (group, op) in &lost[..kept] {
                op.apply(*group, &mut inner.durable);
            }
            let numbers = [self.place as u64, lost.len() as u64, kept as u64];
            self.world.note("crash", &numbers, || format!("node {}", self.place + 1));
        }
        crash_image(&self.state_dir(life), &self.state_dir(life + 1)).context("copying a node's state")
    }
}

/// The log of one life of a node.
pub struct SimLog {
    disk: Arc<Disk>,
    /// As it reads.
    view: Mutex<Groups>,
    /// Who waits for the next sync.
    waiting: Mutex<Vec<Done>>,
    arrived: Notify,
    closed: Mutex<bool>,
}

impl SimLog {
    /// What the disk holds. [`SimLog::write`] has to run beside it.
    pub fn open(disk: &Arc<Disk>) -> Arc<Self> {
        let view = disk.inner.lock().durable.clone();
        Arc::new(Self {
            disk: disk.clone(),
            view: Mutex::new(view),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            closed: Mutex::new(false),
        })
    }

    /// Makes durable what arrives, for ever.
    pub async fn write(self: Arc<Self>) {
        loop {
            let done = std::mem::take(&mut *self.waiting.lock());
            if done.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let ready = self.disk.inner.lock().volatile.len();
            let latency = self.disk.latency_ns();
            self.disk.world.sleep(self.disk.place, latency).await;
            {
                let inner = &mut *self.disk.inner.lock();
                // A disk that lies does so most of the time.
                if !inner.manners.lies || inner.random.random_ratio(1, LIES) {
                    for (group, op) in inner.volatile.drain(..ready) {
                        op.apply(group, &mut inner.durable);
                    }
                }
            }
            let numbers = [self.disk.place as u64, ready as u64];
            self.disk.world.note("sync", &numbers, || format!("node {}", self.disk.place + 1));
            done.into_iter().for_each(|done| done(Ok(())));
        }
    }

    fn submit(&self, group: GroupId, op: Op, done: Option<Done>) {
        if *self.closed.lock() {
            if let Some(done) = done {
                done(Err(Error::Closed));
            }
            return;
        }
        op.apply(group, &mut self.view.lock());
        self.disk.inner.lock().volatile.push((group, op));
        // The committed position alone is no reason to sync.
        if let Some(done) = done {
            self.waiting.lock().push(done);
            self.arrived.notify_one();
        }
    }
}

impl LogEngine for SimLog {
    fn append(&self, group: GroupId, entries: Vec<(LogIndex, Bytes)>, done: Done) {
        let next = self.view.lock().get(&group).and_then(|stored| match stored.entries.last_key_value() {
            Some((last, _)) => Some(LogIndex(last.0 + 1)),
            None => stored.purged.as_ref().map(|_| stored.first),
        });
        if let (Some(next), Some((index, _))) = (next, entries.first())
            && next != *index
        {
            return done(Err(Error::Misuse(format!("{group} appends {index} where {next} is next"))));
        }
        self.submit(group, Op::Append(entries), Some(done));
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.submit(group, Op::Vote(vote), Some(done));
    }

    fn save_committed(&self, group: GroupId, committed: Bytes) {
        self.submit(group, Op::Committed(committed), None);
    }

    fn truncate_after(&self, group: GroupId, last_kept: Option<LogIndex>, done: Done) {
        self.submit(group, Op::Truncate(last_kept), Some(done));
    }

    fn purge_to(&self, group: GroupId, upto: LogIndex, purged_log_id: Bytes, done: Done) {
        self.submit(group, Op::Purge(upto, purged_log_id), Some(done));
    }

    fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<(LogIndex, Bytes)>, Error> {
        let view = self.view.lock();
        let Some(stored) = view.get(&group) else { return Ok(Vec::new()) };
        if from >= to || stored.entries.last_key_value().is_none_or(|(last, _)| from > *last) {
            return Ok(Vec::new());
        }
        if from < stored.first && stored.purged.is_some() {
            let first = stored.first;
            return Err(Error::Misuse(format!("{group} reads {from}, its log begins at {first}")));
        }
        let mut found: Vec<(LogIndex, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (index, entry) in stored.entries.range(from..to) {
            if !found.is_empty() && bytes + entry.len() > bytes_max {
                break;
            }
            bytes += entry.len();
            found.push((*index, entry.clone()));
        }
        Ok(found)
    }

    fn state(&self, group: GroupId) -> Result<LogState, Error> {
        let view = self.view.lock();
        let Some(stored) = view.get(&group) else { return Ok(LogState::default()) };
        Ok(LogState {
            first: stored.purged.as_ref().map(|_| stored.first),
            last: stored.entries.last_key_value().map(|(index, entry)| (*index, entry.clone())),
            vote: stored.vote.clone(),
            committed: stored.committed.clone(),
            purged: stored.purged.clone(),
        })
    }

    fn groups(&self) -> Result<Vec<GroupId>, Error> {
        Ok(self.view.lock().keys().copied().collect())
    }

    fn remove_group(&self, group: GroupId, done: Done) {
        self.submit(group, Op::Remove, Some(done));
    }

    fn failure(&self) -> Option<Error> {
        None
    }

    fn close(&self) {
        *self.closed.lock() = true;
    }
}
