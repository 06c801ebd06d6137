//! Text and binary forms of values, as PostgreSQL reads and writes them (`DateStyle` ISO, MDY; `IntervalStyle`
//! postgres; `bytea_output` hex; `extra_float_digits` 1).

mod binary;
mod datetime;
mod float;
mod interval;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::{ColumnType, Datum, Numeric, TimeZone, Type, coerce};
use crate::error::{Result, SqlError, SqlState};
use crate::function::EvalContext;

pub use binary::{from_binary, to_binary};
pub use datetime::{format_date, format_time, format_timestamp, format_timestamptz};
pub use float::{format_f32, format_f64};
pub use interval::{format_interval, parse_interval};

/// `22P02`, the way PostgreSQL words it for every type.
pub(crate) fn invalid(ty: Type, text: &str) -> SqlError {
    let state = match ty {
        Type::Date | Type::Time | Type::Timestamp | Type::Timestamptz | Type::Interval => {
            SqlState::INVALID_DATETIME_FORMAT
        }
        _ => SqlState::INVALID_TEXT_REPRESENTATION,
    };
    let name = match ty {
        // The input functions of time types leave the zone out of the name.
        Type::Time => "time",
        Type::Timestamp => "timestamp",
        _ => ty.name(),
    };
    SqlError::new(state, format!("invalid input syntax for type {name}: \"{text}\""))
}

fn out_of_range(ty: Type, text: &str) -> SqlError {
    SqlError::new(
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        format!("value \"{text}\" is out of range for type {}", ty.name()),
    )
}

/// What PostgreSQL's input functions skip around a value.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

/// Reads a value's text form. The type's modifier is applied as an implicit cast would (a string that is too long is
/// refused, a numeric is rounded). The context is needed for `now`, `today` and the session's time zone.
pub fn parse(text: &str, ty: ColumnType, ctx: &EvalContext) -> Result<Datum> {
    let datum = match ty.ty {
        Type::Bool => Datum::Bool(parse_bool(text)?),
        Type::Int2 => Datum::Int2(
            i16::try_from(parse_int(text, Type::Int2)?).map_err(|_| out_of_range(Type::Int2, text))?,
        ),
        Type::Int4 => Datum::Int4(
            i32::try_from(parse_int(text, Type::Int4)?).map_err(|_| out_of_range(Type::Int4, text))?,
        ),
        Type::Int8 => Datum::Int8(parse_int(text, Type::Int8)?),
        Type::Oid => Datum::Oid(parse_oid(text)?),
        Type::Float4 => Datum::Float4(float::parse_f32(text)?),
        Type::Float8 => Datum::Float8(float::parse_f64(text)?),
        Type::Numeric => match Numeric::parse(text)? {
            Some(value) => Datum::Numeric(Arc::new(value)),
            None => return Err(invalid(Type::Numeric, text)),
        },
        Type::Text | Type::Varchar | Type::Unknown => Datum::text(text),
        // The blanks stay until the modifier has been applied: it counts them.
        Type::Bpchar if ty.typmod >= 4 => Datum::text(text),
        Type::Bpchar => Datum::text(text.trim_end_matches(' ')),
        Type::Name => Datum::text(truncate_name(text)),
        Type::Bytea => Datum::Bytea(parse_bytea(text)?),
        Type::Uuid => Datum::Uuid(parse_uuid(text)?),
        Type::Date => Datum::Date(datetime::parse_date(text, ctx)?),
        Type::Time => Datum::Time(datetime::parse_time(text, ctx)?),
        Type::Timestamp => Datum::Timestamp(datetime::parse_timestamp(text, ctx)?),
        Type::Timestamptz => Datum::Timestamptz(datetime::parse_timestamptz(text, ctx)?),
        Type::Interval => Datum::Interval(parse_interval(text)?),
        Type::Void => Datum::text(""),
    };
    if ty.typmod < 0 { Ok(datum) } else { coerce(datum, ty, false) }
}

