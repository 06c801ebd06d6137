//! Transactions that write registers and read them.
//!
//! Most writes follow a read of the same key in the same transaction, which tells the checker the order of versions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::int;
use super::{Answer, Invocation, Keys, Session, Workload, sharded};
use crate::history::Value;

const KEYS_PER_TRANSACTION_MAX: usize = 3;

pub struct RwRegister {
    keys: Keys,
    next: AtomicI64,
}

impl Default for RwRegister {
    fn default() -> Self {
        Self { keys: Keys::new(6, 40), next: AtomicI64::new(1) }
    }
}

pub(super) fn step(f: &str, key: &Value, value: impl Into<Value>) -> Value {
    Value::Vector(vec![Value::keyword(f), key.clone(), value.into()])
}

impl Workload for RwRegister {
    fn setup(&self) -> Vec<String> {
        sharded("versions", "k int PRIMARY KEY, v int NOT NULL")
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        let mut steps = Vec::new();
        for _ in 0..rng.random_range(1..=KEYS_PER_TRANSACTION_MAX) {
            let key = Value::Int(self.keys.draw(rng));
            let (reads, writes) = match rng.random_range(0..10) {
                0..4 => (true, false),
                4..9 => (true, true),
                _ => (false, true),
            };
            if reads {
                steps.push(step("r", &key, Value::Nil));
            }
            if writes {
                steps.push(step("w", &key, self.next.fetch_add(1, Ordering::Relaxed)));
            }
        }
        Invocation::new("txn", Value::Vector(steps))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            let steps = call.value.as_slice().unwrap_or_default();
            if steps.len() > 2 * KEYS_PER_TRANSACTION_MAX {
                return everything(session, steps, "versions").await;
            }
            if let [only] = steps {
                let sql = statement(only, "versions");
                let rows =
                    if is_read(only) { session.read(&sql).await? } else { session.write(&sql).await?.0 };
                return Ok(Value::Vector(vec![completed(only, int(&rows, 0, 0))]));
            }
            session
                .transaction(async |open| {
                    let mut done = Vec::new();
                    for step in steps {
                        let (rows, _) = open.run(&statement(step, "versions")).await?;
                        done.push(completed(step, int(&rows, 0, 0)));
                    }
                    Ok(Value::Vector(done))
                })
                .await
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        read_all(self.keys.used().max(2 * KEYS_PER_TRANSACTION_MAX as i64 + 1))
    }
}

/// The last call: reads of all keys, in one transaction.
pub(super) fn read_all(keys: i64) -> Vec<Invocation> {
    let steps = (0..keys).map(|key| step("r", &key.into(), Value::Nil));
    vec![Invocation::new("txn", Value::Vector(steps.collect()))]
}

/// Its answer, from one look at the whole table.
pub(super) async fn everything(session: &Session, steps: &[Value], table: &str) -> Answer {
    let rows = session.read(&format!("SELECT k, v FROM {table}")).await?;
    let versions: HashMap<Option<i64>, Option<i64>> =
        (0..rows.len()).map(|row| (int(&rows, row, 0), int(&rows, row, 1))).collect();
    let found = |step: &Value| *versions.get(&step.as_slice()?[1].as_int().map(Some)?)?;
    Ok(Value::Vector(steps.iter().map(|step| completed(step, found(step))).collect()))
}

fn is_read(step: &Value) -> bool {
    step.as_slice().is_some_and(|step| step[0].as_name() == Some("r"))
}

/// A step's SQL.
pub(super) fn statement(step: &Value, table: &str) -> String {
    match step.as_slice() {
        Some([f, key, value]) if f.as_name() == Some("w") => {
            format!(
                "INSERT INTO {table} VALUES ({key}, {value}) ON CONFLICT (k) DO UPDATE SET v = excluded.v"
            )
        }
        Some([_, key, _]) => format!("SELECT v FROM {table} WHERE k = {key}"),
        _ => String::new(),
    }
}

/// A step with what it read.
pub(super) fn completed(done: &Value, found: Option<i64>) -> Value {
    match done.as_slice() {
        Some([_, key, _]) if is_read(done) => step("r", key, found),
        _ => done.clone(),
    }
}
