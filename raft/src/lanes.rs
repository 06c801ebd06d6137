//! Lanes: what the tasks of many groups have to say to each other stays within one task.
//!
//! On its way an entry is handed from task to task: to openraft's core, to those that send it to the followers, back to the core with their
//! answers and with the end of its write, to the state machine; some fifteen times at the leader and five at each follower. For each, a
//! runtime of several threads wakes a task, and maybe a thread, which looks for it, takes it away, and has nothing in its caches of what it is about.
//! Where entries come in company they share that. An entry that comes alone to its group, while others come alone to theirs, pays for all of it.
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
//! - **Nothing that may take long is in a lane**, for it would hold up all groups of it: neither state machines (one that hangs must not keep
//!   its group's core from handing the leadership over: [`crate::progress`]), nor snapshots, nor reads of the log from the disk.
//! - **A turn waits for company**, if that takes no time (`lanes/company.rs`).
//! - **A lane is no thread.** It lives on the node's runtime as any task does, moves with it from thread to thread, and takes its turn
//!   after everybody else when it has used up its share (tokio's, and [`ROUNDS_MAX`]).
//! - **A task that panics ends alone**, as it would by itself.
//!
//! A lane ends when nobody can give it tasks any more (its node is gone) and all of its tasks have ended.

mod company;

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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
        Self((0..count).map(|_| Lane::start(company_wait_max, seams)).collect())
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
        });
        let polled = Polled {
            waker: Waker::from(shared.clone()),
            shared: shared.clone(),
            tasks: FuturesUnordered::new(),
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

/// What a lane shares with those who wake it.
struct Shared {
    arrived: Mutex<Arrived>,
    /// [`POLLED`] and [`WOKEN`], or neither.
    state: AtomicU8,
    /// Wakes the task of the runtime that polls the lane.
    runtime: AtomicWaker,
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

    /// There is something to do. Each of these and of the changes by [`Polled`] sees what happened before the ones before it.
    fn rouse(&self) {
        if self.state.fetch_or(WOKEN, Ordering::SeqCst) == 0 {
            self.runtime.wake();
        }
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

/// What the runtime polls.
struct Polled {
    shared: Arc<Shared>,
    /// [`Shared::rouse`].
    waker: Waker,
    tasks: FuturesUnordered<InTurn>,
    company: Company,
    /// With a turn that was interrupted for the others' sake.
    goes_on: bool,
    clock: Arc<dyn Clock>,
}

impl Polled {
    /// Takes in new tasks; whether they were the last ones.
    fn take_in(&mut self) -> bool {
        let mut arrived = self.shared.arrived.lock();
        self.tasks.extend(arrived.tasks.drain(..).map(InTurn));
        arrived.is_all
    }
}

impl Future for Polled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.shared.runtime.register(cx.waker());
        if !this.goes_on && this.company.is_awaited(this.clock.now()) {
            // That is what its first poll does: the runtime will wake this task when it has run the others that are ready on this thread.
            // (Until the turn begins nobody else does, for what has woken it stays noted.)
            return pin!(tokio::task::yield_now()).poll(cx);
        }
        this.goes_on = false;
        for _ in 0..ROUNDS_MAX {
            this.shared.state.swap(POLLED, Ordering::SeqCst);
            let is_all = this.take_in();
            let mut inside = Context::from_waker(&this.waker);
            while let Poll::Ready(Some(())) = this.tasks.poll_next_unpin(&mut inside) {}
            if is_all && this.tasks.is_empty() {
                return Poll::Ready(());
            }
            let idle = this.shared.state.compare_exchange(POLLED, 0, Ordering::SeqCst, Ordering::SeqCst);
            if idle.is_ok() {
                return Poll::Pending;
            }
            if !coop::has_budget_remaining() {
                break;
            }
        }
        // The others first.
        this.goes_on = true;
        this.shared.state.swap(WOKEN, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        let left = {
            let mut arrived = self.shared.arrived.lock();
            arrived.is_closed = true;
            std::mem::take(&mut arrived.tasks)
        };
        drop(left);
    }
}

/// A task that is not polled when the lane has used up its share of tokio's time: it would only find that it may do nothing, and be put off for
/// longer than the lane itself.
struct InTurn(Task);

impl Future for InTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use futures::future::{join_all, pending, poll_fn};
    use storage::ids::{NodeId, ReplicaId};
    use tokio::sync::mpsc;

    use super::*;
    use crate::create::NewGroup;
    use crate::options::RaftOptions;
    use crate::test_node::TestNode;
    use crate::types::Host;

    const PATIENT: Duration = Duration::from_secs(60);

    fn lane() -> Lane {
        Lane::start(PATIENT, &Seams::real())
    }

    #[tokio::test]
    async fn groups_are_spread_over_lanes_if_there_are_any() {
        let seams = Seams::real();
        assert!(Lanes::start(0, PATIENT, &seams).of(GroupId(7)).is_none());
        let lanes = Lanes::start(2, PATIENT, &seams);
        let lane = |id| lanes.of(GroupId(id)).expect("a lane");
        assert!(Arc::ptr_eq(&lane(3).0, &lane(5).0));
        assert!(!Arc::ptr_eq(&lane(3).0, &lane(4).0));
    }

    /// Numbers go round a ring of tasks, whose first and last are outside of the lane, on other threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_waking_is_lost() {
        const TASKS: usize = 8;
        const NUMBERS: usize = 20_000;
        let lane = lane();
        let (first, mut from) = mpsc::channel::<usize>(1);
        let mut ends = Vec::new();
        for _ in 0..TASKS {
            let (to, next) = mpsc::channel(1);
            let mut before = std::mem::replace(&mut from, next);
            ends.push(lane.spawn(async move {
                let mut passed = 0;
                while let Some(number) = before.recv().await {
                    to.send(number).await.expect("somebody takes it");
                    passed += 1;
                }
                passed
            }));
        }
        Seams::real().spawn("first", async move {
            for number in 0..NUMBERS {
                first.send(number).await.expect("somebody takes it");
            }
        });
        let mut taken = 0;
        while let Some(number) = from.recv().await {
            assert_eq!(number, taken);
            taken += 1;
        }
        assert!(join_all(ends).await.iter().all(|passed| *passed == Ok(Ok(NUMBERS))));
    }

    /// Each of some callers wakes the lane, and then the next one.
    fn call(calls_left: usize, calls: mpsc::UnboundedSender<usize>) {
        Seams::real().spawn("caller", async move {
            calls.send(calls_left).expect("the lane listens");
            if calls_left > 0 {
                call(calls_left - 1, calls);
            }
        });
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_turn_waits_for_company() {
        for (wait_max, together) in [(PATIENT, 8), (Duration::ZERO, 1)] {
            let lane = Lane::start(wait_max, &Seams::real());
            let (calls, mut called) = mpsc::unbounded_channel();
            let first = lane.spawn(async move {
                let mut first = Vec::new();
                called.recv_many(&mut first, 100).await;
                first.len()
            });
            // (It listens.)
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            call(7, calls);
            assert_eq!(first.await, Ok(Ok(together)));
        }
    }

    async fn panic_on_purpose() {
        panic!("on purpose");
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_alone() {
        let lane = lane();
        assert_eq!(lane.spawn(panic_on_purpose()).await, Ok(Err(Ended::Panicked)));
        assert_eq!(lane.spawn(async { 7 }).await, Ok(Ok(7)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_lane_that_is_never_idle_lets_others_run() {
        let lane = lane();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let busy = lane.spawn(poll_fn(move |cx| match stopped.load(Ordering::SeqCst) {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }));
        // And one that uses up tokio's share.
        let stopped = stop.clone();
        let greedy = lane.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                coop::consume_budget().await;
            }
        });
        Seams::real().spawn("another", async move { stop.store(true, Ordering::SeqCst) });
        assert_eq!((busy.await, greedy.await), (Ok(Ok(())), Ok(Ok(()))));
    }

    #[tokio::test]
    async fn a_lane_ends_after_its_last_task() {
        let lane = lane();
        let shared = Arc::downgrade(&lane.0.0);
        let (go, gone) = oneshot::channel::<()>();
        let inner = lane.clone();
        let task = lane.spawn(async move {
            let _ = gone.await;
            drop(inner);
        });
        drop(lane);
        tokio::task::yield_now().await;
        assert!(shared.upgrade().is_some());
        go.send(()).expect("it waits");
        assert_eq!(task.await, Ok(Ok(())));
        while shared.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn what_comes_after_the_runtime_is_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (lane, before) = runtime.block_on(async {
            let lane = lane();
            let before = lane.spawn(pending::<()>());
            (lane, before)
        });
        drop(runtime);
        let after = lane.spawn(pending::<()>());
        assert!(before.blocking_recv().is_err() && after.blocking_recv().is_err());
    }

    /// If openraft names them otherwise one day, they are tasks of their own, and nobody would notice but by what it costs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn those_tasks_of_openraft_are_in_lanes_that_each_entry_goes_through() {
        let node = TestNode::start(RaftOptions { lanes: 1, ..RaftOptions::default() }).await;
        let tasks = || node.multi.nursery.lanes.tasks();
        assert_eq!(tasks(), 0);
        let members = BTreeMap::from([(ReplicaId(2), NodeId(2))]);
        let new = NewGroup { group: GroupId(5), me: ReplicaId(2), members, campaign: true };
        let group = node.multi.create_group(new).await.expect("create");
        node.eventually("it leads", || group.leads().is_some()).await;
        node.eventually("the core, its ticks, the ends of its writes", || tasks() == 3).await;
        let core = group.awake().await.expect("awake");
        core.raft.add_learner(3, Host(3), false).await.expect("a learner");
        node.eventually("entries for the learner, and heartbeats", || tasks() == 5).await;
        group.stop("it was seen").await;
        node.eventually("the end", || tasks() == 0).await;
    }
}
