//! Asynchronous commit: `txn/src/coordinator/async_commit.rs`, `txn/src/command/{prewrite,probe,push,decide}.rs`.
//!
//! A leader draws a timestamp under the latches of a prewrite, and yet that is one step: what it draws and proposes
//! is seen by nobody before it is applied, and whoever has read these keys since the latches were taken has come
//! before them, so with a smaller timestamp.

use crate::coordinator::end;
use crate::protocol::{Mutation, Protocol, bits};
use crate::state::{Fate, Id, Inquiry, LATEST, PASSER_BY, Phase, State, Told, Ts};

type Next = Option<State>;

impl Protocol {
    /// Its primary's intent lies, and is an asynchronous commit's.
    pub fn lies_async(&self, state: &State, id: Id) -> bool {
        self.is_async(id) && state.intent(self.primary(id)) == Some(id)
    }

    /// `prewrite::check`, the draw, and the intents. `None`: refused.
    pub fn lay_async(&self, next: &mut State, id: Id, keys: u8) -> Option<Ts> {
        let (reads, read_at) = (self.scripts[id].reads, next.txns[id].read_at);
        let (mut at_least, mut fresh) = (0, 0);
        for key in bits(keys) {
            if next.intent(key) == Some(id) && !self.broken(Mutation::RedrawsForCopies) {
                at_least = at_least.max(next.at_least[key]);
                continue;
            }
            let laid = next.intent(key) == Some(id);
            let checked = !laid && reads & 1 << key != 0 && !self.broken(Mutation::PrewritesUnchecked);
            let changed = checked && next.versions[key].any_in(read_at, LATEST);
            let probed = next.key_records[id] & 1 << key != 0 && !self.broken(Mutation::IgnoresProbes);
            if changed || probed {
                return None;
            }
            fresh |= 1 << key;
        }
        if fresh != 0 {
            let drawn = match self.broken(Mutation::AsyncGatewayDraws) {
                true => next.txns[id].commit_at,
                false => next.draw(),
            };
            at_least = at_least.max(drawn);
            bits(fresh).for_each(|key| next.lay(key, id, drawn));
        }
        Some(at_least)
    }

    /// The answer to a prewrite: `commit_async`.
    pub fn laid_async(&self, next: &mut State, id: Id, shard: usize, laid: Option<Ts>) {
        let all = self.shards(self.scripts[id].writes);
        let txn = &mut next.txns[id];
        let Some(at_least) = laid else {
            if txn.crashed {
                txn.phase = Phase::Over;
            } else {
                // What is not sent yet never is.
                self.ask_itself(next, id);
            }
            return;
        };
        txn.done |= 1 << shard;
        if !self.broken(Mutation::CommitsAtPrimary) || shard == self.home(id) {
            txn.commit_at = txn.commit_at.max(at_least);
        }
        if self.broken(Mutation::AnswersBeforeAll) && !txn.crashed {
            self.tell(next, id, Told::Committed);
        }
        let txn = &mut next.txns[id];
        if txn.done != all {
            return;
        }
        if txn.crashed {
            end(txn);
        } else if txn.stale > 0 && !self.broken(Mutation::TrustsOldAnswers) {
            self.ask_itself(next, id);
        } else {
            txn.done = 0;
            self.has_happened(next, id);
        }
    }

    /// The client is answered, and `CommitPrimary` is sent.
    fn has_happened(&self, next: &mut State, id: Id) {
        self.tell(next, id, Told::Committed);
        next.txns[id].phase = Phase::Deciding;
        if self.broken(Mutation::ResolvesBeforeRecord) {
            next.known[id] = Fate::Committed(next.txns[id].commit_at);
        }
    }

    /// `commit_primary` with `all_lie`. `None`: it can't be evaluated now.
    pub fn commit_primary_async(&self, next: &mut State, id: Id, at: Ts) -> Option<Fate> {
        if !self.free(next, 1 << self.primary(id)) {
            return None;
        }
        if next.records[id] == Fate::Unknown {
            if !self.lies_async(next, id) {
                return Some(Fate::Aborted);
            }
            if at <= next.pushed[id] {
                next.defect = Some("P3: a commit at or below a timestamp that it was pushed to");
            }
            self.apply_decision(next, id, at);
        }
        Some(next.records[id])
    }

