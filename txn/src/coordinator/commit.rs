//! Committing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, KeyRange, Timestamp, TxnId};

use super::async_commit::AsyncCommit;
use super::buffer::{Buffered, Writes};
use super::core::{Core, fences_to_pb, unexpected};
use super::txn::{State, Txn};
use crate::api::{Fence, Key, LockWait, Locking};
use crate::descriptor::{ShardDescriptor, range_to_pb};
use crate::router::{Repeat, RouteError};
use crate::spans::SpanSet;
use crate::wire::{Fate, txn_bytes};
use crate::{Error, LockMode, keys, shard};

/// Writes in one request that lays intents.
const PREWRITE_ROWS: usize = 4096;
/// … and their bytes.
const PREWRITE_BYTES: usize = 1 << 20;
/// Such requests of one transaction under way at once.
const PREWRITE_PARALLEL: usize = 4;
/// A transaction with more to write takes the way over intents even in one shard: a log entry holds up all others.
const ONE_SHARD_BYTES_MAX: usize = 4 << 20;
/// How long a gateway tries to find out what became of a commit.
const FIND_OUT_TIMEOUT: Duration = Duration::from_secs(3);
/// Single keys remembered of what one request laid; past that the range from first to last.
const SENT_KEYS_MAX: usize = 64;
/// When one of the requests that lay intents has failed, how long the answers to the others are waited for.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// What there is to commit.
pub(super) struct Plan {
    pub writes: Writes,
    bytes: usize,
    pub set_fences: Vec<(Key, Option<u64>)>,
    /// What must not have changed, and since when. (Rows that are written say so themselves.)
    pub checks: Vec<(Timestamp, SpanSet)>,
    /// Where a row must stand; in key order (`demand.rs`).
    pub demands: Vec<Key>,
    pub fences: Vec<Fence>,
    /// The oldest snapshot that a change of schema was planned under.
    planned_at: Option<Timestamp>,
    /// For whoever fights over a key.
    started: Timestamp,
    deadline: Instant,
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
    async fn claim(&self, key: Key, is_row: bool) -> Result<(), Error> {
        self.claim_in(if is_row { LockMode::Update } else { LockMode::KeyShare }, key).await
    }

