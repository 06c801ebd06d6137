//! The encoding of stored rows: column ids with their values, so that columns may come and go.
//!
//! ```text
//! row     := version (01) column*
//! column  := id (varint) tag (u8) payload
//! payload := by tag: integers zigzag varint, floats little-endian, strings length (varint) and bytes,
//!            numeric length, scale (varint), two's complement big-endian digits
//! ```
//!
//! A column that a row doesn't have is NULL, and so NULLs are not stored; unless the catalog says that rows which came before
//! the column have another value in it. Of such a column NULLs are stored. Columns that nobody asks for are skipped.

use std::sync::Arc;

use bigdecimal::BigDecimal;
use bytes::Bytes;
use num_bigint::BigInt;

use super::{Datum, Interval, Numeric};
use crate::error::{Result, SqlError, SqlState};

const VERSION: u8 = 1;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT2: u8 = 3;
const INT4: u8 = 4;
const INT8: u8 = 5;
const FLOAT4: u8 = 6;
const FLOAT8: u8 = 7;
const NUMERIC: u8 = 8;
const NUMERIC_NEG_INF: u8 = 9;
const NUMERIC_POS_INF: u8 = 10;
const NUMERIC_NAN: u8 = 11;
const TEXT: u8 = 12;
const BYTEA: u8 = 13;
const DATE: u8 = 14;
const TIME: u8 = 15;
const TIMESTAMP: u8 = 16;
const TIMESTAMPTZ: u8 = 17;
const INTERVAL: u8 = 18;
const UUID: u8 = 19;
const OID: u8 = 20;

/// Encodes a row's values with their columns' ids. NULLs are left out, except where it says that they must not be.
pub fn encode<'a>(columns: impl IntoIterator<Item = (u32, &'a Datum, bool)>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for (id, datum, keeps_null) in columns {
        if keeps_null || !datum.is_null() {
            varint(u64::from(id), &mut out);
            put(datum, &mut out);
        }
    }
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint(((value << 1) ^ (value >> 63)) as u64, out);
}

