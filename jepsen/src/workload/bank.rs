//! The bank: clients move money between accounts on different shards; others look at all accounts at once.
//!
//! Each transfer also raises a counter, which orders all transfers and makes stale looks visible.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::{Rows, int};
use super::{Answer, Invocation, Session, Workload, sharded};
use crate::history::Value;
use crate::run::sleep;

const ACCOUNTS: i64 = 12;
/// The row that counts transfers.
const COUNTER: i64 = -1;
/// What each account begins with.
const OPENING: i64 = 100;

pub struct Bank;

impl Workload for Bank {
    fn setup(&self) -> Vec<String> {
        let mut statements = sharded("bank", "id int PRIMARY KEY, balance bigint NOT NULL");
        statements.push(format!(
            "INSERT INTO bank SELECT n, {OPENING} FROM generate_series(1, {ACCOUNTS}) AS g(n)"
        ));
        statements.push(format!("INSERT INTO bank VALUES ({COUNTER}, 0)"));
        statements
    }

    fn opening(&self) -> Option<Invocation> {
        Some(Invocation::new("open", ACCOUNTS * OPENING))
    }

    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation {
        if worker.is_multiple_of(2) {
            // Some look in one statement, some in two with time between them.
            let pause_ms = rng.random_bool(0.3).then(|| rng.random_range(0..400i64));
            return Invocation::new("read", pause_ms);
        }
        let from = rng.random_range(1..=ACCOUNTS);
        let to = from % ACCOUNTS + 1;
        let field = |name: &str, value: i64| (Value::keyword(name), Value::Int(value));
        let amount = rng.random_range(1..10);
        let transfer = Value::Map(vec![field("from", from), field("to", to), field("amount", amount)]);
        Invocation::new("transfer", transfer)
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if call.f != "transfer" {
                return look(session, call.value.as_int()).await;
            }
            let field = |name| call.value.get(name).and_then(Value::as_int).unwrap_or_default();
            let (from, to, amount) = (field("from"), field("to"), field("amount"));
            session
                .transaction(async |open| {
                    for (id, change) in [(from, -amount), (to, amount), (COUNTER, 1)] {
                        open.run(&format!("UPDATE bank SET balance = balance + {change} WHERE id = {id}"))
                            .await?;
                    }
                    Ok(())
                })
                .await?;
            Ok(call.value.clone())
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        vec![Invocation::new("read", Value::Nil)]
    }
}

async fn look(session: &Session, pause_ms: Option<i64>) -> Answer {
    let Some(pause_ms) = pause_ms else {
        return seen(&session.read("SELECT id, balance FROM bank ORDER BY id").await?);
    };
    session
        .transaction(async |open| {
            let half = ACCOUNTS / 2;
            let (mut rows, _) =
                open.run(&format!("SELECT id, balance FROM bank WHERE id <= {half} ORDER BY id")).await?;
            sleep(Duration::from_millis(pause_ms.unsigned_abs())).await;
            let rest =
                open.run(&format!("SELECT id, balance FROM bank WHERE id > {half} ORDER BY id")).await?;
            rows.extend(rest.0);
            seen(&rows)
        })
        .await
}

fn seen(rows: &Rows) -> Answer {
    let mut accounts = Vec::new();
    let mut transfers = None;
    for row in 0..rows.len() {
        match (int(rows, row, 0), int(rows, row, 1)) {
            (Some(COUNTER), count) => transfers = count,
            (id, balance) => accounts.push((id.into(), balance.into())),
        }
    }
    let entries = [("accounts", Value::Map(accounts)), ("transfers", transfers.into())];
    Ok(Value::Map(entries.map(|(name, value)| (Value::keyword(name), value)).to_vec()))
}
