//! INSERT.

use std::collections::HashMap;
use std::sync::Arc;

use txn::api::Key;

use super::constraint::row_bytes;
use super::key::key_of_row;
use super::source::{self, Effects};
use super::write::RowWriter;
use super::{Outcome, Row, RowStream, StatementContext};
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::{Insert, OnConflict};
use crate::types::Datum;

/// Runs an INSERT.
pub async fn run(insert: &Insert, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let mut rows = source::stream(&insert.source, &insert.table, false, &ctx).await?;
    let mut effects = Effects::new(insert.returning.as_ref(), &ctx);
    let mut writer = RowWriter::new(&insert.table, &ctx)?;
    match (&insert.on_conflict, &insert.table.primary_key) {
        (Some(on_conflict), Some(primary)) => {
            let mut upsert = Upsert {
                insert,
                on_conflict,
                primary: &primary.columns,
                ctx: &ctx,
                written: HashMap::new(),
                written_bytes: 0,
            };
            while let Some(batch) = rows.next().await? {
                upsert.batch(batch, &mut writer, &mut effects).await?;
            }
        }
        // Without a primary key nothing can be in conflict.
        _ => {
            while let Some(batch) = rows.next().await? {
                for row in batch {
                    writer.insert(&row).await?;
                    effects.add(&row, &[])?;
                }
            }
        }
    }
    writer.flush().await?;
    Ok(effects.outcome("INSERT 0 "))
}

/// INSERT … ON CONFLICT. Existing rows are read through the transaction, so that a rival that inserts the same key
/// meanwhile makes the commit fail, and the statement run again.
struct Upsert<'a> {
    insert: &'a Insert,
    on_conflict: &'a OnConflict,
    primary: &'a [usize],
    ctx: &'a StatementContext,
    /// The keys that this statement has inserted or updated.
    written: HashMap<Key, ()>,
    written_bytes: usize,
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
        let keys: Vec<Key> = rows.iter().map(|row| key_of_row(table, self.primary, row)).collect();
        // Before the batch: later rows of the same statement are known by `written`.
        writer.flush().await?;
        let fences = self.ctx.fences(table);
        let existing = self.ctx.transaction.get(&keys, &fences).await?;
        let projection = super::scan::Projection::all(table, false);
        for ((row, key), old) in rows.into_iter().zip(keys).zip(existing) {
            let again = self.written.contains_key(&key);
            let old = match old {
                None if !again => {
                    self.note(&key)?;
                    writer.put(key, &row).await?;
                    effects.add(&row, &[])?;
                    continue;
                }
                old => old,
            };
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
            let Some(old) = old else { continue };
            let old = projection.decode(&key, &old)?;
            let env = Env { ctx: &self.ctx.eval, params: &self.ctx.params, outer: &[] };
            let width = old.len();
            let both: Row = old.into_iter().chain(row).collect();
            if let Some(filter) = filter
                && !eval::eval_bool(filter, &both, &env)?
            {
                continue;
            }
            let mut new: Row = both[..width].to_vec();
            for (column, value) in assignments {
                new[*column] = eval::eval(value, &both, &env)?;
            }
            writer.check(&new)?;
            let new_key = key_of_row(table, self.primary, &new);
            if new_key != key {
                self.check_free(&new_key, writer).await?;
                writer.delete(key.clone()).await?;
                self.note(&key)?;
            }
            self.note(&new_key)?;
            writer.put(new_key, &new).await?;
            effects.add(&new, &[])?;
        }
        Ok(())
    }

    fn note(&mut self, key: &Key) -> Result<()> {
        self.written_bytes += key.len() + 64;
        if self.written_bytes > self.ctx.memory_bytes_max {
            return Err(super::write::out_of_memory("The keys of ON CONFLICT", self.ctx.memory_bytes_max));
        }
        self.written.insert(key.clone(), ());
        Ok(())
    }

    async fn check_free(&self, key: &Key, writer: &mut RowWriter) -> Result<()> {
        writer.flush().await?;
        let fences = self.ctx.fences(&self.insert.table);
        let there = self.ctx.transaction.get(std::slice::from_ref(key), &fences).await?;
        if there.iter().any(Option::is_some) { Err(writer.duplicate(key)) } else { Ok(()) }
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
