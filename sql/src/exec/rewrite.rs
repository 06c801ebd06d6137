//! Schema changes that touch every row: page by page, in bounded memory, in the statement's own transaction.
//!
//! Rows are written while the table's old version is still in force, and the descriptor is changed last. A rival's write to
//! the table meanwhile is a conflict, since the whole table was read; so rivals are kept waiting, as PostgreSQL does
//! ([`lock_out_writers`]). Readers are not: until the change commits they see the table as it was.

use std::sync::Arc;

use txn::api::LockWait;

use super::constraint::{Constraints, contains_nulls};
use super::key::explain;
use super::scan::TableReader;
use super::spans::Spans;
use super::write::RowWriter;
use super::{StatementContext, ddl};
use crate::catalog::{Changes, PrimaryKey, TableDescriptor, UniqueConstraint};
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::{Expr, Sharding};
use crate::types::Datum;

/// Has those who would write to a table of which all rows are to be read wait until the transaction ends. To be called before
/// anything is read.
pub async fn lock_out_writers(table: &TableDescriptor, ctx: &StatementContext) -> Result<()> {
    if ctx.catalog.transaction().has_changed(table.id) {
        // Its shards don't know the version that it has here; and who made it has it alone.
        return Ok(());
    }
    let explained = |error| explain(error, ctx.catalog.image());
    let wait = LockWait::For(ctx.lock_timeout);
    ctx.transaction.lock_table(&table.fence(), wait).await.map_err(explained)?;
    // A snapshot that was drawn before would miss what came since. (If it cannot be moved, the commit will tell.)
    ctx.transaction.refresh().await.map(|_| ()).map_err(explained)
}

/// ALTER TABLE … ADD PRIMARY KEY: copies the rows into a new storage, under their new keys.
pub async fn add_primary_key(
    table: &Arc<TableDescriptor>,
    columns: &[usize],
    name: Option<&str>,
    changes: &Changes<'_>,
    ctx: &Arc<StatementContext>,
) -> Result<()> {
    if table.primary_key.is_some() {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("multiple primary keys for table \"{}\" are not allowed", table.name),
        ));
    }
    lock_out_writers(table, ctx).await?;
    changes.check_current(table).await?;
    let mut new = TableDescriptor::clone(table);
    new.storage_id = changes.allocate_id().await?;
    for unique in &mut new.unique {
        // Entries say where their rows are, so they are written anew.
        unique.index_id = changes.allocate_id().await?;
    }
    for key in &mut new.foreign_keys {
        key.index_id = changes.allocate_id().await?;
    }
    let name = name.map_or_else(|| format!("{}_pkey", table.name), str::to_owned);
    new.primary_key = Some(PrimaryKey { name, columns: columns.to_vec() });
    for &column in columns {
        new.columns[column].not_null = true;
    }
    if let Sharding::RoundRobin { shards } = table.sharding {
        // Rows have keys now, and must be found by them.
        new.sharding = Sharding::Hash { shards, key_columns: columns.len() };
    }
    ddl::presplit(&new, ctx).await?;
    let new = Arc::new(new);
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let mut reader = TableReader::new(Arc::clone(ctx), table, &all, Spans::all(table));
    let constraints = Constraints::with_checks(&new, Vec::new());
    let mut writer = RowWriter::with_constraints(&new, constraints, ctx).fresh(ctx.fences(table));
    while let Some(rows) = reader.next().await? {
        for row in &rows {
            if let Some(&column) = columns.iter().find(|&&column| row[column].is_null()) {
                return Err(contains_nulls(table, column));
            }
            writer.insert(row).await.map_err(not_unique)?;
        }
    }
    writer.flush().await.map_err(not_unique)?;
    changes.replace_table(table, TableDescriptor::clone(&new)).await?;
    Ok(())
}

/// ALTER TABLE … ADD UNIQUE, CREATE UNIQUE INDEX: writes the entries of all rows. The rows stay.
pub async fn add_unique(
    table: &Arc<TableDescriptor>,
    columns: &[usize],
    name: &str,
    index_only: bool,
    changes: &Changes<'_>,
    ctx: &Arc<StatementContext>,
) -> Result<()> {
    lock_out_writers(table, ctx).await?;
    changes.check_current(table).await?;
    let mut new = TableDescriptor::clone(table);
    let index_id = changes.allocate_id().await?;
    let (name, columns) = (name.to_owned(), columns.to_vec());
    new.unique.push(UniqueConstraint { name, columns, index_id, index_only });
    let new = Arc::new(new);
    let width = table.columns.len();
    let all: Vec<usize> = (0..=width).collect();
    let mut reader = TableReader::new(Arc::clone(ctx), table, &all, Spans::all(table));
    let constraints = Constraints::with_checks(&new, Vec::new());
    let mut writer = RowWriter::with_constraints(&new, constraints, ctx).fresh(ctx.fences(table));
    while let Some(rows) = reader.next().await? {
        for mut row in rows {
            let Some(Datum::Bytea(key)) = row.pop() else {
                return Err(SqlError::internal("a scan put out no row key"));
            };
            writer.add_entry(table.unique.len(), &key, &row).await.map_err(not_unique)?;
        }
    }
    writer.flush().await.map_err(not_unique)?;
    changes.replace_table(table, TableDescriptor::clone(&new)).await?;
    Ok(())
}

/// What PostgreSQL says of duplicates when an index is built rather than used.
fn not_unique(mut error: SqlError) -> SqlError {
    if error.state == SqlState::UNIQUE_VIOLATION
        && let Some(name) = error.object.as_ref().and_then(|object| object.constraint.clone())
    {
        error.message = format!("could not create unique index \"{name}\"").into();
        error.detail = error.detail.take().map(|d| d.replace(" already exists.", " is duplicated."));
    }
    error
}

/// ALTER TABLE … ADD COLUMN with a default that is another one for each row, or NOT NULL without one: writes the column into every row.
pub async fn fill_column(
    old: &Arc<TableDescriptor>,
    new: &TableDescriptor,
    default: Option<&Expr>,
    ctx: &Arc<StatementContext>,
) -> Result<()> {
    lock_out_writers(old, ctx).await?;
    let width = old.columns.len();
    let env = Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] };
    let new = Arc::new(new.clone());
    let columns: Vec<usize> = (0..=width).collect();
    let mut reader = TableReader::new(Arc::clone(ctx), old, &columns, Spans::all(old));
    let constraints = Constraints::with_checks(&new, Vec::new());
    // The rows stay where they are, under the keys they have.
    let mut writer = RowWriter::with_constraints(&new, constraints, ctx).fresh(ctx.fences(old));
    while let Some(rows) = reader.next().await? {
        for mut row in rows {
            let Some(Datum::Bytea(key)) = row.pop() else {
                return Err(SqlError::internal("a scan put out no row key"));
            };
            let value = match default {
                Some(expr) => eval::eval(expr, &[], &env)?,
                None => Datum::Null,
            };
            if value.is_null() && new.columns[width].not_null {
                return Err(contains_nulls(&new, width));
            }
            row.push(value);
            writer.put(key, &row).await?;
        }
    }
    writer.flush().await
}
