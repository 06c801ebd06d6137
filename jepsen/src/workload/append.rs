//! Transactions that append to lists and read them. A list is a text of numbers in one row.
//!
//! The table is spread by a hash, or (`split`) begins in one piece, by key, and is split under the clients' hands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::{Failure, Rows, int};
use super::{Answer, Invocation, Keys, Session, Workload, sharded};
use crate::history::{SPLIT_AT, Value};

const STEPS_MAX: usize = 4;

pub struct Append {
    splits: bool,
    keys: Keys,
    next: AtomicI64,
}

/// Of so many calls, one splits the table.
const SPLIT_EVERY: u32 = 60;

impl Append {
    pub fn hashed() -> Self {
        Self { splits: false, keys: Keys::new(6, 80), next: AtomicI64::new(1) }
    }

    pub fn split() -> Self {
        Self { splits: true, ..Self::hashed() }
    }
}

impl Workload for Append {
    fn setup(&self) -> Vec<String> {
        if self.splits {
            let create = "CREATE TABLE lists (k int PRIMARY KEY, v text NOT NULL)";
            return vec!["DROP TABLE IF EXISTS lists".to_owned(), create.to_owned()];
        }
        sharded("lists", "k int PRIMARY KEY, v text NOT NULL")
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        if self.splits && rng.random_ratio(1, SPLIT_EVERY) {
            return Invocation::new(SPLIT_AT, self.keys.draw(rng));
        }
        let steps = (0..rng.random_range(1..=STEPS_MAX)).map(|_| {
            let key = Value::Int(self.keys.draw(rng));
            if rng.random_bool(0.5) {
                Value::Vector(vec![Value::keyword("r"), key, Value::Nil])
            } else {
                Value::Vector(vec![
                    Value::keyword("append"),
                    key,
                    self.next.fetch_add(1, Ordering::Relaxed).into(),
                ])
            }
        });
        Invocation::new("txn", Value::Vector(steps.collect()))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == SPLIT_AT {
                session.write(&format!("ALTER TABLE lists SPLIT AT VALUES ({})", call.value)).await?;
                return Ok(call.value.clone());
            }
            let steps = call.value.as_slice().unwrap_or_default();
            if steps.len() > STEPS_MAX {
                let rows = session.read("SELECT k, v FROM lists").await?;
                return everything(steps, &rows);
            }
            // One statement is a transaction by itself, and takes another way through the database.
            if let [step] = steps {
                let (sql, changes) = statement(step);
                let rows = if changes { session.write(&sql).await?.0 } else { session.read(&sql).await? };
                return Ok(Value::Vector(vec![completed(step, &rows)?]));
            }
            // Or all in one message, which is a transaction, too.
            if sent_at_once(steps) {
                let statements: Vec<String> = steps.iter().map(|step| statement(step).0).collect();
                let answers = session.batch(&statements).await?;
                let done = steps.iter().zip(&answers).map(|(step, rows)| completed(step, rows));
                return Ok(Value::Vector(done.collect::<Result<_, _>>()?));
            }
            session
                .transaction(async |open| {
                    let mut done = Vec::new();
                    for step in steps {
                        let (rows, _) = open.run(&statement(step).0).await?;
                        done.push(completed(step, &rows)?);
                    }
                    Ok(Value::Vector(done))
                })
                .await
        }
        .boxed()
    }

    /// All lists, in one transaction.
    fn last(&self) -> Vec<Invocation> {
        let keys = self.keys.used().max(STEPS_MAX as i64 + 1);
        let steps = (0..keys).map(|key| Value::Vector(vec![Value::keyword("r"), key.into(), Value::Nil]));
        vec![Invocation::new("txn", Value::Vector(steps.collect()))]
    }
}

/// Reads of all lists, from the rows of the whole table.
fn everything(steps: &[Value], rows: &Rows) -> Answer {
    let mut lists: HashMap<i64, &str> = HashMap::new();
    for n in 0..rows.len() {
        if let (Some(key), Some(Some(list))) = (int(rows, n, 0), rows[n].get(1)) {
            lists.insert(key, list);
        }
    }
    let read = |step: &Value| {
        let list = step.as_slice().and_then(|step| lists.get(&step[1].as_int()?).copied());
        completed(step, &vec![vec![list.map(str::to_owned)]])
    };
    Ok(Value::Vector(steps.iter().map(read).collect::<Result<_, _>>()?))
}

/// As good as random, and the same for the same call.
fn sent_at_once(steps: &[Value]) -> bool {
    steps.iter().filter_map(|step| step.as_slice()?[1].as_int()).sum::<i64>() % 4 == 0
}

/// A step's SQL, and whether it changes anything.
fn statement(step: &Value) -> (String, bool) {
    match step.as_slice() {
        Some([f, key, value]) if f.as_name() == Some("append") => (
            format!(
                "INSERT INTO lists VALUES ({key}, '{value}') ON CONFLICT (k) DO UPDATE SET v = lists.v || ' {value}'"
            ),
            true,
        ),
        Some([_, key, _]) => (format!("SELECT v FROM lists WHERE k = {key}"), false),
        _ => (String::new(), false),
    }
}

fn completed(step: &Value, rows: &Rows) -> Result<Value, Failure> {
    let Some([f, key, _]) = step.as_slice().filter(|s| s[0].as_name() == Some("r")) else {
        return Ok(step.clone());
    };
    let list = rows.first().and_then(|row| row.first()?.as_deref()).unwrap_or_default();
    let numbers: Result<Vec<i64>, _> = list.split_whitespace().map(str::parse).collect();
    let numbers = numbers.map_err(|_| Failure::Fail(format!("'{list}' is no list")))?;
    Ok(Value::Vector(vec![f.clone(), key.clone(), Value::vector(numbers)]))
}
