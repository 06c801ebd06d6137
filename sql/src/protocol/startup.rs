//! The handshake: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

use std::collections::BTreeMap;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{FrameReader, ReadError, check_utf8};
use super::output::Output;
use crate::error::{Result, SqlError, SqlState};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// PostgreSQL's MAX_STARTUP_PACKET_LENGTH.
const STARTUP_BYTES_MAX: usize = 10_000;

/// What a client wants of a fresh connection.
#[derive(Debug)]
pub enum Opening {
    /// A session, with these parameters.
    Session(BTreeMap<String, String>),
    /// To cancel what another session is running.
    Cancel {
        /// From BackendKeyData.
        pid: i32,
        /// From BackendKeyData.
        secret: i32,
    },
}

/// Carries out the handshake up to the StartupMessage.
pub async fn open<R, W>(reader: &mut FrameReader<R>, output: &mut Output<W>) -> Result<Opening, ReadError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut ssl_asked, mut gss_asked) = (false, false);
    loop {
        let mut packet = reader.startup_packet(STARTUP_BYTES_MAX).await?;
        packet.advance(4);
        let code = packet.get_u32();
        match code {
            SSL_REQUEST if !ssl_asked => ssl_asked = true,
            GSSENC_REQUEST if !gss_asked => gss_asked = true,
            CANCEL_REQUEST if packet.len() == 8 => {
                return Ok(Opening::Cancel { pid: packet.get_i32(), secret: packet.get_i32() });
            }
            _ if code >> 16 == 3 => return session(code, &packet, output).map_err(ReadError::Fatal),
            _ => {
                return Err(ReadError::Fatal(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!(
                        "unsupported frontend protocol {}.{}: server supports 3.0 to 3.0",
                        code >> 16,
                        code & 0xffff
                    ),
                )));
            }
        }
        // Encryption is refused with one byte. Whatever was sent ahead of that answer could not have been meant for
        // an encrypted connection, and may have been put there by someone else.
        if !reader.buffered().is_empty() {
            return Err(ReadError::Fatal(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                "received unencrypted data after encryption request",
            )));
        }
        output.byte(b'N');
        output.flush().await.map_err(|_| ReadError::Closed)?;
    }
}

fn session<W: AsyncWrite + Unpin>(code: u32, body: &[u8], output: &mut Output<W>) -> Result<Opening> {
    let mut parameters = BTreeMap::new();
    let mut unrecognized = Vec::new();
    let mut strings = body.split(|b| *b == 0);
    loop {
        let Some(name) = strings.next() else {
            return Err(SqlError::new(
                SqlState::PROTOCOL_VIOLATION,
                "invalid startup packet layout: expected terminator as last byte",
            ));
        };
        if name.is_empty() {
            break;
        }
        let Some(value) = strings.next() else {
            return Err(SqlError::new(SqlState::PROTOCOL_VIOLATION, "invalid startup packet layout"));
        };
        check_utf8(name)?;
        check_utf8(value)?;
        let name = String::from_utf8_lossy(name).into_owned();
        if name.starts_with("_pq_.") {
            unrecognized.push(name);
        } else {
            parameters.insert(name, String::from_utf8_lossy(value).into_owned());
        }
    }
    if code & 0xffff != 0 || !unrecognized.is_empty() {
        output.negotiate_version(&unrecognized);
    }
    if parameters.get("user").is_none_or(|user| user.is_empty()) {
        return Err(SqlError::new(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    Ok(Opening::Session(parameters))
}
