//! Mathematical functions (PostgreSQL 15, chapter 9.3).

use super::cast::out_of_range;
use super::define::{Args, f, numeric};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Datum, Numeric, Type};

macro_rules! functions {
    ($($name:literal ($($arg:ident),*) -> $ret:ident = $kernel:expr;)*) => {
        &[$(f($name, &[$(Type::$arg),*], Type::$ret, $kernel)),*]
    };
}

pub(super) static FUNCTIONS: &[Function] = functions! {
    "abs"(Int2) -> Int2 = abs;
    "abs"(Int4) -> Int4 = abs;
    "abs"(Int8) -> Int8 = abs;
    "abs"(Float4) -> Float4 = abs;
    "abs"(Float8) -> Float8 = abs;
    "abs"(Numeric) -> Numeric = abs;
    "sign"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(match a.float8(0)? {
        v if v > 0.0 => 1.0,
        v if v < 0.0 => -1.0,
        v if v.is_nan() => v,
        _ => 0.0,
    }));
    "sign"(Numeric) -> Numeric = |_, a| Ok(numeric(match a.numeric(0)? {
        Numeric::NaN => Numeric::NaN,
        v => Numeric::from(i64::from(v.signum())),
    }));
    "ceil"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.ceil()));
    "ceil"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.ceil()));
    "ceiling"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.ceil()));
    "ceiling"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.ceil()));
    "floor"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.floor()));
    "floor"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.floor()));
    "round"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.round_ties_even()));
    "round"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.round(0)));
    "round"(Numeric, Int4) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.round(places(a)?)));
    "trunc"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.trunc()));
    "trunc"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.trunc(0)));
    "trunc"(Numeric, Int4) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.trunc(places(a)?)));
    "mod"(Int2, Int2) -> Int2 = |_, a| modulo(a).map(|v| Datum::Int2(v as i16));
    "mod"(Int4, Int4) -> Int4 = |_, a| modulo(a).map(|v| Datum::Int4(v as i32));
    "mod"(Int8, Int8) -> Int8 = |_, a| modulo(a).map(Datum::Int8);
    "mod"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.rem(a.numeric(1)?).map(numeric);
    "div"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.div_trunc(a.numeric(1)?).map(numeric);
    "gcd"(Int4, Int4) -> Int4 = |_, a| i32::try_from(gcd(a)?).map(Datum::Int4).map_err(|_| out_of_range("integer"));
    "gcd"(Int8, Int8) -> Int8 = |_, a| i64::try_from(gcd(a)?).map(Datum::Int8).map_err(|_| out_of_range("bigint"));
    "gcd"(Numeric, Numeric) -> Numeric = |_, a| numeric_gcd(a.numeric(0)?, a.numeric(1)?).map(numeric);
    "lcm"(Int4, Int4) -> Int4 = |_, a| i32::try_from(lcm(a)?).map(Datum::Int4).map_err(|_| out_of_range("integer"));
    "lcm"(Int8, Int8) -> Int8 = |_, a| i64::try_from(lcm(a)?).map(Datum::Int8).map_err(|_| out_of_range("bigint"));
    "lcm"(Numeric, Numeric) -> Numeric = numeric_lcm;
    "factorial"(Int8) -> Numeric = factorial;
    "sqrt"(Float8) -> Float8 = sqrt;
    "sqrt"(Numeric) -> Numeric = |_, a| a.numeric(0)?.sqrt().map(numeric);
    "cbrt"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.cbrt()));
    "exp"(Float8) -> Float8 = |_, a| {
        let x = a.float8(0)?;
        checked_float(x.exp(), x.is_infinite(), x.is_infinite()).map(Datum::Float8)
    };
    "exp"(Numeric) -> Numeric = |_, a| a.numeric(0)?.exp().map(numeric);
    "ln"(Float8) -> Float8 = |_, a| positive(a.float8(0)?).map(|v| Datum::Float8(v.ln()));
    "ln"(Numeric) -> Numeric = |_, a| a.numeric(0)?.ln().map(numeric);
    "log"(Float8) -> Float8 = |_, a| positive(a.float8(0)?).map(|v| Datum::Float8(v.log10()));
    "log10"(Float8) -> Float8 = |_, a| positive(a.float8(0)?).map(|v| Datum::Float8(v.log10()));
    "log"(Numeric) -> Numeric = |_, a| Numeric::from(10_i64).log(a.numeric(0)?).map(numeric);
    "log10"(Numeric) -> Numeric = |_, a| Numeric::from(10_i64).log(a.numeric(0)?).map(numeric);
    "log"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.log(a.numeric(1)?).map(numeric);
    "power"(Float8, Float8) -> Float8 = |_, a| float_power(a.float8(0)?, a.float8(1)?).map(Datum::Float8);
    "power"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.power(a.numeric(1)?).map(numeric);
    "pow"(Float8, Float8) -> Float8 = |_, a| float_power(a.float8(0)?, a.float8(1)?).map(Datum::Float8);
    "pow"(Numeric, Numeric) -> Numeric = |_, a| a.numeric(0)?.power(a.numeric(1)?).map(numeric);
    "pi"() -> Float8 = |_, _| Ok(Datum::Float8(std::f64::consts::PI));
    "degrees"(Float8) -> Float8 = |_, a| trig(a, |x| x / std::f64::consts::PI * 180.0, |_| true);
    "radians"(Float8) -> Float8 = |_, a| trig(a, |x| x * (std::f64::consts::PI / 180.0), |_| true);
    "sin"(Float8) -> Float8 = |_, a| trig(a, f64::sin, |x| !x.is_infinite());
    "cos"(Float8) -> Float8 = |_, a| trig(a, f64::cos, |x| !x.is_infinite());
    "tan"(Float8) -> Float8 = |_, a| trig(a, f64::tan, |x| !x.is_infinite());
    "cot"(Float8) -> Float8 = |_, a| trig(a, |x| 1.0 / x.tan(), |x| !x.is_infinite());
    "asin"(Float8) -> Float8 = |_, a| trig(a, f64::asin, |x| x.abs() <= 1.0);
    "acos"(Float8) -> Float8 = |_, a| trig(a, f64::acos, |x| x.abs() <= 1.0);
    "atan"(Float8) -> Float8 = |_, a| trig(a, f64::atan, |_| true);
    "atan2"(Float8, Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.atan2(a.float8(1)?)));
    "sinh"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.sinh()));
    "cosh"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.cosh()));
    "tanh"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.tanh()));
    "asinh"(Float8) -> Float8 = |_, a| Ok(Datum::Float8(a.float8(0)?.asinh()));
    "acosh"(Float8) -> Float8 = |_, a| trig(a, f64::acosh, |x| x >= 1.0);
    "atanh"(Float8) -> Float8 = |_, a| trig(a, f64::atanh, |x| x.abs() <= 1.0);
    "scale"(Numeric) -> Int4 = |_, a| Ok(match a.numeric(0)? {
        v @ Numeric::Finite(_) => Datum::Int4(v.scale() as i32),
        _ => Datum::Null,
    });
    "min_scale"(Numeric) -> Int4 = |_, a| Ok(match a.numeric(0)? {
        v @ Numeric::Finite(_) => Datum::Int4(v.trim_scale().scale() as i32),
        _ => Datum::Null,
    });
    "trim_scale"(Numeric) -> Numeric = |_, a| Ok(numeric(a.numeric(0)?.trim_scale()));
    "width_bucket"(Float8, Float8, Float8, Int4) -> Int4 = width_bucket_float;
    "width_bucket"(Numeric, Numeric, Numeric, Int4) -> Int4 = width_bucket_numeric;
};

