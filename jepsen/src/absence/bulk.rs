//! What is written while the node is away: rows of random bytes, which nothing compresses, and which the seed gives again when they
//! are looked for.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::{Options, telling};
use crate::history::Clock;
use crate::run::{open, sleep};

/// Rows of one statement.
const BATCH_ROWS: u64 = 64;
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Statements that each writer may lose; more are no accident.
const REFUSED_MAX: u64 = 100;
/// How often a look is tried.
const LOOKS_MAX: usize = 8;

/// Where and what is written.
pub(super) struct Bulk<'a> {
    options: &'a Options,
    urls: &'a [String],
    table: String,
}

/// What was acknowledged.
pub(super) struct Written {
    batches: Vec<u64>,
    row_bytes: u64,
    /// Statements that were not acknowledged: their rows are there, or not, and nobody looks for them.
    pub refused: u64,
}

impl Written {
    pub fn bytes(&self) -> u64 {
        self.batches.len() as u64 * BATCH_ROWS * self.row_bytes
    }
}

/// How far it is.
#[derive(Default)]
struct Progress {
    next: AtomicU64,
    refused: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
}

impl<'a> Bulk<'a> {
    /// A table of its own.
    pub fn new(options: &'a Options, urls: &'a [String], table: &str) -> Self {
        Self { options, urls, table: table.to_owned() }
    }

    /// Makes the table.
    pub async fn create(&self) -> Result<()> {
        let create = format!(
            "CREATE TABLE {} (id bigint PRIMARY KEY, v bytea NOT NULL) WITH (sharding = 'hash', shards = {})",
            self.table, self.options.shards
        );
        let client = open(&self.urls[0], CONNECT_LIMIT).await?;
        client.batch_execute(&create).await.with_context(|| format!("making {}", self.table))
    }

    /// Writes until so much is acknowledged as is wanted.
    pub async fn write(&self, tell: &dyn Fn(&str)) -> Result<Written> {
        let row_bytes = self.options.row_bytes as u64;
        let wanted = self.options.bytes.div_ceil(BATCH_ROWS * row_bytes) as usize;
        let (progress, clock) = (Progress::default(), Clock::start());
        let writers = (0..self.options.writers.max(1)).map(|n| self.writer(n, wanted, &progress));
        let line = || {
            let bytes = progress.acknowledged.lock().len() as u64 * BATCH_ROWS * row_bytes;
            let (done, all) = (megabytes(bytes), megabytes(self.options.bytes));
            let rate = done / clock.elapsed().as_secs_f64();
            format!("written: {done:.0} of {all:.0} MB, {rate:.1} MB/s")
        };
        telling(try_join_all(writers), tell, line).await.context("writing while the node is away")?;
        let refused = progress.refused.into_inner();
        Ok(Written { batches: progress.acknowledged.into_inner(), row_bytes, refused })
    }

