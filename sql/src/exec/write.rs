//! [`RowWriter`]: the writes of one statement, buffered into batches that carry the table's fence.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use txn::api::{Expect, Fence, Key, LockedRow, ScanRequest, Write};
use txn::ids::KeyRange;

use super::constraint::Constraints;
use super::key::{RowIds, duplicate_key, entries_of, explain, key_of_row, key_of_unique};
use super::references::{self, References, links_of, set_links};
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

/// Keys that one statement locks to insert them; those beyond are left to the checks of the commit.
const LOCKED_KEYS_MAX: usize = 10_000;

/// How a new row's key is known to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uniqueness {
    /// The commit demands it. Only for a transaction of one statement, since the error comes late. (It also couldn't
    /// tell a row that the transaction itself has deleted before.)
    AtCommit,
    /// By reading through the transaction, before the batch is written.
    ByReading,
    /// By locking the keys and reading what stands there at the latest, before the batch is written: below SERIALIZABLE, where
    /// reading promises nothing. The commit demands it all the same, should a lock be lost.
    ByLocking,
    /// Nobody else can reach the rows yet, so only the statement's own keys count.
    AmongOwn,
}

impl Uniqueness {
    /// For statements that need to know at once.
    fn now(ctx: &StatementContext) -> Self {
        if ctx.is_serializable() { Uniqueness::ByReading } else { Uniqueness::ByLocking }
    }
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
    batches: usize,
    /// Keys that were locked.
    claimed: usize,
    /// What the batch inserts for the primary key, and then for each UNIQUE constraint.
    claims: Vec<Claims>,
    /// What foreign keys have to be asked about.
    references: References,
}

/// Keys of one constraint that a statement inserts.
#[derive(Default)]
struct Claims {
    /// The keys of the batch, to find duplicates in it.
    keys: HashSet<Key>,
    /// The greatest key inserted by earlier batches.
    greatest: Option<Key>,
}

impl RowWriter {
    /// A writer for a statement.
    pub fn new(table: &Arc<TableDescriptor>, ctx: &Arc<StatementContext>) -> Result<Self> {
        let constraints = Constraints::new(table, ctx)?;
        let references = References::new(table, ctx)?;
        Ok(Self { references, ..Self::with_constraints(table, constraints, ctx) })
    }

