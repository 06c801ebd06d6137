//! The gateway's side of advisory locks: what a session holds, and how it is kept.
//!
//! ```text
//!   lock ──LockAdvisory──▶ leader: queue          (polls, as for rows)
//!   every 300 ms ──KeepAdvisory──▶ leader: "known"         the lease is renewed, from when the message was sent
//!                                          "unknown" ──AssertAdvisory──▶ a new leader: these are held
//! ```
//!
//! **When a session has held its locks without a gap** ([`Session::asserted`]). Let `c` be when the last message was sent that was
//! answered with yes, by a leader under its lease. Its successors may take the session's locks away no sooner than
//! [`LOCK_LAPSE`] after `c`; and a leader that began at `b` grants locks that it wasn't told of no sooner than [`LOCK_LAPSE`] after
//! `b`. So if `b < c + LOCK_LAPSE`, nobody could have got them before `b`, nor between `b` and an assertion that this leader
//! accepts, which it does only before it grants anything. The leader says for how long it has led, and this node knows
//! for how long it has waited: both are differences of one clock.
//!
//! **When they are lost.** If an assertion is refused, or has become hopeless. Then the session must end, for its client believes
//! to hold them. Until one or the other is known nothing is claimed: [`SessionLocks::confirm`] waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::GroupId;
use tokio_util::sync::CancellationToken;

use super::core::{Core, unexpected};
use crate::api::{Key, LockWait, SessionLocks};
use crate::lock::{LEASE, LOCK_LAPSE};
use crate::router::{Repeat, RouteError};
use crate::wire::txn_bytes;
use crate::{Error, LockMode, SessionId};

/// How often a gateway says that its sessions live.
const KEEP_EVERY: Duration = Duration::from_millis(300);
/// Sessions in one such message.
const KEEP_MAX: usize = 2_000;
/// Locks of one session.
const LOCKS_MAX: usize = 4_096;
/// The pause before a leader that is too young to grant anything is asked again.
const TOO_EARLY_PAUSE: Duration = Duration::from_millis(50);
/// The pause between two looks at whether the locks are held.
const CONFIRM_PAUSE: Duration = Duration::from_millis(20);

/// As whom a leader knows a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registration {
    group: GroupId,
    term: u64,
    stamp: u64,
}

#[derive(Debug)]
struct Held {
    locks: BTreeMap<Key, LockMode>,
    known: Option<Registration>,
    /// When the last message was sent that proves that all of `locks` were held.
    confirmed: Instant,
    /// The leader may believe in other locks than these: it has to be told.
    dirty: bool,
    lost: Option<String>,
}

/// The advisory locks of one session.
pub struct Session {
    core: Arc<Core>,
    id: SessionId,
    held: Mutex<Held>,
    /// Held while something is asked that changes the locks, so that assertions don't overtake grants.
    asking: tokio::sync::Mutex<()>,
    /// An assertion is under way.
    asserting: AtomicBool,
    lost: CancellationToken,
    this: Weak<Session>,
}

/// A session, as a leader knows it.
type Kept = (Arc<Session>, Registration);

/// The sessions of a node that have, or may have, locks.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<SessionId, Weak<Session>>>);

impl Session {
    /// Nothing is held yet.
    pub fn new(core: Arc<Core>, id: SessionId) -> Arc<Self> {
        let held = Held {
            locks: BTreeMap::new(),
            known: None,
            confirmed: core.seams.clock.now(),
            dirty: false,
            lost: None,
        };
        Arc::new_cyclic(|this| Self {
            core,
            id,
            held: Mutex::new(held),
            asking: tokio::sync::Mutex::default(),
            asserting: AtomicBool::new(false),
            lost: CancellationToken::new(),
            this: this.clone(),
        })
    }

    fn now(&self) -> Instant {
        self.core.seams.clock.now()
    }

    fn check(&self) -> Result<(), Error> {
        match &self.held.lock().lost {
            Some(why) => Err(Error::LocksLost(why.clone())),
            None => Ok(()),
        }
    }

