//! Reading: bytes from a socket become frames, and frames become messages.

use bytes::{Buf, Bytes, BytesMut};
use pgwire::messages::{
    DecodeContext, PgWireFrontendMessage,
    copy::{CopyData, CopyDone, CopyFail},
};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Result, SqlError, SqlState};

/// How much is read from the socket at once.
const READ_BYTES: usize = 16 * 1024;
/// A message's type and length.
const HEADER_BYTES: usize = 5;
/// A buffer that has grown beyond this is given back once it is empty.
const KEEP_BYTES: usize = 256 * 1024;

/// Why no further frame can be had.
#[derive(Debug)]
pub enum ReadError {
    /// The client is gone; nobody is left to tell.
    Closed,
    /// The stream makes no sense any more: the error is sent and the connection closed.
    Fatal(SqlError),
    /// The frame was thrown away; the error is sent and the connection goes on.
    Refused {
        /// The type of the message that was refused.
        kind: u8,
        /// Why.
        error: SqlError,
    },
}

/// Reads frames from a socket.
#[derive(Debug)]
pub struct FrameReader<R> {
    socket: R,
    buffer: BytesMut,
    context: DecodeContext,
    message_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader whose frames after startup have at most `message_bytes_max` bytes.
    pub fn new(socket: R, message_bytes_max: usize) -> Self {
        let mut context = DecodeContext::default();
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        Self { socket, buffer: BytesMut::new(), context, message_bytes_max }
    }

    /// The bytes that have arrived and were not yet taken.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes a startup packet (which has a length and no type), of at most `bytes_max`.
    pub async fn startup_packet(&mut self, bytes_max: usize) -> Result<Bytes, ReadError> {
        self.fill(4).await?;
        let length = (&self.buffer[..4]).get_u32() as usize;
        if !(8..=bytes_max).contains(&length) {
            return Err(ReadError::Fatal(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                "invalid length of startup packet",
            )));
        }
        self.fill(length).await?;
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Whether the next message has arrived and is of this type: lets the loop see a Sync that follows an Execute.
    pub fn next_is(&self, kind: u8) -> bool {
        self.buffer.first() == Some(&kind)
    }

    /// The next message. Cancel-safe: nothing is taken before a whole message is there.
    pub async fn message(&mut self) -> Result<PgWireFrontendMessage, ReadError> {
        self.fill(HEADER_BYTES).await?;
        let kind = self.buffer[0];
        let length = (&self.buffer[1..HEADER_BYTES]).get_u32() as usize;
        if !is_known(kind) {
            return Err(ReadError::Fatal(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!("invalid frontend message type {kind}"),
            )));
        }
        if length < 4 {
            return Err(ReadError::Fatal(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                "invalid message length",
            )));
        }
        let total = length + 1;
        if total > self.message_bytes_max {
            self.discard(total).await?;
            let error = SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("message of {total} bytes exceeds the limit of {} bytes", self.message_bytes_max),
            )
            .hint("Send less at once, for example with COPY, or with several statements.");
            return Err(ReadError::Refused { kind, error });
        }
        self.fill(total).await?;
        self.decode(kind, total)
    }

    fn decode(&mut self, kind: u8, total: usize) -> Result<PgWireFrontendMessage, ReadError> {
        let mut frame = self.buffer.split_to(total);
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_BYTES {
            self.buffer = BytesMut::new();
        }
        if !is_well_formed(kind, &frame[HEADER_BYTES..]) {
            return Err(malformed(kind));
        }
        if let Err(error) = check_strings(kind, &frame[HEADER_BYTES..]) {
            return Err(ReadError::Refused { kind, error });
        }
        match PgWireFrontendMessage::decode(&mut frame, &self.context) {
            // What the decoder left over means that the message's own counts contradict its length.
            Ok(Some(message)) if frame.is_empty() => Ok(message),
            Ok(_) => Err(malformed(kind)),
            Err(error) => Err(ReadError::Fatal(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!("invalid message of type '{}': {error}", kind as char),
            ))),
        }
    }

    /// Reads until `bytes` are buffered.
    async fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        while self.buffer.len() < bytes {
            self.read_some().await?;
        }
        Ok(())
    }

    async fn read_some(&mut self) -> Result<(), ReadError> {
        self.buffer.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(ReadError::Closed),
            Ok(_) => Ok(()),
        }
    }

    /// Completes when the client is gone: what a running statement watches for. A connection that broke is gone at
    /// once. The end of the stream alone may also be a client that has closed its sending half and reads on (`nc -N`):
    /// it gets what is done within `grace`.
    pub async fn wait_closed(&mut self, grace: impl Future<Output = ()>) {
        // A client that pipelines a lot is left waiting in the kernel's buffer.
        while self.buffer.len() < READ_BYTES {
            self.buffer.reserve(READ_BYTES);
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return grace.await,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        std::future::pending().await
    }

    /// Takes in whatever the client still sends, until it hangs up.
    pub async fn ignore_the_rest(&mut self) {
        loop {
            self.buffer.clear();
            if self.read_some().await.is_err() {
                return;
            }
        }
    }

    async fn discard(&mut self, mut bytes: usize) -> Result<(), ReadError> {
        loop {
            let here = bytes.min(self.buffer.len());
            self.buffer.advance(here);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.buffer.clear();
            self.read_some().await?;
        }
    }
}

