//! The seams: time, randomness, spawning, and connections to other nodes.
//!
//! Product code reaches the clock, random numbers, new tasks and other nodes through [`Seams`] only, so that a simulator
//! can own them all and a failing run can be replayed from its seed. Clippy's `disallowed-methods` refuses the direct
//! calls everywhere else. (Fsync has its seam in [`crate::raft_log`].)

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

/// The bundle that is handed from room to room. Cloning is cheap; all clones share one generator.
#[derive(Clone)]
pub struct Seams {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The spawner.
    pub tasks: Arc<dyn Tasks>,
    /// The way to other nodes.
    pub network: Arc<dyn Network>,
    random: Arc<Mutex<StdRng>>,
}

impl Seams {
    /// The real clock, tokio's scheduler, and a generator seeded by the operating system.
    pub fn real() -> Self {
        Self::with(Arc::new(SystemClock), Arc::new(TokioTasks), rand::rngs::StdRng::from_os_rng())
    }

    /// Seams of a caller's choosing, over TCP.
    pub fn with(clock: Arc<dyn Clock>, tasks: Arc<dyn Tasks>, random: StdRng) -> Self {
        Self { clock, tasks, network: Arc::new(Tcp), random: Arc::new(Mutex::new(random)) }
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

    /// Sleeps; shorthand for `clock.sleep`.
    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
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