    async fn claim_in(&self, mode: LockMode, key: Key) -> Result<(), Error> {
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

    /// Sends a part of the writes before the commit. Called with `sending` held.
    pub(super) async fn send_early(&self, writes: &Writes) -> Result<(), Error> {
        let (started, fences) = {
            let state = self.state.lock();
            (state.started.unwrap_or(Timestamp::MAX), state.fences.iter().cloned().collect())
        };
        let plan = Plan {
            writes: Writes::new(),
            bytes: 0,
            set_fences: Vec::new(),
            checks: Vec::new(),
            demands: Vec::new(),
            fences,
            planned_at: None,
            started,
            deadline: self.core.deadline(),
        };
        let writes = writes.iter().map(|(key, write)| write_to_pb(key, write)).collect();
        self.lay_intents(&plan, writes).await
    }

    /// Lays intents for `writes`, which are in key order.
    async fn lay_intents(&self, plan: &Plan, writes: Vec<pb::Write>) -> Result<(), Error> {
        self.lay_intents_with(plan, writes, None).await
    }

    /// The same, for an asynchronous commit if there is one.
    pub(super) async fn lay_intents_with(
        &self,
        plan: &Plan,
        writes: Vec<pb::Write>,
        commit: Option<&AsyncCommit>,
    ) -> Result<(), Error> {
        let Some(first) = writes.first() else {
            return Ok(());
        };
        let primary = self.choose_primary(&first.key);
        let started = self.started().await?;
        let (round, failed) = (self.next_round(), AtomicBool::default());
        let laying = Laying { plan, primary, started, round, failed, commit };
        let chunks = self.core.chunks(writes, plan.deadline).await?;
        let requests = chunks.into_iter().map(|chunk| self.lay_chunk(&laying, chunk));
        let mut answers = futures::stream::iter(requests).buffer_unordered(PREWRITE_PARALLEL);
        let Err(error) = answers.by_ref().try_for_each(|()| futures::future::ok(())).await else {
            return Ok(());
        };
        // What is under way would be a stray; most of it is answered within a moment.
        laying.failed.store(true, Ordering::Relaxed);
        tokio::select! {
            () = answers.for_each(|_| futures::future::ready(())) => {}
            () = self.core.seams.sleep(DRAIN_MAX) => {}
        }
        Err(error)
    }

    fn choose_primary(&self, candidate: &Key) -> Key {
        let (primary, fresh) = {
            let mut state = self.state.lock();
            let fresh = state.primary.is_none();
            let primary = state.primary.get_or_insert_with(|| candidate.clone()).clone();
            if fresh {
                state.sent.add_key(&primary);
            }
            (primary, fresh)
        };
        if fresh {
            self.start_heartbeat(primary.clone());
        }
        primary
    }

    fn next_round(&self) -> u64 {
        let mut state = self.state.lock();
        state.rounds += 1;
        state.rounds
    }

    /// When the transaction began, for those who fight with it over a key.
    async fn started(&self) -> Result<Timestamp, Error> {
        if let Some(started) = self.state.lock().started {
            return Ok(started);
        }
        let now = self.core.oracle.timestamp().await?;
        Ok(*self.state.lock().started.get_or_insert(now))
    }

    async fn lay_chunk(&self, laying: &Laying<'_>, chunk: Chunk) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            match (chunk.writes.first(), chunk.writes.last()) {
                (Some(first), Some(last)) if chunk.writes.len() > SENT_KEYS_MAX => {
                    let end = KeyRange::point(&last.key).end;
                    state.sent.add_range(&KeyRange { start: first.key.clone(), end });
                }
                _ => chunk.writes.iter().for_each(|write| state.sent.add_key(&write.key)),
            }
        }
        let mut deadline = laying.plan.deadline.max(self.core.deadline());
        let mut pause = Duration::from_millis(2);
        let waiting_since = self.core.seams.clock.now();
        let (mut todo, mut lost) = (vec![chunk], false);
        while let Some(chunk) = todo.pop() {
            if laying.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(commit) = laying.commit {
                commit.sends(self.core.seams.clock.now());
            }
            match self.prewrite(laying, &chunk, false, deadline, &mut lost).await {
                Ok(Answer::Done(at_least)) => {
                    if let Some(commit) = laying.commit {
                        commit.laid(at_least);
                    }
                }
                Ok(Answer::Blocked(blocked)) => {
                    let own = (laying.started, self.id);
                    self.core
                        .clear_the_way(own, blocked.intents, waiting_since, &mut pause, deadline)
                        .await?;
                    todo.push(chunk);
                }
                Ok(Answer::Waiting(waiting)) => {
                    let is_row = chunk.writes.iter().any(|write| write.key == waiting.key);
                    // As long as this waits, these intents don't lie, and nothing has happened: it may be cancelled. (Not if a
                    // copy of the request is under way still.)
                    let undone = laying.commit.is_some() && !lost;
                    if undone {
                        self.doubt.store(false, Ordering::Release);
                    }
                    let claimed = self.claim(waiting.key, is_row).await;
                    if undone {
                        self.doubt.store(true, Ordering::Release);
                    }
                    claimed?;
                    deadline = self.core.deadline();
                    todo.push(chunk);
                }
                Err(RouteError::Moved) => {
                    self.core.router.pause_before(&mut pause, deadline).await?;
                    todo.extend(self.core.chunks(chunk.writes, deadline).await?);
                }
                Err(RouteError::Failed(error)) => return Err(error),
                Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
        Ok(())
    }

    /// Sends a prewrite. `lost` is set if a copy of it may arrive later.
    async fn prewrite(
        &self,
        laying: &Laying<'_>,
        chunk: &Chunk,
        exact_epoch: bool,
        deadline: Instant,
        lost: &mut bool,
    ) -> Result<Answer, RouteError> {
        let ask = pb::Prewrite {
            txn: txn_bytes(self.id),
            primary: laying.primary.clone(),
            started: laying.started.0,
            writes: chunk.writes.clone(),
            fences: fences_to_pb(&laying.plan.fences),
            exact_epoch,
            round: laying.round,
            async_commit: laying.commit.is_some(),
            all_keys: laying.all_keys_for(chunk),
        };
        let mut sent = self.strays.send();
        let (router, ask) = (&self.core.router, Ask::Prewrite(ask));
        let answer = router.ask_noting(&chunk.shard, ask, Repeat::Harmless, deadline, &mut sent.lost).await;
        *lost |= sent.lost;
        sent.answered();
        answer
    }

    /// Lays the intents that set a fence: one in each shard that overlaps the prefix, as those are at that moment. A
    /// shard that was cut meanwhile refuses (its epoch is another), and one that has the intent is not cut.
    async fn lay_fence(&self, plan: &Plan, prefix: &Key, version: Option<u64>) -> Result<(), Error> {
        let mut deadline = plan.deadline;
        let mut pause = Duration::from_millis(2);
        let waiting_since = self.core.seams.clock.now();
        'again: loop {
            for shard in self.core.router.route_all(&KeyRange::prefix(prefix), deadline).await? {
                let write = fence_write(&shard, prefix, version, plan.planned_at);
                let primary = self.choose_primary(&write.key);
                self.state.lock().sent.add_key(&write.key);
                let (started, round) = (self.started().await?, self.next_round());
                let failed = AtomicBool::default();
                let laying = Laying { plan, primary, started, round, failed, commit: None };
                let fence = write.key.clone();
                let chunk = Chunk { shard, writes: vec![write] };
                match self.prewrite(&laying, &chunk, true, deadline, &mut false).await {
                    Ok(Answer::Done(_)) => continue,
                    Ok(Answer::Blocked(blocked)) => {
                        // Under a constant load there would always be somebody: whoever comes from now on waits.
                        self.claim_in(LockMode::Update, fence).await?;
                        deadline = self.core.deadline();
                        let own = (laying.started, self.id);
                        let met = blocked.intents;
                        self.core.clear_the_way(own, met, waiting_since, &mut pause, deadline).await?;
                    }
                    Ok(Answer::Waiting(waiting)) => {
                        self.claim(waiting.key, false).await?;
                        deadline = self.core.deadline();
                    }
                    Err(RouteError::Moved) => self.core.router.pause_before(&mut pause, deadline).await?,
                    Err(RouteError::Failed(error)) => return Err(error),
                    Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
                }
                continue 'again;
            }
            return Ok(());
        }
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

/// What all requests that lay intents of a transaction have in common.
struct Laying<'p> {
    plan: &'p Plan,
    primary: Key,
    started: Timestamp,
    round: u64,
    /// One of them was refused: the others need not be sent any more.
    failed: AtomicBool,
    commit: Option<&'p AsyncCommit>,
}

impl Laying<'_> {
    /// The primary's intent names all keys of an asynchronous commit.
    fn all_keys_for(&self, chunk: &Chunk) -> Vec<Key> {
        let holds_primary = chunk.writes.iter().any(|write| write.key == self.primary);
        self.commit.filter(|_| holds_primary).map_or_else(Vec::new, |commit| commit.keys.clone())
    }
}

