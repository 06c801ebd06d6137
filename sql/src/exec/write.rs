//! [`RowWriter`]: the writes of one statement, buffered into batches that carry the table's fence.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use txn::api::{Expect, Fence, Key, ScanRequest, Write};
use txn::ids::KeyRange;

use super::constraint::Constraints;
use super::key::{RowIds, duplicate_key, explain, key_of_row};
use super::{StatementContext, canceled};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::eval::Env;
use crate::types::{Datum, row};

/// Rows of one batch, at most.
const BATCH_ROWS_MAX: usize = 1000;
/// Bytes of one batch, about.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// A row's key may not be longer than this.
const KEY_BYTES_MAX: usize = 8192;
/// After so many batches a statement is a bulk load: new keys are looked for by range instead of one by one, which keeps
/// what is to be validated at commit small.
const BULK_AFTER_BATCHES: usize = 4;

/// How a new row's key is known to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uniqueness {
    /// The table has no primary key: hidden row ids are unique.
    Given,
    /// The commit demands it. Only for a transaction of one statement, since the error comes late. (It also couldn't
    /// tell a row that the transaction itself has deleted before.)
    AtCommit,
    /// By reading through the transaction, before the batch is written.
    ByReading,
    /// Nobody else can reach the rows yet, so only the statement's own keys count.
    AmongOwn,
}

/// Writes rows of one table on behalf of one statement.
pub struct RowWriter {
    ctx: Arc<StatementContext>,
    table: Arc<TableDescriptor>,
    constraints: Constraints,
    primary: Vec<usize>,
    ids: RowIds,
    fences: Vec<Fence>,
    uniqueness: Uniqueness,
    batch: Vec<Write>,
    batch_bytes: usize,
    /// The keys of the batch, to find duplicates in it.
    keys: HashSet<Key>,
    batches: usize,
    /// The greatest key inserted by earlier batches.
    greatest: Option<Key>,
}

impl RowWriter {
    /// A writer for a statement.
    pub fn new(table: &Arc<TableDescriptor>, ctx: &Arc<StatementContext>) -> Result<Self> {
        let constraints = Constraints::new(table, ctx)?;
        Ok(Self::with_constraints(table, constraints, ctx))
    }

    /// A writer with constraints of the caller's choosing.
    pub fn with_constraints(
        table: &Arc<TableDescriptor>,
        constraints: Constraints,
        ctx: &Arc<StatementContext>,
    ) -> Self {
        let uniqueness = match &table.primary_key {
            None => Uniqueness::Given,
            Some(_) if ctx.auto_commit => Uniqueness::AtCommit,
            Some(_) => Uniqueness::ByReading,
        };
        Self {
            ctx: Arc::clone(ctx),
            table: Arc::clone(table),
            constraints,
            primary: table.primary_key.as_ref().map(|k| k.columns.clone()).unwrap_or_default(),
            ids: RowIds::new(&ctx.eval.seams),
            fences: ctx.fences(table),
            uniqueness,
            batch: Vec::new(),
            batch_bytes: 0,
            keys: HashSet::new(),
            batches: 0,
            greatest: None,
        }
    }

    /// For a storage that is being made, which no statement of others can reach: nothing stands there yet, and `fences` are
    /// those of the table as it still is, if any.
    pub fn fresh(mut self, fences: Vec<Fence>) -> Self {
        self.fences = fences;
        if self.uniqueness != Uniqueness::Given {
            self.uniqueness = Uniqueness::AmongOwn;
        }
        self
    }

    /// Checks NOT NULL and CHECK.
    pub fn check(&self, row: &[Datum]) -> Result<()> {
        self.constraints.check(row, &Env { ctx: &self.ctx.eval, params: &self.ctx.params, outer: &[] })
    }

    /// The key that a row has, or gets now if the table has no primary key.
    pub fn key_of(&mut self, row: &[Datum]) -> Key {
        match self.uniqueness {
            Uniqueness::Given => self.ids.key(&self.table, &self.ctx.eval.seams),
            _ => key_of_row(&self.table, &self.primary, row),
        }
    }

    fn encode(&self, row: &[Datum]) -> Bytes {
        row::encode(self.table.columns.iter().map(|c| c.id).zip(row)).into()
    }

