//! Lanes: what the tasks of many groups have to say to each other stays within one task.
//!
//! On its way an entry is handed from task to task: to openraft's core, to those that send it to the followers, back to the core
//! with their answers and with the end of its write, to the state machine; some fifteen times at the leader and five at each
//! follower. For each, a runtime of several threads wakes a task, and maybe a thread, which looks for it, takes it away, and has
//! nothing in its caches of what it is about. Where entries come in company they share that. An entry that comes alone to its
//! group, while others come alone to theirs, pays for all of it.
//!
//! So openraft's tasks of a group, and those of many groups, are polled by one task of the runtime:
//!
//! ```text
//!   callers, streams from other nodes, the log's writer
//!        │ wake (once, whatever comes meanwhile)
//!        ▼
//!   lane ── core of 7 ─┬─ sender to 2 ── ends of writes ── ticks         a wake in here: a pointer into a queue
//!        ├─ core of 9 ─┴─ …                                              a turn ends when there is nothing more to do
//!        ▼ wake
//!   streams to other nodes: what all groups of a lane have said in one turn goes out as one message
//! ```
//!
//! A group's tasks are all in one lane. Which of openraft's tasks these are, [`crate::runtime`] says.
//!
//! - **Nothing that may take long is in a lane**, for it would hold up all groups of it: neither state machines (one that hangs
//!   must not keep its group's core from handing the leadership over: [`crate::progress`]), nor snapshots, nor reads of the log
//!   from the disk.
//! - **A turn waits for company**, if that takes no time (`lanes/company.rs`).
//! - **A lane is no thread.** It lives on the node's runtime as any task does, moves with it from thread to thread, and takes its
//!   turn after everybody else when it has used up its share (tokio's, and [`ROUNDS_MAX`]).
//! - **A task that panics ends alone**, as it would by itself.
//! - **A lane does not hang with a thread.** Tokio keeps what a thread has woken last, and what it has put off, for that thread.
//!   If that hangs, in a state machine, all groups of a lane would. A lane that was woken and has not had its turn at the next
//!   look ([`watch`]) has it there.
//!
//! A lane ends when nobody can give it tasks any more (its node is gone) and all of its tasks have ended.

mod company;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use company::Company;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use storage::ids::GroupId;
use storage::seam::{Clock, Seams, Task};
use tokio::sync::oneshot;
use tokio::task::coop;

/// How often in one turn a lane looks for tasks that were woken meanwhile.
const ROUNDS_MAX: usize = 32;
/// How often lanes are looked for that have not had their turn.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// It is being polled.
const POLLED: u8 = 1;
/// There is something to do: it will be polled, or, if it is being polled, looks again before it ends its turn.
const WOKEN: u8 = 2;

/// Why a task has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It has panicked.
    #[error("the task has panicked")]
    Panicked,
    /// It was dropped: its runtime has ended.
    #[error("the task was dropped before its end")]
    Dropped,
}

/// The lanes of a node.
pub(crate) struct Lanes(Vec<Lane>);

impl Lanes {
    /// So many; turns wait for company as long as that takes no more than `company_wait_max`.
    pub fn start(count: usize, company_wait_max: Duration, seams: &Seams) -> Self {
        let lanes: Vec<Lane> = (0..count).map(|_| Lane::start(company_wait_max, seams)).collect();
        let watched = lanes.iter().map(|lane| Arc::downgrade(&lane.0.0)).collect();
        seams.spawn("raft-lanes", watch(watched, seams.clone()));
        Self(lanes)
    }

    /// The lane of a group, if there are any.
    pub fn of(&self, group: GroupId) -> Option<Lane> {
        let at = group.0.checked_rem(self.0.len() as u64)?;
        self.0.get(at as usize).cloned()
    }

    /// How many tasks are in them.
    #[cfg(test)]
    pub fn tasks(&self) -> usize {
        // (Each has been told of its lane.)
        self.0.iter().map(|lane| Arc::strong_count(&lane.0) - 1).sum()
    }
}

/// A way into a lane.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Entrance>);

struct Entrance(Arc<Shared>);

impl Lane {
    fn start(company_wait_max: Duration, seams: &Seams) -> Self {
        let shared = Arc::new(Shared {
            arrived: Mutex::default(),
            state: AtomicU8::new(0),
            runtime: AtomicWaker::new(),
            tasks: Mutex::default(),
            polls: Arc::default(),
            own_turns: AtomicU64::new(0),
        });
        let polled = Polled {
            shared: shared.clone(),
            company: Company::new(company_wait_max),
            goes_on: false,
            clock: seams.clock.clone(),
        };
        seams.spawn("raft-lane", polled);
        Self(Arc::new(Entrance(shared)))
    }

    /// Runs a future in the lane to its end, whether or not anybody waits for its result.
    pub fn spawn<F>(&self, future: F) -> oneshot::Receiver<Result<F::Output, Ended>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (done, ended) = oneshot::channel();
        // (Boxed by itself, or it would be there twice, in what waits for it, too.)
        let future = AssertUnwindSafe(Box::pin(future));
        let task = async move {
            let outcome = future.catch_unwind().await;
            let _ = done.send(outcome.map_err(|_| Ended::Panicked));
        };
        self.0.0.take(Box::pin(task));
        ended
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.arrived.lock().is_all = true;
        self.0.rouse();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lane")
    }
}

/// What there is of a lane.
struct Shared {
    arrived: Mutex<Arrived>,
    /// [`POLLED`] and [`WOKEN`], or neither.
    state: AtomicU8,
    /// Wakes the task of the runtime that polls the lane.
    runtime: AtomicWaker,
    /// Locked by whoever polls them.
    tasks: Mutex<FuturesUnordered<InTurn>>,
    /// How often one of them was.
    polls: Arc<AtomicU64>,
    /// The turns that this task of the runtime has had.
    own_turns: AtomicU64,
}

