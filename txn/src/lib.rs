//! txn

pub mod api;
pub mod cluster;
mod command;
pub mod coordinator;
pub mod descriptor;
mod error;
mod keys;
mod latch;
mod router;
pub mod server;
pub mod shard;
mod spans;
pub mod transport;
mod wire;

pub use cluster::{Directory, Oracle};
pub use coordinator::{Cluster, CoordinatorOptions};
pub use descriptor::ShardDescriptor;
pub use server::ShardServer;
pub use shard::{Registry, ShardFactory};
pub use storage::{ids, seam};
pub use transport::ShardService;

pub use error::{Error, Remedy};
