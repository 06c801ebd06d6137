//! The connection, and running statements over it.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{SinkExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage};

use super::render::{self, Format, Rows};
use super::scan::{self, Piece};
use super::{Ran, meta};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server, and how results are shown.
pub(crate) struct Client {
    pub(super) inner: tokio_postgres::Client,
    url: String,
    pub(super) format: Format,
    pub(super) timing: bool,
    /// The schema may have changed: the names for completion are stale.
    pub(super) names_stale: bool,
    /// Notices that have arrived, to be printed before the next result.
    notices: Arc<Mutex<Vec<String>>>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let mut config: tokio_postgres::Config =
            url.parse().with_context(|| format!("'{url}' is no connection URL"))?;
        config.application_name("flotilla sql").connect_timeout(CONNECT_TIMEOUT);
        let (inner, mut connection) =
            config.connect(NoTls).await.map_err(|e| anyhow::anyhow!("cannot connect: {}", describe(&e)))?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = notices.clone();
        #[allow(clippy::disallowed_methods, reason = "the shell is a client: no simulator runs it")]
        tokio::spawn(async move {
            let mut messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notice(notice) = message {
                    sink.lock().push(format!("{}:  {}", notice.severity(), notice.message()));
                }
            }
        });
        Ok(Self {
            inner,
            url: url.to_owned(),
            format: Format::Aligned,
            timing: false,
            names_stale: true,
            notices,
        })
    }

    /// Connects again after the server was lost.
    pub(super) async fn reconnect(&mut self) -> anyhow::Result<()> {
        let fresh = Self::connect(&self.url).await?;
        self.inner = fresh.inner;
        self.notices = fresh.notices;
        Ok(())
    }

    /// Whether the connection is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.inner.is_closed()
    }

    /// Runs a script: statements and backslash commands. The last statement needs no semicolon.
    pub(crate) async fn run_script(&mut self, text: &str, keep_going: bool) -> anyhow::Result<Ran> {
        let mut rest = text;
        let mut outcome = Ran::Fine;
        while !rest.is_empty() {
            let (piece, tail) = scan::next(rest);
            rest = tail;
            let ran = match piece {
                Piece::Meta(command) => meta::run(self, command).await?,
                Piece::Statement(sql) | Piece::Rest(sql) if !scan::is_blank(sql) => {
                    let (ran, consumed) = self.run_statement(sql, rest).await?;
                    rest = &rest[consumed..];
                    ran
                }
                _ => Ran::Fine,
            };
            match ran {
                Ran::Fine => {}
                Ran::Quit => return Ok(if outcome == Ran::Failed { Ran::Failed } else { Ran::Quit }),
                Ran::Failed => {
                    outcome = Ran::Failed;
                    if !keep_going || self.is_lost() {
                        break;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Runs one statement and prints what it gives. COPY FROM STDIN takes its data from `following`, up to a line `\.`;
    /// returns how much of it was used.
    pub(super) async fn run_statement(&mut self, sql: &str, following: &str) -> anyhow::Result<(Ran, usize)> {
        #[allow(clippy::disallowed_methods, reason = "the shell is a client: no simulator runs it")]
        let started = Instant::now();
        let (mut consumed, words) = (0, first_words(sql));
        let result = match copy_direction(&words) {
            Some(CopyDirection::In) => {
                let data = copy_data(following);
                consumed = data.1;
                self.copy_in(sql, data.0).await
            }
            Some(CopyDirection::Out) => self.copy_out(sql).await,
            None => self.query(sql, &words).await,
        };
        for notice in self.notices.lock().drain(..) {
            eprintln!("{notice}");
        }
        let ran = match result {
            Ok(()) => Ran::Fine,
            Err(StatementError::Sql(error)) => {
                print_error(sql, &error);
                Ran::Failed
            }
            Err(StatementError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ran::Quit,
            Err(StatementError::Output(error)) => return Err(error.into()),
        };
        if self.timing {
            eprintln!("Time: {:.3} ms", started.elapsed().as_secs_f64() * 1e3);
        }
        if matches!(words.first().map(String::as_str), Some("CREATE" | "DROP" | "ALTER")) {
            self.names_stale = true;
        }
        Ok((ran, consumed))
    }

    async fn query(&mut self, sql: &str, words: &[String]) -> Result<(), StatementError> {
        // JSON needs the columns' types, which only a prepared statement tells.
        let mut types = Vec::new();
        if self.format == Format::Json && is_query(words) {
            let prepared = self.inner.prepare(sql).await?;
            types = prepared.columns().iter().map(|c| c.type_().name().to_owned()).collect();
        }
        let stream = self.cancellable(self.inner.simple_query_raw(sql)).await?;
        let mut stream = std::pin::pin!(stream);
        let mut rows: Option<Rows> = None;
        let cancel = self.inner.cancel_token();
        loop {
            let message = tokio::select! {
                message = stream.try_next() => message?,
                _ = tokio::signal::ctrl_c() => {
                    // The server's answer to the cancellation is the statement's error.
                    let _ = cancel.cancel_query(NoTls).await;
                    stream.try_next().await?
                }
            };
            match message {
                None => break,
                Some(SimpleQueryMessage::RowDescription(columns)) => {
                    rows = Some(Rows {
                        columns: columns.iter().map(|c| c.name().to_owned()).collect(),
                        types: types.clone(),
                        rows: Vec::new(),
                    });
                }
                Some(SimpleQueryMessage::Row(row)) => {
                    let values = (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect();
                    rows.get_or_insert_default().rows.push(values);
                }
                Some(SimpleQueryMessage::CommandComplete(count)) => {
                    let mut out = std::io::stdout().lock();
                    match rows.take() {
                        Some(rows) => render::rows(&mut out, self.format, &rows)?,
                        None if self.format == Format::Aligned => writeln!(out, "{}", tag(words, count))?,
                        None => {}
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Runs a request that Ctrl-C cancels at the server.
    async fn cancellable<T>(
        &self,
        request: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let mut request = std::pin::pin!(request);
        tokio::select! {
            result = &mut request => result,
            _ = tokio::signal::ctrl_c() => {
                let _ = self.inner.cancel_token().cancel_query(NoTls).await;
                request.await
            }
        }
    }

    async fn copy_in(&mut self, sql: &str, data: &str) -> Result<(), StatementError> {
        let sink = self.inner.copy_in::<_, bytes::Bytes>(sql).await?;
        let mut sink = std::pin::pin!(sink);
        for piece in data.as_bytes().chunks(64 * 1024) {
            sink.send(bytes::Bytes::copy_from_slice(piece)).await?;
        }
        let count = sink.finish().await?;
        if self.format == Format::Aligned {
            writeln!(std::io::stdout().lock(), "COPY {count}")?;
        }
        Ok(())
    }

    async fn copy_out(&mut self, sql: &str) -> Result<(), StatementError> {
        let stream = self.inner.copy_out(sql).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(piece) = stream.try_next().await? {
            std::io::stdout().lock().write_all(&piece)?;
        }
        Ok(())
    }
}

enum StatementError {
    Sql(tokio_postgres::Error),
    Output(std::io::Error),
}

impl From<tokio_postgres::Error> for StatementError {
    fn from(error: tokio_postgres::Error) -> Self {
        StatementError::Sql(error)
    }
}

impl From<std::io::Error> for StatementError {
    fn from(error: std::io::Error) -> Self {
        StatementError::Output(error)
    }
}

enum CopyDirection {
    In,
    Out,
}

/// The statement's words up to its end, in upper case: enough to tell what kind it is.
fn first_words(sql: &str) -> Vec<String> {
    let mut text = sql.trim_start();
    while text.starts_with("--") {
        text = text.split_once('\n').map_or("", |(_, rest)| rest.trim_start());
    }
    text.split(|c: char| c.is_whitespace() || c == '(' || c == ')')
        .filter(|w| !w.is_empty())
        .map(|w| w.to_ascii_uppercase())
        .collect()
}

fn is_query(words: &[String]) -> bool {
    matches!(words.first().map(String::as_str), Some("SELECT" | "WITH" | "VALUES" | "TABLE"))
}

fn copy_direction(words: &[String]) -> Option<CopyDirection> {
    if words.first().map(String::as_str) != Some("COPY") {
        return None;
    }
    words.windows(2).find_map(|pair| match (pair[0].as_str(), pair[1].as_str()) {
        ("FROM", "STDIN") => Some(CopyDirection::In),
        ("TO", "STDOUT") => Some(CopyDirection::Out),
        _ => None,
    })
}

/// COPY's data in a script: from the next line to a line `\.`. Returns it, and how much of the text it takes up.
fn copy_data(following: &str) -> (&str, usize) {
    let start = following.find('\n').map_or(following.len(), |n| n + 1);
    let mut at = start;
    for line in following[start..].split_inclusive('\n') {
        if line.trim_end_matches(['\n', '\r']) == "\\." {
            return (&following[start..at], at + line.len());
        }
        at += line.len();
    }
    (&following[start..], following.len())
}

/// The command tag, which the client library leaves out but for the count.
fn tag(words: &[String], count: u64) -> String {
    let word = |n: usize| words.get(n).map_or("", String::as_str);
    match word(0) {
        "INSERT" => format!("INSERT 0 {count}"),
        "UPDATE" | "DELETE" => format!("{} {count}", word(0)),
        "CREATE" | "DROP" | "ALTER" => format!("{} {}", word(0), word(1)),
        "TRUNCATE" => "TRUNCATE TABLE".to_owned(),
        first => first.trim_end_matches(';').to_owned(),
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(inner) = source {
                text = format!("{text}: {inner}");
                source = inner.source();
            }
            text
        }
    }
}

fn print_error(sql: &str, error: &tokio_postgres::Error) {
    let Some(db) = error.as_db_error() else {
        eprintln!("ERROR:  {}", describe(error));
        return;
    };
    eprintln!("{}:  {}", db.severity(), db.message());
    if let Some(tokio_postgres::error::ErrorPosition::Original(position)) = db.position() {
        show_position(sql, *position as usize);
    }
    if let Some(detail) = db.detail() {
        eprintln!("DETAIL:  {detail}");
    }
    if let Some(hint) = db.hint() {
        eprintln!("HINT:  {hint}");
    }
    eprintln!("SQLSTATE: {}", db.code().code());
}

/// The line that the position (in characters, from 1) is in, with a mark below it.
fn show_position(sql: &str, position: usize) {
    let mut left = position.saturating_sub(1);
    for (number, line) in sql.split('\n').enumerate() {
        let length = line.chars().count() + 1;
        if left < length {
            let lead = format!("LINE {}: ", number + 1);
            eprintln!("{lead}{line}");
            eprintln!("{}^", " ".repeat(lead.chars().count() + left));
            return;
        }
        left -= length;
    }
}
