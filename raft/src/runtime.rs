//! What openraft runs on: tokio, but that its periodic timers end at beats of the node, and its tasks are in lanes.
//!
//! Each instance ticks by a timer of its own, some thirty times a second, and wakes the process up for each tick. Here the ticks of all
//! groups that are awake on a node come together, with everything else that it does again and again ([`Beat`]): however many are
//! awake, they cost twenty wakings a second.
//!
//! Each entry goes through several tasks of openraft at each replica. Those, which never take long, are polled together with those of
//! other groups ([`crate::lanes`]); all others, and what they spawn, are tasks of their own.
//!
//! openraft knows its runtime by type only. So whoever starts an instance says where it is at home ([`at_home`]), and tasks pass it on
//! to those that they spawn. And it does not say what it spawns: its tasks are told apart by the names of their types.

#![allow(deprecated, reason = "a dependency for this name alone would have to be kept at openraft's version")]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use openraft::{AsyncRuntime, Instant as _, OptionalSend, TokioRuntime};
use storage::seam::Beat;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::lanes::{Ended, Lane};

/// A timer that ends sooner is no periodic one: openraft waits for a microsecond to take in several ends of writes at once.
const EXACT_BELOW: Duration = Duration::from_millis(1);
/// In the names of the types of those tasks that are in lanes: the core (and what it asks others when it stands for election), what sends
/// entries, what sends heartbeats, what tells the core of ends of writes, and of ticks. (A test of `lanes.rs` starts them.)
const IN_LANES: [&str; 5] = [
    "raft_core::RaftCore",
    "replication::ReplicationCore",
    "worker::HeartbeatWorker",
    "io_completion_forwarder",
    "tick::Tick",
];

/// Where the tasks of a replica live.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// Of the node.
    pub beat: Beat,
    /// Of the group, if the node has lanes.
    pub lane: Option<Lane>,
}

tokio::task_local! {
    static HOME: Home;
}

/// Calls `start`, which spawns tasks of openraft: they live there.
pub(crate) fn at_home<T>(home: Home, start: impl FnOnce() -> T) -> T {
    HOME.sync_scope(home, start)
}

/// Whether a task is one of those that are in lanes.
fn is_for_lane<T>() -> bool {
    let name = std::any::type_name::<T>();
    IN_LANES.iter().any(|part| name.contains(part))
}

/// The end of a task, to wait for.
#[derive(Debug)]
pub enum Joined<T> {
    /// Of one that the runtime polls itself.
    Alone(JoinHandle<T>),
    /// Of one in a lane.
    InLane(oneshot::Receiver<Result<T, Ended>>),
}

impl<T> Future for Joined<T> {
    type Output = Result<T, Ended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.get_mut() {
            Self::Alone(task) => ready!(Pin::new(task).poll(cx)).map_err(|error| match error.is_panic() {
                true => Ended::Panicked,
                false => Ended::Dropped,
            }),
            Self::InLane(task) => ready!(Pin::new(task).poll(cx)).unwrap_or(Err(Ended::Dropped)),
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Paced(TokioRuntime);

impl AsyncRuntime for Paced {
    type JoinError = Ended;
    type JoinHandle<T: OptionalSend + 'static> = Joined<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let Ok(home) = HOME.try_with(Home::clone) else {
            return Joined::Alone(TokioRuntime::spawn(future));
        };
        match home.lane.clone().filter(|_| is_for_lane::<T>()) {
            Some(lane) => Joined::InLane(lane.spawn(HOME.scope(home, future))),
            None => Joined::Alone(TokioRuntime::spawn(HOME.scope(Home { lane: None, ..home }, future))),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    /// In openraft, the wait for the next tick, and the one that is spoken of at [`EXACT_BELOW`].
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let left = deadline.saturating_duration_since(Self::Instant::now());
        match HOME.try_with(|home| home.beat.after(left)) {
            Ok(paced) if left >= EXACT_BELOW => TokioRuntime::sleep(paced),
            _ => TokioRuntime::sleep_until(deadline),
        }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        *join_error == Ended::Panicked
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use storage::seam::Seams;

    use super::*;

    fn home(seams: &Seams) -> Home {
        Home { beat: seams.beat.clone(), lane: None }
    }

    #[tokio::test]
    async fn a_task_that_panics_says_so() {
        async fn panic_on_purpose() {
            panic!("on purpose");
        }
        let ended = Paced::spawn(panic_on_purpose()).await.expect_err("it panics");
        assert!(Paced::is_panic(&ended));
        assert!(!Paced::is_panic(&Ended::Dropped));
    }

    #[tokio::test]
    async fn tasks_of_tasks_live_to_the_beat() {
        let knows = || HOME.try_with(|_| ()).is_ok();
        let seams = Seams::real();
        let task = at_home(home(&seams), || {
            Paced::spawn(
                async move { (knows(), Paced::spawn(async move { knows() }).await.expect("no panic")) },
            )
        });
        assert_eq!(task.await.expect("no panic"), (true, true));
        assert!(!knows() && !Paced::spawn(async move { knows() }).await.expect("no panic"));
    }

    /// How far the ends of timers are apart whose deadlines are so many microseconds away.
    fn apart(deadlines_us: [u64; 3]) -> [Duration; 2] {
        let now = <Paced as AsyncRuntime>::Instant::now();
        let ends = deadlines_us.map(|us| Paced::sleep_until(now + Duration::from_micros(us)).deadline());
        [ends[1] - ends[0], ends[2] - ends[1]]
    }

    #[tokio::test]
    async fn timers_end_at_beats_unless_they_are_short() {
        // A thread that is not run between two looks at the clock is a little off.
        const OFF_MAX: Duration = Duration::from_millis(2);
        let seams = Seams::real();
        let is_whole = |apart: &Duration| {
            let over = apart.as_nanos() % Beat::EVERY.as_nanos();
            over < OFF_MAX.as_nanos() || over > (Beat::EVERY - OFF_MAX).as_nanos()
        };
        let (long, short) = ([10_000, 27_000, 95_000], [100, 300, 700]);
        let paced = |deadlines_us| at_home(home(&seams), || apart(deadlines_us));
        assert!((0..1_000).any(|_| paced(long).iter().all(is_whole)), "they end at beats");
        assert_eq!(paced(short), [200, 400].map(Duration::from_micros));
        assert_eq!(apart(long), [17_000, 68_000].map(Duration::from_micros), "nobody's beat");
    }
}
