//! [`Numeric`]: exact decimal numbers, with the scales that PostgreSQL gives to results.
//!
//! The functions that need series (`exp`, `ln`, `power`, `sqrt`) are in [`super::numeric_math`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use bigdecimal::BigDecimal;
use num_bigint::{BigInt, Sign};
use num_traits::{Pow, Signed, ToPrimitive, Zero};

use crate::error::{Result, SqlError, SqlState};

/// A `numeric`. A finite value's scale is the number of digits that are shown after the point (`1.50` is not `1.5`, though they are equal).
#[derive(Clone, Debug)]
pub enum Numeric {
    /// `-Infinity`
    NegInf,
    /// A number.
    Finite(BigDecimal),
    /// `Infinity`
    PosInf,
    /// `NaN`: equal to itself and above everything else.
    NaN,
}

/// Digits before the point.
const WEIGHT_MAX: u64 = 131_072;
/// Digits after the point.
pub const SCALE_MAX: i64 = 16_383;
/// The largest scale that a division, a root or a series gives out by itself.
pub(super) const DISPLAY_SCALE_MAX: i64 = 1000;
/// Significant digits that a division, a root or a series gives out at least.
pub(super) const SIGNIFICANT_MIN: i64 = 16;

pub(super) fn overflow() -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format")
}

pub(super) fn division_by_zero() -> SqlError {
    SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
}

/// `10^n`.
pub(crate) fn pow10(n: u64) -> BigInt {
    if n <= 18 { BigInt::from(10_i64.pow(n as u32)) } else { Pow::pow(BigInt::from(10), n) }
}

/// Quotient rounded half away from zero.
pub(super) fn div_round(a: &BigInt, b: &BigInt) -> BigInt {
    let (quotient, rest) = num_integer_div_rem(a, b);
    if rest.magnitude() * 2_u32 >= *b.magnitude() {
        if (a.sign() == Sign::Minus) == (b.sign() == Sign::Minus) { quotient + 1 } else { quotient - 1 }
    } else {
        quotient
    }
}

fn num_integer_div_rem(a: &BigInt, b: &BigInt) -> (BigInt, BigInt) {
    let quotient = a / b;
    let rest = a - &quotient * b;
    (quotient, rest)
}

/// Unscaled digits and scale; the scale is never negative.
pub(super) fn parts(value: &BigDecimal) -> (Cow<'_, BigInt>, i64) {
    let (digits, scale) = value.as_bigint_and_scale();
    if scale >= 0 { (digits, scale) } else { (Cow::Owned(&*digits * pow10(scale.unsigned_abs())), 0) }
}

fn rescaled(digits: &BigInt, from: i64, to: i64) -> BigInt {
    match to.cmp(&from) {
        Ordering::Equal => digits.clone(),
        Ordering::Greater => digits * pow10((to - from) as u64),
        Ordering::Less => div_round(digits, &pow10((from - to) as u64)),
    }
}

impl Numeric {
    /// Zero with scale 0.
    pub fn zero() -> Self {
        Numeric::Finite(BigDecimal::new(BigInt::zero(), 0))
    }

    /// `digits / 10^scale`, checked against the limits of the format.
    pub(crate) fn finite(digits: BigInt, scale: i64) -> Result<Self> {
        let (digits, scale) = if scale > SCALE_MAX {
            (rescaled(&digits, scale, SCALE_MAX), SCALE_MAX)
        } else {
            (digits, scale)
        };
        // Ten bits hold three digits: only what may be too long is counted.
        if digits.bits() / 10 * 3 > WEIGHT_MAX + scale as u64
            && digit_count(&digits) > WEIGHT_MAX + scale as u64
        {
            return Err(overflow());
        }
        Ok(Numeric::Finite(BigDecimal::new(digits, scale)))
    }

    /// `digits / 10^scale`; `scale` is at most [`SCALE_MAX`].
    pub fn from_parts(digits: impl Into<BigInt>, scale: u16) -> Self {
        Numeric::Finite(BigDecimal::new(digits.into(), i64::from(scale).min(SCALE_MAX)))
    }

    /// Unscaled digits and display scale of a finite value.
    pub fn to_parts(&self) -> Option<(Cow<'_, BigInt>, i64)> {
        match self {
            Numeric::Finite(value) => Some(parts(value)),
            _ => None,
        }
    }

