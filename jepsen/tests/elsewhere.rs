//! Histories as checkers elsewhere take them: clients make only calls that Knossos' and Elle's models know, since an unknown one is an
//! exception there. What a workload draws is written down without a database, as if every call had happened.

use std::collections::BTreeSet;

use jepsen::history::{Clock, History, Kind, LAST_PROCESS, Process, Recorder, SPLIT_AT};
use jepsen::sim;
use jepsen::workload::{self, Invocation, READ_KEYS};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value as Json;

const CLIENTS: u64 = 6;
const CALLS: u64 = 2_000;

/// Workloads, what clients may call while they work, and after the run.
const KNOWN: &[(&str, &[&str], &[&str])] = &[
    // Knossos' `cas-register`, per key.
    ("register", &["read", "write", "cas"], &["read"]),
    ("one-shard", &["read", "write"], &["read"]),
    // `mutex`, per key: it knows no reads, so that those after the run are to be left out.
    ("lock", &["acquire", "release"], &["read"]),
    // Elle's list-append and rw-register.
    ("list-append", &["txn"], &["txn"]),
    ("split", &["txn"], &["txn"]),
    ("rw-register", &["txn"], &["txn"]),
    ("long-fork", &["txn"], &["txn"]),
];

/// A history of a workload, as it is read back, and its JSON.
fn recorded(name: &str) -> (History, String) {
    let workload = (workload::find(name).expect("a workload").make)();
    let folder = tempfile::tempdir().expect("a folder");
    let recorder = Recorder::create(folder.path(), Clock::start(), usize::MAX).expect("files");
    let record = |call: &Invocation, process: u64| {
        for kind in [Kind::Invoke, Kind::Ok] {
            for (process, kind, f, value) in call.written(process, kind, &call.value) {
                recorder.record(process, kind, f, &value, None);
            }
        }
    };
    let mut rng = StdRng::seed_from_u64(1);
    for n in 0..CALLS {
        record(&workload.next(n % CLIENTS, &mut rng), n % CLIENTS);
    }
    for call in workload.last() {
        record(&call, LAST_PROCESS + 1);
    }
    recorder.finish().expect("whole files");
    let (edn, json) = (folder.path().join("history.edn"), folder.path().join("history.json"));
    let history = History::load(&edn).expect("a history");
    let calls = |history: &History| -> Vec<String> {
        history.calls().map(|call| format!("{} {}", call.invoke.process, call.invoke.f)).collect()
    };
    assert_eq!(calls(&history), calls(&History::load(&json).expect("a history")), "{name}");
    (history, std::fs::read_to_string(&json).expect("a text"))
}

/// Whether a value has the form that a call's models take.
fn fits(f: &str, value: &Json) -> bool {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_step = |step: &Json| {
        let step = step.as_array().map(Vec::as_slice).unwrap_or_default();
        step.len() == 3 && step[0].as_str().is_some_and(|name| ["append", "r", "w"].contains(&name))
    };
    match f {
        "txn" => !items.is_empty() && items.iter().all(is_step),
        // A tuple of `jepsen.independent`: a key, and what one register or lock has.
        "cas" => items.len() == 2 && items[1].as_array().is_some_and(|change| change.len() == 2),
        _ => items.len() == 2 && !items[1].is_array(),
    }
}

#[test]
fn clients_call_only_what_models_elsewhere_know() {
    for (name, working, last) in KNOWN {
        let (history, text) = recorded(name);
        // One document, in which an operation still has a line of its own.
        let document: Vec<Json> = serde_json::from_str(&text).expect("an array");
        assert_eq!(document.len(), history.ops().len(), "{name}");
        assert_eq!(text.lines().count(), document.len() + 2, "{name}");
        let mut seen = BTreeSet::new();
        for op in &document {
            let f = op["f"].as_str().expect("a name");
            let Some(process) = op["process"].as_u64() else {
                assert_eq!(op["process"], "nemesis", "{name}: {op}");
                assert_eq!((f, &op["type"]), (SPLIT_AT, &Json::from("info")), "{name}: {op}");
                seen.insert(f);
                continue;
            };
            let known = if process < LAST_PROCESS { working } else { last };
            assert!(known.contains(&f) && fits(f, &op["value"]), "{name}: {op}");
            seen.insert(f);
        }
        let mut expected: BTreeSet<&str> = working.iter().chain(*last).copied().collect();
        expected.extend((*name == "split").then_some(SPLIT_AT));
        assert_eq!(seen, expected, "{name}");
    }
}

/// What was acknowledged must be there in the end: every key that was ever asked for is read, at once, by itself.
#[test]
fn each_key_is_read_in_the_end() {
    for name in ["register", "one-shard", "lock"] {
        let (history, _) = recorded(name);
        let keys = |last: bool| -> BTreeSet<String> {
            let calls = history.calls().filter(|call| call.is_last() == last);
            calls.filter_map(|call| Some(call.invoke.value.as_pair()?.0.to_string())).collect()
        };
        assert!(keys(true).is_superset(&keys(false)) && !keys(false).is_empty(), "{name}");
        let mut last = history.calls().filter(|call| call.is_last());
        assert!(last.all(|call| call.invoke.f == "read" && call.ok().is_some()), "{name}");
    }
}

/// A read of all keys that failed is as many reads that failed, of the same processes.
#[test]
fn a_look_at_all_keys_is_written_as_reads_whatever_comes_of_it() {
    let workload = (workload::find("lock").expect("a workload").make)();
    let calls = workload.last();
    let [call] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(call.f, READ_KEYS);
    for kind in [Kind::Invoke, Kind::Fail] {
        let written = call.written(7, kind, &call.value);
        let processes: Vec<Process> = written.iter().map(|(process, ..)| *process).collect();
        assert_eq!(processes, (7..11).map(Process::Client).collect::<Vec<_>>());
        assert!(written.iter().all(|(_, of, f, value)| {
            *of == kind
                && *f == "read"
                && value.as_pair().is_some_and(|(_, value)| value.to_string() == "nil")
        }));
    }
}

/// The simulator's clients draw from the same words.
#[test]
fn simulated_clients_call_only_what_models_elsewhere_know() {
    for (name, known) in
        [("register", &["read", "write", "cas"][..]), ("list-append", &["txn", SPLIT_AT][..])]
    {
        let workload = (sim::workload::find(name).expect("a workload").make)();
        let mut rng = StdRng::seed_from_u64(1);
        let drawn: BTreeSet<&str> = (0..CALLS).map(|_| workload.next(&mut rng).f).collect();
        assert_eq!(drawn, known.iter().copied().collect::<BTreeSet<&str>>(), "{name}");
        assert!(workload.last().iter().all(|call| known.contains(&call.f)), "{name}");
    }
}
