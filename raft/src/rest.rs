//! Groups at rest: what has no work sends nothing, ticks nothing, and takes next to no memory.
//!
//! ```text
//!            nobody has asked for a while, all have the whole log
//!   leads ───────────────────────────────────────────────────────▶ at rest: "ask here first" (its home)
//!     ▲                                                               │
//!     │  1. its lease ends: the role is no leader's any more          │  a request
//!     │  2. openraft's instance goes                                  │
//!     │  3. the others are told: `Rest`, with vote and last entry     ▼
//!     └───────────────────────────────────────────────────── stands for election
//!
//!   follows ──────────────── `Rest`, and vote and log agree ──────▶ at rest
//!     ▲                                                               │
//!     └────────────────────────── any message ────────────────────────┘
//! ```
//!
//! A replica at rest is one whose openraft instance was dropped: all that the instance knew is in the log. Its [`Group`], its
//! state machine and its place in the tables of this node stay. Waking makes the instance anew, as a start of the
//! process does, in about a millisecond; a leader then costs an election, some ten milliseconds with their fsyncs.
//!
//! # Why this is safe
//!
//! A replica at rest has forgotten which lease it has granted. So nobody may rely on one by then:
//!
//! 1. The leader's lease ends before anybody is told ([`Group::lease`] looks at the role last), and a leader whose
//!    instance is gone never leads again in that term: restoring leadership is off.
//! 2. A follower rests only if its vote is still the one that the leader had: it has granted nothing to anybody else since.
//!    A `Rest` that comes late finds another vote, or a replica at rest already, or one whose leader of that term is gone.
//! 3. Whether the vote is still that one is known for certain only when the instance has ended. If it then is another one, the
//!    replica may have granted a lease which it now forgets: it neither votes nor stands for election until that must be over,
//!    as after a start of the process ([`Group::is_gated`]). Nor does a group that was at rest when the process started.
//!
//! Everything else is liveness. A `Rest` that is lost leaves a follower awake: it misses its leader, stands for election, leads,
//! and lays the group to rest again later.
//!
//! # Who wakes
//!
//! - Whoever has work for the leader: [`Group::rouse`], at the group's home; elsewhere if the home is silent.
//! - Any message of another replica.
//! - A home that was left by a replica which lacks entries, when that one's node answers again; and a home whose process was
//!   restarted, for it doesn't know whether one does.
//! - The owner of the state machine, when it has work of its own (the collection of garbage).
//!
//! The death of the home's node wakes nobody: another one is the home then (`home.rs`). But for a member whose process was restarted: it
//! doesn't know who lacks entries, and wakes the group when it misses the home.
//!
//! How many may be awake at a time is bounded, whoever wakes them: `room.rs`.
//!
//! A group rests only if its state machine agrees ([`crate::StateMachine::may_rest`]). The meta-group never does.

mod home;
mod lay;
mod renew;
mod roll;
mod room;

pub(crate) use roll::{Roll, run};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use storage::ids::{LogIndex, NodeId, ReplicaId, Term};
use tokio::sync::oneshot;

use crate::api::{GroupStatus, Peer, Role};
use crate::core::Core;
use crate::group::Group;
use crate::state_machine::{Position, Shared};
use crate::types::Vote;

/// How often whoever waits for a group that may not vote yet looks whether it may.
const GATE_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a group does not wake.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NotAwake {
    /// The replica has stopped.
    #[error("{0}")]
    Stopped(Arc<str>),
    /// Later it may.
    #[error("too many groups are awake on this node")]
    Crowded,
}

/// What a replica keeps while it rests.
#[derive(Clone, Debug)]
pub(crate) struct Rested {
    status: GroupStatus,
    /// Members that lack entries, or may: the home sees to it that they get them when they answer again.
    owed: BTreeSet<NodeId>,
    /// The vote of the leader that laid the group to rest, and whose whole log is applied here. `None`: no leader of this process's time has.
    vote: Option<Vote>,
}

impl Rested {
    /// A replica that this process has not woken yet.
    pub fn opened(shared: &Shared, position: &Position, vote: Option<Vote>) -> Self {
        let stored = position.membership.membership();
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let node = |(replica, host): (&u64, &crate::types::Host)| (ReplicaId(*replica), NodeId(host.0));
        let (members, learners) = stored.nodes().map(node).partition(|(id, _)| voters.contains(&id.0));
        let leader = vote.filter(|vote| vote.is_committed()).map(|vote| vote.leader_id().voted_for);
        let last = position.last.map(|id| LogIndex(id.index));
        let status = GroupStatus {
            group: shared.group,
            replica: shared.replica,
            role: Role::Follower { leader: None },
            term: Term(vote.map_or(0, |vote| vote.leader_id().term)),
            leader: leader.and_then(|id| crate::group::peer(&position.membership, id)),
            last,
            committed: last,
            applied: last,
            flushed: last,
            purged: None,
            members,
            learners,
            joint: stored.get_joint_config().len() > 1,
            progress: Default::default(),
            rests: true,
        };
        let mut opened = Self { status, owed: BTreeSet::new(), vote: None };
        // (The others' homes know who lacks entries. Whoever is to stand in for one doesn't: see `is_unsure`.)
        if opened.leader_elsewhere().is_none() {
            let GroupStatus { members, learners, .. } = &opened.status;
            opened.owed = members.values().chain(learners.values()).copied().collect();
        }
        opened
    }

