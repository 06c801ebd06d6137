//! Row locks: taken when a statement runs, and read under at once.
//!
//! A request with a snapshot gets the rows as of that snapshot, or learns that one has changed since. A request without one
//! gets a snapshot drawn *after* the rows were locked: so whoever queues for a hot row reads what the one before has left,
//! without a second round trip, and its commit finds the row unchanged. Either way the values are an ordinary read at the
//! answer's timestamp, to be validated like any other: nothing is concluded from the lock.
//!
//! An intent in the way belongs to someone who writes without a lock, or has lost it. Its fate must be decided before the
//! row is worth reading for a change; the gateway sees to that.
//!
//! **A table is locked** by locking the key under which the shard keeps its fence, with that fence among the request's: for a change of
//! schema that reads all rows. Commits and prewrites that write there are sent away to wait (`commit.rs`: `shut_out`). Those that came
//! before are waited for here: by the latches that they hold on the fence, and where they have laid intents until they are
//! decided. So a snapshot that is drawn afterwards has all there is, and nothing is added to it as long as the lock lasts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::{Snapshot, mvcc};

use super::read::evaluate;
use super::rules::others_intents;
use super::{Context, Fates, Outcome, Refusal};
use crate::Error;
use crate::latch::{Mode, Span};
use crate::lock::{Asked, Claimant, LockMode};
use crate::who::SessionId;
use crate::wire::{parse_txn, parse_txn_opt, txn_bytes};

/// How long a poll waits for a lock. (Shorter than what a router grants an attempt.)
const POLL_MAX: Duration = Duration::from_millis(400);
/// Rows in one request.
const KEYS_MAX: usize = 4096;

pub async fn lock_rows(cx: &Context<'_>, request: pb::LockRows) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    let session = parse_txn_opt(&request.session)?.map(|id| SessionId(id.0));
    let deadlock_after = Duration::from_millis(request.deadlock_after_ms);
    let who = Claimant { owner: txn, session, started: Timestamp(request.started), deadlock_after };
    let mode = LockMode::from_pb(request.strength())?;
    if request.keys.len() > KEYS_MAX {
        return Err(Error::Invalid(format!("more than {KEYS_MAX} rows to be locked at once")).into());
    }
    for key in &request.keys {
        cx.must_hold_key(key)?;
    }
    let poll = match request.wait_ms {
        0 => POLL_MAX,
        wait => POLL_MAX.min(Duration::from_millis(wait)),
    };
    let until = cx.deadline.min(cx.server.seams().clock.now() + poll);
    let mut skipped = Vec::new();
    for (index, key) in request.keys.iter().enumerate() {
        match take(cx, who, &request, key, mode, until).await? {
            Taken::Held => {}
            Taken::Skipped => skipped.push(index as u32),
            Taken::NotYet => return Ok(Answer::Waiting(pb::Waiting { key: key.clone(), too_early: false })),
        }
    }
    // Only now, when nobody else who locks can change them any more.
    let at = match request.at {
        0 => cx.server.oracle().timestamp().await?,
        at => Timestamp(at),
    };
    let fences = cx.fences(&request.fences);
    let locked = fences.iter().filter(|(key, _)| mode == LockMode::Update && request.keys.contains(key));
    let tables: Vec<KeyRange> = locked.map(|(_, fence)| KeyRange::prefix(&fence.prefix)).collect();
    // Whoever writes into a table has a shared latch on its fence.
    let latched = if tables.is_empty() { Mode::Shared } else { Mode::Exclusive };
    let keys = request.keys.iter().chain(fences.iter().map(|(key, _)| key));
    let spans: Vec<_> = keys.map(|key| (Span::Key(key.clone()), latched)).collect();
    cx.leadership.latches.wait(&spans).await;
    let view = cx.view()?;
    cx.must_reach(at)?;
    for here in tables.iter().filter_map(|table| table.intersection(&cx.descriptor.range)) {
        let intents = others_intents(&view.snapshot, txn, &here, false)?;
        if !intents.is_empty() {
            cx.confirm().await?;
            return Err(Refusal::Blocked { intents, in_reads: false });
        }
    }
    let held = request.keys.iter().enumerate().filter(|(index, _)| !skipped.contains(&(*index as u32)));
    let changed = match request.at {
        0 => None,
        _ => changed_since(cx, &view.snapshot, at, held.map(|(_, key)| key))?,
    };
    let values = match &changed {
        Some(_) => Ok(Vec::new()),
        None => evaluate(&view.snapshot, Some(txn), at, &Fates::default(), &fences, &request.keys),
    };
    cx.confirm().await?;
    let deleted = changed.as_ref().is_some_and(|(_, _, deleted)| *deleted);
    let (changed, changed_by) = changed.map_or((None, None), |(key, rival, _)| (Some(key), rival));
    let changed_by = changed_by.map(txn_bytes).unwrap_or_default();
    Ok(Answer::Locked(pb::Locked { at: at.0, values: values?, skipped, changed, changed_by, deleted }))
}