    fn lose(&self, why: &str) {
        {
            let mut held = self.held.lock();
            if held.locks.is_empty() || held.lost.is_some() {
                return;
            }
            tracing::warn!(session = ?self.id, locks = held.locks.len(), why, "advisory locks are lost");
            metrics::counter!("flotilla_advisory_locks_lost_total").increment(held.locks.len() as u64);
            held.lost = Some(why.to_owned());
        }
        self.lost.cancel();
        // Some leader may still believe in them.
        if let Some(this) = self.this.upgrade() {
            self.core.seams.spawn("release locks", async move { this.assert().await });
        }
    }

    /// A leader has granted a lock, asked for at `sent`.
    fn granted(&self, known: Registration, key: &Key, mode: LockMode, sent: Instant) {
        let mut held = self.held.lock();
        if held.locks.is_empty() {
            held.known = Some(known);
            held.confirmed = sent;
        } else if held.known == Some(known) {
            held.confirmed = held.confirmed.max(sent);
        } else {
            // It doesn't know of the others yet, or not any more.
            held.dirty = true;
        }
        let strongest = held.locks.get(key).map_or(mode, |before| mode.max(*before));
        held.locks.insert(key.clone(), strongest);
    }

    async fn ask(&self, key: &Key, ask: Ask, deadline: Instant) -> Result<(GroupId, Answer), RouteError> {
        let shard = self.core.router.route(key, deadline).await?;
        let answer = self.core.router.ask(&shard, ask, Repeat::Harmless, deadline).await?;
        Ok((shard.group, answer))
    }

    /// One poll. `None`: not yet.
    async fn poll(&self, key: &Key, mode: LockMode, wait: LockWait) -> Result<Option<bool>, Error> {
        let policy = match wait {
            LockWait::For(_) => pb::LockPolicy::LockWait,
            LockWait::Never | LockWait::Skip => pb::LockPolicy::LockNowait,
        };
        let asking = self.asking.lock().await;
        self.check()?;
        let sent = self.now();
        let request = pb::LockAdvisory {
            session: txn_bytes(self.id.as_owner()),
            key: key.clone(),
            strength: mode.to_pb().into(),
            policy: policy.into(),
        };
        let answer = self.ask(key, Ask::LockAdvisory(request), self.core.deadline()).await;
        match answer {
            Ok((group, Answer::AdvisoryHeld(h))) => {
                let known = Registration { group, term: h.term, stamp: h.stamp };
                self.granted(known, key, mode, sent);
                Ok(Some(true))
            }
            Ok((_, Answer::Waiting(waiting))) => {
                drop(asking);
                if waiting.too_early {
                    self.core.seams.sleep(TOO_EARLY_PAUSE).await;
                }
                Ok(None)
            }
            Err(RouteError::Moved) => Ok(None),
            Err(RouteError::Failed(Error::Locked { timed_out: false, .. })) => Ok(Some(false)),
            Err(RouteError::Failed(error)) => Err(error),
            Ok(_) | Err(RouteError::Pushed) => Err(unexpected()),
        }
    }

    /// Tells the leader in the background exactly what is held.
    fn assert_soon(&self) {
        let Some(this) = self.this.upgrade() else { return };
        this.held.lock().dirty = true;
        if self.asserting.swap(true, Ordering::AcqRel) {
            return;
        }
        self.core.seams.spawn("assert locks", async move {
            this.assert().await;
            this.asserting.store(false, Ordering::Release);
        });
    }

    /// The session doesn't wait for a lock any more.
    async fn leave_queue(&self, key: &Key) {
        let _asking = self.asking.lock().await;
        let mode = self.held.lock().locks.get(key).copied();
        self.tell(vec![(key.clone(), mode)], false).await;
        // A poll that is still on its way may bring it back into the queue.
        self.held.lock().dirty = true;
    }

    /// Tells the leader what is held of some locks; `all`: and nothing else.
    async fn tell(&self, locks: Vec<(Key, Option<LockMode>)>, all: bool) {
        let Some((key, _)) = locks.first().cloned() else { return };
        let lock = |(key, mode): (Key, Option<LockMode>)| pb::AdvisoryLock {
            key,
            strength: mode.map_or(pb::LockStrength::LockUnspecified, LockMode::to_pb).into(),
        };
        let request = pb::UnlockAdvisory {
            session: txn_bytes(self.id.as_owner()),
            locks: locks.into_iter().map(lock).collect(),
            all,
        };
        let (ask, deadline) = (Ask::UnlockAdvisory(request), self.core.deadline());
        if let Err(error) = self.core.router.ask_key(&key, ask, Repeat::Harmless, deadline).await {
            tracing::debug!(session = ?self.id, ?error, "a leader does not hear that locks are let go");
            // It is told with the next assertion; or, if nothing is left, by silence.
            self.held.lock().dirty = true;
        }
    }

