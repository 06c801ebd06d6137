//! SELECT … FOR UPDATE and FOR SHARE.
//!
//! Rows are locked as they are found, no more of them than LIMIT asks for, and sent when all are locked: a row that has
//! changed since it was read makes the statement run again, and then nothing may have been sent.

use std::sync::Arc;

use txn::api::{Key, LockWait, LockedRow, Locking};

use super::constraint::row_bytes;
use super::direct::count;
use super::recheck::{Recheck, is_by_key};
use super::update::key_in;
use super::write::out_of_memory;
use super::{Outcome, Row, Rows, StatementContext, key, query, source};
use crate::error::Result;
use crate::ir::{Rivals, SelectLocked};

/// Rows locked by one call.
const BATCH_ROWS_MAX: usize = 500;

/// Runs it.
pub async fn run(select: &SelectLocked, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let mut skip = count(select.offset.as_ref(), "OFFSET", &ctx)?.unwrap_or(0);
    let mut left = count(select.limit.as_ref(), "LIMIT", &ctx)?.unwrap_or(usize::MAX);
    let wait = match select.rivals {
        Rivals::Wait => LockWait::For(ctx.lock_timeout),
        Rivals::Fail => LockWait::Never,
        Rivals::Skip => LockWait::Skip,
    };
    let how = Locking { mode: select.mode, wait };
    let fences = ctx.fences(&select.table);
    // What is read by key is locked as it is read; no row of it is left out, so the limit doesn't matter.
    let recheck = Recheck::new(&select.source, &select.table, &ctx);
    let by_key = match recheck {
        Some(_) => is_by_key(&select.source),
        None => source::is_plain(&select.source),
    };
    let at_once = select.rivals == Rivals::Wait && select.limit.is_none() && by_key;
    let mut input = match at_once {
        true => query::for_change(&select.source, select.mode, &ctx).await?,
        false => query::rows(&select.source, &ctx).await?,
    };
    let (mut out, mut bytes) = (Vec::new(), 0);
    'rows: while let Some(batch) = input.next().await? {
        let mut batch = batch.into_iter();
        loop {
            let wanted = left.saturating_add(skip).min(BATCH_ROWS_MAX);
            let rows: Vec<Row> = batch.by_ref().take(wanted).collect();
            if rows.is_empty() {
                break;
            }
            let keys: Vec<Key> =
                rows.iter().map(|row| key_in(row, select.columns.len())).collect::<Result<_>>()?;
            let locked = ctx.transaction.lock(&keys, how, &fences).await;
            let locked = locked.map_err(|error| key::explain(error, ctx.catalog.image()))?;
            for ((mut row, key), locked) in rows.into_iter().zip(&keys).zip(locked) {
                if locked == LockedRow::Skipped {
                    continue;
                }
                // (What was locked as it was read is the newest already.)
                if let (Some(recheck), false) = (&recheck, at_once) {
                    match recheck.now(key, &locked).await? {
                        Some(now) => row = now,
                        None => continue,
                    }
                }
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                row.truncate(select.columns.len());
                bytes += row_bytes(&row);
                if bytes > ctx.memory_bytes_max {
                    return Err(out_of_memory("The rows to be locked", ctx.memory_bytes_max));
                }
                out.push(row);
                left -= 1;
            }
            if left == 0 {
                break 'rows;
            }
        }
        if left == 0 {
            break;
        }
    }
    Ok(Outcome::Rows { columns: select.columns.clone(), rows: Box::new(Rows::new(out)), tag: "SELECT " })
}
