//! The leader's steps: `txn/src/command/*.rs`, `txn/src/shard/{apply,leadership}.rs`.

use crate::coordinator::{end, holders};
use crate::history::seen;
use crate::protocol::{Mutation, Protocol, bits};
use crate::state::{Fate, Flight, Id, LATEST, Past, Phase, State, Told, Ts};

type Next = Option<State>;

/// What a read finds, or whose fates it has to know first.
enum Found {
    Seen(Vec<(usize, u8)>),
    Unknown(u8),
}

impl Protocol {
    /// `Latches::wait`, its first half.
    pub fn read_arrives(&self, state: &State, id: Id, shard: usize) -> Next {
        let txn = &state.txns[id];
        if !self.slow_reads || txn.met != 0 || txn.arrived & 1 << shard != 0 {
            return None;
        }
        let mut next = state.clone();
        next.txns[id].arrived |= 1 << shard;
        next.txns[id].waits_for |= self.writers_at(state, self.scripts[id].reads & self.keys_in(shard));
        Some(next)
    }

    /// `read::read`.
    pub fn read(&self, state: &State, id: Id, shard: usize) -> Next {
        let txn = &state.txns[id];
        let keys = self.scripts[id].reads & self.keys_in(shard);
        let at = if txn.phase == Phase::Latest { LATEST } else { txn.read_at };
        if txn.met != 0 {
            return None;
        }
        // A read of several keys at the latest holds its latches while it looks: so it arrives when it looks.
        let holds = at == LATEST && !self.broken(Mutation::LatestDoesNotLatch);
        let in_the_way = match self.slow_reads && !holds {
            true if txn.arrived & 1 << shard == 0 => return None,
            true => txn.waits_for & self.flying_in(state, shard),
            false => self.writers_at(state, keys),
        };
        if in_the_way != 0 && !self.broken(Mutation::ReadsDoNotWait) {
            return None;
        }
        let mut next = state.clone();
        next.txns[id].arrived &= !(1 << shard);
        let past = state.past.as_deref().filter(|past| past.shard == shard);
        match self.evaluate(state, past, id, keys, at) {
            Found::Unknown(_) if at == LATEST => next.txns[id].phase = Phase::NeedsSnapshot,
            Found::Unknown(met) => next.txns[id].met = met,
            Found::Seen(found) => {
                for (key, writer) in found {
                    next.txns[id].seen[key] = writer;
                }
                next.txns[id].done |= 1 << shard;
                if next.txns[id].done == self.shards(self.scripts[id].reads) {
                    self.begin_commit(&mut next, id);
                }
            }
        }
        Some(next)
    }

    /// Whose flights are at a shard.
    pub fn flying_in(&self, state: &State, shard: usize) -> u8 {
        let flies = |id: &Id| state.txns[*id].flight != Flight::None && self.home(*id) == shard;
        self.ids().filter(flies).map(|id| 1 << id).sum()
    }

    fn evaluate(&self, state: &State, past: Option<&Past>, id: Id, keys: u8, at: Ts) -> Found {
        let (mut found, mut unknown) = (Vec::new(), 0);
        for key in bits(keys) {
            let (versions, holder) = match past {
                Some(past) => (past.versions[key], (past.intents[key] as Id).checked_sub(1)),
                None => (state.versions[key], state.intent(key)),
            };
            let newest = versions.at(at);
            let mut writer = newest.map_or(1, |(_, writer)| seen(writer));
            if let Some(holder) = holder {
                match state.txns[id].fates[holder] {
                    // Not the newest, if a late copy of a request has laid it again.
                    Fate::Committed(when) if when <= at => {
                        let overwritten = newest.is_some_and(|(newest, _)| newest > when);
                        if !overwritten || self.broken(Mutation::TrustsIntents) {
                            writer = seen(holder);
                        }
                    }
                    Fate::Unknown => unknown |= 1 << holder,
                    Fate::Committed(_) | Fate::Aborted | Fate::Pending => {}
                }
            }
            found.push((key, writer));
        }
        if unknown == 0 { Found::Seen(found) } else { Found::Unknown(unknown) }
    }

    /// `push::push`, from a reader.
    pub fn push(&self, state: &State, by: Id, of: Id) -> Next {
        let primary = self.primary(of);
        if self.writers_at(state, 1 << primary) != 0 {
            return None;
        }
        let mut next = state.clone();
        let txn = &mut next.txns[by];
        if self.lies_async(state, of) && !self.broken(Mutation::DefersAsync) {
            return self.push_async(state, by, of);
        }
        txn.met &= !(1 << of);
        if state.records[of] != Fate::Unknown {
            txn.fates[of] = state.records[of];
            next.known[of] = state.records[of];
            return Some(next);
        }
        txn.fates[of] = Fate::Pending;
        let above = if txn.phase == Phase::Reading { txn.read_at } else { txn.commit_at };
        if !self.broken(Mutation::ForgetsPushes) {
            next.pushed[of] = next.pushed[of].max(above);
        }
        Some(next)
    }

