//! Laying intents, before the commit or for it: in which shards, in what pieces, and past others who are in the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp};

use super::async_commit::AsyncCommit;
use super::buffer::{Buffered, Writes};
use super::commit::Plan;
use super::core::{Core, fences_to_pb, unexpected};
use super::txn::Txn;
use crate::api::Key;
use crate::descriptor::ShardDescriptor;
use crate::router::{Repeat, RouteError};
use crate::wire::txn_bytes;
use crate::{Error, LockMode, keys, shard};

/// Writes in one request that lays intents.
const PREWRITE_ROWS: usize = 4096;
/// … and their bytes.
const PREWRITE_BYTES: usize = 1 << 20;
/// Such requests of one transaction under way at once.
const PREWRITE_PARALLEL: usize = 4;
/// Single keys remembered of what one request laid; past that the range from first to last.
const SENT_KEYS_MAX: usize = 64;
/// When one of the requests that lay intents has failed, how long the answers to the others are waited for.
const DRAIN_MAX: Duration = Duration::from_millis(500);

impl Txn {
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
    pub(super) async fn lay_intents(&self, plan: &Plan, writes: Vec<pb::Write>) -> Result<(), Error> {
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
    pub(super) async fn lay_fence(
        &self,
        plan: &Plan,
        prefix: &Key,
        version: Option<u64>,
    ) -> Result<(), Error> {
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
}

pub(super) fn write_to_pb(key: &Key, write: &Buffered) -> pb::Write {
    let Buffered { value, absent, since } = write;
    let (key, value) = (key.clone(), value.clone());
    pb::Write { key, value, absent: *absent, unchanged_since: since.0, ..pb::Write::default() }
}

/// The write that sets a fence in `shard`.
pub(super) fn fence_write(
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
