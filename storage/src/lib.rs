//! storage

pub mod engine;
mod error;
pub mod ids;
pub mod intents;
pub mod keys;
pub mod mvcc;
pub mod options;
pub mod raft_log;
pub mod seam;

pub use engine::{Batch, Cf, Engine, Snapshot};
pub use error::{Error, Remedy};
pub use options::StoreOptions;
