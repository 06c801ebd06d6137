//! The transaction block: BEGIN to COMMIT, and the implicit one of a message batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use txn::SessionId;
use txn::api::{BeginOptions, Transaction};
use txn::ids::Timestamp;

use super::Session;
use super::savepoint::Savepoint;
use super::settings::Settings;
use crate::bind::{Isolation, TransactionModes};
use crate::catalog::TransactionCatalog;
use crate::error::{Result, SqlError, SqlState};

/// How long a cancelled statement waits for a commit that can't be taken back.
const COMMIT_GRACE: Duration = Duration::from_millis(300);

/// Where the session stands.
pub(super) enum State {
    /// Outside a block.
    Idle,
    /// Inside one.
    Open(Block),
    /// Inside one that has failed: only ROLLBACK (TO) is accepted.
    Failed(Block),
}

/// A transaction block.
pub(super) struct Block {
    pub transaction: Arc<dyn Transaction>,
    pub catalog: Arc<TransactionCatalog>,
    /// BEGIN was said; otherwise the block ends at the Sync.
    pub explicit: bool,
    /// A statement has run in it.
    pub used: bool,
    pub read_only: bool,
    pub isolation: Isolation,
    pub deferrable: bool,
    /// AS OF SYSTEM TIME: it reads the past.
    pub as_of: Option<Timestamp>,
    /// The constant that said so.
    as_of_text: String,
    /// When it began: `now()`, in microseconds since 2000-01-01.
    pub began: i64,
    /// The same, to measure how long it has lasted.
    pub since: Instant,
    /// What SET is undone to by ROLLBACK.
    settings: Settings,
    /// What COMMIT leaves: as if SET LOCAL had not been said. `None`: it was not.
    pub kept: Option<Settings>,
    pub savepoints: Vec<Savepoint>,
}

impl Session {
    /// How this session's transactions begin.
    pub(super) fn begin_options(
        &self,
        isolation: Isolation,
        read_only: bool,
        as_of: Option<Timestamp>,
    ) -> BeginOptions {
        begin_options(isolation, read_only, as_of, self.waits_as())
    }

    /// As whom its transactions wait for locks, and for how long before that may be a deadlock.
    fn waits_as(&self) -> (SessionId, Option<Duration>) {
        (self.advisory.session(), self.settings.duration("deadlock_timeout"))
    }

    /// Opens an implicit block if none is open: the next statements up to the Sync belong together.
    pub fn begin_implicit(&mut self) {
        // Opened lazily by the first statement that needs it; see `block`.
    }

    pub(super) fn default_read_only(&self) -> bool {
        self.settings.flag("default_transaction_read_only")
    }

    /// The open block's characteristics, or those of the next transaction.
    pub(super) fn modes(&self) -> TransactionModes {
        let (isolation, read_only, deferrable) = match &self.state {
            State::Open(block) | State::Failed(block) => (block.isolation, block.read_only, block.deferrable),
            State::Idle => (
                Isolation::by_name(self.settings.get("default_transaction_isolation"))
                    .unwrap_or(Isolation::Serializable),
                self.default_read_only(),
                self.settings.flag("default_transaction_deferrable"),
            ),
        };
        TransactionModes {
            isolation: Some(isolation),
            read_only: Some(read_only),
            deferrable: Some(deferrable),
        }
    }

    /// Whether statements may not change anything now.
    pub(super) fn read_only(&self) -> bool {
        match &self.state {
            State::Open(block) => block.read_only,
            _ => self.default_read_only(),
        }
    }

    /// The open block; opens an implicit one outside of any. `25P02` in a failed one.
    pub(super) async fn block(&mut self) -> Result<&mut Block> {
        if matches!(self.state, State::Idle) {
            self.open_block(false, TransactionModes::default()).await?;
        }
        match &mut self.state {
            State::Open(block) => Ok(block),
            _ => Err(in_failed_block()),
        }
    }

    /// A statement runs in the open block.
    pub(super) fn use_block(&mut self) {
        if let State::Open(block) = &mut self.state {
            block.used = true;
        }
    }

    async fn open_block(&mut self, explicit: bool, modes: TransactionModes) -> Result<()> {
        let default = self.modes();
        let read_only = modes.read_only.or(default.read_only).unwrap_or(false);
        let isolation = modes.isolation.or(default.isolation).unwrap_or(Isolation::Serializable);
        let options = self.begin_options(isolation, read_only, None);
        self.state = State::Open(Block {
            transaction: self.shared.database.begin(options),
            catalog: self.shared.catalog.begin(&self.database).await?,
            explicit,
            used: false,
            read_only,
            isolation,
            deferrable: modes.deferrable.or(default.deferrable).unwrap_or(false),
            as_of: None,
            as_of_text: String::new(),
            began: self.now(),
            since: self.shared.seams.clock.now(),
            settings: self.settings.clone(),
            kept: None,
            savepoints: Vec::new(),
        });
        Ok(())
    }

