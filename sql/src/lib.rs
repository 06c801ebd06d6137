//! sql

pub mod bind;
pub mod catalog;
pub mod error;
pub mod eval;
pub mod exec;
pub mod flow;
pub mod function;
pub mod ir;
#[cfg(test)]
mod testing;
pub mod types;

pub use error::{Result, SqlError, SqlState};
