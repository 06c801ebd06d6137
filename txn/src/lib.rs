//! txn

pub mod api;
mod error;

pub use error::{Error, Remedy};
