//! Writing: messages are collected in one buffer and written when the client waits for them, or when enough has gathered.

use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::copy::{CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::error::{Result, SqlError, SqlState};
use crate::exec::Row;
use crate::ir::OutputColumn;
use crate::types::{Datum, TimeZone, Type, io};

/// Rows are written to the socket whenever this much has gathered.
pub const FLUSH_BYTES: usize = 64 * 1024;
/// No single row may be larger than this; PostgreSQL's own limit is 1 GB.
const ROW_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Text in an error is cut to this, so that a 60 MB statement isn't echoed.
const ERROR_TEXT_BYTES_MAX: usize = 8 * 1024;

/// How a value is represented on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// In the type's binary form.
    Binary,
}

impl Format {
    /// Reads a format code.
    pub fn from_code(code: i16) -> Result<Self> {
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            _ => Err(SqlError::new(SqlState::PROTOCOL_VIOLATION, format!("unsupported format code: {code}"))),
        }
    }

    /// Expands Bind's format codes to `count` values: none means text, one means that one for all.
    pub fn expand(codes: &[i16], count: usize, what: &str) -> Result<Vec<Format>> {
        match codes {
            [] => Ok(vec![Format::Text; count]),
            [one] => Ok(vec![Format::from_code(*one)?; count]),
            many if many.len() == count => many.iter().map(|c| Format::from_code(*c)).collect(),
            many => Err(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!("bind message has {} {what} formats but query has {count} columns", many.len()),
            )),
        }
    }
}

/// Collects replies.
#[derive(Debug)]
pub struct Output<W> {
    socket: W,
    buffer: BytesMut,
    scratch: BytesMut,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    /// An empty buffer before a socket.
    pub fn new(socket: W) -> Self {
        Self { socket, buffer: BytesMut::with_capacity(8 * 1024), scratch: BytesMut::new() }
    }

    /// Writes what has gathered.
    pub async fn flush(&mut self) -> std::io::Result<()> {
        if !self.buffer.is_empty() {
            self.socket.write_all(&self.buffer).await?;
            self.buffer.clear();
            if self.buffer.capacity() > 4 * FLUSH_BYTES {
                self.buffer = BytesMut::with_capacity(8 * 1024);
            }
        }
        self.socket.flush().await
    }

