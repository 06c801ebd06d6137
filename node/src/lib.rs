//! The `flotilla` binary.

pub mod cli;