    /// Tells the leader exactly what is held.
    async fn assert(&self) {
        let _asking = self.asking.lock().await;
        let (locks, known, confirmed, some) = {
            let held = self.held.lock();
            let gone = held.lost.is_some();
            let lock = |(key, mode): (&Key, &LockMode)| pb::AdvisoryLock {
                key: key.clone(),
                strength: mode.to_pb().into(),
            };
            let locks: Vec<_> = if gone { Vec::new() } else { held.locks.iter().map(lock).collect() };
            (locks, held.known, held.confirmed, held.locks.keys().next().cloned())
        };
        let Some(key) = some else {
            // Nothing is kept alive any more; what the leader believes in lapses.
            return;
        };
        if locks.is_empty() {
            self.tell(vec![(key, None)], true).await;
            return;
        }
        let registration = pb::Registration {
            session: txn_bytes(self.id.as_owner()),
            term: known.map_or(0, |known| known.term),
            stamp: known.map_or(0, |known| known.stamp),
        };
        let sent = self.now();
        let deadline = sent + 2 * KEEP_EVERY;
        let request = pb::AssertAdvisory { known: Some(registration), locks };
        match self.ask(&key, Ask::AssertAdvisory(request), deadline).await {
            Ok((group, Answer::AdvisoryHeld(h))) => {
                let registration = Registration { group, term: h.term, stamp: h.stamp };
                self.asserted(registration, Duration::from_millis(h.age_ms), sent, confirmed);
            }
            Err(RouteError::Failed(Error::LocksLost(why))) => self.lose(&why),
            // Asked again soon.
            _ => {}
        }
    }

    /// A leader has accepted what it was told at `sent`; see the module for when that is good.
    fn asserted(&self, known: Registration, age: Duration, sent: Instant, confirmed: Instant) {
        {
            let mut held = self.held.lock();
            let waited = self.now().saturating_duration_since(confirmed);
            if held.known == Some(known) || waited < age + LOCK_LAPSE {
                held.known = Some(known);
                held.confirmed = held.confirmed.max(sent);
                held.dirty = false;
                return;
            }
        }
        self.lose("their shard was without a leader for too long");
    }

    /// Whether it is certain now that all locks are held.
    fn is_certain(&self) -> Result<bool, Error> {
        self.check()?;
        let held = self.held.lock();
        Ok(held.locks.is_empty() || self.now() < held.confirmed + LEASE)
    }
}

/// A wait that ends without a lock must leave the queue: it would be granted to a session that knows nothing of it.
struct Queued<'s>(Option<&'s Session>, &'s Key);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let Some(session) = self.0 else { return };
        let Some(this) = session.this.upgrade() else { return };
        let key = self.1.clone();
        session.core.seams.spawn("leave queue", async move { this.leave_queue(&key).await });
    }
}

