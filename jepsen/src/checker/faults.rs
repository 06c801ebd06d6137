//! Whether the faults that were asked for have happened, and what the database did of which no checker of clients' calls knows.
//!
//! Reads the operations of the nemesis: `:asked [:kill :split …]` when the run begins, and two of each fault, named after it, with
//! `{:phase :begin, :nodes [1], …}` and `{:phase :end, :outcome :done, …}`. An outcome is `:done` (it is, if none is given), `:refused` (the cluster
//! did not take an operator's command, or there was nothing to be harmed) or `:failed` (the harness could not). A kind that was never done is
//! noted; if none was, nobody knows what the run would have shown. `:anomaly` names what a fault found out by itself:
//!
//! | anomaly | what |
//! |---|---|
//! | `served-from-damage` | a node serves though a byte of its store is another one |

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{History, Process, Value};

/// What the nemesis calls the list of what it is to do.
pub const ASKED: &str = "asked";
/// It was done.
pub const DONE: &str = "done";
/// The cluster did not let it be done.
pub const REFUSED: &str = "refused";
/// The harness could not do it.
pub const FAILED: &str = "failed";

/// Of one kind.
#[derive(Default)]
struct Counts {
    done: usize,
    refused: usize,
    failed: usize,
    why: String,
}

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("faults");
    let mut kinds: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut asked = false;
    for op in history.ops().iter().filter(|op| op.process == Process::Nemesis) {
        if op.f == ASKED {
            let names = op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_name);
            for name in names {
                kinds.entry(name).or_default();
            }
            asked |= !kinds.is_empty();
            continue;
        }
        let text = |name: &str| op.value.get(name).and_then(Value::as_name);
        match (text("phase"), text("outcome")) {
            (Some("begin"), _) => {
                asked = true;
                kinds.entry(&op.f).or_default();
            }
            (Some("end"), Some(REFUSED)) => {
                let counts = kinds.entry(&op.f).or_default();
                counts.refused += 1;
                counts.why = text("why").unwrap_or_default().to_owned();
            }
            (Some("end"), Some(FAILED)) => kinds.entry(&op.f).or_default().failed += 1,
            (Some("end"), _) => kinds.entry(&op.f).or_default().done += 1,
            _ => {}
        }
        if let Some(name) = text("anomaly") {
            verdict.anomaly(name, op.to_string(), vec![op.index]);
        }
    }
    if !asked {
        verdict.note("none was asked for");
        return verdict;
    }
    for (name, counts) in &kinds {
        let Counts { done, refused, failed, why } = counts;
        verdict.note(match (done, refused, failed) {
            (0, 0, 0) => format!("{name}: it never came to it"),
            (0, 1.., _) => format!("{name}: refused every time ({refused}): {why}"),
            _ => format!("{name}: {done} done, {refused} refused, {failed} failed"),
        });
    }
    if kinds.values().all(|counts| counts.done == 0) {
        verdict.unknown("faults were asked for, and none happened");
    }
    verdict
}
