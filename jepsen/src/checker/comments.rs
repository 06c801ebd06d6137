//! Causal order across shards: who sees a comment sees all that were acknowledged before it was written.
//!
//! Reads `:write [thread id]` and `:read [thread [ids]]`; threads are independent. A database that is serializable but not strictly so may fail (`causal-reverse`): the two
//! writes have no key in common, so that only real time orders them.

use std::collections::{BTreeMap, HashSet};

use super::Verdict;
use crate::history::{History, Kind, Value};

/// An id, and the places where its write began and was acknowledged.
type Write<'a> = (&'a Value, usize, Option<usize>);

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("comments");
    let mut threads: BTreeMap<&Value, Vec<Write<'_>>> = BTreeMap::new();
    for call in history.calls_of("write").filter(|call| call.outcome() != Kind::Fail) {
        let Some((thread, id)) = call.invoke.value.as_pair() else { continue };
        let ended = call.ok().map(|op| op.index);
        threads.entry(thread).or_default().push((id, call.invoke.index, ended));
    }
    let mut reads = 0;
    for op in history.calls_of("read").filter_map(|call| call.ok()) {
        reads += 1;
        let Some((thread, ids)) = op.value.as_pair() else { continue };
        let seen: HashSet<&Value> = ids.as_slice().unwrap_or_default().iter().collect();
        let Some(writes) = threads.get(thread) else { continue };
        // Of those that are missing, the one acknowledged first; of those seen, the one begun last.
        let missing = writes
            .iter()
            .filter(|(id, _, _)| !seen.contains(id))
            .filter_map(|(id, begun, ended)| Some((ended.as_ref()?, id, begun)))
            .min();
        let newest = writes.iter().filter(|(id, _, _)| seen.contains(id)).max_by_key(|(_, begun, _)| *begun);
        if let (Some((ended, lost, first)), Some((id, begun, _))) = (missing, newest)
            && ended < begun
        {
            let about = format!(
                "operation {} has {id}, begun with #{begun}, but not {lost}, acknowledged with #{ended}",
                op.index
            );
            verdict.anomaly("causal-reverse", about, vec![*first, *begun, op.index]);
        }
    }
    verdict.note(format!("{} threads, {reads} reads", threads.len()));
    verdict
}
