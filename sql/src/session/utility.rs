//! Statements that the session carries out itself: transaction control, SET and SHOW, PREPARE, cursors.

use crate::bind::{
    self, FetchDirection, Isolation, ParamTypes, ParsedStatement, Set, Transaction, TransactionModes, Utility,
};
use crate::catalog::CatalogReader;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::OutputColumn;
use crate::types::{Datum, Type};

use super::Session;
use super::block::{State, in_failed_block};
use super::portal::{Portal, no_statement};
use super::response::{Notice, Response};

/// The most rows one FETCH may bring; more is what cursors exist to avoid.
const FETCH_ROWS_MAX: usize = 1_000_000;

impl Session {
    pub(super) async fn run_utility(&mut self, statement: &ParsedStatement, alone: bool) -> Result<Response> {
        let ends_block = matches!(
            statement,
            ParsedStatement::Transaction(
                Transaction::Commit { .. } | Transaction::Rollback { .. } | Transaction::RollbackTo(_)
            )
        );
        if matches!(self.state, State::Failed(_)) && !ends_block {
            return Err(in_failed_block());
        }
        match statement {
            ParsedStatement::Transaction(transaction) => self.transaction(transaction, alone).await,
            ParsedStatement::Set(set) => self.set(set, alone).await,
            ParsedStatement::Show(name) => self.show(name.as_deref()),
            ParsedStatement::Utility(utility) => self.utility(utility, alone).await,
            ParsedStatement::Bindable(_) => Err(SqlError::internal("a bindable statement is no utility")),
        }
    }

    /// The columns of a utility's rows, for Describe.
    pub(super) fn utility_columns(&self, statement: &ParsedStatement) -> Option<Vec<OutputColumn>> {
        match statement {
            ParsedStatement::Show(None) => Some(text_columns(&["name", "setting", "description"])),
            ParsedStatement::Show(Some(name)) => {
                let shown = self.settings.show(name).map_or_else(|_| name.clone(), |(name, _)| name);
                Some(text_columns(&[&shown]))
            }
            ParsedStatement::Utility(Utility::Execute { name, .. }) => {
                self.prepared(name).ok()?.columns.clone()
            }
            ParsedStatement::Utility(Utility::Fetch { name, moves: false, .. }) => {
                self.portal(name).ok()?.columns().map(<[OutputColumn]>::to_vec)
            }
            _ => None,
        }
    }

    async fn transaction(&mut self, statement: &Transaction, alone: bool) -> Result<Response> {
        match statement {
            Transaction::Begin(modes) => {
                let warning = self.begin(*modes).await?;
                Ok(done("BEGIN", warning, SqlState::ACTIVE_SQL_TRANSACTION))
            }
            Transaction::Start(modes) => {
                let warning = self.begin(*modes).await?;
                Ok(done("START TRANSACTION", warning, SqlState::ACTIVE_SQL_TRANSACTION))
            }
            Transaction::Commit { chain } => {
                let modes = self.block_modes();
                let (tag, warning) = self.commit().await?;
                self.chain(*chain, modes).await?;
                Ok(done(tag, warning, SqlState::NO_ACTIVE_SQL_TRANSACTION))
            }
            Transaction::Rollback { chain } => {
                let modes = self.block_modes();
                let warning = self.rollback().await;
                self.chain(*chain, modes).await?;
                Ok(done("ROLLBACK", warning, SqlState::NO_ACTIVE_SQL_TRANSACTION))
            }
            Transaction::Savepoint(name) => {
                self.savepoint(name.clone())?;
                Ok(Response::tag("SAVEPOINT"))
            }
            Transaction::Release(name) => {
                self.release(name)?;
                Ok(Response::tag("RELEASE"))
            }
            Transaction::RollbackTo(name) => {
                self.rollback_to(name).await?;
                Ok(Response::tag("ROLLBACK"))
            }
            Transaction::SetModes(modes) => {
                let outside = self.is_outside(alone).await?;
                self.set_modes(*modes)?;
                let warning = outside.then_some("SET TRANSACTION can only be used in transaction blocks");
                Ok(done("SET", warning, SqlState::NO_ACTIVE_SQL_TRANSACTION))
            }
            Transaction::AsOf(text, statement) => {
                let (at, ago) = self.moment(text).await?;
                let outside =
                    matches!(**statement, Transaction::SetModes(_)) && self.is_outside(alone).await?;
                let response = Box::pin(self.transaction(statement, alone)).await?;
                if !outside {
                    self.read_block_as_of(text, at, ago).await?;
                }
                Ok(response)
            }
            Transaction::SetSessionModes(modes) => {
                let flag = |on| if on { "on" } else { "off" };
                let values = [
                    ("default_transaction_isolation", modes.isolation.map(Isolation::name)),
                    ("default_transaction_read_only", modes.read_only.map(flag)),
                    ("default_transaction_deferrable", modes.deferrable.map(flag)),
                ];
                for (name, value) in values {
                    if value.is_some() {
                        self.change(Some(name), value, false)?;
                    }
                }
                Ok(Response::tag("SET"))
            }
        }
    }

