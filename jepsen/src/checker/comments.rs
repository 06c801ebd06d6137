//! Causal order across shards: who sees a comment sees all that were acknowledged before it was written.
//!
//! Reads `:write [thread id]`, `:read [thread [ids]]` and in the end `:final-read [[thread [ids]] …]`; threads are independent.
//!
//! | anomaly | what |
//! |---|---|
//! | `causal-reverse` | a read has a comment, and not one that was acknowledged before that one was begun. A database that is serializable but not strictly so may do this: the two writes have no key in common, so that only real time orders them |
//! | `stale-read` | a read has not what was acknowledged before the read began |
//! | `lost` | … and it is one of the last reads |
//! | `unexpected` | a read has what nobody wrote, or whose writing failed |
//!
//! If no read was ever under way beside a write of its thread, nothing was tested.

use std::collections::{BTreeMap, HashSet};

use super::Verdict;
use crate::history::{FINAL_READ, History, Kind, Op, Value};

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
    let (mut reads, mut beside) = (0, 0);
    let nothing = Vec::new();
    for (asked, op, thread, ids, last) in looks(history) {
        reads += 1;
        let seen: HashSet<&Value> = ids.as_slice().unwrap_or_default().iter().collect();
        let writes = threads.get(thread).unwrap_or(&nothing);
        if writes.iter().any(|(_, begun, ended)| *begun < op.index && ended.is_none_or(|ended| ended > asked))
        {
            beside += 1;
        }
        let made_up =
            seen.iter().find(|id| !writes.iter().any(|(known, begun, _)| known == *id && *begun < op.index));
        if let Some(id) = made_up {
            verdict.anomaly(
                "unexpected",
                format!("operation {} has {id} of {thread}, which nobody wrote", op.index),
                vec![op.index],
            );
        }
        let overdue = writes
            .iter()
            .filter_map(|(id, begun, ended)| Some((id, begun, ended.filter(|ended| *ended < asked)?)))
            .find(|(id, ..)| !seen.contains(*id));
        if let Some((id, begun, ended)) = overdue {
            let name = if last { "lost" } else { "stale-read" };
            let about = format!(
                "operation {}, begun with #{asked}, has not {id} of {thread}, acknowledged with #{ended}",
                op.index
            );
            verdict.anomaly(name, about, vec![*begun, asked]);
        }
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
    verdict.note(format!("{} threads, {reads} reads, {beside} of them beside a write", threads.len()));
    if beside == 0 {
        verdict.unknown("no thread was ever read while somebody wrote to it");
    }
    verdict
}

/// All reads of threads: where each was asked, its answer, the thread, its comments, and whether it is one of the last.
fn looks(history: &History) -> Vec<(usize, &Op, &Value, &Value, bool)> {
    let mut looks = Vec::new();
    for call in history.calls() {
        let Some(op) = call.ok() else { continue };
        match &call.invoke.f[..] {
            "read" => looks.extend(op.value.as_pair().map(|(t, ids)| (call.invoke.index, op, t, ids, false))),
            FINAL_READ => {
                let pairs = op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_pair);
                looks.extend(pairs.map(|(thread, ids)| (call.invoke.index, op, thread, ids, true)));
            }
            _ => {}
        }
    }
    looks
}
