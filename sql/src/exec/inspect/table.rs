//! One table: its rows, then its indexes.

use std::collections::HashSet;
use std::sync::Arc;

use txn::api::{Fence, Key, Value};
use txn::ids::KeyRange;

use super::source::{Pages, Points, bytes_of, get};
use super::{Inspector, Kind, Report, StatementContext};
use crate::catalog::garbage::Kept;
use crate::catalog::{ForeignKey, TableDescriptor, UniqueConstraint, layout};
use crate::error::{Result, SqlState};
use crate::eval::Env;
use crate::exec::Row;
use crate::exec::constraint::Constraints;
use crate::exec::key::{KeyOf, key_of_row, key_of_unique};
use crate::exec::references::{Target, describe, link_of};
use crate::exec::scan::Projection;

/// Rows whose entries are looked up at a time.
const ROWS_MAX: usize = 256;
/// Keys of other tables that are remembered to be there, in bytes; each counts for some more.
const SEEN_BYTES_MAX: usize = 4 << 20;
const SEEN_KEY_BYTES: usize = 64;

/// A row as it is stored, and read.
struct Stored {
    key: Key,
    row: Row,
}

/// Inspects a table. An error: nobody waits for it.
pub async fn inspect(
    table: &Arc<TableDescriptor>,
    ctx: &Arc<StatementContext>,
    inspector: &mut Inspector,
) -> Result<Report> {
    let database = &ctx.catalog.image().database().name;
    let report = Report::of(table, database);
    let mut look = Look { table, ctx, report, fences: ctx.fences(table), wrong: HashSet::new() };
    let looked = look.at_all(inspector).await;
    let mut report = look.report;
    match (is_kept(table, ctx).await, looked) {
        (Ok(true), Ok(())) => {}
        (Ok(true), Err(error)) if error.state == SqlState::QUERY_CANCELED => return Err(error),
        // What was found in it may be what is left of it.
        (Ok(false), _) => report = Report { gone: true, ..Report::of(table, database) },
        (Ok(true), Err(error)) | (Err(error), _) => report.trouble = Some(error.to_string()),
    }
    Ok(report)
}

/// Whether everything that was read was there while it was read.
async fn is_kept(table: &TableDescriptor, ctx: &StatementContext) -> Result<bool> {
    let of = ctx.catalog.transaction();
    let mut kept = Kept::of(table).is_kept(of).await?;
    for index in table.index_ids() {
        kept &= Kept::of(table).with_index(index).is_kept(of).await?;
    }
    Ok(kept)
}

/// A table that is looked at.
struct Look<'a> {
    table: &'a Arc<TableDescriptor>,
    ctx: &'a Arc<StatementContext>,
    report: Report,
    fences: Vec<Fence>,
    /// Indexes with which something is wrong.
    wrong: HashSet<u32>,
}

/// What a foreign key refers to, and what of it is known to be there.
struct Parent<'a> {
    fk: &'a ForeignKey,
    target: Target<'a>,
    fences: Vec<Fence>,
    points: Points,
    seen: HashSet<Key>,
    seen_bytes: usize,
}

/// Where an entry of an index leads.
enum Leads {
    Nowhere,
    /// To a row that can't be read.
    Somewhere,
    /// To a row that should have this entry.
    To(Option<Key>),
}

impl<'a> Look<'a> {
    async fn at_all(&mut self, inspector: &mut Inspector) -> Result<()> {
        let (table, ctx) = (self.table, self.ctx);
        let constraints = Constraints::new(table, ctx)?;
        let mut parents = Vec::new();
        for fk in &table.foreign_keys {
            let parent =
                if fk.parent == table.id { Some(table) } else { ctx.catalog.image().table_by_id(fk.parent) };
            // One that is missing is a finding about the catalog.
            let Some(parent) = parent else { continue };
            let Ok(target) = Target::of(parent, fk) else { continue };
            let (fences, points) = (ctx.fences(parent), Points::new());
            parents.push(Parent { fk, target, fences, points, seen: HashSet::new(), seen_bytes: 0 });
        }
        self.report.constraints =
            constraints.count() + (table.keys().count() + table.foreign_keys.len()) as u64;
        let projection = Projection::all(table, false);
        let (mut unique, mut links) =
            (vec![0_u64; table.unique.len()], vec![0_u64; table.foreign_keys.len()]);
        let mut pages = Pages::of(table.storage_range(), self.fences.clone());
        while let Some(page) = pages.next(ctx).await? {
            for lot in page.chunks(ROWS_MAX) {
                let rows = self.rows(lot, &projection, &constraints);
                for (at, constraint) in table.unique.iter().enumerate() {
                    unique[at] += self.entries(constraint, &rows).await?;
                }
                for (at, fk) in table.foreign_keys.iter().enumerate() {
                    links[at] += self.links(fk, &rows).await?;
                }
                for parent in &mut parents {
                    self.parents(parent, &rows).await?;
                }
            }
            let looked_up: u64 = parents.iter_mut().map(|parent| parent.points.take_bytes()).sum();
            inspector.reading(&self.report, bytes_of(&page) + looked_up).await?;
        }
        for (constraint, expected) in table.unique.iter().zip(unique) {
            let of_row = |_: &Key, row: &Row| key_of_unique(table, constraint, row);
            self.index(constraint.index_id, &constraint.name, expected, of_row, inspector).await?;
        }
        for (fk, expected) in table.foreign_keys.iter().zip(links) {
            let of_row = |key: &Key, row: &Row| link_of(table, fk, key, row);
            self.index(fk.index_id, &fk.name, expected, of_row, inspector).await?;
        }
        Ok(())
    }

