//! SQL over PostgreSQL's protocol.
//!
//! ```text
//!   protocol ──▶ session ──▶ bind ──▶ ir ──▶ exec ──▶ txn::api::Transaction
//!   (messages)   (blocks,    (names,          │ └──▶ flow (DataFusion)
//!                 retries)    types)          └ direct plans, writes, schema changes
//!                    │           │
//!                 settings    catalog (data in the system shard, fenced by versions)   types, function (the kernels)
//! ```
//!
//! A statement comes in as messages ([`protocol`]), belongs to a [`session`], is bound by PostgreSQL's rules into a typed
//! representation ([`bind`], [`ir`]) and executed ([`exec`]): what touches few rows by key directly, with the row evaluator;
//! everything else by DataFusion ([`flow`]), which computes scalar expressions with the same kernels ([`function`]).
//! Writes are always planned here, as transaction operations.
//!
//! This crate knows keys and values and a transaction that carries them (`txn::api`). It must never know RocksDB, Raft, or where
//! a shard is, beyond the ranges that `Database::shards` names.
//!
//! Invariants:
//!
//! - What the binder does not know is refused with `0A000`; nothing is silently ignored.
//! - Every read and write of a table carries its fence, so that what was planned against an old schema is refused.
//! - A statement is run again only if nothing was sent to its client and the failed attempt had no effect.
//! - Nothing that a client sends makes this crate panic or hold unbounded memory.
//!
//! Where to start: [`server`] accepts, `protocol::connection` reads messages, `session::Session::run_simple` runs a
//! statement, `exec::execute` carries it out.

pub mod bind;
pub mod catalog;
pub mod error;
pub mod eval;
pub mod exec;
pub mod flow;
pub mod function;
pub mod ir;
pub mod protocol;
pub mod server;
pub mod session;
#[cfg(test)]
mod testing;
pub mod types;

pub use error::{Result, SqlError, SqlState};

/// The version that clients are told: that of the PostgreSQL whose behaviour is followed.
pub const PG_VERSION: &str = "15.0";
/// The same as a number.
pub const PG_VERSION_NUM: &str = "150000";
