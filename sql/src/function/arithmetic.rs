//! Arithmetic operators of numbers: checked integers, floats that notice overflow, numerics with PostgreSQL's scales.

use super::cast::out_of_range;
use super::define::{Args, f, numeric};
use super::math::{checked_float, division_by_zero, float_div, float_power};
use super::{EvalContext, Function};
use crate::error::Result;
use crate::types::{Datum, Type};

macro_rules! operators {
    ($($symbol:literal ($($arg:ident),*) -> $ret:ident = $kernel:expr;)*) => {
        pub(super) static OPERATORS: &[Function] =
            &[$(f($symbol, &[$(Type::$arg),*], Type::$ret, $kernel)),*];
    };
}

operators! {
    "+"(Int2, Int2) -> Int2 = |_, a| int2(a, i64::checked_add);
    "+"(Int4, Int4) -> Int4 = |_, a| a.int4(0)?.checked_add(a.int4(1)?).map(Datum::Int4).ok_or_else(|| out_of_range("integer"));
    "+"(Int8, Int8) -> Int8 = |_, a| int8(a, i64::checked_add);
    "+"(Int2, Int4) -> Int4 = |_, a| int4(a, i64::checked_add);
    "+"(Int4, Int2) -> Int4 = |_, a| int4(a, i64::checked_add);
    "+"(Int2, Int8) -> Int8 = |_, a| int8(a, i64::checked_add);
    "+"(Int8, Int2) -> Int8 = |_, a| int8(a, i64::checked_add);
    "+"(Int4, Int8) -> Int8 = |_, a| int8(a, i64::checked_add);
    "+"(Int8, Int4) -> Int8 = |_, a| int8(a, i64::checked_add);
    "+"(Float4, Float4) -> Float4 = |_, a| float4(a, |x, y| x + y);
    "+"(Float8, Float8) -> Float8 = |_, a| float8(a, |x, y| x + y);
    "+"(Float4, Float8) -> Float8 = |_, a| float8(a, |x, y| x + y);
    "+"(Float8, Float4) -> Float8 = |_, a| float8(a, |x, y| x + y);
    "+"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.add(a.numeric(1)?).map(numeric);
    "-"(Int2, Int2) -> Int2 = |_, a| int2(a, i64::checked_sub);
    "-"(Int4, Int4) -> Int4 = |_, a| int4(a, i64::checked_sub);
    "-"(Int8, Int8) -> Int8 = |_, a| int8(a, i64::checked_sub);
    "-"(Int2, Int4) -> Int4 = |_, a| int4(a, i64::checked_sub);
    "-"(Int4, Int2) -> Int4 = |_, a| int4(a, i64::checked_sub);
    "-"(Int2, Int8) -> Int8 = |_, a| int8(a, i64::checked_sub);
    "-"(Int8, Int2) -> Int8 = |_, a| int8(a, i64::checked_sub);
    "-"(Int4, Int8) -> Int8 = |_, a| int8(a, i64::checked_sub);
    "-"(Int8, Int4) -> Int8 = |_, a| int8(a, i64::checked_sub);
    "-"(Float4, Float4) -> Float4 = |_, a| float4(a, |x, y| x - y);
    "-"(Float8, Float8) -> Float8 = |_, a| float8(a, |x, y| x - y);
    "-"(Float4, Float8) -> Float8 = |_, a| float8(a, |x, y| x - y);
    "-"(Float8, Float4) -> Float8 = |_, a| float8(a, |x, y| x - y);
    "-"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.sub(a.numeric(1)?).map(numeric);
    "*"(Int2, Int2) -> Int2 = |_, a| int2(a, i64::checked_mul);
    "*"(Int4, Int4) -> Int4 = |_, a| int4(a, i64::checked_mul);
    "*"(Int8, Int8) -> Int8 = |_, a| int8(a, i64::checked_mul);
    "*"(Int2, Int4) -> Int4 = |_, a| int4(a, i64::checked_mul);
    "*"(Int4, Int2) -> Int4 = |_, a| int4(a, i64::checked_mul);
    "*"(Int2, Int8) -> Int8 = |_, a| int8(a, i64::checked_mul);
    "*"(Int8, Int2) -> Int8 = |_, a| int8(a, i64::checked_mul);
    "*"(Int4, Int8) -> Int8 = |_, a| int8(a, i64::checked_mul);
    "*"(Int8, Int4) -> Int8 = |_, a| int8(a, i64::checked_mul);
    "*"(Float4, Float4) -> Float4 = |_, a| product4(a);
    "*"(Float8, Float8) -> Float8 = |_, a| product8(a);
    "*"(Float4, Float8) -> Float8 = |_, a| product8(a);
    "*"(Float8, Float4) -> Float8 = |_, a| product8(a);
    "*"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.mul(a.numeric(1)?).map(numeric);
    "/"(Int2, Int2) -> Int2 = |_, a| quotient(a).and_then(narrow2);
    "/"(Int4, Int4) -> Int4 = |_, a| quotient(a).and_then(narrow4);
    "/"(Int8, Int8) -> Int8 = |_, a| quotient(a).map(Datum::Int8);
    "/"(Int2, Int4) -> Int4 = |_, a| quotient(a).and_then(narrow4);
    "/"(Int4, Int2) -> Int4 = |_, a| quotient(a).and_then(narrow4);
    "/"(Int2, Int8) -> Int8 = |_, a| quotient(a).map(Datum::Int8);
    "/"(Int8, Int2) -> Int8 = |_, a| quotient(a).map(Datum::Int8);
    "/"(Int4, Int8) -> Int8 = |_, a| quotient(a).map(Datum::Int8);
    "/"(Int8, Int4) -> Int8 = |_, a| quotient(a).map(Datum::Int8);
    "/"(Float4, Float4) -> Float4 = |_, a| {
        let (x, y) = (a.float4(0)?, a.float4(1)?);
        let wide = float_div(x.into(), y.into())?;
        let result = x / y;
        checked_float(f64::from(result), x.is_infinite(), x == 0.0 || wide == 0.0 && y.is_infinite())?;
        Ok(Datum::Float4(result))
    };
    "/"(Float8, Float8) -> Float8 = |_, a| float_div(a.float(0)?, a.float(1)?).map(Datum::Float8);
    "/"(Float4, Float8) -> Float8 = |_, a| float_div(a.float(0)?, a.float(1)?).map(Datum::Float8);
    "/"(Float8, Float4) -> Float8 = |_, a| float_div(a.float(0)?, a.float(1)?).map(Datum::Float8);
    "/"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.div(a.numeric(1)?).map(numeric);
    "%"(Int2, Int2) -> Int2 = |_, a| remainder(a).map(|v| Datum::Int2(v as i16));
    "%"(Int4, Int4) -> Int4 = |_, a| remainder(a).map(|v| Datum::Int4(v as i32));
    "%"(Int8, Int8) -> Int8 = |_, a| remainder(a).map(Datum::Int8);
    "%"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.rem(a.numeric(1)?).map(numeric);
    "^"(Float8, Float8) -> Float8 = |_, a| float_power(a.float8(0)?, a.float8(1)?).map(Datum::Float8);
    "^"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.power(a.numeric(1)?).map(numeric);
    "+"(Int2) -> Int2 = itself;
    "+"(Int4) -> Int4 = itself;
    "+"(Int8) -> Int8 = itself;
    "+"(Float4) -> Float4 = itself;
    "+"(Float8) -> Float8 = itself;
    "+"(Numeric) -> Numeric = itself;
    "-"(Int2) -> Int2 = |_, a| a.int2(0)?.checked_neg().map(Datum::Int2).ok_or_else(|| out_of_range("smallint"));
    "-"(Int4) -> Int4 = |_, a| a.int4(0)?.checked_neg().map(Datum::Int4).ok_or_else(|| out_of_range("integer"));
    "-"(Int8) -> Int8 = |_, a| a.int8(0)?.checked_neg().map(Datum::Int8).ok_or_else(|| out_of_range("bigint"));
    "-"(Float4) -> Float4 = |_, a| Ok(Datum::Float4(-a.float4(0)?));
    "-"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(-a.float8(0)?));
    "-"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.neg()));
    "@"(Int2) -> Int2 = super::math::abs;
    "@"(Int4) -> Int4 = super::math::abs;
    "@"(Int8) -> Int8 = super::math::abs;
    "@"(Float4) -> Float4 = super::math::abs;
    "@"(Float8) -> Float8 = super::math::abs;
    "@"(Numeric) -> Numeric = super::math::abs;
    "|/"(Float8) -> Float8 = super::math::sqrt;
    "||/"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.cbrt()));
    "&"(Int2, Int2) -> Int2 = |_, a| Ok(Datum::Int2(a.int2(0)? & a.int2(1)?));
    "&"(Int4, Int4) -> Int4 = |_, a| Ok(Datum::Int4(a.int4(0)? & a.int4(1)?));
    "&"(Int8, Int8) -> Int8 = |_, a| Ok(Datum::Int8(a.int8(0)? & a.int8(1)?));
    "|"(Int2, Int2) -> Int2 = |_, a| Ok(Datum::Int2(a.int2(0)? | a.int2(1)?));
    "|"(Int4, Int4) -> Int4 = |_, a| Ok(Datum::Int4(a.int4(0)? | a.int4(1)?));
    "|"(Int8, Int8) -> Int8 = |_, a| Ok(Datum::Int8(a.int8(0)? | a.int8(1)?));
    "#"(Int2, Int2) -> Int2 = |_, a| Ok(Datum::Int2(a.int2(0)? ^ a.int2(1)?));
    "#"(Int4, Int4) -> Int4 = |_, a| Ok(Datum::Int4(a.int4(0)? ^ a.int4(1)?));
    "#"(Int8, Int8) -> Int8 = |_, a| Ok(Datum::Int8(a.int8(0)? ^ a.int8(1)?));
    "~"(Int2) -> Int2 = |_, a| Ok(Datum::Int2(!a.int2(0)?));
    "~"(Int4) -> Int4 = |_, a| Ok(Datum::Int4(!a.int4(0)?));
    "~"(Int8) -> Int8 = |_, a| Ok(Datum::Int8(!a.int8(0)?));
    // The shift count is taken modulo the width, as the machine does.
    "<<"(Int2, Int4) -> Int2 = |_, a| Ok(Datum::Int2(i32::from(a.int2(0)?).wrapping_shl(a.int4(1)? as u32) as i16));
    "<<"(Int4, Int4) -> Int4 = |_, a| Ok(Datum::Int4(a.int4(0)?.wrapping_shl(a.int4(1)? as u32)));
    "<<"(Int8, Int4) -> Int8 = |_, a| Ok(Datum::Int8(a.int8(0)?.wrapping_shl(a.int4(1)? as u32)));
    ">>"(Int2, Int4) -> Int2 = |_, a| Ok(Datum::Int2(i32::from(a.int2(0)?).wrapping_shr(a.int4(1)? as u32) as i16));
    ">>"(Int4, Int4) -> Int4 = |_, a| Ok(Datum::Int4(a.int4(0)?.wrapping_shr(a.int4(1)? as u32)));
    ">>"(Int8, Int4) -> Int8 = |_, a| Ok(Datum::Int8(a.int8(0)?.wrapping_shr(a.int4(1)? as u32)));
}

