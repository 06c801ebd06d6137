//! Workloads: what clients ask of a cluster.
//!
//! A workload makes its tables, draws invocations, and carries each out through a [`Session`]. It keeps what it needs to draw sensible
//! ones (values that differ, keys that are retired) in atomics, never what the cluster answered: answers go to the history.
//!
//! To add one: a file here, a line in [`ALL`].

mod advisory;
mod append;
mod bank;
mod comments;
mod counter;
mod ddl;
mod foreign_key;
mod lock;
mod long_fork;
mod register;
mod rw_register;
mod sequential;
mod session;
mod set;
mod write_skew;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use crate::history::{FINAL_READ, Kind, Process, SPLIT_AT, Value};

pub use session::{Failure, Session};

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What is called.
    pub f: &'static str,
    /// With what.
    pub value: Value,
}

impl Invocation {
    fn new(f: &'static str, value: impl Into<Value>) -> Self {
        Self { f, value: value.into() }
    }

    /// How a history has one half of it, which has this value: `process`, or those from it on, do only what checkers elsewhere know, too.
    pub fn written(
        &self,
        process: u64,
        kind: Kind,
        value: &Value,
    ) -> Vec<(Process, Kind, &'static str, Value)> {
        match (self.f, kind) {
            (SPLIT_AT, Kind::Invoke) => Vec::new(),
            (SPLIT_AT, _) => vec![(Process::Nemesis, Kind::Info, SPLIT_AT, value.clone())],
            (READ_KEYS, _) => {
                let pairs = value.as_slice().unwrap_or_default().iter();
                let read =
                    |(pair, process): (&Value, u64)| (Process::Client(process), kind, "read", pair.clone());
                pairs.zip(process..).map(read).collect()
            }
            _ => vec![(Process::Client(process), kind, self.f, value.clone())],
        }
    }
}

/// One look at all keys of a table, from `[[key nil] …]` to `[[key value] …]`. It is in no history: there it is one `read` of each key,
/// each by a process of its own, all at the same time.
pub const READ_KEYS: &str = "read-keys";

/// The completed value, or how it failed.
pub type Answer = Result<Value, Failure>;

/// What clients ask.
pub trait Workload: Send + Sync {
    /// Statements that make the tables anew, each in a transaction of its own.
    fn setup(&self) -> Vec<String>;

    /// What the tables hold then, for whom that matters: a call that was answered before all others.
    fn opening(&self) -> Option<Invocation> {
        None
    }

    /// The next call of a client.
    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation;

    /// Carries a call out.
    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer>;

    /// Calls made at each node when everything is whole again.
    fn last(&self) -> Vec<Invocation> {
        Vec::new()
    }
}

/// An entry of the registry.
pub struct Entry {
    /// What it is called.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Which checkers its history must pass, beside `availability` and `progress`.
    pub checkers: &'static [&'static str],
    /// The table whose shards are meant by faults of "a shard's leader"; none if it has no rows.
    pub table: &'static str,
    /// Makes it.
    pub make: fn() -> Arc<dyn Workload>,
}

