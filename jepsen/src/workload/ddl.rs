//! Inserts into a table whose columns, constraints and indexes come and go, while another table is made, filled, emptied and dropped.
//!
//! Reads go by the table and by the indexes, if there are any just then, and must agree; a column that was added with a default has it in all
//! rows; of the other table's rows all are there or none.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use super::session::ints;
use super::{Answer, Failure, Invocation, Session, Workload, sharded};
use crate::history::{FINAL_READ, Value};
use crate::run::sleep;

#[derive(Default)]
pub struct Ddl {
    next: AtomicI64,
    /// Changes that have waited for so long that writers make room.
    pressing: AtomicI64,
}

/// So long a change works against all writers; then they hold back, so that some changes of each kind come to their end.
const PRESSING_AFTER: Duration = Duration::from_millis(1_500);
/// How often a writer looks whether it may go on, and for how long.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
const ROOM_PAUSES_MAX: usize = 15;

/// One of the changes that are pressing.
struct Pressing<'a>(&'a AtomicI64);

impl Drop for Pressing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ddl {
    /// Changes the schema.
    async fn change(&self, session: &Session, sql: &str) -> Result<(), Failure> {
        let changing = async {
            for _ in 1..TRIES {
                match session.write(sql).await {
                    Err(Failure::Fail(why)) if why.starts_with("40001") => {}
                    other => return other.map(|_| ()).map_err(expected),
                }
            }
            session.write(sql).await.map(|_| ()).map_err(expected)
        };
        let pressing = async {
            sleep(PRESSING_AFTER).await;
            self.pressing.fetch_add(1, Ordering::Relaxed);
            let _pressing = Pressing(&self.pressing);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            changed = changing => changed,
            () = pressing => Ok(()),
        }
    }

    /// Waits while a change is pressing.
    async fn make_room(&self) {
        for _ in 0..ROOM_PAUSES_MAX {
            if self.pressing.load(Ordering::Relaxed) == 0 {
                return;
            }
            sleep(ROOM_PAUSE).await;
        }
    }
}

/// The default of the column that comes and goes.
const DEFAULT: i64 = 7;
/// Rows of the other table.
const BESIDE: i64 = 20;

/// A change that lost against another one is tried so often, as by whoever changes a schema in earnest.
const TRIES: usize = 6;
/// Rows that are looked for through the index at a time.
const LOOKUPS: i64 = 8;

/// (Indexes that are not unique come in as soon as there are any.)
///
/// A call of its own for each kind of statement, so that one that never succeeds is noticed.
const CHANGES: [(&str, &str); 12] = [
    ("add-column", "ALTER TABLE changing ADD COLUMN extra int DEFAULT 7"),
    ("drop-column", "ALTER TABLE changing DROP COLUMN IF EXISTS extra"),
    ("add-constraint", "ALTER TABLE changing ADD CONSTRAINT noted UNIQUE (note, id)"),
    ("drop-constraint", "ALTER TABLE changing DROP CONSTRAINT IF EXISTS noted"),
    ("add-unique", "ALTER TABLE changing ADD CONSTRAINT paired UNIQUE (twin)"),
    ("drop-unique", "ALTER TABLE changing DROP CONSTRAINT IF EXISTS paired"),
    ("create-unique-index", "CREATE UNIQUE INDEX by_twin ON changing (twin)"),
    ("drop-unique-index", "DROP INDEX IF EXISTS by_twin"),
    ("create-table", "CREATE TABLE IF NOT EXISTS beside (id int PRIMARY KEY, note text)"),
    (
        "fill-table",
        "INSERT INTO beside SELECT n, 'note' FROM generate_series(1, 20) AS g(n) ON CONFLICT DO NOTHING",
    ),
    ("truncate-table", "TRUNCATE beside"),
    ("drop-table", "DROP TABLE IF EXISTS beside"),
];

impl Workload for Ddl {
    fn setup(&self) -> Vec<String> {
        let mut statements = sharded("changing", "id int PRIMARY KEY, twin int NOT NULL, note text");
        statements.push("DROP TABLE IF EXISTS beside".to_owned());
        statements
    }

