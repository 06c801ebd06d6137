//! Casts: PostgreSQL's `pg_cast`, and the conversions by way of text that exist between strings and everything else.

use std::sync::Arc;

use super::catalogue::CastContext::{self, Assignment, Explicit, Implicit};
use super::define::{Args, f, numeric};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::calendar::{self, DAY};
use crate::types::{Datum, Interval, Numeric, Type, io};

/// A cast of the list: the conversion (none: the value stays as it is) and where it applies.
pub(super) struct Entry {
    pub(super) from: Type,
    pub(super) to: Type,
    pub(super) function: Option<Function>,
    pub(super) context: CastContext,
}

const fn relabel(from: Type, to: Type, context: CastContext) -> Entry {
    Entry { from, to, function: None, context }
}

macro_rules! casts {
    ($($from:ident $to:ident $context:ident $volatility:ident $kernel:expr;)*) => {
        /// The casts that compute something, each called after its target.
        pub(super) static CASTS: &[Entry] = &[$(Entry {
            from: Type::$from,
            to: Type::$to,
            function: Some(casts!(
                @$volatility f(Type::$to.internal_name(), &[Type::$from], Type::$to, $kernel)
            )),
            context: $context,
        }),*];
    };
    (@immutable $function:expr) => { $function };
    (@stable $function:expr) => { $function.stable() };
}

/// The casts that leave the value as it is. Values of `char(n)` are kept without trailing blanks, so they are text as
/// they are, while text has to lose its blanks first.
pub(super) static RELABELLINGS: &[Entry] = &[
    relabel(Type::Varchar, Type::Text, Implicit),
    relabel(Type::Text, Type::Varchar, Implicit),
    relabel(Type::Bpchar, Type::Text, Implicit),
    relabel(Type::Bpchar, Type::Varchar, Implicit),
    relabel(Type::Name, Type::Text, Implicit),
    relabel(Type::Name, Type::Varchar, Assignment),
];

