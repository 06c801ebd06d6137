//! What one process writes in order is seen in order.
//!
//! A `:write k` writes rows `0 … n-1` of `k`, each in a transaction of its own, in order. A `:read` reads them backwards, again
//! one by one, and is answered with `[k [last … first]]`, `nil` for what isn't there; a `:final-read` has `[[k [last … first]] …]`. Once a row was
//! seen, all that are read after it must be seen (`out-of-order`). What was acknowledged before a read began must be read (`lost`).
//!
//! If no read fell into the midst of a write, nothing was tested.

use std::collections::HashMap;

use super::Verdict;
use crate::history::{FINAL_READ, History, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("sequential");
    let written: HashMap<&Value, usize> =
        history.calls_of("write").filter_map(|call| Some((&call.invoke.value, call.ok()?.index))).collect();
    let (mut reads, mut partial) = (0, 0);
    for call in history.calls() {
        let Some(op) = call.ok() else { continue };
        let pairs: Vec<(&Value, &Value)> = match &call.invoke.f[..] {
            "read" => op.value.as_pair().into_iter().collect(),
            FINAL_READ => op.value.as_slice().unwrap_or_default().iter().filter_map(Value::as_pair).collect(),
            _ => continue,
        };
        for (key, rows) in pairs {
            let rows = rows.as_slice().unwrap_or_default();
            reads += 1;
            let is_partial = rows.contains(&Value::Nil) && rows.iter().any(|row| *row != Value::Nil);
            partial += usize::from(is_partial && call.invoke.f == "read");
            let first = rows.iter().position(|row| *row != Value::Nil).unwrap_or(rows.len());
            if rows[first..].contains(&Value::Nil) {
                verdict.anomaly("out-of-order", op.to_string(), vec![op.index]);
            }
            let acknowledged = written.get(key).filter(|at| **at < call.invoke.index);
            if let Some(at) = acknowledged.filter(|_| rows.contains(&Value::Nil)) {
                let about = format!(
                    "{key} was written, and operation {} has {rows:?}\n{}",
                    op.index,
                    history.ops()[*at]
                );
                verdict.anomaly("lost", about, vec![*at, op.index]);
            }
        }
    }
    verdict.note(format!("{reads} reads, {partial} of them in the middle of a write"));
    if partial == 0 {
        verdict.unknown("no read fell into the midst of a write");
    }
    verdict
}
