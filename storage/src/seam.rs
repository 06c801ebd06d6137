//! The seams: time, randomness, spawning, and connections to other nodes.
//!
//! Product code reaches the clock, random numbers, new tasks and other nodes through [`Seams`] only, so that a simulator
//! can own them all and a failing run can be replayed from its seed. Clippy's `disallowed-methods` refuses the direct
//! calls everywhere else. (Fsync has its seam in [`crate::raft_log`].)
//!
//! What is done again and again waits for a *beat* of the node ([`Beat`]), not for a time of its own: to wake up a process costs
//! more than most of what it wakes up for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future without a result, as handed to [`Tasks::spawn_boxed`].
pub type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time: for leases, timeouts and latencies.
    fn now(&self) -> Instant;
    /// Milliseconds since the Unix epoch: for display and for the oracle's physical part, never for correctness.
    fn wall_ms(&self) -> u64;
    /// The processor time that the calling thread has had: for loads, never for correctness. Zero where nothing measures it.
    fn thread_cpu(&self) -> Duration {
        Duration::ZERO
    }
    /// Completes after `duration` of monotonic time.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>>;
}

/// Where concurrency comes from.
pub trait Tasks: Send + Sync + 'static {
    /// Runs `task` in the background; `name` is for diagnostics.
    fn spawn_boxed(&self, name: &'static str, task: Task);
    /// Runs `body` on a thread of its own, for work that blocks (fsync, compaction).
    fn thread(&self, name: &'static str, body: Box<dyn FnOnce() + Send + 'static>) -> std::io::Result<()>;
}

/// A connection to another node.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Connection>>> + Send + 'static>>;

/// Where connections to other nodes come from.
pub trait Network: Send + Sync + 'static {
    /// Connects to `address` (`host:port`). The caller bounds the time.
    fn connect(&self, address: String) -> Connecting;
}

/// The moments at which a node looks after itself, [`Beat::EVERY`] apart: tasks that wait for the same one cost it one waking
/// together.
///
/// Two nodes that start at the same moment do not beat together.
#[derive(Clone)]
pub struct Beat {
    clock: Arc<dyn Clock>,
    /// A moment …
    origin: Instant,
    /// … so long after a beat.
    phase: Duration,
}

impl Beat {
    /// From one beat to the next.
    pub const EVERY: Duration = Duration::from_millis(50);

    /// How long it is until the beat that is nearest to the end of `about`; never none.
    pub fn near(&self, about: Duration) -> Duration {
        self.until(|passed| (passed + about + Self::EVERY / 2).as_nanos() / Self::EVERY.as_nanos())
    }

    /// How long it is until the first beat after the end of `at_least`.
    pub fn after(&self, at_least: Duration) -> Duration {
        self.until(|passed| (passed + at_least).as_nanos().div_ceil(Self::EVERY.as_nanos()))
    }

    /// How long it is until the next beat but one.
    pub fn next_but_one(&self) -> Duration {
        self.until(|passed| passed.as_nanos() / Self::EVERY.as_nanos() + 2)
    }

    /// Until the beat with a number that is told from what has passed since the first one; until the next, if that is over.
    fn until(&self, number: impl FnOnce(Duration) -> u128) -> Duration {
        let passed = self.clock.now().saturating_duration_since(self.origin) + self.phase;
        let next = passed.as_nanos() / Self::EVERY.as_nanos() + 1;
        let at = number(passed).max(next) * Self::EVERY.as_nanos();
        // (A process does not run for five hundred years.)
        Duration::from_nanos(at as u64).saturating_sub(passed)
    }
}

impl std::fmt::Debug for Beat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Beat")
    }
}

/// The bundle that is handed from room to room. Cloning is cheap; all clones share one generator.
#[derive(Clone)]
pub struct Seams {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The spawner.
    pub tasks: Arc<dyn Tasks>,
    /// The way to other nodes.
    pub network: Arc<dyn Network>,
    /// When to look after oneself.
    pub beat: Beat,
    random: Arc<Mutex<StdRng>>,
}

impl Seams {
    /// The real clock, tokio's scheduler, and a generator seeded by the operating system.
    pub fn real() -> Self {
        Self::with(Arc::new(SystemClock), Arc::new(TokioTasks), rand::rngs::StdRng::from_os_rng())
    }

    /// Seams of a caller's choosing, over TCP.
    pub fn with(clock: Arc<dyn Clock>, tasks: Arc<dyn Tasks>, mut random: StdRng) -> Self {
        let phase = Beat::EVERY.mul_f64(random.random());
        let beat = Beat { clock: clock.clone(), origin: clock.now(), phase };
        Self { clock, tasks, network: Arc::new(Tcp), beat, random: Arc::new(Mutex::new(random)) }
    }

    /// The same over another network.
    pub fn over(self, network: Arc<dyn Network>) -> Self {
        Self { network, ..self }
    }

    /// A random 64-bit number.
    pub fn random_u64(&self) -> u64 {
        self.random.lock().random()
    }

    /// A random 128-bit number: transaction ids, cluster ids, UUIDs.
    pub fn random_u128(&self) -> u128 {
        self.random.lock().random()
    }

