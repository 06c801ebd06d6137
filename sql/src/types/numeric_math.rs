//! Roots, exponentials, logarithms and powers of numerics.
//!
//! Series run on integers scaled by a power of ten, with guard digits, and are rounded once at the end. The scales of
//! the results are PostgreSQL's: at least sixteen significant digits and no fewer places than the arguments have.

use bigdecimal::BigDecimal;
use num_bigint::BigInt;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::Numeric;
use super::numeric::{
    DISPLAY_SCALE_MAX, SIGNIFICANT_MIN, digit_count, div_round, leading, overflow, parts, pow10,
};
use crate::error::{Result, SqlError, SqlState};

/// Digits that a series carries beyond those that are wanted.
const GUARD: i64 = 10;

fn invalid_log(message: &'static str) -> SqlError {
    SqlError::new(SqlState::INVALID_ARGUMENT_FOR_LOG, message)
}

fn invalid_power(message: &'static str) -> SqlError {
    SqlError::new(SqlState::INVALID_ARGUMENT_FOR_POWER_FUNCTION, message)
}

/// `value * 10^scale`, cut off.
fn fixed(value: &BigDecimal, scale: i64) -> BigInt {
    let (digits, from) = parts(value);
    if scale >= from {
        &*digits * pow10((scale - from) as u64)
    } else {
        &*digits / pow10((from - scale) as u64)
    }
}

fn rounded(value: &BigInt, from: i64, to: i64) -> Result<Numeric> {
    if to >= from {
        Numeric::finite(value * pow10((to - from) as u64), to)
    } else {
        Numeric::finite(div_round(value, &pow10((from - to) as u64)), to)
    }
}

/// `e^x` for `x` scaled by `10^scale`; the result has the same scale.
fn exp_fixed(x: &BigInt, scale: i64) -> BigInt {
    // Halving the argument until it is small makes the series short; squaring undoes it and costs digits.
    let whole = digit_count(x) as i64 - scale;
    let halvings = (8 + whole.max(0) * 4) as u64;
    let inner = scale + 6 + halvings as i64;
    let unit = pow10(inner as u64);
    let reduced = (x * pow10((inner - scale) as u64)) >> halvings;
    let mut sum = unit.clone();
    let mut term = unit.clone();
    let mut n = 1_u32;
    while !term.is_zero() {
        term = &term * &reduced / &unit / n;
        // A negative term is rounded towards minus infinity by no division here: it ends at zero.
        sum += &term;
        n += 1;
    }
    for _ in 0..halvings {
        sum = &sum * &sum / &unit;
    }
    sum / pow10((inner - scale) as u64)
}

/// `ln(x)` for a positive `x` scaled by `10^scale`; the result has the same scale.
fn ln_fixed(x: &BigInt, scale: i64) -> BigInt {
    let inner = scale + GUARD;
    let unit = pow10(inner as u64);
    // x = m * 2^k with m near 1.
    let x = x * pow10((inner - scale) as u64);
    let k = x.bits() as i64 - unit.bits() as i64;
    let m = if k >= 0 { &x >> k } else { &x << -k };
    // Square roots bring m closer: ln(m) = 2^r * ln(m^(1/2^r)).
    let roots = 6_u32;
    let mut m = m;
    for _ in 0..roots {
        m = (m * &unit).sqrt();
    }
    let sum = atanh_series(&(&m - &unit), &(&m + &unit), &unit) << (roots + 1);
    let total = if k == 0 {
        sum
    } else {
        // ln 2 = 2 atanh(1/3)
        let ln2: BigInt = atanh_series(&BigInt::one(), &BigInt::from(3), &unit) << 1;
        sum + ln2 * k
    };
    total / pow10((inner - scale) as u64)
}

