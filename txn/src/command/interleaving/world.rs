//! Two shards, their leaders, what they have proposed, and the network's late copies.

mod past;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use proto::shard as pb;
use proto::shard::command::Effect;
use raft::{Role, StateMachine, StateMachineFactory};
use storage::ids::{Epoch, GroupId, KeyRange, LogIndex, NodeId, ReplicaId, Term, Timestamp, TxnId};
use storage::seam::Seams;
use storage::{Engine, Snapshot, Store, StoreOptions, intents, mvcc};

use super::history::Writers;
use crate::command::decide::{Standing, load_record, standing};
use crate::command::rules::Fates;
use crate::command::{Refusal, commit, prewrite, read, scan, validate};
use crate::descriptor::ShardDescriptor;
use crate::latch::{Guard, Mode, Span};
use crate::shard::{Leadership, Pushed, Registry, Shard, ShardFactory};
use crate::wire::{Fate, txn_bytes};
use crate::{Error, Oracle};

pub const KEYS: usize = 6;

/// One engine for all cases: each has keys of its own in it.
static ENGINE: OnceLock<(tempfile::TempDir, Arc<Store>)> = OnceLock::new();
static CASES: AtomicU64 = AtomicU64::new(0);

/// Why there is no answer.
#[derive(Debug)]
pub enum Not {
    /// Latches are in the way: ask again.
    Yet,
    /// Refused.
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for Not {
    fn from(refusal: E) -> Self {
        Not::Refused(refusal.into())
    }
}

/// What became of a proposal, as far as its proposer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposal {
    InFlight,
    Applied,
    /// The leader is gone: perhaps applied, perhaps not.
    Unknown,
}

struct Flight {
    shard: usize,
    ticket: usize,
    command: pb::Command,
    _guard: Option<Guard>,
}

/// Latches that are held, in a term.
#[derive(Debug)]
pub struct Held {
    pub guard: Guard,
    pub term: Term,
}

#[derive(Default)]
pub struct Counter(AtomicU64);

#[async_trait]
impl Oracle for Counter {
    async fn timestamp(&self) -> Result<Timestamp, Error> {
        Ok(Timestamp(self.0.fetch_add(1, Ordering::SeqCst) + 1))
    }
}

/// A copy of a request, to come late.
pub enum Late {
    Prewrite { shard: usize, txn: TxnId, primary: Bytes, writes: Vec<pb::Write> },
    CommitPrimary { txn: TxnId, primary: Bytes, at: Timestamp },
}

pub struct World {
    engine: Arc<Engine>,
    shards: [Arc<Shard>; 2],
    case: u64,
    now: Instant,
    term: u64,
    index: u64,
    pub oracle: Counter,
    flights: Vec<Flight>,
    proposals: Vec<Proposal>,
    /// When transactions that lay intents began.
    started: HashMap<TxnId, Timestamp>,
    pub late: Vec<Late>,
}

fn descriptors() -> [ShardDescriptor; 2] {
    let replicas = [(ReplicaId(1), NodeId(1))].into_iter().collect();
    let shard = |group, range| ShardDescriptor { group, range, epoch: Epoch(1), replicas };
    let cut = Bytes::from_static(b"b");
    let first = shard.clone()(GroupId(2), KeyRange { start: Bytes::new(), end: cut.clone() });
    [first, shard(GroupId(3), KeyRange { start: cut, end: Bytes::new() })]
}

