//! What a statement gives to its client: rows, a tag, or a COPY under way; and how that ends.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use txn::api::Transaction;

use super::Session;
use crate::catalog::TransactionCatalog;
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{self, CopyIn, CopyOut, Outcome, Row, RowStream, StatementContext};
use crate::ir::{OutputColumn, Statement};
use crate::types::Datum;

/// What a statement gives to its client.
pub enum Response {
    /// Rows, to be pulled.
    Rows(Rows),
    /// Done.
    Done {
        /// The command tag.
        tag: String,
        /// Notices and warnings.
        notices: Vec<Notice>,
    },
    /// COPY FROM STDIN: the data is to be pushed.
    CopyIn(Box<CopyInRun>),
    /// COPY TO STDOUT: the data is to be pulled.
    CopyOut(CopyOutRun),
    /// There was no statement.
    Empty,
}

/// A NOTICE or WARNING.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `NOTICE` or `WARNING`.
    pub severity: &'static str,
    /// Its SQLSTATE.
    pub state: SqlState,
    /// The text.
    pub message: String,
}

/// The rows of a statement.
pub struct Rows {
    /// Their columns.
    pub columns: Vec<OutputColumn>,
    /// Where they come from.
    pub stream: Box<dyn RowStream>,
    /// Those that were pulled and not yet sent.
    pub pending: VecDeque<Row>,
    /// How many were sent.
    pub count: u64,
    /// Cancelled with the statement.
    pub cancel: CancellationToken,
    tag: &'static str,
    /// The transaction of a statement of its own, ended with the rows.
    pub(super) owner: Option<(Arc<dyn Transaction>, Arc<TransactionCatalog>)>,
}

/// COPY FROM STDIN under way.
pub struct CopyInRun {
    /// How many columns the data has.
    pub columns: usize,
    /// Cancelled with the statement.
    pub cancel: CancellationToken,
    sink: CopyIn,
    owner: Option<(Arc<dyn Transaction>, Arc<TransactionCatalog>)>,
}

impl CopyInRun {
    /// Takes in a piece of the data; pieces may end anywhere.
    pub async fn push(&mut self, data: &[u8]) -> Result<()> {
        self.sink.push(data).await
    }
}

/// COPY TO STDOUT under way.
pub struct CopyOutRun {
    /// How many columns the data has.
    pub columns: usize,
    /// Cancelled with the statement.
    pub cancel: CancellationToken,
    source: CopyOut,
    rows: u64,
    owner: Option<(Arc<dyn Transaction>, Arc<TransactionCatalog>)>,
}

impl CopyOutRun {
    /// The next lines; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = self.source.next().await?;
        Ok(piece.map(|(lines, rows)| {
            self.rows += rows;
            lines
        }))
    }
}

/// Rows that are in memory already.
struct Collected(Option<Vec<Row>>);

#[async_trait]
impl RowStream for Collected {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        Ok(self.0.take().filter(|rows| !rows.is_empty()))
    }
}

impl Response {
    /// A command without notices.
    pub(super) fn tag(tag: impl Into<String>) -> Self {
        Response::Done { tag: tag.into(), notices: Vec::new() }
    }

    /// Rows that are in memory already.
    pub(super) fn collected(columns: Vec<OutputColumn>, rows: Vec<Row>, tag: &'static str) -> Self {
        Response::Rows(Rows {
            columns,
            stream: Box::new(Collected(Some(rows))),
            pending: VecDeque::new(),
            count: 0,
            cancel: CancellationToken::new(),
            tag,
            owner: None,
        })
    }
}

impl Session {
    /// All rows have been sent: ends the transaction of a statement of its own, and gives the tag.
    pub async fn finish_rows(&mut self, rows: Rows) -> Result<String> {
        if let Some((transaction, catalog)) = rows.owner {
            self.finish(&transaction, &catalog, &rows.cancel).await?;
        }
        Ok(exec::tag(rows.tag, rows.count))
    }

    /// COPY FROM STDIN is complete.
    pub async fn finish_copy(&mut self, run: CopyInRun) -> Result<String> {
        let rows = run.sink.finish().await?;
        if let Some((transaction, catalog)) = run.owner {
            self.finish(&transaction, &catalog, &run.cancel).await?;
        }
        Ok(format!("COPY {rows}"))
    }

    /// COPY FROM STDIN failed, or its client went away.
    pub async fn abandon_copy(&mut self, run: CopyInRun) {
        if let Some((transaction, _)) = run.owner {
            transaction.rollback().await;
        }
    }

    /// COPY TO STDOUT is complete.
    pub async fn finish_copy_out(&mut self, run: CopyOutRun) -> Result<String> {
        if let Some((transaction, catalog)) = run.owner {
            self.finish(&transaction, &catalog, &run.cancel).await?;
        }
        Ok(format!("COPY {}", run.rows))
    }
}

/// Starts a statement: a query's first rows are computed, everything else is carried out (and not committed).
pub(super) async fn start(
    statement: &Statement,
    context: Arc<StatementContext>,
    owner: Option<(Arc<dyn Transaction>, Arc<TransactionCatalog>)>,
    cancel: &CancellationToken,
) -> Result<Response> {
    let cancel = cancel.clone();
    match statement {
        Statement::CopyFrom(copy) => {
            let sink = exec::copy_from(copy, context).await?;
            let run = CopyInRun { columns: sink.columns, cancel, sink, owner };
            return Ok(Response::CopyIn(Box::new(run)));
        }
        Statement::CopyTo(copy) => {
            let source = exec::copy_to(copy, context).await?;
            let run = CopyOutRun { columns: source.columns, cancel, source, rows: 0, owner };
            return Ok(Response::CopyOut(run));
        }
        _ => {}
    }
    let memory_bytes_max = context.memory_bytes_max;
    let (columns, mut stream, tag) = match exec::execute(statement, context).await? {
        Outcome::Done { tag, notices } => {
            let notices = notices
                .into_iter()
                .map(|message| Notice { severity: "NOTICE", state: notice_state(&message), message })
                .collect();
            return Ok(Response::Done { tag, notices });
        }
        Outcome::Rows { columns, rows, tag } => (columns, rows, tag),
    };
    let is_query = matches!(statement, Statement::Query(_) | Statement::Explain { .. });
    if !is_query {
        // RETURNING: the rows wait for the commit.
        let mut all = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = stream.next().await? {
            bytes += batch.iter().map(|row| row.len() * size_of::<Datum>()).sum::<usize>();
            if bytes > memory_bytes_max {
                return Err(SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory")
                    .detail("RETURNING holds its rows until the commit."));
            }
            all.extend(batch);
        }
        return Ok(Response::collected(columns, all, tag));
    }
    let mut pending = VecDeque::new();
    if let Some(batch) = stream.next().await? {
        pending.extend(batch);
    }
    Ok(Response::Rows(Rows { columns, stream, pending, count: 0, cancel, tag, owner }))
}

/// PostgreSQL's code for a notice: what is there already has its error's, everything else is a success.
fn notice_state(message: &str) -> SqlState {
    if message.ends_with("already exists, skipping") {
        SqlState::DUPLICATE_TABLE
    } else {
        SqlState::SUCCESSFUL_COMPLETION
    }
}
