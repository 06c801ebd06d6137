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
/// Rows asked for by their keys: at first, and at most.
const ROWS_FIRST: usize = 16;
const ROWS_AT_ONCE_MAX: usize = 128;
/// As long as an answer is smaller than this, twice as many rows are asked for next; a quarter, when it is four times as large.
const ANSWER_BYTES: usize = 256 << 10;
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

/// Rows that are read by their keys. How many at a time is learned from those before: a row may be of any size, and an answer
/// holds all that were asked for.
pub struct Points {
    at_once: usize,
    bytes: u64,
}

impl Points {
    pub fn new() -> Self {
        Self { at_once: ROWS_FIRST, bytes: 0 }
    }

    /// What `make` makes of the rows under these keys, in their order. No more of them than one answer is kept meanwhile.
    pub async fn read<T>(
        &mut self,
        ctx: &StatementContext,
        keys: &[Key],
        fences: &[Fence],
        mut make: impl FnMut(&Key, Option<Value>) -> T,
    ) -> Result<Vec<T>> {
        let mut made = Vec::with_capacity(keys.len());
        let mut rest = keys;
        while !rest.is_empty() {
            let (asked, later) = rest.split_at(self.at_once.min(rest.len()));
            rest = later;
            let values = get(ctx, asked, fences).await?;
            self.learn(values.iter().flatten().map(Value::len).sum());
            made.extend(asked.iter().zip(values).map(|(key, value)| make(key, value)));
        }
        Ok(made)
    }

    fn learn(&mut self, answer_bytes: usize) {
        self.bytes += answer_bytes as u64;
        if answer_bytes < ANSWER_BYTES {
            self.at_once = (2 * self.at_once).min(ROWS_AT_ONCE_MAX);
        } else if answer_bytes >= 4 * ANSWER_BYTES {
            self.at_once = (self.at_once / 4).max(1);
        }
    }

    /// How many bytes were read since the last call.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_rows_are_asked_for_one_by_one_and_small_ones_many_at_a_time() {
        let mut points = Points::new();
        for _ in 0..10 {
            points.learn(points.at_once * 100);
        }
        assert_eq!(points.at_once, ROWS_AT_ONCE_MAX);
        for _ in 0..10 {
            points.learn(points.at_once * (2 << 20));
        }
        assert_eq!(points.at_once, 1);
        points.learn(ANSWER_BYTES);
        assert_eq!(points.at_once, 1, "as it should be");
        points.take_bytes();
        points.learn(7);
        assert_eq!((points.take_bytes(), points.take_bytes()), (7, 0));
    }
}