impl World {
    pub fn new() -> Self {
        let (_, store) = ENGINE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).unwrap();
            descriptors().iter().for_each(|shard| crate::shard::found(&store.engine(), shard).unwrap());
            (dir, store)
        });
        let seams = Seams::real();
        let (registry, _) = Registry::new(NodeId(1));
        let factory = ShardFactory::new(registry.clone(), seams.clone());
        let shards = descriptors().map(|shard| {
            factory.open(shard.group, ReplicaId(1), store.engine()).unwrap();
            registry.get(shard.group).unwrap()
        });
        let above = shards.iter().map(|shard| shard.closed().0).max().unwrap_or(0);
        let mut world = Self {
            engine: store.engine(),
            shards,
            case: CASES.fetch_add(1, Ordering::SeqCst),
            now: seams.clock.now(),
            term: 0,
            index: 0,
            // (Above what earlier cases have closed: the engine is the same.)
            oracle: Counter(AtomicU64::new(above)),
            flights: Vec::new(),
            proposals: Vec::new(),
            started: HashMap::new(),
            late: Vec::new(),
        };
        world.change_leader(0, 0);
        world.change_leader(1, 0);
        world
    }

    /// Even keys lie in the first shard, odd ones in the second.
    pub fn key(&self, number: usize) -> Bytes {
        let shard = if number.is_multiple_of(2) { "a" } else { "b" };
        format!("{shard}{:08}/{number}", self.case).into()
    }

    /// All keys of this case in a shard.
    pub fn all_in(&self, shard: usize) -> KeyRange {
        KeyRange { start: self.key(shard), end: KeyRange::point(&self.key(KEYS - 2 + shard)).end }
    }

    pub fn draw(&self) -> Timestamp {
        self.oracle.timestamp().now_or_never().unwrap().unwrap()
    }

    fn leadership(&self, shard: usize) -> Arc<Leadership> {
        self.shards[shard].leadership().unwrap()
    }

    fn latch(&self, shard: usize, spans: Vec<(Span, Mode)>) -> Result<Held, Not> {
        let leadership = self.leadership(shard);
        let guard = leadership.latches.acquire(spans).now_or_never().ok_or(Not::Yet)?;
        Ok(Held { guard, term: leadership.term })
    }

    fn latch_keys<'k>(&self, shard: usize, keys: impl IntoIterator<Item = &'k Bytes>) -> Result<Held, Not> {
        self.latch(shard, keys.into_iter().map(|key| (Span::Key(key.clone()), Mode::Exclusive)).collect())
    }

    fn wait(&self, shard: usize, spans: &[(Span, Mode)]) -> Result<Snapshot, Not> {
        self.leadership(shard).latches.wait(spans).now_or_never().ok_or(Not::Yet)?;
        Ok(self.engine.snapshot())
    }

    /// `Context::propose`: `None` if another term has begun.
    pub fn propose(&mut self, shard: usize, held: Held, effect: Effect) -> Option<usize> {
        if held.term != self.leadership(shard).term {
            return None;
        }
        let closed = self.leadership(shard).closing.with_effects().0;
        let command = pb::Command { effect: Some(effect), closed };
        Some(self.send(shard, command, Some(held.guard)))
    }

    fn send(&mut self, shard: usize, command: pb::Command, guard: Option<Guard>) -> usize {
        let ticket = self.proposals.len();
        self.proposals.push(Proposal::InFlight);
        self.flights.push(Flight { shard, ticket, command, _guard: guard });
        ticket
    }

    pub fn proposal(&self, ticket: usize) -> Proposal {
        self.proposals[ticket]
    }

    /// The next entry of a shard's log is committed.
    pub fn apply_next(&mut self, shard: usize) {
        if let Some(at) = self.flights.iter().position(|flight| flight.shard == shard) {
            let flight = self.flights.remove(at);
            self.apply(&flight);
            self.proposals[flight.ticket] = Proposal::Applied;
        }
    }

    fn apply(&mut self, flight: &Flight) {
        self.index += 1;
        let at = raft::Applied { term: Term(self.term), index: LogIndex(self.index) };
        let command = flight.command.encode_to_vec();
        let mut batch = self.engine.batch();
        self.shards[flight.shard].apply(&mut batch, at, &command).unwrap();
        self.engine.write(batch).unwrap();
        self.shards[flight.shard].applied(at);
    }

    /// Another replica leads: of what was proposed it has the first few.
    pub fn change_leader(&mut self, shard: usize, survive: usize) {
        let (mine, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.shard == shard);
        self.flights = others;
        for (order, flight) in mine.iter().enumerate() {
            if order < survive {
                self.apply(flight);
            }
            self.proposals[flight.ticket] = Proposal::Unknown;
        }
        self.term += 1;
        self.shards[shard].role_changed(&Role::Leader { term: Term(self.term) });
    }

    pub fn read(
        &self,
        shard: usize,
        own: TxnId,
        at: Timestamp,
        fates: &Fates,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, Not> {
        let spans: Vec<_> = keys.iter().map(|key| (Span::Key(key.clone()), Mode::Shared)).collect();
        let snapshot = match at == Timestamp::MAX {
            true => self.latch(shard, spans).map(|_held| self.engine.snapshot())?,
            false => self.wait(shard, &spans)?,
        };
        let values = read::evaluate(&snapshot, Some(own), at, fates, &[], keys)?;
        Ok(values.into_iter().map(|found| found.value).collect())
    }

    /// All pages of a shard.
    pub fn scan(
        &self,
        shard: usize,
        own: TxnId,
        at: Timestamp,
        fates: &Fates,
    ) -> Result<Vec<pb::KeyValue>, Not> {
        let (mut rows, mut left) = (Vec::new(), Some(self.all_in(shard)));
        while let Some(range) = left {
            let snapshot = self.wait(shard, &[(Span::Range(range.clone()), Mode::Shared)])?;
            let limits = mvcc::Limits { rows: 2, bytes: usize::MAX };
            let page = scan::evaluate(&snapshot, Some(own), at, fates, &range, shard == 1, limits)?;
            rows.extend(page.rows);
            left = page.rest.map(crate::descriptor::range_from_pb);
        }
        Ok(rows)
    }

    /// A one-shard commit up to the draw.
    pub fn check_commit(
        &self,
        shard: usize,
        txn: TxnId,
        read_at: Timestamp,
        reads: &[KeyRange],
        writes: &[pb::Write],
    ) -> Result<Held, Not> {
        let mut spans: Vec<_> = writes.iter().map(|w| (Span::Key(w.key.clone()), Mode::Exclusive)).collect();
        spans.extend(reads.iter().map(|range| (commit::read_span(range), Mode::Shared)));
        let held = self.latch(shard, spans)?;
        commit::check(&self.engine.snapshot(), txn, read_at, reads, writes, &[])?;
        Ok(held)
    }

    /// When a one-shard commit was applied, if that is remembered.
    pub fn outcome(&self, shard: usize, txn: TxnId, key: &Bytes) -> Result<Option<Timestamp>, Not> {
        self.wait(shard, &[(Span::Key(key.clone()), Mode::Shared)])?;
        Ok(self.shards[shard].recent().lock().get(txn))
    }

    /// `None`: it was laid, or its transaction is committed.
    pub fn prewrite(
        &mut self,
        shard: usize,
        txn: TxnId,
        primary: &Bytes,
        writes: &[pb::Write],
    ) -> Result<Option<usize>, Not> {
        let held = self.latch_keys(shard, writes.iter().map(|write| &write.key))?;
        let snapshot = self.engine.snapshot();
        if self.shard_of(primary) == shard {
            match load_record(&snapshot, primary, txn)?.map(|record| record.kind()) {
                Some(pb::FateKind::FateAborted) => return Err(crate::command::decide::ended().into()),
                Some(_) => return Ok(None),
                None => self.leadership(shard).heard(txn, self.now),
            }
        }
        let request = pb::Prewrite { writes: writes.to_vec(), round: 1, ..pb::Prewrite::default() };
        let found = prewrite::check(&snapshot, txn, &request, &[])?;
        assert!(found.overtaken.is_empty(), "there is one round only");
        let writes =
            writes.iter().map(|w| pb::Version { key: w.key.clone(), value: w.value.clone() }).collect();
        let drawn = self.draw();
        let effect = pb::PutIntents {
            txn: txn_bytes(txn),
            primary: primary.clone(),
            started: self.started.entry(txn).or_insert(drawn).0,
            writes,
            round: 1,
            ..Default::default()
        };
        Ok(self.propose(shard, held, Effect::PutIntents(effect)))
    }

    pub fn shard_of(&self, key: &[u8]) -> usize {
        usize::from(key.first() == Some(&b'b'))
    }

    pub fn validate(
        &self,
        shard: usize,
        txn: TxnId,
        read_at: Timestamp,
        at: Timestamp,
        fates: &Fates,
        reads: &[KeyRange],
    ) -> Result<(), Not> {
        let spans: Vec<_> = reads.iter().map(|range| (commit::read_span(range), Mode::Shared)).collect();
        let snapshot = self.wait(shard, &spans)?;
        let mut unknown = Vec::new();
        for range in reads {
            validate::check_range(&snapshot, txn, read_at, at, fates, range, &mut unknown)?;
        }
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(Refusal::Blocked { intents: unknown, in_reads: true }.into()),
        }
    }

    /// What is decided already, or what was proposed (`None`: to nobody).
    pub fn commit_primary(
        &mut self,
        txn: TxnId,
        primary: &Bytes,
        at: Timestamp,
    ) -> Result<(Standing, Option<usize>), Not> {
        let shard = self.shard_of(primary);
        let held = self.latch_keys(shard, [primary])?;
        let standing = standing(&self.engine.snapshot(), primary, txn)?;
        if standing != Standing::Undecided {
            return Ok((standing, None));
        }
        let leadership = self.leadership(shard);
        let mut at = at;
        if at == Timestamp::ZERO {
            at = self.draw();
        } else {
            let floor = leadership.floor(&self.oracle).now_or_never().unwrap()?;
            if at <= floor.max(leadership.pushed_to(txn)) {
                return Err(Not::Refused(Refusal::Pushed));
            }
        }
        Ok((standing, self.decide(shard, held, txn, primary, pb::FateKind::FateCommitted, at)))
    }

    fn decide(
        &mut self,
        shard: usize,
        held: Held,
        txn: TxnId,
        primary: &Bytes,
        kind: pb::FateKind,
        at: Timestamp,
    ) -> Option<usize> {
        let record = pb::TxnRecord { kind: kind.into(), at: at.0, ..pb::TxnRecord::default() };
        let effect = pb::Decide { txn: txn_bytes(txn), primary: primary.clone(), record: Some(record) };
        self.propose(shard, held, Effect::Decide(effect))
    }

    /// `Push`. An abort is answered by the next push, which finds the record.
    pub fn push(&mut self, txn: TxnId, primary: &Bytes, above: Timestamp, abort: bool) -> Result<Fate, Not> {
        let shard = self.shard_of(primary);
        let mode = if abort { Mode::Exclusive } else { Mode::Shared };
        let held = self.latch(shard, vec![(Span::Key(primary.clone()), mode)])?;
        if let Some(record) = load_record(&self.engine.snapshot(), primary, txn)? {
            return Ok(match record.kind() {
                pb::FateKind::FateCommitted => Fate::Committed(Timestamp(record.at)),
                _ => Fate::Aborted,
            });
        }
        if abort {
            self.decide(shard, held, txn, primary, pb::FateKind::FateAborted, Timestamp::ZERO);
            return Err(Not::Yet);
        }
        match self.leadership(shard).push(txn, above, self.now) {
            Pushed::Pending(upto) => Ok(Fate::Pending(upto)),
            Pushed::Lapsed | Pushed::Staged => unreachable!("time stands still"),
        }
    }

    pub fn settle(&mut self, txn: TxnId, fate: Fate, key: &Bytes) -> Result<Option<usize>, Not> {
        let shard = self.shard_of(key);
        let committed_at = if let Fate::Committed(at) = fate { at.0 } else { 0 };
        if fate == Fate::Aborted {
            self.leadership(shard).decided(txn);
        }
        let held = self.latch_keys(shard, [key])?;
        let effect =
            pb::Settle { txn: txn_bytes(txn), committed_at, keys: vec![key.clone()], spans: Vec::new() };
        Ok(self.propose(shard, held, Effect::Settle(effect)))
    }

    pub fn forget(&mut self, txn: TxnId, primary: &Bytes) -> Result<Option<usize>, Not> {
        let shard = self.shard_of(primary);
        let held = self.latch_keys(shard, [primary])?;
        let effect = pb::ForgetRecord { txn: txn_bytes(txn), primary: primary.clone() };
        Ok(self.propose(shard, held, Effect::Forget(effect)))
    }

    /// A copy of a request comes after all. Nobody waits for its answer.
    pub fn deliver_late(&mut self, which: usize) {
        if self.late.is_empty() {
            return;
        }
        let late = self.late.remove(which % self.late.len());
        let again = match &late {
            Late::Prewrite { shard, txn, primary, writes } => {
                matches!(self.prewrite(*shard, *txn, primary, writes), Err(Not::Yet))
            }
            Late::CommitPrimary { txn, primary, at } => {
                matches!(self.commit_primary(*txn, primary, *at), Err(Not::Yet))
            }
        };
        if again {
            self.late.push(late);
        }
    }

    /// Somebody meets an intent, and settles it if its transaction is decided (or ends it).
    pub fn pass_by(&mut self, number: usize, abort: bool) {
        let key = self.key(number);
        let Some(intent) = intents::get_intent(&self.engine.snapshot(), &key).unwrap() else {
            return;
        };
        match self.push(intent.txn, &intent.primary, Timestamp::ZERO, abort) {
            Ok(fate) if fate.is_decided() => {
                // Latched: somebody else comes by again.
                let _ = self.settle(intent.txn, fate, &key);
            }
            _ => {}
        }
    }

    /// Whether something is in flight, or an intent lies.
    pub fn anything_left(&self) -> bool {
        let snapshot = self.engine.snapshot();
        let lies = |number| intents::get_intent(&snapshot, &self.key(number)).unwrap().is_some();
        !self.flights.is_empty() || (0..KEYS).any(lies)
    }

    /// What stands under each key in the end.
    pub fn newest(&self) -> Writers {
        let snapshot = self.engine.snapshot();
        std::array::from_fn(|number| {
            let newest = mvcc::newest(&snapshot, &self.key(number)).unwrap();
            newest.and_then(|version| version.value).map(|value| value[0] as usize)
        })
    }
}
