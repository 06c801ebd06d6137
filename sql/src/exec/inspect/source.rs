//! How rows are read for an inspection: page by page, again if a shard can't answer at the moment, and no faster than told.

use std::time::{Duration, Instant};

use txn::Remedy;
use txn::api::{Fence, Key, ScanRequest, Value};
use txn::ids::KeyRange;
use txn::seam::Seams;

use super::StatementContext;
use crate::error::{Result, SqlError};
use crate::exec::key::explain;

/// Rows of a page; its bytes are bounded by the transaction layer.
const PAGE_ROWS_MAX: usize = 2048;
/// Keys asked for at a time.
const KEYS_MAX: usize = 512;
/// A read that fails for a reason that passes is tried again: an election takes a second.
const ATTEMPTS_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps to a rate.
pub struct Pace {
    begun: Instant,
    bytes: u64,
    per_second: u64,
    seams: Seams,
}

impl Pace {
    pub fn new(per_second: u64, seams: Seams) -> Self {
        Self { begun: seams.clock.now(), bytes: 0, per_second: per_second.max(1), seams }
    }

    pub fn now(&self) -> Instant {
        self.seams.clock.now()
    }

    /// Waits until so much more may have been read.
    pub async fn spend(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due = self.begun + Duration::from_secs_f64(self.bytes as f64 / self.per_second as f64);
        let early = due.saturating_duration_since(self.now());
        if !early.is_zero() {
            self.seams.sleep(early).await;
        }
    }
}

/// The rows of a range.
pub struct Pages {
    rest: Option<KeyRange>,
    fences: Vec<Fence>,
}

impl Pages {
    pub fn of(range: KeyRange, fences: Vec<Fence>) -> Self {
        Self { rest: Some(range), fences }
    }

    /// The next rows; `None` at the end.
    pub async fn next(&mut self, ctx: &StatementContext) -> Result<Option<Vec<(Key, Value)>>> {
        let Some(range) = self.rest.take() else { return Ok(None) };
        let mut attempt = 1;
        let page = loop {
            let request = ScanRequest { range: range.clone(), reverse: false, rows_max: PAGE_ROWS_MAX };
            match ctx.transaction.scan(request, &self.fences).await {
                Ok(page) => break page,
                Err(error) => again(error, &mut attempt, ctx).await?,
            }
        };
        self.rest = page.rest;
        Ok(Some(page.rows))
    }
}

/// What stands under keys, in their order.
pub async fn get(ctx: &StatementContext, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>> {
    let mut values = Vec::with_capacity(keys.len());
    for keys in keys.chunks(KEYS_MAX) {
        let mut attempt = 1;
        loop {
            match ctx.transaction.get(keys, fences).await {
                Ok(found) if found.len() == keys.len() => {
                    values.extend(found);
                    break;
                }
                Ok(_) => return Err(SqlError::internal("a point read did not answer all keys")),
                Err(error) => again(error, &mut attempt, ctx).await?,
            }
        }
    }
    Ok(values)
}

/// Waits if it may be tried again.
async fn again(error: txn::Error, attempt: &mut u32, ctx: &StatementContext) -> Result<()> {
    if *attempt >= ATTEMPTS_MAX || error.remedy() != Remedy::Retry {
        return Err(explain(error, ctx.catalog.image()));
    }
    *attempt += 1;
    ctx.eval.seams.sleep(PAUSE).await;
    Ok(())
}

/// How many bytes rows have.
pub fn bytes_of(rows: &[(Key, Value)]) -> u64 {
    rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}