casts! {
    Int2 Int4 Implicit immutable |_, a| Ok(Datum::Int4(a.int2(0)?.into()));
    Int2 Int8 Implicit immutable |_, a| Ok(Datum::Int8(a.int2(0)?.into()));
    Int4 Int8 Implicit immutable |_, a| Ok(Datum::Int8(a.int4(0)?.into()));
    Int4 Int2 Assignment immutable to_int2;
    Int8 Int2 Assignment immutable to_int2;
    Int8 Int4 Assignment immutable to_int4;
    Int2 Float4 Implicit immutable |_, a| Ok(Datum::Float4(a.int2(0)?.into()));
    Int4 Float4 Implicit immutable |_, a| Ok(Datum::Float4(a.int4(0)? as f32));
    Int8 Float4 Implicit immutable |_, a| Ok(Datum::Float4(a.int8(0)? as f32));
    Int2 Float8 Implicit immutable |_, a| Ok(Datum::Float8(a.int2(0)?.into()));
    Int4 Float8 Implicit immutable |_, a| Ok(Datum::Float8(a.int4(0)?.into()));
    Int8 Float8 Implicit immutable |_, a| Ok(Datum::Float8(a.int8(0)? as f64));
    Int2 Numeric Implicit immutable |_, a| Ok(numeric(Numeric::from(a.int(0)?)));
    Int4 Numeric Implicit immutable |_, a| Ok(numeric(Numeric::from(a.int(0)?)));
    Int8 Numeric Implicit immutable |_, a| Ok(numeric(Numeric::from(a.int(0)?)));
    Int2 Oid Implicit immutable |_, a| Ok(Datum::Oid(i32::from(a.int2(0)?) as u32));
    Int4 Oid Implicit immutable |_, a| Ok(Datum::Oid(a.int4(0)? as u32));
    Int8 Oid Implicit immutable |_, a| u32::try_from(a.int8(0)?).map(Datum::Oid).map_err(|_| out_of_range("OID"));
    Oid Int4 Assignment immutable |_, a| Ok(Datum::Int4(a.int(0)? as u32 as i32));
    Oid Int8 Assignment immutable |_, a| Ok(Datum::Int8(a.int(0)?));
    Float4 Float8 Implicit immutable |_, a| Ok(Datum::Float8(a.float4(0)?.into()));
    Float8 Float4 Assignment immutable |_, a| float8_to_float4(a.float8(0)?).map(Datum::Float4);
    Float4 Int2 Assignment immutable float_to_int2;
    Float8 Int2 Assignment immutable float_to_int2;
    Float4 Int4 Assignment immutable float_to_int4;
    Float8 Int4 Assignment immutable float_to_int4;
    Float4 Int8 Assignment immutable float_to_int8;
    Float8 Int8 Assignment immutable float_to_int8;
    Float4 Numeric Assignment immutable |_, a| Ok(numeric(Numeric::from_f64(a.float(0)?, 6)));
    Float8 Numeric Assignment immutable |_, a| Ok(numeric(Numeric::from_f64(a.float(0)?, 15)));
    Numeric Int2 Assignment immutable |_, a| i16::try_from(whole(a, "smallint")?).map(Datum::Int2).map_err(|_| out_of_range("smallint"));
    Numeric Int4 Assignment immutable |_, a| i32::try_from(whole(a, "integer")?).map(Datum::Int4).map_err(|_| out_of_range("integer"));
    Numeric Int8 Assignment immutable |_, a| i64::try_from(whole(a, "bigint")?).map(Datum::Int8).map_err(|_| out_of_range("bigint"));
    Numeric Float4 Implicit immutable numeric_to_float4;
    Numeric Float8 Implicit immutable numeric_to_float8;
    Bool Int4 Explicit immutable |_, a| Ok(Datum::Int4(a.boolean(0)?.into()));
    Int4 Bool Explicit immutable |_, a| Ok(Datum::Bool(a.int4(0)? != 0));
    Bool Text Assignment immutable bool_to_text;
    Bool Varchar Assignment immutable bool_to_text;
    Bool Bpchar Assignment immutable bool_to_text;
    Text Bpchar Implicit immutable trim_blanks;
    Varchar Bpchar Implicit immutable trim_blanks;
    Name Bpchar Assignment immutable trim_blanks;
    Text Name Implicit immutable to_name;
    Varchar Name Implicit immutable to_name;
    Bpchar Name Implicit immutable to_name;
    Date Timestamp Implicit immutable |_, a| calendar::date_to_timestamp(a.date(0)?).map(Datum::Timestamp);
    Date Timestamptz Implicit stable |c, a| {
        let local = calendar::date_to_timestamp(a.date(0)?)?;
        to_instant(c, local).map_err(|_| date_beyond_timestamps())
    };
    Timestamp Timestamptz Implicit stable |c, a| to_instant(c, a.timestamp(0)?);
    Timestamptz Timestamp Assignment stable |c, a| Ok(Datum::Timestamp(c.time_zone.to_local(a.timestamptz(0)?)));
    Timestamp Date Assignment immutable |_, a| Ok(Datum::Date(calendar::timestamp_to_date(a.timestamp(0)?)));
    Timestamptz Date Assignment stable |c, a| {
        Ok(Datum::Date(calendar::timestamp_to_date(c.time_zone.to_local(a.timestamptz(0)?))))
    };
    Timestamp Time Assignment immutable |_, a| Ok(time_of(a.timestamp(0)?));
    Timestamptz Time Assignment stable |c, a| Ok(time_of(c.time_zone.to_local(a.timestamptz(0)?)));
    Time Interval Implicit immutable |_, a| Ok(Datum::Interval(Interval { micros: a.time(0)?, ..Interval::default() }));
    Interval Time Assignment immutable |_, a| Ok(Datum::Time(a.interval(0)?.micros.rem_euclid(DAY)));

    // By way of text.
    Int2 Text Assignment immutable to_text;
    Int4 Text Assignment immutable to_text;
    Int8 Text Assignment immutable to_text;
    Float4 Text Assignment immutable to_text;
    Float8 Text Assignment immutable to_text;
    Numeric Text Assignment immutable to_text;
    Bytea Text Assignment immutable to_text;
    Date Text Assignment immutable to_text;
    Time Text Assignment immutable to_text;
    Timestamp Text Assignment immutable to_text;
    Timestamptz Text Assignment stable to_text;
    Interval Text Assignment immutable to_text;
    Uuid Text Assignment immutable to_text;
    Oid Text Assignment immutable to_text;
    Void Text Assignment immutable to_text;
    Int2 Varchar Assignment immutable to_text;
    Int4 Varchar Assignment immutable to_text;
    Int8 Varchar Assignment immutable to_text;
    Float4 Varchar Assignment immutable to_text;
    Float8 Varchar Assignment immutable to_text;
    Numeric Varchar Assignment immutable to_text;
    Bytea Varchar Assignment immutable to_text;
    Date Varchar Assignment immutable to_text;
    Time Varchar Assignment immutable to_text;
    Timestamp Varchar Assignment immutable to_text;
    Timestamptz Varchar Assignment stable to_text;
    Interval Varchar Assignment immutable to_text;
    Uuid Varchar Assignment immutable to_text;
    Oid Varchar Assignment immutable to_text;
    Int2 Bpchar Assignment immutable to_text;
    Int4 Bpchar Assignment immutable to_text;
    Int8 Bpchar Assignment immutable to_text;
    Float4 Bpchar Assignment immutable to_text;
    Float8 Bpchar Assignment immutable to_text;
    Numeric Bpchar Assignment immutable to_text;
    Bytea Bpchar Assignment immutable to_text;
    Date Bpchar Assignment immutable to_text;
    Time Bpchar Assignment immutable to_text;
    Timestamp Bpchar Assignment immutable to_text;
    Timestamptz Bpchar Assignment stable to_text;
    Interval Bpchar Assignment immutable to_text;
    Uuid Bpchar Assignment immutable to_text;
    Oid Bpchar Assignment immutable to_text;
    Int4 Name Assignment immutable to_text;
    Int8 Name Assignment immutable to_text;
    Uuid Name Assignment immutable to_text;
    Oid Name Assignment immutable to_text;
    Text Bool Explicit immutable |c, a| from_text(c, a, Type::Bool);
    Text Int2 Explicit immutable |c, a| from_text(c, a, Type::Int2);
    Text Int4 Explicit immutable |c, a| from_text(c, a, Type::Int4);
    Text Int8 Explicit immutable |c, a| from_text(c, a, Type::Int8);
    Text Float4 Explicit immutable |c, a| from_text(c, a, Type::Float4);
    Text Float8 Explicit immutable |c, a| from_text(c, a, Type::Float8);
    Text Numeric Explicit immutable |c, a| from_text(c, a, Type::Numeric);
    Text Bytea Explicit immutable |c, a| from_text(c, a, Type::Bytea);
    Text Date Explicit stable |c, a| from_text(c, a, Type::Date);
    Text Time Explicit stable |c, a| from_text(c, a, Type::Time);
    Text Timestamp Explicit stable |c, a| from_text(c, a, Type::Timestamp);
    Text Timestamptz Explicit stable |c, a| from_text(c, a, Type::Timestamptz);
    Text Interval Explicit immutable |c, a| from_text(c, a, Type::Interval);
    Text Uuid Explicit immutable |c, a| from_text(c, a, Type::Uuid);
    Text Oid Explicit immutable |c, a| from_text(c, a, Type::Oid);
    Text Void Explicit immutable |c, a| from_text(c, a, Type::Void);
    Varchar Bool Explicit immutable |c, a| from_text(c, a, Type::Bool);
    Varchar Int2 Explicit immutable |c, a| from_text(c, a, Type::Int2);
    Varchar Int4 Explicit immutable |c, a| from_text(c, a, Type::Int4);
    Varchar Int8 Explicit immutable |c, a| from_text(c, a, Type::Int8);
    Varchar Float4 Explicit immutable |c, a| from_text(c, a, Type::Float4);
    Varchar Float8 Explicit immutable |c, a| from_text(c, a, Type::Float8);
    Varchar Numeric Explicit immutable |c, a| from_text(c, a, Type::Numeric);
    Varchar Bytea Explicit immutable |c, a| from_text(c, a, Type::Bytea);
    Varchar Date Explicit stable |c, a| from_text(c, a, Type::Date);
    Varchar Time Explicit stable |c, a| from_text(c, a, Type::Time);
    Varchar Timestamp Explicit stable |c, a| from_text(c, a, Type::Timestamp);
    Varchar Timestamptz Explicit stable |c, a| from_text(c, a, Type::Timestamptz);
    Varchar Interval Explicit immutable |c, a| from_text(c, a, Type::Interval);
    Varchar Uuid Explicit immutable |c, a| from_text(c, a, Type::Uuid);
    Varchar Oid Explicit immutable |c, a| from_text(c, a, Type::Oid);
    Bpchar Bool Explicit immutable |c, a| from_text(c, a, Type::Bool);
    Bpchar Int2 Explicit immutable |c, a| from_text(c, a, Type::Int2);
    Bpchar Int4 Explicit immutable |c, a| from_text(c, a, Type::Int4);
    Bpchar Int8 Explicit immutable |c, a| from_text(c, a, Type::Int8);
    Bpchar Float4 Explicit immutable |c, a| from_text(c, a, Type::Float4);
    Bpchar Float8 Explicit immutable |c, a| from_text(c, a, Type::Float8);
    Bpchar Numeric Explicit immutable |c, a| from_text(c, a, Type::Numeric);
    Bpchar Bytea Explicit immutable |c, a| from_text(c, a, Type::Bytea);
    Bpchar Date Explicit stable |c, a| from_text(c, a, Type::Date);
    Bpchar Time Explicit stable |c, a| from_text(c, a, Type::Time);
    Bpchar Timestamp Explicit stable |c, a| from_text(c, a, Type::Timestamp);
    Bpchar Timestamptz Explicit stable |c, a| from_text(c, a, Type::Timestamptz);
    Bpchar Interval Explicit immutable |c, a| from_text(c, a, Type::Interval);
    Bpchar Uuid Explicit immutable |c, a| from_text(c, a, Type::Uuid);
    Bpchar Oid Explicit immutable |c, a| from_text(c, a, Type::Oid);
    Name Int4 Explicit immutable |c, a| from_text(c, a, Type::Int4);
    Name Int8 Explicit immutable |c, a| from_text(c, a, Type::Int8);
    Name Oid Explicit immutable |c, a| from_text(c, a, Type::Oid);
}

