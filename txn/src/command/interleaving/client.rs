//! A coordinator, one step at a time: what `coordinator/{commit,lay,fetch,fates,validate,settle}.rs` do, without waiting.

use proto::shard as pb;
use proto::shard::command::Effect;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::world::{Held, KEYS, Late, Not, Proposal, World};
use crate::command::Refusal;
use crate::command::decide::Standing;
use crate::command::rules::Fates;
use crate::wire::{Fate, parse_txn, txn_bytes};

#[derive(Clone, Debug)]
pub struct Write {
    pub key: usize,
    pub delete: bool,
    /// No row may stand there.
    pub absent: bool,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub reads: Vec<usize>,
    /// Reads all of the shards in which those keys lie.
    pub scans: bool,
    /// Reads the latest.
    pub latest: bool,
    pub writes: Vec<Write>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    Committed,
    Failed,
    Ambiguous,
}

#[derive(Debug)]
enum Phase {
    Start,
    /// Shards that are yet to be read.
    Reading(Vec<usize>),
    OneShard,
    Checked(Held),
    Proposed(usize),
    FindOut,
    /// Shards that have no intents yet, and the proposal under way.
    Laying(Vec<usize>, Option<usize>),
    Timestamp,
    Validating(Vec<usize>),
    Deciding,
    Decided(usize),
    /// Gives up, and requests are under way: the primary has to know.
    Ending,
    /// What was decided, keys that are not settled yet, and the proposal under way.
    Settling(Fate, Vec<usize>, Option<usize>),
    Over,
}

#[derive(Debug)]
pub struct Client {
    number: usize,
    pub script: Script,
    pub told: Told,
    pub began: bool,
    pub crashed: bool,
    /// Who was acknowledged when this one began.
    pub before: Vec<usize>,
    /// What it has read: who wrote it.
    pub seen: Vec<(usize, Option<usize>)>,
    phase: Phase,
    read_at: Timestamp,
    at: Timestamp,
    fates: Vec<pb::Fate>,
    met: Vec<pb::MetIntent>,
    strays: bool,
}

