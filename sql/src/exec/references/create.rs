//! Foreign keys that are made or dropped.
//!
//! Both tables get a new version: who writes either of them must know of the constraint, and is refused by the tables' fences if it was
//! planned without. So nothing can slip between the look at the rows that are there and the first statement that is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use txn::api::Key;

use super::{References, WANTED_MAX, Wanted, links_of};
use crate::catalog::{Changes, ForeignKey, TableDescriptor};
use crate::error::{Result, SqlError};
use crate::exec::StatementContext;
use crate::exec::constraint::Constraints;
use crate::exec::key::explain;
use crate::exec::rewrite::lock_out_writers;
use crate::exec::scan::TableReader;
use crate::exec::spans::Spans;
use crate::exec::write::RowWriter;
use crate::types::Datum;

/// ALTER TABLE … ADD FOREIGN KEY: writes the links of the rows that are there, and looks for what they refer to.
pub async fn add_constraint(
    table: &Arc<TableDescriptor>,
    key: ForeignKey,
    changes: &Changes<'_>,
    ctx: &Arc<StatementContext>,
) -> Result<()> {
    lock_out_writers(table, ctx).await?;
    changes.check_current(table).await?;
    let mut new = TableDescriptor::clone(table);
    let at = new.foreign_keys.len();
    new.foreign_keys.push(key);
    let new = Arc::new(new);
    let all: Vec<usize> = (0..=table.columns.len()).collect();
    let mut reader = TableReader::new(Arc::clone(ctx), table, &all, Spans::all(table));
    let constraints = Constraints::with_checks(&new, Vec::new());
    let mut writer = RowWriter::with_constraints(&new, constraints, ctx).fresh(ctx.fences(table));
    let mut wanted = References::new(&new, ctx)?.wanted.remove(at);
    while let Some(rows) = reader.next().await? {
        for mut row in rows {
            let Some(Datum::Bytea(key)) = row.pop() else {
                return Err(SqlError::internal("a scan put out no row key"));
            };
            wanted.add(&row)?;
            for link in links_of(&new, &key, &row) {
                writer.put_encoded(link, TableDescriptor::entry_value(&key)).await?;
            }
        }
        if wanted.keys.len() >= WANTED_MAX {
            verify(&mut wanted, ctx).await?;
        }
    }
    verify(&mut wanted, ctx).await?;
    writer.flush().await?;
    let parent = new.foreign_keys[at].parent;
    changes.replace_table(table, TableDescriptor::clone(&new)).await?;
    touch_parents(&BTreeSet::from([parent]), table.id, changes, ctx).await
}

/// Looks whether everything is there that is referred to. Schema changes validate what they read.
async fn verify(wanted: &mut Wanted, ctx: &StatementContext) -> Result<()> {
    let fences = ctx.fences(&wanted.parent);
    let batch = std::mem::take(&mut wanted.keys);
    let keys: Vec<Key> = batch.keys().cloned().collect();
    let found = ctx.transaction.get(&keys, &fences).await;
    let found = found.map_err(|error| explain(error, ctx.catalog.image()))?;
    if let Some((values, _)) = batch.values().zip(found).find(|(_, value)| value.is_none()) {
        return Err(wanted.missing(values));
    }
    wanted.seen.extend(keys);
    if wanted.seen.len() > super::SEEN_MAX {
        wanted.seen.clear();
    }
    Ok(())
}

/// Gives the tables that `child` refers to, or did, a new version.
pub async fn touch_parents(
    parents: &BTreeSet<u32>,
    child: u32,
    changes: &Changes<'_>,
    ctx: &StatementContext,
) -> Result<()> {
    for parent in parents.iter().filter(|parent| **parent != child) {
        // As the transaction has it: it may have changed it.
        if let Some(parent) = ctx.catalog.transaction().image().table_by_id(*parent) {
            changes.replace_table(parent, TableDescriptor::clone(parent)).await?;
        }
    }
    Ok(())
}

/// Drops foreign keys: their tables, and their names. Those of a table that has changed since are found there.
pub async fn drop_constraints(
    keys: &[(Arc<TableDescriptor>, String)],
    changes: &Changes<'_>,
    ctx: &StatementContext,
) -> Result<()> {
    let mut by_table: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for (table, name) in keys {
        by_table.entry(table.id).or_default().push(name);
    }
    for (id, names) in by_table {
        let Some(table) = ctx.catalog.transaction().image().table_by_id(id).cloned() else { continue };
        let mut new = TableDescriptor::clone(&table);
        let (gone, kept) = new.foreign_keys.into_iter().partition(|key| names.contains(&key.name.as_str()));
        new.foreign_keys = kept;
        let gone: Vec<ForeignKey> = gone;
        changes.replace_table(&table, new).await?;
        let parents = gone.iter().map(|key| key.parent).collect();
        touch_parents(&parents, id, changes, ctx).await?;
    }
    Ok(())
}