    /// The characteristics of the open block, for AND CHAIN.
    fn block_modes(&self) -> Option<TransactionModes> {
        match &self.state {
            State::Open(_) | State::Failed(_) => Some(self.modes()),
            State::Idle => None,
        }
    }

    /// AND CHAIN: begins another transaction with the same characteristics.
    async fn chain(&mut self, chain: bool, modes: Option<TransactionModes>) -> Result<()> {
        match (chain, modes) {
            (true, Some(modes)) => self.begin(modes).await.map(|_| ()),
            (true, None) => Err(SqlError::new(
                SqlState::NO_ACTIVE_SQL_TRANSACTION,
                "AND CHAIN can only be used in transaction blocks",
            )),
            _ => Ok(()),
        }
    }

    /// Whether this statement is a transaction of its own. One of several opens their implicit block, in which what it sets
    /// belongs to the others.
    async fn is_outside(&mut self, alone: bool) -> Result<bool> {
        if matches!(self.state, State::Idle) && !alone {
            self.block().await?;
        }
        Ok(matches!(self.state, State::Idle))
    }

    async fn set(&mut self, set: &Set, alone: bool) -> Result<Response> {
        let outside = self.is_outside(alone).await?;
        let value = match (&set.name, &set.value) {
            (Some(name), Some(values)) => Some(join(name, values)),
            _ => None,
        };
        let (name, value) = (set.name.as_deref(), value.as_deref());
        let tag = if set.reset { "RESET" } else { "SET" };
        match name {
            Some(name @ ("session_authorization" | "role")) => {
                return Err(SqlError::unsupported(format!("{tag} {}", name.to_uppercase())));
            }
            Some("transaction_isolation" | "transaction_read_only" | "transaction_deferrable") => {
                self.set_mode(name.unwrap_or_default(), value)?;
            }
            _ if set.local && outside => {
                // It would end with this statement; it must be right all the same.
                let mut unused = self.settings.clone();
                if let (Some(name), Some(value)) = (name, value) {
                    unused.set(name, value)?;
                }
                let warning = "SET LOCAL can only be used in transaction blocks";
                return Ok(done(tag, Some(warning), SqlState::NO_ACTIVE_SQL_TRANSACTION));
            }
            _ => self.change(name, value, set.local)?,
        }
        Ok(Response::tag(tag))
    }

    /// `SET transaction_isolation = …`: as SET TRANSACTION, without a warning outside blocks.
    fn set_mode(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let Some(value) = value else { return Err(SqlError::unsupported(format!("RESET {name}"))) };
        let mut checked = self.settings.clone();
        checked.set(name, value)?;
        let mut modes = TransactionModes::default();
        match name {
            "transaction_isolation" => modes.isolation = Isolation::by_name(checked.get(name)),
            "transaction_read_only" => modes.read_only = Some(checked.flag(name)),
            _ => modes.deferrable = Some(checked.flag(name)),
        }
        self.set_modes(modes)
    }

    fn show(&self, name: Option<&str>) -> Result<Response> {
        let text = |s: &str| Datum::text(s);
        let Some(name) = name else {
            let rows = self
                .settings
                .all()
                .map(|(n, v, d)| vec![text(n), text(self.mode(n).unwrap_or(&v)), text(d)])
                .collect();
            return Ok(Response::collected(text_columns(&["name", "setting", "description"]), rows, "SHOW"));
        };
        let (shown, value) = self.settings.show(name)?;
        let value = self.mode(&shown).map_or(value, str::to_owned);
        Ok(Response::collected(text_columns(&[&shown]), vec![vec![text(&value)]], "SHOW"))
    }

