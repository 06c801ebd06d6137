//! Binary strings, digests and encodings (PostgreSQL 15, chapter 9.5).

use bytes::Bytes;
use md5::{Digest, Md5};
use sha2::{Sha224, Sha256, Sha384, Sha512};

use super::define::{Args, f};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Datum, Type, io};

macro_rules! list {
    ($($name:literal ($($arg:ident),*) -> $ret:ident = $kernel:expr;)*) => {
        &[$(f($name, &[$(Type::$arg),*], Type::$ret, $kernel)),*]
    };
}

pub(super) static OPERATORS: &[Function] = list! {
    "||"(Bytea, Bytea) -> Bytea = |_, a| Ok(bytea([&a.bytea(0)?[..], a.bytea(1)?].concat()));
};

pub(super) static FUNCTIONS: &[Function] = list! {
    "length"(Bytea) -> Int4 = |_, a| Ok(Datum::Int4(a.bytea(0)?.len() as i32));
    "octet_length"(Bytea) -> Int4 = |_, a| Ok(Datum::Int4(a.bytea(0)?.len() as i32));
    "bit_length"(Bytea) -> Int4 = |_, a| Ok(Datum::Int4(a.bytea(0)?.len() as i32 * 8));
    "bit_count"(Bytea) -> Int8 = |_, a| Ok(Datum::Int8(a.bytea(0)?.iter().map(|b| i64::from(b.count_ones())).sum()));
    "substr"(Bytea, Int4) -> Bytea = |_, a| substring(a, None);
    "substr"(Bytea, Int4, Int4) -> Bytea = |_, a| substring(a, Some(a.int4(2)?));
    "substring"(Bytea, Int4) -> Bytea = |_, a| substring(a, None);
    "substring"(Bytea, Int4, Int4) -> Bytea = |_, a| substring(a, Some(a.int4(2)?));
    "position"(Bytea, Bytea) -> Int4 = position;
    "btrim"(Bytea, Bytea) -> Bytea = |_, a| trim(a, true, true);
    "ltrim"(Bytea, Bytea) -> Bytea = |_, a| trim(a, true, false);
    "rtrim"(Bytea, Bytea) -> Bytea = |_, a| trim(a, false, true);
    "get_byte"(Bytea, Int4) -> Int4 = |_, a| Ok(Datum::Int4(i32::from(a.bytea(0)?[index(a, 1)?])));
    "set_byte"(Bytea, Int4, Int4) -> Bytea = |_, a| {
        let mut out = a.bytea(0)?.to_vec();
        out[index(a, 1)?] = a.int4(2)? as u8;
        Ok(bytea(out))
    };
    "encode"(Bytea, Text) -> Text = encode;
    "decode"(Text, Text) -> Bytea = decode;
    "convert_to"(Text, Name) -> Bytea = |_, a| {
        utf8_only(a.text(1)?)?;
        Ok(bytea(a.text(0)?.as_bytes().to_vec()))
    };
    "convert_from"(Bytea, Name) -> Text = |_, a| {
        utf8_only(a.text(1)?)?;
        let text = std::str::from_utf8(a.bytea(0)?).ok().filter(|text| !text.contains('\0'));
        text.map(Datum::text).ok_or_else(|| {
            SqlError::new(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\"")
        })
    };
    "md5"(Text) -> Text = |_, a| Ok(Datum::text(hex::encode(Md5::digest(a.text(0)?.as_bytes()))));
    "md5"(Bytea) -> Text = |_, a| Ok(Datum::text(hex::encode(Md5::digest(a.bytea(0)?))));
    "sha224"(Bytea) -> Bytea = |_, a| Ok(bytea(Sha224::digest(a.bytea(0)?).to_vec()));
    "sha256"(Bytea) -> Bytea = |_, a| Ok(bytea(Sha256::digest(a.bytea(0)?).to_vec()));
    "sha384"(Bytea) -> Bytea = |_, a| Ok(bytea(Sha384::digest(a.bytea(0)?).to_vec()));
    "sha512"(Bytea) -> Bytea = |_, a| Ok(bytea(Sha512::digest(a.bytea(0)?).to_vec()));
};

fn bytea(bytes: Vec<u8>) -> Datum {
    Datum::Bytea(Bytes::from(bytes))
}

fn substring(a: &[Datum], length: Option<i32>) -> Result<Datum> {
    let bytes = a.bytea(0)?;
    let start = i64::from(a.int4(1)?);
    let end = match length {
        None => i64::MAX,
        Some(length) if length < 0 => {
            return Err(SqlError::new(SqlState::SUBSTRING_ERROR, "negative substring length not allowed"));
        }
        Some(length) => start + i64::from(length),
    };
    let clamp = |at: i64| (at - 1).clamp(0, bytes.len() as i64) as usize;
    let (from, to) = (clamp(start), clamp(end));
    Ok(Datum::Bytea(bytes.slice(from..to.max(from))))
}

