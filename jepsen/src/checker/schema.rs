//! Tables whose columns and indexes come and go: what is read through an index is what is in the table, and a column that was added
//! with a default has it in all rows.
//!
//! Reads `:compare [[[ids] [ids]] …]`: pairs of answers to one question, by table and by index, in one transaction; `:defaults [expected [values]]`:
//! what a column has whose default is `expected`; `:look [whole [rows]]`: a table that is filled with `whole` rows in one statement, and emptied in
//! another.
//!
//! | anomaly | what |
//! |---|---|
//! | `index-differs` | table and index answer differently |
//! | `wrong-default` | a row has another value than the default |
//! | `torn-statement` | a part of the rows that one statement inserts is there |

use std::collections::HashSet;

use super::Verdict;
use crate::history::{History, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("schema");
    let (mut compared, mut defaults, mut looks) = (0, 0, 0);
    for call in history.calls() {
        let Some(op) = call.ok() else { continue };
        match (&call.invoke.f[..], op.value.as_pair()) {
            ("compare", _) => {
                compared += 1;
                let pairs = op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_pair);
                for (table, index) in pairs.filter(|(table, index)| table != index) {
                    let about = format!("operation {}: {}", op.index, difference(table, index));
                    verdict.anomaly("index-differs", about, vec![op.index]);
                }
            }
            ("defaults", Some((expected, values))) => {
                defaults += 1;
                let values = values.as_slice().unwrap_or_default();
                if let Some(other) = values.iter().find(|value| *value != expected) {
                    let about = format!("operation {}: {other}, not {expected}", op.index);
                    verdict.anomaly("wrong-default", about, vec![op.index]);
                }
            }
            ("look", Some((whole, rows))) => {
                looks += 1;
                let there = rows.as_slice().unwrap_or_default().len() as i64;
                if there != 0 && Some(there) != whole.as_int() {
                    let about = format!("operation {}: {there} rows of {whole}", op.index);
                    verdict.anomaly("torn-statement", about, vec![op.index]);
                }
            }
            _ => {}
        }
    }
    verdict.note(format!(
        "{compared} comparisons of table and index, {defaults} looks at a default, {looks} at another table"
    ));
    if compared == 0 {
        verdict.unknown("table and index were never compared");
    }
    verdict
}

/// Some of what only one of them has.
fn difference(table: &Value, index: &Value) -> String {
    let set =
        |value: &Value| -> HashSet<Value> { value.as_slice().unwrap_or_default().iter().cloned().collect() };
    let (table, index) = (set(table), set(index));
    let some = |one: &HashSet<Value>, other: &HashSet<Value>| {
        let mut only: Vec<String> = one.difference(other).map(Value::to_string).collect();
        only.sort_unstable();
        only.truncate(10);
        only.join(", ")
    };
    format!("only the table has [{}], only the index [{}]", some(&table, &index), some(&index, &table))
}
