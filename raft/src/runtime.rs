//! What openraft runs on: tokio, but that its periodic timers end at beats of the node.
//!
//! Each instance ticks by a timer of its own, some thirty times a second, and wakes the process up for each tick. Here the ticks of all
//! groups that are awake on a node come together, with everything else that it does again and again ([`Beat`]): however many are
//! awake, they cost twenty wakings a second. Each ticks at every second beat: a heartbeat is due after four, and of the ticks of followers
//! it is enough that they come at all (what elects after a death are not they: [`crate::liveness`]).
//!
//! openraft knows its runtime by type only. So whoever starts an instance says whose beat it is ([`to_the_beat`]), and tasks pass it on
//! to those that they spawn.

#![allow(deprecated, reason = "a dependency for this name alone would have to be kept at openraft's version")]

use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, Instant as _, OptionalSend, TokioRuntime};
use storage::seam::Beat;

/// A timer that ends sooner is no periodic one: openraft waits for a microsecond to take in several ends of writes at once.
const EXACT_BELOW: Duration = Duration::from_millis(1);

tokio::task_local! {
    /// Of the node that the task's replica lives on.
    static BEAT: Beat;
}

/// Calls `start`, which spawns tasks of openraft: they live to this beat.
pub(crate) fn to_the_beat<T>(beat: &Beat, start: impl FnOnce() -> T) -> T {
    BEAT.sync_scope(beat.clone(), start)
}

/// See the module.
#[derive(Debug)]
pub struct Paced(TokioRuntime);

impl AsyncRuntime for Paced {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
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
        match BEAT.try_with(Beat::clone) {
            Ok(beat) => TokioRuntime::spawn(BEAT.scope(beat, future)),
            Err(_) => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    /// In openraft, the wait for the next tick, and the one that is spoken of at [`EXACT_BELOW`].
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let left = deadline.saturating_duration_since(Self::Instant::now());
        match BEAT.try_with(|beat| beat.after(left).max(beat.next_but_one())) {
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
        TokioRuntime::is_panic(join_error)
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

    #[tokio::test]
    async fn tasks_of_tasks_live_to_the_beat() {
        let knows = || BEAT.try_with(|_| ()).is_ok();
        let seams = Seams::real();
        let task = to_the_beat(&seams.beat, || {
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
    async fn periodic_timers_end_at_every_second_beat() {
        let seams = Seams::real();
        let tick = |_| {
            let now = <Paced as AsyncRuntime>::Instant::now();
            let soon = now + Duration::from_millis(32);
            let paced = to_the_beat(&seams.beat, || Paced::sleep_until(soon));
            paced.deadline() - TokioRuntime::sleep_until(now).deadline()
        };
        let ticks: Vec<Duration> = (0..1_000).map(tick).collect();
        assert!(ticks.iter().all(|tick| *tick >= Beat::EVERY));
        // (A thread that is not run between the two looks at the clock is late.)
        assert!(ticks.iter().any(|tick| *tick <= 2 * Beat::EVERY));
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
        let (long, short) = ([10_000, 27_000, 195_000], [100, 300, 700]);
        let paced = |deadlines_us| to_the_beat(&seams.beat, || apart(deadlines_us));
        assert!((0..1_000).any(|_| paced(long).iter().all(is_whole)), "they end at beats");
        assert_eq!(paced(short), [200, 400].map(Duration::from_micros));
        assert_eq!(apart(long), [17_000, 168_000].map(Duration::from_micros), "nobody's beat");
    }
}