    /// The answer to the coordinator's `CommitPrimary`. Its client was answered before.
    pub fn decided_async(&self, next: &mut State, id: Id, fate: Fate) {
        if next.txns[id].crashed {
            next.txns[id].phase = Phase::Over;
            return;
        }
        match fate {
            Fate::Committed(at) => {
                // (Below, if a copy has laid an intent again that was settled.)
                if at > next.txns[id].commit_at {
                    next.defect = Some("an asynchronous commit is later than its client was told");
                }
                self.committed(next, id, fate);
            }
            _ => end(&mut next.txns[id]),
        }
    }

    /// `push::attempt` of a reader, where the primary's intent is an asynchronous commit's.
    pub fn push_async(&self, state: &State, by: Id, of: Id) -> Next {
        let mut next = state.clone();
        let txn = &mut next.txns[by];
        let above = if txn.phase == Phase::Reading { txn.read_at } else { txn.commit_at };
        if above < state.at_least[self.primary(of)] {
            txn.met &= !(1 << of);
            txn.fates[of] = Fate::Pending;
            return Some(next);
        }
        if state.inquiries[by].of != 0 {
            return None;
        }
        next.inquiries[by] = Inquiry { of: of as u8 + 1, ..Inquiry::default() };
        Some(next)
    }

    /// The same, of someone who waits to write, or cleans up.
    pub fn inquire(&self, state: &State, of: Id) -> Next {
        let txn = &state.txns[of];
        if !self.lies_async(state, of) || !self.free(state, 1 << self.primary(of)) {
            return None;
        }
        let mut next = state.clone();
        let silent = txn.crashed || txn.phase >= Phase::CleaningUp;
        if !silent && !self.is_in_the_way(state, of) {
            next.lapses = next.lapses.checked_sub(1)?;
        }
        next.inquiries[PASSER_BY] = Inquiry { of: of as u8 + 1, ..Inquiry::default() };
        Some(next)
    }

    /// The coordinator lacks an answer: `find_out_async`.
    pub fn ask_itself(&self, next: &mut State, id: Id) {
        next.txns[id].phase = Phase::Asking;
        (next.txns[id].done, next.txns[id].commit_at) = (0, 0);
        next.inquiries[id] = Inquiry { of: id as u8 + 1, ..Inquiry::default() };
    }

    /// `probe::probe`.
    pub fn probe(&self, state: &State, by: usize, key: usize) -> Next {
        if !self.free(state, 1 << key) {
            return None;
        }
        let of = state.inquiries[by].of as Id - 1;
        let (primary, record) = (self.primary(of), !self.broken(Mutation::ProbesWithoutRecord));
        let mut next = state.clone();
        let inquiry = &mut next.inquiries[by];
        inquiry.probed |= 1 << key;
        if state.intent(key) == Some(of) {
            let counts = !self.broken(Mutation::CommitsAtPrimary) || key == primary;
            if counts {
                inquiry.at = inquiry.at.max(state.at_least[key]);
            }
            return Some(next);
        }
        // What the others find makes no difference, but for records that refuse what is refused anyway.
        (inquiry.missing, inquiry.at, inquiry.probed) = (true, 0, self.scripts[of].writes);
        if key == primary && state.records[of] == Fate::Unknown && record {
            next.records[of] = Fate::Aborted;
        } else if key != primary && record {
            next.key_records[of] |= 1 << key;
        }
        if self.shard_of[key] == self.home(of) {
            next.pushed[of] = 0;
        }
        Some(next)
    }

    /// What was found is brought to the primary.
    pub fn conclude(&self, state: &State, by: usize) -> Next {
        let inquiry = state.inquiries[by];
        let of = inquiry.of as Id - 1;
        let mut next = state.clone();
        let fate = match inquiry.missing {
            false => self.commit_primary_async(&mut next, of, inquiry.at)?,
            true => self.push_incomplete(&mut next, of)?,
        };
        next.inquiries[by] = Inquiry::default();
        if by == of {
            self.found_out(&mut next, of, fate);
            return Some(next);
        }
        match (next.known[of], fate) {
            // It has committed, is settled and forgotten.
            (Fate::Committed(_), Fate::Aborted) => next.misled |= 1 << of,
            (Fate::Aborted, Fate::Committed(_)) => next.defect = Some("F1: a commit after an abort"),
            _ => next.known[of] = fate,
        }
        if by != PASSER_BY {
            next.txns[by].met &= !(1 << of);
            next.txns[by].fates[of] = fate;
        }
        Some(next)
    }

