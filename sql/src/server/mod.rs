//! The SQL server of a node: accepts connections, bounds their number, and lets them be cancelled.

mod activity;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use txn::api::Database;
use txn::seam::Seams;

use crate::catalog::Catalog;
use crate::error::{Result, SqlError, SqlState};
use crate::protocol::connection;

pub use activity::SessionActivity;

/// Beyond this many connections over the limit, further ones are closed without a word: even refusing costs memory.
const REFUSALS_MAX: usize = 1024;
/// The pause after an accept that failed (out of file descriptors, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a node serves SQL.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Sessions at a time; further ones are refused with `53300`.
    pub connections_max: usize,
    /// The largest message taken in, in bytes; larger ones are refused with `54000`.
    pub message_bytes_max: usize,
    /// What one statement may hold in memory, in bytes, before it fails with `53200`.
    pub statement_memory_bytes_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 1000,
            message_bytes_max: 64 * 1024 * 1024,
            statement_memory_bytes_max: 512 * 1024 * 1024,
        }
    }
}

/// What all sessions of a node share.
pub struct Shared {
    /// The cluster.
    pub database: Arc<dyn Database>,
    /// The node's hold on the catalog.
    pub catalog: Arc<Catalog>,
    /// The bounds.
    pub options: ServerOptions,
    /// Clock, randomness, tasks.
    pub seams: Seams,
    /// Ends all sessions.
    pub stopping: CancellationToken,
    sessions: Mutex<HashMap<i32, SessionEntry>>,
    next_pid: AtomicU32,
    open: AtomicUsize,
    ready: AtomicBool,
}

struct SessionEntry {
    secret: i32,
    cancel: Arc<CancelSlot>,
    activity: Arc<SessionActivity>,
}

/// Why a statement was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A CancelRequest.
    User,
    /// `statement_timeout`.
    Timeout,
    /// `transaction_timeout`, which ends the session.
    TransactionTimeout,
    /// The node is shutting down.
    Shutdown,
}

/// The running statement of a session, as others may cancel it.
#[derive(Debug)]
pub struct CancelSlot {
    state: Mutex<(CancellationToken, CancelReason)>,
}

impl CancelSlot {
    fn new() -> Self {
        Self { state: Mutex::new((CancellationToken::new(), CancelReason::User)) }
    }

    /// A fresh token for the next statement.
    pub fn arm(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.state.lock() = (token.clone(), CancelReason::User);
        token
    }

    /// Cancels what is running.
    pub fn cancel(&self, reason: CancelReason) {
        let mut state = self.state.lock();
        if !state.0.is_cancelled() {
            state.1 = reason;
            state.0.cancel();
        }
    }

    /// Cancels if it is still this statement that is running.
    pub fn cancel_if(&self, token: &CancellationToken, reason: CancelReason) {
        let mut state = self.state.lock();
        if !token.is_cancelled() {
            state.1 = reason;
            token.cancel();
        }
    }

    /// Why the last statement was cancelled.
    pub fn reason(&self) -> CancelReason {
        self.state.lock().1
    }
}

/// A place among the sessions, given back when dropped.
pub struct Ticket {
    shared: Arc<Shared>,
    /// The session's number, as in BackendKeyData.
    pub pid: i32,
    /// The secret that a CancelRequest must name.
    pub secret: i32,
    /// What is running.
    pub cancel: Arc<CancelSlot>,
    /// The same for others to see.
    pub activity: Arc<SessionActivity>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.sessions.lock().remove(&self.pid);
        let open = self.shared.open.fetch_sub(1, Ordering::Relaxed) - 1;
        metrics::gauge!("flotilla_sql_sessions").set(open as f64);
    }
}

/// Whether a connection may become a session.
pub enum Admission {
    /// It may.
    Admitted(Ticket),
    /// It may not; the client is told why.
    Refused(SqlError),
}

impl Shared {
    /// Cancels what session `pid` is running, if the secret is right. Nobody is told whether it was.
    pub fn cancel(&self, pid: i32, secret: i32) {
        if let Some(entry) = self.sessions.lock().get(&pid)
            && entry.secret == secret
        {
            entry.cancel.cancel(CancelReason::User);
        }
    }

