//! Inserts that exclude each other: two transactions that each look whether the other has written, and write elsewhere.
//!
//! Reads `:insert [key id]`, which looks for any row of the key in two tables and inserts into one of them if there is none, and
//! `:read [key [ids]]`, in the end `:final-read [[key [ids]] …]`. Per key one insert may succeed (`G2`): more of them are write skew, through a
//! predicate. A row whose insert was acknowledged before a read began must be read (`lost`), and one that nobody inserted, or whose insert failed,
//! must not (`unexpected`). The same holds for rows with one value of a unique column.
//!
//! If no two inserts of a key were under way at a time, nothing was tested.

use std::collections::{BTreeMap, HashSet};

use super::Verdict;
use crate::history::{FINAL_READ, History, Kind, Op, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("write-skew");
    // By key: where an insert was acknowledged, and of which row.
    let mut rows: BTreeMap<&Value, Vec<(usize, &Value)>> = BTreeMap::new();
    for op in history.calls_of("insert").filter_map(|call| call.ok()) {
        if let Some((key, id)) = op.value.as_pair() {
            rows.entry(key).or_default().push((op.index, id));
        }
    }
    verdict.note(format!("{} keys with an acknowledged insert", rows.len()));
    for (key, inserted) in rows.iter().filter(|(_, inserted)| inserted.len() > 1) {
        let ops: Vec<usize> = inserted.iter().map(|(index, _)| *index).collect();
        let shown: Vec<String> = ops.iter().map(|index| history.ops()[*index].to_string()).collect();
        verdict.anomaly("G2", format!("{} inserts of {key} succeeded\n{}", ops.len(), shown.join("\n")), ops);
    }
    let mut tried: BTreeMap<&Value, Vec<(usize, usize)>> = BTreeMap::new();
    let mut possible: HashSet<(&Value, &Value)> = HashSet::new();
    for call in history.calls_of("insert") {
        let Some((key, id)) = call.invoke.value.as_pair() else { continue };
        // One that was declined has still raced.
        tried
            .entry(key)
            .or_default()
            .push((call.invoke.index, call.complete.map_or(usize::MAX, |op| op.index)));
        if call.outcome() != Kind::Fail {
            possible.insert((key, id));
        }
    }
    let contested = tried.values_mut().filter_map(|spans| is_contested(spans).then_some(())).count();
    verdict.note(format!("{contested} keys for which inserts raced"));
    if contested == 0 {
        verdict.unknown("no two inserts of a key were under way at a time");
    }
    for (asked, op, key, ids) in looks(history) {
        let ids = ids.as_slice().unwrap_or_default();
        if ids.len() > 1 {
            verdict.anomaly(
                "G2",
                format!("{key} has several rows: {ids:?} in operation {}", op.index),
                vec![op.index],
            );
        }
        for id in ids.iter().filter(|id| !possible.contains(&(key, *id))) {
            let about = format!(
                "operation {} has {id} of {key}, which nobody inserted, or whose insert failed",
                op.index
            );
            verdict.anomaly("unexpected", about, vec![op.index]);
        }
        let earlier = rows.get(key).into_iter().flatten().filter(|(end, _)| *end < asked);
        for (end, _) in earlier.filter(|(_, id)| !ids.contains(id)) {
            let about = format!("a row is missing in operation {}\n{}", op.index, history.ops()[*end]);
            verdict.anomaly("lost", about, vec![*end, op.index]);
        }
    }
    verdict
}

/// Whether two of these overlap.
fn is_contested(spans: &mut [(usize, usize)]) -> bool {
    spans.sort_unstable();
    spans.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

/// All reads of keys: where each was asked, its answer, the key, its rows.
fn looks(history: &History) -> Vec<(usize, &Op, &Value, &Value)> {
    let mut looks = Vec::new();
    for call in history.calls() {
        let Some(op) = call.ok() else { continue };
        match &call.invoke.f[..] {
            "read" => looks.extend(op.value.as_pair().map(|(key, ids)| (call.invoke.index, op, key, ids))),
            FINAL_READ => {
                let pairs = op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_pair);
                looks.extend(pairs.map(|(key, ids)| (call.invoke.index, op, key, ids)));
            }
            _ => {}
        }
    }
    looks
}
