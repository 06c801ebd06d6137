//! The end of a statement: those who refer to what has gone are refused, deleted or changed, and whatever is referred to is looked for.
//!
//! Actions write rows, which may be referred to, and may refer: they are settled in turn, round by round, until nothing is lost any
//! more. Only then is looked for what is wanted, once for all rounds: what a row refers to may have been put there by one of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use txn::LockMode;
use txn::api::{Fence, Key, LockWait, LockedRow, Locking, ScanRequest};
use txn::ids::KeyRange;

use super::link::{Target, encoded, follow, range, values_in};
use super::{Lost, References, Wanted, demand, describe, object_of};
use crate::bind;
use crate::catalog::garbage::Kept;
use crate::catalog::{ForeignKey, ReferentialAction, TableDescriptor, layout};
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::exec::constraint::row_bytes;
use crate::exec::key::explain;
use crate::exec::scan::Projection;
use crate::exec::update::lock_entries;
use crate::exec::write::{RowWriter, out_of_memory};
use crate::exec::{Row, StatementContext, canceled};
use crate::ir::Expr;
use crate::types::Datum;

/// Rounds of one statement. PostgreSQL ends a circle of constraints when its stack does.
const ROUNDS_MAX: usize = 10_000;
/// How often those who refer to something are looked for, if others change them meanwhile. After that the commit decides.
const LOOKS_MAX: usize = 100;
/// Ranges of links that are read at once.
const PARALLEL: usize = 16;
/// For more keys than this the links between the first and the last are read as one range.
const RANGES_MAX: usize = 1_000;
/// Links of a page, and rows changed by one batch.
const PAGE_ROWS_MAX: usize = 1_000;

/// Settles what a statement has done. All its rows are written.
pub async fn settle(ctx: &Arc<StatementContext>, references: References) -> Result<()> {
    let mut settling = Settling { ctx, lost: VecDeque::new(), wanted: Vec::new() };
    settling.take(references);
    let mut rounds = 0;
    while let Some(lost) = settling.lost.pop_front() {
        rounds += 1;
        if rounds > ROUNDS_MAX {
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "stack depth limit exceeded")
                .detail("The actions of foreign keys go round in a circle."));
        }
        settling.round(lost).await?;
    }
    demand(&mut settling.wanted, ctx).await
}

struct Settling<'a> {
    ctx: &'a Arc<StatementContext>,
    lost: VecDeque<Lost>,
    wanted: Vec<Wanted>,
}

/// A row that refers to a key that is lost.
struct Referring {
    key: Key,
    /// The lost values as links have them.
    values: Vec<u8>,
}

/// A foreign key whose rows are to be taken care of.
struct Case<'a> {
    child: &'a Arc<TableDescriptor>,
    fk: &'a ForeignKey,
    parent: &'a TableDescriptor,
    /// The parent's columns, in the foreign key's order.
    columns: &'a [usize],
    fences: Vec<Fence>,
}

