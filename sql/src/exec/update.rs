//! UPDATE and DELETE.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use txn::LockMode;
use txn::api::{Fence, Key, LockedRow};

use super::constraint::row_bytes;
use super::key::{entries_of, key_of_row};
use super::recheck::Recheck;
use super::source::{self, Effects};
use super::write::{RowWriter, out_of_memory};
use super::{Outcome, Row, StatementContext};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError};
use crate::ir::{Delete, Plan, Update};
use crate::types::Datum;

/// Rows that one statement locks. What it changes beyond is left to the checks of its commit: a lock costs memory at the
/// shard's leader for as long as the transaction lives.
const LOCKED_ROWS_MAX: usize = 10_000;

/// Tells rows that a join puts out several times: only the first counts.
struct Once {
    seen: Option<HashSet<Bytes>>,
    bytes: usize,
    bytes_max: usize,
}

impl Once {
    fn new(plain: bool, ctx: &StatementContext) -> Self {
        Self { seen: (!plain).then(HashSet::new), bytes: 0, bytes_max: ctx.memory_bytes_max }
    }

    fn first(&mut self, key: &Key) -> Result<bool> {
        let Some(seen) = &mut self.seen else { return Ok(true) };
        self.bytes += key.len() + 64;
        if self.bytes > self.bytes_max {
            return Err(out_of_memory("The keys of the changed rows", self.bytes_max));
        }
        Ok(seen.insert(key.clone()))
    }
}

/// The storage key that a row carries in one of its columns.
pub fn key_in(row: &[Datum], at: usize) -> Result<Key> {
    match row.get(at) {
        Some(Datum::Bytea(key)) => Ok(key.clone()),
        // The target's side of an outer join without a match cannot come here: the binder joins it first.
        _ => Err(SqlError::internal("the source of a change puts out no row key")),
    }
}

/// Locks the rows that a statement is about to change, before it changes them: rivals then wait instead of failing when they
/// commit. (A row that has changed since it was read makes the statement run again, or, in READ COMMITTED, is looked at again.)
struct Locks<'a> {
    ctx: &'a StatementContext,
    fences: Vec<Fence>,
    key_at: usize,
    mode: LockMode,
    left: usize,
    recheck: Option<Recheck<'a>>,
}

impl<'a> Locks<'a> {
    fn new(
        source: &'a Plan,
        table: &'a Arc<TableDescriptor>,
        mode: LockMode,
        ctx: &'a Arc<StatementContext>,
    ) -> Self {
        let recheck = Recheck::new(source, table, ctx);
        let fences = ctx.fences(table);
        Self { ctx, fences, key_at: table.columns.len(), mode, left: LOCKED_ROWS_MAX, recheck }
    }

    /// What is to be run to find the rows.
    fn source(&self, source: &'a Plan) -> Cow<'a, Plan> {
        match &self.recheck {
            Some(recheck) => Cow::Owned(recheck.widened()),
            None => Cow::Borrowed(source),
        }
    }

    /// Locks rows of the source. Returns those that are still to be changed, as they are now.
    async fn take(&mut self, rows: Vec<Row>) -> Result<Vec<Row>> {
        let keys: Vec<Key> =
            rows.iter().take(self.left).map(|row| key_in(row, self.key_at)).collect::<Result<_>>()?;
        self.left -= keys.len();
        let mut locked = match keys.is_empty() {
            true => Vec::new(),
            false => self.ctx.lock(&keys, self.mode, &self.fences).await?,
        }
        .into_iter();
        let Some(recheck) = &self.recheck else { return Ok(rows) };
        let mut keys = keys.into_iter();
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            match (keys.next(), locked.next()) {
                (Some(key), Some(locked)) => {
                    let target: Row = row.iter().take(self.key_at).cloned().collect();
                    out.extend(recheck.newest(row, &target, &key, &locked).await?);
                }
                // Beyond those that are locked.
                _ => out.push(recheck.as_found(row)),
            }
        }
        Ok(out)
    }
}

/// Locks the index entries that a statement removes: whoever inserts one of the same value waits to see whether it goes.
pub async fn lock_entries(
    table: &TableDescriptor,
    rows: &[Row],
    fences: &[Fence],
    ctx: &StatementContext,
) -> Result<()> {
    if ctx.is_serializable() || table.unique.is_empty() {
        return Ok(());
    }
    let entries: Vec<Key> =
        rows.iter().flat_map(|row| entries_of(table, row)).take(LOCKED_ROWS_MAX).collect();
    if !entries.is_empty() {
        ctx.lock_latest(&entries, fences).await?;
    }
    Ok(())
}

/// Runs an UPDATE.
pub async fn update(update: &Update, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let table = &update.table;
    let width = table.columns.len();
    let primary = table.primary_key.as_ref().map(|k| k.columns.as_slice()).unwrap_or_default();
    let in_key =
        |column: &usize| primary.contains(column) || table.unique.iter().any(|u| u.columns.contains(column));
    let moves = update.assigned.iter().any(in_key);
    let plain = source::is_plain(&update.source);
    let mode = if moves { LockMode::Update } else { LockMode::NoKeyUpdate };
    let mut locks = Locks::new(&update.source, table, mode, &ctx);
    let source = locks.source(&update.source);
    let mut rows = source::stream(&source, table, !moves, Some(mode), &ctx).await?;
    let mut once = Once::new(plain, &ctx);
    let mut effects = Effects::new(update.returning.as_ref(), &ctx);
    let mut writer = RowWriter::new(table, &ctx)?;
    let relinks = writer.refers_by(&update.assigned);
    let mut moved =
        Moved { ctx: &ctx, removed: HashSet::new(), put: BTreeMap::new(), rows: Vec::new(), bytes: 0 };
    while let Some(batch) = rows.next().await? {
        for mut row in locks.take(batch).await? {
            let key = key_in(&row, width)?;
            if !once.first(&key)? {
                continue;
            }
            let extra = row.split_off((width + 1 + update.assigned.len()).min(row.len()));
            let values = row.split_off(width + 1);
            row.truncate(width);
            let old = if moves || relinks { row.clone() } else { Row::new() };
            for (column, value) in update.assigned.iter().zip(values) {
                row[*column] = value;
            }
            writer.check(&row)?;
            effects.add(&row, &extra)?;
            if moves {
                moved.add(table, key, &old, &row, &writer)?;
            } else {
                if relinks {
                    writer.relink((&key, &old), (&key, &row)).await?;
                }
                writer.put(key, &row).await?;
            }
        }
    }
    moved.write(&update.table, &mut writer).await?;
    writer.finish().await?;
    Ok(effects.outcome("UPDATE "))
}