    /// `commit::commit`, up to the draw.
    pub fn check(&self, state: &State, id: Id) -> Next {
        let script = self.scripts[id];
        let txn = &state.txns[id];
        let reads = if self.broken(Mutation::NoReadLatches) { 0 } else { script.reads };
        if txn.flight != Flight::None
            || !self.free(state, script.writes)
            || self.writers_at(state, reads) != 0
            // Blocked: the gateway waits until it is decided, settles it, and sends the request again.
            || holders(state, script.writes).any(|(_, holder)| holder != id)
        {
            return None;
        }
        let mut next = state.clone();
        next.txns[id].commit_in_net = false;
        let waits = txn.phase == Phase::OneShard && !txn.crashed;
        let changed = bits(script.reads).any(|key| state.versions[key].any_in(txn.read_at, LATEST));
        if changed && !self.broken(Mutation::SkipReadCheck) {
            if waits {
                self.fail(&mut next, id);
            }
        } else if holders(state, script.reads).any(|(_, holder)| holder != id) {
            if waits {
                next.txns[id].phase = Phase::Prewriting;
            }
        } else if self.broken(Mutation::GatewayDraws) {
            next.txns[id].flight = Flight::Commit(txn.commit_at);
        } else {
            next.txns[id].flight = Flight::Checked;
        }
        settle_down(&mut next, id);
        Some(next)
    }

    pub fn draw_and_propose(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        next.txns[id].flight = Flight::Commit(next.draw());
        if self.broken(Mutation::AnswersEarly) && state.txns[id].phase == Phase::OneShard {
            self.tell(&mut next, id, Told::Committed);
            end(&mut next.txns[id]);
        }
        Some(next)
    }

    /// What was proposed is applied, and its latches go.
    pub fn apply(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        self.apply_flight(&mut next, id);
        let txn = &next.txns[id];
        if !txn.crashed {
            match txn.phase {
                Phase::OneShard => {
                    self.tell(&mut next, id, Told::Committed);
                    end(&mut next.txns[id]);
                }
                Phase::Deciding => self.committed(&mut next, id, state_fate(state, id)),
                _ => {}
            }
        }
        Some(next)
    }

    fn apply_flight(&self, next: &mut State, id: Id) {
        match std::mem::take(&mut next.txns[id].flight) {
            Flight::None | Flight::Checked => {}
            Flight::Commit(at) => {
                if at <= next.closed[self.home(id)] {
                    next.defect = Some("C1: a commit at or below what was closed");
                }
                bits(self.scripts[id].writes).for_each(|key| next.versions[key].put(at, id));
            }
            Flight::Decide(at) => self.apply_decision(next, id, at),
        }
        for txn in &mut next.txns {
            txn.waits_for &= !(1 << id);
        }
        for (_, in_the_way) in &mut next.closing {
            *in_the_way &= !(1 << id);
        }
        settle_down(next, id);
    }

    pub fn apply_decision(&self, next: &mut State, id: Id, at: Ts) {
        let primary = self.primary(id);
        if !matches!(next.records[id], Fate::Unknown) {
            next.defect = Some("F1: a second fate");
        }
        next.records[id] = Fate::Committed(at);
        next.pushed[id] = 0;
        if next.intent(primary) == Some(id) {
            next.remove_intent(primary);
            next.versions[primary].put(at, id);
        }
    }

    /// `prewrite::prewrite`.
    pub fn prewrite(&self, state: &State, id: Id, shard: usize) -> Next {
        let mut next = state.clone();
        let laid = self.lay(&mut next, id, shard)?;
        if self.is_async(id) {
            self.laid_async(&mut next, id, shard, laid);
        } else if laid.is_some() {
            next.txns[id].done |= 1 << shard;
            if next.txns[id].done == self.shards(self.scripts[id].writes) {
                (next.txns[id].phase, next.txns[id].done) = (Phase::NeedsTimestamp, 0);
            }
        } else if !next.txns[id].crashed {
            self.fail(&mut next, id);
        } else {
            next.txns[id].phase = Phase::Over;
        }
        Some(next)
    }

    pub fn late_prewrite(&self, state: &State, id: Id, shard: usize) -> Next {
        let mut next = state.clone();
        self.lay(&mut next, id, shard)?;
        let txn = &mut next.txns[id];
        txn.prewrite_copies &= !(1 << shard);
        if txn.prewrite_copies == 0 && txn.phase >= Phase::CleaningUp && self.is_async(id) {
            txn.read_at = 0;
        }
        Some(next)
    }