    /// BEGIN. The warning for a block that is open already is returned as a notice.
    pub(super) async fn begin(&mut self, modes: TransactionModes) -> Result<Option<&'static str>> {
        match &mut self.state {
            State::Idle => self.open_block(true, modes).await.map(|()| None),
            State::Open(block) if !block.explicit => {
                block.explicit = true;
                self.set_modes(modes).map(|()| None)
            }
            State::Open(_) => Ok(Some("there is already a transaction in progress")),
            State::Failed(_) => Err(in_failed_block()),
        }
    }

    /// SET TRANSACTION in a block.
    pub(super) fn set_modes(&mut self, modes: TransactionModes) -> Result<()> {
        let session = self.waits_as();
        let State::Open(block) = &mut self.state else { return Ok(()) };
        let TransactionModes { isolation, read_only, deferrable } = modes;
        let refused = |message: &'static str| Err(SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message));
        let nested = !block.savepoints.is_empty();
        if let Some(isolation) = isolation.filter(|level| *level != block.isolation) {
            if block.used {
                return refused("SET TRANSACTION ISOLATION LEVEL must be called before any query");
            }
            if nested {
                return refused("SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction");
            }
            block.isolation = isolation;
            // Nothing has been read or written through the old one.
            block.transaction =
                self.shared.database.begin(begin_options(isolation, block.read_only, block.as_of, session));
        }
        if let Some(deferrable) = deferrable.filter(|wanted| *wanted != block.deferrable) {
            if block.used {
                return refused("SET TRANSACTION [NOT] DEFERRABLE must be called before any query");
            }
            if nested {
                return refused("SET TRANSACTION [NOT] DEFERRABLE cannot be called within a subtransaction");
            }
            block.deferrable = deferrable;
        }
        if let Some(read_only) = read_only.filter(|wanted| *wanted != block.read_only) {
            if block.as_of.is_some() {
                return refused("a transaction that reads AS OF SYSTEM TIME is read-only");
            }
            if !read_only && nested {
                return refused("cannot set transaction read-write mode inside a read-only transaction");
            }
            if !read_only && block.used {
                return refused("transaction read-write mode must be set before any query");
            }
            // Nothing has been read or written through the old one.
            if !block.used && !nested {
                let options = begin_options(block.isolation, read_only, block.as_of, session);
                block.transaction = self.shared.database.begin(options);
            }
            block.read_only = read_only;
        }
        Ok(())
    }

    /// AS OF SYSTEM TIME: makes the open block read as of then, unless it does already.
    pub(super) async fn read_block_as_of(&mut self, text: &str, at: Timestamp, ago: Duration) -> Result<()> {
        let (database, session) = (self.shared.database.clone(), self.waits_as());
        let block = self.block().await?;
        if block.as_of.is_some() && block.as_of_text == text {
            return Ok(());
        }
        if block.used || !block.savepoints.is_empty() {
            return Err(SqlError::new(
                SqlState::ACTIVE_SQL_TRANSACTION,
                "AS OF SYSTEM TIME must be said before any query of the transaction, and once for all of them",
            ));
        }
        block.transaction = database.begin(begin_options(block.isolation, true, Some(at), session));
        (block.as_of, block.as_of_text, block.read_only) = (Some(at), text.to_owned(), true);
        block.catalog.date_back(ago);
        let (transaction, catalog) = (block.transaction.clone(), block.catalog.clone());
        catalog.reload(&*transaction).await?;
        Ok(())
    }

    /// SET of one parameter, or RESET of one (`value` is `None`) or all. `local`: until the transaction's end.
    pub(super) fn change(&mut self, name: Option<&str>, value: Option<&str>, local: bool) -> Result<()> {
        let apply = |settings: &mut Settings| match (name, value) {
            (Some(name), Some(value)) => settings.set(name, value).map(Vec::from_iter),
            (Some(name), None) => settings.reset(name).map(Vec::from_iter),
            (None, _) => Ok(settings.reset_all()),
        };
        if let State::Open(block) = &mut self.state {
            if local {
                block.kept.get_or_insert_with(|| self.settings.clone());
            } else if let Some(kept) = &mut block.kept {
                apply(kept)?;
            }
        }
        let changed = apply(&mut self.settings)?;
        self.changed_parameters.extend(changed);
        Ok(())
    }

    /// COMMIT. Returns the tag: that of a failed block is ROLLBACK.
    pub(super) async fn commit(&mut self) -> Result<(&'static str, Option<&'static str>)> {
        let cancel = self.arm();
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Ok(("COMMIT", Some("there is no transaction in progress"))),
            State::Open(block) => {
                self.portals.clear();
                let result = match self.advisory.confirm().await {
                    Ok(()) => self.finish(&block.transaction, &block.catalog, &cancel).await,
                    Err(lost) => {
                        block.transaction.rollback().await;
                        Err(lost)
                    }
                };
                self.advisory.end_transaction().await;
                match result {
                    Ok(()) => {
                        if let Some(kept) = block.kept {
                            self.restore_settings(kept);
                        }
                        Ok(("COMMIT", None))
                    }
                    Err(error) => {
                        self.restore_settings(block.settings);
                        Err(self.with_rival(error).await)
                    }
                }
            }
            State::Failed(block) => {
                self.roll_back(block).await;
                Ok(("ROLLBACK", None))
            }
        }
    }

    /// ROLLBACK.
    pub(super) async fn rollback(&mut self) -> Option<&'static str> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Some("there is no transaction in progress"),
            State::Open(block) | State::Failed(block) => {
                self.roll_back(block).await;
                None
            }
        }
    }

    /// Commits, and tells the catalog. A cancellation takes effect as long as the commit can be taken back; after that its
    /// outcome is unknown, and the client is told so.
    pub(super) async fn finish(
        &mut self,
        transaction: &Arc<dyn Transaction>,
        catalog: &TransactionCatalog,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut committing = transaction.commit();
        let result = tokio::select! {
            biased;
            result = &mut committing => result,
            () = cancel.cancelled() => {
                if !transaction.in_doubt() {
                    drop(committing);
                    transaction.rollback().await;
                    return Err(self.cancel_reason());
                }
                // As a rule it is a matter of milliseconds.
                tokio::select! {
                    biased;
                    result = &mut committing => result,
                    () = self.shared.seams.sleep(COMMIT_GRACE) => {
                        Err(txn::Error::Ambiguous(format!("{}, while it was under way", self.cancel_reason().message)))
                    }
                }
            }
        };
        if matches!(result, Ok(_) | Err(txn::Error::Ambiguous(_))) {
            catalog.committed();
        }
        result.map(|_| ()).map_err(|error| crate::exec::key::explain(error, &catalog.image()))
    }

    async fn roll_back(&mut self, block: Block) {
        self.portals.clear();
        block.transaction.rollback().await;
        self.advisory.end_transaction().await;
        self.restore_settings(block.settings);
    }

    pub(super) fn restore_settings(&mut self, before: Settings) {
        let now: Vec<_> = self.settings.reported().collect();
        self.settings = before;
        self.changed_parameters.extend(
            self.settings.reported().zip(now).filter(|(old, new)| old.1 != new.1).map(|(old, _)| old),
        );
    }

    /// Rolls back whatever is open, at the session's end.
    pub(super) async fn abandon_block(&mut self) {
        self.rollback().await;
    }

    /// A statement failed: an open block fails with it. Its writes are given up at once, unless a savepoint could
    /// bring some of them back.
    pub fn failed(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Open(block) => {
                self.portals.clear();
                State::Failed(block)
            }
            other => other,
        };
    }

    /// Sync: ends an implicit block.
    pub async fn sync(&mut self) -> Result<()> {
        match &self.state {
            State::Open(block) if !block.explicit => self.commit().await.map(|_| ()),
            State::Failed(block) if !block.explicit => {
                self.rollback().await;
                Ok(())
            }
            State::Idle => {
                self.portals.retain(|_, portal| !portal.started());
                // Those of statements that were transactions of their own.
                self.advisory.end_transaction().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// How a transaction with these characteristics is begun.
fn begin_options(
    isolation: Isolation,
    read_only: bool,
    as_of: Option<Timestamp>,
    (session, deadlock_after): (SessionId, Option<Duration>),
) -> BeginOptions {
    BeginOptions { isolation: isolation.level(), read_only, as_of, session: Some(session), deadlock_after }
}

/// The transaction as its next statement sees it. `strict`: the statement changes the schema.
pub(super) fn statement_of(transaction: &Arc<dyn Transaction>, strict: bool) -> Arc<dyn Transaction> {
    transaction.statement(strict).unwrap_or_else(|| transaction.clone())
}

/// `25P02`.
pub(super) fn in_failed_block() -> SqlError {
    SqlError::new(
        SqlState::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
