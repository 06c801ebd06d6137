//! Mutual exclusion: nobody has a lock while another one has it.
//!
//! Reads `:stay [lock from until]`: by its client's word, which shares one clock with all others, the lock was held for that
//! time. Two stays with one lock must not overlap (`held-twice`).
//!
//! A stay without length shows nothing: who is told that it holds a lock held it before it was told, and its session may have ended since.
//! Only what it is told when it asks again shows that it held it when it asked.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("mutex");
    let mut stays: BTreeMap<&Value, Vec<(i64, i64, usize)>> = BTreeMap::new();
    for op in history.calls_of("stay").filter_map(|call| call.ok()) {
        if let Some([lock, Value::Int(from), Value::Int(until)]) = op.value.as_slice()
            && from < until
        {
            stays.entry(lock).or_default().push((*from, *until, op.index));
        }
    }
    let all = stays.values().map(Vec::len).sum::<usize>();
    verdict.note(format!("{all} stays with {} locks", stays.len()));
    if all == 0 {
        verdict.unknown("no lock was ever held");
    }
    for (lock, stays) in &mut stays {
        stays.sort_unstable();
        let mut longest = stays[0];
        for stay in &stays[1..] {
            if stay.0 < longest.1 {
                let about = format!(
                    "lock {lock} was held until {} and taken at {}\n{}\n{}",
                    longest.1,
                    stay.0,
                    history.ops()[longest.2],
                    history.ops()[stay.2]
                );
                verdict.anomaly("held-twice", about, vec![longest.2, stay.2]);
            }
            if stay.1 > longest.1 {
                longest = *stay;
            }
        }
    }
    verdict
}