/// Rows with a value assigned that a key is made of. They are held back to the end of the statement: `SET id = id + 1` moves
/// rows to keys that others are about to leave. Uniqueness is judged by the state after the statement.
struct Moved<'a> {
    ctx: &'a StatementContext,
    /// Keys of old rows and of their index entries.
    removed: HashSet<Key>,
    /// New rows and index entries.
    put: BTreeMap<Key, Bytes>,
    /// The rows before and after, where foreign keys have something to say about them.
    rows: Vec<[(Key, Row); 2]>,
    bytes: usize,
}

impl Moved<'_> {
    fn add(
        &mut self,
        table: &TableDescriptor,
        old_key: Key,
        old: &Row,
        new: &Row,
        writer: &RowWriter,
    ) -> Result<()> {
        let key = match &table.primary_key {
            Some(primary) => key_of_row(table, &primary.columns, new),
            None => old_key.clone(),
        };
        let entry_value = TableDescriptor::entry_value(&key);
        if writer.has_references() {
            self.bytes += row_bytes(old) + row_bytes(new) + 96;
            self.rows.push([(old_key.clone(), old.clone()), (key.clone(), new.clone())]);
        }
        self.remove(old_key);
        self.put(key, writer.encode(new), writer)?;
        for entry in entries_of(table, old) {
            self.remove(entry);
        }
        for entry in entries_of(table, new) {
            self.put(entry, entry_value.clone(), writer)?;
        }
        match self.bytes > self.ctx.memory_bytes_max {
            true => Err(out_of_memory("Rows with new keys", self.ctx.memory_bytes_max)),
            false => Ok(()),
        }
    }

    fn remove(&mut self, key: Key) {
        self.bytes += key.len() + 64;
        self.removed.insert(key);
    }

    fn put(&mut self, key: Key, value: Bytes, writer: &RowWriter) -> Result<()> {
        self.bytes += key.len() + value.len() + 96;
        match self.put.insert(key.clone(), value) {
            Some(_) => Err(writer.duplicate(&key)),
            None => Ok(()),
        }
    }

    async fn write(self, table: &TableDescriptor, writer: &mut RowWriter) -> Result<()> {
        let new: Vec<Key> = self.put.keys().filter(|key| !self.removed.contains(*key)).cloned().collect();
        let fences = self.ctx.fences(table);
        if !self.ctx.is_serializable() {
            // Whoever inserts what is left here waits to see whether it goes.
            let left: Vec<Key> = self.removed.iter().take(LOCKED_ROWS_MAX).cloned().collect();
            self.ctx.lock_latest(&left, &fences).await?;
        }
        for keys in new.chunks(1000) {
            let there = match self.ctx.is_serializable() {
                true => self.ctx.transaction.get(keys, &fences).await?,
                false => {
                    let locked = self.ctx.lock_latest(keys, &fences).await?;
                    locked.into_iter().map(LockedRow::value).collect()
                }
            };
            if let Some((key, _)) = keys.iter().zip(there).find(|(_, value)| value.is_some()) {
                return Err(writer.duplicate(key));
            }
        }
        for key in self.removed {
            if !self.put.contains_key(&key) {
                writer.delete_key(key).await?;
            }
        }
        for (key, value) in self.put {
            writer.put_encoded(key, value).await?;
        }
        // One row's new link may be another one's old one: first all go.
        for [(key, old), (_, new)] in &self.rows {
            writer.unlink(key, old, new).await?;
        }
        for [_, (key, new)] in &self.rows {
            writer.link(key, new).await?;
        }
        Ok(())
    }
}

/// Runs a DELETE.
pub async fn delete(delete: &Delete, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let table = &delete.table;
    let width = table.columns.len();
    let mut locks = Locks::new(&delete.source, table, LockMode::Update, &ctx);
    let source = locks.source(&delete.source);
    let mut rows = source::stream(&source, table, true, Some(LockMode::Update), &ctx).await?;
    let mut once = Once::new(source::is_plain(&delete.source), &ctx);
    let mut effects = Effects::new(delete.returning.as_ref(), &ctx);
    let mut writer = RowWriter::new(table, &ctx)?;
    while let Some(batch) = rows.next().await? {
        let batch = locks.take(batch).await?;
        lock_entries(table, &batch, &locks.fences, &ctx).await?;
        for mut row in batch {
            let key = key_in(&row, width)?;
            if !once.first(&key)? {
                continue;
            }
            let extra = row.split_off(width + 1);
            row.truncate(width);
            effects.add(&row, &extra)?;
            writer.delete(key, &row).await?;
        }
    }
    writer.finish().await?;
    Ok(effects.outcome("DELETE "))
}
