//! Transactions that append to lists and read them.
//!
//! A list shows the whole order of its versions: the longest one read of a key is that order, and each other read must be
//! a beginning of it. An append that was acknowledged and is in no read came after all that were read.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Graph, Order, Scope};
use super::{Step, Txns, Updates};
use crate::checker::Verdict;
use crate::history::{History, Kind, Value};

/// Checks a history of `[:append k v]` and `[:r k [v …]]`.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("list-append");
    let txns = Txns::of(history, &mut verdict);
    // By key: who read what, without the reader's own appends.
    let mut reads: BTreeMap<Value, Vec<(usize, Vec<Value>)>> = BTreeMap::new();
    let mut updates = Updates::default();
    for (n, txn) in txns.committed() {
        for (key, list) in external_reads(&txns, n, &mut verdict) {
            if txn.steps.iter().any(|step| matches!(step, Step::Append(k, _) if *k == key)) {
                updates.add(&key, &Value::Vector(list.clone()), n);
            }
            reads.entry(key).or_default().push((n, list));
        }
    }
    updates.report(&txns, &mut verdict);
    let mut graph = Graph::new();
    let nothing = Vec::new();
    let mut keys: BTreeSet<Value> = reads.keys().cloned().collect();
    keys.extend(txns.writers.keys().map(|(key, _)| key.clone()));
    let unseen = unseen_appends(&txns, &reads);
    for key in keys {
        let readers = reads.get(&key).unwrap_or(&nothing);
        let Some(order) = version_order(&txns, &key, readers, &mut verdict) else { continue };
        add_edges(&mut graph, &txns, &key, &order, readers, unseen.get(&key).unwrap_or(&Vec::new()));
    }
    graph.add_time(&txns);
    graph.report(&txns, &mut verdict);
    verdict
}

/// What a transaction saw of others, by key; contradictions within it are reported.
fn external_reads(txns: &Txns, n: usize, verdict: &mut Verdict) -> Vec<(Value, Vec<Value>)> {
    let mut seen: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    let mut own: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for step in &txns.all[n].steps {
        match step {
            Step::Append(key, value) => own.entry(key.clone()).or_default().push(value.clone()),
            Step::Read(key, value) => {
                // Nothing was ever appended: some clients read nil.
                let list = value.as_slice().unwrap_or_default();
                let mine = own.get(key).map(Vec::as_slice).unwrap_or_default();
                let before = list.strip_suffix(mine);
                if before.is_none() || seen.get(key).is_some_and(|seen| before != Some(seen.as_slice())) {
                    let about = format!("{}\ncontradicts itself about {key}", txns.show(n));
                    verdict.anomaly("internal", about, vec![txns.all[n].invoke]);
                }
                if let Some(before) = before {
                    seen.entry(key.clone()).or_insert_with(|| before.to_vec());
                }
            }
            Step::Write(..) => {}
        }
    }
    seen.into_iter().collect()
}

/// Appends that were acknowledged and never read, by key.
fn unseen_appends(
    txns: &Txns,
    reads: &BTreeMap<Value, Vec<(usize, Vec<Value>)>>,
) -> BTreeMap<Value, Vec<(usize, Value)>> {
    let seen: BTreeSet<(&Value, &Value)> = reads
        .iter()
        .flat_map(|(k, r)| r.iter().flat_map(move |(_, list)| list.iter().map(move |v| (k, v))))
        .collect();
    let mut unseen: BTreeMap<Value, Vec<(usize, Value)>> = BTreeMap::new();
    for (n, txn) in txns.committed() {
        for step in &txn.steps {
            if let Step::Append(key, value) = step
                && !seen.contains(&(key, value))
            {
                unseen.entry(key.clone()).or_default().push((n, value.clone()));
            }
        }
    }
    unseen
}

/// The order of a key's versions; none if the reads contradict each other.
fn version_order(
    txns: &Txns,
    key: &Value,
    reads: &[(usize, Vec<Value>)],
    verdict: &mut Verdict,
) -> Option<Vec<Value>> {
    let Some((longest_reader, longest)) = reads.iter().max_by_key(|(_, list)| list.len()) else {
        return Some(Vec::new());
    };
    let mut consistent = true;
    let mut checked: BTreeSet<&Value> = BTreeSet::new();
    for (reader, list) in reads {
        let distinct: BTreeSet<&Value> = list.iter().collect();
        if distinct.len() < list.len() {
            let about = format!("{}\nread an element of {key} twice", txns.show(*reader));
            verdict.anomaly("duplicate-elements", about, vec![txns.all[*reader].invoke]);
            consistent = false;
        }
        if !longest.starts_with(list) {
            let about = format!("of {key}:\n{}\n{}", txns.show(*reader), txns.show(*longest_reader));
            let ops = vec![txns.all[*reader].invoke, txns.all[*longest_reader].invoke];
            verdict.anomaly("incompatible-order", about, ops);
            consistent = false;
        }
        for (place, value) in list.iter().enumerate() {
            // An intermediate value is one only at the end; the others are checked once.
            let last = place + 1 == list.len();
            let intermediate = matches!(txns.writers.get(&(key.clone(), value.clone())), Some((_, false)));
            if (!intermediate && checked.insert(value)) || (intermediate && last) {
                txns.check_read(verdict, *reader, key, value);
            }
        }
    }
    let known = longest.iter().all(|value| {
        let writer = txns.writers.get(&(key.clone(), value.clone()));
        writer.is_some_and(|(n, _)| txns.all[*n].outcome != Kind::Fail)
    });
    (consistent && known).then(|| longest.clone())
}

fn add_edges(
    graph: &mut Graph,
    txns: &Txns,
    key: &Value,
    order: &[Value],
    reads: &[(usize, Vec<Value>)],
    unseen: &[(usize, Value)],
) {
    let writer = |value: &Value| txns.writers[&(key.clone(), value.clone())].0;
    for pair in order.windows(2) {
        graph.add((Order::Ww, Scope::Data), (writer(&pair[0]), writer(&pair[1])), key, &pair[0], &pair[1]);
    }
    for (txn, value) in unseen {
        if let Some(last) = order.last() {
            graph.add((Order::Ww, Scope::Data), (writer(last), *txn), key, last, value);
        }
    }
    for (reader, list) in reads {
        let from = list.last().cloned().unwrap_or_default();
        if let Some(last) = list.last() {
            graph.add((Order::Wr, Scope::Data), (writer(last), *reader), key, last, last);
        }
        match order.get(list.len()) {
            Some(next) => graph.add((Order::Rw, Scope::Data), (*reader, writer(next)), key, &from, next),
            None => {
                for (txn, value) in unseen {
                    graph.add((Order::Rw, Scope::Data), (*reader, *txn), key, &from, value);
                }
            }
        }
    }
}