fn itself(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    Ok(a[0].clone())
}

fn narrow2(value: i64) -> Result<Datum> {
    i16::try_from(value).map(Datum::Int2).map_err(|_| out_of_range("smallint"))
}

fn narrow4(value: i64) -> Result<Datum> {
    i32::try_from(value).map(Datum::Int4).map_err(|_| out_of_range("integer"))
}

type IntOp = fn(i64, i64) -> Option<i64>;

fn int2(a: &[Datum], op: IntOp) -> Result<Datum> {
    op(a.int(0)?, a.int(1)?).ok_or_else(|| out_of_range("smallint")).and_then(narrow2)
}

fn int4(a: &[Datum], op: IntOp) -> Result<Datum> {
    op(a.int(0)?, a.int(1)?).ok_or_else(|| out_of_range("integer")).and_then(narrow4)
}

fn int8(a: &[Datum], op: IntOp) -> Result<Datum> {
    op(a.int(0)?, a.int(1)?).map(Datum::Int8).ok_or_else(|| out_of_range("bigint"))
}

fn quotient(a: &[Datum]) -> Result<i64> {
    let (x, y) = (a.int(0)?, a.int(1)?);
    if y == 0 {
        return Err(division_by_zero());
    }
    x.checked_div(y).ok_or_else(|| out_of_range("bigint"))
}

