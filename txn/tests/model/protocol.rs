//! The protocol as a model: which steps there are. What each does is in `coordinator.rs` and `leader.rs`.
//!
//! What one step stands for, and why it may:
//!
//! * Whatever is evaluated, proposed and applied under the same latches, without a timestamp being drawn in between, is
//!   one step: nobody else could have seen the difference, and a leader that is lost in the middle either has done it
//!   or hasn't. (`Prewrite`, `CommitPrimary` at a given timestamp, `Resolve`, `Forget`, the record of an abort.)
//! * An answer arrives at once, or never: to receive it late is to take the next step late.
//! * A request stays in the network until it is evaluated: a slow one and a lost one that is sent again are the same. A
//!   request that is given up and sent again leaves a *copy*, which may be evaluated at any later time, once.
//! * Time is not modelled: whatever waits for a time may happen at any.

use crate::checker::Model;
use crate::history;
use crate::state::{Fate, Flight, Id, KEYS, PASSER_BY, Phase, SHARDS, State, TXNS, Told, Txn};

/// What a transaction does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Script {
    /// Keys, as bits.
    pub reads: u8,
    pub writes: u8,
    /// Reads the latest, without asking the oracle.
    pub latest: bool,
}

/// One way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A commit over several shards does not validate what it has read.
    SkipValidation,
    /// A one-shard commit does not check what it has read.
    SkipReadCheck,
    /// A one-shard commit latches what it writes, and not what it has read.
    NoReadLatches,
    /// A read does not wait for latches.
    ReadsDoNotWait,
    /// A read of the latest waits for the latches that it finds, and holds none while it looks.
    LatestDoesNotLatch,
    /// The gateway draws the timestamp of a one-shard commit and sends it along.
    GatewayDraws,
    /// The timestamp of a commit over several shards is drawn before its intents are laid.
    DrawsBeforeIntents,
    /// What was read is validated, and then the timestamp is drawn.
    ValidatesBeforeDraw,
    /// A new leader commits primaries without a floor.
    NoFloor,
    /// A push is answered, and not remembered.
    ForgetsPushes,
    /// A one-shard commit is answered when it is proposed.
    AnswersEarly,
    /// A silent coordinator's intents are removed, without a record that would refuse it.
    AbortsWithoutRecord,
    /// A one-shard commit whose answer was lost is sent again.
    RepeatsCommit,
    /// The record goes before the intents are settled.
    ForgetsEarly,
    /// A deposed leader answers reads.
    NoLease,
    /// The record goes although copies of requests are still in the network.
    ForgetsDespiteCopies,
    /// A committed transaction's intent is taken for the newest version of its key.
    TrustsIntents,
    /// A coordinator that gives up removes its intents without a record, although copies are still in the network.
    AbandonsDespiteCopies,
    /// A probe that finds no intent leaves no record.
    ProbesWithoutRecord,
    /// A prewrite does not look for the record of a probe.
    IgnoresProbes,
    /// An asynchronous commit is at the timestamp of its primary's intent.
    CommitsAtPrimary,
    /// Its gateway draws the timestamp, and sends it along.
    AsyncGatewayDraws,
    /// Its intents are settled before its record is written.
    ResolvesBeforeRecord,
    /// What was read and is not written doesn't keep a commit from being asynchronous.
    AsyncDespiteReads,
    /// A prewrite does not look whether what was read has changed.
    PrewritesUnchecked,
    /// A copy of a prewrite gives its intents a new timestamp.
    RedrawsForCopies,
    /// Its client is answered when the first intents lie.
    AnswersBeforeAll,
    /// A push ends an asynchronous commit without looking for its intents.
    AbortsAsync,
    /// A push defers an asynchronous commit.
    DefersAsync,
    /// A coordinator to whom an answer is missing takes its asynchronous commit for aborted.
    FailsWithoutAsking,
    /// A coordinator tells its client that all intents lie, however long ago it was told so.
    TrustsOldAnswers,
    /// A coordinator that asks after a long time takes what it doesn't find for aborted.
    TrustsOldSilence,
    /// A leader closes a timestamp without waiting for those who have latched something.
    ClosesAtOnce,
    /// A replica answers reads at timestamps that are not closed.
    ReadsWhatIsOpen,
    /// … and takes no notice of intents.
    IgnoresIntentsOfThePast,
}

