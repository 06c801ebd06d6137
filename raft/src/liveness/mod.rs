//! Who lives: one heartbeat per pair of nodes.
//!
//! Each node sends a *pulse* to every node that it has a link to, ten times a second, on that link, whatever the groups
//! have to say. What comes of it:
//!
//! ```text
//!                     pulse, 100 ms                       what it tells
//!   node a ═══════════════════════════════▶ node b        b: a lives, and hears somebody
//!          ◀═══════════════════════════════               a: b is reachable, there and back
//!                     answer
//!
//!   no pulse that was answered for 550 ms  ─▶ *silent*:      its groups elect at once       (succession)
//!   no answer for 550 ms                   ─▶ *unreachable*: requests to it fail at once    (Reach)
//!   no answer for 350 ms from a majority   ─▶ *mute*:        a leader stops talking         (here)
//! ```
//!
//! # Why so
//!
//! - *Elections begin when the lease ends*, not a random time later. openraft's own timers wait for a lease and then for
//!   300 to 550 ms more, so that elections don't collide. Here whoever misses the leader's node has its groups elect in
//!   an order that the voters agree upon, each after a moment of its own; openraft's timers are the fallback.
//! - *A leader that nobody answers must fall silent*, or its heartbeats, which reach the others, keep them from electing
//!   (a one-way partition). openraft notices when the lease is over; here it is noticed when three pulses were missed, and
//!   nothing of such a group is sent until somebody answers. A pulse says whether its sender was
//!   answered lately; one that says no is no sign of life.
//! - *Requests to a node that doesn't answer* are not waited for: whoever sent them asks the next one. TCP would take a second
//!   to notice, and never notices a one-way partition.
//!
//! A node that stops says so, after its replicas have stopped, and is at once both silent and unreachable.
//!
//! # What must never happen
//!
//! Safety rests upon none of this. A node that is wrongly held for silent causes a pre-vote, which the others refuse as long as their
//! lease lasts; one that is wrongly held for unreachable is asked a little later. So the limits may be short, and a
//! process that has slept itself ([`Liveness::look`]) forgives the others their silence.

mod beat;
mod reach;
mod said;
mod succession;
#[cfg(test)]
mod tests;

pub(crate) use beat::{answer, beat, farewell, watch};
pub use reach::Reach;
pub(crate) use succession::turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use storage::ids::{GroupId, NodeId};
use storage::seam::Beat;
use tokio::sync::{Notify, watch};

use said::Said;

/// How often silence is looked for at least: by that it is known whether this process has slept. When a limit is over
/// ([`Liveness::due_in`]), and when somebody takes his leave, it is looked for at once.
pub(crate) const LOOK_EVERY: Duration = Beat::EVERY;
/// A look that comes so much too late: this process has slept, or had no processor.
const SLEPT: Duration = Duration::from_millis(150);

/// A node that was sent pulses for so long, has answered none of them, and has never been heard, is missed like one that has fallen silent.
/// (Nodes of a cluster that starts come one after the other.)
const NEVER_HEARD: Duration = Duration::from_secs(10);

/// How long is too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For groups led by a node that is not heard.
    pub silent: Duration,
    /// For requests to a node that doesn't answer.
    pub unreachable: Duration,
    /// For a leader whose followers don't answer.
    pub mute: Duration,
}

/// What is known of another node.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Since when it is sent pulses.
    asked: Instant,
    /// When the last pulse was sent that it answered.
    answered: Option<Instant>,
    /// When its last pulse came that said that it was answered itself.
    heard: Option<Instant>,
    /// It said that it stops, and has not been heard since.
    left: bool,
}

impl Peer {
    fn new(asked: Instant) -> Self {
        Self { asked, answered: None, heard: None, left: false }
    }
}

/// What a look has found to be new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Nodes that have fallen silent since the last one.
    pub silent: Vec<NodeId>,
    /// Who answers is not the same any more.
    pub answers_changed: bool,
}

/// The others, as this node sees them. Decides; the tasks in [`beat`] act.
pub(crate) struct Liveness {
    /// Of this process.
    pub incarnation: u64,
    limits: Limits,
    inner: Mutex<Inner>,
    unreachable: watch::Sender<Arc<BTreeSet<NodeId>>>,
    /// Somebody has taken his leave.
    parted: Notify,
    /// This node has said that it stops, and says nothing after that.
    gone: AtomicBool,
    /// Groups that this node leads without an answer from a majority: nothing of theirs is sent.
    mute: RwLock<BTreeSet<GroupId>>,
    /// Nodes, this one among them, whose disk stalls: see [`crate::stall`].
    stalled: Said,
    /// … where a replica applies nothing: see [`crate::progress`].
    stuck: Said,
    /// … where one lacks much of what is committed.
    behind: Said,
}

