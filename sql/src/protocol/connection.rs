//! One connection, from the first byte to the last.
//!
//! ```text
//!   socket ──▶ FrameReader ──▶ Connection ──▶ Session ──▶ bind, exec ──▶ Transaction
//!   socket ◀── Output      ◀──────┘   rows, tags, errors
//! ```
//!
//! The connection knows messages and nothing of SQL; the session knows statements and nothing of sockets. An error in
//! the extended protocol makes the connection skip to the next Sync, as the protocol demands.

use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::PgWireFrontendMessage as Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{FrameReader, ReadError};
use super::output::{Format, Output};
use super::startup::{self, Opening};
use crate::error::{Result, SqlError, SqlState};
use crate::server::{Admission, Shared};
use crate::session::{Notice, Response, Rows, Session};

/// How long a client may take over the handshake (PostgreSQL's `authentication_timeout`).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take to read why its session has ended, and to hang up.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Why the connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client said goodbye, or is gone.
    Closed,
    /// The error was or is to be sent as FATAL.
    Fatal(SqlError),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        End::Closed
    }
}

/// A connection after its handshake.
pub(super) struct Connection<R, W> {
    pub(super) reader: FrameReader<R>,
    pub(super) output: Output<W>,
    pub(super) session: Session,
    /// An error in the extended protocol: everything up to the next Sync is skipped.
    pub(super) skip_to_sync: bool,
    /// All that the client has sent has been answered, up to ReadyForQuery.
    waits: bool,
    /// An error that ends the session.
    fatal: Option<SqlError>,
}

