//! Foreign keys: that what a row refers to is there, and what becomes of those who refer when it goes.
//!
//! ```text
//!   RowWriter ── new, changed, deleted rows ──▶ References ── at the statement's end ──▶ settle
//!                                              wanted: keys that must stand in other tables      │
//!                                              lost: keys that no longer stand in this one       │
//!                                                                                                ▼
//!                       lost: who has a link to it? ── refuse, or delete and change those (more is wanted, more is lost)
//!                       wanted: Transaction::demand
//! ```
//!
//! A statement collects what it has done, and settles it when all its rows are written (PostgreSQL's `NOT DEFERRABLE` constraints are
//! checked at the same moment): rows may come in any order, and refer to each other.
//!
//! # Why no race breaks it
//!
//! To be kept is: *at every timestamp, whoever refers to a key finds it*. Let `C` write a row that refers to key `k`, and commit at
//! `Tc`; let `D` remove `k`, and commit at `Td`.
//!
//! 1. `C` **demands** `k` (`Transaction::demand`): its commit looks whether a row stands under the key of the referenced constraint *at
//!    `Tc`*, and fails otherwise. Since the key's bytes are the referenced values, nothing else needs to be the same; the row may
//!    be changed by anyone as long as it stays.
//! 2. `C` writes, with its row, a **link**: an index entry under the values referred to. `D` reads all links to `k` after it has
//!    written that `k` goes, and its commit **validates** this range up to `Td`, whatever the level (`Transaction::latest`).
//!
//! If `Tc < Td`, `D` has found the link, or its validation finds it, and `D` fails or has taken care of `C`'s row. If `Td < Tc`, `C`
//! doesn't find `k` at `Tc`, and fails. (No two commits have one timestamp.) Both looks are exact at a commit's timestamp by
//! the argument of `txn/PROTOCOL.md`. Nothing is concluded from a lock, so it doesn't matter whether any is lost, what level either
//! transaction runs at, or whether a leader changes.
//!
//! Locks are there so that one waits for the other instead of failing: `C` takes `FOR KEY SHARE` on `k`, which goes with all
//! that leaves the key in place; `D` has `FOR UPDATE` on it before it looks for links. So below `SERIALIZABLE` `D` sees the rows of everyone
//! who was there before, and everyone after waits for `D`. Under `SERIALIZABLE` nobody waits, and the one who is late is run again.
//!
//! *Which* constraints there are is validated with it: a foreign key that is made or dropped raises the versions of both tables, and
//! `C` and `D` carry the fences of both.
//!
//! # What it costs
//!
//! For each row that refers, one more entry. For a batch of 1000 rows, one look at the rows referred to (each shard is asked once),
//! and once more at the commit, in the commit's own message if one shard holds everything. For a key that goes, one range of links.

mod create;
mod link;
mod settle;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use txn::LockMode;
use txn::api::{Fence, Key, LockWait, Locking};

pub use create::{add_constraint, drop_constraints, touch_parents};
pub use link::{Target, comparable, link_of, links_of, set_links};
pub use settle::settle;

use self::link::encoded;
use super::constraint::row_bytes;
use super::key::{display, explain};
use super::write::out_of_memory;
use super::{Row, StatementContext};
use crate::catalog::{ForeignKey, TableDescriptor};
use crate::error::{ErrorObject, Result, SqlError, SqlState};
use crate::types::Datum;

/// When so many keys are wanted by a statement, they are looked at before its end.
const WANTED_MAX: usize = 1_000;
/// Keys that a statement remembers to have looked at.
const SEEN_MAX: usize = 100_000;

/// What a statement's rows want of a table that they refer to.
struct Wanted {
    child: Arc<TableDescriptor>,
    /// The foreign key's place in the child's list.
    at: usize,
    parent: Arc<TableDescriptor>,
    /// Keys of the parent, each with the values that a row refers to it by.
    keys: BTreeMap<Key, Row>,
    /// About how much memory these take.
    bytes: usize,
    /// Those that were found.
    seen: HashSet<Key>,
}

