//! Direct plans: what touches few rows by key, run by the row evaluator.
//!
//! A direct plan is a chain over one leaf:
//!
//! ```text
//!   Limit? ─ Sort? ─ (Project | Filter)* ─ Values | VirtualScan | Scan
//! ```
//!
//! A scan qualifies when its filters fix the primary key or the start of it, when it has no filter to be computed in
//! parallel, or when a LIMIT bounds it. A sort is left out where the scan already reads in that order; otherwise it
//! qualifies over points only. Everything else is `flow`'s.

use std::sync::Arc;

use async_trait::async_trait;

use super::constraint::row_bytes;
use super::effect::{self, Filter, Project};
use super::scan::{Points, TableReader};
use super::write::out_of_memory;
use super::{Row, RowStream, Rows, StatementContext, spans};
use crate::catalog::virtual_table;
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::{Expr, Plan, Sharding, SortKey, TableScan};
use crate::types::{Datum, compare};

/// Whether a plan can be run directly.
pub fn applies(plan: &Plan) -> bool {
    chain(plan, false).is_some()
}

/// What the leaf of a chain reads.
enum Leaf<'a> {
    Given,
    /// Single rows, by their keys or by entries of an index.
    Points,
    /// In the order of the primary key, where `ordered`.
    Scan {
        scan: &'a TableScan,
        ordered: bool,
    },
}

/// The leaf of a plan that can be run directly; `limited`: there is a LIMIT above.
fn chain(plan: &Plan, limited: bool) -> Option<Leaf<'_>> {
    match plan {
        Plan::Values { rows, .. } => (rows.iter().flatten().all(Expr::is_local)).then_some(Leaf::Given),
        Plan::VirtualScan { .. } => Some(Leaf::Given),
        Plan::Scan(scan) => {
            if !scan.filters.iter().all(Expr::is_local) {
                return None;
            }
            let (fixed, bounded) = spans::shape(&scan.table, &scan.filters);
            let width = scan.table.primary_key.as_ref().map_or(0, |k| k.columns.len());
            let hashed = match scan.table.sharding {
                Sharding::Range => 0,
                Sharding::Hash { key_columns, .. } => key_columns,
                Sharding::RoundRobin { .. } => usize::MAX,
            };
            if width > 0 && fixed == width || spans::by_unique(&scan.table, &scan.filters) {
                return Some(Leaf::Points);
            }
            let few = (fixed > 0 || bounded) && fixed >= hashed;
            let ordered = scan.table.sharding == Sharding::Range;
            (few || limited || scan.filters.is_empty()).then_some(Leaf::Scan { scan, ordered })
        }
        Plan::Filter { input, predicate } if predicate.is_local() => match chain(input, limited)? {
            // A predicate over a whole table is for many cores.
            Leaf::Scan { scan, .. } if !limited && spans::shape(&scan.table, &scan.filters) == (0, false) => {
                None
            }
            leaf => Some(leaf),
        },
        Plan::Project { input, exprs, .. } if exprs.iter().all(Expr::is_local) => chain(input, limited),
        Plan::Sort { input, keys } if keys.iter().all(|key| key.expr.is_local()) => {
            match chain(input, limited)? {
                Leaf::Scan { scan, ordered } => {
                    let order = ordered.then(|| scan_order(input, keys, scan)).flatten();
                    order.map(|_| Leaf::Scan { scan, ordered })
                }
                leaf => Some(leaf),
            }
        }
        Plan::Limit { input, limit, offset } => {
            let simple = limit.iter().chain(offset).all(Expr::is_local);
            if simple { chain(input, limit.is_some()) } else { None }
        }
        _ => None,
    }
}

/// Whether a scan in key order, forwards (`Some(false)`) or backwards (`Some(true)`), gives the order of the sort keys: they
/// must be the leading key columns, all in one direction. Key columns are never NULL.
fn scan_order(input: &Plan, keys: &[SortKey], scan: &TableScan) -> Option<bool> {
    let primary = &scan.table.primary_key.as_ref()?.columns;
    let descending = keys.first()?.descending;
    let leads = keys.len() <= primary.len()
        && keys.iter().zip(primary).all(|(key, &column)| {
            key.descending == descending && source_column(input, &key.expr) == Some(column)
        });
    leads.then_some(descending)
}

