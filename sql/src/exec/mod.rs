//! Execution: from a bound [`Statement`](crate::ir::Statement) to rows and effects.
//!
//! Two ways through, one meaning: what touches few rows by key runs as a direct plan (`exec::direct`), everything else is
//! lowered to DataFusion (`crate::flow`). Writes are always planned here: the rows of a source plan become
//! transaction operations.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use txn::api::{Database, Transaction};

use crate::catalog::CatalogReader;
use crate::error::Result;
use crate::function::EvalContext;
use crate::ir::OutputColumn;
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
    pub catalog: Arc<dyn CatalogReader>,
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
