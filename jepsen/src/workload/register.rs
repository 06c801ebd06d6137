//! Single rows as registers: read, write, compare-and-set, each one statement.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::int;
use super::{Answer, Failure, Invocation, Keys, READ_KEYS, Session, Workload, all_keys, read_keys, sharded};
use crate::history::Value;

/// Few values, so that a compare-and-set often finds the one it expects.
const VALUES: i64 = 5;

pub struct Register {
    keys: Keys,
    /// For whoever writes into one shard: no value comes twice, so that a read tells which write it saw.
    one_shard: Option<AtomicI64>,
}

impl Default for Register {
    fn default() -> Self {
        Self { keys: Keys::new(5, 60), one_shard: None }
    }
}

impl Register {
    /// In a table that lies in its database's shard: whoever hits that shard's leader hits all rows.
    ///
    /// Two of three clients only read, and there are many keys: a write that a leader without followers can't commit keeps
    /// its key from being read there, and its client waiting. What is left reads what the others have written over since.
    pub fn one_shard() -> Self {
        Self { keys: Keys::new(40, 60), one_shard: Some(AtomicI64::new(0)) }
    }
}

impl Workload for Register {
    fn setup(&self) -> Vec<String> {
        let columns = "k int PRIMARY KEY, v int NOT NULL";
        if self.one_shard.is_some() {
            let create = format!("CREATE TABLE registers ({columns})");
            return vec!["DROP TABLE IF EXISTS registers".to_owned(), create];
        }
        sharded("registers", columns)
    }

    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation {
        let key = self.keys.draw(rng);
        if let Some(last) = &self.one_shard {
            // Clients go to nodes in turn: with three of either, each node has one that writes.
            let reader = !(worker + worker / 3).is_multiple_of(3);
            return match reader || rng.random_bool(0.2) {
                true => Invocation::new("read", Value::pair(key, Value::Nil)),
                false => Invocation::new("write", Value::pair(key, last.fetch_add(1, Ordering::Relaxed))),
            };
        }
        let mut value = || rng.random_range(0..VALUES);
        let (a, b) = (value(), value());
        match rng.random_range(0..10) {
            0..5 => Invocation::new("read", Value::pair(key, Value::Nil)),
            5..8 => Invocation::new("write", Value::pair(key, a)),
            _ => Invocation::new("cas", Value::pair(key, Value::pair(a, b))),
        }
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == READ_KEYS {
                return Ok(all_keys(call, &session.read("SELECT k, v FROM registers").await?, Value::Nil));
            }
            let (key, value) = call.value.as_pair().unwrap_or((&Value::Nil, &Value::Nil));
            match (call.f, value.as_pair()) {
                ("read", _) => {
                    let rows = session.read(&format!("SELECT v FROM registers WHERE k = {key}")).await?;
                    Ok(Value::pair(key.clone(), int(&rows, 0, 0)))
                }
                ("cas", Some((old, new))) => {
                    let sql = format!("UPDATE registers SET v = {new} WHERE k = {key} AND v = {old}");
                    match session.write(&sql).await? {
                        (_, 1) => Ok(call.value.clone()),
                        _ => Err(Failure::declined("another value")),
                    }
                }
                _ => {
                    let sql = format!(
                        "INSERT INTO registers VALUES ({key}, {value}) ON CONFLICT (k) DO UPDATE SET v = excluded.v"
                    );
                    session.write(&sql).await?;
                    Ok(call.value.clone())
                }
            }
        }
        .boxed()
    }
    fn last(&self) -> Vec<Invocation> {
        read_keys(self.keys.used())
    }
}
