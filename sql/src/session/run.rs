//! Running statements: binding, the transaction around them, and running them again after a conflict.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use txn::LockMode;
use txn::api::Transaction;

use super::Session;
use super::block::{State, in_failed_block, statement_of};
use super::portal::{LastBound, Prepared};
use crate::bind::{self, Bindable, Bound, Isolation, ParamTypes, ParsedStatement};
use crate::catalog::{CatalogView, TransactionCatalog};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{self, CopyIn, CopyOut, Outcome, Row, RowStream, StatementContext};
use crate::function::EvalContext;
use crate::ir::{Ddl, OutputColumn, SelectLocked, Statement};
use crate::types::{Datum, Type};

/// How often a statement of its own is run before its conflict is the client's.
const ATTEMPTS_MAX: u32 = 12;
/// How often a statement is run in one transaction.
const STATEMENT_ATTEMPTS_MAX: u32 = 8;
/// The pause before the second attempt is drawn from this many microseconds, doubled each time.
const BACKOFF_MICROS: u64 = 500;
/// The longest pause between attempts.
const BACKOFF_MICROS_MAX: u64 = 50_000;

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
    owner: Option<(Arc<dyn Transaction>, Arc<TransactionCatalog>)>,
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

/// A statement to be bound, and what its parameters are.
pub(super) struct Runnable<'a> {
    pub statement: &'a Bindable,
    pub params: Vec<Datum>,
    pub types: &'a [Type],
    pub prepared: Option<&'a Prepared>,
}

impl Session {
    /// Runs a statement of a simple query. `alone`: it is the only one.
    pub async fn run_simple(&mut self, statement: ParsedStatement, alone: bool) -> Result<Response> {
        match statement {
            ParsedStatement::Bindable(bindable) => {
                let runnable =
                    Runnable { statement: &bindable, params: Vec::new(), types: &[], prepared: None };
                self.run(&runnable, alone).await
            }
            utility => self.run_utility(&utility, alone).await,
        }
    }