fn blob(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put(datum: &Datum, out: &mut Vec<u8>) {
    let mut int = |tag: u8, value: i64| {
        out.push(tag);
        zigzag(value, out);
    };
    match datum {
        Datum::Null => out.push(NULL),
        Datum::Int2(v) => int(INT2, i64::from(*v)),
        Datum::Int4(v) => int(INT4, i64::from(*v)),
        Datum::Int8(v) => int(INT8, *v),
        Datum::Date(v) => int(DATE, i64::from(*v)),
        Datum::Time(v) => int(TIME, *v),
        Datum::Timestamp(v) => int(TIMESTAMP, *v),
        Datum::Timestamptz(v) => int(TIMESTAMPTZ, *v),
        Datum::Oid(v) => int(OID, i64::from(*v)),
        Datum::Bool(v) => out.push(if *v { TRUE } else { FALSE }),
        Datum::Float4(v) => {
            out.push(FLOAT4);
            out.extend(v.to_le_bytes());
        }
        Datum::Float8(v) => {
            out.push(FLOAT8);
            out.extend(v.to_le_bytes());
        }
        Datum::Numeric(v) => match (&**v, v.to_parts()) {
            (Numeric::NegInf, _) => out.push(NUMERIC_NEG_INF),
            (Numeric::PosInf, _) => out.push(NUMERIC_POS_INF),
            (_, Some((digits, scale))) => {
                out.push(NUMERIC);
                varint(scale as u64, out);
                blob(&digits.to_signed_bytes_be(), out);
            }
            _ => out.push(NUMERIC_NAN),
        },
        Datum::Text(v) => {
            out.push(TEXT);
            blob(v.as_bytes(), out);
        }
        Datum::Bytea(v) => {
            out.push(BYTEA);
            blob(v, out);
        }
        Datum::Interval(v) => {
            int(INTERVAL, i64::from(v.months));
            zigzag(i64::from(v.days), out);
            zigzag(v.micros, out);
        }
        Datum::Uuid(v) => {
            out.push(UUID);
            out.extend(v);
        }
    }
}

#[cold]
fn corrupted() -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, "a stored row is malformed")
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).ok_or_else(corrupted)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or_else(corrupted)?;
        self.0 = tail;
        Ok(*head)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(corrupted())
    }

    fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn int<T: TryFrom<i64>>(&mut self) -> Result<T> {
        T::try_from(self.zigzag()?).map_err(|_| corrupted())
    }

    fn blob(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.varint()?).map_err(|_| corrupted())?;
        self.take(len)
    }

    /// Passes over a value without making it.
    fn skip(&mut self) -> Result<()> {
        match self.array()? {
            [NULL | FALSE | TRUE | NUMERIC_NEG_INF | NUMERIC_POS_INF | NUMERIC_NAN] => {}
            [INT2 | INT4 | INT8 | DATE | TIME | TIMESTAMP | TIMESTAMPTZ | OID] => {
                self.varint()?;
            }
            [FLOAT4] => {
                self.take(4)?;
            }
            [FLOAT8] => {
                self.take(8)?;
            }
            [UUID] => {
                self.take(16)?;
            }
            [TEXT | BYTEA] => {
                self.blob()?;
            }
            [NUMERIC] => {
                self.varint()?;
                self.blob()?;
            }
            [INTERVAL] => {
                for _ in 0..3 {
                    self.varint()?;
                }
            }
            _ => return Err(corrupted()),
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Datum> {
        Ok(match self.array()? {
            [NULL] => Datum::Null,
            [FALSE] => Datum::Bool(false),
            [TRUE] => Datum::Bool(true),
            [INT2] => Datum::Int2(self.int()?),
            [INT4] => Datum::Int4(self.int()?),
            [INT8] => Datum::Int8(self.zigzag()?),
            [FLOAT4] => Datum::Float4(f32::from_le_bytes(self.array()?)),
            [FLOAT8] => Datum::Float8(f64::from_le_bytes(self.array()?)),
            [NUMERIC] => {
                let scale = i64::try_from(self.varint()?).map_err(|_| corrupted())?;
                let digits = BigInt::from_signed_bytes_be(self.blob()?);
                if scale > super::numeric::SCALE_MAX {
                    return Err(corrupted());
                }
                Datum::Numeric(Arc::new(Numeric::Finite(BigDecimal::new(digits, scale))))
            }
            [NUMERIC_NEG_INF] => Datum::Numeric(Arc::new(Numeric::NegInf)),
            [NUMERIC_POS_INF] => Datum::Numeric(Arc::new(Numeric::PosInf)),
            [NUMERIC_NAN] => Datum::Numeric(Arc::new(Numeric::NaN)),
            [TEXT] => Datum::text(std::str::from_utf8(self.blob()?).map_err(|_| corrupted())?),
            [BYTEA] => Datum::Bytea(Bytes::copy_from_slice(self.blob()?)),
            [DATE] => Datum::Date(self.int()?),
            [TIME] => Datum::Time(self.zigzag()?),
            [TIMESTAMP] => Datum::Timestamp(self.zigzag()?),
            [TIMESTAMPTZ] => Datum::Timestamptz(self.zigzag()?),
            [INTERVAL] => {
                let (months, days) = (self.int()?, self.int()?);
                Datum::Interval(Interval { months, days, micros: self.zigzag()? })
            }
            [UUID] => Datum::Uuid(self.array()?),
            [OID] => Datum::Oid(self.int()?),
            _ => return Err(corrupted()),
        })
    }
}

/// Decodes the columns with these ids, in this order; a column that the row doesn't have is NULL.
pub fn decode(bytes: &[u8], columns: &[u32]) -> Result<Vec<Datum>> {
    let mut out = vec![Datum::Null; columns.len()];
    decode_into(bytes, columns, &mut out)?;
    Ok(out)
}

/// As [`decode`], into places that hold the values that absent columns have.
pub fn decode_into(bytes: &[u8], columns: &[u32], out: &mut [Datum]) -> Result<()> {
    let mut reader = Reader(bytes);
    match reader.array()? {
        [VERSION] => {}
        [version] => {
            return Err(SqlError::new(
                SqlState::DATA_CORRUPTED,
                format!("a stored row has format version {version}, this release reads version {VERSION}"),
            ));
        }
    }
    // Rows are mostly read in the order they were written in.
    let mut expected = 0;
    while !reader.0.is_empty() {
        let id = u32::try_from(reader.varint()?).map_err(|_| corrupted())?;
        let at = if columns.get(expected) == Some(&id) {
            Some(expected)
        } else {
            columns.iter().position(|column| *column == id)
        };
        match at.and_then(|at| out.get_mut(at).map(|slot| (at, slot))) {
            Some((at, slot)) => {
                *slot = reader.value()?;
                expected = at + 1;
            }
            None => reader.skip()?,
        }
    }
    Ok(())
}
