//! A session's advisory locks: which it holds, how often, and until when.
//!
//! As in PostgreSQL, locks of the session count: one that was taken twice must be given back twice. Locks of the transaction end
//! with it, and those that were taken after a savepoint end with a rollback to it. A session never gets into its own way. All of
//! this is kept here; the lock's leader only knows how strongly the session holds it at all.
//!
//! What PostgreSQL can't lose, this session can (`txn::api::SessionLocks`). Every statement's success is therefore held
//! back until it is certain that the locks were held ([`Advisory::confirm`]), and so is every commit. If they are lost, a
//! transaction that holds some fails with `40001`; a session that does is ended with `57P01`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use txn::api::{Database, Key, LockWait, SessionLocks};
use txn::order::Order;
use txn::seam::Seams;
use txn::{LockMode, SessionId};

use super::response::Notice;
use crate::catalog::layout;
use crate::error::{Result, SqlError, SqlState};
use crate::exec::canceled;
use crate::function::effect::{AdvisoryKey, Effect, Performer};
use crate::types::Datum;

/// How often a lock is held.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    shared: u64,
    exclusive: u64,
}

impl Counts {
    fn of(&mut self, shared: bool) -> &mut u64 {
        if shared { &mut self.shared } else { &mut self.exclusive }
    }
}

struct Inner {
    id: SessionId,
    locks: Arc<dyn SessionLocks>,
    /// By the session.
    session: BTreeMap<Key, Counts>,
    /// By the transaction, in order: whether shared.
    transaction: Vec<(Key, bool)>,
    notices: Vec<Notice>,
    effects: u64,
}

impl Inner {
    /// How strongly a lock must be held at its leader.
    fn needed(&self, key: &Key) -> Option<LockMode> {
        let counts = self.session.get(key).copied().unwrap_or_default();
        let mine = || self.transaction.iter().filter(|(held, _)| held == key);
        if counts.exclusive > 0 || mine().any(|(_, shared)| !shared) {
            return Some(LockMode::Update);
        }
        (counts.shared > 0 || mine().next().is_some()).then_some(LockMode::Share)
    }

    fn holds_any(&self) -> bool {
        !self.session.is_empty() || !self.transaction.is_empty()
    }
}

/// See the module.
pub(super) struct Advisory {
    database: Arc<dyn Database>,
    /// The id of the session's database.
    database_id: u32,
    pid: i32,
    inner: Mutex<Inner>,
}

impl Advisory {
    pub(super) fn new(database: Arc<dyn Database>, database_id: u32, pid: i32) -> Arc<Self> {
        let id = database.session(pid);
        let inner = Inner {
            id,
            locks: database.session_locks(id),
            session: BTreeMap::new(),
            transaction: Vec::new(),
            notices: Vec::new(),
            effects: 0,
        };
        Arc::new(Self { database, database_id, pid, inner: Mutex::new(inner) })
    }

    /// The session's name in the cluster.
    pub(super) fn session(&self) -> SessionId {
        self.inner.lock().id
    }

    /// How often the session's own locks were taken or given back, or the cluster was told to do something: a statement that has done
    /// that is not run again by itself.
    pub(super) fn effects(&self) -> u64 {
        self.inner.lock().effects
    }

