//! Whether enough happened for the other verdicts to mean anything.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, Kind};

/// Of a call that was tried so often, one must have succeeded.
const TRIES_MIN: usize = 5;
/// … and of all calls together so many.
const SUCCESSES_MIN: usize = 10;

/// Counts what succeeded, by name of the call.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("progress");
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for call in history.calls() {
        let slot = match call.outcome() {
            Kind::Ok => 0,
            Kind::Fail => 1,
            _ => 2,
        };
        counts.entry(&call.invoke.f).or_default()[slot] += 1;
    }
    let mut all = 0;
    for (f, [ok, fail, info]) in counts {
        all += ok;
        verdict.note(format!("{f}: {ok} ok, {fail} failed, {info} unknown"));
        if ok == 0 && fail + info >= TRIES_MIN {
            verdict.unknown(format!("no {f} ever succeeded"));
        }
    }
    if all < SUCCESSES_MIN {
        verdict.unknown(format!("only {all} calls succeeded"));
    }
    verdict
}