    /// What SHOW says of the transaction's characteristics.
    fn mode(&self, name: &str) -> Option<&'static str> {
        let flag = |on: Option<bool>| if on == Some(true) { "on" } else { "off" };
        match name {
            "transaction_isolation" => self.modes().isolation.map(Isolation::name),
            "transaction_read_only" => Some(flag(self.modes().read_only)),
            "transaction_deferrable" => Some(flag(self.modes().deferrable)),
            _ => None,
        }
    }

    async fn utility(&mut self, utility: &Utility, alone: bool) -> Result<Response> {
        match utility {
            Utility::Prepare { name, types, statement } => {
                if self.statements.contains_key(name) {
                    return Err(SqlError::new(
                        SqlState::DUPLICATE_PREPARED_STATEMENT,
                        format!("prepared statement \"{name}\" already exists"),
                    ));
                }
                let again = bind::parse(statement.text())?.pop();
                let prepared = self
                    .prepare_parsed(again, ParamTypes::Inferred(types))
                    .await
                    .map_err(|e| e.shifted(statement.offset()))?;
                self.keep_statement(name.clone(), prepared)?;
                Ok(Response::tag("PREPARE"))
            }
            Utility::Execute { name, arguments } => {
                let prepared = self.prepared(name)?.clone();
                let zone = self.settings.time_zone().clone();
                let params = bind::bind_arguments(arguments, &prepared.params, &self.eval_context(&zone))?;
                self.run_prepared(&prepared, params, alone).await
            }
            Utility::Deallocate(Some(name)) => match self.statements.remove(name) {
                Some(_) => Ok(Response::tag("DEALLOCATE")),
                None => Err(no_statement(name)),
            },
            Utility::Deallocate(None) => {
                self.statements.clear();
                Ok(Response::tag("DEALLOCATE ALL"))
            }
            Utility::Discard("ALL") => {
                if !matches!(self.state, State::Idle) {
                    return Err(SqlError::new(
                        SqlState::ACTIVE_SQL_TRANSACTION,
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                self.statements.clear();
                self.portals.clear();
                self.change(None, None, false)?;
                self.advisory.unlock_all().await;
                Ok(Response::tag("DISCARD ALL"))
            }
            Utility::Discard(what) => Ok(Response::tag(format!("DISCARD {what}"))),
            Utility::Declare { name, binary, scroll, hold, query } => {
                if *binary || *hold || *scroll == Some(true) {
                    return Err(SqlError::unsupported("a BINARY, SCROLL or WITH HOLD cursor"));
                }
                if !matches!(&self.state, State::Open(block) if block.explicit) {
                    return Err(SqlError::new(
                        SqlState::NO_ACTIVE_SQL_TRANSACTION,
                        "DECLARE CURSOR can only be used in transaction blocks",
                    ));
                }
                self.declare(name, query.text()).await.map_err(|e| e.shifted(query.offset()))
            }
            Utility::Fetch { name, direction, moves } => self.fetch(name, *direction, *moves).await,
            Utility::Close(Some(name)) => match self.portals.remove(name) {
                Some(_) => Ok(Response::tag("CLOSE CURSOR")),
                None => Err(no_cursor(name)),
            },
            Utility::Close(None) => {
                self.portals.clear();
                Ok(Response::tag("CLOSE CURSOR ALL"))
            }
            Utility::Vacuum(tables) => {
                if matches!(&self.state, State::Open(block) if block.explicit) {
                    return Err(SqlError::new(
                        SqlState::ACTIVE_SQL_TRANSACTION,
                        "VACUUM cannot run inside a transaction block",
                    ));
                }
                self.tables_exist(tables).await?;
                Ok(Response::tag("VACUUM"))
            }
            Utility::Analyze(tables) => {
                self.tables_exist(tables).await?;
                Ok(Response::tag("ANALYZE"))
            }
            Utility::AlterDefaults(alter) => self.alter_defaults(alter, alone).await,
            Utility::Checkpoint => Ok(Response::tag("CHECKPOINT")),
            // Nobody can have listened, so there is nothing to stop.
            Utility::Unlisten(_) => Ok(Response::tag("UNLISTEN")),
            Utility::Listen(_) | Utility::Notify { .. } => Err(SqlError::unsupported("LISTEN and NOTIFY")),
        }
    }

    async fn tables_exist(&mut self, tables: &[bind::TableName]) -> Result<()> {
        let catalog = self.shared.catalog.begin(&self.database).await?;
        let path = self.settings.search_path();
        if bind::check_tables(tables, &*catalog.view(path.clone().into())).is_ok() {
            return Ok(());
        }
        catalog.refresh().await?;
        let view = catalog.view(path.into());
        bind::check_tables(tables, &*view as &dyn CatalogReader)
    }

    async fn declare(&mut self, name: &str, text: &str) -> Result<Response> {
        if self.portals.contains_key(name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        let parsed = bind::parse(text)?.pop();
        let prepared = std::sync::Arc::new(self.prepare_parsed(parsed, ParamTypes::Fixed(&[])).await?);
        // A cursor's first rows are computed before anybody has asked for them.
        if prepared.orders {
            return Err(SqlError::unsupported("an operator's function in a cursor"));
        }
        let response = self.run_prepared(&prepared, Vec::new(), false).await?;
        let Response::Rows(rows) = response else {
            return Err(SqlError::internal("a cursor's query gave no rows"));
        };
        let portal = Portal::suspended(prepared, rows);
        self.portals.insert(name.to_owned(), portal);
        Ok(Response::tag("DECLARE CURSOR"))
    }

    async fn fetch(&mut self, name: &str, direction: FetchDirection, moves: bool) -> Result<Response> {
        let wanted = match direction {
            FetchDirection::Forward(n) if n >= 0 => n as usize,
            FetchDirection::All => usize::MAX,
            _ => {
                return Err(SqlError::new(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "cursor can only scan forward",
                )
                .hint("Declare it with SCROLL option to enable backward scan."));
            }
        };
        let cancel = self.arm();
        let portal = self.portals.get_mut(name).ok_or_else(|| no_cursor(name))?;
        let columns = portal.columns().map(<[OutputColumn]>::to_vec).unwrap_or_default();
        let mut fetched = Vec::new();
        let mut count = 0;
        if let Some(rows) = portal.rows() {
            while count < wanted {
                let Some(row) = rows.pending.pop_front() else {
                    let batch = tokio::select! {
                        batch = rows.stream.next() => batch?,
                        () = cancel.cancelled() => return Err(self.cancel_reason()),
                    };
                    match batch {
                        Some(batch) => rows.pending.extend(batch),
                        None => break,
                    }
                    continue;
                };
                count += 1;
                if moves {
                    continue;
                }
                if fetched.len() >= FETCH_ROWS_MAX {
                    return Err(SqlError::new(
                        SqlState::PROGRAM_LIMIT_EXCEEDED,
                        format!("FETCH cannot bring more than {FETCH_ROWS_MAX} rows at once"),
                    ));
                }
                fetched.push(row);
            }
        }
        if moves {
            return Ok(Response::tag(format!("MOVE {count}")));
        }
        Ok(Response::collected(columns, fetched, "FETCH "))
    }
}

fn no_cursor(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_CURSOR_NAME, format!("cursor \"{name}\" does not exist"))
}

fn done(tag: &str, warning: Option<&'static str>, state: SqlState) -> Response {
    let notices = warning
        .map(|message| Notice { severity: "WARNING", state, message: message.to_owned() })
        .into_iter()
        .collect();
    Response::Done { tag: tag.to_owned(), notices }
}

/// `SET search_path = a, "B"`: each name is quoted where it must be.
pub(super) fn join(name: &str, values: &[String]) -> String {
    let quote = name == "search_path";
    let one = |value: &String| {
        let plain = value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if quote && !plain && values.len() > 1 { format!("\"{value}\"") } else { value.clone() }
    };
    values.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn text_columns(names: &[&str]) -> Vec<OutputColumn> {
    names
        .iter()
        .map(|name| OutputColumn { name: (*name).to_owned(), ty: Type::Text.into(), origin: None })
        .collect()
}
