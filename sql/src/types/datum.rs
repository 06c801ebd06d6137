//! [`Datum`]: one value.

use std::sync::Arc;

use bytes::Bytes;

use super::numeric::Numeric;

/// An interval keeps months, days and microseconds apart, as PostgreSQL does (chapter 8.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Interval {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

/// One value. The static type is known from the plan; a datum only says how it is stored, and which storage belongs
/// to which type is fixed: strings of all kinds (`text`, `varchar`, `bpchar`, `name`, `unknown`) are [`Datum::Text`].
#[derive(Clone, Debug)]
pub enum Datum {
    /// NULL of any type.
    Null,
    /// `boolean`
    Bool(bool),
    /// `smallint`
    Int2(i16),
    /// `integer`
    Int4(i32),
    /// `bigint`
    Int8(i64),
    /// `real`
    Float4(f32),
    /// `double precision`
    Float8(f64),
    /// `numeric`
    Numeric(Arc<Numeric>),
    /// strings; `char(n)` without trailing blanks
    Text(Arc<str>),
    /// `bytea`
    Bytea(Bytes),
    /// `date`: days since 2000-01-01; `i32::MIN`/`MAX` are the infinities
    Date(i32),
    /// `time`: microseconds since midnight
    Time(i64),
    /// `timestamp`: microseconds since 2000-01-01 00:00; `i64::MIN`/`MAX` are the infinities
    Timestamp(i64),
    /// `timestamptz`: microseconds since 2000-01-01 00:00 UTC; `i64::MIN`/`MAX` are the infinities
    Timestamptz(i64),
    /// `interval`
    Interval(Interval),
    /// `uuid`
    Uuid([u8; 16]),
    /// `oid`
    Oid(u32),
}

impl Datum {
    /// Whether this is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }

    /// A string.
    pub fn text(s: impl Into<Arc<str>>) -> Self {
        Datum::Text(s.into())
    }
}
