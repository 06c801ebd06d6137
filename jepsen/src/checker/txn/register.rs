//! Transactions that write registers and read them.
//!
//! A register shows only its last version, so the order of versions is pieced together: `nil` is the first; who reads a version and
//! writes the key wrote a later one; and, for strict serializability only, a write that was acknowledged before another began
//! wrote an earlier one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::graph::{Graph, Order, Scope, real_time};
use super::{Step, Txns, Updates};
use crate::checker::Verdict;
use crate::history::{History, Kind, Value};

/// Of a key: writes and reads that count.
#[derive(Default)]
struct Key {
    /// Last writes, by transaction.
    writes: BTreeMap<usize, Value>,
    /// Who read which version of another.
    readers: BTreeMap<Value, Vec<usize>>,
    /// Version and the one written by who read it.
    follows: BTreeSet<(Value, Value)>,
}

/// Checks a history of `[:w k v]` and `[:r k v]`.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("rw-register");
    let txns = Txns::of(history, &mut verdict);
    let mut keys: BTreeMap<Value, Key> = BTreeMap::new();
    let mut updates = Updates::default();
    let mut seen: BTreeSet<(Value, Value)> = BTreeSet::new();
    for (n, _) in txns.committed() {
        let writes = last_writes(&txns, n);
        for (key, version) in external_reads(&txns, n, &mut verdict) {
            if version != Value::Nil {
                txns.check_read(&mut verdict, n, &key, &version);
                seen.insert((key.clone(), version.clone()));
            }
            let entry = keys.entry(key.clone()).or_default();
            if let Some(written) = writes.get(&key) {
                updates.add(&key, &version, n);
                entry.follows.insert((version.clone(), written.clone()));
            }
            entry.readers.entry(version).or_default().push(n);
        }
        for (key, written) in writes {
            keys.entry(key).or_default().writes.insert(n, written);
        }
    }
    // What was read has happened, whatever its client was told.
    for (n, _) in txns.all.iter().enumerate().filter(|(_, txn)| txn.outcome == Kind::Info) {
        let writes = last_writes(&txns, n);
        if writes.iter().any(|(k, v)| seen.contains(&(k.clone(), v.clone()))) {
            for (key, written) in writes {
                keys.entry(key).or_default().writes.insert(n, written);
            }
        }
    }
    updates.report(&txns, &mut verdict);
    let mut graph = Graph::new();
    for (key, facts) in &keys {
        add_edges(&mut graph, &txns, key, facts);
    }
    graph.add_time(&txns);
    graph.report(&txns, &mut verdict);
    verdict
}

fn last_writes(txns: &Txns, n: usize) -> BTreeMap<Value, Value> {
    let steps = txns.all[n].steps.iter();
    steps
        .filter_map(|step| match step {
            Step::Write(key, value) => Some((key.clone(), value.clone())),
            _ => None,
        })
        .collect()
}

/// What a transaction read before it wrote, by key; contradictions within it are reported.
fn external_reads(txns: &Txns, n: usize, verdict: &mut Verdict) -> BTreeMap<Value, Value> {
    let mut external = BTreeMap::new();
    let mut current: BTreeMap<&Value, &Value> = BTreeMap::new();
    for step in &txns.all[n].steps {
        match step {
            Step::Write(key, value) => {
                current.insert(key, value);
            }
            Step::Read(key, value) => match current.insert(key, value) {
                None => {
                    external.insert(key.clone(), value.clone());
                }
                Some(expected) if expected != value => {
                    let about = format!("{}\nread {value} of {key}, not {expected}", txns.show(n));
                    verdict.anomaly("internal", about, vec![txns.all[n].invoke]);
                }
                Some(_) => {}
            },
            Step::Append(..) => {}
        }
    }
    external
}

fn add_edges(graph: &mut Graph, txns: &Txns, key: &Value, facts: &Key) {
    let writer: HashMap<&Value, usize> = facts.writes.iter().map(|(n, version)| (version, *n)).collect();
    let mut order: BTreeSet<(Value, Value, bool)> = BTreeSet::new();
    let mut has_earlier: BTreeSet<&Value> = BTreeSet::new();
    for (earlier, later) in &facts.follows {
        order.insert((earlier.clone(), later.clone(), true));
        has_earlier.insert(later);
    }
    // What follows another version follows nil by way of it.
    for version in facts.writes.values().filter(|version| !has_earlier.contains(version)) {
        order.insert((Value::Nil, version.clone(), true));
    }
    let spans = facts.writes.keys().map(|n| (*n, txns.all[*n].invoke, txns.all[*n].complete));
    for (a, b) in real_time(spans) {
        order.insert((facts.writes[&a].clone(), facts.writes[&b].clone(), false));
    }
    for (earlier, later, data) in &order {
        let scope = if *data { Scope::Data } else { Scope::RealTime };
        let Some(to) = writer.get(later) else { continue };
        if let Some(from) = writer.get(earlier) {
            graph.add((Order::Ww, scope), (*from, *to), key, earlier, later);
        }
        for reader in facts.readers.get(earlier).into_iter().flatten() {
            graph.add((Order::Rw, scope), (*reader, *to), key, earlier, later);
        }
    }
    for (version, readers) in &facts.readers {
        if let Some(from) = writer.get(version) {
            for reader in readers {
                graph.add((Order::Wr, Scope::Data), (*from, *reader), key, version, version);
            }
        }
    }
}
