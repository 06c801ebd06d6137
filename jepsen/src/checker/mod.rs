//! Checkers.

pub mod bank;
