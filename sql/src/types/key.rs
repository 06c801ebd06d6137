//! The order-preserving encoding of primary keys.
//!
//! Encodings compare bytewise as [`super::compare`] compares values, NULL last; no encoding is a prefix of another, so
//! the encodings of several columns can be strung together; none begins with 0x00, which sorts before all rows of a
//! table and is used for its fence. Equal values have equal encodings: `1.0` and `1.00` are one key. So a few types lose
//! what equality doesn't see; [`restores`] says which.
//!
//! ```text
//! value      02 …                       NULL       ff
//! integers   big-endian, sign bit flipped (also date, time, timestamps)
//! floats     IEEE bits, flipped so that they order; -0 as 0, one NaN
//! strings    bytes with 00 as 00 ff, then 00 01 (also bytea)
//! numeric    class, exponent of the first base-100 digit, digits + 1, 00; all complemented if negative
//! interval   its length in microseconds, 128 bits
//! uuid       16 bytes
//! ```

use std::sync::Arc;

use bigdecimal::BigDecimal;
use bytes::Bytes;
use num_bigint::{BigInt, Sign};

use super::{Datum, Interval, Numeric, Type};
use crate::error::{Result, SqlError, SqlState};

const PRESENT: u8 = 0x02;
const NULL: u8 = 0xff;

const NEG_INF: u8 = 0x01;
const NEGATIVE: u8 = 0x02;
const ZERO: u8 = 0x03;
const POSITIVE: u8 = 0x04;
const POS_INF: u8 = 0x05;
const NAN: u8 = 0x06;

/// Whether decoding gives back exactly the value that was encoded. Of the other types equal values may look different
/// (`1.0` and `1.00`, `1 mon` and `30 days`, `0` and `-0`): their columns belong into the stored row as well.
pub fn restores(ty: Type) -> bool {
    !matches!(ty, Type::Numeric | Type::Interval | Type::Float4 | Type::Float8)
}