fn remainder(a: &[Datum]) -> Result<i64> {
    let (x, y) = (a.int(0)?, a.int(1)?);
    if y == 0 {
        return Err(division_by_zero());
    }
    // The least integer modulo -1 is 0, though its quotient does not exist.
    Ok(x.wrapping_rem(y))
}

fn float4(a: &[Datum], op: fn(f32, f32) -> f32) -> Result<Datum> {
    let (x, y) = (a.float4(0)?, a.float4(1)?);
    let result = op(x, y);
    checked_float(f64::from(result), x.is_infinite() || y.is_infinite(), true)?;
    Ok(Datum::Float4(result))
}

fn float8(a: &[Datum], op: fn(f64, f64) -> f64) -> Result<Datum> {
    let (x, y) = (a.float(0)?, a.float(1)?);
    checked_float(op(x, y), x.is_infinite() || y.is_infinite(), true).map(Datum::Float8)
}

fn product4(a: &[Datum]) -> Result<Datum> {
    let (x, y) = (a.float4(0)?, a.float4(1)?);
    let result = x * y;
    checked_float(f64::from(result), x.is_infinite() || y.is_infinite(), x == 0.0 || y == 0.0)?;
    Ok(Datum::Float4(result))
}

fn product8(a: &[Datum]) -> Result<Datum> {
    let (x, y) = (a.float(0)?, a.float(1)?);
    checked_float(x * y, x.is_infinite() || y.is_infinite(), x == 0.0 || y == 0.0).map(Datum::Float8)
}
