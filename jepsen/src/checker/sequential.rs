//! What one process writes in order is seen in order.
//!
//! A `:write k` writes rows `0 … n-1` of `k`, each in a transaction of its own, in order. A `:read` reads them backwards, again
//! one by one, and is answered with `[k [last … first]]`, `nil` for what isn't there. Once a row was seen, all that are read after it
//! must be seen (`out-of-order`).

use super::Verdict;
use crate::history::{History, Value};

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("sequential");
    let (mut reads, mut partial) = (0, 0);
    for op in history.calls_of("read").filter_map(|call| call.ok()) {
        let Some((_, rows)) = op.value.as_pair() else { continue };
        let rows = rows.as_slice().unwrap_or_default();
        reads += 1;
        partial += usize::from(rows.contains(&Value::Nil) && rows.iter().any(|row| *row != Value::Nil));
        let first = rows.iter().position(|row| *row != Value::Nil).unwrap_or(rows.len());
        if rows[first..].contains(&Value::Nil) {
            verdict.anomaly("out-of-order", op.to_string(), vec![op.index]);
        }
    }
    verdict.note(format!("{reads} reads, {partial} of them in the middle of a write"));
    verdict
}