/// What is explored.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    pub scripts: Vec<Script>,
    /// The shard of each key.
    pub shard_of: [usize; KEYS],
    /// How often each shard's leader may change.
    pub leader_changes: [u8; SHARDS],
    pub crashes: u8,
    pub losses: u8,
    pub lapses: u8,
    /// Reads arrive in one step and look in another.
    pub slow_reads: bool,
    /// Commits over several shards are asynchronous where they can be.
    pub asynchronous: bool,
    /// How often so much time passes that old records are swept.
    pub sweeps: u8,
    /// How often a leader closes a timestamp.
    pub closes: u8,
    pub mutation: Option<Mutation>,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client begins; the coordinator draws a snapshot, if it has something to read.
    Begin(Id),
    /// `Read` comes to a leader, and notes whose latches it has to wait for.
    ReadArrives(Id, usize),
    /// `Read` is evaluated and answered.
    Read(Id, usize),
    /// `Push` of the second by the first is answered.
    Push(Id, Id),
    /// The coordinator draws a timestamp from the oracle.
    Draw(Id),
    /// `Commit` is checked under latches.
    Check(Id),
    /// Its leader draws the timestamp and proposes.
    DrawAndPropose(Id),
    /// What was proposed is applied and answered.
    Apply(Id),
    /// The coordinator won't get the answer to its `Commit`.
    LoseAnswer(Id),
    /// `Outcome` is answered.
    FindOut(Id),
    /// `Prewrite` is applied and answered.
    Prewrite(Id, usize),
    /// The coordinator does not wait any longer for a `Prewrite`, and sends it again …
    RepeatPrewrite(Id, usize),
    /// … or gives up.
    Abandon(Id),
    /// The copy of a `Prewrite` is applied.
    LatePrewrite(Id, usize),
    /// `Validate` is answered.
    Validate(Id, usize),
    /// `CommitPrimary` is applied (or proposed, if the leader draws the timestamp).
    Decide(Id),
    RepeatDecide(Id),
    LateDecide(Id),
    /// Someone's `Push` ends a transaction by a record.
    Abort(Id),
    /// Someone's `Push` finds the record of one.
    Learn(Id),
    /// `Resolve` of an aborted one comes to the primary's leader, and has not yet its latch.
    ResolveArrives(Id),
    /// `Resolve` of one key is applied.
    Settle(Id, usize),
    /// `Resolve` of one key is applied, by someone who takes a committed transaction for aborted.
    SettleWrongly(Id, usize),
    /// The coordinator's `Forget` is applied.
    Forget(Id),
    /// Someone who waits to write, or passes by, is told by `Push` that this one commits asynchronously.
    Inquire(Id),
    /// `Probe` of one key is answered. (By whose inquiry it is.)
    Probe(usize, usize),
    /// All are: `CommitPrimary` with `all_lie`, or `Push` with `incomplete`, is answered.
    Conclude(usize),
    /// The coordinator does not find out in time.
    GiveUp(Id),
    /// Old records are swept.
    Sweep(Id),
    /// A leader draws a timestamp to close, and notes whose latches it has to wait for.
    CloseArrives(usize),
    /// It is closed.
    Close(usize),
    /// `Read` is answered by a replica that need not lead.
    ReadClosed(Id, usize),
    /// Another replica leads. Of what was proposed, the bits name whose survives.
    LeaderChange(usize, u8),
    /// The coordinator dies.
    Crash(Id),
}