/// How a turn ends.
enum Turn {
    /// There is nothing more to do.
    Idle,
    /// There is, after others had theirs.
    Interrupted,
    /// There will never be anything more to do.
    Over,
}

/// What is new.
#[derive(Default)]
struct Arrived {
    tasks: Vec<Task>,
    /// No more will come.
    is_all: bool,
    /// Nobody polls them.
    is_closed: bool,
}

impl Shared {
    fn take(&self, task: Task) {
        let refused = {
            let mut arrived = self.arrived.lock();
            match arrived.is_closed {
                true => Some(task),
                false => {
                    arrived.tasks.push(task);
                    None
                }
            }
        };
        // What is dropped may wake somebody, or drop the last way in: not within the lock.
        drop(refused);
        self.rouse();
    }

    /// There is something to do. Each change of the state sees what happened before earlier ones.
    fn rouse(&self) {
        if self.state.fetch_or(WOKEN, Ordering::SeqCst) == 0 {
            self.runtime.wake();
        }
    }

    /// Polls tasks that are ready, which are few or many.
    fn turn(self: &Arc<Self>, tasks: &mut FuturesUnordered<InTurn>) -> Turn {
        let waker = Waker::from(self.clone());
        let mut inside = Context::from_waker(&waker);
        for _ in 0..ROUNDS_MAX {
            self.state.swap(POLLED, Ordering::SeqCst);
            let is_all = self.take_in(tasks);
            while let Poll::Ready(Some(())) = tasks.poll_next_unpin(&mut inside) {}
            if is_all && tasks.is_empty() {
                return Turn::Over;
            }
            let idle = self.state.compare_exchange(POLLED, 0, Ordering::SeqCst, Ordering::SeqCst);
            if idle.is_ok() {
                return Turn::Idle;
            }
            if !coop::has_budget_remaining() {
                break;
            }
        }
        self.state.swap(WOKEN, Ordering::SeqCst);
        Turn::Interrupted
    }

    /// Takes in new tasks; whether they were the last ones.
    fn take_in(&self, tasks: &mut FuturesUnordered<InTurn>) -> bool {
        let mut arrived = self.arrived.lock();
        tasks.extend(arrived.tasks.drain(..).map(|task| InTurn { task, polls: self.polls.clone() }));
        arrived.is_all
    }

    /// The turns that it has had, if it waits for the next one.
    fn waits(&self) -> Option<u64> {
        let waits = self.state.load(Ordering::SeqCst) == WOKEN;
        waits.then(|| self.own_turns.load(Ordering::SeqCst))
    }

    /// Has a turn here, for its own task does not come to it.
    fn stand_in(self: &Arc<Self>) {
        if let Some(mut tasks) = self.tasks.try_lock() {
            metrics::counter!("flotilla_raft_lanes_late_total").increment(1);
            let _ = self.turn(&mut tasks);
        }
        // However that went: its own task sees what there is to do.
        self.runtime.wake();
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.rouse();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rouse();
    }
}

/// Sees to it that lanes have their turns, as long as there are any.
async fn watch(lanes: Vec<Weak<Shared>>, seams: Seams) {
    let mut waited = vec![None; lanes.len()];
    let mut there_are_some = !lanes.is_empty();
    while there_are_some {
        seams.beat(LOOK_EVERY).await;
        there_are_some = false;
        for (lane, waited) in lanes.iter().zip(&mut waited) {
            let Some(lane) = lane.upgrade() else { continue };
            there_are_some = true;
            let waits = lane.waits();
            if waits.is_some() && waits == *waited {
                lane.stand_in();
            }
            *waited = waits;
        }
    }
}

/// What the runtime polls: the lane's own task.
struct Polled {
    shared: Arc<Shared>,
    company: Company,
    /// With a turn that was interrupted for the others' sake.
    goes_on: bool,
    clock: Arc<dyn Clock>,
}

impl Future for Polled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.shared.runtime.register(cx.waker());
        if !this.goes_on && this.company.is_awaited(this.clock.now()) {
            // That is what its first poll does: the runtime will wake this task when it has run the others that are ready on this
            // thread. (Until the turn begins nobody else does, for what has woken it stays noted.)
            return pin!(tokio::task::yield_now()).poll(cx);
        }
        this.goes_on = true;
        // If they are locked, that is by whoever stands in, for a moment.
        if let Some(mut tasks) = this.shared.tasks.try_lock() {
            this.shared.own_turns.fetch_add(1, Ordering::SeqCst);
            let polls_before = this.shared.polls.load(Ordering::Relaxed);
            let turn = this.shared.turn(&mut tasks);
            this.company.came(this.shared.polls.load(Ordering::Relaxed) - polls_before);
            match turn {
                Turn::Over => return Poll::Ready(()),
                Turn::Idle => {
                    this.goes_on = false;
                    return Poll::Pending;
                }
                Turn::Interrupted => {}
            }
        }
        // The others first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        let new = {
            let mut arrived = self.shared.arrived.lock();
            arrived.is_closed = true;
            std::mem::take(&mut arrived.tasks)
        };
        // They know the lane, and it knows them: without this they would keep each other.
        let old = std::mem::take(&mut *self.shared.tasks.lock());
        drop((new, old));
    }
}

/// A task that is not polled when the lane has used up its share of tokio's time: it would only find that it may do nothing, and
/// be put off for longer than the lane itself.
struct InTurn {
    task: Task,
    polls: Arc<AtomicU64>,
}

impl Future for InTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.task.as_mut().poll(cx)
    }
}
