//! What simulated clients ask, straight of [`Database`]: SQL is not simulated. The histories have the same form as those of
//! [`crate::workload`], for the same checkers.

mod append;
mod bank;
mod register;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use txn::Error;
use txn::api::{BeginOptions, Database, Expect, Key, Transaction, Write};

use crate::workload::{Answer, Failure, Invocation};

/// What clients ask.
pub trait Workload: Send + Sync {
    /// Rows to begin with; may be repeated.
    fn setup<'a>(&'a self, database: &'a Arc<dyn Database>) -> BoxFuture<'a, Result<(), Error>>;

    /// How many rows there are to be cut into shards: of number 0, 1, …
    fn rows(&self) -> u32;

    /// The next call of a client.
    fn next(&self, rng: &mut StdRng) -> Invocation;

    /// Carries a call out.
    fn apply<'a>(&'a self, database: &'a Arc<dyn Database>, call: &'a Invocation) -> BoxFuture<'a, Answer>;

    /// Calls made at each node when everything is whole again.
    fn last(&self) -> Vec<Invocation>;
}

/// An entry of the registry.
pub struct Entry {
    /// What it is called.
    pub name: &'static str,
    /// Which checker its history must pass, beside `progress`.
    pub checker: &'static str,
    /// Makes it.
    pub make: fn() -> Arc<dyn Workload>,
}

/// All of them.
pub const ALL: &[Entry] = &[
    Entry { name: "bank", checker: "bank", make: || Arc::new(bank::Bank) },
    Entry { name: "list-append", checker: "list-append", make: || Arc::new(append::Append::default()) },
    Entry { name: "register", checker: "linear", make: || Arc::new(register::Register) },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

/// The key of a row: of the first table in the first database.
pub fn key(row: u32) -> Key {
    let mut key = vec![0, 0, 0, 2, 0, 0, 0, 1];
    key.extend(row.to_be_bytes());
    // A key must not end like a fence.
    key.push(0x80);
    key.into()
}

fn encode(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn decode(value: Option<&Bytes>) -> Option<i64> {
    value.and_then(|bytes| bytes[..].try_into().ok()).map(i64::from_be_bytes)
}

fn put(row: u32, value: Bytes) -> Write {
    Write { key: key(row), value: Some(value), expect: Expect::Any }
}

fn begin(database: &Arc<dyn Database>) -> Arc<dyn Transaction> {
    database.begin(BeginOptions::default())
}

/// Writes the rows with these numbers and deletes them: there is nothing to be read then, but something to cut between.
pub(super) async fn leave_traces(database: &Arc<dyn Database>, rows: u32) -> Result<(), Error> {
    for value in [Some(encode(0)), None] {
        let writes = (0..rows).map(|row| Write { key: key(row), value: value.clone(), expect: Expect::Any });
        let txn = begin(database);
        txn.write(writes.collect(), &[]).await?;
        txn.commit().await?;
    }
    Ok(())
}

/// An error as a client takes it: only of an ambiguous one is it unknown whether it happened.
fn failure(error: Error) -> Failure {
    match error {
        Error::Ambiguous(_) => Failure::Info(error.to_string()),
        // What no fault excuses.
        Error::Internal(_) | Error::Corruption(_) | Error::Invalid(_) => {
            Failure::Fail(format!("{DEFECT}{error}"))
        }
        _ => Failure::Fail(error.to_string()),
    }
}

/// Errors that begin with this are findings by themselves.
pub const DEFECT: &str = "defect: ";
