//! txn

pub mod api;
mod error;

pub use storage::{ids, seam};

pub use error::{Error, Remedy};
