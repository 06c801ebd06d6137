//! Commands: what a shard's leader does with a request. One command, one file.
//!
//! Every command goes the same way:
//!
//! ```text
//!   read:   wait for latches ──▶ snapshot ──▶ descriptor ──▶ evaluate ──▶ lease ──▶ answer
//!   write:  take latches ──▶ snapshot ──▶ descriptor ──▶ evaluate ──▶ draw the commit timestamp (a commit)
//!                ──▶ propose the effects in the leader's term ──▶ applied ──▶ release ──▶ answer
//! ```
//!
//! Rules that keep it correct:
//!
//! * **The descriptor is looked at after the snapshot** ([`Context::view`]): see the invariant on
//!   [`Shard`](crate::shard::Shard).
//! * **The lease is looked at after the snapshot** ([`Context::confirm`]): a process that slept in between must not
//!   answer from the past.
//! * **Whatever is proposed is latched**, from before the evaluation until it is applied, even if the caller has gone
//!   ([`Context::propose`]): other evaluations would miss it, and a split would overtake it. When the fate of a proposal
//!   is unknown, the latches stay until a later entry of the same term proves that it was applied or can't be any more.
//! * **A commit timestamp is drawn under the latches.** So it is above every timestamp at which the written keys have
//!   been read, and above every commit that was acknowledged before any such read began.

mod advisory;
mod clear;
mod close;
mod collect;
mod commit;
mod decide;
mod forget;
mod halve;
mod heartbeat;
mod intents;
#[cfg(test)]
mod interleaving;
mod lock;
pub(crate) mod merge;
mod outcome;
pub(crate) mod past;
mod prewrite;
mod probe;
mod push;
mod read;
mod replicas;
mod resolve;
mod rules;
mod scan;
mod split;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use raft::{Group, ProposeError};
use storage::ids::{KeyRange, NodeId, Timestamp, TxnId};
use storage::sabotage::{self, Sabotage};
use storage::{Snapshot, mvcc};
use tokio::sync::oneshot;

use crate::descriptor::ShardDescriptor;
use crate::latch::{Guard, Mode, Span};
use crate::server::ShardServer;
use crate::shard::{Leadership, Shard};
use crate::{Error, keys};

pub use decide::ended;
pub use rules::Fates;

/// How large a page gets, whatever was asked for.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Why a leader does not do what was asked.
#[derive(Debug)]
pub enum Refusal {
    /// This replica does not lead. Nothing was done.
    NotLeader(Option<NodeId>),
    /// The request doesn't lie in this shard (any more).
    WrongShard,
    /// Others' intents are in the way.
    Blocked {
        /// Which.
        intents: Vec<pb::MetIntent>,
        /// They lie in what was read, not under what is to be written.
        in_reads: bool,
    },
    /// The commit timestamp is too low.
    Pushed,
    /// Anything else.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Refusal::Failed(error.into())
    }
}

/// The answer to a request, or why there is none.
pub type Outcome = Result<Answer, Refusal>;

/// A request being evaluated at the leader.
pub struct Context<'a> {
    /// The server.
    pub server: &'a ShardServer,
    /// The replica.
    pub shard: Arc<Shard>,
    /// Its group.
    pub group: Arc<Group>,
    /// This term of leading.
    pub leadership: Arc<Leadership>,
    /// The shard as it was when the request came.
    pub descriptor: Arc<ShardDescriptor>,
    /// The epoch that the sender knows.
    pub epoch: u64,
    /// When the sender gives up.
    pub deadline: Instant,
}

/// The state of a shard at one moment.
pub struct View {
    /// The state.
    pub snapshot: Snapshot,
}

