//! INSERT.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use txn::LockMode;
use txn::api::{Fence, Key, LockedRow};

use super::constraint::row_bytes;
use super::key::{key_of_row, key_of_unique};
use super::source::{self, Effects};
use super::write::RowWriter;
use super::{Outcome, Row, RowStream, StatementContext};
use crate::catalog::layout;
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::{Insert, OnConflict};
use crate::types::Datum;

/// Runs an INSERT.
pub async fn run(insert: &Insert, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let mut rows = source::stream(&insert.source, &insert.table, false, None, &ctx).await?;
    let mut effects = Effects::new(insert.returning.as_ref(), &ctx);
    let mut writer = RowWriter::new(&insert.table, &ctx)?;
    match &insert.on_conflict {
        Some(on_conflict) if !insert.arbiters.is_empty() => {
            writer = writer.by_reading();
            let mut upsert =
                Upsert { insert, on_conflict, ctx: &ctx, written: HashSet::new(), written_bytes: 0 };
            while let Some(batch) = rows.next().await? {
                upsert.batch(batch, &mut writer, &mut effects).await?;
            }
        }
        // Without a key nothing can be in conflict.
        _ => {
            while let Some(batch) = rows.next().await? {
                for row in batch {
                    writer.insert(&row).await?;
                    effects.add(&row, &[])?;
                }
            }
        }
    }
    writer.finish().await?;
    Ok(effects.outcome("INSERT 0 "))
}

/// INSERT … ON CONFLICT. The keys are locked for DO UPDATE, whether or not there are rows, so that of those who upsert a row
/// one waits for the other. Existing rows are read through the transaction: a rival that inserts the same key without a
/// lock makes the commit fail, and the statement run again. Constraints that are no arbiters are checked as for any INSERT.
struct Upsert<'a> {
    insert: &'a Insert,
    on_conflict: &'a OnConflict,
    ctx: &'a StatementContext,
    /// The arbiters' keys of the rows that this statement has inserted or updated.
    written: HashSet<Key>,
    written_bytes: usize,
}

/// A row in the way of another: its key and what is stored there.
struct Existing {
    key: Key,
    row: Bytes,
}

