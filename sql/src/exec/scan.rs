//! [`TableReader`]: the rows of a table, page by page.
//!
//! ```text
//!   TableScan ── spans::of ──► Spans ── partition ──► Spans, …   one TableReader each
//!   (filters)     (points, ranges of keys)                        │ a page is read ahead while one is used
//!                                                                 ▼
//!                                              Transaction::get / scan, with the table's fence
//! ```
//!
//! Spans only narrow down what is read: every filter must still be checked on each row.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use txn::LockMode;
use txn::api::{Fence, Key, LockedRow, ScanRequest, Value};
use txn::ids::KeyRange;

use super::key::explain;
use super::spans::Spans;
use super::{Row, StatementContext, canceled};
use crate::catalog::garbage::Kept;
use crate::catalog::{TableDescriptor, layout};
use crate::error::{Result, SqlError};
use crate::types::{Datum, row};

/// Rows asked for in a page; its bytes are bounded by the transaction layer (about 1 MiB).
const PAGE_ROWS_MAX: usize = 4096;
/// Keys read by one call.
const POINTS_MAX: usize = 512;

/// A page: keys and stored rows.
pub type Page = Vec<(Key, Value)>;

/// Which columns of a stored row are wanted.
#[derive(Clone, Debug)]
pub struct Projection {
    /// Ids of the stored columns that are wanted, in order.
    ids: Vec<u32>,
    /// What rows have that lack them.
    absent: Row,
    /// Where the row's key goes.
    key_at: Option<usize>,
}

impl Projection {
    /// The columns with these indexes, in this order; the index `table.columns.len()` is the row's key, once at most.
    pub fn new(table: &TableDescriptor, columns: &[usize]) -> Self {
        let wanted = columns.iter().filter_map(|&i| table.columns.get(i));
        let (ids, absent) =
            wanted.map(|c| (c.id, c.missing.as_ref().map_or(Datum::Null, |m| m.0.clone()))).unzip();
        Self { ids, absent, key_at: columns.iter().position(|&i| i == table.columns.len()) }
    }

    /// All columns, and the key if asked for.
    pub fn all(table: &TableDescriptor, with_key: bool) -> Self {
        let width = table.columns.len();
        let columns: Vec<usize> = (0..width + usize::from(with_key)).collect();
        Self::new(table, &columns)
    }

    /// Decodes a stored row.
    pub fn decode(&self, key: &Key, value: &[u8]) -> Result<Row> {
        let mut out = self.absent.clone();
        row::decode_into(value, &self.ids, &mut out)?;
        if let Some(at) = self.key_at {
            out.insert(at, Datum::Bytea(key.clone()));
        }
        Ok(out)
    }
}

/// Reads the rows of some spans of a table through the statement's transaction, in the order of the spans.
pub struct TableReader {
    ctx: Arc<StatementContext>,
    fences: Vec<Fence>,
    kept: Kept,
    projection: Projection,
    work: VecDeque<Work>,
    ahead: Option<mpsc::Receiver<Result<Page>>>,
    rows_left: usize,
    first_page_rows: usize,
    how: How,
}

#[derive(Clone, Copy, Default)]
struct How {
    /// From the end to the start.
    reverse: bool,
    points: Points,
}

/// How single rows are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Points {
    /// As of the transaction's snapshot.
    #[default]
    AtSnapshot,
    /// At the latest, outside the transaction: for the one table of a statement that is a transaction of its own, when one
    /// call reads all its keys.
    AtLatest,
    /// Locked first.
    Locked(LockMode),
}

#[derive(Clone, Debug)]
enum Work {
    Points(Vec<Key>),
    Range(KeyRange),
    /// Entries of an index of the table with this prefix.
    Entries {
        of: Key,
        keys: Vec<Key>,
    },
}

impl TableReader {
    /// A reader of `columns` (see [`Projection::new`]).
    pub fn new(ctx: Arc<StatementContext>, table: &TableDescriptor, columns: &[usize], spans: Spans) -> Self {
        let mut kept = Kept::of(table);
        let work = match spans {
            Spans::Points(keys) => keys.chunks(POINTS_MAX).map(|c| Work::Points(c.to_vec())).collect(),
            Spans::Ranges(ranges) => ranges.into_iter().map(Work::Range).collect(),
            Spans::Entries { index, keys } => {
                kept = kept.with_index(index);
                VecDeque::from([Work::Entries { of: table.prefix(), keys }])
            }
        };
        Self {
            fences: ctx.fences(table),
            kept,
            ctx,
            projection: Projection::new(table, columns),
            work,
            ahead: None,
            rows_left: usize::MAX,
            first_page_rows: PAGE_ROWS_MAX,
            how: How::default(),
        }
    }

    /// Few rows are likely to be wanted: the first page is small, and nothing is read ahead of demand before the second.
    pub fn expect(mut self, rows: usize) -> Self {
        self.first_page_rows = rows.saturating_mul(2).clamp(64, PAGE_ROWS_MAX);
        self
    }

    /// How points are read.
    pub fn points(mut self, points: Points) -> Self {
        let one_call = matches!(self.work.make_contiguous(), [Work::Points(_)]);
        self.how.points = if points == Points::AtLatest && !one_call { Points::AtSnapshot } else { points };
        self
    }

    /// Reads from the end to the start.
    pub fn reverse(mut self) -> Self {
        self.how.reverse = true;
        self.work = std::mem::take(&mut self.work)
            .into_iter()
            .rev()
            .map(|work| match work {
                Work::Points(keys) => Work::Points(keys.into_iter().rev().collect()),
                range => range,
            })
            .collect();
        self
    }