impl Settling<'_> {
    fn take(&mut self, references: References) {
        let References { wanted, lost, .. } = references;
        self.lost
            .extend(lost.into_iter().filter(|lost| !lost.deleted.is_empty() || !lost.changed.is_empty()));
        self.wanted.extend(wanted.into_iter().filter(|wanted| !wanted.keys.is_empty()));
    }

    async fn round(&mut self, lost: Lost) -> Result<()> {
        let Lost { child, at, parent, columns, deleted, changed } = lost;
        let case = Case {
            child: &child,
            fk: &child.foreign_keys[at],
            parent: &parent,
            columns: &columns,
            fences: self.ctx.fences(&child),
        };
        let (deletes, updates) = (case.fk.on_delete, case.fk.on_update);
        self.act(&case, deletes, deleted.into_iter().map(|(key, old)| (key, (old, None))).collect()).await?;
        let changed = changed.into_iter().map(|(key, (old, new))| (key, (old, Some(new))));
        self.act(&case, updates, changed.collect()).await
    }

    /// `lost`: what the values were, and what they are now, if their row is still there.
    async fn act(
        &mut self,
        case: &Case<'_>,
        action: ReferentialAction,
        lost: BTreeMap<Vec<u8>, (Row, Option<Row>)>,
    ) -> Result<()> {
        let refused = matches!(action, ReferentialAction::NoAction | ReferentialAction::Restrict);
        let delete = action == ReferentialAction::Cascade && lost.values().all(|(_, new)| new.is_none());
        let mode = if delete || case.is_in_key() { LockMode::Update } else { LockMode::NoKeyUpdate };
        for looks in 1.. {
            if lost.is_empty() {
                break;
            }
            // Its snapshot is drawn now, when all that has gone is locked: whoever referred to it before is seen.
            let latest = self.ctx.at_latest();
            let found = case.find(&latest, lost.keys().cloned().collect(), refused).await?;
            let last = looks == LOOKS_MAX || self.ctx.is_serializable();
            if refused {
                let strictly = action == ReferentialAction::Restrict;
                if case.refuse(self.ctx, &latest, &found, &lost, strictly, last).await? {
                    break;
                }
            } else if let Some(rows) = case.lock(self.ctx, found, mode, last).await? {
                self.change(case, action, delete, &latest, rows, &lost).await?;
                break;
            }
            // Somebody was about to change them, and has. What was seen before doesn't matter any more.
            latest.transaction.forget_reads();
        }
        Ok(())
    }

    /// Deletes or changes rows that refer to what is lost. They are locked.
    async fn change(
        &mut self,
        case: &Case<'_>,
        action: ReferentialAction,
        delete: bool,
        latest: &StatementContext,
        rows: Vec<(Referring, Row)>,
        lost: &BTreeMap<Vec<u8>, (Row, Option<Row>)>,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let defaults = match action {
            ReferentialAction::SetDefault => case.defaults(self.ctx)?,
            _ => Vec::new(),
        };
        let mut writer = RowWriter::new(case.child, self.ctx)?.by_reading();
        if delete {
            let of_rows: Vec<Row> = rows.iter().map(|(_, row)| row.clone()).collect();
            lock_entries(case.child, &of_rows, &case.fences, self.ctx).await?;
        }
        for (referring, row) in rows {
            let Some((old, new)) = lost.get(&referring.values) else { continue };
            if delete {
                writer.delete(referring.key, &row).await?;
                continue;
            }
            let after = case.changed(action, &row, new.as_ref(), &defaults, self.ctx)?;
            if case.values_of(&after) == referring.values {
                // Its default is what it had.
                match case.is_back(latest, old).await? {
                    true => continue,
                    false => return Err(case.refusal(old)),
                }
            }
            writer.check(&after)?;
            writer.replace(referring.key, &row, &after).await?;
        }
        writer.flush().await?;
        self.take(writer.into_references());
        Ok(())
    }
}

