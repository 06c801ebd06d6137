//! Execution: from a bound [`Statement`](crate::ir::Statement) to rows and effects.
//!
//! Two ways through, one meaning: what touches few rows by key runs as a direct plan (`exec::direct`), everything else is
//! lowered to DataFusion (`crate::flow`). Writes are always planned here: the rows of a source plan become
//! transaction operations.

pub mod key;
pub mod scan;
pub mod spans;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use txn::api::{Database, Transaction};

use crate::catalog::CatalogView;
use crate::error::{Result, SqlError, SqlState};
use crate::function::EvalContext;
use crate::ir::{CopyFrom, CopyTo, OutputColumn, Statement};
use crate::types::Datum;

/// A row.
pub type Row = Vec<Datum>;

/// Everything that a statement needs while it runs.
pub struct StatementContext {
    /// The cluster.
    pub database: Arc<dyn Database>,
    /// The transaction; an auto-commit statement has one of its own.
    pub transaction: Arc<dyn Transaction>,
    /// The catalog as of the transaction, with its own changes.
    pub catalog: Arc<CatalogView>,
    /// Whether the transaction consists of this statement alone and commits right after it: then a point read may be
    /// answered at the latest, and uniqueness be checked when the transaction commits.
    pub auto_commit: bool,
    /// What kernels may know.
    pub eval: EvalContext,
    /// The values of `$1` …, of the types the statement was bound with.
    pub params: Vec<Datum>,
    /// Cancelled by a cancel request, a statement timeout, or the end of the session.
    pub cancel: CancellationToken,
    /// How many bytes an operator may hold in memory before the statement fails with `53200`.
    pub memory_bytes_max: usize,
}

/// A stream of rows with back-pressure: nothing is computed ahead of demand beyond a bounded buffer.
#[async_trait]
pub trait RowStream: Send {
    /// The next non-empty batch; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<Row>>>;
}

/// What running a statement gives.
pub enum Outcome {
    /// Rows to send, then the tag `<verb> <count>` (`SELECT 3`, `INSERT 0 3`).
    Rows {
        /// Their columns.
        columns: Vec<OutputColumn>,
        /// The rows.
        rows: Box<dyn RowStream>,
        /// The tag up to the count, e.g. `SELECT ` or `INSERT 0 `.
        tag: &'static str,
    },
    /// Done; the whole command tag and notices.
    Done {
        /// E.g. `CREATE TABLE`, `UPDATE 5`.
        tag: String,
        /// NOTICE messages.
        notices: Vec<String>,
    },
}

/// Rows that are there already.
pub struct Rows(Option<Vec<Row>>);

impl Rows {
    /// A stream of these rows.
    pub fn new(rows: Vec<Row>) -> Self {
        Self((!rows.is_empty()).then_some(rows))
    }
}

#[async_trait]
impl RowStream for Rows {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        Ok(self.0.take())
    }
}

/// `57014`
pub fn canceled() -> SqlError {
    SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}

/// Runs a statement in its transaction. Rows are computed as they are taken, except those of RETURNING, which are sent only
/// after all effects are in the transaction. COPY has entries of its own: [`copy_from`], [`copy_to`].
///
/// The caller commits, and has errors of `commit` explained by [`key::explain`].
pub async fn execute(statement: &Statement, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let _ = (statement, ctx);
    Err(SqlError::unsupported("execution"))
}

/// Begins COPY … FROM STDIN.
pub async fn copy_from(copy: &CopyFrom, ctx: Arc<StatementContext>) -> Result<CopyIn> {
    let _ = (copy, ctx);
    Err(SqlError::unsupported("COPY FROM"))
}

/// Begins COPY … TO STDOUT.
pub async fn copy_to(copy: &CopyTo, ctx: Arc<StatementContext>) -> Result<CopyOut> {
    let _ = (copy, ctx);
    Err(SqlError::unsupported("COPY TO"))
}

/// The receiving end of COPY FROM STDIN.
pub struct CopyIn {
    /// How many columns the data has, for CopyInResponse.
    pub columns: usize,
}

impl CopyIn {
    /// Takes data; lines need not be whole. Full batches are written to the transaction before this returns, so that the
    /// client is slowed down to what the cluster takes.
    pub async fn push(&mut self, data: &[u8]) -> Result<()> {
        let _ = data;
        Ok(())
    }

    /// The client has sent everything: writes what is left, and says how many rows there were (`COPY 3`).
    pub async fn finish(self) -> Result<u64> {
        Ok(0)
    }
}

/// The sending end of COPY TO STDOUT.
pub struct CopyOut {
    /// How many columns the data has, for CopyOutResponse.
    pub columns: usize,
}

impl CopyOut {
    /// The next lines, with the number of rows in them; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(Bytes, u64)>> {
        Ok(None)
    }
}
