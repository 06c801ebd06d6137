//! The gateway's steps: `txn/src/coordinator/{commit,lay,fetch,fates,validate,settle,txn}.rs`.

use crate::protocol::{Mutation, Protocol, bits};
use crate::state::{Fate, Flight, Id, Inquiry, Phase, State, TXNS, Told, Txn};

type Next = Option<State>;

impl Protocol {
    /// `Database::begin`, and the draw of a snapshot at the first read.
    pub fn begin(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        let acknowledged = self.ids().filter(|id| state.txns[*id].told == Told::Committed);
        next.txns[id].before = acknowledged.map(|id| 1 << id).sum();
        let script = self.scripts[id];
        if script.latest {
            next.txns[id].phase = Phase::Latest;
        } else if script.reads != 0 {
            let at = next.draw();
            let txn = &mut next.txns[id];
            (txn.phase, txn.read_at) = (Phase::Reading, at);
        } else {
            self.begin_commit(&mut next, id);
        }
        Some(next)
    }

    /// All is read: `run_commit`.
    pub fn begin_commit(&self, next: &mut State, id: Id) {
        if self.scripts[id].writes == 0 {
            self.tell(next, id, Told::Committed);
            return end(&mut next.txns[id]);
        }
        let one_shard = self.fits_one_shard(id);
        let draws = match one_shard {
            true => Mutation::GatewayDraws,
            false if self.is_async(id) => Mutation::AsyncGatewayDraws,
            false => Mutation::DrawsBeforeIntents,
        };
        if self.broken(draws) {
            next.txns[id].commit_at = next.draw();
        }
        let txn = &mut next.txns[id];
        (txn.done, txn.arrived, txn.waits_for) = (0, 0, 0);
        txn.fates = [Fate::Unknown; TXNS];
        txn.commit_in_net = one_shard;
        txn.phase = if one_shard { Phase::OneShard } else { Phase::Prewriting };
    }

    /// The client has its answer.
    pub fn tell(&self, next: &mut State, id: Id, what: Told) {
        let txn = &mut next.txns[id];
        if txn.told == Told::Nothing {
            txn.told = what;
        }
    }

    /// `Txn::abandon`: it is not committed, and the intents go.
    pub fn fail(&self, next: &mut State, id: Id) {
        self.tell(next, id, Told::Failed);
        let may_have_intents = next.txns[id].phase >= Phase::Prewriting;
        if !may_have_intents {
            return end(&mut next.txns[id]);
        }
        self.quiet(next, id);
        let txn = &mut next.txns[id];
        txn.phase = Phase::CleaningUp;
        // Otherwise a push has to write a record first, which refuses what is still on its way.
        if !txn.repeated || self.broken(Mutation::AbandonsDespiteCopies) {
            next.known[id] = Fate::Aborted;
        }
    }

    /// The answer of `CommitPrimary`.
    pub fn committed(&self, next: &mut State, id: Id, fate: Fate) {
        if next.txns[id].crashed {
            return;
        }
        self.tell(next, id, Told::Committed);
        self.quiet(next, id);
        next.txns[id].phase = Phase::CleaningUp;
        next.known[id] = fate;
    }

    /// It asks for nothing any more. (A copy of an asynchronous commit's prewrite says what must be unchanged.)
    pub fn quiet(&self, next: &mut State, id: Id) {
        let txn = &mut next.txns[id];
        let kept = if self.is_async(id) && txn.prewrite_copies != 0 { txn.read_at } else { 0 };
        quiet(txn);
        txn.read_at = kept;
    }

    /// The oracle's timestamp, where the coordinator asks for one.
    pub fn draw(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        let reads = self.scripts[id].reads;
        if state.txns[id].phase == Phase::NeedsSnapshot {
            let at = next.draw();
            let txn = &mut next.txns[id];
            (txn.phase, txn.read_at, txn.done, txn.arrived) = (Phase::Reading, at, 0, 0);
            return Some(next);
        }
        let txn = &mut next.txns[id];
        (txn.done, txn.fates) = (0, [Fate::Unknown; TXNS]);
        if reads == 0 && !self.broken(Mutation::DrawsBeforeIntents) {
            // The primary's leader draws it.
            (txn.phase, txn.commit_at) = (Phase::Deciding, 0);
            return Some(next);
        }
        txn.phase = match reads == 0 || self.broken(Mutation::SkipValidation) {
            true => Phase::Deciding,
            false => Phase::Validating,
        };
        if self.broken(Mutation::ValidatesBeforeDraw) {
            next.txns[id].commit_at = next.clock;
        } else if !self.broken(Mutation::DrawsBeforeIntents) || next.txns[id].commit_at == 0 {
            next.txns[id].commit_at = next.draw();
        }
        Some(next)
    }