/// `atanh(a / b)`, scaled by `unit`.
fn atanh_series(a: &BigInt, b: &BigInt, unit: &BigInt) -> BigInt {
    let ratio = a * unit / b;
    let square = &ratio * &ratio / unit;
    let mut power = ratio.clone();
    let mut sum = ratio;
    let mut n = 3_u32;
    while !power.is_zero() {
        power = power * &square / unit;
        sum += &power / n;
        n += 2;
    }
    sum
}

/// The decimal exponent of |ln(x)|, as roughly as PostgreSQL estimates it: scales depend on it.
fn ln_weight(value: &BigDecimal) -> i64 {
    let one = BigDecimal::new(BigInt::one(), 0);
    let distance = value - &one;
    // Between 0.9 and 1.1 ln(1 + x) is about x.
    if distance.abs() * 10_i32 <= one {
        let (weight, first) = leading(&distance);
        return if distance.is_zero() { 0 } else { weight * 4 + i64::from(first.max(1).ilog10()) };
    }
    ln_estimate(value).abs().log10().trunc() as i64
}

/// ln of a positive value with `scale` digits after the point.
fn ln_at(value: &BigDecimal, scale: i64) -> BigInt {
    let (digits, from) = parts(value);
    // Leading zeros of a small value are not significant digits.
    let lead = (from - digit_count(&digits) as i64).max(0);
    let inner = scale + GUARD + lead;
    ln_fixed(&fixed(value, inner), inner) / pow10((inner - scale) as u64)
}

impl Numeric {
    /// The square root.
    pub fn sqrt(&self) -> Result<Numeric> {
        let value = match self {
            Numeric::Finite(value) => value,
            Numeric::NegInf => return Err(invalid_power("cannot take square root of a negative number")),
            other => return Ok(other.clone()),
        };
        let (digits, from) = parts(value);
        if digits.is_negative() {
            return Err(invalid_power("cannot take square root of a negative number"));
        }
        let (weight, _) = leading(value);
        let root_weight = if weight >= 0 { weight * 2 + 1 } else { 1 - (1 - weight * 4) / 2 };
        let scale = (SIGNIFICANT_MIN - root_weight).max(from).clamp(0, DISPLAY_SCALE_MAX);
        self.sqrt_at(scale)
    }

    /// The square root of a finite value that isn't negative, rounded to `scale` digits after the point.
    pub(crate) fn sqrt_at(&self, scale: i64) -> Result<Numeric> {
        let Numeric::Finite(value) = self else { return Ok(self.clone()) };
        // Digits more than wanted: cutting off the radicand must not change the rounding.
        let inner = scale + GUARD;
        rounded(&fixed(value, inner * 2).abs().sqrt(), inner, scale)
    }

    /// `e^a`
    pub fn exp(&self) -> Result<Numeric> {
        let value = match self {
            Numeric::Finite(value) => value,
            Numeric::NegInf => return Ok(Numeric::zero()),
            other => return Ok(other.clone()),
        };
        let estimate = self.to_f64() * std::f64::consts::LOG10_E;
        if estimate > 131_072.0 {
            return Err(overflow());
        }
        let weight = estimate.trunc() as i64;
        let scale = (SIGNIFICANT_MIN - weight).max(parts(value).1).clamp(0, DISPLAY_SCALE_MAX);
        if estimate < -(scale as f64) - 1.0 {
            return Ok(Numeric::zero().round(scale));
        }
        let inner = scale + GUARD + weight.max(0);
        rounded(&exp_fixed(&fixed(value, inner), inner), inner, scale)
    }

    /// The natural logarithm.
    pub fn ln(&self) -> Result<Numeric> {
        let value = match self.check_log()? {
            Some(value) => value,
            None => return Ok(self.clone()),
        };
        let scale = (SIGNIFICANT_MIN - ln_weight(value)).max(parts(value).1).clamp(0, DISPLAY_SCALE_MAX);
        rounded(&ln_at(value, scale + GUARD), scale + GUARD, scale)
    }