fn malformed(kind: u8) -> ReadError {
    ReadError::Fatal(SqlError::new(
        SqlState::PROTOCOL_VIOLATION,
        format!("invalid message format in message of type '{}'", kind as char),
    ))
}

/// The message types that a frontend may send after startup.
fn is_known(kind: u8) -> bool {
    matches!(kind, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' | b'X' | b'd' | b'c' | b'f' | b'p')
}

/// Whether a message's own counts and lengths fill its body exactly. The decoder trusts them, and would read beyond the
/// end of a short Bind.
fn is_well_formed(kind: u8, body: &[u8]) -> bool {
    fn string(body: &mut &[u8]) -> Option<()> {
        let end = body.iter().position(|b| *b == 0)?;
        *body = &body[end + 1..];
        Some(())
    }
    fn skip(body: &mut &[u8], bytes: usize) -> Option<()> {
        *body = body.get(bytes..)?;
        Some(())
    }
    fn count(body: &mut &[u8]) -> Option<usize> {
        let count = u16::from_be_bytes(*body.first_chunk()?);
        skip(body, 2)?;
        Some(usize::from(count))
    }
    fn walk(kind: u8, body: &mut &[u8]) -> Option<()> {
        match kind {
            b'Q' | b'f' => string(body),
            b'P' => {
                string(body)?;
                string(body)?;
                let types = count(body)?;
                skip(body, 4 * types)
            }
            b'B' => {
                string(body)?;
                string(body)?;
                let formats = count(body)?;
                skip(body, 2 * formats)?;
                for _ in 0..count(body)? {
                    let length = i32::from_be_bytes(*body.first_chunk()?);
                    skip(body, 4)?;
                    // -1 is NULL.
                    if length != -1 {
                        skip(body, usize::try_from(length).ok()?)?;
                    }
                }
                let formats = count(body)?;
                skip(body, 2 * formats)
            }
            b'D' | b'C' => {
                skip(body, 1)?;
                string(body)
            }
            b'E' => {
                string(body)?;
                skip(body, 4)
            }
            b'd' | b'p' => skip(body, body.len()),
            _ => Some(()),
        }
    }
    let mut rest = body;
    walk(kind, &mut rest).is_some() && rest.is_empty()
}

/// Refuses strings that are not UTF-8: the decoder would replace what it can't read, and store something else than
/// was sent.
fn check_strings(kind: u8, body: &[u8]) -> Result<()> {
    let strings = match kind {
        b'Q' | b'f' => 1,
        b'P' | b'B' => 2,
        b'D' | b'C' => return check_utf8(body.get(1..).unwrap_or_default()),
        b'E' => 1,
        _ => 0,
    };
    let mut rest = body;
    for _ in 0..strings {
        let Some(end) = rest.iter().position(|b| *b == 0) else {
            return Err(SqlError::new(SqlState::PROTOCOL_VIOLATION, "invalid string in message"));
        };
        check_utf8(&rest[..end])?;
        rest = &rest[end + 1..];
    }
    Ok(())
}

/// PostgreSQL's words for bytes that are not UTF-8.
pub fn check_utf8(bytes: &[u8]) -> Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => {
            let from = error.valid_up_to();
            let bad = &bytes[from..(from + error.error_len().unwrap_or(1)).min(bytes.len())];
            let shown: Vec<String> = bad.iter().map(|b| format!("0x{b:02x}")).collect();
            Err(SqlError::new(
                SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" ")),
            ))
        }
    }
}

/// What may arrive while the server takes in COPY data.
#[derive(Debug)]
pub enum CopyMessage {
    /// A piece of the data.
    Data(CopyData),
    /// The end.
    Done(CopyDone),
    /// The client gives up.
    Fail(CopyFail),
    /// Flush or Sync, which are ignored during COPY.
    Ignored,
    /// Anything else: a protocol violation.
    Other,
    /// The client ends the session.
    Terminate,
}

impl From<PgWireFrontendMessage> for CopyMessage {
    fn from(message: PgWireFrontendMessage) -> Self {
        match message {
            PgWireFrontendMessage::CopyData(data) => CopyMessage::Data(data),
            PgWireFrontendMessage::CopyDone(done) => CopyMessage::Done(done),
            PgWireFrontendMessage::CopyFail(fail) => CopyMessage::Fail(fail),
            PgWireFrontendMessage::Flush(_) | PgWireFrontendMessage::Sync(_) => CopyMessage::Ignored,
            PgWireFrontendMessage::Terminate(_) => CopyMessage::Terminate,
            _ => CopyMessage::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_well_formed;

    #[test]
    fn counts_that_lie_are_malformed() {
        assert!(is_well_formed(b'Q', b"SELECT 1\0"));
        assert!(!is_well_formed(b'Q', b"SELECT 1"));
        assert!(!is_well_formed(b'Q', b"SELECT 1\0x"));
        assert!(is_well_formed(b'B', b"\0\0\0\0\0\x01\0\0\0\x02hi\0\0"));
        assert!(is_well_formed(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xff\0\0"));
        assert!(!is_well_formed(b'B', b"\0\0\0\x05\0\0"));
        assert!(!is_well_formed(b'B', b"\0\0\0\0\0\x01\0\0\0\x09hi\0\0"));
        assert!(!is_well_formed(b'P', b"\0\0\0\x01"));
        assert!(!is_well_formed(b'E', b"\0\0\0"));
        assert!(!is_well_formed(b'D', b""));
        assert!(is_well_formed(b'S', b""));
    }
}
