//! Inserts into a table whose columns and indexes come and go, while other tables are made, emptied and dropped.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::ints;
use super::{Answer, Invocation, Session, Workload, sharded};
use crate::history::Value;

#[derive(Default)]
pub struct Ddl {
    next: AtomicI64,
}

const CHANGES: [&str; 8] = [
    "ALTER TABLE changing ADD COLUMN extra int",
    "ALTER TABLE changing DROP COLUMN IF EXISTS extra",
    "ALTER TABLE changing ADD CONSTRAINT noted UNIQUE (note, id)",
    "ALTER TABLE changing DROP CONSTRAINT IF EXISTS noted",
    "CREATE TABLE IF NOT EXISTS beside (id int PRIMARY KEY, note text)",
    "INSERT INTO beside SELECT n, 'note' FROM generate_series(1, 20) AS g(n) ON CONFLICT DO NOTHING",
    "TRUNCATE beside",
    "DROP TABLE IF EXISTS beside",
];

impl Workload for Ddl {
    fn setup(&self) -> Vec<String> {
        let mut statements = sharded("changing", "id int PRIMARY KEY, note text");
        statements.push("DROP TABLE IF EXISTS beside".to_owned());
        statements
    }

    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation {
        // Two clients change the schema, all others rows.
        if worker < 2 {
            return Invocation::new("ddl", CHANGES[rng.random_range(0..CHANGES.len())]);
        }
        match rng.random_range(0..20) {
            0 => Invocation::new("read", Value::Nil),
            _ => Invocation::new("add", self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            match (call.f, &call.value) {
                ("ddl", Value::Text(sql)) => {
                    session.write(sql).await?;
                    Ok(call.value.clone())
                }
                ("add", id) => {
                    // In two statements, so that the schema may change between them.
                    session
                        .transaction(async |open| {
                            open.run(&format!("INSERT INTO changing (id, note) VALUES ({id}, 'new')"))
                                .await?;
                            open.run(&format!("UPDATE changing SET note = 'there' WHERE id = {id}")).await?;
                            Ok(())
                        })
                        .await?;
                    Ok(id.clone())
                }
                _ => Ok(Value::vector(ints(&session.read("SELECT id FROM changing ORDER BY id").await?))),
            }
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        vec![Invocation::new("final-read", Value::Nil)]
    }
}