    /// `Pushed`: the timestamp was too low.
    pub fn too_low(&self, next: &mut State, id: Id) {
        (next.txns[id].phase, next.txns[id].commit_at) = (Phase::NeedsTimestamp, 0);
    }

    /// Lost, with the leader or on the way: `commit_in_one_shard` asks for the outcome.
    pub fn lose_answer(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        let gone = !state.txns[id].commit_in_net && state.txns[id].flight == Flight::None;
        if !gone {
            next.losses = next.losses.checked_sub(1)?;
        }
        if self.broken(Mutation::RepeatsCommit) {
            next.txns[id].commit_in_net = true;
            return Some(next);
        }
        next.txns[id].phase = Phase::FindOut;
        Some(next)
    }

    /// `Outcome`: found among what was applied, or unknown.
    pub fn find_out(&self, state: &State, id: Id) -> Next {
        let key = self.primary(id);
        if self.writers_at(state, 1 << key) != 0 {
            return None;
        }
        let mut next = state.clone();
        let found = state.versions[key].by(id).next().is_some();
        self.tell(&mut next, id, if found { Told::Committed } else { Told::Ambiguous });
        end(&mut next.txns[id]);
        Some(next)
    }

    pub fn repeat_prewrite(&self, state: &State, id: Id, shard: usize) -> Next {
        let mut next = state.clone();
        next.losses = next.losses.checked_sub(1)?;
        next.txns[id].prewrite_copies |= 1 << shard;
        next.txns[id].repeated = true;
        Some(next)
    }

    /// Out of time while intents are laid.
    pub fn abandon(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        next.losses = next.losses.checked_sub(1)?;
        let txn = &mut next.txns[id];
        txn.prewrite_copies |= self.shards(self.scripts[id].writes) & !txn.done;
        txn.repeated = true;
        if self.is_async(id) && !self.broken(Mutation::FailsWithoutAsking) {
            self.ask_itself(&mut next, id);
        } else {
            self.fail(&mut next, id);
        }
        Some(next)
    }

    pub fn repeat_decide(&self, state: &State, id: Id) -> Next {
        if state.txns[id].decide_copy.is_some() {
            return None;
        }
        let mut next = state.clone();
        next.losses = next.losses.checked_sub(1)?;
        let txn = &mut next.txns[id];
        txn.decide_copy = Some(txn.commit_at);
        // (Nobody minds those of an asynchronous commit.)
        txn.repeated |= !self.is_async(id);
        Some(next)
    }

    /// `Core::finish`: all is settled.
    pub fn forget(&self, state: &State, id: Id) -> Next {
        let undecided = state.known[id] == Fate::Unknown;
        let early = self.broken(Mutation::ForgetsEarly);
        if undecided || (state.has_intents(id) && !early) || !self.free(state, 1 << self.primary(id)) {
            return None;
        }
        let mut next = state.clone();
        if !state.txns[id].repeated || self.broken(Mutation::ForgetsDespiteCopies) {
            next.records[id] = Fate::Unknown;
        }
        let txn = &mut next.txns[id];
        let kept = txn.read_at;
        end(txn);
        txn.read_at = kept;
        Some(next)
    }

    /// Nothing more comes from it; what it has sent is on its way.
    pub fn crash(&self, state: &State, id: Id) -> Next {
        if matches!(state.txns[id].phase, Phase::Idle | Phase::Over) {
            return None;
        }
        let mut next = state.clone();
        next.crashes = next.crashes.checked_sub(1)?;
        self.tell(&mut next, id, Told::Ambiguous);
        let txn = &mut next.txns[id];
        txn.crashed = true;
        txn.met = 0;
        next.inquiries[id] = Inquiry::default();
        let txn = &mut next.txns[id];
        if matches!(txn.phase, Phase::Latest | Phase::NeedsSnapshot | Phase::Reading | Phase::FindOut) {
            end(txn);
        }
        Some(next)
    }
}

fn quiet(txn: &mut Txn) {
    (txn.read_at, txn.commit_at, txn.done, txn.arrived, txn.waits_for, txn.met) = (0, 0, 0, 0, 0, 0);
    txn.fates = [Fate::Unknown; TXNS];
}

/// Ends a transaction. What it has read stays, for the history.
pub fn end(txn: &mut Txn) {
    // A one-shard commit that is still under way is checked against what was read.
    let read_at = txn.read_at;
    quiet(txn);
    if txn.commit_in_net || txn.flight != Flight::None {
        txn.read_at = read_at;
    }
    txn.phase = Phase::Over;
}

/// Whose bits are set, as far as they hold intents on any of these keys.
pub fn holders(state: &State, keys: u8) -> impl Iterator<Item = (usize, Id)> + '_ {
    bits(keys).filter_map(|key| state.intent(key).map(|holder| (key, holder)))
}
