//! Statistical aggregates (PostgreSQL 15, table 9.60).

use super::define::{Args, numeric};
use super::math::float_overflow;
use super::{Accumulator, Aggregate};
use crate::error::Result;
use crate::types::{Datum, Numeric, Type};

/// Which statistic of one variable.
#[derive(Clone, Copy, Debug)]
struct Spread {
    /// Divide by n - 1 instead of n.
    sample: bool,
    /// The square root of the variance.
    deviation: bool,
}

const VAR_POP: Spread = Spread { sample: false, deviation: false };
const VAR_SAMP: Spread = Spread { sample: true, deviation: false };
const STDDEV_POP: Spread = Spread { sample: false, deviation: true };
const STDDEV_SAMP: Spread = Spread { sample: true, deviation: true };

macro_rules! spreads {
    ($($name:literal $which:ident;)*) => {
        &[$(
            spread($name, &[Type::Int2], Type::Numeric, || Box::new(ExactSpread::new($which))),
            spread($name, &[Type::Int4], Type::Numeric, || Box::new(ExactSpread::new($which))),
            spread($name, &[Type::Int8], Type::Numeric, || Box::new(ExactSpread::new($which))),
            spread($name, &[Type::Numeric], Type::Numeric, || Box::new(ExactSpread::new($which))),
            spread($name, &[Type::Float4], Type::Float8, || Box::new(FloatSpread::new($which))),
            spread($name, &[Type::Float8], Type::Float8, || Box::new(FloatSpread::new($which))),
        )*]
    };
}

const fn spread(
    name: &'static str,
    args: &'static [Type],
    returns: Type,
    new: fn() -> Box<dyn Accumulator>,
) -> Aggregate {
    Aggregate { name, args, returns, strict: true, new }
}

pub(super) static SPREADS: &[Aggregate] = spreads! {
    "var_pop" VAR_POP;
    "var_samp" VAR_SAMP;
    "variance" VAR_SAMP;
    "stddev_pop" STDDEV_POP;
    "stddev_samp" STDDEV_SAMP;
    "stddev" STDDEV_SAMP;
};

macro_rules! regressions {
    ($($name:literal $ret:ident $finish:expr;)*) => {
        &[$(spread($name, &[Type::Float8, Type::Float8], Type::$ret, || {
            Box::new(Regression { finish: $finish, ..Regression::default() })
        })),*]
    };
}

/// Of pairs `(y, x)`.
pub(super) static REGRESSIONS: &[Aggregate] = regressions! {
    "covar_pop" Float8 |r| r.at_least(1, r.sxy / r.n);
    "covar_samp" Float8 |r| r.at_least(2, r.sxy / (r.n - 1.0));
    "corr" Float8 |r| if r.sxx == 0.0 || r.syy == 0.0 { Datum::Null } else {
        r.at_least(1, r.sxy / (r.sxx * r.syy).sqrt())
    };
    "regr_count" Int8 |r| Datum::Int8(r.n as i64);
    "regr_avgx" Float8 |r| r.at_least(1, r.sx / r.n);
    "regr_avgy" Float8 |r| r.at_least(1, r.sy / r.n);
    "regr_sxx" Float8 |r| r.at_least(1, r.sxx);
    "regr_syy" Float8 |r| r.at_least(1, r.syy);
    "regr_sxy" Float8 |r| r.at_least(1, r.sxy);
    "regr_slope" Float8 |r| if r.sxx == 0.0 { Datum::Null } else { r.at_least(1, r.sxy / r.sxx) };
    "regr_intercept" Float8 |r| if r.sxx == 0.0 { Datum::Null } else {
        r.at_least(1, (r.sy - r.sx * r.sxy / r.sxx) / r.n)
    };
    "regr_r2" Float8 |r| if r.sxx == 0.0 { Datum::Null } else if r.syy == 0.0 {
        r.at_least(1, 1.0)
    } else {
        r.at_least(1, (r.sxy * r.sxy) / (r.sxx * r.syy))
    };
};

/// Over integers and numerics: exact sums.
#[derive(Debug)]
struct ExactSpread {
    which: Spread,
    count: i64,
    sum: Numeric,
    squares: Numeric,
}

impl ExactSpread {
    fn new(which: Spread) -> Self {
        Self { which, count: 0, sum: Numeric::zero(), squares: Numeric::zero() }
    }
}

fn exact(args: &[Datum]) -> Result<Numeric> {
    match args.first() {
        Some(Datum::Numeric(value)) => Ok((**value).clone()),
        _ => args.int(0).map(Numeric::from),
    }
}

