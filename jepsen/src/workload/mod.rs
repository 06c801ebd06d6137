//! Workloads.

pub mod bank;