#[cold]
pub(super) fn out_of_range(name: &str) -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("{name} out of range"))
}

fn date_beyond_timestamps() -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "date out of range for timestamp")
}

fn to_int2(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    i16::try_from(a.int(0)?).map(Datum::Int2).map_err(|_| out_of_range("smallint"))
}

fn to_int4(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    i32::try_from(a.int(0)?).map(Datum::Int4).map_err(|_| out_of_range("integer"))
}

/// Rounds half to even, as the machine does.
fn rounded(a: &[Datum], low: f64, high: f64, name: &str) -> Result<f64> {
    let value = a.float(0)?.round_ties_even();
    if (low..high).contains(&value) { Ok(value) } else { Err(out_of_range(name)) }
}

fn float_to_int2(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    rounded(a, -32_768.0, 32_768.0, "smallint").map(|v| Datum::Int2(v as i16))
}

fn float_to_int4(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    rounded(a, -2_147_483_648.0, 2_147_483_648.0, "integer").map(|v| Datum::Int4(v as i32))
}

fn float_to_int8(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    rounded(a, -9_223_372_036_854_775_808.0, 9_223_372_036_854_775_808.0, "bigint")
        .map(|v| Datum::Int8(v as i64))
}

pub(super) fn float8_to_float4(value: f64) -> Result<f32> {
    let narrow = value as f32;
    if narrow.is_infinite() && !value.is_infinite() {
        return Err(super::math::float_overflow());
    }
    if narrow == 0.0 && value != 0.0 {
        return Err(super::math::float_underflow());
    }
    Ok(narrow)
}