impl Accumulator for ExactSpread {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let value = exact(args)?;
        self.count += 1;
        self.squares = self.squares.add(&value.mul(&value)?)?;
        self.sum = self.sum.add(&value)?;
        Ok(())
    }

    fn retract(&mut self, args: &[Datum]) -> Result<bool> {
        let value = exact(args)?;
        // The sums' scales must not be this value's alone.
        if value.scale() > 0 || !matches!((&value, &self.sum), (Numeric::Finite(_), Numeric::Finite(_))) {
            return Ok(false);
        }
        self.count -= 1;
        self.squares = self.squares.sub(&value.mul(&value)?)?;
        self.sum = self.sum.sub(&value)?;
        Ok(true)
    }

    fn finish(&self) -> Result<Datum> {
        if self.count < 1 + i64::from(self.which.sample) {
            return Ok(Datum::Null);
        }
        if !matches!(self.sum, Numeric::Finite(_)) {
            return Ok(numeric(Numeric::NaN));
        }
        let n = Numeric::from(self.count);
        // n Σx² - (Σx)²
        let numerator = n.mul(&self.squares)?.sub(&self.sum.mul(&self.sum)?)?;
        if numerator.signum() <= 0 {
            return Ok(numeric(Numeric::zero()));
        }
        let denominator = n.mul(&Numeric::from(self.count - i64::from(self.which.sample)))?;
        let variance = numerator.div(&denominator)?;
        let result = if self.which.deviation { variance.sqrt_at(variance.scale())? } else { variance };
        Ok(numeric(result))
    }
}

/// Over floats: the algorithm of Youngs and Cramer, which doesn't cancel.
#[derive(Debug)]
struct FloatSpread {
    which: Spread,
    n: f64,
    sx: f64,
    sxx: f64,
}

impl FloatSpread {
    fn new(which: Spread) -> Self {
        Self { which, n: 0.0, sx: 0.0, sxx: 0.0 }
    }
}

impl Accumulator for FloatSpread {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let x = args.float(0)?;
        let before = self.sx;
        self.n += 1.0;
        self.sx += x;
        if self.n > 1.0 {
            let deviation = x * self.n - self.sx;
            self.sxx += deviation * deviation / (self.n * (self.n - 1.0));
            if self.sx.is_infinite() || self.sxx.is_infinite() {
                if !before.is_infinite() && !x.is_infinite() {
                    return Err(float_overflow());
                }
                self.sxx = f64::NAN;
            }
        } else if !x.is_finite() {
            self.sxx = f64::NAN;
        }
        Ok(())
    }

    fn finish(&self) -> Result<Datum> {
        let divisor = if self.which.sample { self.n - 1.0 } else { self.n };
        if divisor <= 0.0 {
            return Ok(Datum::Null);
        }
        let variance = self.sxx / divisor;
        Ok(Datum::Float8(if self.which.deviation { variance.sqrt() } else { variance }))
    }
}

/// Of two variables.
struct Regression {
    n: f64,
    sx: f64,
    sxx: f64,
    sy: f64,
    syy: f64,
    sxy: f64,
    finish: fn(&Regression) -> Datum,
}

impl Default for Regression {
    fn default() -> Self {
        Self { n: 0.0, sx: 0.0, sxx: 0.0, sy: 0.0, syy: 0.0, sxy: 0.0, finish: |_| Datum::Null }
    }
}

impl std::fmt::Debug for Regression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Regression({} pairs)", self.n)
    }
}

impl Regression {
    fn at_least(&self, count: u8, value: f64) -> Datum {
        if self.n < f64::from(count) { Datum::Null } else { Datum::Float8(value) }
    }
}

impl Accumulator for Regression {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let (y, x) = (args.float8(0)?, args.float8(1)?);
        self.n += 1.0;
        self.sx += x;
        self.sy += y;
        if self.n > 1.0 {
            let (dx, dy) = (x * self.n - self.sx, y * self.n - self.sy);
            let scale = 1.0 / (self.n * (self.n - 1.0));
            self.sxx += dx * dx * scale;
            self.syy += dy * dy * scale;
            self.sxy += dx * dy * scale;
            let sums = [self.sxx, self.syy, self.sxy, self.sx, self.sy];
            if sums.iter().any(|sum| sum.is_infinite()) && x.is_finite() && y.is_finite() {
                return Err(float_overflow());
            }
        } else {
            if !x.is_finite() {
                (self.sxx, self.sxy) = (f64::NAN, f64::NAN);
            }
            if !y.is_finite() {
                (self.syy, self.sxy) = (f64::NAN, f64::NAN);
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<Datum> {
        Ok((self.finish)(self))
    }
}
