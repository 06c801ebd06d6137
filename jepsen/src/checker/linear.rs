//! Linearizability of registers and locks, key by key.
//!
//! Calls are `read`, `write` and `cas` with values `[key value]`, `[key value]` and `[key [old new]]`, or `acquire` and `release`
//! with `[key holder]`, which are compare-and-sets between `nil` and the holder. A register begins as `nil`. What is left after the run is
//! looked at by `read`s like any other; older histories have a `final-read` of `[[key value] …]` instead.
//!
//! The search is Lowe's just-in-time linearization ("Testing for linearizability", 2017), a form of Wing and Gong's: it goes
//! through the history once and keeps the set of *configurations* that explain it so far. A configuration is the state and
//! which of the calls under way have already taken effect. Calls are made to take effect only when one of them must,
//! because it returns. The history is linearizable if a configuration is left at the end.
//!
//! What keeps the set small:
//! - equal configurations are merged (the memo);
//! - a read that fits the state takes effect at once: sooner never hurts;
//! - calls of unknown outcome stay under way for ever. Of two configurations that differ only in them, the one that has used
//!   fewer can do whatever the other can, so the other is dropped; of two equal such calls, the earlier is used first;
//! - unknown reads don't matter.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Verdict;
use crate::history::{FINAL_READ, History, Kind, Value};

/// More configurations at a time than this, and the answer is *unknown*.
const CONFIGURATIONS_MAX: usize = 300_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    Read(Value),
    Write(Value),
    Cas(Value, Value),
}

impl Input {
    /// The state after it, if it may take effect in this one.
    fn step(&self, state: &Value) -> Option<Value> {
        match self {
            Input::Read(value) => (value == state).then(|| state.clone()),
            Input::Write(value) => Some(value.clone()),
            Input::Cas(old, new) => (old == state).then(|| new.clone()),
        }
    }
}

#[derive(Clone, Debug)]
struct Call {
    /// Index of the invocation in the history.
    invoke: usize,
    /// … and of the return; none if unknown.
    end: Option<usize>,
    input: Input,
}

/// Checks all keys.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("linear");
    let mut keys: BTreeMap<Value, Vec<Call>> = BTreeMap::new();
    for call in history.calls() {
        let outcome = call.outcome();
        if outcome == Kind::Fail {
            continue;
        }
        if call.invoke.f == FINAL_READ {
            let Some(op) = call.ok() else { continue };
            for (key, value) in op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_pair) {
                let (invoke, input) = (call.invoke.index, Input::Read(value.clone()));
                keys.entry(key.clone()).or_default().push(Call { invoke, end: Some(op.index), input });
            }
            continue;
        }
        let Some((key, value)) = call.value().as_pair() else { continue };
        let input = match call.invoke.f.as_str() {
            // What it would have read is unknown.
            "read" if outcome == Kind::Info => continue,
            "read" => Input::Read(value.clone()),
            "write" => Input::Write(value.clone()),
            "cas" => match value.as_pair() {
                Some((old, new)) => Input::Cas(old.clone(), new.clone()),
                None => continue,
            },
            "acquire" => Input::Cas(Value::Nil, value.clone()),
            "release" => Input::Cas(value.clone(), Value::Nil),
            _ => continue,
        };
        let end = call.ok().map(|op| op.index);
        keys.entry(key.clone()).or_default().push(Call { invoke: call.invoke.index, end, input });
    }
    let calls: usize = keys.values().map(Vec::len).sum();
    verdict.note(format!("{calls} calls on {} keys", keys.len()));
    if calls == 0 {
        verdict.unknown("no key was ever asked for");
    }
    for (key, calls) in &keys {
        match search(calls) {
            Outcome::Linearizable => {}
            Outcome::Stuck { call, states, under_way } => {
                let mut about = format!("key {key}: nothing explains\n{}", history.ops()[end(&calls[call])]);
                about += &format!("\nbefore it, the key can only have been {}", list(&states));
                for other in under_way.iter().filter(|other| **other != call).take(10) {
                    about += &format!("\nunder way: {}", history.ops()[calls[*other].invoke]);
                }
                let ops = vec![calls[call].invoke, end(&calls[call])];
                verdict.anomaly("not-linearizable", about, ops);
            }
            Outcome::TooMany => {
                verdict.unknown(format!("key {key}: more than {CONFIGURATIONS_MAX} configurations"));
            }
        }
    }
    verdict
}

fn end(call: &Call) -> usize {
    call.end.unwrap_or(call.invoke)
}

fn list(states: &BTreeSet<Value>) -> String {
    states.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ")
}

enum Outcome {
    Linearizable,
    Stuck { call: usize, states: BTreeSet<Value>, under_way: Vec<usize> },
    TooMany,
}

