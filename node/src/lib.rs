//! The `flotilla` binary: assembles a server out of the other rooms, and speaks to operators.
//!
//! Start at [`server`], where the whole assembly reads top to bottom; [`assembly`] is its middle part. The rest is small:
//!
//! - [`cli`]: the command line, one file per command;
//! - [`config`]: flags and the configuration file, which have the same names;
//! - [`adopt`]: replicas that this node should have and doesn't;
//! - [`bootstrap`]: how a store becomes the first of a cluster, or a member of one;
//! - [`rendezvous`]: how nodes that were all stopped find each other again;
//! - [`service`]: the gRPC services and HTTP routes that belong to no other room;
//! - [`exit`]: how a failure becomes one line and an exit status;
//! - [`local`]: the small files beside the databases in a store.
//!
//! There are no algorithms here. What decides something belongs to the room that knows why.
//!
//! # The life of a node
//!
//! ```text
//!   listen ──▶ open store ──▶ identity? ──yes──▶ raft ─▶ meta ─▶ txn ─▶ sql ──▶ ready
//!                                │ no                                             │
//!                                ▼                                          SIGTERM/SIGINT
//!               ask the --join list, or be asked to Init                         ▼
//!               (RPC answers "not initialised", SQL 57P03)      drain sql ─▶ hand leaderships over ─▶ flush
//! ```
//!
//! A panic anywhere ends the process: half a node is worse than none, since the others replace a dead one within a second.

pub mod adopt;
pub mod assembly;
pub mod bootstrap;
pub mod cli;
pub mod config;
mod disk;
pub mod exit;
pub mod local;
pub mod rendezvous;
pub mod runtime;
pub mod server;
pub mod service;