    /// Writes what has gathered; nothing comes after it.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        self.flush().await?;
        self.socket.shutdown().await
    }

    /// Writes what has gathered, if it is much.
    pub async fn flush_if_full(&mut self) -> std::io::Result<()> {
        if self.buffer.len() >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// How much is waiting.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Takes back what was added after a mark, if it has not been written (used when a statement is run again).
    pub fn truncate(&mut self, bytes: usize) {
        self.buffer.truncate(bytes);
    }

    fn message(&mut self, message: &impl Message) {
        // Encoding fails only for a message over pgwire's own limits; what could be that large is cut beforehand.
        let before = self.buffer.len();
        if let Err(error) = message.encode(&mut self.buffer) {
            self.buffer.truncate(before);
            tracing::error!(%error, "a reply could not be encoded");
        }
    }

    /// AuthenticationOk.
    pub fn authentication_ok(&mut self) {
        self.message(&Authentication::Ok);
    }

    /// A raw byte: the answer to SSLRequest and GSSENCRequest.
    pub fn byte(&mut self, byte: u8) {
        self.buffer.put_u8(byte);
    }

    /// ParameterStatus.
    pub fn parameter(&mut self, name: &str, value: &str) {
        self.message(&ParameterStatus::new(name.to_owned(), value.to_owned()));
    }

    /// BackendKeyData.
    pub fn backend_key(&mut self, pid: i32, secret: i32) {
        self.message(&BackendKeyData::new(pid, pgwire::messages::startup::SecretKey::I32(secret)));
    }

    /// NegotiateProtocolVersion: the newest minor version spoken here is 0.
    pub fn negotiate_version(&mut self, unrecognized: &[String]) {
        self.buffer.put_u8(b'v');
        let length = 4 + 4 + 4 + unrecognized.iter().map(|o| o.len() + 1).sum::<usize>();
        self.buffer.put_u32(length as u32);
        self.buffer.put_u32(0);
        self.buffer.put_u32(unrecognized.len() as u32);
        for option in unrecognized {
            self.buffer.put_slice(option.as_bytes());
            self.buffer.put_u8(0);
        }
    }

    /// ReadyForQuery.
    pub fn ready(&mut self, status: TransactionStatus) {
        self.message(&ReadyForQuery::new(status));
    }

    /// ParseComplete.
    pub fn parse_complete(&mut self) {
        self.message(&ParseComplete::new());
    }

    /// BindComplete.
    pub fn bind_complete(&mut self) {
        self.message(&BindComplete::new());
    }

    /// CloseComplete.
    pub fn close_complete(&mut self) {
        self.message(&CloseComplete::new());
    }

    /// PortalSuspended.
    pub fn portal_suspended(&mut self) {
        self.message(&PortalSuspended::new());
    }

    /// NoData.
    pub fn no_data(&mut self) {
        self.message(&NoData::new());
    }

    /// EmptyQueryResponse.
    pub fn empty_query(&mut self) {
        self.message(&EmptyQueryResponse::new());
    }

    /// CommandComplete.
    pub fn complete(&mut self, tag: &str) {
        self.message(&CommandComplete::new(tag.to_owned()));
    }

    /// ParameterDescription.
    pub fn parameter_description(&mut self, types: &[Type]) {
        self.message(&ParameterDescription::new(types.iter().map(|t| t.oid()).collect()));
    }

    /// RowDescription.
    pub fn row_description(&mut self, columns: &[OutputColumn], formats: &[Format]) {
        let fields = columns
            .iter()
            .zip(formats)
            .map(|(column, format)| {
                let (table, number) = column.origin.unwrap_or((0, 0));
                // A client knows no `unknown`: PostgreSQL puts such columns out as text.
                let ty = if column.ty.ty == Type::Unknown { Type::Text } else { column.ty.ty };
                FieldDescription::new(
                    column.name.clone(),
                    table as i32,
                    number,
                    ty.oid(),
                    ty.len(),
                    column.ty.typmod,
                    i16::from(*format == Format::Binary),
                )
            })
            .collect();
        self.message(&RowDescription::new(fields));
    }

    /// CopyInResponse: all columns as text.
    pub fn copy_in(&mut self, columns: usize) {
        self.message(&CopyInResponse::new(0, columns as i16, vec![0; columns]));
    }

    /// CopyOutResponse: all columns as text.
    pub fn copy_out(&mut self, columns: usize) {
        self.message(&CopyOutResponse::new(0, columns as i16, vec![0; columns]));
    }

    /// CopyData.
    pub fn copy_data(&mut self, data: &[u8]) {
        self.buffer.put_u8(b'd');
        self.buffer.put_u32(4 + data.len() as u32);
        self.buffer.put_slice(data);
    }

    /// CopyDone.
    pub fn copy_done(&mut self) {
        self.message(&pgwire::messages::copy::CopyDone::new());
    }

    /// DataRow.
    pub fn row(
        &mut self,
        row: &Row,
        columns: &[OutputColumn],
        formats: &[Format],
        zone: &TimeZone,
    ) -> Result<()> {
        debug_assert_eq!(row.len(), columns.len(), "a row is as wide as its description");
        let start = self.buffer.len();
        self.buffer.put_u8(b'D');
        self.buffer.put_u32(0);
        self.buffer.put_u16(row.len() as u16);
        for ((datum, column), format) in row.iter().zip(columns).zip(formats) {
            if datum.is_null() {
                self.buffer.put_i32(-1);
                continue;
            }
            match (format, datum) {
                (Format::Text, Datum::Text(text)) if column.ty.ty != Type::Bpchar => {
                    self.buffer.put_u32(text.len() as u32);
                    self.buffer.put_slice(text.as_bytes());
                }
                (Format::Text, datum) => {
                    let text = io::format(datum, column.ty, zone);
                    self.buffer.put_u32(text.len() as u32);
                    self.buffer.put_slice(text.as_bytes());
                }
                (Format::Binary, datum) => {
                    self.scratch.clear();
                    io::to_binary(datum, column.ty, &mut self.scratch);
                    self.buffer.put_u32(self.scratch.len() as u32);
                    self.buffer.put_slice(&self.scratch);
                }
            }
            if self.buffer.len() - start > ROW_BYTES_MAX {
                self.buffer.truncate(start);
                return Err(SqlError::new(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("row is too large: maximum is {ROW_BYTES_MAX} bytes"),
                ));
            }
        }
        let length = (self.buffer.len() - start - 1) as u32;
        self.buffer[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// NoticeResponse.
    pub fn notice(&mut self, severity: &str, state: &str, message: &str) {
        let fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', state.to_owned()),
            (b'M', clean(message)),
        ];
        self.message(&NoticeResponse::new(fields));
    }

    /// ErrorResponse with severity ERROR, or FATAL when the connection ends with it.
    pub fn error(&mut self, error: &SqlError, fatal: bool) {
        let severity = if fatal { "FATAL" } else { "ERROR" };
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', error.state.0.to_owned()),
            (b'M', clean(&error.message)),
        ];
        let mut optional = |code: u8, text: Option<&str>| {
            if let Some(text) = text {
                fields.push((code, clean(text)));
            }
        };
        optional(b'D', error.detail.as_deref());
        optional(b'H', error.hint.as_deref());
        optional(b'W', error.context.as_deref());
        if let Some(object) = &error.object {
            optional(b's', object.schema.as_deref());
            optional(b't', object.table.as_deref());
            optional(b'c', object.column.as_deref());
            optional(b'n', object.constraint.as_deref());
        }
        if let Some(position) = error.position {
            fields.push((b'P', position.to_string()));
        }
        self.message(&ErrorResponse::new(fields));
    }
}

/// A string for a message field: without NULs, which would end it, and not too long.
fn clean(text: &str) -> String {
    let mut end = text.len().min(ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = text[..end].replace('\0', "\\0");
    if end < text.len() {
        out.push('…');
    }
    out
}