    fn admit(self: &Arc<Self>) -> Admission {
        if !self.ready.load(Ordering::Acquire) {
            return Admission::Refused(SqlError::new(
                SqlState::CANNOT_CONNECT_NOW,
                "the node is not ready to serve SQL yet",
            ).hint("Initialise a new cluster with `flotilla init`, or wait until the node has joined; GET /ready says what is missing."));
        }
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        if open > self.options.connections_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Admission::Refused(SqlError::new(
                SqlState::TOO_MANY_CONNECTIONS,
                "sorry, too many clients already",
            ));
        }
        metrics::gauge!("flotilla_sql_sessions").set(open as f64);
        let secret = self.seams.random_u64() as i32;
        let cancel = Arc::new(CancelSlot::new());
        let mut sessions = self.sessions.lock();
        // Numbers are reused only after two thousand million sessions, and never one that is in use.
        let pid = loop {
            let pid = (self.next_pid.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff) as i32;
            if pid != 0 && !sessions.contains_key(&pid) {
                break pid;
            }
        };
        let activity = Arc::new(SessionActivity::default());
        sessions.insert(pid, SessionEntry { secret, cancel: cancel.clone(), activity: activity.clone() });
        Admission::Admitted(Ticket { shared: self.clone(), pid, secret, cancel, activity })
    }
}

/// A node's SQL server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// A server over a cluster. It refuses sessions with `57P03` until [`Server::set_ready`].
    pub fn new(database: Arc<dyn Database>, options: ServerOptions, seams: Seams) -> Self {
        let catalog = Catalog::new(database.clone(), seams.clone());
        let shared = Shared {
            database,
            catalog,
            options,
            seams,
            stopping: CancellationToken::new(),
            sessions: Mutex::default(),
            next_pid: AtomicU32::new(1),
            open: AtomicUsize::new(0),
            ready: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        shared.database.set_witness(Arc::new(activity::Sessions(Arc::downgrade(&shared))));
        Self { shared }
    }

    /// Writes the catalog's first rows if they are missing (see [`Catalog::bootstrap`]), and begins to
    /// clear what dropped tables leave behind.
    pub async fn bootstrap(&self) -> Result<()> {
        self.shared.catalog.bootstrap().await?;
        self.shared.catalog.start_sweeper(self.shared.stopping.clone());
        Ok(())
    }

    /// The node's hold on the catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.shared.catalog
    }

    /// Whether sessions are let in, as far as the node is concerned.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// Whether sessions are let in.
    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::Release);
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Accepts connections until [`Server::stop`].
    pub async fn serve(&self, listener: TcpListener) {
        let refusals = Arc::new(tokio::sync::Semaphore::new(REFUSALS_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.stopping.cancelled() => return,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a SQL connection");
                    self.shared.seams.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Latency matters more than packets: replies are batched by us already.
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "a SQL connection went away at once");
                continue;
            }
            metrics::counter!("flotilla_sql_connections_total").increment(1);
            let admission = self.shared.admit();
            let permit = match &admission {
                Admission::Admitted(_) => None,
                Admission::Refused(_) => {
                    metrics::counter!("flotilla_sql_connections_refused_total").increment(1);
                    match refusals.clone().try_acquire_owned() {
                        Ok(permit) => Some(permit),
                        Err(_) => continue,
                    }
                }
            };
            let shared = self.shared.clone();
            self.shared.seams.spawn("sql connection", async move {
                let (reader, writer) = socket.into_split();
                connection::serve(reader, writer, shared, admission).await;
                drop(permit);
            });
        }
    }

    /// Ends all sessions: running statements are cancelled, idle sessions are told `57P01`. Waits at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.set_ready(false);
        self.shared.stopping.cancel();
        let half = self.shared.seams.clock.now() + patience / 2;
        let end = self.shared.seams.clock.now() + patience;
        let mut cancelled = false;
        while self.sessions() > 0 && self.shared.seams.clock.now() < end {
            if !cancelled && self.shared.seams.clock.now() >= half {
                for entry in self.shared.sessions.lock().values() {
                    entry.cancel.cancel(CancelReason::Shutdown);
                }
                cancelled = true;
            }
            self.shared.seams.sleep(Duration::from_millis(10)).await;
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("sessions", &self.sessions()).finish()
    }
}
