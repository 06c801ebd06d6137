//! How long nobody gets an answer while a minority of the nodes is broken.
//!
//! A fault is two operations of the nemesis with `:value {:phase :begin, :minority true, …}` and `{:phase :end, …}`. From a fault's
//! beginning to five seconds after its end, or to the next fault, the longest time without any answer is a *gap*: an `ok`, or a `fail` that
//! says what was found. Conflicts are no answers. After faults of a
//! minority it must not exceed 1.5 s (`unavailable`); after others it is told.
//!
//! Where faults overlap, as in mixed runs, their victims (`:nodes`) together must be a minority of the cluster's nodes (`:of`), and of any three
//! of them: those may be all that have a shard.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Verdict;
use crate::history::{DECLINED, History, Kind, LAST_PROCESS, Op, Process, Value};

/// What is promised.
pub const GAP_MAX: Duration = Duration::from_millis(1500);
/// A fault's effects are looked for so long after it was undone.
const AFTERMATH_NS: u64 = 5_000_000_000;

/// Replicas of a shard; a majority of them is promised to be enough.
pub const REPLICAS: usize = 3;

/// Checks a history against [`GAP_MAX`].
pub fn check(history: &History) -> Verdict {
    check_within(history, GAP_MAX)
}

/// The longest gap under faults of a minority; none if there were no such faults.
pub fn longest_gap(history: &History) -> Option<Duration> {
    look(history, Duration::MAX).1
}

/// Checks a history.
pub fn check_within(history: &History, gap_max: Duration) -> Verdict {
    look(history, gap_max).0
}

/// Nodes that a fault hit count as missing until so long after it was undone.
const MISSING_NS: u64 = 2_000_000_000;

/// Whether a fault left a majority whole, with the others that went on when it began.
fn is_of_minority(begin: &Op, faults: &[&Op]) -> bool {
    if begin.value.get("minority") != Some(&Value::Bool(true)) {
        return false;
    }
    let Some(of) = begin.value.get("of").and_then(Value::as_int) else { return true };
    let nodes = |op: &Op| op.value.get("nodes").and_then(Value::as_ints).unwrap_or_default();
    let mut missing: BTreeSet<i64> = nodes(begin).into_iter().collect();
    let is = |op: &Op, phase: &str| op.value.get("phase").and_then(Value::as_name) == Some(phase);
    for (n, other) in faults.iter().enumerate().filter(|(_, op)| is(op, "begin") && op.index < begin.index) {
        let end = faults[n..].iter().find(|op| is(op, "end") && op.f == other.f);
        if end.is_none_or(|end| end.time + MISSING_NS > begin.time) {
            missing.extend(nodes(other));
        }
    }
    2 * (missing.len() as i64) < of.min(REPLICAS as i64)
}

fn look(history: &History, gap_max: Duration) -> (Verdict, Option<Duration>) {
    let mut verdict = Verdict::new("availability");
    let is_answer = |op: &&Op| match op.kind {
        Kind::Ok => op.process != Process::Nemesis,
        Kind::Fail => op.error.as_ref().is_some_and(|error| error.starts_with(DECLINED)),
        _ => false,
    };
    let answers: Vec<&Op> = history.ops().iter().filter(is_answer).collect();
    let faults: Vec<&Op> = history.ops().iter().filter(|op| op.process == Process::Nemesis).collect();
    let phase = |op: &Op, name: &str| op.value.get("phase").and_then(Value::as_name) == Some(name);
    // While clients work: when they have ended, nobody asks.
    let working = history.calls().filter(|call| call.invoke.process < Process::Client(LAST_PROCESS));
    let Some(last) = working.last().map(|call| call.invoke.time) else {
        verdict.unknown("nobody asked anything");
        return (verdict, None);
    };
    let mut longest = None;
    for (n, begin) in faults.iter().enumerate().filter(|(_, op)| phase(op, "begin")) {
        let end =
            faults[n..].iter().find(|op| phase(op, "end") && op.f == begin.f).map_or(last, |op| op.time);
        let next = faults[n + 1..].iter().find(|op| phase(op, "begin")).map_or(last, |op| op.time);
        let until = (end + AFTERMATH_NS).min(next).min(last);
        let from = answers.partition_point(|op| op.time < begin.time);
        // From the last answer before the fault, so that a gap that begins just before it is whole.
        let mut previous = from.checked_sub(1).map_or(0, |i| answers[i].time);
        let mut gap = (0, previous);
        for time in answers[from..].iter().map(|op| op.time.min(until)).chain([until]) {
            if time.saturating_sub(previous) > gap.0 {
                gap = (time - previous, previous);
            }
            if time >= until {
                break;
            }
            previous = time;
        }
        let seconds = |ns: u64| ns as f64 / 1e9;
        let about = format!(
            "{} {}: no answer for {:.2} s from {:.2} s on",
            begin.f,
            begin.value,
            seconds(gap.0),
            seconds(gap.1)
        );
        let minority = is_of_minority(begin, &faults);
        if minority {
            longest = longest.max(Some(gap.0));
        }
        if minority && u128::from(gap.0) > gap_max.as_nanos() {
            verdict.anomaly("unavailable", about, vec![begin.index]);
        } else {
            verdict.note(about);
        }
    }
    verdict.note(match longest {
        Some(longest) => format!("longest gap under faults of a minority: {:.2} s", longest as f64 / 1e9),
        None => "there were no faults of a minority".to_owned(),
    });
    (verdict, longest.map(Duration::from_nanos))
}
