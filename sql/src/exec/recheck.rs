//! READ COMMITTED: what becomes of a row that was changed while its lock was waited for (PostgreSQL 15, 13.2.1).
//!
//! A statement finds its rows at its snapshot, and changes their newest versions. If the newest version of a row is another one,
//! the statement's condition is asked again of it, and its values are computed from it; everything else stays as of the
//! snapshot: the rows of other tables that the row was joined with, and what subqueries read. A row that is gone, or no longer
//! meets the condition, is left alone. Rows that meet the condition only now are not found: that is the level's promise.
//!
//! So the plan is run once more for the row, with the target's scan replaced by the newest version, and each relation that it
//! was joined with by the one row of it.

use std::sync::Arc;

use txn::api::{Isolation, Key, LockedRow};

use super::scan::Projection;
use super::{Row, StatementContext, query};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError};
use crate::ir::{Expr, JoinKind, OutputColumn, Plan};
use crate::types::{Datum, row};

/// Asks the condition again.
pub struct Recheck<'a> {
    ctx: &'a Arc<StatementContext>,
    table: &'a Arc<TableDescriptor>,
    source: &'a Plan,
    projection: Projection,
    /// Columns that [`Recheck::widened`] puts behind those of the source: the rows that the target was joined with.
    others: usize,
}

impl<'a> Recheck<'a> {
    /// For the source of an UPDATE, DELETE or SELECT FOR UPDATE of `table`. `None` where rows are not read at the latest when
    /// they are locked.
    pub fn new(
        source: &'a Plan,
        table: &'a Arc<TableDescriptor>,
        ctx: &'a Arc<StatementContext>,
    ) -> Option<Self> {
        if ctx.transaction.isolation() != Isolation::ReadCommitted {
            return None;
        }
        let others = joined(source).columns().len().saturating_sub(table.columns.len() + 1);
        Some(Self { ctx, table, source, projection: Projection::all(table, true), others })
    }

    /// The source, to be run in place of the one that was given.
    pub fn widened(&self) -> Plan {
        widen(self.source, self.table.columns.len() + 1)
    }

    /// A row of the widened source as one of the source.
    pub fn as_found(&self, mut found: Row) -> Row {
        found.truncate(found.len().saturating_sub(self.others));
        found
    }

    /// The row of the source as of the row's newest version, which was read under its lock; `None` if there is none. `found` is
    /// the widened source's row, `target` the target's columns as they were found.
    pub async fn newest(
        &self,
        mut found: Row,
        target: &[Datum],
        key: &Key,
        locked: &LockedRow,
    ) -> Result<Option<Row>> {
        let others = found.split_off(found.len().saturating_sub(self.others));
        let LockedRow::Held(Some(value)) = locked else { return Ok(None) };
        let newest = self.projection.decode(key, value)?;
        if self.same(target, &newest) {
            return Ok(Some(found));
        }
        let joined_row: Vec<Datum> = newest.into_iter().chain(others).collect();
        let plan = pinned(self.source, &joined_row)?;
        let mut rows = query::rows(&plan, self.ctx).await?;
        Ok(rows.next().await?.and_then(|rows| rows.into_iter().next()))
    }

    /// The row of a source that reads one table only, as of the newest version.
    pub async fn now(&self, key: &Key, locked: &LockedRow) -> Result<Option<Row>> {
        let LockedRow::Held(Some(value)) = locked else { return Ok(None) };
        let plan = pinned(self.source, &self.projection.decode(key, value)?)?;
        let mut rows = query::rows(&plan, self.ctx).await?;
        Ok(rows.next().await?.and_then(|rows| rows.into_iter().next()))
    }

    fn same(&self, a: &[Datum], b: &[Datum]) -> bool {
        let encode = |row: &[Datum]| {
            row::encode(self.table.columns.iter().zip(row).map(|(c, datum)| (c.id, datum, false)))
        };
        encode(a) == encode(b)
    }
}

/// What the rows of a source are made from: the target joined with others, the target's columns and key first.
fn joined(source: &Plan) -> &Plan {
    match source {
        Plan::With { body, .. } => joined(body),
        Plan::Project { input, .. } => input,
        other => other,
    }
}