/// A value's text form; an empty string for NULL (which callers write their own way).
pub fn format<'a>(datum: &'a Datum, ty: ColumnType, zone: &TimeZone) -> Cow<'a, str> {
    match datum {
        Datum::Text(text) => match ty.length() {
            Some(length) if ty.ty == Type::Bpchar => {
                let missing = length.saturating_sub(text.chars().count());
                if missing == 0 { Cow::Borrowed(text) } else { Cow::Owned(format!("{text}{:missing$}", "")) }
            }
            _ => Cow::Borrowed(text),
        },
        Datum::Null => Cow::Borrowed(""),
        Datum::Bool(true) => Cow::Borrowed("t"),
        Datum::Bool(false) => Cow::Borrowed("f"),
        Datum::Int2(v) => Cow::Owned(v.to_string()),
        Datum::Int4(v) => Cow::Owned(v.to_string()),
        Datum::Int8(v) => Cow::Owned(v.to_string()),
        Datum::Oid(v) => Cow::Owned(v.to_string()),
        Datum::Float4(v) => Cow::Owned(format_f32(*v)),
        Datum::Float8(v) => Cow::Owned(format_f64(*v)),
        Datum::Numeric(v) => Cow::Owned(v.to_string()),
        Datum::Bytea(v) => Cow::Owned(format!("\\x{}", hex::encode(v))),
        Datum::Uuid(v) => Cow::Owned(uuid::Uuid::from_bytes(*v).to_string()),
        Datum::Date(v) => Cow::Owned(format_date(*v)),
        Datum::Time(v) => Cow::Owned(format_time(*v)),
        Datum::Timestamp(v) => Cow::Owned(format_timestamp(*v)),
        Datum::Timestamptz(v) => Cow::Owned(format_timestamptz(*v, zone)),
        Datum::Interval(v) => Cow::Owned(format_interval(*v)),
    }
}

/// The text form of a value whose type's modifier doesn't matter.
pub fn format_plain<'a>(datum: &'a Datum, zone: &TimeZone) -> Cow<'a, str> {
    format(datum, ColumnType::plain(Type::Text), zone)
}

/// At most 63 bytes of whole characters.
pub(crate) fn truncate_name(text: &str) -> &str {
    let mut end = text.len().min(63);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn parse_bool(text: &str) -> Result<bool> {
    let word = trim(text).to_ascii_lowercase();
    let prefix_of = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
    if word == "1" || prefix_of("true", 1) || prefix_of("yes", 1) || word == "on" {
        Ok(true)
    } else if word == "0" || prefix_of("false", 1) || prefix_of("no", 1) || prefix_of("off", 2) {
        Ok(false)
    } else {
        Err(invalid(Type::Bool, text))
    }
}

fn parse_int(text: &str, ty: Type) -> Result<i64> {
    let trimmed = trim(text);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(ty, text));
    }
    trimmed.parse().map_err(|_| out_of_range(ty, text))
}

fn parse_oid(text: &str) -> Result<u32> {
    let value = parse_int(text, Type::Oid)?;
    // Negative numbers wrap, as strtoul makes them.
    if value < i64::from(i32::MIN) {
        return Err(out_of_range(Type::Oid, text));
    }
    if value < 0 {
        return Ok(value as i32 as u32);
    }
    u32::try_from(value).map_err(|_| out_of_range(Type::Oid, text))
}

pub(crate) fn parse_bytea(text: &str) -> Result<Bytes> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return decode_hex(digits).map(Bytes::from);
    }
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        match bytes[at + 1..] {
            [b'\\', ..] => {
                out.push(b'\\');
                at += 2;
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                at += 4;
            }
            _ => {
                return Err(SqlError::new(
                    SqlState::INVALID_TEXT_REPRESENTATION,
                    "invalid input syntax for type bytea",
                ));
            }
        }
    }
    Ok(out.into())
}

/// Hexadecimal digits, between which white space may stand.
pub(crate) fn decode_hex(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut high: Option<u8> = None;
    for c in text.chars() {
        if high.is_none() && matches!(c, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let digit = c.to_digit(16).ok_or_else(|| {
            SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid hexadecimal digit: \"{c}\""))
        })? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(high) => out.push(high << 4 | digit),
        }
    }
    match high {
        None => Ok(out),
        Some(_) => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "invalid hexadecimal data: odd number of digits",
        )),
    }
}

fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    let error = || invalid(Type::Uuid, text);
    let body = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(error)?,
        None => text,
    };
    let mut out = [0; 16];
    let mut rest = body.as_bytes();
    for (i, slot) in out.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return Err(error()) };
        let digit = |b: u8| (b as char).to_digit(16).ok_or_else(error);
        *slot = ((digit(*high)? << 4) | digit(*low)?) as u8;
        rest = tail;
        // A hyphen may follow each group of four digits.
        if i % 2 == 1 && i < 15 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
    }
    if rest.is_empty() { Ok(out) } else { Err(error()) }
}

/// Appends to a string; writing to one can't fail.
pub(crate) fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}
