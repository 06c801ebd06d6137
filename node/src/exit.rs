//! Failures as one line and an exit status.

use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command failed. The exit status is part of the interface: scripts read it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Status 2, like clap's own usage errors.
    #[error("{0}")]
    Usage(String),
    /// Status 3.
    #[error("cannot listen for {what} on {address}: {source}")]
    Listen {
        /// SQL, RPC or HTTP.
        what: &'static str,
        /// Where.
        address: String,
        /// Why not; most often another process has the port.
        source: std::io::Error,
    },
    /// Status 4; 5 if what is on disk is damaged.
    #[error("{}", chain(.0))]
    Store(#[source] storage::Error),
    /// Status 4: one of the small files of the store.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Status 5, too: what a stopped node's files hold cannot be understood.
    #[error("{0}")]
    Damaged(String),
    /// Status 6: the cluster does not want what was asked.
    #[error("{0}")]
    Refused(String),
    /// Status 7: nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// Status 8: replicas of one group hold different rows, have failed or are in quarantine, the map is not as the shards are, or rows do
    /// not keep their tables' constraints.
    #[error("{0}")]
    Differs(String),
    /// Status 9: the log or the state of a node that ran can't be written any more, so it has left its groups to the others.
    #[error("the store has failed: {}", chain(.0))]
    Broken(raft::Fatal),
    /// Status 1.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Any other error, with its sources.
    pub fn other(error: impl std::error::Error) -> Self {
        Failure::Other(chain(&error))
    }

    /// The exit status.
    pub fn status(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Other(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Listen { .. } => 3,
            Failure::Store(storage::Error::Corrupt { .. }) | Failure::Damaged(_) => 5,
            Failure::Store(_) | Failure::File { .. } => 4,
            Failure::Refused(_) => 6,
            Failure::Unreachable(_) => 7,
            Failure::Differs(_) => 8,
            Failure::Broken(_) => 9,
        })
    }
}

/// An error with all its sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text.replace('\n', " ")
}
