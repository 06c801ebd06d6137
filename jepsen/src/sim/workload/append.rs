//! Transactions that append to lists and read them, while shards are split: see `checker::txn::append`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use txn::Error;
use txn::api::{Database, LockWait, Locking, Transaction};

use super::{Workload, begin, failure, key, put};
use crate::history::{SPLIT_AT, Value};
use crate::workload::{Answer, Invocation};

const ROWS: u32 = 6;
const STEPS_MAX: usize = 4;
/// Of so many calls, one splits a shard.
const SPLIT_EVERY: u32 = 80;

/// A list is its numbers, one after the other.
#[derive(Default)]
pub struct Append {
    next: AtomicI64,
}

impl Workload for Append {
    fn setup<'a>(&'a self, _: &'a Arc<dyn Database>) -> BoxFuture<'a, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }

    fn rows(&self) -> u32 {
        ROWS
    }

    fn next(&self, rng: &mut StdRng) -> Invocation {
        let mut row = || Value::Int(rng.random_range(0..ROWS).into());
        let first = row();
        if rng.random_ratio(1, SPLIT_EVERY) {
            return Invocation { f: SPLIT_AT, value: first };
        }
        let steps = (0..rng.random_range(1..=STEPS_MAX)).map(|_| {
            let row = Value::Int(rng.random_range(0..ROWS).into());
            if rng.random_bool(0.5) {
                return Value::Vector(vec![Value::keyword("r"), row, Value::Nil]);
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            Value::Vector(vec![Value::keyword("append"), row, Value::Int(number)])
        });
        Invocation { f: "txn", value: Value::Vector(steps.collect()) }
    }

    fn apply<'a>(&'a self, database: &'a Arc<dyn Database>, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f == SPLIT_AT {
                let row = call.value.as_int().unwrap_or_default() as u32;
                database.split(&[key(row)], false).await.map_err(failure)?;
                return Ok(call.value.clone());
            }
            run(database, call.value.as_slice().unwrap_or_default()).await.map_err(failure)
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        let read = |row: u32| Value::Vector(vec![Value::keyword("r"), Value::Int(row.into()), Value::Nil]);
        vec![Invocation { f: "txn", value: Value::Vector((0..ROWS).map(read).collect()) }]
    }
}

async fn run(database: &Arc<dyn Database>, steps: &[Value]) -> Result<Value, Error> {
    let parts = |step: &Value| match step.as_slice() {
        Some([f, row, value]) => {
            let row = row.as_int().unwrap_or_default() as u32;
            (f.as_name() == Some("append"), row, value.as_int().unwrap_or_default())
        }
        _ => (false, 0, 0),
    };
    // A single read takes another way through the database.
    if let [step] = steps
        && let (false, row, _) = parts(step)
    {
        let found = database.get_latest(&[key(row)], &[]).await?;
        return Ok(Value::Vector(vec![read(row, found[0].as_ref())]));
    }
    let txn = begin(database);
    let mut done = Vec::new();
    for step in steps {
        let (appends, row, number) = parts(step);
        if !appends {
            let found = txn.get(&[key(row)], &[]).await?;
            done.push(read(row, found[0].as_ref()));
            continue;
        }
        let mut list = found(&txn, row, number).await?.map(Vec::from).unwrap_or_default();
        list.extend(number.to_be_bytes());
        txn.write(vec![put(row, list.into())], &[]).await?;
        done.push(step.clone());
    }
    txn.commit().await?;
    Ok(Value::Vector(done))
}

/// Some lock what they append to.
async fn found(txn: &Arc<dyn Transaction>, row: u32, number: i64) -> Result<Option<Bytes>, Error> {
    if number % 3 > 0 {
        return Ok(txn.get(&[key(row)], &[]).await?.pop().flatten());
    }
    let how = Locking { mode: txn::LockMode::Update, wait: LockWait::For(None) };
    let locked = txn.lock(&[key(row)], how, &[]).await?.pop();
    Ok(locked.and_then(|row| row.value()))
}

fn read(row: u32, list: Option<&Bytes>) -> Value {
    let numbers = list.map_or(&[][..], |list| &list[..]).chunks_exact(8);
    let numbers = numbers.map(|number| i64::from_be_bytes(number.try_into().unwrap_or_default()));
    Value::Vector(vec![Value::keyword("r"), Value::Int(row.into()), Value::vector(numbers)])
}
