//! The commands of the `flotilla` binary, one file each.

pub mod admin;
pub mod debug;
pub mod init;
pub mod sql;
pub mod start;
pub mod verify;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Settings;
use crate::exit::Failure;

/// A consensus-first SQL database: every shard is a Raft group, every node speaks PostgreSQL's protocol.
///
/// Exit statuses: 0 success, 1 failure, 2 unusable arguments or configuration, 3 a port can't be listened on, 4 the store can't be
/// used (in use by another process, not a store, of another format), 5 the store is damaged, 6 refused by the cluster, 7 nobody answers,
/// 8 replicas, the map or rows are not as they should be, 9 the store of a node that ran has failed.
#[derive(Parser)]
#[command(name = "flotilla", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node; it waits until it can join a cluster, or until `flotilla init`
    Start(Box<Settings>),
    /// Run a cluster of one node; it initialises itself the first time
    StartSingleNode(Box<Settings>),
    /// Make a running node the first of a new cluster; done once in a cluster's life
    Init(init::InitArgs),
    /// Open an SQL shell
    Sql(sql::SqlArgs),
    /// Look at a running cluster
    Admin(admin::AdminArgs),
    /// Look into a stopped node's files, or, when nothing else is left, repair them
    Debug(debug::DebugArgs),
    /// Start a cluster of one's own, break it, and check what clients saw
    Verify(verify::VerifyArgs),
    /// Print the version
    Version,
}

/// The binary's `main`.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Start(settings) => start::run(*settings, false),
        Command::StartSingleNode(settings) => start::run(*settings, true),
        Command::Init(args) => init::run(args),
        Command::Sql(args) => return sql::run(args),
        Command::Admin(args) => admin::run(args),
        Command::Debug(args) => debug::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Version => print(&format!("flotilla {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "flotilla: {failure}");
            failure.status()
        }
    }
}

/// Output of a command. A reader that has gone away (a pager, `head`) is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::other(error)),
        _ => Ok(()),
    }
}
