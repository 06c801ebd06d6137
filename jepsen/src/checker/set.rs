//! A set that only grows: what was acknowledged is there for good.
//!
//! Reads `:add element` and `:read [elements]`, and in the end `:final-read [elements]` from each node. A `:remove element` makes the
//! element's presence unknown from then on.
//!
//! | anomaly | what |
//! |---|---|
//! | `lost` | an element that was acknowledged, or seen, before a read began is missing in it and in all later ones |
//! | `stale-read` | … and a later read has it again |
//! | `unexpected` | an element that nobody added, or whose addition failed |
//! | `duplicated` | an element is there twice |
//! | `nodes-differ` | the last reads of the nodes are not the same |

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Verdict;
use crate::history::{History, Kind, Value};

#[derive(Default)]
struct Element {
    /// The place in the history from which it must be there.
    known: Option<usize>,
    added: bool,
    failed: bool,
    /// The last read that has it.
    last_seen: Option<usize>,
}

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("set");
    let mut elements: HashMap<Value, Element> = HashMap::new();
    for call in history.calls_of("add") {
        let element = elements.entry(call.invoke.value.clone()).or_default();
        match call.outcome() {
            Kind::Fail => element.failed = true,
            _ => element.added = true,
        }
        if let Some(op) = call.ok() {
            element.known = Some(element.known.map_or(op.index, |at| at.min(op.index)));
        }
    }
    let removed: HashSet<&Value> = history.calls_of("remove").map(|call| &call.invoke.value).collect();
    let mut reads: Vec<(usize, usize, &[Value])> = Vec::new();
    for call in history.calls().filter(|call| matches!(call.invoke.f.as_str(), "read" | "final-read")) {
        let Some(op) = call.ok() else { continue };
        let seen = op.value.as_slice().unwrap_or_default();
        let mut once = HashSet::new();
        for value in seen {
            let element = elements.entry(value.clone()).or_default();
            if !once.insert(value) {
                verdict.anomaly(
                    "duplicated",
                    format!("{value} is twice in operation {}", op.index),
                    vec![op.index],
                );
            }
            if !element.added && element.last_seen.is_none() {
                let why = if element.failed { "whose addition failed" } else { "which nobody added" };
                verdict.anomaly(
                    "unexpected",
                    format!("operation {} has {value}, {why}", op.index),
                    vec![op.index],
                );
            }
            element.known = Some(element.known.map_or(op.index, |at| at.min(op.index)));
            element.last_seen =
                Some(element.last_seen.map_or(call.invoke.index, |at| at.max(call.invoke.index)));
        }
        reads.push((call.invoke.index, op.index, seen));
    }
    let count = |kind| history.calls_of("add").filter(|call| call.outcome() == kind).count();
    verdict.note(format!(
        "{} reads; {} additions acknowledged, {} failed, {} unknown",
        reads.len(),
        count(Kind::Ok),
        count(Kind::Fail),
        count(Kind::Info)
    ));
    if reads.is_empty() {
        verdict.unknown("the set was never read");
    }
    let mut missing: BTreeMap<&Value, (usize, usize)> = BTreeMap::new();
    for (asked, answered, seen) in &reads {
        let seen: HashSet<&Value> = seen.iter().collect();
        for (value, element) in &elements {
            let must = element.known.is_some_and(|known| known < *asked) && !removed.contains(value);
            if must && !seen.contains(value) {
                missing.entry(value).or_insert((*asked, *answered));
            }
        }
    }
    for (value, (asked, answered)) in missing {
        let element = &elements[value];
        let name = if element.last_seen.is_some_and(|at| at > answered) { "stale-read" } else { "lost" };
        let known = element.known.unwrap_or_default();
        let about = format!("{value} was known with operation {known}, and is not in operation {answered}");
        verdict.anomaly(name, about, vec![known, asked]);
    }
    check_nodes(history, &mut verdict);
    verdict
}

/// After the end nothing changes: all nodes must answer alike.
fn check_nodes(history: &History, verdict: &mut Verdict) {
    let mut first: Option<(usize, BTreeSet<&Value>)> = None;
    for op in history.calls_of("final-read").filter_map(|call| call.ok()) {
        let seen: BTreeSet<&Value> = op.value.as_slice().unwrap_or_default().iter().collect();
        match &first {
            None => first = Some((op.index, seen)),
            Some((other, expected)) if *expected != seen => {
                let differ: Vec<String> =
                    expected.symmetric_difference(&seen).take(10).map(|v| v.to_string()).collect();
                let about = format!("operations {other} and {} differ in {}", op.index, differ.join(", "));
                verdict.anomaly("nodes-differ", about, vec![*other, op.index]);
            }
            Some(_) => {}
        }
    }
}
