//! COPY, as the protocol carries it.

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, End};
use super::frame::{CopyMessage, ReadError};
use crate::error::{Result, SqlError, SqlState};
use crate::session::{CopyInRun, CopyOutRun};

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    /// Takes in data until CopyDone. After an error the rest of the data is ignored (see `message`), as the protocol has it.
    pub(super) async fn copy_in(&mut self, mut run: CopyInRun) -> Result<Result<()>, End> {
        self.output.copy_in(run.columns);
        self.output.flush().await?;
        loop {
            let message = tokio::select! {
                message = self.reader.message() => message,
                () = run.cancel.cancelled() => {
                    let error = self.session.cancel_reason();
                    self.session.abandon_copy(run).await;
                    return Ok(Err(error));
                }
            };
            let message = match message {
                Ok(message) => CopyMessage::from(message),
                Err(ReadError::Closed) => {
                    self.session.abandon_copy(run).await;
                    return Err(End::Closed);
                }
                Err(ReadError::Fatal(error)) => return Err(End::Fatal(error)),
                Err(ReadError::Refused { error, .. }) => {
                    self.session.abandon_copy(run).await;
                    return Ok(Err(error));
                }
            };
            let error = match message {
                CopyMessage::Data(data) => match run.push(&data.data).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                CopyMessage::Ignored => continue,
                CopyMessage::Done(_) => match self.session.finish_copy(run).await {
                    Ok(tag) => {
                        return Ok(self.complete(&tag, Vec::new()).await);
                    }
                    Err(error) => return Ok(Err(error)),
                },
                CopyMessage::Fail(fail) => SqlError::new(
                    SqlState::QUERY_CANCELED,
                    format!("COPY from stdin failed: {}", fail.message),
                ),
                CopyMessage::Terminate => {
                    self.session.abandon_copy(run).await;
                    return Err(End::Closed);
                }
                CopyMessage::Other => {
                    self.session.abandon_copy(run).await;
                    return Err(End::Fatal(SqlError::new(
                        SqlState::PROTOCOL_VIOLATION,
                        "unexpected message during COPY from stdin",
                    )));
                }
            };
            self.session.abandon_copy(run).await;
            return Ok(Err(error));
        }
    }

    /// Sends data, piece by piece.
    pub(super) async fn copy_out(&mut self, mut run: CopyOutRun) -> Result<Result<()>, End> {
        self.output.copy_out(run.columns);
        loop {
            let cancel = run.cancel.clone();
            let piece = tokio::select! {
                piece = run.next() => piece,
                () = cancel.cancelled() => Err(self.session.cancel_reason()),
                () = self.reader.wait_closed(self.session.closing_grace()) => return Err(End::Closed),
            };
            match piece {
                Ok(Some(lines)) => {
                    // One message per line: what libpq's PQgetCopyData hands out.
                    for line in lines.split_inclusive(|b| *b == b'\n') {
                        self.output.copy_data(line);
                    }
                    self.output.flush_if_full().await?;
                }
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        match self.session.finish_copy_out(run).await {
            Ok(tag) => {
                self.output.copy_done();
                Ok(self.complete(&tag, Vec::new()).await)
            }
            Err(error) => Ok(Err(error)),
        }
    }
}