    /// Reads PostgreSQL's text form; `None`: malformed; an error: too large.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        let (negative, body) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if body.eq_ignore_ascii_case("nan") && body.len() == text.len() {
            return Ok(Some(Numeric::NaN));
        }
        if body.eq_ignore_ascii_case("infinity") || body.eq_ignore_ascii_case("inf") {
            return Ok(Some(if negative { Numeric::NegInf } else { Numeric::PosInf }));
        }
        let (mantissa, exponent) = match body.find(['e', 'E']) {
            Some(at) => {
                let exponent = &body[at + 1..];
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Ok(None);
                }
                match exponent.parse::<i32>() {
                    Ok(e) if e.abs() < i32::MAX / 2 => (&body[..at], i64::from(e)),
                    _ => return Err(overflow()),
                }
            }
            None => (body, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.len() + fraction.len() == 0
            || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
        {
            return Ok(None);
        }
        if whole.len() as i64 + exponent > 2 * WEIGHT_MAX as i64 {
            let zero = whole.bytes().chain(fraction.bytes()).all(|b| b == b'0');
            return if zero { Ok(Some(Numeric::zero())) } else { Err(overflow()) };
        }
        let scale = fraction.len() as i64 - exponent;
        if scale > SCALE_MAX + whole.len() as i64 + fraction.len() as i64 {
            return Ok(Some(Numeric::Finite(BigDecimal::new(BigInt::zero(), SCALE_MAX))));
        }
        let mut digits = if whole.len() + fraction.len() <= 18 {
            let value = whole
                .bytes()
                .chain(fraction.bytes())
                .fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
            BigInt::from(value)
        } else {
            BigInt::parse_bytes([whole, fraction].concat().as_bytes(), 10).unwrap_or_default()
        };
        if negative {
            digits = -digits;
        }
        if scale < 0 {
            digits *= pow10(scale.unsigned_abs());
        }
        Numeric::finite(digits, scale.max(0)).map(Some)
    }

    /// The value that PostgreSQL converts a float to: 15 significant digits for `double precision`, 6 for `real`.
    pub fn from_f64(value: f64, significant: usize) -> Self {
        if value.is_nan() {
            return Numeric::NaN;
        }
        if value.is_infinite() {
            return if value > 0.0 { Numeric::PosInf } else { Numeric::NegInf };
        }
        let text = format!("{:.*e}", significant.saturating_sub(1), value);
        match Numeric::parse(&text) {
            // `%g` drops trailing zeros after the point.
            Ok(Some(Numeric::Finite(value))) => {
                let (digits, mut scale) = parts(&value);
                let mut digits = digits.into_owned();
                while scale > 0 && (&digits % 10_i32).is_zero() {
                    digits /= 10_i32;
                    scale -= 1;
                }
                Numeric::Finite(BigDecimal::new(digits, scale))
            }
            _ => Numeric::NaN,
        }
    }

    /// The nearest `double precision`; too large a value becomes an infinity.
    pub fn to_f64(&self) -> f64 {
        match self {
            Numeric::NegInf => f64::NEG_INFINITY,
            Numeric::PosInf => f64::INFINITY,
            Numeric::NaN => f64::NAN,
            Numeric::Finite(value) => {
                let (digits, scale) = parts(value);
                // Both exactly representable: one correctly rounded division.
                if let (Some(d), 0..=22) = (digits.to_i64().filter(|d| d.unsigned_abs() < 1 << 53), scale) {
                    return d as f64 / 10_f64.powi(scale as i32);
                }
                format!("{digits}e-{scale}").parse().unwrap_or(f64::NAN)
            }
        }
    }

    /// The value rounded to an integer, if it is finite and fits.
    pub fn to_i128(&self) -> Option<i128> {
        match self.round(0) {
            Numeric::Finite(value) => parts(&value).0.to_i128(),
            _ => None,
        }
    }

    /// Whether this is NaN.
    pub fn is_nan(&self) -> bool {
        matches!(self, Numeric::NaN)
    }

    /// Whether this is zero.
    pub fn is_zero(&self) -> bool {
        matches!(self, Numeric::Finite(value) if value.is_zero())
    }

    /// -1, 0 or 1; NaN counts as positive.
    pub fn signum(&self) -> i32 {
        match self {
            Numeric::NegInf => -1,
            Numeric::PosInf | Numeric::NaN => 1,
            Numeric::Finite(value) => match value.sign() {
                Sign::Minus => -1,
                Sign::NoSign => 0,
                Sign::Plus => 1,
            },
        }
    }

    /// Digits after the point that are shown.
    pub fn scale(&self) -> i64 {
        match self {
            Numeric::Finite(value) => value.fractional_digit_count().max(0),
            _ => 0,
        }
    }

    /// Digits before the point, 0 for values below 1.
    pub fn whole_digits(&self) -> u64 {
        match self {
            Numeric::Finite(value) if !value.is_zero() => {
                let (digits, scale) = parts(value);
                digit_count(&digits).saturating_sub(scale as u64)
            }
            _ => 0,
        }
    }

    /// `a + b`
    pub fn add(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Numeric::Finite(a), Numeric::Finite(b)) => {
                let ((a, sa), (b, sb)) = (parts(a), parts(b));
                let scale = sa.max(sb);
                let sum = match sa.cmp(&sb) {
                    Ordering::Equal => &*a + &*b,
                    Ordering::Less => rescaled(&a, sa, scale) + &*b,
                    Ordering::Greater => &*a + rescaled(&b, sb, scale),
                };
                Numeric::finite(sum, scale)
            }
            (Numeric::NaN, _) | (_, Numeric::NaN) => Ok(Numeric::NaN),
            (Numeric::PosInf, Numeric::NegInf) | (Numeric::NegInf, Numeric::PosInf) => Ok(Numeric::NaN),
            (Numeric::Finite(_), infinite) | (infinite, _) => Ok(infinite.clone()),
        }
    }

    /// `a - b`
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.add(&other.neg())
    }

    /// `-a`
    pub fn neg(&self) -> Self {
        match self {
            Numeric::NegInf => Numeric::PosInf,
            Numeric::PosInf => Numeric::NegInf,
            Numeric::NaN => Numeric::NaN,
            Numeric::Finite(value) => Numeric::Finite(-value.clone()),
        }
    }

    /// `a * b`
    pub fn mul(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Numeric::Finite(a), Numeric::Finite(b)) => {
                let ((a, sa), (b, sb)) = (parts(a), parts(b));
                Numeric::finite(&*a * &*b, sa + sb)
            }
            _ => Ok(infinite_product(self, other)),
        }
    }

    /// `a / b`, with the scale that PostgreSQL selects: at least 16 significant digits and no less than either input's.
    pub fn div(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Numeric::NaN, _) | (_, Numeric::NaN) => Ok(Numeric::NaN),
            (_, b) if b.is_zero() => Err(division_by_zero()),
            (Numeric::Finite(a), Numeric::Finite(b)) => {
                let scale = div_scale(a, b);
                let ((a, sa), (b, sb)) = (parts(a), parts(b));
                // a/10^sa ÷ b/10^sb, scaled by 10^scale.
                let shift = scale + sb - sa;
                let quotient = if shift >= 0 {
                    div_round(&(&*a * pow10(shift as u64)), &b)
                } else {
                    div_round(&a, &(&*b * pow10(shift.unsigned_abs())))
                };
                Numeric::finite(quotient, scale)
            }
            (Numeric::Finite(_), _) => Ok(Numeric::zero()),
            (_, Numeric::Finite(_)) => Ok(infinite_product(self, other)),
            _ => Ok(Numeric::NaN),
        }
    }

    /// `div(a, b)`: the quotient truncated to an integer.
    pub fn div_trunc(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Numeric::Finite(a), Numeric::Finite(b)) => {
                let ((a, sa), (b, sb)) = (parts(a), parts(b));
                if b.is_zero() {
                    return Err(division_by_zero());
                }
                let scale = sa.max(sb);
                Numeric::finite(rescaled(&a, sa, scale) / rescaled(&b, sb, scale), 0)
            }
            _ => self.div(other),
        }
    }

    /// `a % b`: the remainder of the truncated division.
    pub fn rem(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Numeric::NaN, _) | (_, Numeric::NaN) => Ok(Numeric::NaN),
            (_, b) if b.is_zero() => Err(division_by_zero()),
            (Numeric::Finite(a), Numeric::Finite(b)) => {
                let ((a, sa), (b, sb)) = (parts(a), parts(b));
                let scale = sa.max(sb);
                Numeric::finite(rescaled(&a, sa, scale) % rescaled(&b, sb, scale), scale)
            }
            (Numeric::Finite(_), _) => Ok(self.clone()),
            _ => Ok(Numeric::NaN),
        }
    }

    /// Rounded half away from zero to `scale` digits after the point (before it, where negative).
    pub fn round(&self, scale: i64) -> Self {
        self.at_scale(scale, div_round)
    }

    /// Cut off after `scale` digits.
    pub fn trunc(&self, scale: i64) -> Self {
        self.at_scale(scale, |a, b| a / b)
    }

    fn at_scale(&self, scale: i64, divide: fn(&BigInt, &BigInt) -> BigInt) -> Self {
        let Numeric::Finite(value) = self else { return self.clone() };
        let scale = scale.clamp(-(WEIGHT_MAX as i64) - 1, SCALE_MAX);
        let (digits, from) = parts(value);
        let out = if scale >= from {
            rescaled(&digits, from, scale)
        } else {
            let kept = divide(&digits, &pow10((from - scale) as u64));
            if scale < 0 { kept * pow10(scale.unsigned_abs()) } else { kept }
        };
        Numeric::Finite(BigDecimal::new(out, scale.max(0)))
    }

    /// The smallest integer that is not below.
    pub fn ceil(&self) -> Self {
        let cut = self.trunc(0);
        if self.signum() > 0 && cut < *self { cut.add(&Numeric::from(1_i64)).unwrap_or(cut) } else { cut }
    }

    /// The largest integer that is not above.
    pub fn floor(&self) -> Self {
        self.neg().ceil().neg()
    }

    /// `|a|`
    pub fn abs(&self) -> Self {
        if self.signum() < 0 { self.neg() } else { self.clone() }
    }

    /// Without trailing zeros after the point.
    pub fn trim_scale(&self) -> Self {
        let Numeric::Finite(value) = self else { return self.clone() };
        let (digits, mut scale) = parts(value);
        let mut digits = digits.into_owned();
        while scale > 0 && (&digits % 10_i32).is_zero() {
            digits /= 10_i32;
            scale -= 1;
        }
        Numeric::Finite(BigDecimal::new(digits, scale))
    }
}