    pub(super) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut self.inner.lock().notices)
    }

    /// Who carries out a statement's effects.
    pub(super) fn performer(
        self: &Arc<Self>,
        seams: &Seams,
        lock_timeout: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Arc<dyn Performer> {
        let (advisory, seams, cancel) = (Arc::clone(self), seams.clone(), cancel.clone());
        Arc::new(Performing { advisory, seams, lock_timeout, cancel })
    }

    /// Waits until it is certain that all locks are held.
    pub(super) async fn confirm(&self) -> Result<()> {
        let locks = {
            let inner = self.inner.lock();
            if !inner.holds_any() {
                return Ok(());
            }
            inner.locks.clone()
        };
        locks.confirm().await.map_err(|error| self.lost_error(error))
    }

    fn lost_error(&self, error: txn::Error) -> SqlError {
        let mut out = SqlError::from(error);
        if matches!(out.source, Some(txn::Error::LocksLost(_))) && self.inner.lock().session.is_empty() {
            out.state = SqlState::SERIALIZATION_FAILURE;
            out.message = "the transaction's advisory locks are lost".into();
            out.hint = Some("The transaction might succeed if retried.".to_owned());
        }
        out
    }

    /// Completes when locks are lost that the session, not only its transaction, has held: it must end.
    pub(super) fn doomed(self: &Arc<Self>) -> impl Future<Output = SqlError> + Send + use<> {
        let lost = self.inner.lock().locks.lost();
        let this = Arc::clone(self);
        async move {
            lost.await;
            if this.inner.lock().session.is_empty() {
                std::future::pending::<()>().await;
            }
            txn::Error::LocksLost("others may hold them now".to_owned()).into()
        }
    }

    async fn lock(&self, key: AdvisoryKey, shared: bool, transaction: bool, wait: LockWait) -> Result<bool> {
        let key = layout::advisory_key(self.database_id, key);
        let mode = if shared { LockMode::Share } else { LockMode::Update };
        let (locks, held) = {
            let inner = self.inner.lock();
            (inner.locks.clone(), inner.needed(&key))
        };
        if held.is_none_or(|held| held < mode) {
            let taken = locks.lock(&key, mode, wait).await.map_err(|error| self.explain(error, &key))?;
            if !taken {
                return Ok(false);
            }
        }
        let mut inner = self.inner.lock();
        match transaction {
            true => inner.transaction.push((key, shared)),
            false => {
                inner.effects += 1;
                *inner.session.entry(key).or_default().of(shared) += 1;
            }
        }
        Ok(true)
    }

    fn explain(&self, error: txn::Error, key: &Key) -> SqlError {
        let what = layout::parse_advisory_key(key).map(|(_, key)| describe(key)).unwrap_or_default();
        match &error {
            txn::Error::Deadlock { .. } => {
                let mut out = SqlError::from(error);
                out.detail = Some(format!(
                    "It waited for the advisory lock {what}, in a circle of sessions, and was chosen to be ended."
                ));
                out
            }
            txn::Error::TooLarge(why) => {
                SqlError::new(SqlState::OUT_OF_MEMORY, "out of shared memory").detail(why.clone())
            }
            txn::Error::LocksLost(_) => self.lost_error(error),
            _ => error.into(),
        }
    }

    async fn unlock(&self, key: AdvisoryKey, shared: bool) -> bool {
        let key = layout::advisory_key(self.database_id, key);
        let lowered = {
            let mut inner = self.inner.lock();
            let before = inner.needed(&key);
            let held = inner.session.get_mut(&key).map(|counts| counts.of(shared)).filter(|n| **n > 0);
            let Some(count) = held else {
                let mode = if shared { "ShareLock" } else { "ExclusiveLock" };
                inner.notices.push(Notice {
                    severity: "WARNING",
                    state: SqlState::WARNING,
                    message: format!("you don't own a lock of type {mode}"),
                });
                return false;
            };
            *count -= 1;
            inner.effects += 1;
            if inner.session.get(&key).is_some_and(|counts| counts.shared + counts.exclusive == 0) {
                inner.session.remove(&key);
            }
            let needed = inner.needed(&key);
            (needed != before).then(|| (inner.locks.clone(), vec![(key, needed)]))
        };
        if let Some((locks, lowered)) = lowered {
            locks.lower(lowered).await;
        }
        true
    }

    /// Gives back what `change` takes out of the books.
    async fn give_back(&self, change: impl FnOnce(&mut Inner) -> BTreeSet<Key>) {
        let (locks, lowered) = {
            let mut inner = self.inner.lock();
            let keys = change(&mut inner);
            let lowered: Vec<_> = keys.into_iter().map(|key| (inner.needed(&key), key)).collect();
            let weaker = lowered.into_iter().filter(|(needed, _)| *needed != Some(LockMode::Update));
            (inner.locks.clone(), weaker.map(|(needed, key)| (key, needed)).collect::<Vec<_>>())
        };
        if !lowered.is_empty() {
            locks.lower(lowered).await;
        }
    }

    /// All locks of the session, not those of the transaction.
    pub(super) async fn unlock_all(&self) {
        self.give_back(|inner| {
            inner.effects += 1;
            std::mem::take(&mut inner.session).into_keys().collect()
        })
        .await;
    }

    /// Has the cluster do what an operator wants.
    async fn order(&self, order: Order) -> Result<Datum> {
        // Before it is known whether it was done.
        self.inner.lock().effects += 1;
        let said = self.database.order(order).await.map_err(|error| match error {
            txn::Error::Invalid(why) => SqlError::new(SqlState::INVALID_PARAMETER_VALUE, why),
            other => other.into(),
        })?;
        Ok(Datum::text(said))
    }

    /// How many locks the transaction has taken, to roll back to.
    pub(super) fn mark(&self) -> usize {
        self.inner.lock().transaction.len()
    }

    /// Those that the transaction has taken since the mark are given back.
    pub(super) async fn rollback_to(&self, mark: usize) {
        if self.mark() <= mark {
            return;
        }
        self.give_back(|inner| inner.transaction.split_off(mark).into_iter().map(|(key, _)| key).collect())
            .await;
    }

    /// The transaction has ended.
    pub(super) async fn end_transaction(&self) {
        if self.mark() == 0 {
            return;
        }
        self.rollback_to(0).await;
        let mut inner = self.inner.lock();
        if inner.session.is_empty() {
            // Should they have been lost, that was the transaction's misfortune.
            let lost = inner.locks.is_lost();
            if lost {
                inner.id = self.database.session(self.pid);
                inner.locks = self.database.session_locks(inner.id);
            }
        }
    }

    /// The session ends.
    pub(super) async fn close(&self) {
        let locks = {
            let mut inner = self.inner.lock();
            let any = inner.holds_any();
            inner.session.clear();
            inner.transaction.clear();
            any.then(|| inner.locks.clone())
        };
        if let Some(locks) = locks {
            locks.release().await;
        }
    }
}