/// Serves one connection to its end. Never panics on what the client sends; errors are the client's, so they end here.
pub async fn serve<R, W>(reader: R, writer: W, shared: Arc<Shared>, admission: Admission)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = FrameReader::new(reader, shared.options.message_bytes_max);
    let mut output = Output::new(writer);
    let handshake = startup::open(&mut reader, &mut output);
    let opening = tokio::select! {
        opening = handshake => opening,
        _ = shared.leaving(false), if matches!(admission, Admission::Admitted(_)) => return,
        () = shared.seams.sleep(HANDSHAKE_TIMEOUT) => return,
    };
    let parameters = match opening {
        Ok(Opening::Session(parameters)) => parameters,
        Ok(Opening::Cancel { pid, secret }) => return shared.cancel(pid, secret),
        Err(ReadError::Closed) => return,
        Err(ReadError::Fatal(error) | ReadError::Refused { error, .. }) => {
            output.error(&error, true);
            // The client may be gone already; there is nobody else to tell.
            let _ = output.flush().await;
            return;
        }
    };
    let session = match admission {
        Admission::Refused(error) => Err(error),
        // The handshake took its time.
        Admission::Admitted(ticket) => match shared.refusal() {
            Some(error) => Err(error),
            None => Session::open(shared.clone(), ticket, &parameters).await,
        },
    };
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            output.error(&error, true);
            let _ = output.flush().await;
            return;
        }
    };
    let mut connection =
        Connection { reader, output, session, skip_to_sync: false, waits: false, fatal: None };
    let end = connection.run().await;
    connection.session.close().await;
    if let End::Fatal(error) = end {
        let Connection { mut reader, mut output, session, .. } = connection;
        output.error(&error, true);
        let farewell = async {
            let told = output.finish().await;
            // Its place is free as soon as the client has been told.
            drop(session);
            // A socket that is closed with something unread takes back what was said last.
            if told.is_ok() {
                reader.ignore_the_rest().await;
            }
        };
        tokio::select! {
            () = farewell => {}
            () = shared.seams.sleep(FAREWELL_LIMIT) => {}
        }
    }
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    async fn run(&mut self) -> End {
        match self.greet().await.and(self.serve_messages().await) {
            Ok(()) => End::Closed,
            Err(end) => end,
        }
    }

    async fn greet(&mut self) -> Result<(), End> {
        self.output.authentication_ok();
        for (name, value) in self.session.settings().reported() {
            self.output.parameter(name, &value);
        }
        let (pid, secret) = self.session.key();
        self.output.backend_key(pid, secret);
        self.ready().await
    }

    async fn ready(&mut self) -> Result<(), End> {
        self.go_on()?;
        // Those that the end of an implicit transaction brought back.
        for (name, value) in self.session.take_changed_parameters() {
            self.output.parameter(name, &value);
        }
        self.output.ready(self.session.status());
        self.waits = true;
        Ok(self.output.flush().await?)
    }

    async fn serve_messages(&mut self) -> Result<(), End> {
        loop {
            let idle_limit = self.session.idle_limit();
            let leaving = self.session.leaving(self.waits);
            let doomed = self.session.doomed();
            let message = tokio::select! {
                biased;
                error = doomed => return Err(End::Fatal(error)),
                // Before the next message: a client that always has one ready would stay for ever.
                error = leaving => return Err(End::Fatal(error)),
                message = self.reader.message() => message,
                error = idle_limit => return Err(End::Fatal(error)),
            };
            self.waits = false;
            match message {
                Ok(Message::Terminate(_)) => return Ok(()),
                Ok(message) => self.message(message).await?,
                Err(ReadError::Closed) => return Ok(()),
                Err(ReadError::Fatal(error)) => return Err(End::Fatal(error)),
                Err(ReadError::Refused { kind, error }) => self.refused(kind, error).await?,
            }
            self.go_on()?;
        }
    }

    /// Unless the session is to end.
    fn go_on(&mut self) -> Result<(), End> {
        self.fatal.take().map_or(Ok(()), |error| Err(End::Fatal(error)))
    }

    /// A message that could be skipped but not understood: an error of the statement it was part of.
    async fn refused(&mut self, kind: u8, error: SqlError) -> Result<(), End> {
        if self.skip_to_sync {
            return Ok(());
        }
        self.fail(&error);
        if kind == b'Q' {
            return self.ready().await;
        }
        self.skip_to_sync = true;
        Ok(())
    }

    /// Sends an error, which aborts an open transaction.
    pub(super) fn fail(&mut self, error: &SqlError) {
        self.session.failed();
        match error.state {
            SqlState::TRANSACTION_TIMEOUT => self.fatal = Some(error.clone()),
            _ => self.output.error(error, false),
        }
    }

    async fn message(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Sync(_) => {
                self.skip_to_sync = false;
                if let Err(error) = self.session.sync().await {
                    self.fail(&error);
                }
                self.ready().await
            }
            _ if self.skip_to_sync => Ok(()),
            Message::Query(query) => self.simple_query(&query.query).await,
            Message::Flush(_) => Ok(self.output.flush().await?),
            Message::Parse(_)
            | Message::Bind(_)
            | Message::Describe(_)
            | Message::Execute(_)
            | Message::Close(_) => {
                match self.extended(message).await? {
                    Ok(()) => self.output.flush_if_full().await?,
                    Err(error) => {
                        self.fail(&error);
                        self.skip_to_sync = true;
                    }
                }
                Ok(())
            }
            // Left over from a COPY that failed: the protocol has the server ignore them.
            Message::CopyData(_) | Message::CopyDone(_) | Message::CopyFail(_) => Ok(()),
            _ => Err(End::Fatal(SqlError::new(SqlState::PROTOCOL_VIOLATION, "unexpected message"))),
        }
    }

    async fn simple_query(&mut self, text: &str) -> Result<(), End> {
        let statements = match self.session.parse(text) {
            Ok(statements) => statements,
            Err(error) => {
                self.fail(&error);
                return self.ready().await;
            }
        };
        if statements.is_empty() {
            self.output.empty_query();
        }
        let several = statements.len() > 1;
        for statement in statements {
            if several {
                self.session.begin_implicit();
            }
            let result = match self.session.run_simple(statement, !several).await {
                Ok(response) => self.respond(response, true, None).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.fail(&error);
                break;
            }
        }
        if let Err(error) = self.session.sync().await {
            self.fail(&error);
        }
        self.ready().await
    }

    /// Sends what a statement gave. The inner result is the statement's, the outer one the connection's.
    pub(super) async fn respond(
        &mut self,
        response: Response,
        describe: bool,
        formats: Option<&[Format]>,
    ) -> Result<Result<()>, End> {
        match response {
            Response::Rows(rows) => {
                let text;
                let formats = match formats {
                    Some(formats) => formats,
                    None => {
                        text = vec![Format::Text; rows.columns.len()];
                        &text
                    }
                };
                if describe {
                    self.output.row_description(&rows.columns, formats);
                }
                let mut rows = rows;
                match self.send_rows(&mut rows, formats, usize::MAX).await? {
                    Ok(_) => {}
                    Err(error) => return Ok(Err(self.session.with_cancel_reason(error))),
                }
                match self.session.finish_rows(rows).await {
                    Ok(tag) => return Ok(self.complete(&tag, Vec::new()).await),
                    Err(error) => return Ok(Err(self.session.with_cancel_reason(error))),
                }
            }
            Response::Done { tag, notices } => {
                for (name, value) in self.session.take_changed_parameters() {
                    self.output.parameter(name, &value);
                }
                return Ok(self.complete(&tag, notices).await);
            }
            Response::CopyIn(sink) => return self.copy_in(*sink).await,
            Response::CopyOut(copy) => return self.copy_out(copy).await,
            Response::Empty => self.output.empty_query(),
        }
        Ok(Ok(()))
    }

    /// A statement is done.
    pub(super) async fn complete(&mut self, tag: &str, notices: Vec<Notice>) -> Result<()> {
        for notice in self.session.take_notices().into_iter().chain(notices) {
            self.output.notice(notice.severity, notice.state.0, &notice.message);
        }
        self.session.confirm().await?;
        self.output.complete(tag);
        Ok(())
    }

    /// Sends up to `rows_max` rows; returns whether the stream is exhausted. While rows are computed or written, the
    /// statement's cancellation and the client's disappearance are watched for.
    pub(super) async fn send_rows(
        &mut self,
        rows: &mut Rows,
        formats: &[Format],
        rows_max: usize,
    ) -> Result<Result<bool>, End> {
        let zone = self.session.settings().time_zone().clone();
        let mut sent = 0;
        // The command tag counts the rows of this Execute, not of the portal.
        rows.count = 0;
        loop {
            if sent >= rows_max {
                // PostgreSQL suspends as soon as the count is reached, without looking for one more row.
                return Ok(Ok(false));
            }
            if rows.pending.is_empty() {
                let cancel = rows.cancel.clone();
                let batch = tokio::select! {
                    batch = rows.stream.next() => batch,
                    () = cancel.cancelled() => Err(self.session.cancel_reason()),
                    () = self.reader.wait_closed(self.session.closing_grace()) => return Err(End::Closed),
                };
                match batch {
                    Ok(Some(batch)) => rows.pending.extend(batch),
                    Ok(None) => return Ok(Ok(true)),
                    Err(error) => return Ok(Err(self.session.with_cancel_reason(error))),
                }
            }
            while sent < rows_max {
                let Some(row) = rows.pending.pop_front() else { break };
                if let Err(error) = self.output.row(&row, &rows.columns, formats, &zone) {
                    return Ok(Err(error));
                }
                rows.count += 1;
                sent += 1;
                if self.output.pending_bytes() >= super::output::FLUSH_BYTES {
                    // A cancellation takes effect between writes: a write cut short would leave half a message.
                    self.output.flush().await?;
                }
            }
        }
    }
}
