//! The linearizability checker against one that tries everything: on many small random histories they must agree.
//!
//! The checker prunes: it merges configurations, lets reads take effect early, and drops what can do less than another. Each of
//! these is an argument; this is the proof by example.

use jepsen::checker::{Validity, find};
use jepsen::history::{Call, History, Kind, Op, Process, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const VALUES: i64 = 3;

/// Calls of a few processes on one key, with answers that are guesses, so that about half of the histories are wrong.
fn random_history(rng: &mut StdRng) -> History {
    let mut ops: Vec<Op> = Vec::new();
    let mut open: Vec<Option<(Process, &str, Value)>> = vec![None; 3];
    let mut processes = 3;
    let mut names: Vec<u64> = (0..3).collect();
    let mut left = rng.random_range(3..9);
    while left > 0 || open.iter().any(Option::is_some) {
        let slot = rng.random_range(0..open.len());
        let record = |process, kind, f: &str, value| Op {
            index: 0,
            process,
            kind,
            f: f.to_owned(),
            value: Value::pair(0, value),
            time: 0,
            error: None,
        };
        match open[slot].take() {
            None if left > 0 => {
                left -= 1;
                let mut value = || Value::Int(rng.random_range(0..VALUES));
                let (a, b) = (value(), value());
                let (f, value) = match rng.random_range(0..6) {
                    0..2 => ("read", Value::Nil),
                    2..5 => ("write", a),
                    _ => ("cas", Value::pair(a, b)),
                };
                let process = Process::Client(names[slot]);
                ops.push(record(process, Kind::Invoke, f, value.clone()));
                open[slot] = Some((process, f, value));
            }
            None => {}
            Some((process, f, value)) => {
                let kind = match rng.random_range(0..10) {
                    0 => Kind::Fail,
                    1..4 => Kind::Info,
                    _ => Kind::Ok,
                };
                let answer = match (f, kind) {
                    ("read", Kind::Ok) => {
                        let guess = rng.random_range(-1..VALUES);
                        if guess < 0 { Value::Nil } else { Value::Int(guess) }
                    }
                    _ => value,
                };
                ops.push(record(process, kind, f, answer));
                if kind == Kind::Info {
                    names[slot] = processes;
                    processes += 1;
                }
            }
        }
    }
    History::new(ops).expect("a well-formed history")
}

/// Whether some order of the calls explains the answers: all orders are tried.
fn explains(calls: &[Call<'_>], taken: &mut Vec<bool>, state: &Value) -> bool {
    // Whoever must come next is someone who began before every other that is left had ended.
    let bound = (0..calls.len()).filter(|n| !taken[*n]).map(|n| calls[n].end()).min();
    let Some(bound) = bound.filter(|end| *end != usize::MAX) else { return true };
    for n in 0..calls.len() {
        if taken[n] || calls[n].invoke.index > bound {
            continue;
        }
        let value = calls[n].value().as_pair().expect("a key and a value").1;
        let next = match (calls[n].invoke.f.as_str(), value.as_pair()) {
            ("read", _) if calls[n].outcome() == Kind::Info || value == state => Some(state.clone()),
            ("write", _) => Some(value.clone()),
            ("cas", Some((old, new))) if old == state => Some(new.clone()),
            _ => None,
        };
        if let Some(next) = next {
            taken[n] = true;
            if explains(calls, taken, &next) {
                return true;
            }
            taken[n] = false;
        }
    }
    false
}

#[test]
fn pruning_changes_no_answer() {
    let checker = find("linear").expect("the checker");
    let mut rng = StdRng::seed_from_u64(1);
    let mut counts = [0, 0];
    for n in 0..20_000 {
        let history = random_history(&mut rng);
        let calls: Vec<Call<'_>> = history.calls().filter(|call| call.outcome() != Kind::Fail).collect();
        let expected = explains(&calls, &mut vec![false; calls.len()], &Value::Nil);
        counts[usize::from(expected)] += 1;
        let verdict = (checker.check)(&history);
        let shown: Vec<String> = history.ops().iter().map(ToString::to_string).collect();
        let shown = format!("{n}: {verdict}\n{}", shown.join("\n"));
        assert_eq!(verdict.validity != Validity::Invalid, expected, "{shown}");
        // Only where nobody was answered is there nothing to say.
        let silent = calls.iter().all(|call| call.outcome() != Kind::Ok);
        assert!(verdict.validity != Validity::Unknown || silent, "{shown}");
    }
    assert!(counts.iter().all(|count| *count > 2_000), "the histories are one-sided: {counts:?}");
}

/// Many calls of unknown outcome at once are what makes a search explode.
#[test]
fn many_unknown_writes_are_checked_in_time() {
    let mut ops = Vec::new();
    let mut record = |process, kind, f: &str, value| {
        let value = Value::pair(0, value);
        let process = Process::Client(process);
        ops.push(Op { index: 0, process, kind, f: f.to_owned(), value, time: 0, error: None });
    };
    for n in 0..60_u64 {
        record(n + 10, Kind::Invoke, "write", Value::Int(n as i64 % 5));
        record(n + 10, Kind::Info, "write", Value::Int(n as i64 % 5));
        for (f, value) in [("write", 100 + n as i64), ("read", 100 + n as i64)] {
            record(1, Kind::Invoke, f, Value::Int(value));
            record(1, Kind::Ok, f, Value::Int(value));
        }
    }
    // Each unknown write explains one such read, and no more of them than there were writes.
    for _ in 0..12 {
        record(2, Kind::Invoke, "read", Value::Nil);
        record(2, Kind::Ok, "read", Value::Int(3));
        record(2, Kind::Invoke, "write", Value::Int(200));
        record(2, Kind::Ok, "write", Value::Int(200));
    }
    let check = find("linear").expect("the checker").check;
    assert_eq!(check(&History::new(ops.clone()).expect("well-formed")).validity, Validity::Valid);
    let last = |kind| Op {
        index: 0,
        process: Process::Client(2),
        kind,
        f: "read".to_owned(),
        value: Value::pair(0, 3),
        time: 0,
        error: None,
    };
    ops.extend([last(Kind::Invoke), last(Kind::Ok)]);
    assert_eq!(check(&History::new(ops).expect("well-formed")).validity, Validity::Invalid);
}