impl Case<'_> {
    /// Who refers to lost keys. `one`: it is enough to know one for each key.
    async fn find(&self, latest: &StatementContext, lost: Vec<Vec<u8>>, one: bool) -> Result<Vec<Referring>> {
        let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        if lost.len() > RANGES_MAX {
            let range =
                KeyRange::new(range(self.child, self.fk, first).start, range(self.child, self.fk, last).end);
            found = self.links(latest, range, None).await?;
            found.retain(|referring| lost.binary_search(&referring.values).is_ok());
        } else {
            let limit = one.then_some(1);
            for some in lost.chunks(PARALLEL) {
                let links =
                    |values: &Vec<u8>| self.links(latest, range(self.child, self.fk, values), limit).boxed();
                let pages: Vec<BoxFuture<'_, Result<Vec<Referring>>>> = some.iter().map(links).collect();
                found.extend(try_join_all(pages).await?.into_iter().flatten());
            }
        }
        Kept::of(self.child).with_index(self.fk.index_id).check(latest.catalog.transaction()).await?;
        Ok(found)
    }

    async fn links(
        &self,
        latest: &StatementContext,
        range: KeyRange,
        limit: Option<usize>,
    ) -> Result<Vec<Referring>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut rest = Some(range);
        while let Some(range) = rest.take() {
            if latest.cancel.is_cancelled() {
                return Err(canceled());
            }
            let request = ScanRequest { range, reverse: false, rows_max: limit.unwrap_or(PAGE_ROWS_MAX) };
            let page = latest.transaction.scan(request, &self.fences).await;
            let page = page.map_err(|error| explain(error, latest.catalog.image()))?;
            for (key, value) in page.rows {
                let values = values_in(self.child, self.fk, &key, &value).map(<[u8]>::to_vec);
                let values = values.ok_or_else(|| {
                    SqlError::new(SqlState::DATA_CORRUPTED, "the link of a foreign key cannot be read")
                })?;
                bytes += 2 * key.len() + 96;
                found.push(Referring { key: layout::row_of_entry(&self.child.prefix(), &value), values });
            }
            if bytes > latest.memory_bytes_max {
                return Err(out_of_memory("The rows that refer to others", latest.memory_bytes_max));
            }
            rest = page.rest.filter(|_| limit.is_none_or(|limit| found.len() < limit));
        }
        Ok(found)
    }

    /// What a row refers to, as links have it.
    fn values_of(&self, row: &[Datum]) -> Vec<u8> {
        encoded(self.fk.columns.iter().map(|&column| &row[column]))
    }

    /// Fails if a lost key is still referred to. False: those who do have changed since their links were read, and are to be looked for
    /// once more; unless this is the `last` time.
    async fn refuse(
        &self,
        ctx: &StatementContext,
        latest: &StatementContext,
        found: &[Referring],
        lost: &BTreeMap<Vec<u8>, (Row, Option<Row>)>,
        strictly: bool,
        last: bool,
    ) -> Result<bool> {
        let projection = Projection::all(self.child, false);
        let how = Locking { mode: LockMode::KeyShare, wait: LockWait::For(ctx.lock_timeout) };
        for referring in found {
            let Some((old, _)) = lost.get(&referring.values) else { continue };
            if !strictly && self.is_back(latest, old).await? {
                continue;
            }
            if last {
                return Err(self.refusal(old));
            }
            // Somebody may be about to delete it.
            let keys = std::slice::from_ref(&referring.key);
            let locked = ctx.transaction.lock_latest(keys, how, &self.fences).await;
            let locked = locked.map_err(|error| explain(error, ctx.catalog.image()))?;
            let value = locked.into_iter().next().and_then(LockedRow::value);
            let row = value.map(|value| projection.decode(&referring.key, &value)).transpose()?;
            return match row {
                Some(row) if self.values_of(&row) == referring.values => Err(self.refusal(old)),
                _ => Ok(false),
            };
        }
        Ok(true)
    }

    /// Locks those who refer to lost keys. `None`: some have changed since their links were read, and all are to be looked for once
    /// more; unless this is the `last` time.
    async fn lock(
        &self,
        ctx: &StatementContext,
        found: Vec<Referring>,
        mode: LockMode,
        last: bool,
    ) -> Result<Option<Vec<(Referring, Row)>>> {
        let projection = Projection::all(self.child, false);
        let mut rows = Vec::with_capacity(found.len());
        let (mut bytes, mut changed) = (0, false);
        let mut found = found.into_iter();
        loop {
            let batch: Vec<Referring> = found.by_ref().take(PAGE_ROWS_MAX).collect();
            if batch.is_empty() {
                break;
            }
            let keys: Vec<Key> = batch.iter().map(|referring| referring.key.clone()).collect();
            for (referring, locked) in batch.into_iter().zip(ctx.lock(&keys, mode, &self.fences).await?) {
                let row =
                    locked.value().map(|value| projection.decode(&referring.key, &value)).transpose()?;
                match row.filter(|row| self.values_of(row) == referring.values) {
                    Some(row) => {
                        bytes += row_bytes(&row) + 128;
                        rows.push((referring, row));
                    }
                    None => changed = true,
                }
            }
            if bytes > ctx.memory_bytes_max {
                return Err(out_of_memory("The rows that refer to others", ctx.memory_bytes_max));
            }
        }
        Ok((last || !changed).then_some(rows))
    }

    /// Whether another row has the lost key now.
    async fn is_back(&self, latest: &StatementContext, old: &[Datum]) -> Result<bool> {
        let Some(key) = Target::of(self.parent, self.fk)?.key(old) else { return Ok(false) };
        let there = latest.transaction.get(&[key], &latest.fences(self.parent)).await;
        let there = there.map_err(|error| explain(error, latest.catalog.image()))?;
        Ok(there.first().is_some_and(Option::is_some))
    }

    /// Whether the foreign key's columns are a part of a key of their table.
    fn is_in_key(&self) -> bool {
        self.child.keys().any(|key| key.columns.iter().any(|column| self.fk.columns.contains(column)))
    }

    fn defaults(&self, ctx: &StatementContext) -> Result<Vec<Option<Expr>>> {
        let default = |&column: &usize| {
            let column = &self.child.columns[column];
            let Some(text) = &column.default else { return Ok(None) };
            bind::bind_default(text, &column.name, column.ty, &*ctx.catalog, &ctx.eval).map(Some)
        };
        self.fk.columns.iter().map(default).collect()
    }

    /// A row after the action.
    fn changed(
        &self,
        action: ReferentialAction,
        row: &Row,
        new: Option<&Row>,
        defaults: &[Option<Expr>],
        ctx: &StatementContext,
    ) -> Result<Row> {
        let env = Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] };
        let mut after = row.clone();
        for (place, &column) in self.fk.columns.iter().enumerate() {
            after[column] = match (action, new, defaults.get(place)) {
                (ReferentialAction::Cascade, Some(new), _) => {
                    follow(&new[place], self.child.columns[column].ty)?
                }
                (ReferentialAction::SetDefault, _, Some(Some(default))) => eval::eval(default, &[], &env)?,
                _ => Datum::Null,
            };
        }
        Ok(after)
    }

    /// `23503`: it is still referred to.
    fn refusal(&self, old: &[Datum]) -> SqlError {
        let message = format!(
            "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
            self.parent.name, self.fk.name, self.child.name
        );
        let key = describe(self.parent, self.columns, old);
        SqlError::new(SqlState::FOREIGN_KEY_VIOLATION, message)
            .detail(format!("{key} is still referenced from table \"{}\".", self.child.name))
            .object(object_of(self.child, &self.fk.name))
    }
}