/// Writes to one shard.
struct Chunk {
    shard: Arc<ShardDescriptor>,
    writes: Vec<pb::Write>,
}

impl Core {
    /// Cuts writes (in key order) into requests.
    async fn chunks(&self, writes: Vec<pb::Write>, deadline: Instant) -> Result<Vec<Chunk>, Error> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut bytes = 0;
        for write in writes {
            let size = write.key.len() + write.value.as_ref().map_or(0, |value| value.len());
            bytes += size;
            if let Some(chunk) = chunks.last_mut()
                && chunk.shard.range.contains(&write.key)
                && chunk.writes.len() < PREWRITE_ROWS
                && bytes <= PREWRITE_BYTES
            {
                chunk.writes.push(write);
                continue;
            }
            let last =
                chunks.last().map(|chunk| &chunk.shard).filter(|shard| shard.range.contains(&write.key));
            let shard = match last {
                Some(shard) => shard.clone(),
                None => self.router.route(&write.key, deadline).await?,
            };
            chunks.push(Chunk { shard, writes: vec![write] });
            bytes = size;
        }
        Ok(chunks)
    }

    /// Cleans up after a decided transaction, and lets the locks go that it may still hold. What can't be reached now is settled
    /// by whoever meets it. The record is to be forgotten only if no request of the transaction is under way (`strays.rs`).
    pub(super) async fn finish(
        &self,
        txn: TxnId,
        primary: Key,
        fate: Fate,
        sent: SpanSet,
        held: HashMap<GroupId, Key>,
        forget: bool,
    ) {
        let deadline = self.deadline();
        let ranges = sent.ranges().collect();
        let held = Mutex::new(held);
        let settled = self.settle_and_unlock(txn, fate, ranges, deadline, &held).await;
        // Only now: whoever gets a lock finds the row itself, and no intent.
        self.unlock_in(txn, held.into_inner()).await;
        if let Err(error) = settled {
            tracing::debug!(?txn, %error, "intents of a finished transaction are left to those who meet them");
            return;
        }
        if !forget {
            return;
        }
        let forget = Ask::Forget(pb::Forget { txn: txn_bytes(txn), primary: primary.clone() });
        if let Err(RouteError::Failed(error)) =
            self.router.ask_key(&primary, forget, Repeat::Harmless, self.deadline()).await
        {
            tracing::debug!(?txn, %error, "the record of a finished transaction stays");
        }
    }
}

pub(super) fn write_to_pb(key: &Key, write: &Buffered) -> pb::Write {
    let Buffered { value, absent, since } = write;
    let (key, value) = (key.clone(), value.clone());
    pb::Write { key, value, absent: *absent, unchanged_since: since.0, ..pb::Write::default() }
}

/// The write that sets a fence in `shard`.
fn fence_write(
    shard: &ShardDescriptor,
    prefix: &Key,
    version: Option<u64>,
    planned_at: Option<Timestamp>,
) -> pb::Write {
    pb::Write {
        key: keys::fence(&shard.range.start, prefix),
        value: version.map(|version| shard::encode_fence(prefix, version)),
        absent: false,
        fence_of: prefix.clone(),
        // Two schema changes of one table: the first one wins.
        unchanged_since: planned_at.map_or(0, |at| at.0),
    }
}
