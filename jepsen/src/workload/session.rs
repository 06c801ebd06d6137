//! A client's connection, and what its errors mean.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::history::{DECLINED, HARNESS};

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It did not happen.
    Fail(String),
    /// It may have happened, or may yet.
    Info(String),
}

impl Failure {
    /// The database answered, and the answer is why it did not happen: a compare-and-set that found another value.
    pub fn declined(why: &str) -> Self {
        Failure::Fail(format!("{DECLINED}{why}"))
    }
}

/// The rows of an answer as texts; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection to one node.
///
/// Some connections speak the simple protocol, some the extended one: they take different ways through the database.
pub struct Session {
    client: Client,
    extended: bool,
}

impl Session {
    /// Around a connected client.
    pub fn new(client: Client, extended: bool) -> Self {
        Self { client, extended }
    }

    /// Nothing more can be asked on it.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// A statement that changes nothing: whatever goes wrong, it has not happened.
    pub async fn read(&self, sql: &str) -> Result<Rows, Failure> {
        self.run(sql).await.map(|(rows, _)| rows).map_err(|error| Failure::Fail(describe(&error)))
    }

    /// A statement that is a transaction of its own.
    pub async fn write(&self, sql: &str) -> Result<(Rows, u64), Failure> {
        self.run(sql).await.map_err(|error| outcome(&error))
    }

    /// Runs `body` between BEGIN and COMMIT. What fails before COMMIT is sent has not happened.
    pub async fn transaction<T>(
        &self,
        body: impl AsyncFnOnce(&Open<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let open = Open { session: self };
        let done = match open.run("BEGIN").await {
            Ok(_) => body(&open).await,
            Err(failure) => Err(failure),
        };
        match done {
            Ok(value) => self.run("COMMIT").await.map(|_| value).map_err(|error| outcome(&error)),
            Err(failure) => {
                // If this fails, so will the next BEGIN, or the connection is gone.
                let _ = self.run("ROLLBACK").await;
                Err(failure)
            }
        }
    }

    /// Several statements in one message: PostgreSQL makes them one transaction.
    pub async fn batch(&self, statements: &[String]) -> Result<Vec<Rows>, Failure> {
        let messages =
            self.client.simple_query(&statements.join("; ")).await.map_err(|error| outcome(&error))?;
        let mut answers = Vec::new();
        let mut rows = Rows::new();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => answers.push(std::mem::take(&mut rows)),
                _ => {}
            }
        }
        Ok(answers)
    }

    async fn run(&self, sql: &str) -> Result<(Rows, u64), Error> {
        if self.extended { self.run_extended(sql).await } else { self.run_simple(sql).await }
    }

    async fn run_extended(&self, sql: &str) -> Result<(Rows, u64), Error> {
        let statement = self.client.prepare(sql).await?;
        if statement.columns().is_empty() {
            return self.client.execute(&statement, &[]).await.map(|count| (Rows::new(), count));
        }
        let rows = self.client.query(&statement, &[]).await?;
        let count = rows.len() as u64;
        let rows = rows.iter().map(|row| (0..row.len()).map(|n| text(row, n)).collect::<Result<_, _>>());
        Ok((rows.collect::<Result<_, _>>()?, count))
    }

    async fn run_simple(&self, sql: &str) -> Result<(Rows, u64), Error> {
        let mut rows = Vec::new();
        let mut count = 0;
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => {}
            }
        }
        Ok((rows, count))
    }
}

/// An open transaction.
pub struct Open<'a> {
    session: &'a Session,
}

impl Open<'_> {
    /// A statement in it.
    pub async fn run(&self, sql: &str) -> Result<(Rows, u64), Failure> {
        self.session.run(sql).await.map_err(|error| Failure::Fail(describe(&error)))
    }
}

/// What an error says about a statement that would have committed something.
fn outcome(error: &Error) -> Failure {
    let described = describe(error);
    match error.code().map(|state| state.code()) {
        // The connection broke, or the server says that it doesn't know, or breaks down while it answers.
        None | Some("40003") => Failure::Info(described),
        Some(code) if ["08", "57P", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
            Failure::Info(described)
        }
        Some(_) => Failure::Fail(described),
    }
}

fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", db.code().code(), db.message()),
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            // What this client cannot read says nothing about the server.
            if text.starts_with("error deserializing") { format!("{HARNESS}{text}") } else { text }
        }
    }
}

/// A field of a binary answer, of the types that workloads use.
fn text(row: &tokio_postgres::Row, column: usize) -> Result<Option<String>, Error> {
    match *row.columns()[column].type_() {
        Type::INT4 => Ok(row.try_get::<_, Option<i32>>(column)?.map(|n| n.to_string())),
        Type::INT8 => Ok(row.try_get::<_, Option<i64>>(column)?.map(|n| n.to_string())),
        // Its text is empty.
        Type::VOID => Ok(Some(String::new())),
        _ => row.try_get(column),
    }
}

/// The number in a field.
pub fn int(rows: &Rows, row: usize, column: usize) -> Option<i64> {
    rows.get(row)?.get(column)?.as_deref()?.parse().ok()
}

/// The numbers of the first column.
pub fn ints(rows: &Rows) -> Vec<i64> {
    (0..rows.len()).filter_map(|row| int(rows, row, 0)).collect()
}
