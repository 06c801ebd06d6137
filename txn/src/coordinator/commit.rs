//! Committing: in one shard if it can be, otherwise over intents, in two rounds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp};

use super::buffer::Writes;
use super::core::{fences_to_pb, unexpected};
use super::lay::{fence_write, write_to_pb};
use super::txn::{State, Txn};
use crate::api::{Fence, Key, LockWait, Locking};
use crate::descriptor::{ShardDescriptor, range_to_pb};
use crate::router::{Repeat, RouteError};
use crate::spans::SpanSet;
use crate::wire::{Fate, txn_bytes};
use crate::{Error, LockMode};

/// A transaction with more to write takes the way over intents even in one shard: a log entry holds up all others.
const ONE_SHARD_BYTES_MAX: usize = 4 << 20;
/// How long a gateway tries to find out what became of a commit.
const FIND_OUT_TIMEOUT: Duration = Duration::from_secs(3);

/// What there is to commit.
pub(super) struct Plan {
    pub writes: Writes,
    pub bytes: usize,
    pub set_fences: Vec<(Key, Option<u64>)>,
    /// What must not have changed, and since when. (Rows that are written say so themselves.)
    pub checks: Vec<(Timestamp, SpanSet)>,
    /// Where a row must stand; in key order (`demand.rs`).
    pub demands: Vec<Key>,
    pub fences: Vec<Fence>,
    /// The oldest snapshot that a change of schema was planned under.
    pub planned_at: Option<Timestamp>,
    /// For whoever fights over a key.
    pub started: Timestamp,
    pub deadline: Instant,
}

impl Txn {
    /// Commits. The phase is `Ended` already.
    pub(super) async fn run_commit(&self) -> Result<Timestamp, Error> {
        // What was flushed early has to arrive first.
        let sending = self.sending.clone().lock_owned().await;
        let (plan, sent_early) = {
            let mut state = self.state.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let bytes = state.buffer.bytes();
            let set_fences = state.buffer.fences().iter().map(|(p, v)| (p.clone(), *v)).collect();
            let planned_at = state.strict.iter().chain([&self.reading]).filter_map(|r| r.at()).min();
            // Before the buffer is emptied: what is written needs no check of its own.
            let checks = self.checks(&state);
            let demands = Self::demands(&state);
            let plan = Plan {
                writes: state.buffer.take(),
                bytes,
                set_fences,
                planned_at,
                checks,
                demands,
                fences: state.fences.drain().collect(),
                started: state.started.unwrap_or(Timestamp::MAX),
                deadline: self.core.deadline(),
            };
            (plan, !state.sent.is_empty())
        };
        if plan.writes.is_empty() && plan.set_fences.is_empty() && !sent_early {
            return Ok(self.reading.at().unwrap_or(Timestamp::ZERO));
        }
        if !sent_early && let Some(at) = self.commit_in_one_shard(&plan).await? {
            metrics::counter!("flotilla_txn_commits_total", "way" => "one_shard").increment(1);
            return Ok(at);
        }
        if !sent_early && let Some(commit) = self.as_async_commit(&plan) {
            let at = self.commit_async(&plan, &commit).await?;
            metrics::counter!("flotilla_txn_commits_total", "way" => "async").increment(1);
            return Ok(at);
        }
        let at = self.commit_over_intents(&plan).await?;
        metrics::counter!("flotilla_txn_commits_total", "way" => "intents").increment(1);
        drop(sending);
        Ok(at)
    }

    /// What the commit has to find unchanged, beside the rows that it writes: all reads of a serializable transaction; of others
    /// those of its schema changes, and the rows that it has locked, which must not have changed behind a lost lock.
    fn checks(&self, state: &State) -> Vec<(Timestamp, SpanSet)> {
        let readings = state.strict.iter().chain([&self.reading]);
        let mut checks: BTreeMap<Timestamp, SpanSet> = BTreeMap::new();
        for (since, reads) in readings.filter_map(|reading| reading.take()) {
            match checks.entry(since) {
                Entry::Vacant(entry) => _ = entry.insert(reads),
                Entry::Occupied(mut entry) => {
                    reads.ranges().for_each(|range| entry.get_mut().add_range(&range))
                }
            }
        }
        if !self.is_serializable() {
            let unwritten = |key: &Key| !state.buffer.writes().contains_key(key);
            for (key, locked) in state.locked.iter().filter(|(key, l)| l.excludes_writers() && unwritten(key))
            {
                checks.entry(locked.since).or_default().add_key(key);
            }
        }
        checks.into_iter().collect()
    }

