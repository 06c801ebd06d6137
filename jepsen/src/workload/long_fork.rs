//! Groups of keys, each written once; reads of whole groups, in one statement or in several of a transaction.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::rw_register::{completed, everything, read_all, statement, step};
use super::session::int;
use super::{Answer, Invocation, Session, Workload, sharded};
use crate::history::Value;

const GROUP: i64 = 4;

#[derive(Default)]
pub struct LongFork {
    next: AtomicI64,
}

impl Workload for LongFork {
    fn setup(&self) -> Vec<String> {
        sharded("forks", "k int PRIMARY KEY, v int NOT NULL")
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        if rng.random_bool(0.3) {
            let key = Value::Int(self.next.fetch_add(1, Ordering::Relaxed));
            return Invocation::new("txn", Value::Vector(vec![step("w", &key, 1)]));
        }
        let group = self.next.load(Ordering::Relaxed) / GROUP;
        let keys = (group * GROUP)..((group + 1) * GROUP);
        Invocation::new("txn", Value::Vector(keys.map(|key| step("r", &key.into(), Value::Nil)).collect()))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            let steps = call.value.as_slice().unwrap_or_default();
            if let [write] = steps {
                session.write(&statement(write, "forks")).await?;
                return Ok(call.value.clone());
            }
            if steps.len() > GROUP as usize {
                return everything(session, steps, "forks").await;
            }
            let key = |step: &Value| step.as_slice().and_then(|step| step[1].as_int()).unwrap_or_default();
            // Both ways must give snapshots; which one is taken is as good as random.
            if steps.first().is_some_and(|step| key(step) / GROUP % 2 == 0) {
                let keys: Vec<String> = steps.iter().map(|step| key(step).to_string()).collect();
                let rows =
                    session.read(&format!("SELECT k, v FROM forks WHERE k IN ({})", keys.join(", "))).await?;
                let found = |step: &Value| {
                    let row = (0..rows.len()).find(|row| int(&rows, *row, 0) == Some(key(step)))?;
                    int(&rows, row, 1)
                };
                return Ok(Value::Vector(steps.iter().map(|step| completed(step, found(step))).collect()));
            }
            session
                .transaction(async |open| {
                    let mut done = Vec::new();
                    for step in steps {
                        let (rows, _) = open.run(&statement(step, "forks")).await?;
                        done.push(completed(step, int(&rows, 0, 0)));
                    }
                    Ok(Value::Vector(done))
                })
                .await
        }
        .boxed()
    }
    fn last(&self) -> Vec<Invocation> {
        read_all(self.next.load(Ordering::Relaxed).max(GROUP + 1))
    }
}
