//! Advisory locks: taken for sessions, and kept across changes of the leader.
//!
//! Nothing checks later what was done under an advisory lock, so that it is held must be true at every moment when somebody
//! relies on it. Two clocks see to that, the gateway's and the leader's:
//!
//! * The leader lets a session's locks go when it has not heard of it for [`LOCK_LAPSE`]. The gateway counts from when it *sent*
//!   the last message that was answered with yes, and claims nothing for [`LEASE`](crate::lock::LEASE), which is less.
//! * A new leader knows of no locks, and grants none for [`LOCK_LAPSE`] ("too early"). By then whatever a gateway could still
//!   claim, on the word of the leader before (given under its lease, so before this one began), is over, or has been
//!   asserted here.
//!
//! So two sessions never hold conflicting locks in the eyes of their gateways at one moment. Whether a session that asserts its
//! locks has held them *without a gap* only the gateway can tell; the answer says for how long this leader has led, and
//! `coordinator/advisory.rs` has the rule.
//!
//! A split must not carry the locks' keys away unnoticed: whoever is told yes has waited for latches on the key, which a split
//! holds until it is applied here. So a child begins to lead after every yes that its parent gave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::ids::{Timestamp, TxnId};

use super::{Context, Outcome, Refusal};
use crate::Error;
use crate::latch::{Mode, Span};
use crate::lock::{Asked, Claimant, LOCK_LAPSE, LockMode};
use crate::who::SessionId;
use crate::wire::parse_txn;

/// How long a poll waits for a lock.
const POLL_MAX: Duration = Duration::from_millis(400);
/// Locks in one request.
const LOCKS_MAX: usize = 10_000;

fn session_of(bytes: &[u8]) -> Result<SessionId, Error> {
    parse_txn(bytes).map(|id| SessionId(id.0))
}

fn claimant(session: SessionId) -> Claimant {
    let (owner, session) = (session.as_owner(), Some(session));
    Claimant { owner, session, started: Timestamp::ZERO, deadlock_after: Duration::ZERO }
}

/// `None`: the lock is not held at all.
fn strength(lock: &pb::AdvisoryLock) -> Option<LockMode> {
    LockMode::from_pb(lock.strength()).ok()
}

/// The key lies in this shard, and in no child of a split that is under way.
async fn settled(cx: &Context<'_>, key: &Bytes) -> Result<(), Refusal> {
    cx.must_hold_key(key)?;
    cx.leadership.latches.wait(&[(Span::Key(key.clone()), Mode::Shared)]).await;
    cx.view().map(|_| ())
}

/// A table's stamp as gateways see it, and back: that of another shard, whose term may be the same, never means anything here.
fn sealed(cx: &Context<'_>, stamp: u64) -> u64 {
    stamp ^ cx.descriptor.group.0.rotate_right(24)
}

/// How the session is known from now on.
fn held(cx: &Context<'_>, stamp: u64, now: Instant) -> Answer {
    let age_ms = cx.leadership.age(now).as_millis() as u64;
    let (term, stamp) = (cx.leadership.term.0, sealed(cx, stamp));
    Answer::AdvisoryHeld(pb::AdvisoryHeld { term, stamp, age_ms })
}