    async fn writer(&self, n: usize, wanted: usize, progress: &Progress) -> Result<()> {
        let (mut node, mut refused, mut prepared) = (n, 0, None);
        while progress.acknowledged.lock().len() < wanted {
            let batch = progress.next.fetch_add(1, Ordering::Relaxed);
            match self.insert(&mut prepared, &self.urls[node % self.urls.len()], batch).await {
                Ok(()) => progress.acknowledged.lock().push(batch),
                Err(error) => {
                    progress.refused.fetch_add(1, Ordering::Relaxed);
                    (node, refused) = (node + 1, refused + 1);
                    ensure!(refused <= REFUSED_MAX, "{refused} statements failed, at last: {error:#}");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Writes a batch, on a connection that is kept if it succeeds.
    async fn insert(&self, kept: &mut Option<(Client, Statement)>, url: &str, batch: u64) -> Result<()> {
        let (client, statement) = match kept.take() {
            Some(prepared) => prepared,
            None => self.prepare(url).await?,
        };
        let rows: Vec<(i64, Vec<u8>)> = ids(batch).map(|id| (id as i64, self.row(id))).collect();
        let values =
            rows.iter().flat_map(|(id, row)| [id as &(dyn ToSql + Sync), row as &(dyn ToSql + Sync)]);
        let values: Vec<&(dyn ToSql + Sync)> = values.collect();
        let inserting = tokio::time::timeout(STATEMENT_LIMIT, client.execute(&statement, &values));
        let inserted = inserting.await.context("no answer in time")??;
        ensure!(inserted == BATCH_ROWS, "{inserted} of {BATCH_ROWS} rows were inserted");
        *kept = Some((client, statement));
        Ok(())
    }

    async fn prepare(&self, url: &str) -> Result<(Client, Statement)> {
        let client = open(url, CONNECT_LIMIT).await?;
        let mut sql = format!("INSERT INTO {} VALUES ", self.table);
        for n in 0..BATCH_ROWS {
            let comma = if n == 0 { "" } else { ", " };
            // Writing to a string doesn't fail.
            let _ = write!(sql, "{comma}(${}, ${})", 2 * n + 1, 2 * n + 2);
        }
        let types = std::iter::repeat_n([Type::INT8, Type::BYTEA], BATCH_ROWS as usize).flatten();
        let types: Vec<Type> = types.collect();
        let statement = client.prepare_typed(&sql, &types).await?;
        Ok((client, statement))
    }

    /// The bytes of a row.
    fn row(&self, id: u64) -> Vec<u8> {
        row(self.options.seed, id, self.options.row_bytes)
    }

    /// How many acknowledged rows a node doesn't find, or finds with other bytes.
    pub async fn lost(&self, url: &str, written: &Written, tell: &dyn Fn(&str)) -> Result<usize> {
        let next = AtomicU64::new(0);
        let looks = (0..self.options.writers.max(1)).map(|_| self.look(url, written, &next));
        let line = || {
            let all = written.batches.len() as u64;
            let done = next.load(Ordering::Relaxed).min(all);
            format!("looked for {} of {} rows", done * BATCH_ROWS, all * BATCH_ROWS)
        };
        let lost = telling(try_join_all(looks), tell, line).await.context("looking for what was written")?;
        Ok(lost.iter().sum())
    }

    /// The same of the batches that are next, as long as there are any.
    async fn look(&self, url: &str, written: &Written, next: &AtomicU64) -> Result<usize> {
        let (mut rows, mut lost) = (Rows::at(url), 0);
        while let Some(batch) = written.batches.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let ids: Vec<u64> = ids(*batch).collect();
            let sql = format!("SELECT id, v FROM {} WHERE id IN ({})", self.table, list(&ids));
            let mut found = HashMap::new();
            for row in rows.fetch(&sql).await? {
                found.insert(row.try_get::<_, i64>(0)? as u64, row.try_get::<_, Vec<u8>>(1)?);
            }
            lost += ids.iter().filter(|id| found.get(*id) != Some(&self.row(**id))).count();
        }
        Ok(lost)
    }
}

/// In millions of bytes.
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The rows of a batch.
fn ids(batch: u64) -> impl Iterator<Item = u64> {
    batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS
}

/// The bytes that a seed gives a row.
fn row(seed: u64, id: u64, bytes: usize) -> Vec<u8> {
    // Multiplied by an odd number, so that seeds next to each other give different rows.
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id);
    let mut row = vec![0; bytes];
    random.fill_bytes(&mut row);
    row
}

/// Numbers for `IN (…)`.
pub(super) fn list(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    ids.join(", ")
}

/// Looks at a node, again and again if need be.
pub(super) struct Rows<'a> {
    url: &'a str,
    client: Option<Client>,
}

impl<'a> Rows<'a> {
    pub fn at(url: &'a str) -> Self {
        Self { url, client: None }
    }

    /// What a statement that changes nothing finds.
    pub async fn fetch(&mut self, sql: &str) -> Result<Vec<Row>> {
        for _ in 1..LOOKS_MAX {
            if let Ok(found) = self.once(sql).await {
                return Ok(found);
            }
            sleep(RETRY_PAUSE).await;
        }
        self.once(sql).await
    }

    /// On a connection that is kept if it succeeds.
    async fn once(&mut self, sql: &str) -> Result<Vec<Row>> {
        let client = match self.client.take() {
            Some(client) => client,
            None => open(self.url, CONNECT_LIMIT).await?,
        };
        let asking = tokio::time::timeout(STATEMENT_LIMIT, client.query(sql, &[]));
        let found = asking.await.context("no answer in time")??;
        self.client = Some(client);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_row_is_given_again_and_is_no_other_rows() {
        assert_eq!(row(7, 12, 100), row(7, 12, 100));
        let ids = (0..100).flat_map(|id| [(1, id), (2, id)]);
        let rows: BTreeSet<Vec<u8>> = ids.map(|(seed, id)| row(seed, id, 64)).collect();
        assert_eq!(rows.len(), 200);
        // Each value of a byte occurs: there is nothing to be compressed.
        let values: BTreeSet<u8> = row(1, 1, 8_192).into_iter().collect();
        assert_eq!(values.len(), 256);
    }

    #[test]
    fn batches_share_no_rows_and_all_of_them_count() {
        let all: Vec<u64> = (0..3).flat_map(ids).collect();
        assert_eq!(all, (0..3 * BATCH_ROWS).collect::<Vec<u64>>());
        let written = Written { batches: vec![0, 2], row_bytes: 1_000, refused: 1 };
        assert_eq!(written.bytes(), 2 * BATCH_ROWS * 1_000);
        assert_eq!(list(&[3, 4]), "3, 4");
    }
}