struct Inner {
    peers: BTreeMap<NodeId, Peer>,
    silent: BTreeSet<NodeId>,
    deaf: BTreeSet<NodeId>,
    looked: Instant,
    /// Silence before this doesn't count: this process did not run.
    awake: Instant,
}

impl Inner {
    /// Whether a node is not there, as of the last look.
    fn misses(&self, node: NodeId) -> bool {
        let never = |peer: &Peer| {
            let since = peer.answered.unwrap_or(peer.asked).max(self.awake);
            peer.heard.is_none() && self.looked.saturating_duration_since(since) >= NEVER_HEARD
        };
        self.silent.contains(&node) || self.peers.get(&node).is_some_and(never)
    }
}

impl Liveness {
    pub fn new(incarnation: u64, limits: Limits, now: Instant) -> Self {
        let (peers, silent, deaf) = Default::default();
        Self {
            incarnation,
            limits,
            inner: Mutex::new(Inner { peers, silent, deaf, looked: now, awake: now }),
            unreachable: watch::Sender::new(Arc::default()),
            parted: Notify::new(),
            gone: AtomicBool::new(false),
            mute: RwLock::default(),
            stalled: Said::default(),
            stuck: Said::default(),
            behind: Said::default(),
        }
    }

    /// A pulse is sent to a node; whether it may say that this node is answered.
    pub fn asking(&self, node: NodeId, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        let peer = inner.peers.entry(node).or_insert_with(|| Peer::new(now));
        peer.answered.is_some_and(|at| now.saturating_duration_since(at) < self.limits.mute)
    }

    /// A node has answered the pulse that was sent at `sent`.
    pub fn answered(&self, node: NodeId, sent: Instant) {
        if let Some(peer) = self.inner.lock().peers.get_mut(&node) {
            peer.answered = Some(peer.answered.map_or(sent, |at| at.max(sent)));
        }
    }

    /// This node stops.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Whether it has said that it does.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// A node has said that it stops.
    pub fn left(&self, node: NodeId) {
        if let Some(peer) = self.inner.lock().peers.get_mut(&node) {
            peer.left = true;
            self.parted.notify_one();
        }
    }

    /// Completes when a node has said so.
    pub async fn parted(&self) {
        self.parted.notified().await;
    }

    /// A node's pulse has come.
    pub fn heard(&self, node: NodeId, answered: bool, now: Instant) {
        if !answered {
            return;
        }
        let mut inner = self.inner.lock();
        let peer = inner.peers.entry(node).or_insert_with(|| Peer::new(now));
        peer.heard = Some(now);
        peer.left = false;
        inner.silent.remove(&node);
    }

    /// Whether a node that was heard before is heard no more.
    pub fn is_silent(&self, node: NodeId) -> bool {
        self.inner.lock().silent.contains(&node)
    }

    /// Whether a node lives, as far as is known: it was heard, and still is.
    pub fn is_heard(&self, node: NodeId) -> bool {
        let inner = self.inner.lock();
        inner.peers.get(&node).is_some_and(|peer| peer.heard.is_some()) && !inner.silent.contains(&node)
    }

    /// Whether a node is heard no more; or never was, and does not answer, though it was asked for long. (Who has nothing to say to this node
    /// sends no pulses either, and answers.)
    pub fn is_missed(&self, node: NodeId) -> bool {
        self.inner.lock().misses(node)
    }

    /// Whether a node is heard, or answers.
    pub fn is_there(&self, node: NodeId) -> bool {
        let inner = self.inner.lock();
        let answers = |peer: &Peer| peer.heard.is_some() || peer.answered.is_some();
        inner.peers.get(&node).is_some_and(answers) && !inner.misses(node) && !inner.deaf.contains(&node)
    }

    /// Whether that is so of any.
    pub fn misses_anyone(&self) -> bool {
        let inner = self.inner.lock();
        inner.peers.keys().any(|node| inner.misses(*node))
    }

    /// Whether a majority of each of these sets of voters' nodes has answered lately: while members are being changed there are two, and
    /// nothing is committed without both. This node answers itself.
    pub fn is_answered(&self, me: NodeId, quorums: &[Vec<NodeId>]) -> bool {
        let inner = self.inner.lock();
        let is_answered = |voters: &Vec<NodeId>| {
            let deaf = voters.iter().filter(|node| **node != me && inner.deaf.contains(node)).count();
            2 * (voters.len() - deaf) > voters.len()
        };
        !quorums.is_empty() && quorums.iter().all(is_answered)
    }

