//! Whether a server lets sessions in, and has them end.
//!
//! ```text
//!   Starting ──▶ Serving ──▶ Draining ──▶ Ending
//!                   ▲           │           │
//!                   └───────────┴───────────┘   as long as the server does not stop
//! ```
//!
//! A node that is drained and one that stops go the same way; only the time that transactions are given differs. Nobody is let in
//! after Serving: `57P03`, which has a driver that knows several hosts try the next one. A session that is ended is told `57P01`
//! instead of an answer to what it may have sent meanwhile, which is not run.

use crate::error::{SqlError, SqlState};

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// What SQL stands on is not there yet.
    Starting,
    /// Sessions are let in.
    Serving,
    /// Sessions end, each as soon as it is between two transactions.
    Draining,
    /// Sessions end at once.
    Ending,
}

impl Phase {
    /// Why nobody is let in, if that is so.
    pub(super) fn refusal(self) -> Option<SqlError> {
        let refused = |why: &'static str| SqlError::new(SqlState::CANNOT_CONNECT_NOW, why);
        match self {
            Phase::Serving => None,
            Phase::Starting => Some(refused("the node is not ready to serve SQL yet").hint(
                "Initialise a new cluster with `flotilla init`, or wait until the node has joined; GET /ready says what is missing.",
            )),
            Phase::Draining | Phase::Ending => {
                Some(refused("the node is drained or shutting down").hint("Connect to another node."))
            }
        }
    }
}

/// What a session is told that has to end.
pub(crate) fn leave() -> SqlError {
    SqlError::new(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}