/// A state, and which of the calls under way that will return have taken effect (sorted).
type Known = (Value, Vec<usize>);
/// Which calls of unknown outcome have been used (sorted).
type Used = Vec<usize>;

/// Configurations, of which none could do whatever another can.
#[derive(Default)]
struct Configurations {
    sets: HashMap<Known, Vec<Used>>,
    count: usize,
}

impl Configurations {
    /// Whether it was new.
    fn insert(&mut self, known: Known, used: Used) -> bool {
        let minimal = self.sets.entry(known).or_default();
        if minimal.iter().any(|other| is_subset(other, &used)) {
            return false;
        }
        self.count -= minimal.len();
        minimal.retain(|other| !is_subset(&used, other));
        minimal.push(used);
        self.count += minimal.len();
        true
    }

    fn into_iter(self) -> impl Iterator<Item = (Known, Used)> {
        self.sets
            .into_iter()
            .flat_map(|(known, sets)| sets.into_iter().map(move |used| (known.clone(), used)))
    }
}

fn is_subset(a: &[usize], b: &[usize]) -> bool {
    a.iter().all(|x| b.binary_search(x).is_ok())
}

fn with(set: &[usize], call: usize) -> Vec<usize> {
    let mut set = set.to_vec();
    if let Err(at) = set.binary_search(&call) {
        set.insert(at, call);
    }
    set
}

fn search(calls: &[Call]) -> Outcome {
    // Begins and returns, in order.
    let mut events: Vec<(usize, usize, bool)> = Vec::new();
    for (n, call) in calls.iter().enumerate() {
        events.push((call.invoke, n, true));
        events.extend(call.end.map(|end| (end, n, false)));
    }
    events.sort_unstable();
    let mut configurations = Configurations::default();
    configurations.insert((Value::Nil, Vec::new()), Vec::new());
    // Calls under way that will return, and calls of unknown outcome.
    let (mut live, mut crashed): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for (_, call, begins) in events {
        if begins {
            if calls[call].end.is_some() {
                live.push(call)
            } else {
                crashed.push(call)
            }
            continue;
        }
        let states = || {
            let mut states = BTreeSet::new();
            states.extend(configurations.sets.keys().map(|(state, _)| state.clone()));
            states
        };
        let before = states();
        let Some(after) = advance(calls, configurations, call, &live, &crashed) else {
            return Outcome::TooMany;
        };
        if after.count == 0 {
            let under_way = live.iter().chain(&crashed).copied().collect();
            return Outcome::Stuck { call, states: before, under_way };
        }
        configurations = after;
        live.retain(|other| *other != call);
    }
    Outcome::Linearizable
}

/// All configurations in which `returning` has taken effect; it is no longer among the calls under way in them.
fn advance(
    calls: &[Call],
    from: Configurations,
    returning: usize,
    live: &[usize],
    crashed: &[usize],
) -> Option<Configurations> {
    let mut seen = Configurations::default();
    let mut done = Configurations::default();
    let mut todo = Vec::new();
    for ((state, effective), used) in from.into_iter() {
        let known = (state.clone(), reads(calls, live, &state, effective));
        if seen.insert(known.clone(), used.clone()) {
            todo.push((known, used));
        }
    }
    while let Some(((state, effective), used)) = todo.pop() {
        if effective.binary_search(&returning).is_ok() {
            let rest = effective.into_iter().filter(|call| *call != returning).collect();
            done.insert((state, rest), used);
            continue;
        }
        let mut step = |call: usize, effective: Vec<usize>, used: Used| {
            let Some(next) = calls[call].input.step(&state) else { return };
            let effective = reads(calls, live, &next, effective);
            if seen.insert((next.clone(), effective.clone()), used.clone()) {
                todo.push(((next, effective), used));
            }
        };
        for call in live.iter().copied().filter(|call| effective.binary_search(call).is_err()) {
            step(call, with(&effective, call), used.clone());
        }
        for (n, call) in crashed.iter().copied().enumerate() {
            let free = |call: &usize| used.binary_search(call).is_err();
            let twin_first =
                crashed[..n].iter().any(|twin| free(twin) && calls[*twin].input == calls[call].input);
            // One that changes nothing needn't be used.
            let idle = calls[call].input.step(&state).is_none_or(|next| next == state);
            if free(&call) && !twin_first && !idle {
                step(call, effective.clone(), with(&used, call));
            }
        }
        if seen.count > CONFIGURATIONS_MAX {
            return None;
        }
    }
    Some(done)
}

/// Lets all reads under way that fit the state take effect.
fn reads(calls: &[Call], live: &[usize], state: &Value, mut effective: Vec<usize>) -> Vec<usize> {
    for call in live {
        if matches!(&calls[*call].input, Input::Read(value) if value == state) {
            effective = with(&effective, *call);
        }
    }
    effective
}