fn infinite_product(a: &Numeric, b: &Numeric) -> Numeric {
    match (a.is_nan() || b.is_nan(), a.signum() * b.signum()) {
        (true, _) | (_, 0) => Numeric::NaN,
        (_, 1) => Numeric::PosInf,
        _ => Numeric::NegInf,
    }
}

pub(super) fn digit_count(digits: &BigInt) -> u64 {
    match digits.magnitude().to_u64() {
        Some(0) => 1,
        Some(n) => u64::from(n.ilog10()) + 1,
        None => digits.magnitude().to_str_radix(10).len() as u64,
    }
}

/// Weight and value of the first base-10000 digit, in terms of which PostgreSQL chooses scales.
pub(super) fn leading(value: &BigDecimal) -> (i64, i64) {
    let (digits, scale) = parts(value);
    if digits.is_zero() {
        return (0, 0);
    }
    let count = digit_count(&digits) as i64;
    // The position of the first decimal digit: 0 is the ones.
    let position = count - scale - 1;
    let weight = position.div_euclid(4);
    // Cut off everything below the first base-10000 digit.
    let shift = scale + weight * 4;
    let first = if shift >= 0 {
        digits.abs() / pow10(shift as u64)
    } else {
        digits.abs() * pow10(shift.unsigned_abs())
    };
    (weight, first.to_i64().unwrap_or(0))
}