    /// `None`: not all of it lies in one shard, or it is better done with intents.
    async fn commit_in_one_shard(&self, plan: &Plan) -> Result<Option<Timestamp>, Error> {
        if plan.bytes > ONE_SHARD_BYTES_MAX {
            return Ok(None);
        }
        let first = plan.writes.keys().next().or(plan.set_fences.first().map(|(prefix, _)| prefix));
        let Some(first) = first else {
            return Ok(None);
        };
        let (read_at, reads): (Timestamp, Vec<pb::Range>) = match &plan.checks[..] {
            [] => (Timestamp::ZERO, Vec::new()),
            [(since, reads)] => (*since, reads.ranges().map(|range| range_to_pb(&range)).collect()),
            _ => return Ok(None),
        };
        let mut pause = Duration::from_millis(2);
        let waiting_since = self.core.seams.clock.now();
        let mut deadline = plan.deadline;
        loop {
            let shard = self.core.router.route(first, deadline).await?;
            if !self.fits(plan, &shard) {
                return Ok(None);
            }
            let mut writes: Vec<pb::Write> =
                plan.writes.iter().map(|(key, write)| write_to_pb(key, write)).collect();
            for (prefix, version) in &plan.set_fences {
                writes.push(fence_write(&shard, prefix, *version, plan.planned_at));
            }
            let ask = pb::Commit {
                txn: txn_bytes(self.id),
                read_at: read_at.0,
                writes,
                reads: reads.clone(),
                fences: fences_to_pb(&plan.fences),
                exact_epoch: !plan.set_fences.is_empty(),
                present: plan.demands.clone(),
            };
            self.doubt.store(true, Ordering::Release);
            let answer = self.core.router.ask(&shard, Ask::Commit(ask), Repeat::Never, deadline).await;
            // Any other answer says that it was not proposed.
            if !matches!(answer, Ok(Answer::Done(_)) | Err(RouteError::Failed(Error::Ambiguous(_)))) {
                self.doubt.store(false, Ordering::Release);
            }
            match answer {
                Ok(Answer::Done(at)) => {
                    // It has let the locks there go.
                    self.core.held.forget(self.id, shard.group);
                    return Ok(Some(Timestamp(at)));
                }
                // Undecided transactions have written what this one has read: a timestamp is needed to tell who is first.
                Ok(Answer::Blocked(blocked)) if blocked.in_reads => return Ok(None),
                Ok(Answer::Blocked(blocked)) => {
                    let own = (plan.started, self.id);
                    let clear =
                        self.core.clear_the_way(own, blocked.intents, waiting_since, &mut pause, deadline);
                    clear.await?;
                }
                Ok(Answer::Waiting(waiting)) => {
                    let is_row = plan.writes.contains_key(&waiting.key);
                    self.claim(waiting.key, is_row).await?;
                    // The waiting has had time of its own.
                    deadline = self.core.deadline();
                }
                Err(RouteError::Moved) => self.core.router.pause_before(&mut pause, deadline).await?,
                Err(RouteError::Failed(error @ Error::Ambiguous(_))) => {
                    return self.find_out(first, error).await.map(Some);
                }
                Err(RouteError::Failed(error)) => return Err(error),
                Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
    }

    /// Somebody has locked a key to insert a row there, or, if it is no row's, a table to change its schema: waits for him, as if
    /// the key had been locked before. (Those who write into a table get along with each other.)
    pub(super) async fn claim(&self, key: Key, is_row: bool) -> Result<(), Error> {
        self.claim_in(if is_row { LockMode::Update } else { LockMode::KeyShare }, key).await
    }

    pub(super) async fn claim_in(&self, mode: LockMode, key: Key) -> Result<(), Error> {
        let how = Locking { mode, wait: LockWait::For(None) };
        // Not a read: that nothing stands under the key is for the commit to find out.
        self.lock_sorted(&self.reading, &[key], how, &[], true).await.map(|_| ())
    }

    /// The answer to a one-shard commit was lost. Whoever leads now may remember that it was applied.
    async fn find_out(&self, key: &Key, ambiguous: Error) -> Result<Timestamp, Error> {
        let deadline = self.core.seams.clock.now() + FIND_OUT_TIMEOUT;
        let ask = Ask::Outcome(pb::Outcome { txn: txn_bytes(self.id), key: key.clone() });
        match self.core.router.ask_key(key, ask, Repeat::Harmless, deadline).await {
            Ok(Answer::Done(at)) if at > 0 => Ok(Timestamp(at)),
            _ => Err(ambiguous),
        }
    }

    /// Whether all that the plan touches lies in `shard`. Everything is in key order: first and last tell.
    fn fits(&self, plan: &Plan, shard: &ShardDescriptor) -> bool {
        let ends = [plan.writes.keys().next(), plan.writes.keys().next_back()];
        let writes = ends.into_iter().flatten().all(|key| shard.range.contains(key));
        let hulls = plan.checks.iter().filter_map(|(_, reads)| reads.hull());
        let reads = hulls.into_iter().all(|hull| shard.range.contains_range(&hull));
        let fences = plan.set_fences.iter().all(|(p, _)| shard.range.contains_range(&KeyRange::prefix(p)));
        let ends = [plan.demands.first(), plan.demands.last()];
        let demands = ends.into_iter().flatten().all(|key| shard.range.contains(key));
        writes && reads && fences && demands
    }

    async fn commit_over_intents(&self, plan: &Plan) -> Result<Timestamp, Error> {
        let writes = plan.writes.iter().map(|(key, write)| write_to_pb(key, write)).collect();
        self.lay_intents(plan, writes).await?;
        for (prefix, version) in &plan.set_fences {
            self.lay_fence(plan, prefix, *version).await?;
        }
        let (primary, spans) = {
            let state = self.state.lock();
            let primary =
                state.primary.clone().ok_or_else(|| Error::Internal("nothing to commit".to_owned()))?;
            (primary, state.sent.ranges().map(|range| range_to_pb(&range)).collect())
        };
        let at = self.decide(plan, &primary, spans).await?;
        let sent = std::mem::take(&mut self.state.lock().sent);
        let (core, id, held) = (self.core.clone(), self.id, self.core.held.take(self.id));
        let strays = self.strays.any();
        self.core.seams.spawn("finish", async move {
            core.finish(id, primary, Fate::Committed(at), sent, held, !strays).await;
        });
        Ok(at)
    }

    /// All intents lie. Finds the timestamp, validates what was read, and has the primary committed.
    async fn decide(&self, plan: &Plan, primary: &Key, spans: Vec<pb::Range>) -> Result<Timestamp, Error> {
        let checks: Vec<(Timestamp, Vec<KeyRange>)> =
            plan.checks.iter().map(|(since, reads)| (*since, reads.ranges().collect())).collect();
        // Laying them may have taken long.
        let deadline = plan.deadline.max(self.core.deadline());
        loop {
            // With nothing to validate, the leader may as well draw it, under the latch.
            let mut at = Timestamp::ZERO;
            if !checks.is_empty() || !plan.fences.is_empty() || !plan.demands.is_empty() {
                at = self.core.oracle.timestamp().await?;
                let (mut since, mut reads): (_, &[KeyRange]) = (Timestamp::ZERO, &[]);
                let mut rest = checks.iter();
                if let Some((first, ranges)) = rest.next() {
                    (since, reads) = (*first, ranges);
                }
                self.core.validate(self.id, reads, &plan.fences, since, at, deadline).await?;
                for (since, reads) in rest {
                    self.core.validate(self.id, reads, &[], *since, at, deadline).await?;
                }
                self.core.meet_demands(self.id, &plan.demands, at).await?;
            }
            let ask = pb::CommitPrimary {
                txn: txn_bytes(self.id),
                primary: primary.clone(),
                at: at.0,
                spans: spans.clone(),
                all_lie: false,
            };
            // From here on the transaction may be committed, even if this future is dropped: whoever cleans up asks.
            self.state.lock().undecided = true;
            let mut sent = self.strays.send();
            let (router, ask) = (&self.core.router, Ask::CommitPrimary(ask));
            self.doubt.store(true, Ordering::Release);
            let answer =
                router.ask_key_noting(primary, ask, Repeat::Harmless, deadline, &mut sent.lost).await;
            sent.answered();
            match answer {
                Ok(Answer::Done(at)) => return Ok(Timestamp(at)),
                Err(RouteError::Pushed) => {
                    self.state.lock().undecided = false;
                    self.doubt.store(false, Ordering::Release);
                    // Someone has read past it. From now on readers wait for a moment.
                    let stage = pb::Push {
                        txn: txn_bytes(self.id),
                        primary: primary.clone(),
                        stage: true,
                        ..pb::Push::default()
                    };
                    if self.core.push_with(stage, deadline).await? == Fate::Aborted {
                        return Err(Error::Aborted("someone ended it".to_owned()));
                    }
                }
                Err(RouteError::Failed(error @ Error::Aborted(_))) => {
                    self.state.lock().undecided = false;
                    self.doubt.store(false, Ordering::Release);
                    return Err(error);
                }
                // It may have been proposed. Cleaning up finds out, and settles the intents accordingly.
                Err(RouteError::Failed(error)) => return Err(Error::Ambiguous(error.to_string())),
                Ok(_) | Err(RouteError::Moved) => return Err(unexpected()),
            }
        }
    }
}