/// Bits that are set.
pub fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |bit| mask & (1 << bit) != 0)
}

impl Protocol {
    pub fn broken(&self, how: Mutation) -> bool {
        self.mutation == Some(how)
    }

    pub fn ids(&self) -> std::ops::Range<Id> {
        0..self.scripts.len()
    }

    /// The keys of a shard, as bits.
    pub fn keys_in(&self, shard: usize) -> u8 {
        (0..KEYS).filter(|key| self.shard_of[*key] == shard).map(|key| 1 << key).sum()
    }

    /// The shards of keys, as bits.
    pub fn shards(&self, keys: u8) -> u8 {
        bits(keys).map(|key| 1 << self.shard_of[key]).fold(0, |a, b| a | b)
    }

    pub fn primary(&self, id: Id) -> usize {
        self.scripts[id].writes.trailing_zeros() as usize
    }

    /// The primary's shard. (One that only reads has none, and names no shard.)
    pub fn home(&self, id: Id) -> usize {
        self.shard_of.get(self.primary(id)).copied().unwrap_or(SHARDS)
    }

    pub fn fits_one_shard(&self, id: Id) -> bool {
        let Script { reads, writes, .. } = self.scripts[id];
        self.shards(reads | writes).count_ones() == 1
    }

    /// Whether the transaction, if it is over several shards, commits asynchronously: `Txn::as_async_commit`.
    pub fn is_async(&self, id: Id) -> bool {
        let Script { reads, writes, .. } = self.scripts[id];
        let covered = reads & !writes == 0 || self.broken(Mutation::AsyncDespiteReads);
        self.asynchronous && writes != 0 && covered && !self.fits_one_shard(id)
    }

    /// Keys that a flight latches exclusively, and those that it shares.
    pub fn latches(&self, id: Id, txn: &Txn) -> (u8, u8) {
        let Script { reads, writes, .. } = self.scripts[id];
        match txn.flight {
            Flight::None => (0, 0),
            Flight::Checked | Flight::Commit(_) if self.broken(Mutation::NoReadLatches) => (writes, 0),
            Flight::Checked | Flight::Commit(_) => (writes, reads),
            Flight::Decide(_) => (1 << self.primary(id), 0),
        }
    }

    /// Whose exclusive latches are on any of these keys.
    pub fn writers_at(&self, state: &State, keys: u8) -> u8 {
        let holds = |id: &Id| self.latches(*id, &state.txns[*id]).0 & keys != 0;
        self.ids().filter(holds).map(|id| 1 << id).sum()
    }

