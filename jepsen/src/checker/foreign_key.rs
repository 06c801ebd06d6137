//! Foreign keys: nobody refers to nothing, and nothing goes that nobody has taken away.
//!
//! Reads `:insert {:id :parent :table}`, `:delete {:parent}` (refused while there are `:children`, takes `:owned` along), `:purge
//! {:parent}` (with all children), `:create {:parent}`, and `:read {:parents [ids] :children [[id parent]] :owned [[id parent]]}`, of all
//! in one transaction; `:final-read` likewise, of each node in the end.
//!
//! | anomaly | what |
//! |---|---|
//! | `orphan` | a row refers to one that is not there |
//! | `lost` | a row is missing that was acknowledged before the read began, and whose parent nobody can have deleted since |
//! | `unexpected` | a row that nobody inserted, or whose insertion failed |
//! | `refused` | an insert was refused for want of a parent that had been made, or seen, before, and that nobody can have deleted since |
//! | `nodes-differ` | the last reads of the nodes are not the same |

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use crate::history::{History, Kind, Value};

const TABLES: [&str; 2] = ["children", "owned"];

/// When calls that may have deleted a parent were under way: from and to.
#[derive(Default)]
struct Removals<'h>(HashMap<&'h Value, Vec<(usize, usize)>>);

impl Removals<'_> {
    /// Whether one may have taken effect between two moments.
    fn between(&self, parent: &Value, from: usize, to: usize) -> bool {
        self.0.get(parent).into_iter().flatten().any(|(begin, end)| *begin < to && *end > from)
    }
}

/// An inserted row.
struct Inserted<'h> {
    parent: &'h Value,
    table: &'h str,
    begun: usize,
    outcome: Kind,
    /// Where it was acknowledged.
    ended: Option<usize>,
}

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("foreign-key");
    let mut removals = Removals::default();
    for f in ["delete", "purge"] {
        for call in history.calls_of(f).filter(|call| call.outcome() != Kind::Fail) {
            let Some(parent) = call.invoke.value.get("parent") else { continue };
            let end = call.ok().map_or(usize::MAX, |op| op.index);
            removals.0.entry(parent).or_default().push((call.invoke.index, end));
        }
    }
    let mut inserted: BTreeMap<&Value, Inserted<'_>> = BTreeMap::new();
    for call in history.calls_of("insert") {
        let value = &call.invoke.value;
        let (Some(id), Some(parent)) = (value.get("id"), value.get("parent")) else { continue };
        let table = value.get("table").and_then(Value::as_name).unwrap_or_default();
        let (begun, outcome, ended) = (call.invoke.index, call.outcome(), call.ok().map(|op| op.index));
        inserted.insert(id, Inserted { parent, table, begun, outcome, ended });
    }
    let reads: Vec<(usize, usize, &Value)> = ["read", "final-read"]
        .into_iter()
        .flat_map(|f| history.calls_of(f))
        .filter_map(|call| call.ok().map(|op| (call.invoke.index, op.index, &op.value)))
        .collect();
    for (asked, answered, seen) in &reads {
        check_read(history, &inserted, &removals, (*asked, *answered, seen), &mut verdict);
    }
    check_refusals(history, &removals, &reads, &mut verdict);
    check_nodes(history, &mut verdict);
    let acknowledged = inserted.values().filter(|row| row.outcome == Kind::Ok).count();
    verdict.note(format!(
        "{} reads; {acknowledged} of {} inserts acknowledged; {} parents deleted",
        reads.len(),
        inserted.len(),
        removals.0.values().map(Vec::len).sum::<usize>()
    ));
    if reads.is_empty() {
        verdict.unknown("the tables were never read");
    }
    verdict
}

fn rows<'v>(seen: &'v Value, table: &str) -> impl Iterator<Item = (&'v Value, &'v Value)> {
    seen.get(table).and_then(Value::as_slice).unwrap_or_default().iter().filter_map(Value::as_pair)
}

fn check_read(
    history: &History,
    inserted: &BTreeMap<&Value, Inserted<'_>>,
    removals: &Removals<'_>,
    (asked, answered, seen): (usize, usize, &Value),
    verdict: &mut Verdict,
) {
    let parents = seen.get("parents").and_then(Value::as_slice).unwrap_or_default();
    let mut there: HashMap<&Value, &str> = HashMap::new();
    for table in TABLES {
        for (id, parent) in rows(seen, table) {
            there.insert(id, table);
            if !parents.contains(parent) {
                let about =
                    format!("operation {answered}: {id} of {table} refers to {parent}, which is not there");
                verdict.anomaly("orphan", about, vec![answered]);
            }
            let by = inserted.get(id).filter(|row| row.outcome != Kind::Fail && row.begun < answered);
            if by.is_none_or(|row| row.table != table || row.parent != parent) {
                let about = format!("operation {answered} has {id} of {table}, which nobody inserted");
                verdict.anomaly("unexpected", about, vec![answered]);
            }
        }
    }
    for (id, row) in inserted {
        let Some(ended) = row.ended.filter(|ended| *ended < asked) else { continue };
        if !there.contains_key(id) && !removals.between(row.parent, row.begun, answered) {
            let about = format!(
                "{id} is missing in operation {answered}, and nobody has deleted its parent\n{}",
                history.ops()[ended]
            );
            verdict.anomaly("lost", about, vec![ended, answered]);
        }
    }
}

/// An insert may only be refused if its parent may have been gone.
fn check_refusals(
    history: &History,
    removals: &Removals<'_>,
    reads: &[(usize, usize, &Value)],
    verdict: &mut Verdict,
) {
    // Where a parent was certainly there at some moment in between.
    let mut made: HashMap<&Value, Vec<(usize, usize)>> = HashMap::new();
    for call in history.calls_of("create") {
        if let (Some(parent), Some(op)) = (call.invoke.value.get("parent"), call.ok()) {
            made.entry(parent).or_default().push((call.invoke.index, op.index));
        }
    }
    for (asked, answered, seen) in reads {
        for parent in seen.get("parents").and_then(Value::as_slice).unwrap_or_default() {
            made.entry(parent).or_default().push((*asked, *answered));
        }
    }
    for call in history.calls_of("insert").filter(|call| call.outcome() == Kind::Fail) {
        let Some(op) =
            call.complete.filter(|op| op.error.as_deref().is_some_and(|why| why.contains("23503")))
        else {
            continue;
        };
        let Some(parent) = call.invoke.value.get("parent") else { continue };
        let sure = made
            .get(parent)
            .into_iter()
            .flatten()
            .find(|(begin, end)| *end < call.invoke.index && !removals.between(parent, *begin, op.index));
        if let Some((_, end)) = sure {
            let about = format!("{op}\nand {parent} was there:\n{}", history.ops()[*end]);
            verdict.anomaly("refused", about, vec![*end, op.index]);
        }
    }
}

fn check_nodes(history: &History, verdict: &mut Verdict) {
    let mut reads = history.calls_of("final-read").filter_map(|call| call.ok());
    let Some(first) = reads.next() else { return };
    for other in reads.filter(|other| other.value != first.value) {
        let about = format!("operations {} and {} differ", first.index, other.index);
        verdict.anomaly("nodes-differ", about, vec![first.index, other.index]);
    }
}
