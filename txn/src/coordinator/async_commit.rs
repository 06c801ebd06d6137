//! Asynchronous commit: over several shards, and yet answered after one round of replication.
//!
//! ```text
//!   gateway ──Prewrite(async)──▶ all shards, in parallel     intents; each leader draws a timestamp under its latches
//!   the client is answered: the transaction has happened, at the highest of these timestamps
//!           ──CommitPrimary──▶ the primary's shard           as after a commit in two rounds, in the background
//!           ──Resolve, Forget──▶
//! ```
//!
//! **When has it happened?** When all its intents lie, whether anyone knows or not. The primary's intent names all keys, and
//! each intent the timestamp that its leader drew, so whoever meets one finds out ([`Core::find_out_async`]). An intent that
//! is found missing will never lie (`command/probe.rs`), so that all who ask come to one conclusion; the primary's record
//! is written by whoever is first, the coordinator or one of them.
//!
//! **Why the highest timestamp?** Each was drawn under the latches of the keys there, so it is above all reads of them that
//! were served before; and whoever came later met the intent. So the highest one is above all reads of all its keys, as a
//! timestamp would be that is drawn after all intents are laid.
//!
//! **Which transactions?** Those whose reads need no validation at that timestamp, and that demand no rows: every key that was read is written, too, and
//! found unchanged under the latch that its intent is laid under; from there on the intent protects it. The same holds for
//! the schema: fences are looked at under the latch, and whoever changes one waits for such intents
//! (`Context::in_the_way_of_fences`). Everyone else commits in two rounds (`commit.rs`).
//!
//! **What failure means.** A prewrite whose answer is missing may lie. So the coordinator that does not have all answers asks
//! like everyone else, and says what was found.
//!
//! **What is old is not trusted.** Laying intents can take minutes: a prewrite waits for whoever has locked its key. Meanwhile others
//! may have decided the transaction, and its records may have been swept (`sweep.rs`). So a coordinator that was told long ago
//! that an intent lies asks whether it still does. And if the last prewrite was sent long ago, what isn't found may have
//! been settled: then the outcome is unknown.
//!
//! Known as async commit from TiDB (version 5.0), and akin to CockroachDB's parallel commits (Taft et al., SIGMOD 2020,
//! section 3.2), which stage a record at a timestamp chosen before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::future::join_all;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::commit::Plan;
use super::core::{Core, unexpected};
use super::lay::write_to_pb;
use super::txn::Txn;
use crate::Error;
use crate::api::Key;
use crate::command::ended;
use crate::router::{Repeat, RouteError};
use crate::wire::{Fate, txn_bytes};

/// More keys than this make recovery slow: such transactions commit in two rounds.
const KEYS_MAX: usize = 256;

/// An asynchronous commit under way.
pub(super) struct AsyncCommit {
    /// All its keys.
    pub keys: Vec<Key>,
    at_least: AtomicU64,
    began: Instant,
    /// When a prewrite was sent last. Before that, not all intents lay.
    sent: Mutex<Instant>,
}

impl AsyncCommit {
    /// A prewrite is about to be sent.
    pub fn sends(&self, now: Instant) {
        let mut sent = self.sent.lock();
        *sent = now.max(*sent);
    }

    /// Intents lie: the transaction commits at this timestamp or above.
    pub fn laid(&self, at_least: u64) {
        self.at_least.fetch_max(at_least, Ordering::SeqCst);
    }
}

impl Txn {
    /// The asynchronous commit that this could be.
    pub(super) fn as_async_commit(&self, plan: &Plan) -> Option<AsyncCommit> {
        let allowed = self.core.directory.commits_asynchronously();
        let small = (1..=KEYS_MAX).contains(&plan.writes.len());
        let covered =
            plan.checks.iter().flat_map(|(_, reads)| reads.ranges()).all(|range| {
                storage::keys::as_point(&range).is_some() && plan.writes.contains_key(&range.start)
            });
        // A fence is looked at where something under it is written, and nowhere else.
        let fenced = plan.fences.iter().all(|fence| {
            let first = plan.writes.range(fence.prefix.clone()..).next();
            first.is_some_and(|(key, _)| key.starts_with(&fence.prefix))
        });
        if !allowed
            || !small
            || !covered
            || !fenced
            || !plan.set_fences.is_empty()
            || !plan.demands.is_empty()
        {
            return None;
        }
        let (keys, now) = (plan.writes.keys().cloned().collect(), self.core.seams.clock.now());
        Some(AsyncCommit { keys, at_least: AtomicU64::new(0), began: now, sent: Mutex::new(now) })
    }