/// Whether no sort is needed, because the scan under `input` can be read in that order, and if so, whether backwards.
pub fn order_of_scan(input: &Plan, keys: &[SortKey]) -> Option<bool> {
    match chain(input, true) {
        Some(Leaf::Scan { scan, ordered: true }) => scan_order(input, keys, scan),
        _ => None,
    }
}

/// The column of the leaf that an expression over a chain's output is.
fn source_column(plan: &Plan, expr: &Expr) -> Option<usize> {
    let Expr::Column(index, _) = expr else { return None };
    match plan {
        Plan::Scan(_) => Some(*index),
        Plan::Filter { input, .. } | Plan::Sort { input, .. } | Plan::Limit { input, .. } => {
            source_column(input, expr)
        }
        Plan::Project { input, exprs, .. } => source_column(input, exprs.get(*index)?),
        _ => None,
    }
}

/// How the leaf is to be read.
#[derive(Clone, Copy)]
struct Demand {
    /// From the end.
    reverse: bool,
    /// No more rows than this.
    rows_max: Option<usize>,
    /// How points are read.
    points: Points,
}

/// Runs a plan that [`applies`].
pub async fn run(plan: &Plan, ctx: &Arc<StatementContext>, points: Points) -> Result<Box<dyn RowStream>> {
    Box::pin(build(plan, ctx, Demand { reverse: false, rows_max: None, points })).await
}

async fn build(plan: &Plan, ctx: &Arc<StatementContext>, demand: Demand) -> Result<Box<dyn RowStream>> {
    Ok(match plan {
        Plan::Values { rows, .. } => Box::new(effect::values(rows, ctx).await?),
        Plan::VirtualScan { name, .. } => {
            Box::new(Rows::new(virtual_table::rows(&name.0, &name.1, ctx).await?))
        }
        Plan::Scan(scan) => table(scan, ctx, demand)?,
        Plan::Filter { input, .. } => {
            let input = Box::pin(build(input, ctx, Demand { rows_max: None, ..demand })).await?;
            above(plan, input, ctx).await?
        }
        Plan::Project { input, .. } => {
            let input = Box::pin(build(input, ctx, demand)).await?;
            above(plan, input, ctx).await?
        }
        Plan::Sort { input, keys } => match order_of_scan(input, keys) {
            Some(reverse) => Box::pin(build(input, ctx, Demand { reverse, ..demand })).await?,
            None => {
                let input = Box::pin(build(input, ctx, Demand { rows_max: None, ..demand })).await?;
                above(plan, input, ctx).await?
            }
        },
        Plan::Limit { input, limit, offset } => {
            let skip = count(offset.as_ref(), "OFFSET", ctx)?.unwrap_or(0);
            let take = count(limit.as_ref(), "LIMIT", ctx)?;
            let rows_max = take.map(|take| take.saturating_add(skip));
            let rows_max = match (rows_max, demand.rows_max) {
                (Some(a), Some(b)) => Some(a.min(b.saturating_add(skip))),
                (a, b) => a.or(b.map(|b| b.saturating_add(skip))),
            };
            let input = Box::pin(build(input, ctx, Demand { rows_max, ..demand })).await?;
            Box::new(Limit { input, skip, take: take.unwrap_or(usize::MAX) })
        }
        _ => return Err(SqlError::internal("a plan that is not direct was run directly")),
    })
}

/// The topmost node of a plan over what is below it, wherever that runs.
pub async fn above(
    plan: &Plan,
    input: Box<dyn RowStream>,
    ctx: &Arc<StatementContext>,
) -> Result<Box<dyn RowStream>> {
    Ok(match plan {
        Plan::Filter { predicate, .. } => Box::new(Filter::new(input, vec![predicate.clone()], ctx)),
        Plan::Project { exprs, .. } => Box::new(Project::new(input, exprs, ctx)),
        Plan::Sort { keys, .. } => Box::new(Rows::new(sorted(input, keys, ctx).await?)),
        Plan::Limit { limit, offset, .. } => {
            let skip = count(offset.as_ref(), "OFFSET", ctx)?.unwrap_or(0);
            let take = count(limit.as_ref(), "LIMIT", ctx)?.unwrap_or(usize::MAX);
            Box::new(Limit { input, skip, take })
        }
        _ => return Err(SqlError::internal("a node that doesn't stand above a direct plan")),
    })
}

