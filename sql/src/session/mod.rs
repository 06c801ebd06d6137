//! A session: settings, the transaction block, prepared statements and portals of one client.
//!
//! A session knows statements and nothing of sockets. The connection asks it to run a statement and gets a
//! [`Response`]; rows are pulled from there with back-pressure, and the session is told when they have been sent.
//!
//! How a statement is wrapped in a transaction:
//!
//! - *alone* (outside a block, and nothing else travels in the same message batch): a transaction of its own, which is
//!   run again by itself after a conflict as long as nothing was sent to the client ([`run`]);
//! - several statements in one simple query, or a pipeline without Sync: an implicit block that ends at the Sync;
//! - between BEGIN and COMMIT: an explicit block; an error makes it fail until ROLLBACK.
//!
//! Start at [`Session::run_simple`] and [`Session::execute_portal`].

mod advisory;
mod binding;
mod block;
mod conflict;
mod defaults;
mod past;
mod portal;
mod response;
mod run;
mod savepoint;
mod settings;
mod utility;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgwire::messages::response::TransactionStatus;
use tokio_util::sync::CancellationToken;

use crate::bind::{self, ParsedStatement};
use crate::error::{Result, SqlError, SqlState};
use crate::function::EvalContext;
use crate::server::{self, CancelReason, Shared, Ticket};
use crate::types::TimeZone;

use advisory::Advisory;
use block::State;
pub use portal::{Portal, PortalRun, Prepared};
pub use response::{CopyInRun, CopyOutRun, Notice, Response, Rows};
pub use settings::Settings;

pub(crate) use advisory::describe as describe_advisory;

/// Prepared statements and portals that a session may keep, each.
const KEPT_MAX: usize = 10_000;
/// How long a statement goes on after its client has closed its sending half. Long enough for the answer of any short
/// statement, short enough that the long ones of a dead client don't pile up.
const CLOSING_GRACE: Duration = Duration::from_secs(10);
/// Microseconds from the Unix epoch to PostgreSQL's (2000-01-01).
pub(crate) const EPOCH_OFFSET_MICROS: i64 = 946_684_800_000_000;

/// One client's session.
pub struct Session {
    shared: Arc<Shared>,
    ticket: Ticket,
    user: Arc<str>,
    database: Arc<str>,
    settings: Settings,
    /// Parameters to report to the client with the next CommandComplete.
    changed_parameters: Vec<(&'static str, String)>,
    state: State,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    statement_time: i64,
    advisory: Arc<Advisory>,
}

impl Session {
    /// Opens a session for a client that has been let in.
    pub async fn open(
        shared: Arc<Shared>,
        ticket: Ticket,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let user: Arc<str> = parameters.get("user").map_or("", String::as_str).into();
        let named = parameters.get("database").map(String::as_str).filter(|d| !d.is_empty());
        let database: Arc<str> = match named {
            Some(named) => named.into(),
            // libpq's default is a database called like the user; fall back on the one that always exists.
            None => match shared.catalog.image(&user).await {
                Ok(_) => user.clone(),
                Err(_) => "postgres".into(),
            },
        };
        if let Err(error) = shared.catalog.image(&database).await {
            // The cached image may be older than the database.
            if error.state != SqlState::INVALID_CATALOG_NAME {
                return Err(error);
            }
            shared.catalog.refresh(&database).await?;
        }
        let database_id = shared.catalog.image(&database).await?.database().id;
        let advisory = Advisory::new(shared.database.clone(), database_id, ticket.pid);
        let mut settings = Settings::new(&user);
        defaults::apply(&shared, &mut settings, &database, &user).await?;
        for (name, value) in parameters {
            match name.as_str() {
                "user" | "database" | "replication" => {}
                "options" => apply_options(&mut settings, value)?,
                _ => {
                    settings.set(name, value)?;
                }
            }
        }
        settings.seal();
        Ok(Self {
            shared,
            ticket,
            user,
            database,
            settings,
            changed_parameters: Vec::new(),
            state: State::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            statement_time: 0,
            advisory,
        })
    }