    /// `None`: it can't be evaluated now. `Some(None)`: it was refused. Otherwise the timestamp, if it is for an
    /// asynchronous commit.
    fn lay(&self, next: &mut State, id: Id, shard: usize) -> Option<Option<Ts>> {
        let keys = self.scripts[id].writes & self.keys_in(shard);
        if !self.free(next, keys) {
            return None;
        }
        if shard == self.home(id) {
            match next.records[id] {
                Fate::Aborted => return Some(None),
                Fate::Committed(at) => return Some(Some(at)),
                Fate::Unknown | Fate::Pending => {}
            }
        }
        if holders(next, keys).any(|(_, holder)| holder != id) {
            return None;
        }
        if self.is_async(id) {
            return Some(self.lay_async(next, id, keys));
        }
        bits(keys).for_each(|key| next.lay(key, id, 0));
        Some(Some(0))
    }

    /// `validate::validate`.
    pub fn validate(&self, state: &State, id: Id, shard: usize) -> Next {
        let txn = &state.txns[id];
        let keys = self.scripts[id].reads & self.keys_in(shard);
        let (after, at) = (txn.read_at, txn.commit_at);
        let waits = self.writers_at(state, keys) != 0 && !self.broken(Mutation::ReadsDoNotWait);
        if txn.met != 0 || waits {
            return None;
        }
        let mut next = state.clone();
        let mut conflict = bits(keys).any(|key| state.versions[key].any_in(after, at));
        let mut unknown = 0;
        for (_, holder) in holders(state, keys).filter(|(_, holder)| *holder != id) {
            match txn.fates[holder] {
                Fate::Committed(when) => conflict |= when <= at && when > after,
                Fate::Unknown => unknown |= 1 << holder,
                Fate::Pending | Fate::Aborted => {}
            }
        }
        if conflict {
            self.fail(&mut next, id);
            return Some(next);
        }
        next.txns[id].met = unknown;
        if unknown == 0 {
            next.txns[id].done |= 1 << shard;
            if next.txns[id].done == self.shards(self.scripts[id].reads) {
                next.txns[id].phase = Phase::Deciding;
                if self.broken(Mutation::ValidatesBeforeDraw) {
                    next.txns[id].commit_at = next.draw();
                }
            }
        }
        Some(next)
    }

    /// `decide::commit_primary`.
    pub fn decide(&self, state: &State, id: Id) -> Next {
        let at = state.txns[id].commit_at;
        let mut next = state.clone();
        if self.is_async(id) {
            let fate = self.commit_primary_async(&mut next, id, at)?;
            self.decided_async(&mut next, id, fate);
            return Some(next);
        }
        match self.try_decide(&mut next, id, at)? {
            Decided::Is(fate @ Fate::Committed(_)) => self.committed(&mut next, id, fate),
            Decided::Is(_) if next.txns[id].crashed => next.txns[id].phase = Phase::Over,
            Decided::Is(_) => self.fail(&mut next, id),
            Decided::TooLow if next.txns[id].crashed => next.txns[id].phase = Phase::Over,
            Decided::TooLow => self.too_low(&mut next, id),
            Decided::Proposed => {}
        }
        Some(next)
    }

    pub fn late_decide(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        let at = next.txns[id].decide_copy.take()?;
        if self.is_async(id) {
            self.commit_primary_async(&mut next, id, at)?;
            return Some(next);
        }
        self.try_decide(&mut next, id, at)?;
        Some(next)
    }

    fn try_decide(&self, next: &mut State, id: Id, at: Ts) -> Option<Decided> {
        let primary = self.primary(id);
        if !self.free(next, 1 << primary) {
            return None;
        }
        if next.records[id] != Fate::Unknown {
            return Some(Decided::Is(next.records[id]));
        }
        if next.intent(primary) != Some(id) {
            return Some(Decided::Is(Fate::Aborted));
        }
        if at == 0 {
            next.txns[id].flight = Flight::Decide(next.draw());
            return Some(Decided::Proposed);
        }
        let home = self.home(id);
        if next.floors[home] == 0 && !self.broken(Mutation::NoFloor) {
            next.floors[home] = next.draw();
        }
        if at <= next.floors[home].max(next.pushed[id]) {
            return Some(Decided::TooLow);
        }
        self.apply_decision(next, id, at);
        Some(Decided::Is(next.records[id]))
    }