    /// How long it is until another limit of somebody's is over, if nothing is heard of him until then. `None`: none can be.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        let unreachable = self.unreachable.borrow().clone();
        let inner = self.inner.lock();
        let left = |limit: Duration, at: Instant| {
            limit.saturating_sub(now.saturating_duration_since(at.max(inner.awake)))
        };
        let dues = inner.peers.iter().flat_map(|(node, peer)| {
            let heard = peer.heard.filter(|_| !inner.silent.contains(node));
            let answered = peer.answered.filter(|_| !unreachable.contains(node));
            let asked = (!inner.deaf.contains(node)).then_some(peer.answered.unwrap_or(peer.asked));
            let silent = heard.map(|at| left(self.limits.silent, at));
            let lost = answered.map(|at| left(self.limits.unreachable, at));
            let mute = asked.map(|at| left(self.limits.mute, at));
            [silent, lost, mute].into_iter().flatten()
        });
        dues.min()
    }

    /// Looks at the clock.
    pub fn look(&self, now: Instant) -> News {
        let mut news = News::default();
        let mut inner = self.inner.lock();
        let Inner { peers, silent, deaf, looked, awake } = &mut *inner;
        if now.saturating_duration_since(*looked) > LOOK_EVERY + SLEPT {
            *awake = now;
        }
        *looked = now;
        let since = |at: Instant| now.saturating_duration_since(at.max(*awake));
        let mut unreachable = BTreeSet::new();
        for (node, peer) in &*peers {
            let overdue = peer.left || peer.heard.is_some_and(|at| since(at) >= self.limits.silent);
            if overdue && silent.insert(*node) {
                news.silent.push(*node);
            }
            // Of one that has never answered nothing is known: it may be starting.
            if peer.left || peer.answered.is_some_and(|at| since(at) >= self.limits.unreachable) {
                unreachable.insert(*node);
            }
            news.answers_changed |= match since(peer.answered.unwrap_or(peer.asked)) >= self.limits.mute {
                true => deaf.insert(*node),
                false => deaf.remove(node),
            };
        }
        drop(inner);
        self.unreachable.send_if_modified(|known| {
            let changed = **known != unreachable;
            if changed {
                *known = Arc::new(unreachable);
            }
            changed
        });
        news
    }

    /// A node has said whether its disk stalls; true if that is new.
    pub fn set_stalled(&self, node: NodeId, stalled: bool) -> bool {
        self.stalled.set(node, stalled)
    }

    /// Whether a node's disk stalls, as far as is known: it should not lead.
    pub fn is_stalled(&self, node: NodeId) -> bool {
        self.stalled.is_said_by(node)
    }

    /// A node has said whether a replica there applies nothing.
    pub fn set_stuck(&self, node: NodeId, stuck: bool) {
        self.stuck.set(node, stuck);
    }

    /// Whether a replica of a node applies nothing of what it should, as far as is known.
    pub fn is_stuck(&self, node: NodeId) -> bool {
        self.stuck.is_said_by(node)
    }

    /// A node has said whether a replica there lacks much; true if that is new.
    pub fn set_behind(&self, node: NodeId, behind: bool) -> bool {
        self.behind.set(node, behind)
    }

    /// Whether a voter on a node lacks much of what is committed, as far as is known: it should be handed nothing that others lead.
    pub fn is_behind(&self, node: NodeId) -> bool {
        self.behind.is_said_by(node)
    }

    /// Whether a node lives, and could lead, as far as is known.
    pub fn is_well(&self, node: NodeId) -> bool {
        self.is_heard(node) && !self.is_stalled(node) && !self.is_stuck(node)
    }

    /// Says whether anything of a group may be sent; true if that is new.
    pub fn set_mute(&self, group: GroupId, mute: bool) -> bool {
        if !mute && self.mute.read().is_empty() {
            return false;
        }
        let mut groups = self.mute.write();
        if mute { groups.insert(group) } else { groups.remove(&group) }
    }

    /// Whether nothing of a group may be sent.
    pub fn is_mute(&self, group: GroupId) -> bool {
        let groups = self.mute.read();
        !groups.is_empty() && groups.contains(&group)
    }

    /// Forgets groups that this node has no more.
    pub fn retain_mute(&self, exists: impl Fn(GroupId) -> bool) {
        self.mute.write().retain(|group| exists(*group));
    }

    /// No group is mute.
    pub fn all_speak(&self) -> bool {
        self.mute.read().is_empty()
    }

    pub(crate) fn unreachable(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>> {
        self.unreachable.subscribe()
    }
}