    /// Ends the session: an open transaction is rolled back.
    pub async fn close(&mut self) {
        self.portals.clear();
        self.abandon_block().await;
        self.advisory.close().await;
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a CancelRequest must name.
    pub fn key(&self) -> (i32, i32) {
        (self.ticket.pid, self.ticket.secret)
    }

    /// What ReadyForQuery says.
    pub fn status(&self) -> TransactionStatus {
        match &self.state {
            State::Idle => TransactionStatus::Idle,
            State::Open(_) => TransactionStatus::Transaction,
            State::Failed(_) => TransactionStatus::Error,
        }
    }

    /// Parses a query string. An empty one has no statements.
    pub fn parse(&mut self, text: &str) -> Result<Vec<ParsedStatement>> {
        self.statement_time = self.now();
        bind::parse(text)
    }

    /// Completes when the server has the session end. `waits`: the client's last batch of messages has been answered, so that
    /// the session is between two transactions if it is in none.
    pub fn leaving(&self, waits: bool) -> impl Future<Output = SqlError> + Send + use<> {
        self.shared.leaving(waits && matches!(self.state, State::Idle))
    }

    /// How long a statement goes on for a client that sends nothing more.
    pub fn closing_grace(&self) -> impl Future<Output = ()> + Send + use<> {
        let seams = self.shared.seams.clone();
        async move { seams.sleep(CLOSING_GRACE).await }
    }

    /// Completes when the session has been idle for too long, or its transaction has lasted too long.
    pub fn idle_limit(&self) -> impl Future<Output = SqlError> + Send + use<> {
        let idle = match self.state {
            State::Idle => self.settings.duration("idle_session_timeout").map(|limit| {
                let why = "terminating connection due to idle-session timeout";
                (limit, SqlError::new(SqlState::IDLE_SESSION_TIMEOUT, why))
            }),
            _ => self.settings.duration("idle_in_transaction_session_timeout").map(|limit| {
                let why = "terminating connection due to idle-in-transaction timeout";
                (limit, SqlError::new(SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, why))
            }),
        };
        let transaction = match &self.state {
            State::Idle => None,
            State::Open(block) | State::Failed(block) => {
                self.transaction_time_left(Some(block.since)).map(|left| (left, transaction_timeout()))
            }
        };
        let first = idle.into_iter().chain(transaction).min_by_key(|(limit, _)| *limit);
        let seams = self.shared.seams.clone();
        async move {
            match first {
                Some((limit, error)) => {
                    seams.sleep(limit).await;
                    error
                }
                None => std::future::pending().await,
            }
        }
    }

    /// What `transaction_timeout` leaves to a transaction that began then (or begins now).
    fn transaction_time_left(&self, since: Option<Instant>) -> Option<Duration> {
        let limit = self.settings.duration("transaction_timeout")?;
        let lasted = since.map(|since| self.shared.seams.clock.now().saturating_duration_since(since));
        Some(limit.saturating_sub(lasted.unwrap_or_default()))
    }

    /// Completes when the session must end because it has lost its advisory locks.
    pub fn doomed(&self) -> impl Future<Output = SqlError> + Send + use<> {
        self.advisory.doomed()
    }

    /// A statement is done, and its client is to be told so: only if the session holds its advisory locks.
    pub fn confirm(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let advisory = Arc::clone(&self.advisory);
        async move { advisory.confirm().await }
    }

    /// Warnings of the statement that has run.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.advisory.take_notices()
    }

    /// The error of the statement that was cancelled.
    pub fn cancel_reason(&self) -> SqlError {
        match self.ticket.cancel.reason() {
            CancelReason::User => {
                SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
            }
            CancelReason::Timeout => {
                SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout")
            }
            CancelReason::TransactionTimeout => transaction_timeout(),
            CancelReason::Shutdown => server::leave(),
        }
    }

    /// Parameters that changed since the last call and are to be reported.
    pub fn take_changed_parameters(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.changed_parameters)
    }

    /// A cancellation token for the next statement, with `statement_timeout` and `transaction_timeout` behind it.
    fn arm(&self) -> CancellationToken {
        let token = self.ticket.cancel.arm();
        let since = match &self.state {
            State::Idle => None,
            State::Open(block) | State::Failed(block) => Some(block.since),
        };
        let statement =
            self.settings.duration("statement_timeout").map(|limit| (limit, CancelReason::Timeout));
        let transaction =
            self.transaction_time_left(since).map(|left| (left, CancelReason::TransactionTimeout));
        if let Some((limit, reason)) =
            statement.into_iter().chain(transaction).min_by_key(|(limit, _)| *limit)
        {
            let (seams, slot, armed) = (self.shared.seams.clone(), self.ticket.cancel.clone(), token.clone());
            self.shared.seams.spawn("statement timeout", async move {
                tokio::select! {
                    () = seams.sleep(limit) => slot.cancel_if(&armed, reason),
                    // The statement's own end drops nothing here, so the timer of a finished statement runs out
                    // and finds its token unused.
                    () = armed.cancelled() => {}
                }
            });
        }
        token
    }

    /// Microseconds since 2000-01-01.
    fn now(&self) -> i64 {
        self.shared.seams.clock.wall_ms() as i64 * 1000 - EPOCH_OFFSET_MICROS
    }

    /// What kernels may know.
    pub fn eval_context(&self, zone: &TimeZone) -> EvalContext {
        let transaction_time = match &self.state {
            State::Open(block) => block.began,
            _ => self.statement_time,
        };
        let schema = self.settings.search_path().into_iter().next().unwrap_or_default();
        EvalContext {
            transaction_time,
            statement_time: self.statement_time,
            time_zone: zone.clone(),
            user: self.user.clone(),
            database: self.database.clone(),
            schema: schema.into(),
            pid: self.ticket.pid,
            performer: None,
            seams: self.shared.seams.clone(),
        }
    }
}

/// `25P04`
fn transaction_timeout() -> SqlError {
    SqlError::new(SqlState::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout")
}

/// `options=-c name=value --name=value`, as libpq's PGOPTIONS has it.
fn apply_options(settings: &mut Settings, options: &str) -> Result<()> {
    let mut words = option_words(options).into_iter();
    while let Some(word) = words.next() {
        let pair = match word.as_str() {
            "-c" => words.next(),
            _ => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).map(str::to_owned),
        };
        let Some((name, value)) = pair.as_deref().and_then(|p| p.split_once('=')) else {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("invalid command-line argument for server process: {word}"),
            ));
        };
        settings.set(&name.replace('-', "_"), value)?;
    }
    Ok(())
}

/// Words between blanks; a backslash takes the next character as it is, blanks included.
fn option_words(options: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_cut_at_blanks_that_are_not_escaped() {
        let mut settings = Settings::new("me");
        let options = r"-c default_transaction_isolation=read\ committed  --statement-timeout=5s";
        apply_options(&mut settings, options).expect("options");
        assert_eq!(settings.get("default_transaction_isolation"), "read committed");
        assert_eq!(settings.get("statement_timeout"), "5000");
    }
}
