//! Tests of lanes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use futures::future::{join_all, pending, poll_fn};
use storage::ids::{NodeId, ReplicaId};
use tokio::sync::mpsc;

use super::company::COMPANY_POLLS_MIN;
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

/// Each of some callers wakes one task, and then calls the next caller.
fn call(mut tasks: Vec<oneshot::Sender<()>>, calls: Arc<AtomicUsize>) {
    let Some(task) = tasks.pop() else { return };
    Seams::real().spawn("caller", async move {
        calls.fetch_add(1, Ordering::SeqCst);
        task.send(()).expect("it listens");
        call(tasks, calls);
    });
}

#[tokio::test(flavor = "current_thread")]
async fn a_turn_waits_for_company() {
    const TASKS: usize = COMPANY_POLLS_MIN as usize;
    for (wait_max, calls_seen) in [(PATIENT, TASKS), (Duration::ZERO, 1)] {
        let lane = Lane::start(wait_max, &Seams::real());
        let calls = Arc::new(AtomicUsize::new(0));
        let (mut tasks, mut seen) = (Vec::new(), Vec::new());
        for _ in 0..TASKS {
            let (task, called) = oneshot::channel();
            tasks.push(task);
            let calls = calls.clone();
            seen.push(lane.spawn(async move {
                called.await.expect("a call");
                calls.load(Ordering::SeqCst)
            }));
        }
        // (They listen.)
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        call(tasks, calls);
        assert_eq!(join_all(seen).await.pop(), Some(Ok(Ok(calls_seen))), "by the first that was called");
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

/// Guards [`watch`]: tokio keeps the lane for the thread that has woken it last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_goes_on_though_the_thread_hangs_that_has_woken_it() {
    let seams = Seams::real();
    for wait_max in [Duration::ZERO, PATIENT] {
        let lanes = Lanes::start(1, wait_max, &seams);
        let (ask, asked) = oneshot::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let lane = lanes.of(GroupId(1)).expect("a lane");
        let (listen, listens) = oneshot::channel();
        let answering = lane.spawn(async move {
            let _ = listen.send(());
            answer.send(asked.await)
        });
        listens.await.expect("it is in the lane");
        let (end, ended) = oneshot::channel();
        seams.spawn("hangs", async move {
            ask.send(7).expect("it listens");
            let _ = end.send(answered.recv());
        });
        assert_eq!(ended.await, Ok(Ok(Ok(7))));
        assert_eq!(answering.await, Ok(Ok(Ok(()))));
    }
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
