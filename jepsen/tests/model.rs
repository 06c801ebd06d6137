//! The checkers against a model database of a few lines, in several states of disrepair.
//!
//! A strictly serializable model must never be blamed, whatever the seed; each broken one must be caught, and by the right name. The
//! corpus shows single anomalies; this shows that they are found in a crowd, and that nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use jepsen::checker::{self, Validity, Verdict};
use jepsen::history::{Call, History, Kind, Op, Process, Value};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PROCESSES: u64 = 6;
const KEYS_AT_A_TIME: i64 = 3;
const TRANSACTIONS_PER_KEY: usize = 25;

/// How the model works.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Database {
    /// As it should.
    Strict,
    /// Reads come from the state when the transaction began; the first to write a key wins.
    Snapshot,
    /// Each read comes from some state since the transaction began, and nobody checks.
    ReadCommitted,
    /// Read-only transactions may see a state from before they began.
    StaleReads,
    /// Some commits are acknowledged and forgotten.
    LosesCommits,
    /// Some transactions are said to have failed, and are there.
    LiesAboutFailure,
}

type State = BTreeMap<i64, Vec<i64>>;

#[derive(Clone)]
struct Open {
    process: Process,
    /// Keys to read (`None`) and values to write.
    steps: Vec<(i64, Option<i64>)>,
    began: usize,
}

struct Model {
    database: Database,
    rng: StdRng,
    states: Vec<State>,
    ops: Vec<Op>,
    next_value: i64,
    next_process: u64,
    /// Whether values are lists, or their last elements.
    lists: bool,
}

impl Model {
    fn run(database: Database, seed: u64, transactions: usize, lists: bool) -> History {
        let rng = StdRng::seed_from_u64(seed);
        let states = vec![State::new()];
        let mut model =
            Model { database, rng, states, ops: Vec::new(), next_value: 1, next_process: PROCESSES, lists };
        let mut slots: Vec<Option<Open>> = vec![None; PROCESSES as usize];
        let mut names: Vec<u64> = (0..PROCESSES).collect();
        let mut begun = 0;
        while begun < transactions || slots.iter().any(Option::is_some) {
            let slot = model.rng.random_range(0..slots.len());
            match slots[slot].take() {
                None if begun < transactions => {
                    begun += 1;
                    slots[slot] =
                        Some(model.begin(Process::Client(names[slot]), begun / TRANSACTIONS_PER_KEY));
                }
                None => {}
                Some(open) => {
                    let ended = model.end(open);
                    if ended == Kind::Info {
                        model.next_process += 1;
                        names[slot] = model.next_process;
                    }
                }
            }
        }
        History::new(model.ops).expect("a well-formed history")
    }

    fn begin(&mut self, process: Process, oldest_key: usize) -> Open {
        let mut steps = Vec::new();
        for _ in 0..self.rng.random_range(1..=3) {
            let key = oldest_key as i64 + self.rng.random_range(0..KEYS_AT_A_TIME);
            steps.push((key, None));
            if self.rng.random_bool(0.5) {
                steps.push((key, Some(self.next_value)));
                self.next_value += 1;
            }
        }
        let open = Open { process, steps, began: self.states.len() - 1 };
        let value = self.value(&open, |_, _| None);
        self.record(process, Kind::Invoke, value);
        open
    }

