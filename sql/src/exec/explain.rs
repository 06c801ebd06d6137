//! EXPLAIN: which way a statement runs, and through what.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Outcome, RowStream, Rows, StatementContext, direct, execute, spans};
use crate::error::{Result, SqlError};
use crate::flow;
use crate::ir::{Ddl, OutputColumn, Plan, Statement, TableScan};
use crate::types::{ColumnType, Datum, Type};

/// Runs EXPLAIN.
pub async fn run(statement: &Statement, analyze: bool, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let mut lines = Vec::new();
    match statement {
        Statement::Query(plan) | Statement::QueryLocked { plan, .. } => {
            query_lines(plan, &ctx, &mut lines, 0).await?;
        }
        Statement::SelectLocked(select) => {
            lines.push(format!("Lock rows of {}", select.table.name));
            query_lines(&select.source, &ctx, &mut lines, 1).await?;
        }
        Statement::Insert(insert) => {
            lines.push(format!("Insert on {}", insert.table.name));
            query_lines(&insert.source, &ctx, &mut lines, 1).await?;
        }
        Statement::Update(update) => {
            lines.push(format!("Update on {}", update.table.name));
            query_lines(&update.source, &ctx, &mut lines, 1).await?;
        }
        Statement::Delete(delete) => {
            lines.push(format!("Delete on {}", delete.table.name));
            query_lines(&delete.source, &ctx, &mut lines, 1).await?;
        }
        Statement::Ddl(Ddl::CreateTable { name, source: Some(source), .. }) => {
            lines.push(format!("Create table {name}"));
            query_lines(source, &ctx, &mut lines, 1).await?;
        }
        Statement::CopyFrom(_) | Statement::CopyTo(_) | Statement::Explain { .. } | Statement::Ddl(_) => {
            return Err(SqlError::unsupported("EXPLAIN of this statement"));
        }
    }
    if analyze {
        let clock = Arc::clone(&ctx.eval.seams.clock);
        let start = clock.now();
        let rows = match Box::pin(execute(statement, ctx)).await? {
            Outcome::Rows { rows, .. } => count(rows).await?,
            Outcome::Done { tag, .. } => {
                tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()
            }
        };
        let took = clock.now().saturating_duration_since(start);
        lines.push(format!("Rows: {rows}"));
        lines.push(format!("Execution Time: {:.3} ms", took.as_secs_f64() * 1000.0));
    }
    let column = OutputColumn { name: "QUERY PLAN".into(), ty: ColumnType::plain(Type::Text), origin: None };
    let rows = lines.into_iter().map(|line| vec![Datum::text(line)]).collect();
    Ok(Outcome::Rows { columns: vec![column], rows: Box::new(Rows::new(rows)), tag: "EXPLAIN" })
}

async fn count(mut rows: Box<dyn RowStream>) -> Result<u64> {
    let mut count = 0;
    while let Some(batch) = rows.next().await? {
        count += batch.len() as u64;
    }
    Ok(count)
}

async fn query_lines(
    plan: &Plan,
    ctx: &Arc<StatementContext>,
    lines: &mut Vec<String>,
    depth: usize,
) -> Result<()> {
    let indent = "  ".repeat(depth);
    if direct::applies(plan) {
        lines.push(format!("{indent}Direct"));
        return direct_lines(plan, ctx, lines, depth + 1);
    }
    lines.push(format!("{indent}Flow"));
    for line in flow::explain(plan, Arc::clone(ctx)).await?.lines() {
        lines.push(format!("{indent}  {line}"));
    }
    Ok(())
}

fn direct_lines(plan: &Plan, ctx: &StatementContext, lines: &mut Vec<String>, depth: usize) -> Result<()> {
    let mut line = "  ".repeat(depth);
    let input = match plan {
        Plan::Values { rows, .. } => {
            let _ = write!(line, "Values: {} rows", rows.len());
            None
        }
        Plan::VirtualScan { name, .. } => {
            let _ = write!(line, "System view {}.{}", name.0, name.1);
            None
        }
        Plan::Scan(scan) => {
            scan_line(scan, ctx, &mut line)?;
            None
        }
        Plan::Filter { input, .. } => {
            line.push_str("Filter");
            Some(input)
        }
        Plan::Project { input, exprs, .. } => {
            let _ = write!(line, "Project: {} columns", exprs.len());
            Some(input)
        }
        Plan::Sort { input, keys } => {
            let _ = match direct::order_of_scan(input, keys) {
                Some(false) => write!(line, "Sort: the scan's order"),
                Some(true) => write!(line, "Sort: the scan's order, backwards"),
                None => write!(line, "Sort: {} keys", keys.len()),
            };
            Some(input)
        }
        Plan::Limit { input, .. } => {
            line.push_str("Limit");
            Some(input)
        }
        _ => return Err(SqlError::internal("a plan that is not direct was explained as direct")),
    };
    lines.push(line);
    input.map_or(Ok(()), |input| direct_lines(input, ctx, lines, depth + 1))
}

fn scan_line(scan: &TableScan, ctx: &StatementContext, line: &mut String) -> Result<()> {
    let name = &scan.table.name;
    let _ = match spans::of(&scan.table, &scan.filters, ctx)? {
        spans::Spans::Points(keys) => write!(line, "Get {name}: {} keys", keys.len()),
        spans::Spans::Entries { index, keys } => {
            let unique = scan.table.unique.iter().find(|u| u.index_id == index);
            let of = unique.map(|u| u.name.as_str()).unwrap_or_default();
            write!(line, "Get {name}: {} entries of {of}", keys.len())
        }
        all if all == spans::Spans::all(&scan.table) => write!(line, "Scan {name}: all rows"),
        spans::Spans::Ranges(ranges) => write!(line, "Scan {name}: {} key ranges", ranges.len()),
    };
    if !scan.filters.is_empty() {
        let _ = write!(line, ", {} filters", scan.filters.len());
    }
    Ok(())
}
