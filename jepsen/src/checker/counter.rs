//! Counters: increments are neither lost nor made up.
//!
//! Reads `:inc [key nil]`, answered with `[key value-after]`, `:read [key value]` and `:final-read [[key value] …]`. Counters begin at 0.
//!
//! | anomaly | what |
//! |---|---|
//! | `lost-update` | two increments were answered with the same value |
//! | `stale-read` | a call saw less than one that had ended before it began |
//! | `lost` | a call saw less than the increments acknowledged before it began |
//! | `unexpected` | a call saw more than the increments begun before it ended |

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Call, FINAL_READ, History, Kind, Value};

/// What one call saw of one counter.
pub(super) struct Sight {
    pub(super) span: (usize, usize),
    pub(super) value: i64,
    pub(super) is_increment: bool,
}

/// Of one counter.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) sights: Vec<Sight>,
    /// When increments that were acknowledged ended.
    acknowledged: Vec<usize>,
    /// When increments that may have happened began.
    begun: Vec<usize>,
}

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("counter");
    let mut counters = increments(history);
    let mut see = |call: &Call<'_>, key: &Value, value: &Value| {
        if let (Some(op), Some(value)) = (call.ok(), value.as_int()) {
            let span = (call.invoke.index, op.index);
            counters.entry(key.clone()).or_default().sights.push(Sight { span, value, is_increment: false });
        }
    };
    for call in history.calls_of("read") {
        call.value().as_pair().into_iter().for_each(|(key, value)| see(&call, key, value));
    }
    for call in history.calls_of(FINAL_READ) {
        let pairs = call.value().as_slice().unwrap_or_default().iter().filter_map(Value::as_pair);
        pairs.for_each(|(key, value)| see(&call, key, value));
    }
    judge(history, &mut counters, &mut verdict);
    verdict
}

/// The increments, by counter.
pub(super) fn increments(history: &History) -> BTreeMap<Value, Facts> {
    let mut counters: BTreeMap<Value, Facts> = BTreeMap::new();
    for call in history.calls_of("inc").filter(|call| call.outcome() != Kind::Fail) {
        let Some((key, value)) = call.value().as_pair() else { continue };
        let facts = counters.entry(key.clone()).or_default();
        facts.begun.push(call.invoke.index);
        let Some(op) = call.ok() else { continue };
        facts.acknowledged.push(op.index);
        if let Some(value) = value.as_int() {
            let span = (call.invoke.index, op.index);
            facts.sights.push(Sight { span, value, is_increment: true });
        }
    }
    counters
}

/// Holds each counter's sights against its increments.
pub(super) fn judge(history: &History, counters: &mut BTreeMap<Value, Facts>, verdict: &mut Verdict) {
    let (acknowledged, sights) = counters
        .values()
        .fold((0, 0), |(a, s), facts| (a + facts.acknowledged.len(), s + facts.sights.len()));
    verdict.note(format!(
        "{} counters, {acknowledged} increments acknowledged, {sights} answers",
        counters.len()
    ));
    if sights == 0 {
        verdict.unknown("no counter was ever seen");
    }
    let mut report = |name: &str, key: &Value, ops: Vec<usize>| {
        let shown: Vec<String> = ops.iter().map(|index| history.ops()[*index].to_string()).collect();
        verdict.anomaly(name, format!("of {key}:\n{}", shown.join("\n")), ops);
    };
    for (key, facts) in counters {
        facts.acknowledged.sort_unstable();
        facts.begun.sort_unstable();
        let mut answered: BTreeMap<i64, usize> = BTreeMap::new();
        for sight in &facts.sights {
            if sight.is_increment
                && let Some(other) = answered.insert(sight.value, sight.span.1)
            {
                report("lost-update", key, vec![other, sight.span.1]);
            }
            // An increment counts itself.
            let own = i64::from(sight.is_increment);
            let at_least = facts.acknowledged.partition_point(|at| *at < sight.span.0) as i64 + own;
            let at_most = facts.begun.partition_point(|at| *at < sight.span.1) as i64;
            if sight.value < at_least {
                report("lost", key, vec![sight.span.1]);
            }
            if sight.value > at_most {
                report("unexpected", key, vec![sight.span.1]);
            }
        }
        let mut by_end: Vec<&Sight> = facts.sights.iter().collect();
        by_end.sort_by_key(|sight| sight.span.1);
        let mut by_start: Vec<&Sight> = facts.sights.iter().collect();
        by_start.sort_by_key(|sight| sight.span.0);
        let mut ended = by_end.into_iter().peekable();
        let mut newest: Option<&Sight> = None;
        for sight in by_start {
            while let Some(earlier) = ended.next_if(|earlier| earlier.span.1 < sight.span.0) {
                if newest.is_none_or(|n| n.value < earlier.value) {
                    newest = Some(earlier);
                }
            }
            if let Some(earlier) = newest.filter(|earlier| earlier.value > sight.value) {
                report("stale-read", key, vec![earlier.span.1, sight.span.1]);
            }
        }
    }
}