/// The functions that give another answer each time.
pub(super) static RANDOM: &[Function] = &[
    f("random", &[], Type::Float8, |c, _| Ok(Datum::Float8(c.seams.random_f64()))).volatile(),
    // The generator belongs to the process: a seed is accepted and, as with any change of generator, says nothing
    // about the numbers that follow.
    f("setseed", &[Type::Float8], Type::Void, |_, a| match a.float8(0)? {
        seed if (-1.0..=1.0).contains(&seed) => Ok(Datum::text("")),
        seed => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("setseed parameter {seed} is out of allowed range [-1,1]"),
        )),
    })
    .volatile(),
];

#[cold]
pub(super) fn float_overflow() -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
}

#[cold]
pub(super) fn float_underflow() -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: underflow")
}

#[cold]
pub(super) fn division_by_zero() -> SqlError {
    SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
}

/// Refuses an infinity or a zero that the operands don't explain.
pub(super) fn checked_float(value: f64, infinite_is_valid: bool, zero_is_valid: bool) -> Result<f64> {
    if value.is_infinite() && !infinite_is_valid {
        Err(float_overflow())
    } else if value == 0.0 && !zero_is_valid {
        Err(float_underflow())
    } else {
        Ok(value)
    }
}

pub(super) fn float_div(x: f64, y: f64) -> Result<f64> {
    if y == 0.0 && !x.is_nan() {
        return Err(division_by_zero());
    }
    checked_float(x / y, x.is_infinite(), x == 0.0 || y.is_infinite())
}

