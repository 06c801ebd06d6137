//! The SQL server of a node: accepts connections, bounds their number, lets them be cancelled, and has them end ([`Phase`]).

mod activity;
mod phase;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use txn::api::Database;
use txn::seam::Seams;

use crate::catalog::Catalog;
use crate::error::{Result, SqlError, SqlState};
use crate::protocol::connection;

pub use activity::SessionActivity;
pub use phase::Phase;
pub(crate) use phase::leave;

/// Beyond this many connections over the limit, further ones are closed without a word: even refusing costs memory.
const REFUSALS_MAX: usize = 1024;
/// The pause after an accept that failed (out of file descriptors, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at the sessions that are to end.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a server that stops waits for sessions that have been told to end at once.
const ENDING_LIMIT: Duration = Duration::from_secs(1);

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
    /// The server stops for good.
    pub stopping: CancellationToken,
    phase: watch::Sender<Phase>,
    sessions: Mutex<HashMap<i32, SessionEntry>>,
    next_pid: AtomicU32,
    open: AtomicUsize,
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
    /// The server is drained, or stops.
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

    /// Completes when the phase is such that a session has to end: one `between` two transactions earlier than the others.
    pub fn leaving(&self, between: bool) -> impl Future<Output = SqlError> + Send + use<> {
        let mut phase = self.phase.subscribe();
        async move {
            let ends = move |phase: &Phase| *phase == Phase::Ending || (between && *phase == Phase::Draining);
            // The other end lives as long as any session does; without it there is nothing to serve with.
            let _ = phase.wait_for(ends).await.map(|_| ());
            leave()
        }
    }

    /// Why nobody is let in, if that is so.
    pub fn refusal(&self) -> Option<SqlError> {
        self.phase.borrow().refusal()
    }

    /// Goes on to a later phase.
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = *phase < to;
            *phase = (*phase).max(to);
            later
        });
    }

    fn admit(self: &Arc<Self>) -> Admission {
        if let Some(error) = self.refusal() {
            return Admission::Refused(error);
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
    /// A server over a cluster. It refuses sessions with `57P03` until [`Server::open`].
    pub fn new(database: Arc<dyn Database>, options: ServerOptions, seams: Seams) -> Self {
        let catalog = Catalog::new(database.clone(), seams.clone());
        let shared = Shared {
            database,
            catalog,
            options,
            seams,
            stopping: CancellationToken::new(),
            phase: watch::Sender::new(Phase::Starting),
            sessions: Mutex::default(),
            next_pid: AtomicU32::new(1),
            open: AtomicUsize::new(0),
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

    /// Where the server is in its life.
    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    /// Lets sessions in, for the first time or again, unless the server stops.
    pub fn open(&self) {
        let stopping = &self.shared.stopping;
        self.shared.phase.send_if_modified(|phase| {
            let opens = *phase != Phase::Serving && !stopping.is_cancelled();
            if opens {
                *phase = Phase::Serving;
            }
            opens
        });
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

    /// Lets nobody in (`57P03`), and has the sessions end (`57P01`): each between two of its transactions, and those that are in one
    /// for longer than `grace` in its midst. Completes when none is left. Undone by [`Server::open`].
    pub async fn drain(&self, grace: Duration) {
        let end = self.shared.seams.clock.now() + grace;
        self.shared.advance(Phase::Draining);
        while self.sessions() > 0 {
            if self.shared.seams.clock.now() >= end {
                self.shared.advance(Phase::Ending);
                // Each time: a statement may have begun just now.
                for entry in self.shared.sessions.lock().values() {
                    entry.cancel.cancel(CancelReason::Shutdown);
                }
            }
            self.shared.seams.sleep(DRAIN_LOOK_EVERY).await;
        }
    }

    /// Drains for good, and accepts no more connections. Who has not ended soon after `grace` is left behind.
    pub async fn stop(&self, grace: Duration) {
        // Before the phase changes: from now on nobody can open the server again.
        self.shared.stopping.cancel();
        tokio::select! {
            () = self.drain(grace) => {}
            () = self.shared.seams.sleep(grace + ENDING_LIMIT) => {}
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("sessions", &self.sessions()).finish()
    }
}

#[cfg(test)]
mod tests;