    /// Reads rows; what can be said of each alone.
    fn rows(
        &mut self,
        lot: &[(Key, Value)],
        projection: &Projection,
        constraints: &Constraints,
    ) -> Vec<Stored> {
        let table = self.table;
        let env = Env { ctx: &self.ctx.eval, params: &[], outer: &[] };
        let mut rows = Vec::with_capacity(lot.len());
        for (key, value) in lot {
            self.report.rows += 1;
            let row = match projection.decode(key, value) {
                Ok(row) => row,
                Err(error) => {
                    let text = format!("{} cannot be read: {error}", name_of(table, key));
                    self.report.find(Kind::Row, "rows", text);
                    continue;
                }
            };
            if let Some(primary) = &table.primary_key
                && key_of_row(table, &primary.columns, &row) != *key
            {
                let values: Row = primary.columns.iter().map(|&column| row[column].clone()).collect();
                let says = describe(table, &primary.columns, &values);
                let text = format!("{} has the values of {says}", name_of(table, key));
                self.report.find(Kind::Row, &primary.name, text);
            }
            for violation in constraints.violations(&row, &env) {
                let what = match violation.error.state {
                    SqlState::NOT_NULL_VIOLATION => "is NULL".to_owned(),
                    SqlState::CHECK_VIOLATION => "is not satisfied".to_owned(),
                    _ => format!("cannot be evaluated ({})", violation.error),
                };
                let text = format!("{what} in {}", name_of(table, key));
                self.report.find(Kind::Constraint, violation.of, text);
            }
            rows.push(Stored { key: key.clone(), row });
        }
        rows
    }

    /// Each row has its entry. How many should have one.
    async fn entries(&mut self, unique: &UniqueConstraint, rows: &[Stored]) -> Result<u64> {
        let table = self.table;
        let entry = |stored: &'_ Stored| key_of_unique(table, unique, &stored.row);
        let wanted: Vec<(usize, Key)> =
            rows.iter().enumerate().filter_map(|(at, stored)| Some((at, entry(stored)?))).collect();
        let keys: Vec<Key> = wanted.iter().map(|(_, key)| key.clone()).collect();
        let there = get(self.ctx, &keys, &self.fences).await?;
        for ((at, entry), value) in wanted.iter().zip(there) {
            let stored = &rows[*at];
            if value.as_ref() == Some(&TableDescriptor::entry_value(&stored.key)) {
                continue;
            }
            self.wrong.insert(unique.index_id);
            let (row, key) = (name_of(table, &stored.key), name_of(table, entry));
            let (kind, text) = match value {
                None => (Kind::Index, format!("{row} has no entry for {key}")),
                Some(value) => {
                    let other = layout::row_of_entry(&table.prefix(), &value);
                    let same = self.row(&other).await?.and_then(|row| key_of_unique(table, unique, &row));
                    let other = name_of(table, &other);
                    match same.as_ref() == Some(entry) {
                        true => (Kind::Duplicate, format!("{row} and {other} both have {key}")),
                        false => (Kind::Index, format!("{row} has {key}, whose entry leads to {other}")),
                    }
                }
            };
            self.report.find(kind, &unique.name, text);
        }
        Ok(wanted.len() as u64)
    }

    /// Each row that refers has its link. How many should have one.
    async fn links(&mut self, fk: &ForeignKey, rows: &[Stored]) -> Result<u64> {
        let table = self.table;
        let mut wanted: Vec<(usize, Key)> = Vec::new();
        for (at, stored) in rows.iter().enumerate() {
            let nulls = fk.columns.iter().filter(|&&column| stored.row[column].is_null()).count();
            if fk.full && nulls > 0 && nulls < fk.columns.len() {
                let text =
                    format!("{} mixes NULL and other values (MATCH FULL)", name_of(table, &stored.key));
                self.report.find(Kind::Reference, &fk.name, text);
            }
            wanted.extend(link_of(table, fk, &stored.key, &stored.row).map(|link| (at, link)));
        }
        let keys: Vec<Key> = wanted.iter().map(|(_, key)| key.clone()).collect();
        let there = get(self.ctx, &keys, &self.fences).await?;
        for ((at, _), value) in wanted.iter().zip(there) {
            let stored = &rows[*at];
            if value.as_ref() != Some(&TableDescriptor::entry_value(&stored.key)) {
                self.wrong.insert(fk.index_id);
                let (row, values) = (name_of(table, &stored.key), values_of(table, fk, &stored.row));
                self.report.find(Kind::Index, &fk.name, format!("{row} has no link for {values}"));
            }
        }
        Ok(wanted.len() as u64)
    }

