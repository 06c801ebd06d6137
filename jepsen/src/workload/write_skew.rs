//! Inserts of which one may succeed: because each first looks into two tables for a row of its key, or (`unique`) because the key's
//! column is unique.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::ints;
use super::{Answer, Failure, Invocation, Session, Workload, all_groups, final_read, sharded};
use crate::history::{FINAL_READ, Value};

/// Inserts that race for a key.
const RIVALS: i64 = 4;

pub struct WriteSkew {
    next: AtomicI64,
    /// One table with a unique column, instead of two and a look.
    unique: bool,
}

impl WriteSkew {
    pub fn predicate() -> Self {
        Self { next: AtomicI64::new(0), unique: false }
    }

    pub fn unique() -> Self {
        Self { next: AtomicI64::new(0), unique: true }
    }
}

impl Workload for WriteSkew {
    fn setup(&self) -> Vec<String> {
        if self.unique {
            return sharded("uniques", "id int PRIMARY KEY, key int NOT NULL UNIQUE");
        }
        ["skew_a", "skew_b"]
            .into_iter()
            .flat_map(|t| sharded(t, "id int PRIMARY KEY, key int NOT NULL"))
            .collect()
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        if rng.random_bool(0.2) {
            let key = self.next.load(Ordering::Relaxed) / RIVALS;
            return Invocation::new("read", Value::pair(key, Value::Nil));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Invocation::new("insert", Value::pair(id / RIVALS, id))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == FINAL_READ {
                let sql = match self.unique {
                    true => "SELECT key, id FROM uniques",
                    false => "SELECT key, id FROM skew_a UNION ALL SELECT key, id FROM skew_b",
                };
                let keys = all_groups(call, &session.read(sql).await?).into_iter();
                let pairs = keys.map(|(key, ids)| Value::pair(key, Value::vector(ids)));
                return Ok(Value::Vector(pairs.collect()));
            }
            let (key, id) = call.value.as_pair().unwrap_or((&Value::Nil, &Value::Nil));
            if self.unique {
                return one_of_many(session, call).await;
            }
            let find = |table: &str| format!("SELECT id FROM {table} WHERE key = {key}");
            if call.f == "read" {
                let sql = format!("{} UNION ALL {}", find("skew_a"), find("skew_b"));
                return Ok(Value::pair(key.clone(), Value::vector(ints(&session.read(&sql).await?))));
            }
            let into = if id.as_int().is_some_and(|id| id % 2 == 0) { "skew_a" } else { "skew_b" };
            session
                .transaction(async |open| {
                    for table in ["skew_a", "skew_b"] {
                        if !open.run(&find(table)).await?.0.is_empty() {
                            return Err(Failure::declined("taken"));
                        }
                    }
                    open.run(&format!("INSERT INTO {into} VALUES ({id}, {key})")).await?;
                    Ok(())
                })
                .await?;
            Ok(call.value.clone())
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        final_read(self.next.load(Ordering::Relaxed) / RIVALS + 1)
    }
}

async fn one_of_many(session: &Session, call: &Invocation) -> Answer {
    let (key, id) = call.value.as_pair().unwrap_or((&Value::Nil, &Value::Nil));
    if call.f == "read" {
        let rows = session.read(&format!("SELECT id FROM uniques WHERE key = {key}")).await?;
        return Ok(Value::pair(key.clone(), Value::vector(ints(&rows))));
    }
    match session.write(&format!("INSERT INTO uniques VALUES ({id}, {key})")).await {
        Err(Failure::Fail(why)) if why.starts_with("23505") => Err(Failure::declined(&why)),
        other => other.map(|_| call.value.clone()),
    }
}