    /// Reads no more than this many rows: LIMIT without a filter.
    pub fn limit(mut self, rows_max: usize) -> Self {
        self.rows_left = rows_max;
        self
    }

    /// The next page as it is stored; never empty; `None` at the end.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        loop {
            if self.rows_left == 0 {
                return Ok(None);
            }
            if self.ctx.cancel.is_cancelled() {
                return Err(canceled());
            }
            let mut page = match &mut self.ahead {
                Some(ahead) => match ahead.recv().await {
                    Some(page) => page?,
                    None => return Ok(None),
                },
                None => {
                    let rows_max =
                        self.rows_left.min(std::mem::replace(&mut self.first_page_rows, PAGE_ROWS_MAX));
                    let Some(page) =
                        step(&self.ctx, &self.fences, self.kept, &mut self.work, self.how, rows_max).await?
                    else {
                        return Ok(None);
                    };
                    page
                }
            };
            if page.is_empty() {
                continue;
            }
            page.truncate(self.rows_left);
            if self.rows_left != usize::MAX {
                self.rows_left -= page.len();
            } else if self.ahead.is_none() && !self.work.is_empty() {
                self.read_ahead();
            }
            return Ok(Some(page));
        }
    }

    /// The next rows; never none; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        let Some(page) = self.next_page().await? else { return Ok(None) };
        page.iter().map(|(key, value)| self.projection.decode(key, value)).collect::<Result<_>>().map(Some)
    }

    /// How to decode the rows of [`TableReader::next_page`].
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Reads the rest in a task of its own, which is one page ahead and ends when the reader is dropped.
    fn read_ahead(&mut self) {
        let (send, receive) = mpsc::channel(1);
        let ctx = Arc::clone(&self.ctx);
        let fences = self.fences.clone();
        let (kept, how) = (self.kept, self.how);
        let mut work = std::mem::take(&mut self.work);
        self.ctx.eval.seams.spawn("scan-ahead", async move {
            loop {
                let page = tokio::select! {
                    page = step(&ctx, &fences, kept, &mut work, how, PAGE_ROWS_MAX) => page,
                    () = ctx.cancel.cancelled() => Err(canceled()),
                    () = send.closed() => return,
                };
                let Some(page) = page.transpose() else { return };
                let last = page.is_err();
                if send.send(page).await.is_err() || last {
                    return;
                }
            }
        });
        self.ahead = Some(receive);
    }
}

/// One call of the transaction. The page may be empty; `None` when there is nothing left to read.
async fn step(
    ctx: &StatementContext,
    fences: &[Fence],
    kept: Kept,
    work: &mut VecDeque<Work>,
    how: How,
    rows_max: usize,
) -> Result<Option<Page>> {
    let image = ctx.catalog.image();
    let page = match work.pop_front() {
        None => return Ok(None),
        Some(Work::Points(keys)) => {
            let values = match how.points {
                Points::AtSnapshot => ctx.transaction.get(&keys, fences).await,
                Points::AtLatest => ctx.database.get_latest(&keys, fences).await,
                Points::Locked(mode) => {
                    Ok(ctx.lock(&keys, mode, fences).await?.into_iter().map(LockedRow::value).collect())
                }
            };
            let values = values.map_err(|error| explain(error, image))?;
            if values.len() != keys.len() {
                return Err(SqlError::internal("a point read did not answer all keys"));
            }
            keys.into_iter().zip(values).filter_map(|(k, v)| Some((k, v?))).collect()
        }
        Some(Work::Entries { of, keys }) => {
            // Entries and rows must be of one moment: never at the latest.
            let values = ctx.transaction.get(&keys, fences).await.map_err(|error| explain(error, image))?;
            let mut rows: Vec<Key> =
                values.into_iter().flatten().map(|value| layout::row_of_entry(&of, &value)).collect();
            rows.sort_unstable();
            if how.reverse {
                rows.reverse();
            }
            if !rows.is_empty() {
                work.push_front(Work::Points(rows));
            }
            Page::new()
        }
        Some(Work::Range(range)) => {
            let request = ScanRequest { range, reverse: how.reverse, rows_max };
            let page = ctx.transaction.scan(request, fences).await.map_err(|error| explain(error, image))?;
            if let Some(rest) = page.rest {
                work.push_front(Work::Range(rest));
            }
            page.rows
        }
    };
    kept.check(ctx.catalog.transaction()).await?;
    Ok(Some(page))
}

/// Splits ranges along shard boundaries into at most `parts_max` lots of about as many shards, to be read in parallel.
/// The lots are in key order.
pub async fn partition(ctx: &StatementContext, spans: Spans, parts_max: usize) -> Result<Vec<Spans>> {
    let Spans::Ranges(ranges) = spans else { return Ok(vec![spans]) };
    if parts_max <= 1 || ranges.is_empty() {
        return Ok(vec![Spans::Ranges(ranges)]);
    }
    let mut pieces = Vec::new();
    for range in ranges {
        let shards = ctx.database.shards(&range).await?;
        // Between two looks at the shard map a shard may be split, never lost: cut only at starts that lie inside.
        let mut start = range.start.clone();
        for shard in shards {
            let at: Bytes = shard.range.start;
            if at > start && range.contains(&at) {
                pieces.push(KeyRange::new(std::mem::replace(&mut start, at.clone()), at));
            }
        }
        pieces.push(KeyRange::new(start, range.end));
    }
    let size = pieces.len().div_ceil(parts_max);
    Ok(pieces.chunks(size.max(1)).map(|lot| Spans::Ranges(lot.to_vec())).collect())
}
