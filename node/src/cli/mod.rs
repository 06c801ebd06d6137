//! The commands of the `flotilla` binary.

pub mod sql;