    /// A new row: its constraints are checked, its key must not exist.
    pub async fn insert(&mut self, row: &[Datum]) -> Result<()> {
        debug_assert_eq!(row.len(), self.table.columns.len(), "a row has the table's visible columns");
        self.check(row)?;
        let key = self.key_of(row);
        self.check_length(&key)?;
        let value = self.encode(row);
        if self.uniqueness != Uniqueness::Given && !self.keys.insert(key.clone()) {
            return Err(self.duplicate(&key));
        }
        let expect = match self.uniqueness {
            Uniqueness::AtCommit => Expect::Absent,
            _ => Expect::Any,
        };
        self.push(Write { key, value: Some(value), expect }).await
    }

    /// A row under a key that the caller knows to be right: an update, or an insert after a look.
    pub async fn put(&mut self, key: Key, row: &[Datum]) -> Result<()> {
        self.check_length(&key)?;
        let value = Some(self.encode(row));
        self.push(Write { key, value, expect: Expect::Any }).await
    }

    /// Deletes the row under a key.
    pub async fn delete(&mut self, key: Key) -> Result<()> {
        self.push(Write { key, value: None, expect: Expect::Any }).await
    }

    /// Keys are compared, latched and kept in memory all over the cluster: they are bounded.
    fn check_length(&self, key: &Key) -> Result<()> {
        if key.len() <= KEY_BYTES_MAX {
            return Ok(());
        }
        let name = self.table.primary_key.as_ref().map(|k| k.name.as_str()).unwrap_or_default();
        Err(SqlError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("index row size {} exceeds maximum {KEY_BYTES_MAX} for index \"{name}\"", key.len()),
        )
        .hint("Values larger than that cannot be in a primary key."))
    }

    async fn push(&mut self, write: Write) -> Result<()> {
        self.batch_bytes += write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
        self.batch.push(write);
        if self.batch.len() >= BATCH_ROWS_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands what is buffered to the transaction. To be called at the end of the statement.
    pub async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.ctx.cancel.is_cancelled() {
            return Err(canceled());
        }
        let keys = std::mem::take(&mut self.keys);
        if !keys.is_empty() {
            self.check_new(keys).await?;
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.batches += 1;
        let written = self.ctx.transaction.write(batch, &self.fences).await;
        written.map_err(|error| explain(error, self.ctx.catalog.image()))
    }

    /// Fails with `23505` if one of the keys to be inserted exists, as far as this has to be known now.
    async fn check_new(&mut self, keys: HashSet<Key>) -> Result<()> {
        let mut keys: Vec<Key> = keys.into_iter().collect();
        keys.sort_unstable();
        let (Some(first), Some(last)) = (keys.first().cloned(), keys.last().cloned()) else { return Ok(()) };
        let ascending = self.greatest.as_ref().is_none_or(|greatest| *greatest < first);
        self.greatest = self.greatest.take().max(Some(last.clone()));
        if self.uniqueness != Uniqueness::ByReading && ascending {
            // The keys are above all that the statement has inserted before; if there is more to fear, the commit sees to it.
            return Ok(());
        }
        if self.batches >= BULK_AFTER_BATCHES {
            let range = KeyRange::new(first, KeyRange::point(&last).end);
            let request = ScanRequest { range, reverse: false, rows_max: 1 };
            let page = self.ctx.transaction.scan(request, &self.fences).await?;
            if page.rows.is_empty() && page.rest.is_none() {
                return Ok(());
            }
        }
        let values = self.ctx.transaction.get(&keys, &self.fences).await?;
        match keys.iter().zip(values).find(|(_, value)| value.is_some()) {
            Some((key, _)) => Err(self.duplicate(key)),
            None => Ok(()),
        }
    }

    /// `23505` for a key.
    pub fn duplicate(&self, key: &Key) -> SqlError {
        match super::key::values_of_key(&self.table, key) {
            Ok(values) => duplicate_key(&self.table, &values),
            Err(error) => error,
        }
    }
}

/// `53200`, when a statement would have to hold more than it may.
pub fn out_of_memory(what: &str, bytes_max: usize) -> SqlError {
    SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory")
        .detail(format!("{what} need more than {} MiB.", bytes_max >> 20))
        .hint("Change fewer rows at once.")
}