    /// The leader, if it is another replica.
    pub fn leader_elsewhere(&self) -> Option<Peer> {
        self.status.leader.filter(|leader| leader.replica != self.status.replica)
    }

    /// Members may lack entries, and whoever is at home is to see to it.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Nobody has said, since this process began, who lacks entries: it does not stand in for its home, but wakes the group.
    pub fn is_unsure(&self) -> bool {
        self.vote.is_none() && self.leader_elsewhere().is_some()
    }
}

/// What lives only while a group is awake, and what is kept while it rests.
pub(crate) struct Rest {
    core: RwLock<Option<Arc<Core>>>,
    /// Instances are made and dropped one at a time.
    turn: tokio::sync::Mutex<()>,
    /// What an instance has to say of its replica's role counts only as long as it is this one.
    publishing: Mutex<()>,
    rested: Mutex<Rested>,
    /// Since the last look.
    used: AtomicBool,
    /// Looks that found nobody to have used it.
    idle: AtomicU32,
    /// Attempts to lay it to rest that have failed since it was used.
    refused: AtomicU32,
}

impl Rest {
    pub fn new(rested: Rested) -> Self {
        Self {
            core: RwLock::default(),
            turn: tokio::sync::Mutex::new(()),
            publishing: Mutex::new(()),
            rested: Mutex::new(rested),
            used: AtomicBool::new(true),
            idle: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        }
    }

    /// Somebody needs the group.
    pub fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Nobody has used it for ever, unless somebody does from now on.
    fn hurry(&self) {
        self.used.store(false, Ordering::Relaxed);
        self.idle.store(u32::MAX / 2, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
    }

    /// The vote of the leader that laid the group to rest, and who votes, if it rests at this moment: no instance is there, nor in the making.
    pub fn vouched(&self) -> Option<(Vote, BTreeMap<ReplicaId, NodeId>)> {
        let _turn = self.turn.try_lock().ok()?;
        if self.core.read().is_some() {
            return None;
        }
        let rested = self.rested.lock();
        let members = (!rested.status.joint).then(|| rested.status.members.clone())?;
        rested.vote.map(|vote| (vote, members))
    }

    /// It can't be laid to rest: others first. If there are too many awake, also others that were used later.
    fn defer(&self, too_many: bool) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if too_many {
            self.idle.store(0, Ordering::Relaxed);
        }
    }

    /// How often it couldn't be laid to rest.
    fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    /// For how many looks nobody has used it, as of the last one; none if somebody has since.
    fn idle(&self) -> u32 {
        if self.used.load(Ordering::Relaxed) { 0 } else { self.idle.load(Ordering::Relaxed) }
    }

