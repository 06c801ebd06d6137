//! Inserts that exclude each other: two transactions that each look whether the other has written, and write elsewhere.
//!
//! Reads `:insert [key id]`, which looks for any row of the key in two tables and inserts into one of them if there is none, and
//! `:read [key [ids]]`. Per key one insert may succeed (`G2`): more of them are write skew, through a predicate. A row whose insert was
//! acknowledged before a read began must be read (`lost`). The same holds for rows with one value of a unique column.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, Value};

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
    for call in history.calls_of("read") {
        let Some(op) = call.ok() else { continue };
        let Some((key, ids)) = op.value.as_pair() else { continue };
        let ids = ids.as_slice().unwrap_or_default();
        if ids.len() > 1 {
            verdict.anomaly("G2", format!("{key} has several rows: {op}"), vec![op.index]);
        }
        let earlier = rows.get(key).into_iter().flatten().filter(|(end, _)| *end < call.invoke.index);
        for (end, _) in earlier.filter(|(_, id)| !ids.contains(id)) {
            let about = format!("a row is missing\n{}\n{op}", history.ops()[*end]);
            verdict.anomaly("lost", about, vec![*end, op.index]);
        }
    }
    verdict
}