pub(super) fn float_power(x: f64, y: f64) -> Result<f64> {
    let invalid = |message| Err(SqlError::new(SqlState::INVALID_ARGUMENT_FOR_POWER_FUNCTION, message));
    if x.is_nan() || y.is_nan() {
        return Ok(x.powf(y));
    }
    if x == 0.0 && y < 0.0 {
        return invalid("zero raised to a negative power is undefined");
    }
    if x < 0.0 && y.is_finite() && y.fract() != 0.0 {
        return invalid("a negative number raised to a non-integer power yields a complex result");
    }
    let infinite = x.is_infinite() || y.is_infinite();
    checked_float(x.powf(y), infinite, infinite || x == 0.0)
}

pub(super) fn abs(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    match &a[0] {
        Datum::Int2(v) => v.checked_abs().map(Datum::Int2).ok_or_else(|| out_of_range("smallint")),
        Datum::Int4(v) => v.checked_abs().map(Datum::Int4).ok_or_else(|| out_of_range("integer")),
        Datum::Int8(v) => v.checked_abs().map(Datum::Int8).ok_or_else(|| out_of_range("bigint")),
        Datum::Float4(v) => Ok(Datum::Float4(v.abs())),
        Datum::Float8(v) => Ok(Datum::Float8(v.abs())),
        _ => Ok(numeric(a.numeric(0)?.abs())),
    }
}

pub(super) fn sqrt(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let x = a.float8(0)?;
    if x < 0.0 {
        return Err(SqlError::new(
            SqlState::INVALID_ARGUMENT_FOR_POWER_FUNCTION,
            "cannot take square root of a negative number",
        ));
    }
    Ok(Datum::Float8(x.sqrt()))
}

/// What a logarithm exists of.
fn positive(value: f64) -> Result<f64> {
    let invalid = |message| Err(SqlError::new(SqlState::INVALID_ARGUMENT_FOR_LOG, message));
    if value == 0.0 {
        invalid("cannot take logarithm of zero")
    } else if value < 0.0 {
        invalid("cannot take logarithm of a negative number")
    } else {
        Ok(value)
    }
}

fn trig(a: &[Datum], function: fn(f64) -> f64, domain: fn(f64) -> bool) -> Result<Datum> {
    let x = a.float8(0)?;
    if !x.is_nan() && !domain(x) {
        return Err(SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "input is out of range"));
    }
    Ok(Datum::Float8(function(x)))
}

fn places(a: &[Datum]) -> Result<i64> {
    Ok(i64::from(a.int4(1)?).clamp(-2000, 2000))
}

fn modulo(a: &[Datum]) -> Result<i64> {
    match a.int(1)? {
        0 => Err(division_by_zero()),
        y => Ok(a.int(0)?.wrapping_rem(y)),
    }
}

fn gcd(a: &[Datum]) -> Result<u64> {
    let (mut x, mut y) = (a.int(0)?.unsigned_abs(), a.int(1)?.unsigned_abs());
    while y != 0 {
        (x, y) = (y, x % y);
    }
    Ok(x)
}

