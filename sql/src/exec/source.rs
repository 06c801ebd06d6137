//! What INSERT, UPDATE and DELETE have in common: a source of rows that doesn't see its own effects, and what is told to the
//! client in the end.

use std::sync::Arc;

use txn::LockMode;
use txn::api::Isolation;

use super::constraint::row_bytes;
use super::insert::Collected;
use super::recheck::is_by_key;
use super::{Outcome, Row, RowStream, Rows, StatementContext, query};
use crate::catalog::TableDescriptor;
use crate::error::Result;
use crate::eval::{self, Env};
use crate::ir::{Expr, Plan, Returning};
use crate::types::Datum;

/// Runs the source of a statement that writes `table`.
///
/// Scans see the transaction's own writes. So a source that reads the table it is written to is run to its end before
/// the first write, except where `in_place` holds: a plain scan whose rows are changed under their own keys goes forward only and
/// never meets them again. `locked`: the rows will be locked with that strength; those that are read by key are right away.
pub async fn stream(
    plan: &Plan,
    table: &TableDescriptor,
    in_place: bool,
    locked: Option<LockMode>,
    ctx: &Arc<StatementContext>,
) -> Result<Box<dyn RowStream>> {
    // With a snapshot for each statement, rows that don't meet the condition may not even be waited for.
    let at_once = match ctx.transaction.isolation() {
        Isolation::ReadCommitted => is_by_key(plan),
        Isolation::Snapshot | Isolation::Serializable => is_plain(plan),
    };
    let rows = match locked.filter(|_| at_once) {
        Some(mode) => query::for_change(plan, mode, ctx).await?,
        None => query::rows(plan, ctx).await?,
    };
    if !reads(plan, table.id) || (in_place && is_plain(plan)) {
        return Ok(rows);
    }
    Ok(Box::new(Collected::run(rows, ctx).await?))
}

/// Whether a plan is one scan with filters and projections, and nothing that could read a row twice.
pub fn is_plain(plan: &Plan) -> bool {
    let simple = |expr: &Expr| expr.is_local();
    match plan {
        Plan::Scan(scan) => scan.filters.iter().all(simple),
        Plan::Filter { input, predicate } => simple(predicate) && is_plain(input),
        Plan::Project { input, exprs, .. } => exprs.iter().all(simple) && is_plain(input),
        _ => false,
    }
}

/// The effects of a statement: how many rows, and what RETURNING says of them.
pub struct Effects<'a> {
    ctx: &'a StatementContext,
    returning: Option<&'a Returning>,
    count: u64,
    rows: Vec<Row>,
    bytes: usize,
}

impl<'a> Effects<'a> {
    /// None yet.
    pub fn new(returning: Option<&'a Returning>, ctx: &'a StatementContext) -> Self {
        Self { ctx, returning, count: 0, rows: Vec::new(), bytes: 0 }
    }

    /// A row was changed: RETURNING sees `row` followed by `extra`.
    pub fn add(&mut self, row: &[Datum], extra: &[Datum]) -> Result<()> {
        self.count += 1;
        let Some(returning) = self.returning else { return Ok(()) };
        let env = Env { ctx: &self.ctx.eval, params: &self.ctx.params, outer: &[] };
        let whole;
        let input = if extra.is_empty() {
            row
        } else {
            whole = [row, extra].concat();
            &whole
        };
        let out: Row = returning.exprs.iter().map(|e| eval::eval(e, input, &env)).collect::<Result<_>>()?;
        self.bytes += row_bytes(&out);
        if self.bytes > self.ctx.memory_bytes_max {
            return Err(super::write::out_of_memory("The rows of RETURNING", self.ctx.memory_bytes_max));
        }
        self.rows.push(out);
        Ok(())
    }

    /// The statement is done; `tag` is the command tag up to the count.
    pub fn outcome(self, tag: &'static str) -> Outcome {
        match self.returning {
            Some(returning) => Outcome::Rows {
                columns: returning.columns.clone(),
                rows: Box::new(Rows::new(self.rows)),
                tag,
            },
            None => Outcome::Done { tag: format!("{tag}{}", self.count), notices: Vec::new() },
        }
    }
}

/// Whether a plan scans a table anywhere, subqueries included.
fn reads(plan: &Plan, table: u32) -> bool {
    plan.any(&mut |p| matches!(p, Plan::Scan(scan) if scan.table.id == table))
}
