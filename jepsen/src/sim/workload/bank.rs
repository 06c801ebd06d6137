//! Transfers between accounts, and looks at all of them: see `checker::bank`.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use storage::ids::KeyRange;
use txn::Error;
use txn::api::{Database, LockWait, Locking, ScanRequest, Value as Stored};

use super::{Workload, begin, decode, encode, failure, key, put};
use crate::history::Value;
use crate::workload::{Answer, Invocation};

const ACCOUNTS: u32 = 8;
/// The row that counts transfers.
const COUNTER: u32 = ACCOUNTS;
const OPENING: i64 = 100;

pub struct Bank;

impl Workload for Bank {
    fn setup<'a>(&'a self, database: &'a Arc<dyn Database>) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let txn = begin(database);
            let mut rows: Vec<_> = (0..ACCOUNTS).map(|row| put(row, encode(OPENING))).collect();
            rows.push(put(COUNTER, encode(0)));
            txn.write(rows, &[]).await?;
            txn.commit().await.map(|_| ())
        }
        .boxed()
    }

    fn rows(&self) -> u32 {
        ACCOUNTS + 1
    }

    fn next(&self, rng: &mut StdRng) -> Invocation {
        if rng.random_bool(0.5) {
            // 0: at the latest, 1: points, 2: a scan
            return Invocation { f: "read", value: Value::Int(rng.random_range(0..3)) };
        }
        let from = rng.random_range(0..ACCOUNTS);
        let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let fields = [
            ("from", from.into()),
            ("to", to.into()),
            ("amount", rng.random_range(1..10i64)),
            ("locks", rng.random_range(0..2i64)),
        ];
        let value = fields.map(|(name, value)| (Value::keyword(name), Value::Int(value)));
        Invocation { f: "transfer", value: Value::Map(value.to_vec()) }
    }

    fn apply<'a>(&'a self, database: &'a Arc<dyn Database>, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            match call.f {
                "read" => look(database, call.value.as_int()).await.map_err(failure),
                _ => transfer(database, &call.value).await.map(|()| call.value.clone()).map_err(failure),
            }
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        vec![Invocation { f: "read", value: Value::Int(1) }]
    }
}

async fn transfer(database: &Arc<dyn Database>, call: &Value) -> Result<(), Error> {
    let field = |name| call.get(name).and_then(Value::as_int).unwrap_or_default();
    let rows = [field("from") as u32, field("to") as u32, COUNTER];
    let changes = [-field("amount"), field("amount"), 1];
    let keys = rows.map(key);
    let txn = begin(database);
    let values: Vec<Option<Stored>> = if field("locks") == 1 {
        let how = Locking { mode: txn::LockMode::Update, wait: LockWait::For(None) };
        txn.lock(&keys, how, &[]).await?.into_iter().map(|row| row.value()).collect()
    } else {
        txn.get(&keys, &[]).await?
    };
    let mut writes = Vec::new();
    for ((row, change), value) in rows.into_iter().zip(changes).zip(&values) {
        let balance = decode(value.as_ref()).ok_or_else(|| Error::Internal(format!("row {row} is gone")))?;
        writes.push(put(row, encode(balance + change)));
    }
    txn.write(writes, &[]).await?;
    txn.commit().await.map(|_| ())
}

async fn look(database: &Arc<dyn Database>, how: Option<i64>) -> Result<Value, Error> {
    let keys: Vec<_> = (0..=COUNTER).map(key).collect();
    let values = match how {
        Some(0) => database.get_latest(&keys, &[]).await?,
        Some(1) => {
            let txn = begin(database);
            let values = txn.get(&keys, &[]).await?;
            txn.commit().await?;
            values
        }
        _ => scan(database).await?,
    };
    let number = |row: u32| Value::from(decode(values.get(row as usize).and_then(Option::as_ref)));
    let accounts = (0..ACCOUNTS).map(|row| (Value::Int(row.into()), number(row))).collect();
    let entries = [("accounts", Value::Map(accounts)), ("transfers", number(COUNTER))];
    Ok(Value::Map(entries.map(|(name, value)| (Value::keyword(name), value)).to_vec()))
}

async fn scan(database: &Arc<dyn Database>) -> Result<Vec<Option<Stored>>, Error> {
    let txn = begin(database);
    let mut rest = Some(KeyRange::new(key(0), key(COUNTER + 1)));
    let mut values = Vec::new();
    while let Some(range) = rest {
        let page = txn.scan(ScanRequest { range, reverse: false, rows_max: 4 }, &[]).await?;
        values.extend(page.rows.into_iter().map(|(_, value)| Some(value)));
        rest = page.rest;
    }
    txn.commit().await?;
    Ok(values)
}