fn env(ctx: &StatementContext) -> Env<'_> {
    Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] }
}

fn table(scan: &TableScan, ctx: &Arc<StatementContext>, demand: Demand) -> Result<Box<dyn RowStream>> {
    let spans = spans::of(&scan.table, &scan.filters, ctx)?;
    if spans.is_empty() {
        return Ok(Box::new(Rows::new(Vec::new())));
    }
    let width = scan.table.columns.len() + usize::from(scan.with_key);
    let columns: Vec<usize> = (0..width).collect();
    let mut reader = TableReader::new(Arc::clone(ctx), &scan.table, &columns, spans);
    if demand.reverse {
        reader = reader.reverse();
    }
    reader = reader.points(demand.points);
    if let Some(rows_max) = demand.rows_max {
        reader = if scan.filters.is_empty() { reader.limit(rows_max) } else { reader.expect(rows_max) };
    }
    if scan.filters.is_empty() {
        return Ok(Box::new(Table(reader)));
    }
    let input = Box::new(Table(reader));
    Ok(Box::new(Filter::new(input, scan.filters.clone(), ctx)))
}

/// LIMIT or OFFSET; NULL is none.
pub fn count(expr: Option<&Expr>, what: &str, ctx: &StatementContext) -> Result<Option<usize>> {
    let Some(expr) = expr else { return Ok(None) };
    match eval::eval(expr, &[], &env(ctx))? {
        Datum::Null => Ok(None),
        Datum::Int8(n) => match usize::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(SqlError::new(
                if what == "LIMIT" {
                    SqlState::INVALID_ROW_COUNT_IN_LIMIT_CLAUSE
                } else {
                    SqlState::INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE
                },
                format!("{what} must not be negative"),
            )),
        },
        _ => Err(SqlError::internal("LIMIT or OFFSET is not a bigint")),
    }
}

async fn sorted(mut input: Box<dyn RowStream>, keys: &[SortKey], ctx: &StatementContext) -> Result<Vec<Row>> {
    let env = env(ctx);
    let mut rows: Vec<(Vec<Datum>, Row)> = Vec::new();
    let mut bytes = 0;
    while let Some(batch) = input.next().await? {
        for row in batch {
            bytes += 2 * row_bytes(&row);
            if bytes > ctx.memory_bytes_max {
                return Err(out_of_memory("The rows to be sorted", ctx.memory_bytes_max));
            }
            let values = keys.iter().map(|k| eval::eval(&k.expr, &row, &env)).collect::<Result<_>>()?;
            rows.push((values, row));
        }
    }
    rows.sort_by(|(a, _), (b, _)| {
        keys.iter()
            .zip(a.iter().zip(b))
            .map(|(key, (a, b))| match (a.is_null(), b.is_null()) {
                (true, true) => std::cmp::Ordering::Equal,
                (true, false) if key.nulls_first => std::cmp::Ordering::Less,
                (true, false) => std::cmp::Ordering::Greater,
                (false, true) if key.nulls_first => std::cmp::Ordering::Greater,
                (false, true) => std::cmp::Ordering::Less,
                _ if key.descending => compare(b, a),
                _ => compare(a, b),
            })
            .find(|order| order.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

struct Table(TableReader);

#[async_trait]
impl RowStream for Table {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        self.0.next().await
    }
}

struct Limit {
    input: Box<dyn RowStream>,
    skip: usize,
    take: usize,
}

#[async_trait]
impl RowStream for Limit {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        while self.take > 0 {
            let Some(mut batch) = self.input.next().await? else { return Ok(None) };
            let skipped = self.skip.min(batch.len());
            self.skip -= skipped;
            batch.drain(..skipped);
            batch.truncate(self.take);
            self.take -= batch.len();
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}