#[async_trait]
impl SessionLocks for Session {
    async fn lock(&self, key: &Key, mode: LockMode, wait: LockWait) -> Result<bool, Error> {
        self.check()?;
        {
            let held = self.held.lock();
            if held.locks.get(key).is_some_and(|has| *has >= mode) {
                return Ok(true);
            }
            if held.locks.len() >= LOCKS_MAX {
                return Err(Error::TooLarge(format!("a session holds at most {LOCKS_MAX} advisory locks")));
            }
        }
        self.core.sessions.note(self);
        let deadline = match wait {
            LockWait::For(Some(limit)) => Some(self.now() + limit),
            _ => None,
        };
        let mut queued = Queued(Some(self), key);
        loop {
            match self.poll(key, mode, wait).await {
                Ok(Some(granted)) => {
                    queued.0 = None;
                    return Ok(granted);
                }
                Ok(None) if deadline.is_some_and(|deadline| self.now() >= deadline) => {
                    return Err(Error::Locked { key: key.clone(), timed_out: true });
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn lower(&self, locks: Vec<(Key, Option<LockMode>)>) {
        if locks.is_empty() {
            return;
        }
        let _asking = self.asking.lock().await;
        let all = {
            let mut held = self.held.lock();
            for (key, mode) in &locks {
                match mode {
                    Some(mode) => {
                        if let Some(has) = held.locks.get_mut(key) {
                            *has = (*has).min(*mode);
                        }
                    }
                    None => {
                        held.locks.remove(key);
                    }
                }
            }
            held.locks.is_empty()
        };
        self.tell(locks, all).await;
    }

    async fn release(&self) {
        let all = self.held.lock().locks.keys().map(|key| (key.clone(), None)).collect();
        self.lower(all).await;
    }

    async fn confirm(&self) -> Result<(), Error> {
        let mut asked = false;
        while !self.is_certain()? {
            if !asked {
                // Sooner than the keeper would.
                asked = true;
                self.assert_soon();
            }
            self.core.seams.sleep(CONFIRM_PAUSE).await;
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    fn lost(&self) -> BoxFuture<'static, ()> {
        let lost = self.lost.clone();
        Box::pin(async move { lost.cancelled().await })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.core.sessions.0.lock().remove(&self.id);
    }
}

impl Sessions {
    fn note(&self, session: &Session) {
        self.0.lock().entry(session.id).or_insert_with(|| session.this.clone());
    }
}

impl Core {
    /// One round of saying that sessions live.
    fn keep_sessions(self: &Arc<Self>) {
        let now = self.seams.clock.now();
        let mut by_group: HashMap<GroupId, (Key, Vec<Kept>)> = HashMap::new();
        let sessions: Vec<Arc<Session>> = self.sessions.0.lock().values().filter_map(Weak::upgrade).collect();
        for session in sessions {
            let (known, key, dirty, confirmed) = {
                let held = session.held.lock();
                let Some(key) = held.locks.keys().next().filter(|_| held.lost.is_none()) else { continue };
                (held.known, key.clone(), held.dirty, held.confirmed)
            };
            if now.saturating_duration_since(confirmed) > 2 * LOCK_LAPSE {
                session.lose("their shard's leader could not be reached for too long");
                continue;
            }
            match known.filter(|_| !dirty) {
                Some(known) => {
                    let (_, sessions) = by_group.entry(known.group).or_insert_with(|| (key, Vec::new()));
                    sessions.push((session, known));
                }
                None => session.assert_soon(),
            }
        }
        for (key, sessions) in by_group.into_values() {
            for chunk in sessions.chunks(KEEP_MAX) {
                // Each on its own: one that gets no answer must not hold up the others.
                self.seams.spawn("keep sessions", keep_some(self.clone(), key.clone(), chunk.to_vec()));
            }
        }
    }
}

async fn keep_some(core: Arc<Core>, key: Key, sessions: Vec<Kept>) {
    let registration = |(session, known): &Kept| pb::Registration {
        session: txn_bytes(session.id.as_owner()),
        term: known.term,
        stamp: known.stamp,
    };
    let request =
        pb::KeepAdvisory { key: key.clone(), sessions: sessions.iter().map(registration).collect() };
    let sent = core.seams.clock.now();
    let ask = Ask::KeepAdvisory(request);
    let Ok(Answer::AdvisoryKept(kept)) =
        core.router.ask_key(&key, ask, Repeat::Harmless, sent + 2 * KEEP_EVERY).await
    else {
        return;
    };
    for (index, (session, known)) in sessions.iter().enumerate() {
        if kept.unknown.contains(&(index as u32)) {
            session.assert_soon();
            continue;
        }
        let mut held = session.held.lock();
        if held.known == Some(*known) {
            held.confirmed = held.confirmed.max(sent);
        }
    }
}

/// Says that this node's sessions live.
pub async fn keep_sessions(core: Weak<Core>) {
    while let Some(alive) = core.upgrade() {
        alive.keep_sessions();
        let seams = alive.seams.clone();
        drop(alive);
        seams.beat(KEEP_EVERY).await;
    }
}
