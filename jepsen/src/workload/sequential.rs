//! One client writes rows one after the other, each in a transaction of its own; others read them backwards.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::int;
use super::{Answer, Failure, Invocation, Session, Workload, all_groups, final_read, sharded};
use crate::history::{FINAL_READ, Value};

const ROWS: i64 = 5;

#[derive(Default)]
pub struct Sequential {
    next: AtomicI64,
}

impl Workload for Sequential {
    fn setup(&self) -> Vec<String> {
        sharded("rows_in_order", "k int, n int, PRIMARY KEY (k, n)")
    }

    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation {
        if worker.is_multiple_of(3) {
            return Invocation::new("write", self.next.fetch_add(1, Ordering::Relaxed));
        }
        // Those that are probably being written.
        let newest = self.next.load(Ordering::Relaxed);
        Invocation::new("read", Value::pair((newest - rng.random_range(0..3)).max(0), Value::Nil))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == FINAL_READ {
                let rows = session.read("SELECT k, n FROM rows_in_order").await?;
                let backwards = |there: Vec<i64>| {
                    let found = (0..ROWS).rev().map(|n| Value::from(there.contains(&n).then_some(n)));
                    Value::Vector(found.collect())
                };
                let keys = all_groups(call, &rows).into_iter();
                return Ok(Value::Vector(
                    keys.map(|(key, rows)| Value::pair(key, backwards(rows))).collect(),
                ));
            }
            let Some((key, _)) = call.value.as_pair() else {
                for n in 0..ROWS {
                    let sql = format!("INSERT INTO rows_in_order VALUES ({}, {n})", call.value);
                    // After the first row it has happened in part.
                    session.write(&sql).await.map_err(|failure| match failure {
                        Failure::Fail(why) if n > 0 => Failure::Info(why),
                        failure => failure,
                    })?;
                }
                return Ok(call.value.clone());
            };
            let mut found = Vec::new();
            for n in (0..ROWS).rev() {
                let sql = format!("SELECT n FROM rows_in_order WHERE k = {key} AND n = {n}");
                found.push(Value::from(int(&session.read(&sql).await?, 0, 0)));
            }
            Ok(Value::pair(key.clone(), Value::Vector(found)))
        }
        .boxed()
    }
    fn last(&self) -> Vec<Invocation> {
        final_read(self.next.load(Ordering::Relaxed))
    }
}
