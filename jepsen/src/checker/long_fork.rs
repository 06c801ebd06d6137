//! Two readers who see two independent writes in opposite orders.
//!
//! Reads `:txn` calls: a write `[[:w k v]]`, each key once, or a read of several keys `[[:r k v] …]`. Snapshot isolation in its parallel
//! form allows a fork (`long-fork`), serializability doesn't. If nobody read a group of which a part was written, nothing was tested.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("long-fork");
    let mut snapshots = Vec::new();
    let mut partial = 0;
    for call in history.calls_of("txn") {
        let Some(op) = call.ok() else { continue };
        let mut snapshot = BTreeMap::new();
        for step in op.value.as_slice().unwrap_or_default() {
            if let Some([f, key, value]) = step.as_slice()
                && f.as_name() == Some("r")
            {
                snapshot.insert(key.clone(), i64::from(*value != Value::Nil));
            }
        }
        if snapshot.len() > 1 {
            let written = snapshot.values().filter(|written| **written == 1).count();
            partial += usize::from(!call.is_last() && written > 0 && written < snapshot.len());
            snapshots.push((op.index, snapshot));
        }
    }
    verdict.note(format!("{} reads of several keys, {partial} of groups written in part", snapshots.len()));
    if partial == 0 {
        verdict.unknown("nobody read a group of which a part was written");
    }
    let mut found = Verdict::new("long-fork");
    super::monotonic::incomparable(&snapshots, history, &mut found);
    for anomaly in found.anomalies {
        verdict.anomaly("long-fork", anomaly.about, anomaly.ops);
    }
    verdict
}
