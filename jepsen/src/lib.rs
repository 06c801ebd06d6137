//! Drives a running cluster through real clients, breaks it, and says whether what the clients saw was allowed.
//!
//! ```text
//!   workload ──invocations──▶ processes (tokio-postgres) ──▶ the cluster ◀── fault (on a schedule from the seed)
//!                                   │                                           │
//!                                   └────────▶ history.edn ◀────────────────────┘
//!                                                  │
//!                                        checker (pure functions) ──▶ verdict, pictures
//! ```
//!
//! - A *workload* ([`workload`]) says what clients ask, and which checkers its history must pass.
//! - A *history* ([`history`]) is the list of what was asked and answered, in Jepsen's form.
//! - A *checker* ([`checker`]) is a pure function from a history to the anomalies in it, and is itself tested on the histories of
//!   `corpus/`, each of which is clean or has an anomaly by name.
//! - A *fault* ([`fault`]) is done to a cluster and undone; the network's through proxies of our own
//!   ([`links`]), the disk's through a library that is loaded into the nodes ([`fault::disk`]).
//! - A *run* ([`run`]) puts them together and leaves a folder with everything that is needed to understand it.
//! - Measurements: for how long clients get no answer when a node fails ([`gaps`]), what groups without work cost
//!   ([`quiet`]), how a node catches up that was away ([`absence`]).
//!
//! Nothing of this knows the product from inside: workloads and checkers could be pointed at PostgreSQL. [`sim`] does: it runs the
//! product's own rooms, without SQL, in a simulated machine, where a seed does the same thing again.
//!
//! A verdict has three values. *Invalid* means that no strictly serializable execution explains the history. *Unknown* means that the
//! checker gave up or that too little happened. A verdict is about the history only: a clean one proves nothing about other runs.
//!
//! Start at [`run::run`], or at [`sim`].

pub mod absence;
pub mod checker;
pub mod cluster;
pub mod fault;
pub mod gaps;
pub mod history;
pub mod links;
mod observe;
pub mod quiet;
pub mod report;
pub mod run;
pub mod sim;
pub mod workload;