fn div_scale(a: &BigDecimal, b: &BigDecimal) -> i64 {
    let ((weight_a, first_a), (weight_b, first_b)) = (leading(a), leading(b));
    let mut weight = weight_a - weight_b;
    if first_a <= first_b {
        weight -= 1;
    }
    (SIGNIFICANT_MIN - weight * 4).max(parts(a).1).max(parts(b).1).clamp(0, DISPLAY_SCALE_MAX)
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        Numeric::Finite(BigDecimal::new(BigInt::from(value), 0))
    }
}

impl From<i128> for Numeric {
    fn from(value: i128) -> Self {
        Numeric::Finite(BigDecimal::new(BigInt::from(value), 0))
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Numeric {}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        fn rank(value: &Numeric) -> u8 {
            match value {
                Numeric::NegInf => 0,
                Numeric::Finite(_) => 1,
                Numeric::PosInf => 2,
                Numeric::NaN => 3,
            }
        }
        let (Numeric::Finite(a), Numeric::Finite(b)) = (self, other) else {
            return rank(self).cmp(&rank(other));
        };
        let ((a, sa), (b, sb)) = (parts(a), parts(b));
        match sa.cmp(&sb) {
            Ordering::Equal => a.cmp(&b),
            Ordering::Less => (&*a * pow10((sb - sa) as u64)).cmp(&b),
            Ordering::Greater => (*a).cmp(&(&*b * pow10((sa - sb) as u64))),
        }
    }
}

impl Hash for Numeric {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.trim_scale() {
            Numeric::NegInf => 0_u8.hash(state),
            Numeric::PosInf => 1_u8.hash(state),
            Numeric::NaN => 2_u8.hash(state),
            Numeric::Finite(value) => {
                let (digits, scale) = parts(&value);
                (digits, scale).hash(state);
            }
        }
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numeric::NegInf => f.write_str("-Infinity"),
            Numeric::PosInf => f.write_str("Infinity"),
            Numeric::NaN => f.write_str("NaN"),
            Numeric::Finite(value) => {
                let (digits, scale) = parts(value);
                if scale == 0 {
                    return write!(f, "{digits}");
                }
                let scale = scale as usize;
                let magnitude = digits.magnitude().to_string();
                let sign = if digits.sign() == Sign::Minus { "-" } else { "" };
                if magnitude.len() > scale {
                    let (whole, fraction) = magnitude.split_at(magnitude.len() - scale);
                    write!(f, "{sign}{whole}.{fraction}")
                } else {
                    write!(f, "{sign}0.{magnitude:0>scale$}")
                }
            }
        }
    }
}