/// Keys that a statement has taken from those who refer to them.
struct Lost {
    child: Arc<TableDescriptor>,
    at: usize,
    parent: Arc<TableDescriptor>,
    /// The columns of the parent, in the order of the foreign key's.
    columns: Vec<usize>,
    /// Deleted rows: the values as links have them, and as they were.
    deleted: BTreeMap<Vec<u8>, Row>,
    /// Rows whose key has changed: what it was and what it is.
    changed: BTreeMap<Vec<u8>, (Row, Row)>,
}

/// What a statement has done to one table, as far as foreign keys are concerned.
#[derive(Default)]
pub struct References {
    wanted: Vec<Wanted>,
    lost: Vec<Lost>,
    bytes: usize,
    bytes_max: usize,
}

impl References {
    /// For a statement that writes a table.
    pub fn new(table: &Arc<TableDescriptor>, ctx: &StatementContext) -> Result<Self> {
        let image = ctx.catalog.image();
        let mut wanted = Vec::with_capacity(table.foreign_keys.len());
        for (at, key) in table.foreign_keys.iter().enumerate() {
            let parent = if key.parent == table.id { Some(table) } else { image.table_by_id(key.parent) };
            let parent = Arc::clone(parent.ok_or_else(|| dangling(key))?);
            let child = Arc::clone(table);
            wanted.push(Wanted { child, at, parent, keys: BTreeMap::new(), bytes: 0, seen: HashSet::new() });
        }
        let mut lost = Vec::new();
        for (child, at) in image.referring(table.id) {
            let columns = table.referenced_by(&child.foreign_keys[at]);
            let columns = columns.ok_or_else(|| dangling(&child.foreign_keys[at]))?;
            let (deleted, changed) = (BTreeMap::new(), BTreeMap::new());
            lost.push(Lost { child, at, parent: Arc::clone(table), columns, deleted, changed });
        }
        Ok(Self { wanted, lost, bytes: 0, bytes_max: ctx.memory_bytes_max })
    }

    /// Whether there is anything to be collected.
    pub fn any(&self) -> bool {
        !self.wanted.is_empty() || !self.lost.is_empty()
    }

    /// A new row.
    pub fn inserted(&mut self, row: &[Datum]) -> Result<()> {
        for wanted in &mut self.wanted {
            wanted.add(row)?;
        }
        self.check_bytes()
    }

    /// A row is gone.
    pub fn deleted(&mut self, row: &[Datum]) -> Result<()> {
        for lost in &mut self.lost {
            let Some(values) = present(row, &lost.columns) else { continue };
            self.bytes += row_bytes(&values) + 96;
            lost.deleted.insert(encoded(&values), values);
        }
        self.check_bytes()
    }

    /// A row has other values.
    pub fn changed(&mut self, old: &[Datum], new: &[Datum]) -> Result<()> {
        for wanted in &mut self.wanted {
            let columns = &wanted.child.foreign_keys[wanted.at].columns;
            let of = |row: &[Datum]| encoded(columns.iter().map(|&column| &row[column]));
            if of(old) != of(new) {
                wanted.add(new)?;
            }
        }
        for lost in &mut self.lost {
            let Some(before) = present(old, &lost.columns) else { continue };
            let after: Row = lost.columns.iter().map(|&column| new[column].clone()).collect();
            let key = encoded(&before);
            if key != encoded(&after) {
                self.bytes += row_bytes(&before) + row_bytes(&after) + 96;
                lost.changed.insert(key, (before, after));
            }
        }
        self.check_bytes()
    }

    /// A part of the statement's rows has been written: what is wanted of other tables is looked at, if it is much.
    pub async fn check_early(&mut self, ctx: &StatementContext) -> Result<()> {
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.keys.len() >= WANTED_MAX) {
            if wanted.parent.id != wanted.child.id {
                demand(std::slice::from_mut(wanted), ctx).await?;
            }
        }
        Ok(())
    }

    fn check_bytes(&self) -> Result<()> {
        match self.bytes + self.wanted.iter().map(|wanted| wanted.bytes).sum::<usize>() > self.bytes_max {
            true => Err(out_of_memory("The keys that rows refer to", self.bytes_max)),
            false => Ok(()),
        }
    }
}

impl Wanted {
    fn key(&self) -> &ForeignKey {
        &self.child.foreign_keys[self.at]
    }

