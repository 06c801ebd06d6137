//! Two transactions that each look whether the other has written, and write elsewhere.
//!
//! Reads `:insert [key id]`, which looks for any row of the key in two tables and inserts into one of them if there is none, and
//! `:read [key [ids]]`. Per key one insert may succeed (`G2`): more of them are write skew, through a predicate.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("write-skew");
    let mut inserted: BTreeMap<&Value, Vec<usize>> = BTreeMap::new();
    for op in history.calls_of("insert").filter_map(|call| call.ok()) {
        if let Some((key, _)) = op.value.as_pair() {
            inserted.entry(key).or_default().push(op.index);
        }
    }
    verdict.note(format!("{} keys with an acknowledged insert", inserted.len()));
    for (key, ops) in inserted.into_iter().filter(|(_, ops)| ops.len() > 1) {
        let shown: Vec<String> = ops.iter().map(|index| history.ops()[*index].to_string()).collect();
        verdict.anomaly("G2", format!("{} inserts of {key} succeeded\n{}", ops.len(), shown.join("\n")), ops);
    }
    for op in history.calls_of("read").filter_map(|call| call.ok()) {
        if let Some((key, ids)) = op.value.as_pair()
            && ids.as_slice().is_some_and(|ids| ids.len() > 1)
        {
            verdict.anomaly("G2", format!("{key} has several rows: {op}"), vec![op.index]);
        }
    }
    verdict
}