    /// Runs a prepared statement with parameters. A box, because EXECUTE comes back here.
    pub(super) fn run_prepared<'a>(
        &'a mut self,
        prepared: &'a Arc<Prepared>,
        params: Vec<Datum>,
        alone: bool,
    ) -> BoxFuture<'a, Result<Response>> {
        Box::pin(async move {
            match &prepared.statement {
                None => Ok(Response::Empty),
                Some(ParsedStatement::Bindable(bindable)) => {
                    let types = &prepared.params;
                    let runnable = Runnable { statement: bindable, params, types, prepared: Some(prepared) };
                    self.run(&runnable, alone).await
                }
                Some(utility) => self.run_utility(utility, alone).await,
            }
        })
    }

    pub(super) async fn run(&mut self, runnable: &Runnable<'_>, alone: bool) -> Result<Response> {
        let cancel = self.arm();
        metrics::counter!("flotilla_sql_statements_total").increment(1);
        let application = self.settings.get("application_name");
        self.ticket.activity.running(self.advisory.session(), runnable.statement.text(), application);
        let result = match (&self.state, alone) {
            (State::Failed(_), _) => Err(in_failed_block()),
            (State::Idle, true) => self.run_alone(runnable, &cancel).await,
            _ => match self.read_as_of(runnable).await {
                Ok(()) => self.run_in_block(runnable, &cancel).await,
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(response) => Ok(response),
            Err(error) => {
                metrics::counter!("flotilla_sql_statement_errors_total").increment(1);
                Err(self.with_rival(error).await)
            }
        }
    }

    /// Runs a statement in a transaction of its own, again after a conflict: nothing has been sent to the client yet,
    /// and the transaction of the failed attempt is known to have had no effect.
    async fn run_alone(&mut self, runnable: &Runnable<'_>, cancel: &CancellationToken) -> Result<Response> {
        let modes = self.modes();
        let isolation = modes.isolation.unwrap_or(Isolation::Serializable);
        let past = match runnable.statement.as_of() {
            Some(text) => Some(self.moment(text).await?),
            None => None,
        };
        let read_only = past.is_some() || modes.read_only.unwrap_or(false);
        let options = self.begin_options(isolation, read_only, past.map(|(at, _)| at));
        let (mut attempt, mut looked_again) = (0, false);
        let effects = self.advisory.effects();
        loop {
            attempt += 1;
            let catalog = self.shared.catalog.begin(&self.database).await?;
            let transaction = self.shared.database.begin(options.clone());
            if let Some((_, ago)) = past {
                catalog.date_back(ago);
                catalog.reload(&*transaction).await?;
            }
            let result = self.attempt_again(runnable, &transaction, &catalog, true, cancel).await;
            let error = match result {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            transaction.rollback().await;
            if self.advisory.effects() != effects {
                return Err(error);
            }
            if is_unknown_name(&error) && !looked_again && past.is_none() {
                // Another node may have made it since the catalog was last read.
                looked_again = true;
                catalog.refresh().await?;
                continue;
            }
            if !is_retryable(&error) || attempt >= ATTEMPTS_MAX || cancel.is_cancelled() {
                return Err(error);
            }
            metrics::counter!("flotilla_sql_statement_retries_total").increment(1);
            if matches!(error.source, Some(txn::Error::FenceMismatch { .. })) && past.is_none() {
                catalog.refresh().await?;
            }
            let ceiling = (BACKOFF_MICROS << attempt.min(16)).min(BACKOFF_MICROS_MAX);
            let pause = Duration::from_micros(self.shared.seams.random_range(0, ceiling));
            tokio::select! {
                () = self.shared.seams.sleep(pause) => {}
                () = cancel.cancelled() => return Err(self.cancel_reason()),
            }
        }
    }

    /// Runs a statement in the open block, or opens an implicit one.
    async fn run_in_block(
        &mut self,
        runnable: &Runnable<'_>,
        cancel: &CancellationToken,
    ) -> Result<Response> {
        let mut looked_again = false;
        let effects = self.advisory.effects();
        loop {
            let block = self.block().await?;
            let (transaction, catalog, first) =
                (block.transaction.clone(), block.catalog.clone(), !block.used && block.as_of.is_none());
            let mark = transaction.savepoint();
            let result = self.attempt_again(runnable, &transaction, &catalog, false, cancel).await;
            let error = match result {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let stale =
                matches!(error.source, Some(txn::Error::FenceMismatch { .. })) || is_unknown_name(&error);
            if !stale || looked_again || self.advisory.effects() != effects {
                return Err(error);
            }
            looked_again = true;
            transaction.rollback_to(mark).await.map_err(|_| error)?;
            if first {
                // Nothing has been read at the old snapshot that the client could have seen.
                catalog.refresh().await?;
                let block = self.block().await?;
                let (isolation, read_only) = (block.isolation, block.read_only);
                let fresh = self.shared.database.begin(self.begin_options(isolation, read_only, None));
                transaction.rollback().await;
                self.block().await?.transaction = fresh;
            } else {
                catalog.reload(&*statement_of(&transaction, false)).await?;
            }
        }
    }

    /// Runs a statement, again in the same transaction if rows that it locked had changed since it read them: the locks are
    /// kept, so that its chances grow.
    async fn attempt_again(
        &mut self,
        runnable: &Runnable<'_>,
        transaction: &Arc<dyn Transaction>,
        catalog: &Arc<TransactionCatalog>,
        alone: bool,
        cancel: &CancellationToken,
    ) -> Result<Response> {
        let mark = transaction.savepoint();
        let effects = self.advisory.effects();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = self.attempt(runnable, transaction, catalog, alone, cancel).await;
            let error = match result {
                Err(error) if is_conflict(&error) => error,
                result => return result,
            };
            if self.advisory.effects() != effects {
                return Err(error);
            }
            // (A transaction that has ended, or has sent its writes already, cannot.)
            if attempt >= STATEMENT_ATTEMPTS_MAX || !transaction.retry_statement(mark).await.unwrap_or(false)
            {
                return Err(error);
            }
            metrics::counter!("flotilla_sql_statement_reruns_total").increment(1);
        }
    }

    /// Operators say that a statement was cancelled; the session knows by whom.
    pub fn with_cancel_reason(&self, error: SqlError) -> SqlError {
        if error.state == SqlState::QUERY_CANCELED { self.cancel_reason() } else { error }
    }

    async fn attempt(
        &mut self,
        runnable: &Runnable<'_>,
        transaction: &Arc<dyn Transaction>,
        catalog: &Arc<TransactionCatalog>,
        alone: bool,
        cancel: &CancellationToken,
    ) -> Result<Response> {
        let mut view = catalog.view(self.settings.search_path().into());
        let mut bound = self.bound(runnable, &view)?;
        if is_moot(&bound.statement) && self.is_outdated(runnable).await? {
            catalog.reload(&*statement_of(transaction, false)).await?;
            view = catalog.view(self.settings.search_path().into());
            bound = self.bound(runnable, &view)?;
        }
        let past = runnable.statement.as_of().is_some();
        if (self.read_only() || past)
            && let Some(verb) = changes(&bound.statement)
        {
            return Err(SqlError::new(
                SqlState::READ_ONLY_SQL_TRANSACTION,
                format!("cannot execute {verb} in a read-only transaction"),
            ));
        }
        if let State::Open(block) = &mut self.state {
            // Where shards are cut, and lie, is nothing that a rollback could undo.
            let lasting = match &bound.statement {
                Statement::Ddl(Ddl::SplitAt { .. }) => Some("SPLIT AT"),
                Statement::Ddl(Ddl::SetPlacement { .. }) => Some("SET (replication_factor, placement)"),
                _ => None,
            };
            if let Some(what) = lasting.filter(|_| block.explicit) {
                return Err(SqlError::new(
                    SqlState::ACTIVE_SQL_TRANSACTION,
                    format!("ALTER TABLE ... {what} cannot run inside a transaction block"),
                ));
            }
            block.used = true;
        }
        let writes = is_write(&bound.statement);
        self.ticket.activity.transaction(transaction.id(), writes);
        if writes {
            transaction.begin_statement();
        }
        let sees = statement_of(transaction, matches!(bound.statement, Statement::Ddl(_)));
        let zone = self.settings.time_zone().clone();
        let lock_timeout = self.settings.duration("lock_timeout");
        let performer = self.advisory.performer(&self.shared.seams, lock_timeout, cancel);
        let context = Arc::new(StatementContext {
            database: self.shared.database.clone(),
            transaction: sees,
            catalog: view,
            eval: EvalContext { performer: Some(performer), ..self.eval_context(&zone) },
            params: runnable.params.clone(),
            cancel: cancel.clone(),
            lock_timeout,
            memory_bytes_max: self.shared.options.statement_memory_bytes_max,
            auto_commit: alone && !past,
        });
        let owner = alone.then(|| (transaction.clone(), catalog.clone()));
        let running = start(&bound.statement, context, owner.clone(), cancel);
        let response = tokio::select! {
            response = running => response.map_err(|error| self.with_cancel_reason(error))?,
            () = cancel.cancelled() => return Err(self.cancel_reason()),
        };
        // What has an effect is committed before its client hears of it; not inside the select above, where cancelling
        // would leave the outcome open.
        let finished = match &response {
            Response::Rows(rows) => rows.owner.is_none(),
            Response::Done { .. } => true,
            _ => false,
        };
        if let (true, Some((transaction, catalog))) = (finished, owner) {
            self.advisory.confirm().await?;
            self.finish(&transaction, &catalog, cancel).await?;
        }
        Ok(response)
    }

    /// Binds, or takes what was bound before against the same catalog.
    fn bound(&self, runnable: &Runnable<'_>, view: &Arc<CatalogView>) -> Result<Arc<Bound>> {
        let path = self.settings.search_path();
        if let Some(prepared) = runnable.prepared
            && let Some(last) = &*prepared.bound.lock()
            && Arc::ptr_eq(&last.image, view.image())
            && last.path == path
        {
            return Ok(last.bound.clone());
        }
        let zone = self.settings.time_zone().clone();
        let types = ParamTypes::Fixed(runnable.types);
        let bound = Arc::new(bind::bind(runnable.statement, &**view, types, &self.eval_context(&zone))?);
        if let Some(prepared) = runnable.prepared
            && bound.cacheable
        {
            *prepared.bound.lock() =
                Some(LastBound { image: view.image().clone(), path, bound: bound.clone() });
        }
        Ok(bound)
    }

    /// Whether a statement has something to do by the newest image of the catalog, that had nothing to do by the one that it was
    /// bound against: what it is about may have been made by another node since.
    async fn is_outdated(&mut self, runnable: &Runnable<'_>) -> Result<bool> {
        let newest = self.shared.catalog.refresh(&self.database).await?;
        let view = self.shared.catalog.over(newest).view(self.settings.search_path().into());
        let zone = self.settings.time_zone().clone();
        let types = ParamTypes::Fixed(runnable.types);
        let bound = bind::bind(runnable.statement, &*view, types, &self.eval_context(&zone));
        Ok(!bound.is_ok_and(|bound| is_moot(&bound.statement)))
    }

    /// Finds out the parameters and columns of a statement.
    pub(super) async fn prepare_parsed(
        &mut self,
        statement: Option<ParsedStatement>,
        types: ParamTypes<'_>,
    ) -> Result<Prepared> {
        let empty = |statement| {
            let (params, bound) = Default::default();
            Prepared { statement, params, columns: None, orders: false, bound }
        };
        let bindable = match &statement {
            Some(ParsedStatement::Bindable(bindable)) => bindable,
            Some(utility) => {
                let columns = self.utility_columns(utility);
                return Ok(Prepared { columns, ..empty(statement) });
            }
            None => return Ok(empty(None)),
        };
        if matches!(self.state, State::Failed(_)) {
            return Err(in_failed_block());
        }
        let zone = self.settings.time_zone().clone();
        let mut looked_again = false;
        let (bound, image, path) = loop {
            let catalog = match &self.state {
                State::Open(block) => block.catalog.clone(),
                _ => self.shared.catalog.begin(&self.database).await?,
            };
            let path = self.settings.search_path();
            let view = catalog.view(path.clone().into());
            match bind::bind(bindable, &*view, types, &self.eval_context(&zone)) {
                Ok(bound) => break (Arc::new(bound), view.image().clone(), path),
                Err(error) if is_unknown_name(&error) && !looked_again => {
                    looked_again = true;
                    match &self.state {
                        State::Open(block) if block.used => {
                            catalog.reload(&*statement_of(&block.transaction, false)).await?;
                        }
                        _ => {
                            catalog.refresh().await?;
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Prepared {
            params: bound.params.clone(),
            columns: bound.statement.columns().map(<[OutputColumn]>::to_vec),
            orders: matches!(&bound.statement, Statement::Query(plan) if plan.has_order()),
            bound: parking_lot::Mutex::new(bound.cacheable.then_some(LastBound { image, path, bound })),
            statement,
        })
    }

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
async fn start(
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

/// Conflicts and stale plans: the attempt is known to have had no effect, and another may succeed.
fn is_retryable(error: &SqlError) -> bool {
    is_conflict(error)
        || matches!(error.source, Some(txn::Error::FenceMismatch { .. } | txn::Error::Aborted(_)))
}

/// Somebody else has written what the statement has read or wants to write.
fn is_conflict(error: &SqlError) -> bool {
    matches!(error.source, Some(txn::Error::Conflict { .. } | txn::Error::Changed { .. }))
}

/// The object may be newer than the catalog's image.
fn is_unknown_name(error: &SqlError) -> bool {
    matches!(
        error.state,
        SqlState::UNDEFINED_TABLE
            | SqlState::UNDEFINED_COLUMN
            | SqlState::UNDEFINED_OBJECT
            | SqlState::INVALID_SCHEMA_NAME
    )
}

/// Whether there is nothing to do, because of what is there or isn't: IF EXISTS, IF NOT EXISTS.
fn is_moot(statement: &Statement) -> bool {
    matches!(statement, Statement::Ddl(Ddl::Nothing { notice: Some(_), .. }))
}

/// What a statement changes things by; `None` if it only reads.
fn changes(statement: &Statement) -> Option<&'static str> {
    match statement {
        Statement::Insert(_) => Some("INSERT"),
        Statement::SelectLocked(SelectLocked { mode, .. }) | Statement::QueryLocked { mode, .. } => {
            Some(match mode {
                LockMode::Update => "SELECT FOR UPDATE",
                LockMode::NoKeyUpdate => "SELECT FOR NO KEY UPDATE",
                LockMode::Share => "SELECT FOR SHARE",
                LockMode::KeyShare => "SELECT FOR KEY SHARE",
            })
        }
        Statement::Update(_) => Some("UPDATE"),
        Statement::Delete(_) => Some("DELETE"),
        Statement::CopyFrom(_) => Some("COPY FROM"),
        Statement::Ddl(ddl) => Some(ddl.command()),
        Statement::Explain { statement, analyze: true } => changes(statement),
        Statement::Query(plan) if plan.has_order() => Some("an operator's function"),
        Statement::Explain { .. } | Statement::Query(_) | Statement::CopyTo(_) => None,
    }
}

/// PostgreSQL's code for a notice: what is there already has its error's, everything else is a success.
fn notice_state(message: &str) -> SqlState {
    if message.ends_with("already exists, skipping") {
        SqlState::DUPLICATE_TABLE
    } else {
        SqlState::SUCCESSFUL_COMPLETION
    }
}

fn is_write(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Insert(_)
            | Statement::SelectLocked(_)
            | Statement::QueryLocked { .. }
    )
}
