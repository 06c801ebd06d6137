//! Closed timestamps, and reads at replicas that need not lead: `txn/src/command/{close,past}.rs`.
//!
//! * A leader closes as far as it can: up to the present (what lies further back is closed the sooner).
//! * What is closed is in the log: it is true at every replica that has applied it, and outlives leaders.
//! * A replica that lags answers from an earlier state. To read that is to read earlier, which is another order of the same steps.

use crate::history::seen;
use crate::protocol::{Mutation, Protocol, bits};
use crate::state::{Id, Phase, State};
use crate::{A, B, C, calm, holds, txn};

type Next = Option<State>;

impl Protocol {
    /// `close::close`: the draw, and the look at the latches.
    pub fn close_arrives(&self, state: &State, shard: usize) -> Next {
        if state.closing[shard].0 > 0 {
            return None;
        }
        let mut next = state.clone();
        next.closes = next.closes.checked_sub(1)?;
        let in_the_way = if self.broken(Mutation::ClosesAtOnce) { 0 } else { self.flying_in(state, shard) };
        next.closing[shard] = (next.draw(), in_the_way);
        Some(next)
    }

    /// … what was in the way is applied, or never will be; and so is what says that it is closed.
    pub fn close(&self, state: &State, shard: usize) -> Next {
        let (at, in_the_way) = state.closing[shard];
        if at == 0 || in_the_way != 0 {
            return None;
        }
        let mut next = state.clone();
        next.closed[shard] = next.closed[shard].max(at);
        next.closing[shard] = (0, 0);
        Some(next)
    }

    /// `past::evaluate`, where it gives an answer.
    pub fn read_closed(&self, state: &State, id: Id, shard: usize) -> Next {
        let txn = &state.txns[id];
        let at = txn.read_at;
        let reads_only = txn.phase == Phase::Reading && self.scripts[id].writes == 0;
        let open = at > state.closed[shard] && !self.broken(Mutation::ReadsWhatIsOpen);
        if !reads_only || txn.done & 1 << shard != 0 || open {
            return None;
        }
        let mut next = state.clone();
        for key in bits(self.scripts[id].reads & self.keys_in(shard)) {
            if let Some(holder) = state.intent(key) {
                let later = state.at_least[key] > at || state.txns[holder].read_at > at;
                if !later && !self.broken(Mutation::IgnoresIntentsOfThePast) {
                    return None;
                }
            }
            next.txns[id].seen[key] = state.versions[key].at(at).map_or(1, |(_, writer)| seen(writer));
        }
        let txn = &mut next.txns[id];
        txn.done |= 1 << shard;
        txn.arrived &= !(1 << shard);
        txn.met = 0;
        if txn.done == self.shards(self.scripts[id].reads) {
            self.begin_commit(&mut next, id);
        }
        Some(next)
    }
}

#[test]
fn replicas_answer_what_is_closed_beside_commits_of_both_kinds() {
    let scripts = [txn(A, A | C), txn(0, A), txn(A | C, 0)];
    let taken = holds(&Protocol { closes: 2, ..calm(&scripts) });
    for kind in ["CloseArrives", "Close", "ReadClosed"] {
        assert!(taken.contains(kind), "{kind} is never taken");
    }
}

#[test]
fn what_is_closed_outlives_leaders_and_lost_answers() {
    let scripts = [txn(0, A | C), txn(A | C, 0)];
    holds(&Protocol { closes: 2, leader_changes: [1, 1], losses: 1, crashes: 1, ..calm(&scripts) });
    let scripts = [txn(0, A), txn(0, B), txn(A | B, 0)];
    holds(&Protocol { closes: 2, leader_changes: [1, 0], slow_reads: true, ..calm(&scripts) });
}

#[test]
fn replicas_answer_what_is_closed_beside_an_asynchronous_commit() {
    let scripts = [txn(0, A | C), txn(A | C, 0)];
    holds(&Protocol { closes: 2, leader_changes: [1, 0], losses: 1, asynchronous: true, ..calm(&scripts) });
}