fn numeric_to_float8(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let value = a.numeric(0)?;
    let float = value.to_f64();
    let lost =
        (float.is_infinite() && matches!(value, Numeric::Finite(_))) || (float == 0.0 && !value.is_zero());
    if lost {
        return Err(SqlError::new(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("\"{value}\" is out of range for type double precision"),
        ));
    }
    Ok(Datum::Float8(float))
}

fn numeric_to_float4(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let value = a.numeric(0)?;
    let float: f32 = match value {
        Numeric::Finite(_) => value.to_string().parse().unwrap_or(f32::NAN),
        special => special.to_f64() as f32,
    };
    let lost =
        (float.is_infinite() && matches!(value, Numeric::Finite(_))) || (float == 0.0 && !value.is_zero());
    if lost {
        return Err(SqlError::new(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("\"{value}\" is out of range for type real"),
        ));
    }
    Ok(Datum::Float4(float))
}

fn whole(a: &[Datum], name: &'static str) -> Result<i128> {
    match a.numeric(0)? {
        Numeric::NaN => {
            Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("cannot convert NaN to {name}")))
        }
        Numeric::PosInf | Numeric::NegInf => {
            Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("cannot convert infinity to {name}")))
        }
        value => value.to_i128().ok_or_else(|| out_of_range(name)),
    }
}

fn bool_to_text(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    Ok(Datum::text(if a.boolean(0)? { "true" } else { "false" }))
}

fn trim_blanks(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let text = a.shared_text(0)?;
    let kept = text.trim_end_matches(' ');
    Ok(Datum::Text(if kept.len() == text.len() { Arc::clone(text) } else { kept.into() }))
}

fn to_name(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    Ok(Datum::text(io::truncate_name(a.text(0)?)))
}

fn to_instant(ctx: &EvalContext, local: i64) -> Result<Datum> {
    let utc = ctx.time_zone.to_utc(local);
    if calendar::is_infinite(utc) || calendar::in_range(utc) {
        Ok(Datum::Timestamptz(utc))
    } else {
        Err(calendar::timestamp_out_of_range())
    }
}

/// The time of day; an infinite timestamp has none.
fn time_of(local: i64) -> Datum {
    if calendar::is_infinite(local) { Datum::Null } else { Datum::Time(local.rem_euclid(DAY)) }
}

/// A value's text form.
pub(super) fn to_text(ctx: &EvalContext, a: &[Datum]) -> Result<Datum> {
    Ok(Datum::text(io::format_plain(&a[0], &ctx.time_zone)))
}

fn from_text(ctx: &EvalContext, a: &[Datum], ty: Type) -> Result<Datum> {
    io::parse(a.text(0)?, ty.into(), ctx)
}