    /// Whether these keys can be latched exclusively.
    pub fn free(&self, state: &State, keys: u8) -> bool {
        self.ids().all(|id| {
            let (exclusive, shared) = self.latches(id, &state.txns[id]);
            (exclusive | shared) & keys == 0
        })
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        State {
            // Each leader has committed something before, and has a floor.
            clock: 1,
            txns: [Txn::default(); TXNS],
            versions: Default::default(),
            intents: [0; KEYS],
            at_least: [0; KEYS],
            records: [Fate::Unknown; TXNS],
            key_records: [0; TXNS],
            floors: [1; SHARDS],
            pushed: [0; TXNS],
            known: [Fate::Unknown; TXNS],
            misled: 0,
            inquiries: Default::default(),
            defect: None,
            leader_changes: self.leader_changes,
            crashes: self.crashes,
            losses: self.losses,
            lapses: self.lapses,
            sweeps: self.sweeps,
            closes: self.closes,
            closed: [0; SHARDS],
            closing: Default::default(),
            past: None,
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for id in self.ids() {
            self.actions_of(state, id, actions);
        }
        self.inquiries(state, actions);
        for shard in 0..SHARDS {
            if state.closes > 0 {
                actions.push(Action::CloseArrives(shard));
            }
            if state.closing[shard].0 > 0 {
                actions.push(Action::Close(shard));
            }
            if state.leader_changes[shard] == 0 {
                continue;
            }
            let proposed = |id: &Id| {
                let flight = state.txns[*id].flight;
                matches!(flight, Flight::Commit(_) | Flight::Decide(_)) && self.home(*id) == shard
            };
            let all: u8 = self.ids().filter(proposed).map(|id| 1 << id).sum();
            // Any of them: they don't touch the same keys, and may have been proposed in any order.
            let mut some = all;
            loop {
                actions.push(Action::LeaderChange(shard, some));
                if some == 0 {
                    break;
                }
                some = (some - 1) & all;
            }
        }
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let next = match action {
            Action::Begin(id) => self.begin(state, id),
            Action::ReadArrives(id, shard) => self.read_arrives(state, id, shard),
            Action::Read(id, shard) => self.read(state, id, shard),
            Action::Push(by, of) => self.push(state, by, of),
            Action::Draw(id) => self.draw(state, id),
            Action::Check(id) => self.check(state, id),
            Action::DrawAndPropose(id) => self.draw_and_propose(state, id),
            Action::Apply(id) => self.apply(state, id),
            Action::LoseAnswer(id) => self.lose_answer(state, id),
            Action::FindOut(id) => self.find_out(state, id),
            Action::Prewrite(id, shard) => self.prewrite(state, id, shard),
            Action::RepeatPrewrite(id, shard) => self.repeat_prewrite(state, id, shard),
            Action::Abandon(id) => self.abandon(state, id),
            Action::LatePrewrite(id, shard) => self.late_prewrite(state, id, shard),
            Action::Validate(id, shard) => self.validate(state, id, shard),
            Action::Decide(id) => self.decide(state, id),
            Action::RepeatDecide(id) => self.repeat_decide(state, id),
            Action::LateDecide(id) => self.late_decide(state, id),
            Action::Abort(id) => self.abort(state, id),
            Action::Learn(id) => self.learn(state, id),
            Action::ResolveArrives(id) => self.resolve_arrives(state, id),
            Action::Settle(id, key) => self.settle(state, id, key),
            Action::SettleWrongly(id, key) => self.settle_wrongly(state, id, key),
            Action::Forget(id) => self.forget(state, id),
            Action::Inquire(id) => self.inquire(state, id),
            Action::Probe(by, key) => self.probe(state, by, key),
            Action::Conclude(by) => self.conclude(state, by),
            Action::GiveUp(id) => self.give_up(state, id),
            Action::Sweep(id) => self.sweep(state, id),
            Action::CloseArrives(shard) => self.close_arrives(state, shard),
            Action::Close(shard) => self.close(state, shard),
            Action::ReadClosed(id, shard) => self.read_closed(state, id, shard),
            Action::LeaderChange(shard, survivors) => self.leader_change(state, shard, survivors),
            Action::Crash(id) => self.crash(state, id),
        };
        next.map(|mut next| {
            self.simplify(&mut next);
            next.canonical()
        })
    }

    fn violation(&self, before: &State, after: &State) -> Option<String> {
        if let Some(defect) = after.defect {
            return Some(defect.to_owned());
        }
        let acknowledged = self.ids().any(|id| before.txns[id].told != after.txns[id].told);
        let at_rest = self.at_rest(after);
        if (acknowledged || at_rest) && !history::is_strictly_serializable(self, after, at_rest) {
            return Some("no order of the transactions explains what they saw".to_owned());
        }
        at_rest.then(|| history::half_done(self, after)).flatten()
    }

    fn at_rest(&self, state: &State) -> bool {
        let ended = |txn: &Txn| txn.crashed || txn.phase == Phase::Over;
        self.ids().all(|id| {
            let txn = &state.txns[id];
            ended(txn) && txn.flight == Flight::None && (txn.crashed || txn.told != Told::Nothing)
        }) && state.intents == [0; KEYS]
    }
}

impl Protocol {
    /// The steps of those who find out what became of asynchronous commits.
    fn inquiries(&self, state: &State, actions: &mut Vec<Action>) {
        if !self.asynchronous {
            return;
        }
        for (by, inquiry) in state.inquiries.iter().enumerate().filter(|(_, inquiry)| inquiry.of > 0) {
            let left = self.scripts[inquiry.of as Id - 1].writes & !inquiry.probed;
            actions.extend(bits(left).map(|key| Action::Probe(by, key)));
            if left == 0 {
                actions.push(Action::Conclude(by));
            }
        }
        for id in self.ids().filter(|id| self.is_async(*id)) {
            if state.inquiries[PASSER_BY].of == 0 {
                actions.push(Action::Inquire(id));
            }
            if state.misled & 1 << id != 0 {
                actions.extend(bits(self.scripts[id].writes).map(|key| Action::SettleWrongly(id, key)));
            }
            if state.sweeps > 0 {
                actions.push(Action::Sweep(id));
            }
        }
    }

