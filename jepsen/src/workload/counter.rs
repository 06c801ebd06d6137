//! Counters, in three shapes: many of them read together (`monotonic`), rows that are not there yet (`upsert`), and one row that
//! everybody wants (`hot-row`).

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::int;
use super::{Answer, Failure, Invocation, Keys, Session, Workload, all_keys, final_read, sharded};
use crate::history::{FINAL_READ, Value};

/// Counters that are read together.
const TOGETHER: i64 = 8;

/// An increment that locks the row when it reads it.
const FOR_UPDATE: &str = "for-update";

enum Shape {
    Monotonic,
    Upsert(Keys),
    HotRow,
}

pub struct Counter {
    shape: Shape,
}

impl Counter {
    pub fn monotonic() -> Self {
        Self { shape: Shape::Monotonic }
    }

    pub fn upsert() -> Self {
        // Rows are used up fast: the race is about which insert is first.
        Self { shape: Shape::Upsert(Keys::new(3, 8)) }
    }

    pub fn hot_row() -> Self {
        Self { shape: Shape::HotRow }
    }

    async fn increment(&self, session: &Session, key: &Value) -> Answer {
        let update = format!("UPDATE counters SET n = n + 1 WHERE k = {key} RETURNING n");
        let rows = match self.shape {
            Shape::Upsert(_) => {
                let sql = format!(
                    "INSERT INTO counters VALUES ({key}, 1) \
                     ON CONFLICT (k) DO UPDATE SET n = counters.n + 1 RETURNING n"
                );
                session.write(&sql).await?.0
            }
            _ => session.write(&update).await?.0,
        };
        match int(&rows, 0, 0) {
            Some(n) => Ok(Value::pair(key.clone(), n)),
            // It answered, and with nothing: the row is gone.
            None => Err(Failure::Info(format!("no row returned for {key}"))),
        }
    }
}

async fn read_then_write(session: &Session, key: &Value, how: &Value) -> Answer {
    let lock = if how.as_name() == Some(FOR_UPDATE) { " FOR UPDATE" } else { "" };
    session
        .transaction(async |open| {
            let (rows, _) = open.run(&format!("SELECT n FROM counters WHERE k = {key}{lock}")).await?;
            let n = int(&rows, 0, 0).ok_or_else(|| Failure::Fail("no row".to_owned()))? + 1;
            open.run(&format!("UPDATE counters SET n = {n} WHERE k = {key}")).await?;
            Ok(Value::pair(key.clone(), n))
        })
        .await
}

impl Workload for Counter {
    fn setup(&self) -> Vec<String> {
        let mut statements = sharded("counters", "k int PRIMARY KEY, n int NOT NULL");
        if !matches!(self.shape, Shape::Upsert(_)) {
            statements.push(format!(
                "INSERT INTO counters SELECT k, 0 FROM generate_series(0, {TOGETHER} - 1) AS g(k)"
            ));
        }
        statements
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        match &self.shape {
            Shape::Monotonic if rng.random_bool(0.4) => Invocation::new("read", Value::Nil),
            Shape::Monotonic => {
                Invocation::new("inc", Value::pair(rng.random_range(0..TOGETHER), Value::Nil))
            }
            Shape::Upsert(keys) => {
                let key = Value::pair(keys.draw(rng), Value::Nil);
                Invocation::new(if rng.random_bool(0.3) { "read" } else { "inc" }, key)
            }
            Shape::HotRow => {
                let f = ["read", "inc", "inc"][rng.random_range(0..3)];
                let how = match rng.random_range(0..6) {
                    0 => Value::keyword("two-statements"),
                    1 => Value::keyword(FOR_UPDATE),
                    _ => Value::Nil,
                };
                Invocation::new(f, Value::pair(0, how))
            }
        }
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == FINAL_READ {
                let rows = session.read("SELECT k, n FROM counters").await?;
                return Ok(all_keys(call, &rows, Value::Int(0)));
            }
            let Some((key, how)) = call.value.as_pair() else {
                let rows = session.read("SELECT k, n FROM counters ORDER BY k").await?;
                let pairs = (0..rows.len()).map(|row| Value::pair(int(&rows, row, 0), int(&rows, row, 1)));
                return Ok(Value::Vector(pairs.collect()));
            };
            if call.f == "read" {
                let rows = session.read(&format!("SELECT n FROM counters WHERE k = {key}")).await?;
                return Ok(Value::pair(key.clone(), int(&rows, 0, 0).unwrap_or(0)));
            }
            if *how == Value::Nil {
                self.increment(session, key).await
            } else {
                read_then_write(session, key, how).await
            }
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        match &self.shape {
            Shape::Monotonic => vec![Invocation::new("read", Value::Nil)],
            Shape::Upsert(keys) => final_read(keys.used()),
            Shape::HotRow => vec![Invocation::new("read", Value::pair(0, Value::Nil))],
        }
    }
}