impl Upsert<'_> {
    async fn batch(
        &mut self,
        rows: Vec<Row>,
        writer: &mut RowWriter,
        effects: &mut Effects<'_>,
    ) -> Result<()> {
        let table = &self.insert.table;
        for row in &rows {
            writer.check(row)?;
        }
        // Before the batch: later rows of the same statement are known by `written`.
        writer.flush().await?;
        let keys: Vec<Vec<Key>> = rows.iter().map(|row| self.arbiter_keys(row)).collect();
        let existing = self.existing(keys.iter().flatten().cloned().collect()).await?;
        let projection = super::scan::Projection::all(table, false);
        for (row, keys) in rows.into_iter().zip(keys) {
            let again = keys.iter().any(|key| self.written.contains(key));
            let old = keys.iter().find_map(|key| existing.get(key));
            if old.is_none() && !again {
                self.note(keys)?;
                writer.insert_checked(&row, &self.insert.arbiters).await?;
                effects.add(&row, &[])?;
                continue;
            }
            let OnConflict::Update { assignments, filter } = self.on_conflict else { continue };
            if again {
                return Err(SqlError::new(
                    SqlState::CARDINALITY_VIOLATION,
                    "ON CONFLICT DO UPDATE command cannot affect row a second time",
                )
                .hint(
                    "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
                ));
            }
            let Some(Existing { key, row: old }) = old else { continue };
            let old = projection.decode(key, old)?;
            let env = Env { ctx: &self.ctx.eval, params: &self.ctx.params, outer: &[] };
            let width = old.len();
            let both: Row = old.into_iter().chain(row).collect();
            if let Some(filter) = filter
                && !eval::eval_bool(filter, &both, &env)?
            {
                continue;
            }
            let old = &both[..width];
            let mut new: Row = old.to_vec();
            for (column, value) in assignments {
                new[*column] = eval::eval(value, &both, &env)?;
            }
            writer.check(&new)?;
            self.note(self.arbiter_keys(old))?;
            self.note(self.arbiter_keys(&new))?;
            writer.replace(key.clone(), old, &new).await?;
            effects.add(&new, &[])?;
        }
        Ok(())
    }

    /// The keys by which a row may be in conflict with others.
    fn arbiter_keys(&self, row: &[Datum]) -> Vec<Key> {
        let table = &self.insert.table;
        let key = |&at: &usize| match (at.checked_sub(1), &table.primary_key) {
            (None, primary) => primary.as_ref().map(|primary| key_of_row(table, &primary.columns, row)),
            (Some(at), _) => key_of_unique(table, table.unique.get(at)?, row),
        };
        self.insert.arbiters.iter().filter_map(key).collect()
    }

    /// The rows that stand, or are led to, under these keys.
    async fn existing(&self, mut keys: Vec<Key>) -> Result<HashMap<Key, Existing>> {
        let table = &self.insert.table;
        let fences = self.ctx.fences(table);
        keys.sort_unstable();
        keys.dedup();
        let values = self.look(&keys, &fences).await?;
        let (mut out, mut entries) = (HashMap::new(), Vec::new());
        for (key, value) in keys.into_iter().zip(values) {
            let Some(value) = value else { continue };
            if table.storage_of(&key) == Some(table.storage_id) {
                out.insert(key.clone(), Existing { key, row: value });
            } else {
                entries.push((key, layout::row_of_entry(&table.prefix(), &value)));
            }
        }
        let of_rows: Vec<Key> = entries.iter().map(|(_, row)| row.clone()).collect();
        let rows = self.look(&of_rows, &fences).await?;
        for ((entry, key), row) in entries.into_iter().zip(rows) {
            let Some(row) = row else {
                return Err(SqlError::new(
                    SqlState::DATA_CORRUPTED,
                    format!("an index entry of table \"{}\" leads to no row", table.name),
                ));
            };
            out.insert(entry, Existing { key, row });
        }
        Ok(out)
    }

    /// Reads keys; locks them if the rows may be changed.
    async fn look(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Bytes>>> {
        match self.on_conflict {
            OnConflict::Update { .. } => {
                let locked = self.ctx.lock(keys, LockMode::Update, fences).await?;
                Ok(locked.into_iter().map(LockedRow::value).collect())
            }
            OnConflict::Nothing => {
                let mut values = self.ctx.transaction.get(keys, fences).await?;
                let absent: Vec<usize> = (0..keys.len()).filter(|&at| values[at].is_none()).collect();
                if !self.ctx.is_serializable() && !absent.is_empty() {
                    // Somebody may be about to insert it, or may have since the snapshot.
                    let wanted: Vec<Key> = absent.iter().map(|&at| keys[at].clone()).collect();
                    let locked = self.ctx.lock(&wanted, LockMode::Update, fences).await?;
                    for (at, locked) in absent.into_iter().zip(locked) {
                        values[at] = locked.value();
                    }
                }
                Ok(values)
            }
        }
    }

    fn note(&mut self, keys: Vec<Key>) -> Result<()> {
        self.written_bytes += keys.iter().map(|key| key.len() + 64).sum::<usize>();
        if self.written_bytes > self.ctx.memory_bytes_max {
            return Err(super::write::out_of_memory("The keys of ON CONFLICT", self.ctx.memory_bytes_max));
        }
        self.written.extend(keys);
        Ok(())
    }
}

/// A stream whose rows were all computed before the first is taken: for sources that read the table they are written to.
pub struct Collected(std::vec::IntoIter<Row>);

/// Rows of a batch from [`Collected`].
const COLLECTED_BATCH_ROWS: usize = 1000;

impl Collected {
    /// Runs a stream to its end, within the statement's memory.
    pub async fn run(mut rows: Box<dyn RowStream>, ctx: &StatementContext) -> Result<Self> {
        let mut all: Vec<Row> = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = rows.next().await? {
            bytes += batch.iter().map(row_bytes).sum::<usize>();
            if bytes > ctx.memory_bytes_max {
                return Err(super::write::out_of_memory("The statement's rows", ctx.memory_bytes_max));
            }
            all.extend(batch);
        }
        Ok(Self(all.into_iter()))
    }
}

#[async_trait::async_trait]
impl RowStream for Collected {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        let batch: Vec<Vec<Datum>> = self.0.by_ref().take(COLLECTED_BATCH_ROWS).collect();
        Ok((!batch.is_empty()).then_some(batch))
    }
}