    /// What rows refer to is there.
    async fn parents(&mut self, parent: &mut Parent<'_>, rows: &[Stored]) -> Result<()> {
        let (fk, table) = (parent.fk, self.table);
        let mut asked: Vec<(usize, Key)> = Vec::new();
        for (at, stored) in rows.iter().enumerate() {
            let values: Row = fk.columns.iter().map(|&column| stored.row[column].clone()).collect();
            if values.iter().any(crate::types::Datum::is_null) {
                continue;
            }
            match parent.target.key(&values) {
                Some(key) if parent.seen.contains(&key) => {}
                Some(key) => asked.push((at, key)),
                None => self.orphan(fk, stored),
            }
        }
        let mut keys: Vec<Key> = asked.iter().map(|(_, key)| key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let is_there = |key: &Key, value: Option<Value>| value.map(|_| key.clone());
        let there = parent.points.read(self.ctx, &keys, &parent.fences, is_there).await?;
        if parent.seen_bytes > SEEN_BYTES_MAX {
            (parent.seen, parent.seen_bytes) = (HashSet::new(), 0);
        }
        for key in there.into_iter().flatten() {
            parent.seen_bytes += key.len() + SEEN_KEY_BYTES;
            parent.seen.insert(key);
        }
        debug_assert!(table.foreign_keys.iter().any(|known| known.name == fk.name));
        for (at, key) in asked {
            if !parent.seen.contains(&key) {
                self.orphan(fk, &rows[at]);
            }
        }
        Ok(())
    }

    fn orphan(&mut self, fk: &ForeignKey, stored: &Stored) {
        let parent = self.ctx.catalog.image().table_by_id(fk.parent);
        let parent = parent.map_or("?", |parent| parent.name.as_str());
        let (row, values) = (name_of(self.table, &stored.key), values_of(self.table, fk, &stored.row));
        let text = format!("{row} refers to {values}, which is not present in table \"{parent}\"");
        self.report.find(Kind::Reference, &fk.name, text);
    }

    /// An index has so many entries as rows should have. Which are of no row is looked for only if not.
    async fn index(
        &mut self,
        index: u32,
        name: &str,
        expected: u64,
        of_row: impl Fn(&Key, &Row) -> Option<Key>,
        inspector: &mut Inspector,
    ) -> Result<()> {
        let range = KeyRange::prefix(&self.table.index_prefix(index));
        let mut counted = 0;
        let mut pages = Pages::of(range.clone(), self.fences.clone());
        while let Some(page) = pages.next(self.ctx).await? {
            counted += page.len() as u64;
            self.report.entries += page.len() as u64;
            inspector.reading(&self.report, bytes_of(&page)).await?;
        }
        if counted == expected && !self.wrong.contains(&index) {
            return Ok(());
        }
        let (projection, mut points) = (Projection::all(self.table, false), Points::new());
        let leads = |key: &Key, value: Option<Value>| match value.map(|value| projection.decode(key, &value))
        {
            None => Leads::Nowhere,
            Some(Err(_)) => Leads::Somewhere,
            Some(Ok(row)) => Leads::To(of_row(key, &row)),
        };
        let mut pages = Pages::of(range, self.fences.clone());
        while let Some(page) = pages.next(self.ctx).await? {
            for lot in page.chunks(ROWS_MAX) {
                let keys: Vec<Key> =
                    lot.iter().map(|(_, value)| layout::row_of_entry(&self.table.prefix(), value)).collect();
                let rows = points.read(self.ctx, &keys, &self.fences, leads).await?;
                for (((entry, _), key), leads) in lot.iter().zip(&keys).zip(rows) {
                    let of = name_of(self.table, key);
                    let text = match leads {
                        Leads::Nowhere => format!("an entry leads to {of}, which is not there"),
                        Leads::To(right) if right.as_ref() != Some(entry) => {
                            format!("{} leads to {of}, which has other values", name_of(self.table, entry))
                        }
                        // (A row that can't be read has been told of.)
                        Leads::To(_) | Leads::Somewhere => continue,
                    };
                    self.report.find(Kind::Index, name, text);
                }
            }
            inspector.reading(&self.report, bytes_of(&page) + points.take_bytes()).await?;
        }
        Ok(())
    }

    async fn row(&self, key: &Key) -> Result<Option<Row>> {
        let found = get(self.ctx, std::slice::from_ref(key), &self.fences).await?;
        let projection = Projection::all(self.table, false);
        Ok(found.into_iter().next().flatten().and_then(|value| projection.decode(key, &value).ok()))
    }
}

/// A row or an entry, for people.
fn name_of(table: &TableDescriptor, key: &Key) -> String {
    match KeyOf::read(table, key) {
        Some(of) => of.describe(table),
        None if table.foreign_keys.iter().any(|fk| Some(fk.index_id) == table.storage_of(key)) => {
            format!("the link {}", hex::encode(key))
        }
        None => format!("the row {}", hex::encode(key)),
    }
}

fn values_of(table: &TableDescriptor, fk: &ForeignKey, row: &Row) -> String {
    let values: Row = fk.columns.iter().map(|&column| row[column].clone()).collect();
    describe(table, &fk.columns, &values)
}