    /// `Push` with `abort` and `incomplete`.
    fn push_incomplete(&self, next: &mut State, of: Id) -> Option<Fate> {
        let primary = self.primary(of);
        if !self.free(next, 1 << primary) {
            return None;
        }
        if next.records[of] == Fate::Unknown {
            (next.records[of], next.pushed[of]) = (Fate::Aborted, 0);
            if next.intent(primary) == Some(of) {
                next.remove_intent(primary);
            }
        }
        Some(next.records[of])
    }

    /// What the coordinator makes of its own inquiry.
    fn found_out(&self, next: &mut State, id: Id, fate: Fate) {
        if let Fate::Committed(at) = fate {
            next.txns[id].commit_at = at;
            return self.has_happened(next, id);
        }
        if next.txns[id].stale == 2 && !self.broken(Mutation::TrustsOldSilence) {
            return self.leave(next, id);
        }
        self.fail(next, id);
    }

    /// The coordinator's inquiry takes too long.
    pub fn give_up(&self, state: &State, id: Id) -> Next {
        let mut next = state.clone();
        next.losses = next.losses.checked_sub(1)?;
        next.inquiries[id] = Inquiry::default();
        self.leave(&mut next, id);
        Some(next)
    }

    /// `Error::Ambiguous`; and `Txn::abandon` asks once more, in the background.
    fn leave(&self, next: &mut State, id: Id) {
        self.tell(next, id, Told::Ambiguous);
        self.quiet(next, id);
        next.txns[id].phase = Phase::CleaningUp;
    }

    /// `Resolve`, from someone who has come too late to find the record.
    pub fn settle_wrongly(&self, state: &State, id: Id, key: usize) -> Next {
        if state.intent(key) != Some(id) || !self.free(state, 1 << key) {
            return None;
        }
        let mut next = state.clone();
        next.remove_intent(key);
        Some(next)
    }

    /// Drops what makes no difference any more.
    pub fn simplify(&self, next: &mut State) {
        if !self.asynchronous {
            return;
        }
        for id in self.ids() {
            let txn = &next.txns[id];
            if txn.phase > Phase::Prewriting && txn.prewrite_copies == 0 {
                next.key_records[id] = 0;
            }
        }
        for inquiry in next.inquiries.iter_mut().filter(|inquiry| inquiry.of > 0) {
            let of = inquiry.of as Id - 1;
            if next.records[of] != Fate::Unknown {
                // The record has the last word, and nobody else commits it once that is gone.
                (inquiry.probed, inquiry.missing, inquiry.at) = (self.scripts[of].writes, true, 0);
            }
        }
    }

    /// `sweep.rs`: so much time has passed that nothing is in the network any more, and that a coordinator that still
    /// lays its intents knows that it has taken long.
    pub fn sweep(&self, state: &State, id: Id) -> Next {
        let txn = &state.txns[id];
        let asked = state.inquiries.iter().any(|inquiry| inquiry.of == id as u8 + 1);
        let decided = state.records[id] != Fate::Unknown || state.key_records[id] != 0;
        let committed = matches!(state.records[id], Fate::Committed(_));
        let waits = txn.phase == Phase::Prewriting;
        let copies = txn.prewrite_copies != 0 || txn.decide_copy.is_some();
        if asked || copies || !decided || !(waits || txn.crashed || txn.phase == Phase::Over) {
            return None;
        }
        // It is settled first.
        if committed && (state.has_intents(id) || state.known[id] == Fate::Unknown) {
            return None;
        }
        let mut next = state.clone();
        next.sweeps = next.sweeps.checked_sub(1)?;
        (next.records[id], next.key_records[id]) = (Fate::Unknown, 0);
        if next.known[id] == Fate::Aborted {
            next.known[id] = Fate::Unknown;
        }
        if txn.crashed {
            next.txns[id].phase = Phase::Over;
        } else if waits {
            next.txns[id].stale = 1 + u8::from(committed);
            if committed {
                // All was laid, so all was sent, more than a minute ago: an answer is lost, and it asks for no more.
                self.ask_itself(&mut next, id);
            }
        }
        Some(next)
    }
}
