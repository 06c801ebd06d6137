//! Workloads that drive a running cluster through real clients, and checkers that say whether what they saw was allowed.
//!
//! A *workload* ([`workload`]) makes concurrent clients run transactions against URLs of a cluster and writes down a
//! history. A *checker* ([`checker`]) is a pure function from a history to the anomalies in it, and is itself tested on histories
//! with known anomalies. Nothing in here knows the product from inside: it could be pointed at PostgreSQL.
//!
//! What is here: the **bank** workload. Faults, further workloads, histories as EDN and the simulator follow.
//!
//! Start at [`workload::bank`].

pub mod checker;
pub mod workload;
