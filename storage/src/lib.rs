//! storage

mod crc32c;
pub mod engine;
mod error;
pub mod gc;
pub mod ids;
pub mod intents;
pub mod keys;
pub mod mvcc;
pub mod options;
pub mod raft_log;
pub mod seam;
pub mod snapshot;
pub mod store;
mod verify;
mod wal_check;

pub use engine::{Batch, Cf, Engine, Snapshot};
pub use error::{Error, Remedy};
pub use options::StoreOptions;
pub use raft_log::{LogEngine, LogState};
pub use store::{Identity, Store};

#[cfg(test)]
mod tests;
