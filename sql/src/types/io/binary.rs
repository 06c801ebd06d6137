//! PostgreSQL's binary formats: big-endian, as the `send` and `recv` functions have them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use num_bigint::{BigInt, Sign};
use num_traits::{ToPrimitive, Zero};

use super::format;
use crate::error::{Result, SqlError, SqlState};
use crate::types::numeric::{SCALE_MAX, pow10};
use crate::types::{ColumnType, Datum, Interval, Numeric, TimeZone, Type, calendar};

const NUMERIC_POSITIVE: u16 = 0x0000;
const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xc000;
const NUMERIC_PINF: u16 = 0xd000;
const NUMERIC_NINF: u16 = 0xf000;

/// Appends a value's binary form; nothing for NULL.
pub fn to_binary(datum: &Datum, ty: ColumnType, out: &mut BytesMut) {
    match datum {
        Datum::Null => {}
        Datum::Bool(v) => out.put_u8(u8::from(*v)),
        Datum::Int2(v) => out.put_i16(*v),
        Datum::Int4(v) => out.put_i32(*v),
        Datum::Int8(v) => out.put_i64(*v),
        Datum::Float4(v) => out.put_f32(*v),
        Datum::Float8(v) => out.put_f64(*v),
        Datum::Oid(v) => out.put_u32(*v),
        Datum::Numeric(v) => put_numeric(v, out),
        Datum::Text(_) => out.put_slice(format(datum, ty, &TimeZone::default()).as_bytes()),
        Datum::Bytea(v) => out.put_slice(v),
        Datum::Date(v) => out.put_i32(*v),
        Datum::Time(v) | Datum::Timestamp(v) | Datum::Timestamptz(v) => out.put_i64(*v),
        Datum::Interval(v) => {
            out.put_i64(v.micros);
            out.put_i32(v.days);
            out.put_i32(v.months);
        }
        Datum::Uuid(v) => out.put_slice(v),
    }
}

/// Digits in base 10000 with the weight of the first, sign and display scale.
fn put_numeric(value: &Numeric, out: &mut BytesMut) {
    let special = match value {
        Numeric::NaN => Some(NUMERIC_NAN),
        Numeric::PosInf => Some(NUMERIC_PINF),
        Numeric::NegInf => Some(NUMERIC_NINF),
        Numeric::Finite(_) => None,
    };
    if let Some(sign) = special {
        out.put_slice(&[0; 4]);
        out.put_u16(sign);
        out.put_u16(0);
        return;
    }
    let Some((digits, scale)) = value.to_parts() else { return };
    // Whole groups of four digits after the point.
    let groups_after = (scale + 3) / 4;
    let aligned = digits.magnitude() * pow10((groups_after * 4 - scale) as u64).magnitude();
    let mut groups: Vec<u16> = Vec::new();
    if let Some(mut rest) = aligned.to_u128() {
        while rest > 0 {
            groups.push((rest % 10_000) as u16);
            rest /= 10_000;
        }
    } else {
        let text = aligned.to_string();
        for group in text.as_bytes().rchunks(4) {
            groups.push(group.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')));
        }
    }
    let weight = groups.len() as i64 - groups_after - 1;
    let trailing = groups.iter().take_while(|group| **group == 0).count();
    let kept = &groups[trailing..];
    out.put_u16(kept.len() as u16);
    out.put_i16(if kept.is_empty() { 0 } else { weight as i16 });
    out.put_u16(if digits.sign() == Sign::Minus { NUMERIC_NEGATIVE } else { NUMERIC_POSITIVE });
    out.put_u16(scale as u16);
    for group in kept.iter().rev() {
        out.put_u16(*group);
    }
}

fn malformed(ty: Type) -> SqlError {
    SqlError::new(
        SqlState::INVALID_BINARY_REPRESENTATION,
        format!("incorrect binary data format for type {}", ty.name()),
    )
}

fn exact<const N: usize>(bytes: &[u8], ty: Type) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| malformed(ty))
}