impl Context<'_> {
    /// Evaluates a request.
    pub async fn evaluate(&self, ask: Ask) -> Outcome {
        match ask {
            Ask::Read(r) => read::read(self, r).await,
            Ask::Scan(r) => scan::scan(self, r).await,
            Ask::Commit(r) => commit::commit(self, r).await,
            Ask::Prewrite(r) => prewrite::prewrite(self, r).await,
            Ask::Validate(r) => validate::validate(self, r).await,
            Ask::CommitPrimary(r) => decide::commit_primary(self, r).await,
            Ask::Push(r) => push::push(self, r).await,
            Ask::Resolve(r) => resolve::resolve(self, r).await,
            Ask::Heartbeat(r) => heartbeat::heartbeat(self, r).await,
            Ask::Forget(r) => forget::forget(self, r).await,
            Ask::Split(r) => split::split(self, r).await,
            Ask::Clear(r) => clear::clear(self, r).await,
            Ask::SetReplicas(r) => replicas::set_replicas(self, r).await,
            Ask::Outcome(r) => outcome::outcome(self, r).await,
            Ask::LockRows(r) => lock::lock_rows(self, r).await,
            Ask::Unlock(r) => lock::unlock(self, r),
            Ask::KeepLocks(r) => lock::keep_locks(self, r),
            Ask::ListLocks(r) => lock::list_locks(self, r).await,
            Ask::Probe(r) => probe::probe(self, r).await,
            Ask::Collect(r) => collect::collect(self, r).await,
            Ask::Halve(r) => halve::halve(self, r).await,
            Ask::Freeze(r) => merge::freeze(self, r).await,
            Ask::Absorb(r) => merge::absorb(self, r).await,
            Ask::Abandon(r) => merge::abandon(self, r).await,
            Ask::Thaw(r) => merge::thaw(self, r).await,
            Ask::Close(r) => close::close(self, r).await,
            Ask::LockAdvisory(r) => advisory::lock(self, r).await,
            Ask::UnlockAdvisory(r) => advisory::unlock(self, r).await,
            Ask::KeepAdvisory(r) => advisory::keep(self, r).await,
            Ask::AssertAdvisory(r) => advisory::assert(self, r).await,
            Ask::Describe(_) => Err(Error::Invalid("a shard knows no sessions".to_owned()).into()),
        }
    }

    /// The state as of now. Refuses if the shard has changed its shape since the request came.
    pub fn view(&self) -> Result<View, Refusal> {
        let snapshot = self.shard.engine().snapshot();
        match self.shard.descriptor() {
            Some(now) if now.epoch == self.descriptor.epoch => Ok(View { snapshot }),
            _ => Err(Refusal::WrongShard),
        }
    }

    /// Who committed at a timestamp, as far as this replica remembers.
    pub fn writer(&self, at: Timestamp) -> Option<TxnId> {
        self.shard.recent().lock().writer(at)
    }

    /// Names the rival of a conflict, if this replica remembers whose the newest version of the key is.
    pub fn with_rival(&self, snapshot: &Snapshot, refusal: Refusal) -> Refusal {
        let Refusal::Failed(Error::Conflict { key, rival: None }) = refusal else { return refusal };
        let newest = mvcc::PointReader::new(snapshot).get_with(&key, Timestamp::MAX, |when, _| when);
        // (What can't be read now is not worth another error.)
        let rival = newest.ok().flatten().and_then(|when| self.writer(when));
        Refusal::Failed(Error::Conflict { key, rival })
    }

    /// Takes latches.
    pub async fn latch(&self, spans: Vec<(Span, Mode)>) -> Guard {
        self.leadership.latches.acquire(spans).await
    }

    /// Makes sure that nobody else has led since before the snapshot was taken.
    pub async fn confirm(&self) -> Result<(), Refusal> {
        let term = self.leadership.term;
        if self.shard.leadership().is_some_and(|now| !Arc::ptr_eq(&now, &self.leadership)) {
            // The shard has grown meanwhile: what this one remembers counts no more.
            return Err(Refusal::WrongShard);
        }
        let trusted = sabotage::is(Sabotage::TrustLease) && !self.group.reads_by_quorum();
        if self.group.lease(term).is_ok() || trusted {
            return Ok(());
        }
        // A fresh leader has no lease yet, and one whose followers are slow has lost it without having lost the lead.
        let confirmed = self.group.confirm_quorum(term).await;
        confirmed.map_err(|e| Refusal::NotLeader(e.leader.map(|l| l.node)))
    }

    /// Refuses what was read at `at`, if versions that it needs may have been collected. (Timestamp 0: nothing was read.)
    /// To be called after the snapshot was taken: see the invariant on [`Shard`](crate::shard::Shard).
    pub fn must_reach(&self, at: Timestamp) -> Result<(), Refusal> {
        let safe_point = self.shard.safe_point();
        match at != Timestamp::ZERO && at < safe_point {
            true => Err(Error::SnapshotTooOld { at, safe_point }.into()),
            false => Ok(()),
        }
    }

    /// Like [`Context::must_reach`], for the conditions of writes.
    pub fn writes_must_reach(&self, writes: &[pb::Write]) -> Result<(), Refusal> {
        writes.iter().try_for_each(|write| self.must_reach(Timestamp(write.unchanged_since)))
    }

    /// Replicates effects, and holds the latches until they are applied or never will be.
    pub async fn propose(&self, guard: impl Send + 'static, effect: Effect) -> Result<(), Refusal> {
        self.propose_for_answer(guard, effect).await.map(|_| ())
    }

    /// Like [`Context::propose`], with what applying answered.
    pub async fn propose_for_answer(
        &self,
        guard: impl Send + 'static,
        effect: Effect,
    ) -> Result<Bytes, Refusal> {
        // While the guard is held: what it covers is drawn above all that can be closed by now, and so may come after it.
        let closed = self.leadership.closing.with_effects();
        self.propose_command(guard, pb::Command { effect: Some(effect), closed: closed.0 }).await
    }

    /// Replicates that a timestamp is closed, and nothing else. No latch waits for what becomes of it, and it may be given up.
    pub async fn propose_closed(&self, at: Timestamp) -> Result<(), Refusal> {
        let command = pb::Command { effect: None, closed: at.0 }.encode_to_vec();
        let proposed = self.group.propose(self.leadership.term, command.into()).await;
        proposed.map(|_| ()).map_err(refusal)
    }

    async fn propose_command(
        &self,
        guard: impl Send + 'static,
        command: pb::Command,
    ) -> Result<Bytes, Refusal> {
        let seams = self.server.seams();
        if seams.clock.now() >= self.deadline {
            return Err(Error::Unavailable("the request came too late to be evaluated".to_owned()).into());
        }
        let command = Bytes::from(command.encode_to_vec());
        let (sender, receiver) = oneshot::channel();
        let (group, term) = (self.group.clone(), self.leadership.term);
        let barrier_seams = seams.clone();
        // A task of its own: when the caller goes away, the proposal doesn't, and neither may the latches.
        seams.spawn("propose", async move {
            let result = group.propose(term, command).await;
            let unknown = matches!(result, Err(ProposeError::Ambiguous(_)));
            // The caller may be gone.
            let _ = sender.send(result);
            if unknown {
                until_known(&group, term, &barrier_seams).await;
            }
            drop(guard);
        });
        match receiver.await {
            Ok(proposed) => proposed.map_err(refusal),
            Err(_) => Err(Error::Ambiguous("the node is shutting down".to_owned()).into()),
        }
    }

    /// Whether all of `range` lies in this shard.
    pub fn must_hold(&self, range: &KeyRange) -> Result<(), Refusal> {
        match self.descriptor.range.contains_range(range) {
            true => Ok(()),
            false => Err(Refusal::WrongShard),
        }
    }

    /// Whether a key lies in this shard.
    pub fn must_hold_key(&self, key: &[u8]) -> Result<(), Refusal> {
        match self.descriptor.range.contains(key) {
            true => Ok(()),
            false => Err(Refusal::WrongShard),
        }
    }

    /// The fences among `fences` that concern this shard, with the keys they are kept under here.
    pub fn fences<'f>(&self, fences: &'f [pb::Fence]) -> Vec<(Bytes, &'f pb::Fence)> {
        fences_in(&self.descriptor.range, fences)
    }

    /// Intents of asynchronous commits that stand in the way of fences among `writes`.
    pub fn in_the_way_of_fences(&self, view: &View, own: TxnId, writes: &[pb::Write]) -> Result<(), Refusal> {
        for write in writes.iter().filter(|write| !write.fence_of.is_empty()) {
            let Some(range) = KeyRange::prefix(&write.fence_of).intersection(&self.descriptor.range) else {
                continue;
            };
            let intents = rules::others_intents(&view.snapshot, own, &range, true)?;
            if !intents.is_empty() {
                return Err(Refusal::Blocked { intents, in_reads: false });
            }
        }
        Ok(())
    }
}