/// Appends the encoding of a value.
pub fn encode(datum: &Datum, out: &mut Vec<u8>) {
    if datum.is_null() {
        out.push(NULL);
        return;
    }
    out.push(PRESENT);
    match datum {
        Datum::Null => {}
        Datum::Bool(v) => out.push(u8::from(*v)),
        Datum::Int2(v) => out.extend((*v ^ i16::MIN).to_be_bytes()),
        Datum::Int4(v) | Datum::Date(v) => out.extend((*v ^ i32::MIN).to_be_bytes()),
        Datum::Int8(v) | Datum::Time(v) | Datum::Timestamp(v) | Datum::Timestamptz(v) => {
            out.extend((*v ^ i64::MIN).to_be_bytes());
        }
        Datum::Oid(v) => out.extend(v.to_be_bytes()),
        Datum::Float4(v) => {
            let bits = if v.is_nan() { f32::NAN.to_bits() } else { (*v + 0.0).to_bits() };
            let flip = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
            out.extend((bits ^ flip).to_be_bytes());
        }
        Datum::Float8(v) => {
            let bits = if v.is_nan() { f64::NAN.to_bits() } else { (*v + 0.0).to_bits() };
            let flip = if bits >> 63 == 1 { u64::MAX } else { 1 << 63 };
            out.extend((bits ^ flip).to_be_bytes());
        }
        Datum::Numeric(v) => encode_numeric(v, out),
        Datum::Text(v) => encode_bytes(v.as_bytes(), out),
        Datum::Bytea(v) => encode_bytes(v, out),
        Datum::Interval(v) => out.extend((v.span() ^ i128::MIN).to_be_bytes()),
        Datum::Uuid(v) => out.extend(v),
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend([0x00, 0x01]);
}

fn encode_numeric(value: &Numeric, out: &mut Vec<u8>) {
    let value = match value.trim_scale() {
        Numeric::NegInf => return out.push(NEG_INF),
        Numeric::PosInf => return out.push(POS_INF),
        Numeric::NaN => return out.push(NAN),
        Numeric::Finite(value) => value,
    };
    let (digits, scale) = value.into_bigint_and_scale();
    if digits.sign() == Sign::NoSign {
        return out.push(ZERO);
    }
    let mut text = digits.magnitude().to_string();
    // The point stands between two base-100 digits.
    if scale.rem_euclid(2) == 1 {
        text.push('0');
    }
    let places = (scale + 1).div_euclid(2);
    if text.len() % 2 == 1 {
        text.insert(0, '0');
    }
    let exponent = (text.len() / 2) as i64 - places;
    let text = text.as_bytes();
    let significant = text.len() - text.rchunks(2).take_while(|pair| *pair == b"00").count() * 2;
    let negative = digits.sign() == Sign::Minus;
    out.push(if negative { NEGATIVE } else { POSITIVE });
    let start = out.len();
    out.extend(((exponent as i32) ^ i32::MIN).to_be_bytes());
    out.extend(text[..significant].chunks_exact(2).map(|pair| (pair[0] - b'0') * 10 + (pair[1] - b'0') + 1));
    out.push(0);
    if negative {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

fn corrupted() -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, "a stored key is malformed")
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>().ok_or_else(corrupted)?;
    *input = tail;
    Ok(*head)
}

/// Reads one value of type `ty` off the front of `input`.
pub fn decode(input: &mut &[u8], ty: Type) -> Result<Datum> {
    match take::<1>(input)? {
        [NULL] => return Ok(Datum::Null),
        [PRESENT] => {}
        _ => return Err(corrupted()),
    }
    Ok(match ty {
        Type::Bool => match take::<1>(input)? {
            [0] => Datum::Bool(false),
            [1] => Datum::Bool(true),
            _ => return Err(corrupted()),
        },
        Type::Int2 => Datum::Int2(i16::from_be_bytes(take(input)?) ^ i16::MIN),
        Type::Int4 => Datum::Int4(i32::from_be_bytes(take(input)?) ^ i32::MIN),
        Type::Date => Datum::Date(i32::from_be_bytes(take(input)?) ^ i32::MIN),
        Type::Int8 => Datum::Int8(i64::from_be_bytes(take(input)?) ^ i64::MIN),
        Type::Time => Datum::Time(i64::from_be_bytes(take(input)?) ^ i64::MIN),
        Type::Timestamp => Datum::Timestamp(i64::from_be_bytes(take(input)?) ^ i64::MIN),
        Type::Timestamptz => Datum::Timestamptz(i64::from_be_bytes(take(input)?) ^ i64::MIN),
        Type::Oid => Datum::Oid(u32::from_be_bytes(take(input)?)),
        Type::Float4 => {
            let bits = u32::from_be_bytes(take(input)?);
            let flip = if bits >> 31 == 1 { 1 << 31 } else { u32::MAX };
            Datum::Float4(f32::from_bits(bits ^ flip))
        }
        Type::Float8 => {
            let bits = u64::from_be_bytes(take(input)?);
            let flip = if bits >> 63 == 1 { 1 << 63 } else { u64::MAX };
            Datum::Float8(f64::from_bits(bits ^ flip))
        }
        Type::Numeric => Datum::Numeric(Arc::new(decode_numeric(input)?)),
        Type::Text | Type::Varchar | Type::Bpchar | Type::Name | Type::Unknown | Type::Void => {
            Datum::text(String::from_utf8(decode_bytes(input)?).map_err(|_| corrupted())?)
        }
        Type::Bytea => Datum::Bytea(Bytes::from(decode_bytes(input)?)),
        Type::Interval => Datum::Interval(interval(i128::from_be_bytes(take(input)?) ^ i128::MIN)),
        Type::Uuid => Datum::Uuid(take(input)?),
    })
}

/// The interval of this length with as many months, then days, as there are.
fn interval(span: i128) -> Interval {
    const DAY: i128 = 86_400_000_000;
    let months = (span / (30 * DAY)).clamp(i128::from(i32::MIN), i128::from(i32::MAX));
    let rest = span - months * 30 * DAY;
    let days = (rest / DAY).clamp(i128::from(i32::MIN), i128::from(i32::MAX));
    Interval { months: months as i32, days: days as i32, micros: (rest - days * DAY) as i64 }
}

fn decode_bytes(input: &mut &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let at = input.iter().position(|byte| *byte == 0).ok_or_else(corrupted)?;
        out.extend_from_slice(&input[..at]);
        let escape = input.get(at + 1).copied();
        *input = input.get(at + 2..).ok_or_else(corrupted)?;
        match escape {
            Some(0x01) => return Ok(out),
            Some(0xff) => out.push(0),
            _ => return Err(corrupted()),
        }
    }
}

fn decode_numeric(input: &mut &[u8]) -> Result<Numeric> {
    let negative = match take::<1>(input)? {
        [NEG_INF] => return Ok(Numeric::NegInf),
        [ZERO] => return Ok(Numeric::zero()),
        [POS_INF] => return Ok(Numeric::PosInf),
        [NAN] => return Ok(Numeric::NaN),
        [NEGATIVE] => true,
        [POSITIVE] => false,
        _ => return Err(corrupted()),
    };
    let mask = if negative { 0xff } else { 0 };
    let raw: [u8; 4] = take(input)?;
    let exponent = i64::from(i32::from_be_bytes(raw.map(|byte| byte ^ mask)) ^ i32::MIN);
    let mut text = String::new();
    loop {
        match take::<1>(input)?[0] ^ mask {
            0 => break,
            digit @ 1..=100 => {
                text.push((b'0' + (digit - 1) / 10) as char);
                text.push((b'0' + (digit - 1) % 10) as char);
            }
            _ => return Err(corrupted()),
        }
    }
    let mut digits = BigInt::parse_bytes(text.as_bytes(), 10).ok_or_else(corrupted)?;
    if negative {
        digits = -digits;
    }
    let scale = (text.len() / 2) as i64 * 2 - exponent * 2;
    let value = if scale < 0 {
        Numeric::finite(digits * super::numeric::pow10(scale.unsigned_abs()), 0)?
    } else {
        Numeric::Finite(BigDecimal::new(digits, scale))
    };
    Ok(value.trim_scale())
}
