//! Many counters, read together: snapshots are ordered.
//!
//! Reads `:inc [key nil]`, answered with `[key value-after]`, and `:read [[key value] …]` of several keys in one transaction. Beside
//! what [`counter`](super::counter) holds against each key, no two snapshots may disagree about which of two increments came first
//! (`incomparable-snapshots`).

use std::collections::BTreeMap;

use super::Verdict;
use super::counter::{Sight, increments, judge};
use crate::history::{History, Value};

/// The place of an answer, and what it says of each key.
pub(super) type Snapshot = (usize, BTreeMap<Value, i64>);

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("monotonic");
    let mut counters = increments(history);
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for call in history.calls_of("read") {
        let Some(op) = call.ok() else { continue };
        let mut snapshot = BTreeMap::new();
        for (key, value) in op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_pair) {
            let Some(value) = value.as_int() else { continue };
            let span = (call.invoke.index, op.index);
            counters.entry(key.clone()).or_default().sights.push(Sight { span, value, is_increment: false });
            snapshot.insert(key.clone(), value);
        }
        snapshots.push((op.index, snapshot));
    }
    judge(history, &mut counters, &mut verdict);
    incomparable(&snapshots, history, &mut verdict);
    verdict
}

/// In order of their sums, each snapshot must be at least the one before in every key.
pub(super) fn incomparable(snapshots: &[Snapshot], history: &History, verdict: &mut Verdict) {
    let mut groups: BTreeMap<Vec<&Value>, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        groups.entry(snapshot.1.keys().collect()).or_default().push(snapshot);
    }
    for group in groups.values_mut() {
        group.sort_by_key(|(_, values)| values.values().sum::<i64>());
        for pair in group.windows(2) {
            let ((one, before), (other, after)) = (pair[0], pair[1]);
            if before.iter().any(|(key, value)| after[key] < *value) {
                let about = format!("\n{}\n{}", history.ops()[*one], history.ops()[*other]);
                verdict.anomaly("incomparable-snapshots", about, vec![*one, *other]);
            }
        }
    }
}