fn refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader(e) => Refusal::NotLeader(e.leader.map(|l| l.node)),
        ProposeError::Ambiguous(why) => Error::Ambiguous(why).into(),
        ProposeError::Overloaded | ProposeError::Stopped(_) => Error::Unavailable(error.to_string()).into(),
        ProposeError::TooLarge { .. } => Error::TooLarge(error.to_string()).into(),
    }
}

/// The fences among `fences` that concern a shard, with the keys they are kept under there.
pub fn fences_in<'f>(range: &KeyRange, fences: &'f [pb::Fence]) -> Vec<(Bytes, &'f pb::Fence)> {
    let concerned = fences.iter().filter(|f| KeyRange::prefix(&f.prefix).overlaps(range));
    concerned.map(|f| (keys::fence(&range.start, &f.prefix), f)).collect()
}

/// A key that looks like a row's but is the fence of a table that reaches into the shard from before it.
pub fn is_inner_fence(range: &KeyRange, key: &[u8]) -> bool {
    key.split_last().is_some_and(|(last, rest)| *last == 0 && rest == &range.start[..])
}

/// Returns when no earlier proposal of this term can be applied unnoticed any more: a later entry of the same term
/// is applied (so the earlier one was, if it is in the log), or the term is over (and with it everything that was
/// evaluated under its latches). A leader that is handing over refuses, too; but its term goes on until somebody else leads, or if nobody does.
async fn until_known(group: &Group, term: storage::ids::Term, seams: &storage::seam::Seams) {
    loop {
        match group.propose(term, Bytes::new()).await {
            Ok(_) | Err(ProposeError::Stopped(_)) => return,
            Err(ProposeError::NotLeader(_)) if group.leads() != Some(term) => return,
            Err(_) => seams.sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}