fn position(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (bytes, wanted) = (a.bytea(0)?, a.bytea(1)?);
    let found = if wanted.is_empty() {
        Some(0)
    } else {
        bytes.windows(wanted.len()).position(|window| window == &wanted[..])
    };
    Ok(Datum::Int4(found.map_or(0, |at| at as i32 + 1)))
}

fn trim(a: &[Datum], left: bool, right: bool) -> Result<Datum> {
    let (bytes, set) = (a.bytea(0)?, a.bytea(1)?);
    let kept = |byte: &u8| !set.contains(byte);
    let from = if left { bytes.iter().position(kept).unwrap_or(bytes.len()) } else { 0 };
    let to = if right { bytes.iter().rposition(kept).map_or(from, |at| at + 1) } else { bytes.len() };
    Ok(Datum::Bytea(bytes.slice(from..to.max(from))))
}

fn index(a: &[Datum], i: usize) -> Result<usize> {
    let (len, at) = (a.bytea(0)?.len(), a.int4(i)?);
    usize::try_from(at).ok().filter(|at| *at < len).ok_or_else(|| {
        // Class 2202E: array subscript error.
        SqlError::new(SqlState("2202E"), format!("index {at} out of valid range, 0..{}", len as i64 - 1))
    })
}

fn utf8_only(encoding: &str) -> Result<()> {
    if matches!(encoding.to_ascii_uppercase().as_str(), "UTF8" | "UTF-8" | "UNICODE") {
        Ok(())
    } else {
        Err(SqlError::unsupported(format!("encoding \"{encoding}\"")))
    }
}

fn unknown_encoding(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("unrecognized encoding: \"{name}\""))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (bytes, format) = (a.bytea(0)?, a.text(1)?);
    Ok(Datum::text(match format.to_ascii_lowercase().as_str() {
        "hex" => hex::encode(bytes),
        "base64" => base64(bytes),
        "escape" => {
            let mut out = String::new();
            for byte in bytes {
                match byte {
                    0 | 0x80.. => out.push_str(&format!("\\{byte:03o}")),
                    b'\\' => out.push_str("\\\\"),
                    byte => out.push(*byte as char),
                }
            }
            out
        }
        _ => return Err(unknown_encoding(format)),
    }))
}

/// Lines of 76 characters, as RFC 2045 has them.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4 / 3 + 4);
    for (i, chunk) in bytes.chunks(3).enumerate() {
        if i > 0 && i % 19 == 0 {
            out.push('\n');
        }
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            if digit <= chunk.len() {
                out.push(BASE64[(bits >> (18 - 6 * digit)) as usize & 63] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn decode(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (text, format) = (a.text(0)?, a.text(1)?);
    match format.to_ascii_lowercase().as_str() {
        "hex" => io::decode_hex(text).map(bytea),
        "base64" => unbase64(text).map(bytea),
        "escape" => match text.strip_prefix("\\x") {
            // Only bytea's own input takes this for hexadecimal.
            Some(_) => Err(SqlError::new(
                SqlState::INVALID_TEXT_REPRESENTATION,
                "invalid input syntax for type bytea",
            )),
            None => io::parse_bytea(text).map(Datum::Bytea),
        },
        _ => Err(unknown_encoding(format)),
    }
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    let invalid = |message: String| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0_u32, 0, 0);
    for c in text.chars() {
        if c.is_ascii_whitespace() {
            continue;
        }
        if c == '=' {
            padding += 1;
            if count + padding > 4 || count < 2 {
                return Err(invalid("unexpected \"=\" while decoding base64 sequence".into()));
            }
            continue;
        }
        let digit = u8::try_from(c)
            .ok()
            .and_then(|c| BASE64.iter().position(|symbol| *symbol == c))
            .filter(|_| padding == 0)
            .ok_or_else(|| invalid(format!("invalid symbol \"{c}\" found while decoding base64 sequence")))?;
        bits = bits << 6 | digit as u32;
        count += 1;
        if count == 4 {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match (count, padding) {
        (0, 0) => {}
        (2, 2) => out.push((bits >> 4) as u8),
        (3, 1) => out.extend_from_slice(&[(bits >> 10) as u8, (bits >> 2) as u8]),
        _ => {
            return Err(invalid("invalid base64 end sequence".into())
                .hint("Input data is missing padding, is truncated, or is otherwise corrupted."));
        }
    }
    Ok(out)
}
