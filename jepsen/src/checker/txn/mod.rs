//! Transactional anomalies as cycles of dependencies, after Adya ("Weak consistency", 1999) and Elle (Kingsbury and Alvaro,
//! "Elle: inferring isolation anomalies from experimental observations", 2020).
//!
//! A call is `:f :txn` with a value of micro-operations: `[:append k v]`, `[:w k v]`, `[:r k result]`. Values that are written to
//! one key are all different. From what was read, the order of a key's versions is inferred ([`append`], [`register`]), from it the
//! dependencies between transactions, and [`graph`] looks for cycles in them.
//!
//! | name | what |
//! |---|---|
//! | `internal` | a transaction contradicts its own writes or earlier reads |
//! | `garbage-read` | something was read that nobody wrote |
//! | `G1a` | something was read that was rolled back |
//! | `G1b` | an intermediate value of another transaction was read |
//! | `duplicate-elements`, `incompatible-order` | no order of versions explains the reads of one key |
//! | `lost-update` | two transactions read the same version of a key and both wrote it |
//! | `G0` | a cycle of overwrites |
//! | `G1c` | … of overwrites and reads-from |
//! | `G-single` | … with exactly one read of what was overwritten later |
//! | `G2-item` | … with several |
//! | `…-process`, `…-realtime` | … that needs the order of a process, or of real time, to close |

pub mod append;
pub mod graph;
pub mod register;

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use crate::history::{History, Kind, Process, Value};

/// A micro-operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Appends to a list.
    Append(Value, Value),
    /// Writes a register.
    Write(Value, Value),
    /// Reads either.
    Read(Value, Value),
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Txn {
    /// Index of its invocation.
    pub invoke: usize,
    /// … and of its completion, if it is known to have happened.
    pub complete: Option<usize>,
    /// How it ended.
    pub outcome: Kind,
    /// Who.
    pub process: Process,
    /// What it did; what it read is known only if it happened.
    pub steps: Vec<Step>,
}

/// The transactions of a history, and who wrote what.
pub(crate) struct Txns {
    pub(crate) all: Vec<Txn>,
    /// By key and value: who wrote it, and whether that was its last write to the key.
    pub(crate) writers: HashMap<(Value, Value), (usize, bool)>,
}

impl Txns {
    pub(crate) fn of(history: &History, verdict: &mut Verdict) -> Self {
        let mut all = Vec::new();
        for call in history.calls_of("txn") {
            let steps = call.value().as_slice().unwrap_or_default().iter().filter_map(step).collect();
            all.push(Txn {
                invoke: call.invoke.index,
                complete: call.ok().map(|op| op.index),
                outcome: call.outcome(),
                process: call.invoke.process,
                steps,
            });
        }
        let count = |kind| all.iter().filter(|t: &&Txn| t.outcome == kind).count();
        verdict.note(format!(
            "{} transactions committed, {} failed, {} unknown",
            count(Kind::Ok),
            count(Kind::Fail),
            count(Kind::Info)
        ));
        if count(Kind::Ok) == 0 {
            verdict.unknown("no transaction was committed");
        }
        let mut writers = HashMap::new();
        for (n, txn) in all.iter().enumerate() {
            let mut last: BTreeMap<&Value, &Value> = BTreeMap::new();
            for step in &txn.steps {
                if let Step::Append(key, value) | Step::Write(key, value) = step {
                    if let Some(before) = last.insert(key, value) {
                        writers.insert((key.clone(), before.clone()), (n, false));
                    }
                    if let Some((other, _)) = writers.insert((key.clone(), value.clone()), (n, true)) {
                        verdict.unknown(format!(
                            "{value} is written to {key} twice, by #{} and #{}: values must differ",
                            all[other].invoke, txn.invoke
                        ));
                    }
                }
            }
        }
        Self { all, writers }
    }

    /// Those that are known to have happened.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (usize, &Txn)> {
        self.all.iter().enumerate().filter(|(_, txn)| txn.outcome == Kind::Ok)
    }

    /// Holds a value that was read against its writer.
    pub(crate) fn check_read(&self, verdict: &mut Verdict, reader: usize, key: &Value, value: &Value) {
        let ops = |writer: usize| {
            let reader = &self.all[reader];
            vec![self.all[writer].invoke, reader.complete.unwrap_or(reader.invoke)]
        };
        match self.writers.get(&(key.clone(), value.clone())) {
            None => verdict.anomaly(
                "garbage-read",
                format!("{}\nread {value} of {key}, which nobody wrote", self.show(reader)),
                vec![self.all[reader].invoke],
            ),
            Some((writer, _)) if self.all[*writer].outcome == Kind::Fail => verdict.anomaly(
                "G1a",
                format!("{}\nread what was rolled back in\n{}", self.show(reader), self.show(*writer)),
                ops(*writer),
            ),
            Some((writer, false)) if *writer != reader => verdict.anomaly(
                "G1b",
                format!("{}\nread an intermediate value of\n{}", self.show(reader), self.show(*writer)),
                ops(*writer),
            ),
            Some(_) => {}
        }
    }

    /// A transaction in a line.
    pub(crate) fn show(&self, n: usize) -> String {
        let txn = &self.all[n];
        let steps: Vec<String> = txn
            .steps
            .iter()
            .map(|step| match step {
                Step::Append(k, v) => format!("[:append {k} {v}]"),
                Step::Write(k, v) => format!("[:w {k} {v}]"),
                Step::Read(k, v) => format!("[:r {k} {v}]"),
            })
            .collect();
        let end = txn.complete.map_or_else(|| "?".to_owned(), |end| format!("#{end}"));
        format!("#{}–{end} process {} [{}]", txn.invoke, txn.process, steps.join(" "))
    }
}

fn step(value: &Value) -> Option<Step> {
    let [f, key, value] = value.as_slice()? else { return None };
    match f.as_name()? {
        "append" => Some(Step::Append(key.clone(), value.clone())),
        "w" => Some(Step::Write(key.clone(), value.clone())),
        "r" => Some(Step::Read(key.clone(), value.clone())),
        _ => None,
    }
}

/// Transactions that wrote a key after reading the same version of it.
#[derive(Default)]
pub(crate) struct Updates(BTreeMap<(Value, Value), Vec<usize>>);

impl Updates {
    pub(crate) fn add(&mut self, key: &Value, version: &Value, txn: usize) {
        self.0.entry((key.clone(), version.clone())).or_default().push(txn);
    }

    pub(crate) fn report(&self, txns: &Txns, verdict: &mut Verdict) {
        for ((key, version), writers) in self.0.iter().filter(|(_, writers)| writers.len() > 1) {
            let shown: Vec<String> = writers.iter().take(5).map(|n| txns.show(*n)).collect();
            verdict.anomaly(
                "lost-update",
                format!(
                    "{} transactions read {version} of {key} and wrote it:\n{}",
                    writers.len(),
                    shown.join("\n")
                ),
                writers.iter().map(|n| txns.all[*n].invoke).collect(),
            );
        }
    }
}