    /// What a logarithm exists of; `None` for NaN and infinity.
    fn check_log(&self) -> Result<Option<&BigDecimal>> {
        match (self, self.signum()) {
            (Numeric::Finite(_), 0) => Err(invalid_log("cannot take logarithm of zero")),
            (_, -1) => Err(invalid_log("cannot take logarithm of a negative number")),
            (Numeric::Finite(value), _) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// The logarithm of `x` to the base `self`.
    pub fn log(&self, x: &Numeric) -> Result<Numeric> {
        if self.is_nan() || x.is_nan() {
            return Ok(Numeric::NaN);
        }
        let (base, value) = match (self.check_log()?, x.check_log()?) {
            (Some(base), Some(value)) => (base, value),
            (None, None) => return Ok(Numeric::NaN),
            (None, Some(_)) => return Ok(Numeric::zero()),
            (Some(_), None) => return Ok(Numeric::PosInf),
        };
        let (base_weight, value_weight) = (ln_weight(base), ln_weight(value));
        let scale = (SIGNIFICANT_MIN - (value_weight - base_weight))
            .max(parts(base).1)
            .max(parts(value).1)
            .clamp(0, DISPLAY_SCALE_MAX);
        let inner = scale + 2 * GUARD - base_weight.min(0) * 2 + value_weight.max(0);
        let (numerator, denominator) = (ln_at(value, inner), ln_at(base, inner));
        if denominator.is_zero() {
            return Err(super::numeric::division_by_zero());
        }
        rounded(&(numerator * pow10(inner as u64) / denominator), inner, scale)
    }

    /// `self ^ exponent`
    pub fn power(&self, exponent: &Numeric) -> Result<Numeric> {
        let (base, power) = match (self, exponent) {
            (Numeric::Finite(base), Numeric::Finite(power)) => (base, power),
            _ => return self.power_special(exponent),
        };
        if self.is_zero() && exponent.signum() < 0 {
            return Err(invalid_power("zero raised to a negative power is undefined"));
        }
        let whole = exponent.trim_scale().scale() == 0;
        if self.signum() < 0 && !whole {
            return Err(invalid_power(
                "a negative number raised to a non-integer power yields a complex result",
            ));
        }
        let places = parts(base).1.max(parts(power).1);
        if let Some(n) = exponent.to_i128().filter(|_| whole).and_then(|n| i32::try_from(n).ok()) {
            return self.power_int(n, SIGNIFICANT_MIN.max(parts(base).1));
        }
        if self.is_zero() {
            return Ok(Numeric::zero().round(SIGNIFICANT_MIN));
        }
        // base^power = e^(power * ln base)
        let magnitude = match self.abs() {
            Numeric::Finite(value) => value,
            _ => return Ok(Numeric::NaN),
        };
        let estimate = ln_estimate(&magnitude) * exponent.to_f64();
        let decimal = estimate * std::f64::consts::LOG10_E;
        if decimal > 131_072.0 {
            return Err(overflow());
        }
        let scale = (SIGNIFICANT_MIN - decimal.trunc() as i64).max(places).clamp(0, DISPLAY_SCALE_MAX);
        if decimal < -(scale as f64) - 1.0 {
            return Ok(Numeric::zero().round(scale));
        }
        let inner = scale + GUARD + (decimal.trunc() as i64).max(0) + (exponent.whole_digits() as i64).max(0);
        let ln = ln_at(&magnitude, inner);
        let (power_digits, power_scale) = parts(power);
        let product = ln * &*power_digits / pow10(power_scale as u64);
        let result = rounded(&exp_fixed(&product, inner), inner, scale)?;
        let odd = exponent.rem(&Numeric::from(2_i64)).is_ok_and(|rest| !rest.is_zero());
        Ok(if self.signum() < 0 && odd { result.neg() } else { result })
    }

    /// An integral power with `out` digits after the point.
    fn power_int(&self, n: i32, out: i64) -> Result<Numeric> {
        let Numeric::Finite(base) = self else { return Ok(Numeric::NaN) };
        let (digits, scale) = parts(base);
        let out = out.min(DISPLAY_SCALE_MAX);
        if n == 0 {
            return Ok(Numeric::from(1_i64).round(out));
        }
        if digits.is_zero() {
            return Ok(Numeric::zero().round(out));
        }
        let decimal = ln_estimate(base) * f64::from(n) * std::f64::consts::LOG10_E;
        if decimal > 131_073.0 {
            return Err(overflow());
        }
        if decimal < -(out as f64) - 2.0 {
            return Ok(Numeric::zero().round(out));
        }
        let times = n.unsigned_abs();
        // Keep this many significant digits while squaring.
        let keep = (decimal.abs() as i64 + out + 2 * GUARD + 12) as u64;
        let (mut result, mut result_scale) = (BigInt::one(), 0_i64);
        let (mut square, mut square_scale) = (digits.into_owned(), scale);
        let shorten = |value: &mut BigInt, scale: &mut i64| {
            let excess = digit_count(value).saturating_sub(keep);
            if excess > keep {
                *value = div_round(value, &pow10(excess));
                *scale -= excess as i64;
            }
        };
        let mut left = times;
        while left > 0 {
            if left & 1 == 1 {
                result *= &square;
                result_scale += square_scale;
                shorten(&mut result, &mut result_scale);
            }
            left >>= 1;
            if left > 0 {
                square = &square * &square;
                square_scale *= 2;
                shorten(&mut square, &mut square_scale);
            }
        }
        if n < 0 {
            // 1 / (result / 10^result_scale), with `out` digits.
            let shift = out + result_scale + 1;
            let quotient = if shift >= 0 { pow10(shift as u64) / &result } else { BigInt::zero() };
            return rounded(&quotient, out + 1, out);
        }
        if result_scale < 0 {
            result *= pow10(result_scale.unsigned_abs());
            result_scale = 0;
        }
        rounded(&result, result_scale, out)
    }

    /// Powers with NaN and infinities, as IEEE 754 has them.
    fn power_special(&self, exponent: &Numeric) -> Result<Numeric> {
        let one = Numeric::from(1_i64);
        if self.is_nan() {
            return Ok(if exponent.is_zero() { one } else { Numeric::NaN });
        }
        if exponent.is_nan() {
            return Ok(if *self == one { one } else { Numeric::NaN });
        }
        if self.is_zero() && exponent.signum() < 0 {
            return Err(invalid_power("zero raised to a negative power is undefined"));
        }
        if exponent.is_zero() || *self == one {
            return Ok(one);
        }
        if let Numeric::PosInf | Numeric::NegInf = exponent {
            let size = self.abs().cmp(&one);
            return Ok(match (size, exponent.signum() > 0) {
                (std::cmp::Ordering::Equal, _) => one,
                (std::cmp::Ordering::Greater, true) | (std::cmp::Ordering::Less, false) => Numeric::PosInf,
                _ => Numeric::zero(),
            });
        }
        if exponent.signum() < 0 {
            return Ok(Numeric::zero());
        }
        if matches!(self, Numeric::NegInf) {
            if exponent.trim_scale().scale() != 0 {
                return Err(invalid_power(
                    "a negative number raised to a non-integer power yields a complex result",
                ));
            }
            let odd = exponent.rem(&Numeric::from(2_i64)).is_ok_and(|rest| !rest.is_zero());
            return Ok(if odd { Numeric::NegInf } else { Numeric::PosInf });
        }
        Ok(Numeric::PosInf)
    }
}

/// ln |x| as a float.
fn ln_estimate(value: &BigDecimal) -> f64 {
    let (digits, scale) = parts(value);
    let digits = digits.abs();
    let count = digit_count(&digits) as i64;
    let keep = count.min(17);
    let head = (&digits / pow10((count - keep) as u64)).to_f64().unwrap_or(1.0);
    head.ln() + (count - keep - scale) as f64 * std::f64::consts::LN_10
}
