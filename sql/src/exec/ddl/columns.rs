//! Columns that come and go.

use std::sync::Arc;

use super::{done, drop_dependents, now, skipped};
use crate::bind;
use crate::catalog::{Changes, ColumnDescriptor, Missing, TableDescriptor};
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::exec::{Outcome, StatementContext, references, rewrite};
use crate::ir::{Cascade, Expr, NewColumn};
use crate::types::Datum;

/// ALTER TABLE … ADD COLUMN.
pub(super) async fn add_column(
    table: &Arc<TableDescriptor>,
    column: &NewColumn,
    if_not_exists: bool,
    changes: &Changes<'_>,
    ctx: &Arc<StatementContext>,
) -> Result<Outcome> {
    if table.columns.iter().any(|c| c.name == column.name) {
        let error = duplicate_column(table, &column.name);
        if if_not_exists {
            return skipped("ALTER TABLE", format!("{}, skipping", error.message));
        }
        return Err(error);
    }
    let mut new = TableDescriptor::clone(table);
    new.columns.push(ColumnDescriptor {
        id: new.next_column_id,
        name: column.name.clone(),
        ty: column.ty,
        not_null: column.not_null,
        default: column.default.as_ref().map(|(text, _)| text.clone()),
        missing: None,
    });
    new.next_column_id += 1;
    let default = column.default.as_ref().map(|(_, expr)| expr);
    let env = Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] };
    // What is the same in all rows needn't be written into any (as in PostgreSQL since 11).
    let same = match default {
        Some(expr) if expr.is_volatile() => None,
        Some(expr) => Some(eval::eval(expr, &[], &env)?),
        None => Some(Datum::Null),
    };
    match same.filter(|value| !(value.is_null() && column.not_null)) {
        Some(Datum::Null) => {}
        Some(value) => new.columns[table.columns.len()].missing = Some(Missing(value)),
        // (NOT NULL without a value is for tables without rows.)
        None => rewrite::fill_column(table, &new, default, ctx).await?,
    }
    changes.replace_table(table, new).await?;
    done("ALTER TABLE")
}

/// ALTER TABLE … DROP COLUMN.
pub(super) async fn drop_column(
    table: &Arc<TableDescriptor>,
    column: usize,
    cascade: &Cascade,
    changes: &Changes<'_>,
    ctx: &StatementContext,
) -> Result<Outcome> {
    let gone = table.foreign_keys.iter().filter(|key| key.columns.contains(&column));
    let gone: Vec<_> = gone.map(|key| (Arc::clone(table), key.name.clone())).collect();
    references::drop_constraints(&gone, changes, ctx).await?;
    drop_dependents(cascade, changes, ctx).await?;
    let table = &now(table, ctx);
    if table.primary_key.as_ref().is_some_and(|k| k.columns.contains(&column)) {
        return Err(SqlError::unsupported("dropping a column of the primary key"));
    }
    let mut new = TableDescriptor::clone(table);
    let mut kept = Vec::new();
    for check in &table.checks {
        // A constraint goes with a column that it is about.
        let expr = bind::bind_check(&check.expr, table, &*ctx.catalog, &ctx.eval)?;
        if !expr.any(&mut |e| matches!(e, Expr::Column(i, _) if *i == column)) {
            kept.push(check.clone());
        }
    }
    new.checks = kept;
    new.columns.remove(column);
    new.unique.retain(|unique| !unique.columns.contains(&column));
    let keys = new.primary_key.iter_mut().map(|k| &mut k.columns);
    let keys = keys.chain(new.unique.iter_mut().map(|u| &mut u.columns));
    for place in keys.chain(new.foreign_keys.iter_mut().map(|key| &mut key.columns)).flatten() {
        if *place > column {
            *place -= 1;
        }
    }
    changes.replace_table(table, new).await?;
    Ok(Outcome::Done { tag: "ALTER TABLE".into(), notices: cascade.notices.clone() })
}

/// Constraints are kept as text, which names columns: a rename that one of them would notice is refused.
pub(super) fn checks_still_bind(table: &TableDescriptor, ctx: &StatementContext) -> Result<()> {
    for check in &table.checks {
        if bind::bind_check(&check.expr, table, &*ctx.catalog, &ctx.eval).is_err() {
            return Err(SqlError::unsupported(format_args!(
                "renaming what the check constraint \"{}\" refers to",
                check.name
            )));
        }
    }
    Ok(())
}

/// `42701`
pub(super) fn duplicate_column(table: &TableDescriptor, name: &str) -> SqlError {
    SqlError::new(
        SqlState::DUPLICATE_COLUMN,
        format!("column \"{name}\" of relation \"{}\" already exists", table.name),
    )
}