/// Reads a value's binary form.
pub fn from_binary(bytes: &[u8], ty: Type) -> Result<Datum> {
    Ok(match ty {
        Type::Bool => Datum::Bool(exact::<1>(bytes, ty)?[0] != 0),
        Type::Int2 => Datum::Int2(i16::from_be_bytes(exact(bytes, ty)?)),
        Type::Int4 => Datum::Int4(i32::from_be_bytes(exact(bytes, ty)?)),
        Type::Int8 => Datum::Int8(i64::from_be_bytes(exact(bytes, ty)?)),
        Type::Oid => Datum::Oid(u32::from_be_bytes(exact(bytes, ty)?)),
        Type::Float4 => Datum::Float4(f32::from_be_bytes(exact(bytes, ty)?)),
        Type::Float8 => Datum::Float8(f64::from_be_bytes(exact(bytes, ty)?)),
        Type::Numeric => Datum::Numeric(Arc::new(get_numeric(bytes)?)),
        Type::Text | Type::Varchar | Type::Bpchar | Type::Name | Type::Unknown => {
            let text =
                std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(|| {
                    SqlError::new(
                        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                        "invalid byte sequence for encoding \"UTF8\"",
                    )
                })?;
            match ty {
                Type::Bpchar => Datum::text(text.trim_end_matches(' ')),
                Type::Name => Datum::text(super::truncate_name(text)),
                _ => Datum::text(text),
            }
        }
        Type::Bytea => Datum::Bytea(Bytes::copy_from_slice(bytes)),
        Type::Date => {
            let days = i32::from_be_bytes(exact(bytes, ty)?);
            let infinite = days == i32::MIN || days == i32::MAX;
            if !infinite && !(calendar::DATE_MIN..calendar::DATE_END).contains(&days) {
                return Err(calendar::date_out_of_range());
            }
            Datum::Date(days)
        }
        Type::Time => {
            let micros = i64::from_be_bytes(exact(bytes, ty)?);
            if !(0..=calendar::DAY).contains(&micros) {
                return Err(SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "time out of range"));
            }
            Datum::Time(micros)
        }
        Type::Timestamp | Type::Timestamptz => {
            let micros = i64::from_be_bytes(exact(bytes, ty)?);
            if !calendar::is_infinite(micros) && !calendar::in_range(micros) {
                return Err(calendar::timestamp_out_of_range());
            }
            if ty == Type::Timestamp { Datum::Timestamp(micros) } else { Datum::Timestamptz(micros) }
        }
        Type::Interval => {
            let raw: [u8; 16] = exact(bytes, ty)?;
            let part =
                |from: usize| i32::from_be_bytes([raw[from], raw[from + 1], raw[from + 2], raw[from + 3]]);
            let micros = i64::from(part(0)) << 32 | i64::from(part(4) as u32);
            Datum::Interval(Interval { months: part(12), days: part(8), micros })
        }
        Type::Uuid => Datum::Uuid(exact(bytes, ty)?),
        Type::Void => Datum::text(""),
    })
}

fn get_numeric(bytes: &[u8]) -> Result<Numeric> {
    let error = || malformed(Type::Numeric);
    let words: Vec<u16> = match bytes.len() % 2 {
        0 => bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
        _ => return Err(error()),
    };
    let [count, weight, sign, scale, groups @ ..] = words.as_slice() else { return Err(error()) };
    match *sign {
        NUMERIC_NAN => return Ok(Numeric::NaN),
        NUMERIC_PINF => return Ok(Numeric::PosInf),
        NUMERIC_NINF => return Ok(Numeric::NegInf),
        NUMERIC_POSITIVE | NUMERIC_NEGATIVE => {}
        _ => return Err(error()),
    }
    let (weight, scale) = (i64::from(*weight as i16), i64::from(*scale));
    if usize::from(*count) != groups.len() || scale > SCALE_MAX || groups.iter().any(|group| *group > 9999) {
        return Err(error());
    }
    let digits = if groups.len() <= 9 {
        BigInt::from(groups.iter().fold(0_u128, |value, group| value * 10_000 + u128::from(*group)))
    } else {
        let text: String = groups.iter().map(|group| format!("{group:04}")).collect();
        BigInt::parse_bytes(text.as_bytes(), 10).ok_or_else(error)?
    };
    let digits = if *sign == NUMERIC_NEGATIVE { -digits } else { digits };
    if digits.is_zero() {
        return Ok(Numeric::from_parts(0, scale as u16));
    }
    // The last group counts 10000^(weight + 1 - count).
    let exponent = (weight + 1 - groups.len() as i64) * 4;
    let exact = if exponent >= 0 {
        Numeric::finite(digits * pow10(exponent as u64), 0)?
    } else if exponent.unsigned_abs() > SCALE_MAX as u64 + 4 {
        return Err(error());
    } else {
        // Cutting to the display scale comes first: the format's limit on scales is for what is shown.
        let keep = -exponent;
        let excess = (keep - scale).max(0);
        let cut = &digits / pow10(excess as u64);
        Numeric::finite(cut, keep - excess)?
    };
    Ok(exact.trunc(scale))
}