    fn end(&mut self, open: Open) -> Kind {
        let latest = self.states.len() - 1;
        let writes = open.steps.iter().any(|(_, value)| value.is_some());
        let stale = self.rng.random_range(latest.saturating_sub(5)..=latest);
        let source = |rng: &mut StdRng| match self.database {
            Database::Snapshot => open.began,
            Database::ReadCommitted => rng.random_range(open.began..=latest),
            Database::StaleReads if !writes => stale,
            _ => latest,
        };
        let mut rng = self.rng.clone();
        // What each step saw, with the transaction's own writes on top.
        let mut own: State = State::new();
        let mut seen: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut results = Vec::new();
        for (key, value) in &open.steps {
            let at = source(&mut rng);
            let base =
                seen.entry(*key).or_insert_with(|| self.states[at].get(key).cloned().unwrap_or_default());
            if let Some(value) = value {
                own.entry(*key).or_default().push(*value);
            }
            let mut list = base.clone();
            list.extend(own.get(key).into_iter().flatten());
            results.push(list);
        }
        self.rng = rng;
        let conflict = self.database == Database::Snapshot
            && own.keys().any(|key| self.states[open.began].get(key) != self.states[latest].get(key));
        let fate = self.rng.random_range(0..100);
        let (kind, applied) = match fate {
            _ if conflict => (Kind::Fail, false),
            0..4 => (Kind::Fail, self.database == Database::LiesAboutFailure),
            4..7 => (Kind::Info, true),
            7..10 => (Kind::Info, false),
            10..14 if self.database == Database::LosesCommits => (Kind::Ok, false),
            _ => (Kind::Ok, true),
        };
        if applied && writes {
            let mut next = self.states[latest].clone();
            for (key, values) in own {
                next.entry(key).or_default().extend(values);
            }
            self.states.push(next);
        }
        let value = match kind {
            Kind::Ok => self.value(&open, |step, _| Some(results[step].clone())),
            _ => self.value(&open, |_, _| None),
        };
        self.record(open.process, kind, value);
        kind
    }

    fn value(&self, open: &Open, read: impl Fn(usize, i64) -> Option<Vec<i64>>) -> Value {
        let step = |(n, (key, written)): (usize, &(i64, Option<i64>))| {
            let (f, value) = match (written, read(n, *key)) {
                (Some(value), _) => (if self.lists { "append" } else { "w" }, Value::Int(*value)),
                (None, Some(list)) if self.lists => ("r", Value::vector(list)),
                (None, list) => ("r", list.and_then(|list| list.last().copied()).into()),
            };
            Value::Vector(vec![Value::keyword(f), Value::Int(*key), value])
        };
        Value::Vector(open.steps.iter().enumerate().map(step).collect())
    }

    fn record(&mut self, process: Process, kind: Kind, value: Value) {
        let time = self.ops.len() as u64 * 1_000_000;
        self.ops.push(Op { index: 0, process, kind, f: "txn".to_owned(), value, time, error: None });
    }
}