pub async fn lock(cx: &Context<'_>, request: pb::LockAdvisory) -> Outcome {
    let session = session_of(&request.session)?;
    let mode = LockMode::from_pb(request.strength())?;
    let key = request.key.clone();
    let table = &cx.leadership.advisory;
    let clock = &cx.server.seams().clock;
    let until = cx.deadline.min(clock.now() + POLL_MAX);
    let wait = request.policy() == pb::LockPolicy::LockWait;
    settled(cx, &key).await?;
    loop {
        let now = clock.now();
        if cx.leadership.age(now) <= LOCK_LAPSE {
            return Ok(Answer::Waiting(pb::Waiting { key, too_early: true }));
        }
        let granted = match table.ask(claimant(session), &key, mode, wait, now) {
            Asked::Granted => {
                let Some(stamp) = table.stamp(session.as_owner()) else {
                    return Err(Error::Internal("a lock without an owner".to_owned()).into());
                };
                let answer = held(cx, stamp, now);
                settled(cx, &key).await?;
                cx.confirm().await?;
                return Ok(answer);
            }
            Asked::Wait(granted) => granted,
            Asked::Busy(_) => {
                cx.confirm().await?;
                return Err(Error::Locked { key, timed_out: false }.into());
            }
            Asked::Deadlock => return Err(Error::Deadlock { key }.into()),
            Asked::Full => {
                return Err(
                    Error::TooLarge("too many advisory locks, or too many who wait".to_owned()).into()
                );
            }
        };
        let left = until.saturating_duration_since(now);
        let woken = tokio::select! {
            woken = granted => woken.is_ok(),
            () = cx.server.seams().sleep(left) => false,
        };
        if cx.shard.leadership().is_none_or(|now| now.term != cx.leadership.term) {
            return Err(Refusal::NotLeader(None));
        }
        // Time is over; or another poll has taken its place, or the session waits no longer, and this one is left over: it must
        // not ask again.
        if !woken {
            return Ok(Answer::Waiting(pb::Waiting { key, too_early: false }));
        }
    }
}

pub async fn unlock(cx: &Context<'_>, request: pb::UnlockAdvisory) -> Outcome {
    let owner = session_of(&request.session)?.as_owner();
    let (table, now) = (&cx.leadership.advisory, cx.server.seams().clock.now());
    for lock in request.locks.iter().take(LOCKS_MAX) {
        cx.must_hold_key(&lock.key)?;
        if !request.all {
            table.lower(owner, &lock.key, strength(lock), now);
        }
    }
    if request.all {
        table.release(owner, now);
    }
    // A deposed leader's word is worth nothing: the next one may have been told that the lock is held.
    cx.confirm().await?;
    Ok(Answer::Done(0))
}

pub async fn keep(cx: &Context<'_>, request: pb::KeepAdvisory) -> Outcome {
    settled(cx, &request.key).await?;
    let now = cx.server.seams().clock.now();
    let mut unknown = Vec::new();
    for (index, known) in request.sessions.iter().enumerate() {
        let owner: TxnId = parse_txn(&known.session)?;
        let same_term = known.term == cx.leadership.term.0;
        if !same_term || !cx.leadership.advisory.affirm(owner, sealed(cx, known.stamp), now) {
            unknown.push(index as u32);
        }
    }
    cx.confirm().await?;
    Ok(Answer::AdvisoryKept(pb::AdvisoryKept { unknown }))
}

pub async fn assert(cx: &Context<'_>, request: pb::AssertAdvisory) -> Outcome {
    let known = request.known.unwrap_or_default();
    let session = session_of(&known.session)?;
    if request.locks.len() > LOCKS_MAX {
        return Err(Error::Invalid(format!("more than {LOCKS_MAX} advisory locks at once")).into());
    }
    let mut locks = Vec::with_capacity(request.locks.len());
    for lock in &request.locks {
        cx.must_hold_key(&lock.key)?;
        locks.push((lock.key.clone(), LockMode::from_pb(lock.strength())?));
    }
    let Some((first, _)) = locks.first() else {
        return Err(Error::Invalid("an assertion of nothing".to_owned()).into());
    };
    settled(cx, first).await?;
    let (table, now) = (&cx.leadership.advisory, cx.server.seams().clock.now());
    let same =
        known.term == cx.leadership.term.0 && table.affirm(session.as_owner(), sealed(cx, known.stamp), now);
    if !same && cx.leadership.age(now) > LOCK_LAPSE {
        // Others may have held them meanwhile.
        cx.confirm().await?;
        table.release(session.as_owner(), now);
        return Err(Error::LocksLost(
            "their shard's leader has changed, and was reached too late".to_owned(),
        )
        .into());
    }
    let stamp = table.assert(claimant(session), &locks, now);
    cx.confirm().await?;
    match stamp {
        Some(stamp) => Ok(held(cx, stamp, now)),
        None => Err(Error::LocksLost("another session has taken one of them".to_owned()).into()),
    }
}
