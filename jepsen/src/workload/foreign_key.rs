//! Rows that refer to others, which are deleted and made again meanwhile: with the rows that refer to them, and without, at every
//! isolation level. Nobody may ever see one that refers to nothing.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::{Open, Rows, int, ints};
use super::{Answer, Failure, Invocation, Session, Workload, sharded};
use crate::history::Value;

/// Rows that are referred to.
const PARENTS: i64 = 12;
const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];
/// What refers: rows that keep their parent from going, and rows that go with it.
const TABLES: [&str; 2] = ["children", "owned"];

#[derive(Default)]
pub struct ForeignKey {
    next: AtomicI64,
}

impl Workload for ForeignKey {
    fn setup(&self) -> Vec<String> {
        let mut statements: Vec<String> =
            TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS {table}")).collect();
        statements.extend(sharded("parents", "id int PRIMARY KEY, n int NOT NULL"));
        for (table, action) in TABLES.iter().zip(["NO ACTION", "CASCADE"]) {
            let columns =
                format!("id int PRIMARY KEY, parent int NOT NULL REFERENCES parents ON DELETE {action}");
            statements.extend(sharded(table, &columns));
        }
        statements
            .push(format!("INSERT INTO parents SELECT n, 0 FROM generate_series(1, {PARENTS}) AS g(n)"));
        statements
    }

    fn next(&self, _worker: u64, rng: &mut StdRng) -> Invocation {
        let field = |name: &str, value: Value| (Value::keyword(name), value);
        let parent = field("parent", Value::Int(rng.random_range(1..=PARENTS)));
        let level = field("level", Value::Text(LEVELS[rng.random_range(0..LEVELS.len())].to_owned()));
        match rng.random_range(0..20) {
            0..10 => {
                let id = field("id", Value::Int(self.next.fetch_add(1, Ordering::Relaxed)));
                let table = field("table", Value::keyword(TABLES[rng.random_range(0..TABLES.len())]));
                Invocation::new("insert", Value::Map(vec![id, parent, table, level]))
            }
            10..12 => Invocation::new("delete", Value::Map(vec![parent, level])),
            12..14 => Invocation::new("purge", Value::Map(vec![parent, level])),
            14..17 => Invocation::new("create", Value::Map(vec![parent, level])),
            17 => Invocation::new("touch", Value::Map(vec![parent, level])),
            _ => Invocation::new("read", Value::Nil),
        }
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            if matches!(call.f, "read" | "final-read") {
                return session
                    .transaction(async |open| {
                        open.run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
                        look(open).await
                    })
                    .await;
            }
            let parent = call.value.get("parent").and_then(Value::as_int).unwrap_or_default();
            let level = match call.value.get("level") {
                Some(Value::Text(level)) => level.as_str(),
                _ => LEVELS[0],
            };
            let statements = match call.f {
                "insert" => {
                    let id = call.value.get("id").and_then(Value::as_int).unwrap_or_default();
                    let table = call.value.get("table").and_then(Value::as_name).unwrap_or(TABLES[0]);
                    vec![format!("INSERT INTO {table} VALUES ({id}, {parent})")]
                }
                "purge" => vec![
                    format!("DELETE FROM children WHERE parent = {parent}"),
                    format!("DELETE FROM parents WHERE id = {parent}"),
                ],
                "create" => {
                    vec![format!("INSERT INTO parents VALUES ({parent}, 0) ON CONFLICT (id) DO NOTHING")]
                }
                "touch" => vec![format!("UPDATE parents SET n = n + 1 WHERE id = {parent}")],
                _ => vec![format!("DELETE FROM parents WHERE id = {parent}")],
            };
            session
                .transaction(async |open| {
                    open.run(&format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
                    for sql in &statements {
                        open.run(sql).await.map_err(declined)?;
                    }
                    Ok(())
                })
                .await
                .map_err(declined)?;
            Ok(call.value.clone())
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        vec![Invocation::new("final-read", Value::Nil)]
    }
}

/// The constraint has refused it: that is an answer.
fn declined(failure: Failure) -> Failure {
    match failure {
        Failure::Fail(why) if why.starts_with("23503") => Failure::declined(&why),
        other => other,
    }
}

/// All three tables, in one transaction.
async fn look(open: &Open<'_>) -> Answer {
    let parents = ints(&open.run("SELECT id FROM parents ORDER BY id").await?.0);
    let mut seen = vec![(Value::keyword("parents"), Value::vector(parents))];
    for table in TABLES {
        let rows: Rows = open.run(&format!("SELECT id, parent FROM {table} ORDER BY id")).await?.0;
        let pairs = (0..rows.len()).map(|row| Value::pair(int(&rows, row, 0), int(&rows, row, 1)));
        seen.push((Value::keyword(table), Value::Vector(pairs.collect())));
    }
    Ok(Value::Map(seen))
}