/// Whether the transactions can be put into an order that explains all answers and respects real time: all orders are tried.
fn explains(calls: &[Call<'_>], taken: &mut Vec<bool>, state: &State) -> bool {
    let bound = (0..calls.len()).filter(|n| !taken[*n]).map(|n| calls[n].end()).min();
    let Some(bound) = bound.filter(|end| *end != usize::MAX) else { return true };
    for n in 0..calls.len() {
        if taken[n] || calls[n].invoke.index > bound {
            continue;
        }
        if let Some(next) = apply(&calls[n], state) {
            taken[n] = true;
            if explains(calls, taken, &next) {
                return true;
            }
            taken[n] = false;
        }
    }
    false
}

/// The state after a transaction of appends, if its reads fit; of unknown ones the reads are not known.
fn apply(call: &Call<'_>, state: &State) -> Option<State> {
    let mut next = state.clone();
    for step in call.value().as_slice().unwrap_or_default() {
        let [f, key, value] = step.as_slice()? else { return None };
        let list = next.entry(key.as_int()?).or_default();
        match f.as_name()? {
            "append" => list.push(value.as_int()?),
            _ if call.ok().is_some() && value.as_ints()? != *list => return None,
            _ => {}
        }
    }
    Some(next)
}

/// Changes one answer a little.
fn corrupted(history: &History, rng: &mut StdRng) -> History {
    let mut ops = history.ops().to_vec();
    let at = rng.random_range(0..ops.len());
    if ops[at].kind == Kind::Ok
        && let Value::Vector(steps) = &mut ops[at].value
    {
        let step = rng.random_range(0..steps.len());
        if let Value::Vector(parts) = &mut steps[step]
            && let Value::Vector(list) = &mut parts[2]
            && !list.is_empty()
        {
            match rng.random_range(0..3) {
                0 => drop(list.pop()),
                1 => drop(list.remove(0)),
                _ => list.reverse(),
            }
        }
    }
    History::new(ops).expect("a well-formed history")
}

fn check(database: Database, seed: u64, transactions: usize, lists: bool) -> Verdict {
    let name = if lists { "list-append" } else { "rw-register" };
    let history = Model::run(database, seed, transactions, lists);
    (checker::find(name).expect("a checker").check)(&history)
}

/// The names of what is found over several seeds.
fn found(database: Database, lists: bool) -> BTreeSet<String> {
    (0..10)
        .flat_map(|seed| {
            let verdict = check(database, seed, 400, lists);
            verdict.names().into_iter().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn a_strict_database_is_never_blamed() {
    for lists in [true, false] {
        for seed in 0..30 {
            let verdict = check(Database::Strict, seed, 300, lists);
            assert_eq!(verdict.validity, Validity::Valid, "seed {seed}: {verdict}");
        }
    }
}

#[test]
fn snapshot_isolation_is_told_by_write_skew_alone() {
    for lists in [true, false] {
        let found = found(Database::Snapshot, lists);
        assert!(found.contains("G2-item"), "{found:?}");
        assert!(
            !found.contains("lost-update") && !found.contains("G-single") && !found.contains("G1c"),
            "{found:?}"
        );
    }
}

#[test]
fn read_committed_loses_updates() {
    for lists in [true, false] {
        let found = found(Database::ReadCommitted, lists);
        assert!(found.contains("lost-update") && found.contains("G-single"), "{found:?}");
        assert!(!found.contains("G1a") && !found.contains("G0"), "{found:?}");
    }
}

#[test]
fn stale_reads_need_real_time_to_be_seen() {
    for lists in [true, false] {
        let found = found(Database::StaleReads, lists);
        assert!(found.contains("G-single-realtime"), "{found:?}");
        assert!(
            found.iter().all(|name| name.ends_with("-realtime") || name.ends_with("-process")),
            "{found:?}"
        );
    }
}

#[test]
fn lost_commits_and_lies_are_found() {
    for lists in [true, false] {
        let lost = found(Database::LosesCommits, lists);
        assert!(lost.contains("G-single-realtime") || lost.contains("lost-update"), "{lost:?}");
        assert!(found(Database::LiesAboutFailure, lists).contains("G1a"));
    }
}

#[test]
fn a_long_history_is_checked_in_time() {
    let verdict = check(Database::Strict, 1, 20_000, true);
    assert_eq!(verdict.validity, Validity::Valid, "{verdict}");
}

/// Lists show nearly everything: cycles are found where, and only where, no order of the transactions explains the answers.
#[test]
fn cycles_are_found_where_no_order_explains_the_answers() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut wrong = 0;
    let databases = [Database::Strict, Database::Snapshot, Database::ReadCommitted, Database::StaleReads];
    for seed in 0..3_000 {
        let history = corrupted(&Model::run(databases[seed as usize % 4], seed, 7, true), &mut rng);
        let calls: Vec<Call<'_>> = history.calls().filter(|call| call.outcome() != Kind::Fail).collect();
        let explained = explains(&calls, &mut vec![false; calls.len()], &State::new());
        let verdict = (checker::find("list-append").expect("a checker").check)(&history);
        let shown: Vec<String> = history.ops().iter().map(ToString::to_string).collect();
        let agree = explained == (verdict.validity == Validity::Valid);
        assert!(agree, "seed {seed}: {verdict}\n{}", shown.join("\n"));
        wrong += usize::from(!explained);
    }
    assert!(wrong > 300, "the histories are too good: {wrong}");
}