    /// Commits asynchronously. The client may be answered when this returns.
    pub(super) async fn commit_async(&self, plan: &Plan, commit: &AsyncCommit) -> Result<Timestamp, Error> {
        let mut writes: Vec<pb::Write> =
            plan.writes.iter().map(|(key, write)| write_to_pb(key, write)).collect();
        // What was read is validated where it is written.
        for (since, reads) in &plan.checks {
            for write in writes.iter_mut().filter(|write| reads.covers(&write.key)) {
                write.unchanged_since = match write.unchanged_since {
                    0 => since.0,
                    own => own.min(since.0),
                };
            }
        }
        // From here on it may commit, even if this future is dropped: whoever cleans up asks.
        self.state.lock().undecided = true;
        self.doubt.store(true, Ordering::Release);
        let laid = self.lay_intents_with(plan, writes, Some(commit)).await;
        let primary = self.state.lock().primary.clone();
        let primary = primary.ok_or_else(|| Error::Internal("nothing to commit".to_owned()))?;
        let is_old = |since: Instant| {
            self.core.seams.clock.now().saturating_duration_since(since) >= self.core.options.answers_hold
        };
        let at = match laid {
            Ok(()) if !is_old(commit.began) => Timestamp(commit.at_least.load(Ordering::SeqCst)),
            laid => {
                let error = laid.err().unwrap_or_else(ended);
                let deadline = self.core.deadline();
                let keys = commit.keys.clone();
                match self.core.find_out_async(self.id, primary.clone(), keys, deadline).await {
                    Ok(Fate::Committed(at)) => at,
                    // All may have lain and be settled, and the record be gone.
                    Ok(_) if is_old(*commit.sent.lock()) => {
                        return Err(Error::Ambiguous(format!(
                            "{error}; what became of it was asked too late"
                        )));
                    }
                    Ok(_) => {
                        self.state.lock().undecided = false;
                        self.doubt.store(false, Ordering::Release);
                        return Err(error);
                    }
                    Err(unknown) => return Err(Error::Ambiguous(format!("{error}; then {unknown}"))),
                }
            }
        };
        let spans =
            self.state.lock().sent.ranges().map(|range| crate::descriptor::range_to_pb(&range)).collect();
        let sent = std::mem::take(&mut self.state.lock().sent);
        let (core, id, held) = (self.core.clone(), self.id, self.core.held.take(self.id));
        let strays = self.strays.any();
        self.core.seams.spawn("finish", async move {
            let ask = pb::CommitPrimary {
                txn: txn_bytes(id),
                primary: primary.clone(),
                at: at.0,
                spans,
                all_lie: true,
            };
            let deadline = core.deadline();
            match core.router.ask_key(&primary, Ask::CommitPrimary(ask), Repeat::Harmless, deadline).await {
                Ok(Answer::Done(decided)) => {
                    // Below, if others had it decided and settled, and a repeated prewrite laid an intent once more.
                    debug_assert!(decided <= at.0, "an asynchronous commit is later than its client was told");
                    let fate = Fate::Committed(Timestamp(decided));
                    core.finish(id, primary, fate, sent, held, !strays).await;
                }
                other => {
                    tracing::debug!(txn = ?id, ?other, "an asynchronous commit is left to those who meet its intents");
                    core.unlock_in(id, held).await;
                }
            }
        });
        Ok(at)
    }
}

impl Core {
    /// What became of an asynchronous commit, by its intents; decided at its primary if it wasn't yet.
    pub(super) async fn find_out_async(
        &self,
        txn: TxnId,
        primary: Key,
        keys: Vec<Key>,
        deadline: Instant,
    ) -> Result<Fate, Error> {
        metrics::counter!("flotilla_txn_async_probes_total").increment(1);
        let probes = keys.iter().map(|key| async move {
            let ask = Ask::Probe(pb::Probe { txn: txn_bytes(txn), key: key.clone() });
            match self.router.ask_key(key, ask, Repeat::Harmless, deadline).await {
                Ok(Answer::Done(at_least)) => Ok(at_least),
                Err(RouteError::Failed(error)) => Err(error),
                _ => Err(unexpected()),
            }
        });
        let mut at = 0;
        let mut complete = !keys.is_empty();
        for found in join_all(probes).await {
            let at_least = found?;
            complete &= at_least > 0;
            at = at.max(at_least);
        }
        if !complete {
            let push = pb::Push {
                txn: txn_bytes(txn),
                primary: primary.clone(),
                abort: true,
                incomplete: true,
                ..pb::Push::default()
            };
            return match self.router.ask_key(&primary, Ask::Push(push), Repeat::Harmless, deadline).await {
                Ok(Answer::Fate(fate)) => Ok(Fate::from_pb(&fate)?.1),
                Err(RouteError::Failed(error)) => Err(error),
                _ => Err(unexpected()),
            };
        }
        let ask = pb::CommitPrimary {
            txn: txn_bytes(txn),
            primary: primary.clone(),
            at,
            spans: keys.iter().map(|key| crate::descriptor::range_to_pb(&KeyRange::point(key))).collect(),
            all_lie: true,
        };
        match self.router.ask_key(&primary, Ask::CommitPrimary(ask), Repeat::Harmless, deadline).await {
            Ok(Answer::Done(at)) => Ok(Fate::Committed(Timestamp(at))),
            Err(RouteError::Failed(Error::Aborted(_))) => Ok(Fate::Aborted),
            Err(RouteError::Failed(error)) => Err(error),
            Ok(_) | Err(RouteError::Moved | RouteError::Pushed) => Err(unexpected()),
        }
    }
}
