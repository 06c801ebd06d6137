//! Execution: from a bound [`Statement`](crate::ir::Statement) to rows and effects.
//!
//! Two ways through, one meaning: what touches few rows by key runs as a direct plan (`exec::direct`), everything else is
//! lowered to DataFusion (`crate::flow`). Writes are always planned here: the rows of a source plan become
//! transaction operations.

mod constraint;
mod copy_in;
mod copy_out;
mod ddl;
mod direct;
mod effect;
mod explain;
mod insert;
pub mod inspect;
pub mod key;
mod locked;
mod query;
mod recheck;
mod references;
mod rewrite;
pub mod scan;
mod source;
pub mod spans;
mod update;
mod write;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use txn::LockMode;
use txn::api::{Database, Fence, Isolation, Key, LockWait, LockedRow, Locking, Transaction};

use crate::catalog::{CatalogView, TableDescriptor};
use crate::error::{Result, SqlError, SqlState};
use crate::function::EvalContext;
use crate::ir::{CopyFrom, CopyTo, OutputColumn, Statement};
use crate::types::Datum;

pub use copy_in::CopyIn;
pub use copy_out::CopyOut;
pub use direct::count;
pub use references::comparable;

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
    /// `lock_timeout`: how long a row lock is waited for.
    pub lock_timeout: Option<Duration>,
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
        /// The tag up to the count, e.g. `SELECT ` or `INSERT 0 `; see [`tag`].
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

/// The command tag of an [`Outcome::Rows`]: a tag that ends with a blank is followed by the count.
pub fn tag(tag: &str, count: u64) -> String {
    if tag.ends_with(' ') { format!("{tag}{count}") } else { tag.to_owned() }
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

impl StatementContext {
    /// Locks rows to be changed, waiting as long as the session wants to, and reads them.
    pub async fn lock(&self, keys: &[Key], mode: LockMode, fences: &[Fence]) -> Result<Vec<LockedRow>> {
        let how = Locking { mode, wait: LockWait::For(self.lock_timeout) };
        let locked = self.transaction.lock(keys, how, fences).await;
        locked.map_err(|error| key::explain(error, self.catalog.image()))
    }

    /// Locks keys under which rows are to be inserted, or entries removed, and tells what stands there at the latest. Below
    /// SERIALIZABLE only.
    pub async fn lock_latest(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<LockedRow>> {
        let how = Locking { mode: LockMode::Update, wait: LockWait::For(self.lock_timeout) };
        let locked = self.transaction.lock_latest(keys, how, fences).await;
        locked.map_err(|error| key::explain(error, self.catalog.image()))
    }

    /// The statement as it would go on with everything that is committed by the time of its next read, which is validated by the commit.
    pub fn at_latest(self: &Arc<Self>) -> Arc<Self> {
        let Some(transaction) = self.transaction.latest() else { return Arc::clone(self) };
        Arc::new(Self {
            database: self.database.clone(),
            transaction,
            catalog: self.catalog.clone(),
            auto_commit: self.auto_commit,
            eval: self.eval.clone(),
            params: self.params.clone(),
            cancel: self.cancel.clone(),
            lock_timeout: self.lock_timeout,
            memory_bytes_max: self.memory_bytes_max,
        })
    }

    /// Whether what is read is validated by the commit. Where it isn't, keys of new rows are locked.
    pub fn is_serializable(&self) -> bool {
        self.transaction.isolation() == Isolation::Serializable
    }

    /// The fences that reads and writes of a table carry: none for one that the transaction itself has changed.
    pub fn fences(&self, table: &TableDescriptor) -> Vec<Fence> {
        if self.catalog.transaction().has_changed(table.id) { Vec::new() } else { vec![table.fence()] }
    }
}

/// Runs a statement in its transaction. Rows are computed as they are taken, except those of RETURNING, which are sent only
/// after all effects are in the transaction. COPY has entries of its own: [`copy_from`], [`copy_to`].
///
/// The caller commits, and has errors of `commit` explained by [`key::explain`].
pub async fn execute(statement: &Statement, ctx: Arc<StatementContext>) -> Result<Outcome> {
    match statement {
        Statement::Query(plan) => Ok(Outcome::Rows {
            columns: plan.columns().to_vec(),
            rows: query::statement(plan, &ctx).await?,
            tag: "SELECT ",
        }),
        Statement::SelectLocked(select) => locked::run(select, ctx).await,
        Statement::QueryLocked { plan, .. } => Ok(Outcome::Rows {
            columns: plan.columns().to_vec(),
            rows: query::rows(plan, &ctx).await?,
            tag: "SELECT ",
        }),
        Statement::Insert(insert) => insert::run(insert, ctx).await,
        Statement::Update(update) => update::update(update, ctx).await,
        Statement::Delete(delete) => update::delete(delete, ctx).await,
        Statement::Ddl(change) => ddl::run(change, ctx).await,
        Statement::Explain { statement, analyze } => explain::run(statement, *analyze, ctx).await,
        Statement::CopyFrom(_) | Statement::CopyTo(_) => {
            Err(SqlError::internal("COPY is run by the protocol's copy mode"))
        }
    }
}

/// Begins COPY … FROM STDIN.
pub async fn copy_from(copy: &CopyFrom, ctx: Arc<StatementContext>) -> Result<CopyIn> {
    copy_in::begin(copy, ctx).await
}

/// Begins COPY … TO STDOUT.
pub async fn copy_to(copy: &CopyTo, ctx: Arc<StatementContext>) -> Result<CopyOut> {
    copy_out::begin(copy, ctx).await
}
