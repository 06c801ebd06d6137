//! Whether enough happened for the other verdicts to mean anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Verdict;
use crate::history::{Call, DECLINED, FINAL_READ, HARNESS, History, Kind, Process, SPLIT_AT, Value};

/// Of a call that was tried so often, one must have succeeded.
const TRIES_MIN: usize = 5;
/// … and of all calls together so many, and one per second.
const SUCCESSES_MIN: usize = 10;

/// Counts what succeeded, by name of the call; of transactions, those that write and those that read apart. What is looked at after the
/// run doesn't count: everything is whole by then. A call that the database declined was answered, too.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("progress");
    let mut counts: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for call in history.calls().filter(|call| !call.is_last() && call.invoke.f != FINAL_READ) {
        let slot = match call.outcome() {
            Kind::Ok => 0,
            Kind::Fail if is_declined(&call) => 1,
            Kind::Fail => 2,
            _ => 3,
        };
        counts.entry(name(&call)).or_default()[slot] += 1;
    }
    // A workload that splits its table must have come to it, too.
    for op in history.ops().iter().filter(|op| op.process == Process::Nemesis && op.f == SPLIT_AT) {
        counts.entry(SPLIT_AT).or_default()[if op.error.is_none() { 0 } else { 2 }] += 1;
    }
    let mut all = 0;
    for (f, [ok, declined, fail, info]) in &counts {
        all += ok;
        verdict.note(format!("{f}: {ok} ok, {declined} declined, {fail} failed, {info} unknown"));
        if ok + declined == 0 && fail + info >= TRIES_MIN {
            verdict.unknown(format!("no {f} ever succeeded"));
        }
    }
    let committed = |name| counts.get(name).map(|[ok, ..]| *ok);
    let own = |call: &Call<'_>| {
        call.complete.and_then(|op| op.error.clone()).filter(|error| error.starts_with(HARNESS))
    };
    if let Some(error) = history.calls().find_map(|call| own(&call)) {
        verdict.unknown(error);
    }
    if committed(READS).is_some() && committed(WRITES).unwrap_or(0) == 0 {
        verdict.unknown("no transaction that writes was committed");
    }
    let seconds = seconds(history);
    if all < SUCCESSES_MIN.max(seconds) {
        verdict.unknown(format!("only {all} calls succeeded in {seconds} s"));
    }
    verdict
}

/// From the first call to the last that is not one of the last look.
fn seconds(history: &History) -> usize {
    let mut times = history.calls().filter(|call| !call.is_last() && call.invoke.f != FINAL_READ);
    let first = times.next().map_or(0, |call| call.invoke.time);
    let last = times.last().map_or(first, |call| call.invoke.time);
    Duration::from_nanos(last.saturating_sub(first)).as_secs() as usize
}

/// Whether the database gave an answer that makes it fail.
fn is_declined(call: &Call<'_>) -> bool {
    call.complete.and_then(|op| op.error.as_ref()).is_some_and(|error| error.starts_with(DECLINED))
}

/// Transactions.
const READS: &str = "txn of reads";
const WRITES: &str = "txn with writes";

/// What a call counts as.
fn name<'a>(call: &Call<'a>) -> &'a str {
    if call.invoke.f != "txn" {
        return &call.invoke.f;
    }
    let reads =
        |step: &Value| step.as_slice().is_some_and(|step| step.first().and_then(Value::as_name) == Some("r"));
    match call.invoke.value.as_slice().unwrap_or_default().iter().all(reads) {
        true => READS,
        false => WRITES,
    }
}