/// All workloads.
pub const ALL: &[Entry] = &[
    Entry {
        name: "register",
        about: "read, write and compare-and-set of single rows",
        checkers: &["linear"],
        table: "registers",
        make: || Arc::new(register::Register::default()),
    },
    Entry {
        name: "one-shard",
        about: "reads and writes of rows in one shard: with `partition-sole-leader` it finds whoever thinks that it still leads",
        checkers: &["linear"],
        table: "registers",
        make: || Arc::new(register::Register::one_shard()),
    },
    Entry {
        name: "bank",
        about: "transfers between accounts on many shards, and looks at all of them",
        checkers: &["bank"],
        table: "bank",
        make: || Arc::new(bank::Bank),
    },
    Entry {
        name: "set",
        about: "inserts into a table on many shards, and reads of all of it",
        checkers: &["set"],
        table: "elements",
        make: || Arc::new(set::Set::default()),
    },
    Entry {
        name: "list-append",
        about: "transactions that append to and read lists on many shards",
        checkers: &["list-append"],
        table: "lists",
        make: || Arc::new(append::Append::hashed()),
    },
    Entry {
        name: "split",
        about: "the same on a table that is split again and again",
        checkers: &["list-append"],
        table: "lists",
        make: || Arc::new(append::Append::split()),
    },
    Entry {
        name: "rw-register",
        about: "transactions that write and read registers on many shards",
        checkers: &["rw-register"],
        table: "versions",
        make: || Arc::new(rw_register::RwRegister::default()),
    },
    Entry {
        name: "monotonic",
        about: "increments of counters on many shards, and snapshots of all of them",
        checkers: &["monotonic"],
        table: "counters",
        make: || Arc::new(counter::Counter::monotonic()),
    },
    Entry {
        name: "sequential",
        about: "rows written one after the other by one client, and read backwards",
        checkers: &["sequential"],
        table: "rows_in_order",
        make: || Arc::new(sequential::Sequential::default()),
    },
    Entry {
        name: "comments",
        about: "blind inserts on many shards, and reads of all of them: causal order",
        checkers: &["comments"],
        table: "comments",
        make: || Arc::new(comments::Comments::default()),
    },
    Entry {
        name: "long-fork",
        about: "single writes of groups of keys, and reads of whole groups",
        checkers: &["long-fork", "rw-register"],
        table: "forks",
        make: || Arc::new(long_fork::LongFork::default()),
    },
    Entry {
        name: "write-skew",
        about: "pairs of inserts that exclude each other through a predicate",
        checkers: &["write-skew"],
        table: "skew_a",
        make: || Arc::new(write_skew::WriteSkew::predicate()),
    },
    Entry {
        name: "unique",
        about: "inserts of equal values into a unique column",
        checkers: &["write-skew"],
        table: "uniques",
        make: || Arc::new(write_skew::WriteSkew::unique()),
    },
    Entry {
        name: "foreign-key",
        about: "rows that refer to others, which are deleted and made again meanwhile, at all isolation levels",
        checkers: &["foreign-key"],
        table: "parents",
        make: || Arc::new(foreign_key::ForeignKey::default()),
    },
    Entry {
        name: "upsert",
        about: "INSERT … ON CONFLICT DO UPDATE of rows that are not there yet",
        checkers: &["counter"],
        table: "counters",
        make: || Arc::new(counter::Counter::upsert()),
    },
    Entry {
        name: "hot-row",
        about: "increments of one row, in one statement and in several",
        checkers: &["counter"],
        table: "counters",
        make: || Arc::new(counter::Counter::hot_row()),
    },
    Entry {
        name: "lock",
        about: "locks taken and released by conditional updates: mutual exclusion",
        checkers: &["linear"],
        table: "locks",
        make: || Arc::new(lock::Lock::default()),
    },
    Entry {
        name: "advisory",
        about: "advisory locks of sessions and transactions: mutual exclusion, for as long as the holder is told that it holds",
        checkers: &["mutex"],
        table: "",
        make: || Arc::new(advisory::Advisory::default()),
    },
    Entry {
        name: "ddl",
        about: "inserts while columns, indexes and tables come and go, and reads by table and by index",
        checkers: &["set", "schema"],
        table: "changing",
        make: || Arc::new(ddl::Ddl::default()),
    },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

/// The last call of a workload with single keys: what all that were ever used have, `[[key value] …]`. It is called with how many.
fn final_read(keys: i64) -> Vec<Invocation> {
    vec![Invocation::new(FINAL_READ, keys)]
}

/// The same, for workloads whose histories are to be read by checkers elsewhere: they know reads of one key.
fn read_keys(keys: i64) -> Vec<Invocation> {
    let pairs = (0..keys).map(|key| Value::pair(key, Value::Nil));
    vec![Invocation::new(READ_KEYS, Value::Vector(pairs.collect()))]
}

/// The answer to [`final_read`] and [`read_keys`], from rows of key and value: `missing` where there is no row.
fn all_keys(call: &Invocation, rows: &session::Rows, missing: Value) -> Value {
    let found: std::collections::HashMap<Option<i64>, Option<i64>> =
        (0..rows.len()).map(|row| (session::int(rows, row, 0), session::int(rows, row, 1))).collect();
    let keys = 0..match &call.value {
        Value::Vector(pairs) => pairs.len() as i64,
        count => count.as_int().unwrap_or_default(),
    };
    let value = |key: i64| found.get(&Some(key)).map_or(missing.clone(), |value| Value::from(*value));
    Value::Vector(keys.map(|key| Value::pair(key, value(key))).collect())
}

/// The answer to [`final_read`] of a workload whose keys have several rows, from rows of key and number.
fn all_groups(call: &Invocation, rows: &session::Rows) -> std::collections::BTreeMap<i64, Vec<i64>> {
    let keys = 0..call.value.as_int().unwrap_or_default();
    let mut groups: std::collections::BTreeMap<i64, Vec<i64>> = keys.map(|key| (key, Vec::new())).collect();
    for row in 0..rows.len() {
        if let (Some(key), Some(number)) = (session::int(rows, row, 0), session::int(rows, row, 1)) {
            groups.entry(key).or_default().push(number);
        }
    }
    groups
}

/// Statements that make a table anew, spread over shards by its key.
fn sharded(table: &str, columns: &str) -> Vec<String> {
    vec![
        format!("DROP TABLE IF EXISTS {table}"),
        format!("CREATE TABLE {table} ({columns}) WITH (sharding = 'hash', shards = 6)"),
    ]
}

/// Keys of which a few are in use at a time; each is retired after some calls, so that no key's history grows long and
/// crashed calls don't pile up on it.
struct Keys {
    calls: AtomicI64,
    at_a_time: i64,
    calls_per_key: i64,
}

impl Keys {
    fn new(at_a_time: i64, calls_per_key: i64) -> Self {
        Self { calls: AtomicI64::new(0), at_a_time, calls_per_key }
    }

    fn draw(&self, rng: &mut StdRng) -> i64 {
        // After each `calls_per_key` calls the window has moved on by one key, whose share of all calls that is.
        let oldest = self.calls.fetch_add(1, Ordering::Relaxed) / self.calls_per_key;
        oldest + rng.random_range(0..self.at_a_time)
    }

    /// How many were ever in use.
    fn used(&self) -> i64 {
        self.calls.load(Ordering::Relaxed) / self.calls_per_key + self.at_a_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker;

    #[test]
    fn every_workload_names_checkers_and_a_table_that_there_are() {
        for entry in ALL {
            assert!(!entry.checkers.is_empty(), "{}", entry.name);
            for name in entry.checkers {
                assert!(checker::find(name).is_some(), "{}: no checker {name}", entry.name);
            }
            let create = format!("CREATE TABLE {} (", entry.table);
            let made = (entry.make)().setup().iter().any(|sql| sql.starts_with(&create));
            assert_eq!(made, !entry.table.is_empty(), "{}: {create}", entry.name);
        }
    }
}
