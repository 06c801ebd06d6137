//! txn

pub mod api;
pub mod cluster;
pub mod descriptor;
mod error;

pub use cluster::{Directory, Oracle};
pub use descriptor::ShardDescriptor;
pub use storage::{ids, seam};

pub use error::{Error, Remedy};