fn shards(keys: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut shards: Vec<usize> = keys.into_iter().map(|key| key % 2).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

impl Client {
    pub fn new(number: usize, script: Script) -> Self {
        Self {
            number,
            script,
            told: Told::Nothing,
            began: false,
            crashed: false,
            before: Vec::new(),
            seen: Vec::new(),
            phase: Phase::Start,
            read_at: Timestamp::ZERO,
            at: Timestamp::ZERO,
            fates: Vec::new(),
            met: Vec::new(),
            strays: false,
        }
    }

    pub fn is_acknowledged(&self) -> bool {
        self.told == Told::Committed
    }

    pub fn is_over(&self) -> bool {
        self.crashed || matches!(self.phase, Phase::Over)
    }

    pub fn crash(&mut self) {
        if self.began && !self.is_over() {
            self.crashed = true;
            self.tell(Told::Ambiguous);
            self.phase = Phase::Over;
        }
    }

    fn tell(&mut self, told: Told) {
        if self.told == Told::Nothing {
            self.told = told;
        }
    }

    fn txn(&self) -> TxnId {
        TxnId(self.number as u128 + 1)
    }

    fn reads(&self, world: &World, shard: usize) -> Vec<KeyRange> {
        if self.script.scans && shards(self.script.reads.iter().copied()).contains(&shard) {
            return vec![world.all_in(shard)];
        }
        let keys = self.script.reads.iter().filter(|key| **key % 2 == shard);
        keys.map(|key| KeyRange::point(&world.key(*key))).collect()
    }

    fn writes(&self, world: &World, shard: usize) -> Vec<pb::Write> {
        let writes = self.script.writes.iter().filter(|write| write.key % 2 == shard);
        let write = |write: &Write| pb::Write {
            key: world.key(write.key),
            value: (!write.delete).then(|| vec![self.number as u8].into()),
            absent: write.absent,
            unchanged_since: 0,
            ..pb::Write::default()
        };
        writes.map(write).collect()
    }

    fn written_in(&self) -> Vec<usize> {
        shards(self.script.writes.iter().map(|write| write.key))
    }

    fn primary(&self, world: &World) -> bytes::Bytes {
        world.key(self.script.writes[0].key)
    }

    /// Takes a step, if it can.
    pub fn step(&mut self, world: &mut World, choice: u32) {
        if self.is_over() {
            return;
        }
        self.began = true;
        if let Some(met) = self.met.pop() {
            return self.ask_about(world, met, choice);
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        self.phase = match phase {
            Phase::Start => self.start(world),
            Phase::Reading(left) => self.read(world, left, choice),
            Phase::OneShard => self.check(world),
            Phase::Checked(held) => self.propose(world, held),
            Phase::Proposed(ticket) => match world.proposal(ticket) {
                Proposal::InFlight => Phase::Proposed(ticket),
                Proposal::Applied => self.end(Told::Committed),
                Proposal::Unknown => Phase::FindOut,
            },
            Phase::FindOut => match world.outcome(self.written_in()[0], self.txn(), &self.primary(world)) {
                Ok(Some(_)) => self.end(Told::Committed),
                Ok(None) => self.end(Told::Ambiguous),
                Err(_) => Phase::FindOut,
            },
            Phase::Laying(left, ticket) => self.lay(world, left, ticket, choice),
            Phase::Timestamp => {
                let reads = shards(self.script.reads.iter().copied());
                (self.at, self.fates) = (Timestamp::ZERO, Vec::new());
                if !reads.is_empty() {
                    self.at = world.draw();
                }
                Phase::Validating(reads)
            }
            Phase::Validating(left) => self.validate(world, left),
            Phase::Deciding => self.decide(world, choice),
            // Applied or not: the record says so.
            Phase::Decided(ticket) if world.proposal(ticket) == Proposal::InFlight => Phase::Decided(ticket),
            Phase::Decided(_) => Phase::Deciding,
            Phase::Ending => match world.push(self.txn(), &self.primary(world), Timestamp::ZERO, true) {
                Ok(fate) => self.settling(fate),
                Err(_) => Phase::Ending,
            },
            Phase::Settling(fate, left, ticket) => self.settle(world, fate, left, ticket),
            Phase::Over => Phase::Over,
        };
    }

    fn end(&mut self, told: Told) -> Phase {
        self.tell(told);
        Phase::Over
    }

    fn start(&mut self, world: &mut World) -> Phase {
        if self.script.reads.is_empty() {
            return self.begin_commit();
        }
        self.read_at = if self.script.latest { Timestamp::MAX } else { world.draw() };
        Phase::Reading(shards(self.script.reads.iter().copied()))
    }

    fn begin_commit(&mut self) -> Phase {
        if self.script.writes.is_empty() {
            return self.end(Told::Committed);
        }
        let keys = self.script.writes.iter().map(|write| write.key).chain(self.script.reads.iter().copied());
        match shards(keys).len() {
            1 => Phase::OneShard,
            _ => Phase::Laying(self.written_in(), None),
        }
    }

    fn known(&self) -> Fates {
        Fates::from_pb(&self.fates).unwrap()
    }

    fn read(&mut self, world: &mut World, mut left: Vec<usize>, choice: u32) -> Phase {
        let Some(shard) = left.last().copied() else {
            return self.begin_commit();
        };
        let (own, at, fates) = (self.txn(), self.read_at, self.known());
        let keys: Vec<usize> = match self.script.scans {
            true => (0..KEYS).filter(|key| key % 2 == shard).collect(),
            false => self.script.reads.iter().copied().filter(|key| key % 2 == shard).collect(),
        };
        if (choice / 7).is_multiple_of(2)
            && let Some(found) = self.read_past(world, shard, &keys)
        {
            self.seen.extend(found);
            left.pop();
            return Phase::Reading(left);
        }
        let found = if self.script.scans {
            world.scan(shard, own, at, &fates).map(|rows| {
                let writer = |key: &usize| {
                    let row = rows.iter().find(|row| row.key == world.key(*key));
                    row.map(|row| row.value[0] as usize)
                };
                keys.iter().map(|key| (*key, writer(key))).collect::<Vec<_>>()
            })
        } else {
            let asked: Vec<_> = keys.iter().map(|key| world.key(*key)).collect();
            world.read(shard, own, at, &fates, &asked).map(|values| {
                let writers = values.into_iter().map(|value| value.map(|value| value[0] as usize));
                keys.iter().copied().zip(writers).collect()
            })
        };
        match found {
            Ok(found) => {
                self.seen.extend(found);
                left.pop();
            }
            Err(Not::Refused(Refusal::Blocked { .. })) if at == Timestamp::MAX => self.read_at = world.draw(),
            Err(Not::Refused(Refusal::Blocked { intents, .. })) => self.met = intents,
            Err(Not::Yet) => {}
            Err(Not::Refused(refusal)) => panic!("a read was refused: {refusal:?}"),
        }
        Phase::Reading(left)
    }

    /// One that only reads, at a timestamp, may ask any replica. (It may have asked the leader for another shard, or for fates.)
    fn read_past(&self, world: &World, shard: usize, keys: &[usize]) -> Option<Vec<(usize, Option<usize>)>> {
        if self.script.latest || !self.script.writes.is_empty() {
            return None;
        }
        let asked: Vec<_> = keys.iter().map(|key| world.key(*key)).collect();
        let rows = world.read_past(shard, self.read_at, (!self.script.scans).then_some(&asked[..]))?;
        let writer = |key: &usize| {
            let row = rows.iter().find(|row| row.key == world.key(*key));
            row.map(|row| row.value[0] as usize)
        };
        Some(keys.iter().map(|key| (*key, writer(key))).collect())
    }

    /// Asks the primary of an intent that was met, in a read at a timestamp or under a write.
    fn ask_about(&mut self, world: &mut World, met: pb::MetIntent, choice: u32) {
        let txn = parse_txn(&met.txn).unwrap();
        let (above, writing) = match &self.phase {
            Phase::Reading(_) => (self.read_at, false),
            Phase::Validating(_) => (self.at, false),
            _ => (Timestamp::ZERO, true),
        };
        // Of two that wait for each other, the older one ends the younger one.
        let wound = writing && txn > self.txn() && choice.is_multiple_of(3);
        match world.push(txn, &met.primary, above, wound) {
            Ok(fate) if writing => {
                if fate.is_decided() {
                    // What it can't settle now it meets again.
                    let _ = world.settle(txn, fate, &met.key);
                }
            }
            Ok(fate) => self.fates.push(fate.to_pb(txn)),
            Err(_) if writing => {}
            Err(_) => self.met.push(met),
        }
    }

    fn check(&mut self, world: &mut World) -> Phase {
        let shard = self.written_in()[0];
        let (reads, writes) = (self.reads(world, shard), self.writes(world, shard));
        match world.check_commit(shard, self.txn(), self.read_at, &reads, &writes) {
            Ok(held) => Phase::Checked(held),
            Err(Not::Refused(Refusal::Blocked { in_reads: true, .. })) => {
                Phase::Laying(self.written_in(), None)
            }
            Err(Not::Refused(Refusal::Blocked { intents, .. })) => {
                self.met = intents;
                Phase::OneShard
            }
            Err(Not::Yet) => Phase::OneShard,
            Err(Not::Refused(_)) => self.end(Told::Failed),
        }
    }

    fn propose(&mut self, world: &mut World, held: Held) -> Phase {
        let shard = self.written_in()[0];
        let writes = self.writes(world, shard).into_iter();
        let effect = pb::Versions {
            txn: txn_bytes(self.txn()),
            at: world.draw().0,
            writes: writes.map(|w| pb::Version { key: w.key, value: w.value }).collect(),
        };
        // In another term it is certainly not proposed, and asked for again.
        world.propose(shard, held, Effect::Versions(effect)).map_or(Phase::OneShard, Phase::Proposed)
    }

    fn lay(&mut self, world: &mut World, mut left: Vec<usize>, ticket: Option<usize>, choice: u32) -> Phase {
        match ticket.map(|ticket| world.proposal(ticket)) {
            Some(Proposal::InFlight) => return Phase::Laying(left, ticket),
            Some(Proposal::Applied) => drop(left.pop()),
            Some(Proposal::Unknown) | None => {}
        }
        let Some(shard) = left.last().copied() else {
            return Phase::Timestamp;
        };
        let (txn, primary, writes) = (self.txn(), self.primary(world), self.writes(world, shard));
        if (choice / 7).is_multiple_of(8) {
            // The answer is given up, and the request sent again.
            let (primary, writes) = (primary.clone(), writes.clone());
            world.late.push(Late::Prewrite { shard, txn, primary, writes });
            self.strays = true;
        }
        match world.prewrite(shard, txn, &primary, &writes) {
            Ok(ticket) => Phase::Laying(left, ticket),
            Err(Not::Refused(Refusal::Blocked { intents, .. })) => {
                self.met = intents;
                Phase::Laying(left, None)
            }
            Err(Not::Yet) => Phase::Laying(left, None),
            Err(Not::Refused(_)) => self.give_up(),
        }
    }

    fn give_up(&mut self) -> Phase {
        self.tell(Told::Failed);
        if self.strays { Phase::Ending } else { self.settling(Fate::Aborted) }
    }

    fn settling(&self, fate: Fate) -> Phase {
        Phase::Settling(fate, self.script.writes.iter().map(|write| write.key).collect(), None)
    }

    fn validate(&mut self, world: &mut World, mut left: Vec<usize>) -> Phase {
        let Some(shard) = left.last().copied() else {
            return Phase::Deciding;
        };
        let (reads, fates) = (self.reads(world, shard), self.known());
        match world.validate(shard, self.txn(), self.read_at, self.at, &fates, &reads) {
            Ok(()) => drop(left.pop()),
            Err(Not::Refused(Refusal::Blocked { intents, .. })) => self.met = intents,
            Err(Not::Yet) => {}
            Err(Not::Refused(_)) => return self.give_up(),
        }
        Phase::Validating(left)
    }

    fn decide(&mut self, world: &mut World, choice: u32) -> Phase {
        let (txn, primary) = (self.txn(), self.primary(world));
        if (choice / 7).is_multiple_of(8) {
            world.late.push(Late::CommitPrimary { txn, primary: primary.clone(), at: self.at });
            self.strays = true;
        }
        match world.commit_primary(txn, &primary, self.at) {
            Ok((Standing::Committed(at), _)) => {
                self.tell(Told::Committed);
                self.settling(Fate::Committed(at))
            }
            Ok((Standing::Undecided, ticket)) => ticket.map_or(Phase::Deciding, Phase::Decided),
            Ok((Standing::Aborted | Standing::Gone, _)) => self.give_up(),
            Err(Not::Refused(Refusal::Pushed)) => Phase::Timestamp,
            Err(Not::Yet) => Phase::Deciding,
            Err(Not::Refused(refusal)) => panic!("a decision was refused: {refusal:?}"),
        }
    }

    fn settle(
        &mut self,
        world: &mut World,
        fate: Fate,
        mut left: Vec<usize>,
        ticket: Option<usize>,
    ) -> Phase {
        match ticket.map(|ticket| world.proposal(ticket)) {
            Some(Proposal::InFlight) => return Phase::Settling(fate, left, ticket),
            Some(Proposal::Applied) => drop(left.pop()),
            Some(Proposal::Unknown) | None => {}
        }
        let txn = self.txn();
        let Some(number) = left.last() else {
            // The record goes if nothing that it has to refuse is under way. A lost answer changes nothing.
            let gone = self.strays || world.forget(txn, &self.primary(world)).is_ok();
            return if gone { Phase::Over } else { Phase::Settling(fate, left, None) };
        };
        let ticket = world.settle(txn, fate, &world.key(*number)).unwrap_or(None);
        Phase::Settling(fate, left, ticket)
    }
}