    /// Notes what a row refers to.
    fn add(&mut self, row: &[Datum]) -> Result<()> {
        let key = self.key();
        let values: Row = key.columns.iter().map(|&column| row[column].clone()).collect();
        let nulls = values.iter().filter(|value| value.is_null()).count();
        if nulls > 0 {
            return match key.full && nulls < values.len() {
                true => Err(self
                    .violation()
                    .detail("MATCH FULL does not allow mixing of null and nonnull key values.")),
                false => Ok(()),
            };
        }
        let target = Target::of(&self.parent, key)?;
        // A value that the other type doesn't have stands nowhere.
        let Some(found) = target.key(&values) else { return Err(self.missing(&values)) };
        if self.seen.contains(&found) {
            return Ok(());
        }
        let bytes = found.len() + row_bytes(&values) + 96;
        if self.keys.insert(found, values).is_none() {
            self.bytes += bytes;
        }
        Ok(())
    }

    fn violation(&self) -> SqlError {
        let (child, name) = (&self.child, &self.key().name);
        let message = format!(
            "insert or update on table \"{}\" violates foreign key constraint \"{name}\"",
            child.name
        );
        SqlError::new(SqlState::FOREIGN_KEY_VIOLATION, message).object(object_of(child, name))
    }

    /// `23503`: there is no such row.
    fn missing(&self, values: &[Datum]) -> SqlError {
        let key = describe(&self.child, &self.key().columns, values);
        self.violation().detail(format!("{key} is not present in table \"{}\".", self.parent.name))
    }
}

/// Looks whether everything that is wanted is there, and sees to it that it is there at the commit.
async fn demand(all: &mut [Wanted], ctx: &StatementContext) -> Result<()> {
    let how = Locking { mode: LockMode::KeyShare, wait: LockWait::For(ctx.lock_timeout) };
    let mut todo: Vec<(usize, Key, Row)> = Vec::new();
    for (of, wanted) in all.iter_mut().enumerate() {
        wanted.bytes = 0;
        todo.extend(std::mem::take(&mut wanted.keys).into_iter().map(|(key, values)| (of, key, values)));
    }
    for batch in todo.chunks(WANTED_MAX) {
        let mut fences: Vec<Fence> = Vec::new();
        for fence in batch.iter().flat_map(|(of, ..)| ctx.fences(&all[*of].parent)) {
            if !fences.contains(&fence) {
                fences.push(fence);
            }
        }
        let keys: Vec<Key> = batch.iter().map(|(_, key, _)| key.clone()).collect();
        let there = ctx.transaction.demand(&keys, how, &fences).await;
        let there = there.map_err(|error| explain(error, ctx.catalog.image()))?;
        for ((of, key, values), there) in batch.iter().zip(there) {
            let wanted = &mut all[*of];
            if !there {
                return Err(wanted.missing(values));
            }
            if wanted.seen.len() >= SEEN_MAX {
                wanted.seen.clear();
            }
            wanted.seen.insert(key.clone());
        }
    }
    Ok(())
}

fn object_of(child: &TableDescriptor, constraint: &str) -> ErrorObject {
    ErrorObject {
        schema: Some(child.schema.clone()),
        table: Some(child.name.clone()),
        column: None,
        constraint: Some(constraint.to_owned()),
    }
}

/// PostgreSQL's `Key (a, b)=(1, 2)`.
pub fn describe(table: &TableDescriptor, columns: &[usize], values: &[Datum]) -> String {
    let columns = columns.iter().map(|&column| &table.columns[column]);
    let names: Vec<&str> = columns.clone().map(|column| column.name.as_str()).collect();
    let texts: Vec<String> = columns.zip(values).map(|(column, value)| display(value, column.ty)).collect();
    format!("Key ({})=({})", names.join(", "), texts.join(", "))
}

/// A row's values of some columns, if none is NULL.
fn present(row: &[Datum], columns: &[usize]) -> Option<Row> {
    let values = columns.iter().map(|&column| Some(row[column].clone()).filter(|value| !value.is_null()));
    values.collect()
}

/// The catalog has a foreign key to what isn't there.
fn dangling(key: &ForeignKey) -> SqlError {
    SqlError::new(
        SqlState::DATA_CORRUPTED,
        format!("foreign key constraint \"{}\" refers to a table or column that is not there", key.name),
    )
}