enum Taken {
    Held,
    Skipped,
    NotYet,
}

async fn take(
    cx: &Context<'_>,
    who: Claimant,
    request: &pb::LockRows,
    key: &Bytes,
    mode: LockMode,
    until: Instant,
) -> Result<Taken, Refusal> {
    let seams = cx.server.seams();
    let wait = request.policy() == pb::LockPolicy::LockWait;
    loop {
        let now = seams.clock.now();
        let locks = &cx.leadership.locks;
        let granted = match locks.ask(who, key, mode, wait, now) {
            Asked::Granted => return Ok(Taken::Held),
            Asked::Wait(granted) => granted,
            Asked::Busy(_) if request.policy() == pb::LockPolicy::LockSkip => return Ok(Taken::Skipped),
            Asked::Busy(_) => {
                cx.confirm().await?;
                return Err(Error::Locked { key: key.clone(), timed_out: false }.into());
            }
            Asked::Deadlock => return Err(Error::Deadlock { key: key.clone() }.into()),
            Asked::Full => {
                return Err(Error::Unavailable("too many wait for locks of this shard".to_owned()).into());
            }
        };
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return Ok(Taken::NotYet);
        }
        let woken = tokio::select! {
            woken = granted => woken.is_ok(),
            () = seams.sleep(left) => return Ok(Taken::NotYet),
        };
        // Dropped with the leadership's table: the next poll finds the new leader.
        if cx.shard.leadership().is_none_or(|now| now.term != cx.leadership.term) {
            return Err(Refusal::NotLeader(None));
        }
        // Another poll of the same transaction has taken its place, or the transaction has ended: this one is left over from
        // a connection that broke. Asking again would take the place back, and the two of them would go round for ever.
        if !woken {
            return Ok(Taken::NotYet);
        }
    }
}

/// The first of `keys` of which there is a version above `at`, whose it is, if that is remembered, and whether it is a deletion.
fn changed_since<'k>(
    cx: &Context<'_>,
    snapshot: &Snapshot,
    at: Timestamp,
    keys: impl Iterator<Item = &'k Bytes>,
) -> Result<Option<(Bytes, Option<TxnId>, bool)>, Refusal> {
    let mut points = mvcc::PointReader::new(snapshot);
    for key in keys {
        let newest = points.get_with(key, Timestamp::MAX, |when, value| (when, value.is_none()))?;
        if let Some((when, deleted)) = newest.filter(|(when, _)| *when > at) {
            return Ok(Some((key.clone(), cx.writer(when), deleted)));
        }
    }
    Ok(None)
}

pub fn unlock(cx: &Context<'_>, request: pb::Unlock) -> Outcome {
    cx.leadership.locks.release(parse_txn(&request.txn)?, cx.server.seams().clock.now());
    Ok(Answer::Done(0))
}

pub fn keep_locks(cx: &Context<'_>, request: pb::KeepLocks) -> Outcome {
    let txns: Vec<TxnId> = request.txns.iter().map(|txn| parse_txn(txn)).collect::<Result<_, _>>()?;
    cx.leadership.locks.heard(txns, cx.server.seams().clock.now());
    Ok(Answer::Done(0))
}

pub async fn list_locks(cx: &Context<'_>, request: pb::ListLocks) -> Outcome {
    let (now, rows_max) = (cx.server.seams().clock.now(), request.rows_max as usize);
    let listed = cx.leadership.lock_tables().into_iter().flat_map(|table| table.list(rows_max, now));
    let lock = |l: crate::lock::Listed| pb::ListedLock {
        key: l.key,
        txn: txn_bytes(l.txn),
        strength: l.mode.to_pb().into(),
        granted: l.granted,
        age_ms: l.age.as_millis() as u64,
        session: l.session.map(|session| txn_bytes(session.as_owner())).unwrap_or_default(),
    };
    let locks = listed.take(rows_max).map(lock).collect();
    cx.confirm().await?;
    Ok(Answer::Locks(pb::LockList { locks }))
}
