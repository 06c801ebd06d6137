//! Locks as rows with a holder, taken and released by conditional updates.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Answer, Failure, Invocation, READ_KEYS, Session, Workload, all_keys, read_keys, sharded};
use crate::history::Value;

const LOCKS: i64 = 4;

/// Each client takes one lock and gives it back, whatever it was told: a release of what isn't held fails.
#[derive(Default)]
pub struct Lock {
    turns: Mutex<HashMap<u64, (i64, bool)>>,
}

impl Workload for Lock {
    fn setup(&self) -> Vec<String> {
        let mut statements = sharded("locks", "k int PRIMARY KEY, holder int");
        statements
            .push(format!("INSERT INTO locks SELECT k, NULL FROM generate_series(0, {LOCKS} - 1) AS g(k)"));
        statements
    }

    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let (lock, takes) = turns.entry(worker).or_insert((0, false));
        *takes = !*takes;
        if *takes {
            *lock = rng.random_range(0..LOCKS);
        }
        Invocation::new(if *takes { "acquire" } else { "release" }, Value::pair(*lock, worker as i64))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == READ_KEYS {
                return Ok(all_keys(call, &session.read("SELECT k, holder FROM locks").await?, Value::Nil));
            }
            let (lock, holder) = call.value.as_pair().unwrap_or((&Value::Nil, &Value::Nil));
            let sql = match call.f {
                "acquire" => {
                    format!("UPDATE locks SET holder = {holder} WHERE k = {lock} AND holder IS NULL")
                }
                _ => format!("UPDATE locks SET holder = NULL WHERE k = {lock} AND holder = {holder}"),
            };
            match session.write(&sql).await? {
                (_, 1) => Ok(call.value.clone()),
                _ => Err(Failure::declined("held by another")),
            }
        }
        .boxed()
    }
    fn last(&self) -> Vec<Invocation> {
        read_keys(LOCKS)
    }
}
