//! Reads, writes and compare-and-sets of single rows, which must be linearizable; most reads ask for the latest, without the
//! oracle, and rest on the leader's lease.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use txn::Error;
use txn::api::Database;

use super::{Workload, begin, decode, encode, failure, key, put};
use crate::history::Value;
use crate::workload::{Answer, Failure, Invocation};

const ROWS: u32 = 6;
const VALUES: i64 = 5;

pub struct Register;

impl Workload for Register {
    fn setup<'a>(&'a self, _: &'a Arc<dyn Database>) -> BoxFuture<'a, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }

    fn rows(&self) -> u32 {
        ROWS
    }

    fn next(&self, rng: &mut StdRng) -> Invocation {
        let row = Value::Int(rng.random_range(0..ROWS).into());
        let (a, b) = (rng.random_range(0..VALUES), rng.random_range(0..VALUES));
        match rng.random_range(0..10) {
            0..5 => Invocation { f: "read", value: Value::pair(row, Value::Nil) },
            5..8 => Invocation { f: "write", value: Value::pair(row, a) },
            _ => Invocation { f: "cas", value: Value::pair(row, Value::pair(a, b)) },
        }
    }

    fn apply<'a>(&'a self, database: &'a Arc<dyn Database>, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            let (row, value) = call.value.as_pair().unwrap_or((&Value::Nil, &Value::Nil));
            let n = row.as_int().unwrap_or_default() as u32;
            let key = [key(n)];
            if call.f == "read" {
                let found = database.get_latest(&key, &[]).await.map_err(failure)?;
                return Ok(Value::pair(row.clone(), decode(found[0].as_ref())));
            }
            let txn = begin(database);
            let new = match value.as_pair() {
                Some((old, new)) => {
                    let found = txn.get(&key, &[]).await.map_err(failure)?;
                    if decode(found[0].as_ref()) != old.as_int() {
                        // What was found is true only if it still is at the end.
                        txn.rollback().await;
                        return Err(Failure::declined("another value"));
                    }
                    new
                }
                None => value,
            };
            let write = put(n, encode(new.as_int().unwrap_or_default()));
            txn.write(vec![write], &[]).await.map_err(failure)?;
            txn.commit().await.map_err(failure)?;
            Ok(call.value.clone())
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        let read = |row: u32| Invocation { f: "read", value: Value::pair(i64::from(row), Value::Nil) };
        (0..ROWS).map(read).collect()
    }
}