    fn next(&self, worker: u64, rng: &mut StdRng) -> Invocation {
        // Two clients change the schema, all others rows.
        if worker < 2 {
            let (f, sql) = CHANGES[rng.random_range(0..CHANGES.len())];
            return Invocation::new(f, sql);
        }
        let newest = self.next.load(Ordering::Relaxed);
        match rng.random_range(0..40) {
            0..2 => Invocation::new("read", Value::Nil),
            2..5 => Invocation::new("compare", rng.random_range(0..newest.max(1))),
            5 => Invocation::new("defaults", Value::pair(DEFAULT, Value::Nil)),
            6 => Invocation::new("look", Value::pair(BESIDE, Value::Nil)),
            _ => Invocation::new("add", self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn apply<'a>(&'a self, session: &'a Session, call: &'a Invocation) -> BoxFuture<'a, Answer> {
        async move {
            match (call.f, &call.value) {
                ("add", id) => {
                    self.make_room().await;
                    // In two statements, so that the schema may change between them.
                    session
                        .transaction(async |open| {
                            let columns = "changing (id, twin, note)";
                            open.run(&format!("INSERT INTO {columns} VALUES ({id}, -({id}), 'new')")).await?;
                            open.run(&format!("UPDATE changing SET note = 'there' WHERE id = {id}")).await?;
                            Ok(())
                        })
                        .await?;
                    Ok(id.clone())
                }
                ("compare", id) => compare(session, id).await,
                ("defaults", _) => {
                    let values = ints(&session.read("SELECT extra FROM changing").await.map_err(expected)?);
                    Ok(Value::pair(DEFAULT, Value::vector(values)))
                }
                ("look", _) => {
                    let sql = "SELECT id FROM beside WHERE note = 'note' ORDER BY id";
                    let rows = ints(&session.read(sql).await.map_err(expected)?);
                    Ok(Value::pair(BESIDE, Value::vector(rows)))
                }
                ("read" | FINAL_READ, _) => {
                    Ok(Value::vector(ints(&session.read("SELECT id FROM changing ORDER BY id").await?)))
                }
                (_, Value::Text(sql)) => {
                    self.change(session, sql).await?;
                    Ok(call.value.clone())
                }
                _ => Err(Failure::Fail("no such call".to_owned())),
            }
        }
        .boxed()
    }

    fn last(&self) -> Vec<Invocation> {
        let mut calls = vec![Invocation::new(FINAL_READ, Value::Nil)];
        // Whichever of them are there at the end: both ways must have the same.
        calls.push(Invocation::new("compare", self.next.load(Ordering::Relaxed) - 1));
        calls
    }
}

/// All rows and the last ones up to `id`, by the table and by other columns, of which one may have an index; in one snapshot.
async fn compare(session: &Session, id: &Value) -> Answer {
    let newest = id.as_int().unwrap_or_default();
    let twins: Vec<String> = (newest - LOOKUPS + 1..=newest).map(|id| (-id).to_string()).collect();
    let statements = [
        (
            "SELECT id FROM changing ORDER BY id".to_owned(),
            "SELECT id FROM changing WHERE note = 'there' ORDER BY id".to_owned(),
        ),
        (
            format!("SELECT id FROM changing WHERE id > {newest} - {LOOKUPS} AND id <= {newest} ORDER BY id"),
            format!("SELECT id FROM changing WHERE twin IN ({}) ORDER BY id", twins.join(", ")),
        ),
        (
            format!("SELECT id FROM changing WHERE id = {newest}"),
            format!("SELECT id FROM changing WHERE twin = {}", -newest),
        ),
    ];
    session
        .transaction(async |open| {
            open.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            let mut pairs = Vec::new();
            for (table, index) in &statements {
                let table = ints(&open.run(table).await?.0);
                let index = ints(&open.run(index).await?.0);
                pairs.push(Value::pair(Value::vector(table), Value::vector(index)));
            }
            Ok(Value::Vector(pairs))
        })
        .await
}

/// What is not there, or is there already, is an answer.
fn expected(failure: Failure) -> Failure {
    match failure {
        Failure::Fail(why)
            if ["42701", "42703", "42704", "42710", "42P01", "42P07"]
                .iter()
                .any(|code| why.starts_with(code)) =>
        {
            Failure::declined(&why)
        }
        other => other,
    }
}