fn lcm(a: &[Datum]) -> Result<u128> {
    let (x, y) = (a.int(0)?.unsigned_abs(), a.int(1)?.unsigned_abs());
    if x == 0 || y == 0 {
        return Ok(0);
    }
    Ok(u128::from(x / gcd(a)?) * u128::from(y))
}

fn numeric_gcd(x: &Numeric, y: &Numeric) -> Result<Numeric> {
    if !matches!((x, y), (Numeric::Finite(_), Numeric::Finite(_))) {
        return Ok(Numeric::NaN);
    }
    let scale = x.scale().max(y.scale());
    let (mut x, mut y) = (x.abs(), y.abs());
    while !y.is_zero() {
        let rest = x.rem(&y)?;
        (x, y) = (y, rest);
    }
    Ok(x.round(scale))
}

fn numeric_lcm(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (x, y) = (a.numeric(0)?, a.numeric(1)?);
    let scale = x.scale().max(y.scale());
    if x.is_zero() || y.is_zero() {
        return Ok(numeric(Numeric::zero().round(scale)));
    }
    let divisor = numeric_gcd(x, y)?;
    let product = x.div_trunc(&divisor)?.mul(y)?;
    Ok(numeric(product.abs().round(scale)))
}

fn factorial(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let n = a.int8(0)?;
    if n < 0 {
        return Err(SqlError::new(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            "factorial of a negative number is undefined",
        ));
    }
    // The first factorial with too many digits.
    if n > 32_177 {
        return Err(SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format"));
    }
    let mut product = num_bigint::BigInt::from(1);
    for factor in 2..=n {
        product *= factor;
    }
    Numeric::finite(product, 0).map(numeric)
}

fn bucket_error(message: &'static str) -> SqlError {
    // Class 2201G: invalid argument for width bucket function.
    SqlError::new(SqlState("2201G"), message)
}

fn width_bucket_float(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (x, low, high, count) = (a.float8(0)?, a.float8(1)?, a.float8(2)?, a.int4(3)?);
    if count <= 0 {
        return Err(bucket_error("count must be greater than zero"));
    }
    if x.is_nan() || low.is_nan() || high.is_nan() {
        return Err(bucket_error("operand, lower bound, and upper bound cannot be NaN"));
    }
    if low.is_infinite() || high.is_infinite() {
        return Err(bucket_error("lower and upper bounds must be finite"));
    }
    if low == high {
        return Err(bucket_error("lower bound cannot equal upper bound"));
    }
    let past = count.checked_add(1).ok_or_else(|| out_of_range("integer"));
    let (before, after) = if low < high { (x < low, x >= high) } else { (x > low, x <= high) };
    Ok(Datum::Int4(if before {
        0
    } else if after {
        past?
    } else {
        let position = f64::from(count) * ((x - low) / (high - low));
        (position as i32).min(count - 1) + 1
    }))
}

fn width_bucket_numeric(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (x, low, high, count) = (a.numeric(0)?, a.numeric(1)?, a.numeric(2)?, a.int4(3)?);
    if count <= 0 {
        return Err(bucket_error("count must be greater than zero"));
    }
    if x.is_nan() || low.is_nan() || high.is_nan() {
        return Err(bucket_error("operand, lower bound, and upper bound cannot be NaN"));
    }
    if !matches!((low, high), (Numeric::Finite(_), Numeric::Finite(_))) {
        return Err(bucket_error("lower and upper bounds must be finite"));
    }
    if low == high {
        return Err(bucket_error("lower bound cannot equal upper bound"));
    }
    let (before, after) = if low < high { (x < low, x >= high) } else { (x > low, x <= high) };
    if before {
        return Ok(Datum::Int4(0));
    }
    if after {
        return count.checked_add(1).map(Datum::Int4).ok_or_else(|| out_of_range("integer"));
    }
    let numerator = x.sub(low)?.mul(&Numeric::from(i64::from(count)))?;
    let position = numerator.div_trunc(&high.sub(low)?)?;
    Ok(Datum::Int4(position.to_i128().unwrap_or(0) as i32 + 1))
}