    /// A writer with constraints of the caller's choosing, foreign keys not among them.
    pub fn with_constraints(
        table: &Arc<TableDescriptor>,
        constraints: Constraints,
        ctx: &Arc<StatementContext>,
    ) -> Self {
        let uniqueness = if ctx.auto_commit { Uniqueness::AtCommit } else { Uniqueness::now(ctx) };
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
            batches: 0,
            claimed: 0,
            claims: (0..=table.unique.len()).map(|_| Claims::default()).collect(),
            references: References::default(),
        }
    }

    /// For a storage that is being made, which no statement of others can reach: nothing stands there yet, and `fences` are
    /// those of the table as it still is, if any.
    pub fn fresh(mut self, fences: Vec<Fence>) -> Self {
        self.fences = fences;
        self.uniqueness = Uniqueness::AmongOwn;
        self
    }

    /// For statements that also change rows: what is deleted in the same transaction must not count as there.
    pub fn by_reading(mut self) -> Self {
        self.uniqueness = Uniqueness::now(&self.ctx);
        self
    }

    /// Checks NOT NULL and CHECK.
    pub fn check(&self, row: &[Datum]) -> Result<()> {
        self.constraints.check(row, &Env { ctx: &self.ctx.eval, params: &self.ctx.params, outer: &[] })
    }

    /// The key that a row has, or gets now if the table has no primary key.
    pub fn key_of(&mut self, row: &[Datum]) -> Key {
        match &self.table.primary_key {
            None => self.ids.key(&self.table, &self.ctx.eval.seams),
            Some(_) => key_of_row(&self.table, &self.primary, row),
        }
    }

    /// A row as it is stored.
    pub fn encode(&self, row: &[Datum]) -> Bytes {
        let columns = self.table.columns.iter().zip(row);
        row::encode(columns.map(|(column, datum)| (column.id, datum, column.missing.is_some()))).into()
    }

    /// A new row: its constraints are checked, its key must not exist.
    pub async fn insert(&mut self, row: &[Datum]) -> Result<()> {
        debug_assert_eq!(row.len(), self.table.columns.len(), "a row has the table's visible columns");
        self.check(row)?;
        self.insert_checked(row, &[]).await
    }

    /// A new row whose constraints were checked, but for uniqueness; `free` are the constraints (0 is the primary key, 1 the
    /// first UNIQUE one) of which the caller knows by reading that no row is in the way.
    pub async fn insert_checked(&mut self, row: &[Datum], free: &[usize]) -> Result<()> {
        let key = self.key_of(row);
        let entry_value = TableDescriptor::entry_value(&key);
        let value = self.encode(row);
        self.references.inserted(row)?;
        for link in links_of(&self.table, &key, row) {
            self.put_encoded(link, entry_value.clone()).await?;
        }
        if self.table.primary_key.is_none() || free.contains(&0) {
            self.put_encoded(key, value).await?;
        } else {
            self.claim(0, key, value).await?;
        }
        for at in 0..self.table.unique.len() {
            let Some(entry) = key_of_unique(&self.table, &self.table.unique[at], row) else { continue };
            if free.contains(&(at + 1)) {
                self.put_encoded(entry, entry_value.clone()).await?;
            } else {
                self.claim(at + 1, entry, entry_value.clone()).await?;
            }
        }
        Ok(())
    }

    /// The entry of an existing row for a UNIQUE constraint that is being added.
    pub async fn add_entry(&mut self, unique: usize, key: &Key, row: &[Datum]) -> Result<()> {
        match key_of_unique(&self.table, &self.table.unique[unique], row) {
            Some(entry) => self.claim(unique + 1, entry, TableDescriptor::entry_value(key)).await,
            None => Ok(()),
        }
    }

    /// An existing row's new values, when they are to be right one row at a time: its old keys are left, its new ones must
    /// be free.
    pub async fn replace(&mut self, key: Key, old: &[Datum], new: &[Datum]) -> Result<()> {
        let new_key = match &self.table.primary_key {
            None => key.clone(),
            Some(_) => key_of_row(&self.table, &self.primary, new),
        };
        let (before, after) = (entries_of(&self.table, old), entries_of(&self.table, new));
        self.relink((&key, old), (&new_key, new)).await?;
        if new_key == key && before == after {
            return self.put(key, new).await;
        }
        // What the batch deletes must be known to who looks for keys, here and in the next batch.
        self.flush().await?;
        let mut wanted: Vec<Key> = after.iter().filter(|entry| !before.contains(entry)).cloned().collect();
        wanted.extend((new_key != key).then(|| new_key.clone()));
        let there = self.ctx.transaction.get(&wanted, &self.fences).await?;
        if let Some((taken, _)) = wanted.iter().zip(there).find(|(_, value)| value.is_some()) {
            return Err(self.duplicate(taken));
        }
        for entry in before {
            if !after.contains(&entry) {
                self.delete_key(entry).await?;
            }
        }
        if new_key != key {
            self.delete_key(key).await?;
        }
        for entry in after {
            self.put_encoded(entry, TableDescriptor::entry_value(&new_key)).await?;
        }
        self.put(new_key, new).await?;
        self.flush().await
    }

    /// A row has other values, or another key: its links follow, and those who refer to it are remembered.
    pub async fn relink(&mut self, old: (&Key, &[Datum]), new: (&Key, &[Datum])) -> Result<()> {
        self.references.changed(old.1, new.1)?;
        if self.table.foreign_keys.is_empty() {
            return Ok(());
        }
        let (gone, added) = set_links(&self.table, old, new);
        for link in gone {
            self.delete_key(link).await?;
        }
        for link in added {
            self.put_encoded(link, TableDescriptor::entry_value(new.0)).await?;
        }
        Ok(())
    }

    /// The first half of [`RowWriter::relink`], for rows that take each other's keys.
    pub async fn unlink(&mut self, key: &Key, old: &[Datum], new: &[Datum]) -> Result<()> {
        self.references.changed(old, new)?;
        for link in links_of(&self.table, key, old) {
            self.delete_key(link).await?;
        }
        Ok(())
    }

    /// The second half.
    pub async fn link(&mut self, key: &Key, new: &[Datum]) -> Result<()> {
        for link in links_of(&self.table, key, new) {
            self.put_encoded(link, TableDescriptor::entry_value(key)).await?;
        }
        Ok(())
    }

    /// Whether there are foreign keys, of the table or to it.
    pub fn has_references(&self) -> bool {
        self.references.any()
    }

    /// Whether rows with other values in these columns have to be told to [`RowWriter::relink`].
    pub fn refers_by(&self, columns: &[usize]) -> bool {
        self.table.foreign_keys.iter().flat_map(|key| &key.columns).any(|column| columns.contains(column))
    }

    /// Writes a key that must be new.
    async fn claim(&mut self, constraint: usize, key: Key, value: Bytes) -> Result<()> {
        self.check_length(&key)?;
        if !self.claims[constraint].keys.insert(key.clone()) {
            return Err(self.duplicate(&key));
        }
        let expect = match self.uniqueness {
            Uniqueness::AtCommit | Uniqueness::ByLocking => Expect::Absent,
            Uniqueness::ByReading | Uniqueness::AmongOwn => Expect::Any,
        };
        self.push(Write { key, value: Some(value), expect }).await
    }

    /// A row under a key that the caller knows to be right, with unchanged values for all UNIQUE constraints (or none).
    pub async fn put(&mut self, key: Key, row: &[Datum]) -> Result<()> {
        let value = self.encode(row);
        self.put_encoded(key, value).await
    }

    /// A row or an index entry under a key that the caller knows to be right.
    pub async fn put_encoded(&mut self, key: Key, value: Bytes) -> Result<()> {
        self.check_length(&key)?;
        self.push(Write { key, value: Some(value), expect: Expect::Any }).await
    }

    /// Deletes a row with its index entries.
    pub async fn delete(&mut self, key: Key, row: &[Datum]) -> Result<()> {
        self.references.deleted(row)?;
        for entry in entries_of(&self.table, row).into_iter().chain(links_of(&self.table, &key, row)) {
            self.delete_key(entry).await?;
        }
        self.delete_key(key).await
    }

    /// Deletes what stands under a key.
    pub async fn delete_key(&mut self, key: Key) -> Result<()> {
        self.push(Write { key, value: None, expect: Expect::Any }).await
    }

    /// Keys are compared, latched and kept in memory all over the cluster: they are bounded.
    fn check_length(&self, key: &Key) -> Result<()> {
        if key.len() <= KEY_BYTES_MAX {
            return Ok(());
        }
        let storage = self.table.storage_of(key);
        let unique = self.table.unique.iter().find(|u| Some(u.index_id) == storage).map(|u| u.name.as_str());
        let primary = self.table.primary_key.as_ref().map(|k| k.name.as_str());
        let name = unique.or(primary).unwrap_or_default();
        Err(SqlError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("index row size {} exceeds maximum {KEY_BYTES_MAX} for index \"{name}\"", key.len()),
        )
        .hint("Values larger than that cannot be in a primary key or a UNIQUE constraint."))
    }

    async fn push(&mut self, write: Write) -> Result<()> {
        self.batch_bytes += write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
        self.batch.push(write);
        if self.batch.len() >= BATCH_ROWS_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands what is left to the transaction, and settles what foreign keys have to say about it. To be called at the end of the statement.
    pub async fn finish(&mut self) -> Result<()> {
        self.flush().await?;
        references::settle(&self.ctx, std::mem::take(&mut self.references)).await
    }

    /// What foreign keys have to be asked about. Everything is written.
    pub fn into_references(self) -> References {
        debug_assert!(self.batch.is_empty(), "rows that are not written yet");
        self.references
    }

    /// Hands what is buffered to the transaction.
    pub async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.ctx.cancel.is_cancelled() {
            return Err(canceled());
        }
        for at in 0..self.claims.len() {
            let keys = std::mem::take(&mut self.claims[at].keys);
            if !keys.is_empty() {
                self.check_new(at, keys).await?;
            }
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.batches += 1;
        let written = self.ctx.transaction.write(batch, &self.fences).await;
        written.map_err(|error| explain(error, self.ctx.catalog.image()))?;
        self.references.check_early(&self.ctx).await
    }

    /// Fails with `23505` if one of the keys to be inserted exists, as far as this has to be known now.
    async fn check_new(&mut self, constraint: usize, keys: HashSet<Key>) -> Result<()> {
        let mut keys: Vec<Key> = keys.into_iter().collect();
        keys.sort_unstable();
        let (Some(first), Some(last)) = (keys.first().cloned(), keys.last().cloned()) else { return Ok(()) };
        let claims = &mut self.claims[constraint];
        let ascending = claims.greatest.as_ref().is_none_or(|greatest| *greatest < first);
        claims.greatest = claims.greatest.take().max(Some(last.clone()));
        if matches!(self.uniqueness, Uniqueness::AtCommit | Uniqueness::AmongOwn) && ascending {
            // The keys are above all that the statement has inserted before; if there is more to fear, the commit sees to it.
            return Ok(());
        }
        if self.uniqueness == Uniqueness::ByLocking && self.claimed < LOCKED_KEYS_MAX {
            self.claimed += keys.len();
            let locked = self.ctx.lock_latest(&keys, &self.fences).await?;
            let values = locked.into_iter().map(LockedRow::value);
            return match keys.iter().zip(values).find(|(_, value)| value.is_some()) {
                Some((key, _)) => Err(self.duplicate(key)),
                None => Ok(()),
            };
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
        duplicate_key(&self.table, key)
    }
}

/// `53200`, when a statement would have to hold more than it may.
pub fn out_of_memory(what: &str, bytes_max: usize) -> SqlError {
    SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory")
        .detail(format!("{what} need more than {} MiB.", bytes_max >> 20))
        .hint("Change fewer rows at once.")
}