fn widen(source: &Plan, width: usize) -> Plan {
    match source {
        Plan::With { ctes, body } => Plan::With { ctes: ctes.clone(), body: Box::new(widen(body, width)) },
        Plan::Project { input, exprs, columns } => {
            let (mut exprs, mut columns) = (exprs.clone(), columns.clone());
            for (index, column) in input.columns().iter().enumerate().skip(width) {
                exprs.push(Expr::Column(index, column.ty));
                columns.push(column.clone());
            }
            Plan::Project { input: input.clone(), exprs, columns }
        }
        // It puts them out anyway; once more, so that they are at the end.
        other if other.columns().len() > width => {
            let columns = other.columns().to_vec();
            let exprs = columns.iter().enumerate().map(|(i, c)| Expr::Column(i, c.ty)).collect();
            widen(&Plan::Project { input: Box::new(other.clone()), exprs, columns }, width)
        }
        other => other.clone(),
    }
}

/// The source for one joined row.
fn pinned(source: &Plan, row: &[Datum]) -> Result<Plan> {
    Ok(match source {
        Plan::With { ctes, body } => Plan::With { ctes: ctes.clone(), body: Box::new(pinned(body, row)?) },
        other => pin(other, row)?,
    })
}

/// Puts one row in the place of what a plan reads; conditions on the way to the target are asked of it.
fn pin(plan: &Plan, row: &[Datum]) -> Result<Plan> {
    Ok(match plan {
        Plan::Scan(scan) if scan.with_key => {
            let given = given(&scan.columns, row)?;
            scan.filters.iter().fold(given, |input, filter| Plan::Filter {
                input: Box::new(input),
                predicate: filter.clone(),
            })
        }
        Plan::Filter { input, predicate } => {
            Plan::Filter { input: Box::new(pin(input, row)?), predicate: predicate.clone() }
        }
        Plan::Sort { input, .. } => pin(input, row)?,
        // Where the target is one table, its row is the row of every level.
        Plan::Project { input, exprs, columns } if has_target(input) => Plan::Project {
            input: Box::new(pin(input, row)?),
            exprs: exprs.clone(),
            columns: columns.clone(),
        },
        Plan::Join { kind: JoinKind::Inner, left, right, on, columns } if has_target(plan) => {
            let width = left.columns().len();
            let (on_left, on_right) =
                row.split_at_checked(width).ok_or_else(|| SqlError::internal("a joined row is too short"))?;
            Plan::Join {
                kind: JoinKind::Inner,
                left: Box::new(pin(left, on_left)?),
                right: Box::new(pin(right, on_right)?),
                on: on.clone(),
                columns: columns.clone(),
            }
        }
        other => given(other.columns(), row)?,
    })
}

fn has_target(plan: &Plan) -> bool {
    match plan {
        Plan::Scan(scan) => scan.with_key,
        Plan::Filter { input, .. } | Plan::Sort { input, .. } | Plan::Project { input, .. } => {
            has_target(input)
        }
        Plan::Join { kind: JoinKind::Inner, left, right, .. } => has_target(left) || has_target(right),
        _ => false,
    }
}

fn given(columns: &[OutputColumn], row: &[Datum]) -> Result<Plan> {
    if columns.len() != row.len() {
        return Err(SqlError::internal("a row to be looked at again has the wrong width"));
    }
    let row = columns.iter().zip(row).map(|(column, value)| Expr::Const(value.clone(), column.ty));
    Ok(Plan::Values { rows: vec![row.collect()], columns: columns.to_vec() })
}

/// Whether a plan reads rows by their whole key and asks nothing else of them: then they may as well be locked as they are
/// read, at the latest.
pub fn is_by_key(plan: &Plan) -> bool {
    match plan {
        Plan::Project { input, exprs, .. } => exprs.iter().all(Expr::is_local) && is_by_key(input),
        Plan::Scan(scan) => {
            let width = scan.table.primary_key.as_ref().map_or(0, |key| key.columns.len());
            width > 0
                && scan.filters.len() == width
                && super::spans::shape(&scan.table, &scan.filters).0 == width
        }
        _ => false,
    }
}
