//! Advisory locks: held for a moment, in sessions and in transactions, by clients at all nodes.
//!
//! A call is a whole stay: the lock is taken, some statements run under it, it is given back. What it answers is for how long it was
//! surely held: from when the client knew that it was taken to when it sent the last statement that succeeded in the same
//! session. If the session is lost meanwhile the stay was shorter, that is all.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Answer, Failure, Invocation, Session, Workload};
use crate::history::{Clock, Value};
use crate::run::sleep;

const LOCKS: i64 = 3;
/// The longest stay, but for the last statement.
const STAY_MS_MAX: u64 = 1_500;
/// How long one statement of a stay may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Between two statements of a stay.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module.
pub struct Advisory {
    clock: Clock,
}

impl Default for Advisory {
    fn default() -> Self {
        Self { clock: Clock::start() }
    }
}

impl Advisory {
    async fn ask(session: &Session, sql: &str) -> Result<Option<String>, Failure> {
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, session.read(sql)).await;
        let rows = answer.unwrap_or_else(|_| Err(Failure::Fail("no answer in time".to_owned())))?;
        Ok(rows.first().and_then(|row| row.first().cloned().flatten()))
    }

    fn now(&self) -> i64 {
        self.clock.elapsed().as_micros() as i64
    }
}

impl Workload for Advisory {
    fn setup(&self) -> Vec<String> {
        vec!["SELECT pg_advisory_unlock_all()".to_owned()]
    }

    fn next(&self, _: u64, rng: &mut StdRng) -> Invocation {
        let (lock, stay) = (rng.random_range(0..LOCKS), rng.random_range(0..STAY_MS_MAX));
        let ways = ["session", "transaction", "waits"];
        let way = ways[rng.random_range(0..ways.len())];
        Invocation::new("stay", Value::Vector(vec![lock.into(), (stay as i64).into(), way.into()]))
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            let [lock, stay, way] = call.value.as_slice().unwrap_or_default() else {
                return Err(Failure::Fail("no such call".to_owned()));
            };
            let way = way.as_name().unwrap_or_default();
            // What an earlier stay may have left.
            Self::ask(session, "ROLLBACK").await?;
            Self::ask(session, "SELECT pg_advisory_unlock_all()").await?;
            let taking = match way {
                "transaction" => {
                    Self::ask(session, "BEGIN").await?;
                    format!("SELECT CASE WHEN pg_try_advisory_xact_lock({lock}) THEN 1 ELSE 0 END")
                }
                "waits" => {
                    Self::ask(session, "SET lock_timeout = '1s'").await?;
                    format!("SELECT CASE WHEN pg_advisory_lock({lock}) IS NULL THEN 0 ELSE 1 END")
                }
                _ => format!("SELECT CASE WHEN pg_try_advisory_lock({lock}) THEN 1 ELSE 0 END"),
            };
            if Self::ask(session, &taking).await?.as_deref() != Some("1") {
                return Err(Failure::declined("held by another"));
            }
            let from = self.now();
            let mut until = from;
            let end = from + stay.as_int().unwrap_or_default() * 1_000;
            loop {
                let last = self.now() >= end;
                let sent = self.now();
                let sql = match (last, way) {
                    (false, _) => "SELECT 1".to_owned(),
                    (true, "transaction") => "COMMIT".to_owned(),
                    (true, _) => {
                        format!("SELECT CASE WHEN pg_advisory_unlock({lock}) THEN 1 ELSE 0 END")
                    }
                };
                match Self::ask(session, &sql).await {
                    Ok(answer) if answer.as_deref() == Some("1") || (last && way == "transaction") => {
                        until = sent
                    }
                    // The session is gone, or says that it doesn't hold the lock.
                    _ => break,
                }
                if last {
                    break;
                }
                sleep(PAUSE).await;
            }
            Ok(Value::Vector(vec![lock.clone(), from.into(), until.into()]))
        }
        .boxed()
    }
}