    /// `push::push` that ends a transaction: for it has lapsed, or is in the way of an older one.
    pub fn abort(&self, state: &State, id: Id) -> Next {
        let txn = &state.txns[id];
        let asked = self.ids().any(|other| state.txns[other].met & 1 << id != 0);
        let cleans_up = txn.phase == Phase::CleaningUp && state.known[id] == Fate::Unknown;
        let primary = self.primary(id);
        if !(state.has_intents(id) || asked || cleans_up)
            || state.records[id] != Fate::Unknown
            || !self.free(state, 1 << primary)
            // It may have happened: see `inquire`.
            || (self.lies_async(state, id) && !self.broken(Mutation::AbortsAsync))
        {
            return None;
        }
        let mut next = state.clone();
        let silent = txn.crashed || txn.phase >= Phase::CleaningUp;
        if !silent && !self.is_in_the_way(state, id) {
            next.lapses = next.lapses.checked_sub(1)?;
        }
        next.known[id] = Fate::Aborted;
        if !self.broken(Mutation::AbortsWithoutRecord) {
            next.records[id] = Fate::Aborted;
            next.pushed[id] = 0;
            if next.intent(primary) == Some(id) {
                next.remove_intent(primary);
            }
        }
        Some(next)
    }

    /// Whether an older transaction waits for this one's intents, to write.
    pub fn is_in_the_way(&self, state: &State, id: Id) -> bool {
        (0..id).any(|older| {
            let txn = &state.txns[older];
            let writes = txn.commit_in_net || txn.phase == Phase::Prewriting;
            writes && holders(state, self.scripts[older].writes).any(|(_, holder)| holder == id)
        })
    }

    /// Someone has met an intent, and its transaction is decided.
    pub fn learn(&self, state: &State, id: Id) -> Next {
        let blocked = self.writers_at(state, 1 << self.primary(id)) != 0;
        let fate = state.records[id];
        let cleans_up = state.txns[id].phase == Phase::CleaningUp && state.known[id] == Fate::Unknown;
        let news = fate != Fate::Unknown && state.known[id] != fate;
        if !(state.has_intents(id) || cleans_up) || !news || blocked {
            return None;
        }
        let mut next = state.clone();
        next.known[id] = fate;
        Some(next)
    }

    /// `resolve::resolve`, before it has its latch.
    pub fn resolve_arrives(&self, state: &State, id: Id) -> Next {
        if state.known[id] != Fate::Aborted || state.pushed[id] == 0 {
            return None;
        }
        let mut next = state.clone();
        next.pushed[id] = 0;
        Some(next)
    }

    pub fn settle(&self, state: &State, id: Id, key: usize) -> Next {
        if state.intent(key) != Some(id) || !self.free(state, 1 << key) {
            return None;
        }
        let mut next = state.clone();
        match state.known[id] {
            Fate::Committed(at) => next.versions[key].put(at, id),
            Fate::Aborted => {}
            Fate::Unknown | Fate::Pending => return None,
        }
        next.remove_intent(key);
        Some(next)
    }

    /// Another replica leads: what was proposed is applied before it serves, or never; what was remembered is gone.
    pub fn leader_change(&self, state: &State, shard: usize, survivors: u8) -> Next {
        let mut next = state.clone();
        next.leader_changes[shard] = next.leader_changes[shard].checked_sub(1)?;
        if self.broken(Mutation::NoLease) {
            next.past = Some(Box::new(Past { shard, versions: state.versions, intents: state.intents }));
        }
        for id in self.ids() {
            if self.home(id) == shard && state.txns[id].flight != Flight::None {
                let txn = &mut next.txns[id];
                if txn.flight == Flight::Checked {
                    // Certainly not proposed: the router asks the next leader.
                    txn.commit_in_net = txn.phase == Phase::OneShard && !txn.crashed;
                }
                if survivors & 1 << id == 0 {
                    txn.flight = Flight::None;
                }
                self.apply_flight(&mut next, id);
            }
            if self.home(id) == shard {
                next.pushed[id] = 0;
            }
            next.txns[id].arrived &= !(1 << shard);
        }
        (next.floors[shard], next.closing[shard]) = (0, (0, 0));
        Some(next)
    }
}

enum Decided {
    Is(Fate),
    TooLow,
    Proposed,
}

fn state_fate(state: &State, id: Id) -> Fate {
    match state.txns[id].flight {
        Flight::Decide(at) => Fate::Committed(at),
        _ => Fate::Unknown,
    }
}

/// What only a one-shard commit under way needed goes with it.
fn settle_down(next: &mut State, id: Id) {
    let txn = &mut next.txns[id];
    if txn.phase == Phase::Over && !txn.commit_in_net && txn.flight == Flight::None {
        (txn.read_at, txn.commit_at) = (0, 0);
    }
}