    /// The steps that concern one transaction. Cheap guards only: the rest is looked at when the step is taken.
    fn actions_of(&self, state: &State, id: Id, actions: &mut Vec<Action>) {
        let txn = &state.txns[id];
        let Script { reads, writes, .. } = self.scripts[id];
        if !txn.crashed {
            match txn.phase {
                Phase::Idle => actions.push(Action::Begin(id)),
                Phase::Latest | Phase::Reading => {
                    for shard in bits(self.shards(reads) & !txn.done) {
                        actions.push(Action::ReadArrives(id, shard));
                        actions.push(Action::Read(id, shard));
                        if self.closes > 0 {
                            actions.push(Action::ReadClosed(id, shard));
                        }
                    }
                }
                Phase::NeedsSnapshot | Phase::NeedsTimestamp => actions.push(Action::Draw(id)),
                Phase::OneShard => actions.push(Action::LoseAnswer(id)),
                Phase::FindOut => actions.push(Action::FindOut(id)),
                Phase::Prewriting => {
                    for shard in bits(self.shards(writes) & !txn.done) {
                        actions.push(Action::RepeatPrewrite(id, shard));
                    }
                    actions.push(Action::Abandon(id));
                }
                Phase::Validating => {
                    for shard in bits(self.shards(reads) & !txn.done) {
                        actions.push(Action::Validate(id, shard));
                    }
                }
                Phase::Deciding => actions.push(Action::RepeatDecide(id)),
                Phase::Asking => actions.push(Action::GiveUp(id)),
                Phase::CleaningUp => actions.push(Action::Forget(id)),
                Phase::Over => {}
            }
            for met in bits(txn.met) {
                actions.push(Action::Push(id, met));
            }
            actions.push(Action::Crash(id));
        }
        if txn.commit_in_net {
            actions.push(Action::Check(id));
        }
        match txn.flight {
            Flight::None => {}
            Flight::Checked => actions.push(Action::DrawAndPropose(id)),
            Flight::Commit(_) | Flight::Decide(_) => actions.push(Action::Apply(id)),
        }
        if txn.phase == Phase::Prewriting {
            for shard in bits(self.shards(writes) & !txn.done) {
                actions.push(Action::Prewrite(id, shard));
            }
        }
        if txn.phase == Phase::Deciding {
            actions.push(Action::Decide(id));
        }
        for shard in bits(txn.prewrite_copies) {
            actions.push(Action::LatePrewrite(id, shard));
        }
        if txn.decide_copy.is_some() {
            actions.push(Action::LateDecide(id));
        }
        if txn.phase > Phase::OneShard && writes != 0 {
            actions.push(Action::Abort(id));
            actions.push(Action::Learn(id));
            actions.push(Action::ResolveArrives(id));
            for key in bits(writes) {
                actions.push(Action::Settle(id, key));
            }
        }
    }
}