    /// A random number in `low..high`. `low < high` is the caller's obligation.
    pub fn random_range(&self, low: u64, high: u64) -> u64 {
        self.random.lock().random_range(low..high)
    }

    /// A random number in `0.0..1.0`.
    pub fn random_f64(&self) -> f64 {
        self.random.lock().random()
    }

    /// Runs `task` in the background.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_boxed(name, Box::pin(task));
    }

    /// Runs work that blocks on a thread of its own.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let body = Box::new(move || {
            // Whoever asked may have gone.
            let _ = sender.send(work());
        });
        self.tasks.thread(name, body)?;
        receiver.await.map_err(|_| std::io::Error::other(format!("the thread `{name}` has panicked")))
    }

    /// Sleeps; shorthand for `clock.sleep`. For what is to happen once; what is done again and again waits for a beat.
    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// Waits for the beat that is nearest to the end of `about`: half of [`Beat::EVERY`] more or less.
    ///
    /// A task that does this with a multiple of [`Beat::EVERY`], and is done soon each time, wakes up with exactly that period.
    pub async fn beat(&self, about: Duration) {
        self.clock.sleep(self.beat.near(about)).await;
    }
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seams")
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock;

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        // A clock before 1970 reads as 0: the oracle then runs on its counter alone, which is still correct.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn thread_cpu(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec of this function, which is all that the call writes to.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
        match failed {
            true => Duration::ZERO,
            false => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        }
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Tokio's scheduler. A task that panics is logged with its name by the panic hook and aborts the process there
/// (see `node::server`): no panic takes a part of a node down silently.
#[derive(Debug)]
pub struct TokioTasks;

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
impl Tasks for TokioTasks {
    fn spawn_boxed(&self, _name: &'static str, task: Task) {
        tokio::spawn(task);
    }

    fn thread(&self, name: &'static str, body: Box<dyn FnOnce() + Send + 'static>) -> std::io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map(|_| ())
    }
}

/// TCP.
#[derive(Debug)]
pub struct Tcp;

impl Network for Tcp {
    fn connect(&self, address: String) -> Connecting {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A clock that stands still until it is moved on.
    struct Still {
        start: Instant,
        passed: Mutex<Duration>,
    }

    impl Clock for Still {
        fn now(&self) -> Instant {
            self.start + *self.passed.lock()
        }

        fn wall_ms(&self) -> u64 {
            0
        }

        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
            *self.passed.lock() += duration;
            Box::pin(std::future::ready(()))
        }
    }

    /// A beat whose origin is `phase` after one, seen after so much time.
    fn beat(phase: Duration, passed: Duration) -> Beat {
        let start = SystemClock.now();
        let clock = Arc::new(Still { start, passed: Mutex::new(passed) });
        Beat { clock, origin: start, phase }
    }

    #[test]
    fn a_wait_ends_at_the_nearest_beat() {
        assert_eq!(beat(ms(0), ms(0)).near(ms(100)), ms(100));
        assert_eq!(beat(ms(0), ms(3)).near(ms(100)), ms(97), "what was done took three");
        assert_eq!(beat(ms(0), ms(30)).near(ms(100)), ms(120), "the nearest is later");
        assert_eq!(beat(ms(20), ms(3)).near(ms(100)), ms(77));
        assert_eq!(beat(ms(0), ms(10)).near(ms(10)), ms(40), "and never the one that is over");
        assert_eq!(beat(ms(0), ms(50)).near(ms(0)), ms(50));
    }

    #[test]
    fn a_wait_for_at_least_so_long_ends_at_a_beat_that_is_not_earlier() {
        assert_eq!(beat(ms(0), ms(0)).after(ms(50)), ms(50));
        assert_eq!(beat(ms(0), ms(0)).after(ms(51)), ms(100));
        assert_eq!(beat(ms(0), ms(1)).after(ms(49)), ms(49));
        assert_eq!(beat(ms(0), ms(2)).after(ms(49)), ms(98));
        assert_eq!(beat(ms(30), ms(0)).after(ms(1)), ms(20));
    }

    #[test]
    fn a_wait_for_the_next_beat_but_one_skips_one() {
        let waits = [0, 1, 49, 50, 51].map(|passed| beat(ms(0), ms(passed)).next_but_one());
        assert_eq!(waits, [100, 99, 51, 100, 99].map(ms));
    }

    #[tokio::test]
    async fn tasks_that_began_at_different_moments_wake_up_together() {
        let start = SystemClock.now();
        let clock = Arc::new(Still { start, passed: Mutex::new(ms(7)) });
        let seams = Seams::with(clock.clone(), Arc::new(TokioTasks), StdRng::seed_from_u64(1));
        let wakes = async |about: Duration| {
            seams.beat(about).await;
            clock.now() - start + seams.beat.phase
        };
        let first = wakes(ms(100)).await;
        // It takes a moment to do what is to be done.
        *clock.passed.lock() += ms(11);
        let second = wakes(ms(200)).await;
        *clock.passed.lock() += ms(5);
        let third = wakes(ms(100)).await;
        assert_eq!((second - first, third - second), (ms(200), ms(100)));
        // (The clock had shown seven milliseconds when the beat began.)
        assert_eq!((first - ms(7)).as_nanos() % Beat::EVERY.as_nanos(), 0);
    }
}