    /// For how many looks nobody has used it.
    fn look(&self) -> u32 {
        if self.used.swap(false, Ordering::Relaxed) {
            self.idle.store(0, Ordering::Relaxed);
            self.refused.store(0, Ordering::Relaxed);
            return 0;
        }
        self.idle.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Group {
    /// openraft's instance, while the group is awake.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.rest.core.read().clone()
    }

    /// Whether the group rests here.
    pub fn rests(&self) -> bool {
        self.rest.core.read().is_none()
    }

    /// Somebody needs the group: it is not to be laid to rest for a while.
    pub fn touch(&self) {
        self.rest.touch();
    }

    /// Nobody needs the group: it was woken to be led by another member, or for something that is done. It is laid to rest as soon as it
    /// can be, unless somebody asks for it from now on.
    pub fn hurry_to_rest(&self) {
        self.rest.hurry();
    }

    pub(crate) fn rested_status(&self) -> GroupStatus {
        let mut status = self.rest.rested.lock().status.clone();
        status.role = self.role().borrow().clone();
        status.flushed = self.shared.flushed_index().map(LogIndex);
        status
    }

    /// Members that may lack entries, as whoever laid the group to rest has told; while it rests.
    pub fn owes(&self) -> BTreeSet<NodeId> {
        self.rest.rested.lock().owed.clone()
    }

    /// The same as [`Group::publish`], by an instance that may have been dropped meanwhile.
    pub(crate) fn publish_of(&self, core: &Arc<Core>, role: Role) {
        let _one = self.rest.publishing.lock();
        if self.core().is_some_and(|current| Arc::ptr_eq(&current, core)) {
            self.publish(role);
        }
    }

    /// openraft's instance; a group at rest wakes, if there is room for it (`room.rs`).
    pub(crate) async fn awake(self: &Arc<Self>) -> Result<Arc<Core>, NotAwake> {
        self.wake_in_a_task(true).await
    }

    /// … by somebody who has found room, or for whom there has to be.
    pub(crate) async fn awake_in_any_case(self: &Arc<Self>) -> Result<Arc<Core>, NotAwake> {
        self.wake_in_a_task(false).await
    }

    async fn wake_in_a_task(self: &Arc<Self>, needs_place: bool) -> Result<Arc<Core>, NotAwake> {
        if let Some(core) = self.core() {
            return Ok(core);
        }
        // In a task of its own: whoever asks may be dropped at any time, and half an instance must not be left behind.
        let (done, woken) = oneshot::channel();
        let group = self.clone();
        self.seams.spawn("raft-wake", async move {
            let _ = done.send(group.wake(needs_place).await);
        });
        woken.await.unwrap_or_else(|_| Err(NotAwake::Stopped("the node is shutting down".into())))
    }

    async fn wake(self: Arc<Self>, needs_place: bool) -> Result<Arc<Core>, NotAwake> {
        let _turn = self.rest.turn.lock().await;
        if let Some(core) = self.core() {
            return Ok(core);
        }
        let _place = match needs_place {
            true => Some(self.place().await.ok_or(NotAwake::Crowded)?),
            false => None,
        };
        self.open_instance().await.map_err(NotAwake::Stopped)
    }

    /// Makes openraft's instance, of which there is none; in its turn.
    async fn open_instance(self: &Arc<Self>) -> Result<Arc<Core>, Arc<str>> {
        if let Some(reason) = self.shared.fault.get() {
            return Err(reason);
        }
        let gated = self.is_gated();
        let core = match self.nursery.open(&self.shared, gated).await {
            Ok(core) => core,
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                self.shared.fault.set(reason.clone());
                self.publish(Role::Stopped { reason: reason.clone() });
                return Err(reason);
            }
        };
        // What another instance did not apply this one has yet to.
        self.set_stuck(false);
        *self.rest.core.write() = Some(core.clone());
        self.nursery.roll.woke(self);
        self.rest.touch();
        // The gate may have been opened meanwhile, or the disk have come to stall, or be well again.
        core.raft.runtime_config().elect(!self.is_gated() && !self.stands_back() && !self.is_stuck());
        metrics::counter!("flotilla_raft_wakes_total").increment(1);
        self.seams.spawn("raft-role", self.clone().watch_role(core.clone()));
        Ok(core)
    }

    /// For whom has work for the group's leader. A group that rests at home here wakes, and leads when this returns, if
    /// nothing is wrong; as does one whose home is silent. Otherwise the home is to be asked, and this replica only gets ready
    /// for what may come of that. Takes `limit` at most.
    ///
    /// False if it rests on, for too many others are awake: try again.
    pub async fn rouse(self: &Arc<Self>, limit: Duration) -> bool {
        // (One that has failed does not wake, whoever waits for it.)
        if !self.rests() || self.shared.fault.get().is_some() {
            return true;
        }
        let home = self.rest.rested.lock().leader_elsewhere();
        let liveness = &self.nursery.hub.liveness;
        let place = self.nursery.roll.enter(self.options.awake_limit);
        if place.is_none() {
            metrics::counter!("flotilla_raft_wakes_refused_total").increment(1);
        }
        if home.is_some_and(|home| liveness.is_heard(home.node) && !self.is_outdone(home.node)) {
            let group = self.clone();
            if let Some(place) = place {
                self.seams.spawn("raft-ready", async move {
                    // One that has failed has said so.
                    let _ = group.awake_in_any_case().await;
                    drop(place);
                    // Whoever noticed meanwhile that the home is missed has found this group at rest.
                    if home.is_some_and(|home| !group.nursery.hub.liveness.is_heard(home.node)) {
                        group.campaign().await;
                    }
                });
            }
            return true;
        }
        if self.stands_back() {
            // Another one is to lead: whoever asks there finds that this node's disk stalls.
            return true;
        }
        let Some(_place) = place else { return false };
        let mut role = self.role();
        let settled = |role: &Role| match role {
            Role::Leader { .. } | Role::Stopped { .. } => true,
            Role::Follower { leader } => leader.is_some() && *leader != home,
        };
        let lead = async {
            let woken = self.awake_in_any_case().await.is_ok();
            while woken && self.is_gated() && !settled(&role.borrow()) {
                self.seams.sleep(GATE_LOOK_EVERY).await;
            }
            self.campaign().await;
            let _ = role.wait_for(settled).await;
        };
        crate::group::within(&self.seams, limit, lead).await;
        true
    }
}