/// An advisory lock as messages show it.
pub(crate) fn describe(key: AdvisoryKey) -> String {
    match key {
        AdvisoryKey::One(n) => format!("({n})"),
        AdvisoryKey::Two(a, b) => format!("({a}, {b})"),
    }
}

struct Performing {
    advisory: Arc<Advisory>,
    seams: Seams,
    lock_timeout: Option<Duration>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Performing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Performing")
    }
}

impl Performing {
    async fn carry_out(&self, effect: Effect) -> Result<Datum> {
        let advisory = &self.advisory;
        Ok(match effect {
            Effect::Lock { key, shared, transaction, wait } => {
                let wait = if wait { LockWait::For(self.lock_timeout) } else { LockWait::Never };
                Datum::Bool(advisory.lock(key, shared, transaction, wait).await?)
            }
            Effect::Unlock { key, shared } => Datum::Bool(advisory.unlock(key, shared).await),
            Effect::UnlockAll => {
                advisory.unlock_all().await;
                Datum::Null
            }
            Effect::Sleep(length) => {
                self.seams.sleep(length).await;
                Datum::Null
            }
            Effect::Order(order) => advisory.order(order).await?,
        })
    }
}

#[async_trait]
impl Performer for Performing {
    async fn perform(&self, effect: Effect) -> Result<Datum> {
        tokio::select! {
            done = self.carry_out(effect) => done,
            // (Who waits in an operator is dropped with it; this is for who holds up a thread.)
            () = self.cancel.cancelled() => Err(canceled()),
        }
    }
}
