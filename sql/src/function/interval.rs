//! Arithmetic of intervals, and of moments with intervals.

use super::define::{Args, f};
use super::math::division_by_zero;
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::calendar::{self, DAY, Fields};
use crate::types::{Datum, Interval, TimeZone, Type};

macro_rules! operators {
    ($($symbol:literal ($($arg:ident),*) -> $ret:ident = $kernel:expr;)*) => {
        &[$(f($symbol, &[$(Type::$arg),*], Type::$ret, $kernel)),*]
    };
}

pub(super) static OPERATORS: &[Function] = operators! {
    "+"(Interval, Interval) -> Interval = |_, a| add(a.interval(0)?, a.interval(1)?).map(Datum::Interval);
    "-"(Interval, Interval) -> Interval = |_, a| sub(a.interval(0)?, a.interval(1)?).map(Datum::Interval);
    "-"(Interval) -> Interval = |_, a| sub(Interval::default(), a.interval(0)?).map(Datum::Interval);
    "*"(Interval, Float8) -> Interval = |_, a| scale(a.interval(0)?, |v| v * a.float8(1).unwrap_or(f64::NAN)).map(Datum::Interval);
    "*"(Float8, Interval) -> Interval = |_, a| scale(a.interval(1)?, |v| v * a.float8(0).unwrap_or(f64::NAN)).map(Datum::Interval);
    "/"(Interval, Float8) -> Interval = |_, a| divide(a.interval(0)?, a.float8(1)?).map(Datum::Interval);
    "+"(Timestamp, Interval) -> Timestamp = |_, a| timestamp_plus(a.timestamp(0)?, a.interval(1)?).map(Datum::Timestamp);
    "+"(Interval, Timestamp) -> Timestamp = |_, a| timestamp_plus(a.timestamp(1)?, a.interval(0)?).map(Datum::Timestamp);
    "-"(Timestamp, Interval) -> Timestamp = |_, a| timestamp_plus(a.timestamp(0)?, negate(a.interval(1)?)?).map(Datum::Timestamp);
    "-"(Timestamp, Timestamp) -> Interval = |_, a| difference(a.timestamp(0)?, a.timestamp(1)?).map(Datum::Interval);
    "-"(Timestamptz, Timestamptz) -> Interval = |_, a| difference(a.timestamptz(0)?, a.timestamptz(1)?).map(Datum::Interval);
    "+"(Date, Interval) -> Timestamp = |_, a| timestamp_plus(calendar::date_to_timestamp(a.date(0)?)?, a.interval(1)?).map(Datum::Timestamp);
    "+"(Interval, Date) -> Timestamp = |_, a| timestamp_plus(calendar::date_to_timestamp(a.date(1)?)?, a.interval(0)?).map(Datum::Timestamp);
    "-"(Date, Interval) -> Timestamp = |_, a| timestamp_plus(calendar::date_to_timestamp(a.date(0)?)?, negate(a.interval(1)?)?).map(Datum::Timestamp);
    "+"(Date, Int4) -> Date = |_, a| date_plus(a.date(0)?, i64::from(a.int4(1)?)).map(Datum::Date);
    "+"(Int4, Date) -> Date = |_, a| date_plus(a.date(1)?, i64::from(a.int4(0)?)).map(Datum::Date);
    "-"(Date, Int4) -> Date = |_, a| date_plus(a.date(0)?, -i64::from(a.int4(1)?)).map(Datum::Date);
    "-"(Date, Date) -> Int4 = date_minus_date;
    "+"(Date, Time) -> Timestamp = |_, a| at_time(a.date(0)?, a.time(1)?).map(Datum::Timestamp);
    "+"(Time, Date) -> Timestamp = |_, a| at_time(a.date(1)?, a.time(0)?).map(Datum::Timestamp);
    "-"(Time, Time) -> Interval = |_, a| Ok(micros(a.time(0)? - a.time(1)?));
    "+"(Time, Interval) -> Time = |_, a| Ok(time_plus(a.time(0)?, a.interval(1)?.micros));
    "+"(Interval, Time) -> Time = |_, a| Ok(time_plus(a.time(1)?, a.interval(0)?.micros));
    "-"(Time, Interval) -> Time = |_, a| Ok(time_plus(a.time(0)?, -(a.interval(1)?.micros % DAY)));
};

/// Those that depend on the session's time zone: days and months are counted on its calendar.
pub(super) static ZONED_OPERATORS: &[Function] = &[
    f("+", &[Type::Timestamptz, Type::Interval], Type::Timestamptz, |c, a| {
        timestamptz_plus(a.timestamptz(0)?, a.interval(1)?, &c.time_zone).map(Datum::Timestamptz)
    })
    .stable(),
    f("+", &[Type::Interval, Type::Timestamptz], Type::Timestamptz, |c, a| {
        timestamptz_plus(a.timestamptz(1)?, a.interval(0)?, &c.time_zone).map(Datum::Timestamptz)
    })
    .stable(),
    f("-", &[Type::Timestamptz, Type::Interval], Type::Timestamptz, |c, a| {
        timestamptz_plus(a.timestamptz(0)?, negate(a.interval(1)?)?, &c.time_zone).map(Datum::Timestamptz)
    })
    .stable(),
];

pub(super) static FUNCTIONS: &[Function] = operators! {
    "justify_hours"(Interval) -> Interval = |_, a| justify_hours(a.interval(0)?).map(Datum::Interval);
    "justify_days"(Interval) -> Interval = |_, a| justify_days(a.interval(0)?).map(Datum::Interval);
    "justify_interval"(Interval) -> Interval = |_, a| justify(a.interval(0)?).map(Datum::Interval);
    "make_interval"() -> Interval = make;
    "make_interval"(Int4) -> Interval = make;
    "make_interval"(Int4, Int4) -> Interval = make;
    "make_interval"(Int4, Int4, Int4) -> Interval = make;
    "make_interval"(Int4, Int4, Int4, Int4) -> Interval = make;
    "make_interval"(Int4, Int4, Int4, Int4, Int4) -> Interval = make;
    "make_interval"(Int4, Int4, Int4, Int4, Int4, Int4) -> Interval = make;
    "make_interval"(Int4, Int4, Int4, Int4, Int4, Int4, Float8) -> Interval = make;
};

fn micros(micros: i64) -> Datum {
    Datum::Interval(Interval { micros, ..Interval::default() })
}

fn out_of_range() -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "interval out of range")
}

/// The sum, field by field.
pub(super) fn add(a: Interval, b: Interval) -> Result<Interval> {
    let sum = || {
        Some(Interval {
            months: a.months.checked_add(b.months)?,
            days: a.days.checked_add(b.days)?,
            micros: a.micros.checked_add(b.micros)?,
        })
    };
    sum().ok_or_else(out_of_range)
}

/// The difference, field by field.
pub(super) fn sub(a: Interval, b: Interval) -> Result<Interval> {
    let difference = || {
        Some(Interval {
            months: a.months.checked_sub(b.months)?,
            days: a.days.checked_sub(b.days)?,
            micros: a.micros.checked_sub(b.micros)?,
        })
    };
    difference().ok_or_else(out_of_range)
}

fn negate(a: Interval) -> Result<Interval> {
    sub(Interval::default(), a)
}

/// The quotient by a number.
pub(super) fn divide(a: Interval, divisor: f64) -> Result<Interval> {
    if divisor == 0.0 {
        return Err(division_by_zero());
    }
    scale(a, |v| v / divisor)
}

/// Multiplies or divides: the fraction of months goes into days of a month of 30, that of days into time.
fn scale(a: Interval, by: impl Fn(f64) -> f64) -> Result<Interval> {
    let int = |v: f64| {
        let fits = v.is_finite() && (-2_147_483_648.0..2_147_483_648.0).contains(&v);
        if fits { Ok(v as i32) } else { Err(out_of_range()) }
    };
    // Rounded to microseconds, so that decimal fractions don't leave crumbs.
    let smooth = |v: f64| (v * 1e6).round_ties_even() / 1e6;
    let months = int(by(f64::from(a.months)))?;
    let mut days = int(by(f64::from(a.days)))?;
    let month_days = smooth((by(f64::from(a.months)) - f64::from(months)) * 30.0);
    let mut seconds =
        smooth((by(f64::from(a.days)) - f64::from(days) + month_days - month_days.trunc()) * 86_400.0);
    if seconds.abs() >= 86_400.0 {
        let whole = (seconds / 86_400.0).trunc();
        days = days.checked_add(whole as i32).ok_or_else(out_of_range)?;
        seconds -= whole * 86_400.0;
    }
    days = days.checked_add(month_days as i32).ok_or_else(out_of_range)?;
    let time = (by(a.micros as f64) + seconds * 1e6).round_ties_even();
    if !time.is_finite() || !(-9.223_372_036_854_775e18..9.223_372_036_854_775e18).contains(&time) {
        return Err(out_of_range());
    }
    Ok(Interval { months, days, micros: time as i64 })
}

/// Adds months on the calendar: the 31st becomes the last day of a shorter month.
fn plus_months(local: i64, months: i32) -> Option<i64> {
    if months == 0 {
        return Some(local);
    }
    let fields = calendar::fields(local);
    let total = i64::from(fields.year) * 12 + i64::from(fields.month) - 1 + i64::from(months);
    let year = i32::try_from(total.div_euclid(12)).ok()?;
    let month = total.rem_euclid(12) as i32 + 1;
    let day = fields.day.min(calendar::days_in_month(year, month));
    Fields { year, month, day, ..fields }.timestamp()
}

/// A local time plus an interval.
pub(crate) fn timestamp_plus(local: i64, interval: Interval) -> Result<i64> {
    if calendar::is_infinite(local) {
        return Ok(local);
    }
    let sum = || {
        plus_months(local, interval.months)?
            .checked_add(i64::from(interval.days).checked_mul(DAY)?)
            .filter(|t| calendar::in_range(*t))?
            .checked_add(interval.micros)
    };
    calendar::checked(sum())
}

/// An instant plus an interval: months and days move the local time, the rest is time that passes.
pub(crate) fn timestamptz_plus(utc: i64, interval: Interval, zone: &TimeZone) -> Result<i64> {
    if calendar::is_infinite(utc) {
        return Ok(utc);
    }
    let sum = || {
        let mut moment = utc;
        if interval.months != 0 {
            moment = zone.to_utc(plus_months(zone.to_local(moment), interval.months)?);
        }
        if interval.days != 0 {
            let local = zone.to_local(moment).checked_add(i64::from(interval.days).checked_mul(DAY)?)?;
            moment = zone.to_utc(local);
        }
        moment.checked_add(interval.micros)
    };
    calendar::checked(sum())
}

fn difference(a: i64, b: i64) -> Result<Interval> {
    if calendar::is_infinite(a) || calendar::is_infinite(b) {
        return Err(SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "cannot subtract infinite timestamps"));
    }
    let micros = a.checked_sub(b).ok_or_else(out_of_range)?;
    justify_hours(Interval { micros, ..Interval::default() })
}

fn date_plus(date: i32, days: i64) -> Result<i32> {
    if date == i32::MIN || date == i32::MAX {
        return Ok(date);
    }
    let sum = i64::from(date) + days;
    let range = i64::from(calendar::DATE_MIN)..i64::from(calendar::DATE_END);
    if range.contains(&sum) { Ok(sum as i32) } else { Err(calendar::date_out_of_range()) }
}

fn date_minus_date(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (x, y) = (a.date(0)?, a.date(1)?);
    if [x, y].iter().any(|d| *d == i32::MIN || *d == i32::MAX) {
        return Err(SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "cannot subtract infinite dates"));
    }
    Ok(Datum::Int4(x.wrapping_sub(y)))
}

fn at_time(date: i32, time: i64) -> Result<i64> {
    let midnight = calendar::date_to_timestamp(date)?;
    if calendar::is_infinite(midnight) {
        return Ok(midnight);
    }
    calendar::checked(midnight.checked_add(time))
}

fn time_plus(time: i64, micros: i64) -> Datum {
    Datum::Time((time + micros % DAY).rem_euclid(DAY))
}

/// Moves whole days out of the time, and makes both of one sign.
fn justify_hours(mut a: Interval) -> Result<Interval> {
    a.days = i32::try_from(a.micros / DAY)
        .ok()
        .and_then(|days| a.days.checked_add(days))
        .ok_or_else(out_of_range)?;
    a.micros %= DAY;
    if a.days > 0 && a.micros < 0 {
        a.micros += DAY;
        a.days -= 1;
    } else if a.days < 0 && a.micros > 0 {
        a.micros -= DAY;
        a.days += 1;
    }
    Ok(a)
}

/// Moves months of 30 days out of the days, and makes both of one sign.
fn justify_days(mut a: Interval) -> Result<Interval> {
    a.months = a.months.checked_add(a.days / 30).ok_or_else(out_of_range)?;
    a.days %= 30;
    if a.months > 0 && a.days < 0 {
        a.days += 30;
        a.months -= 1;
    } else if a.months < 0 && a.days > 0 {
        a.days -= 30;
        a.months += 1;
    }
    Ok(a)
}

fn justify(a: Interval) -> Result<Interval> {
    let mut out = justify_days(justify_hours(a)?)?;
    // All three fields get the sign of the most significant one.
    if out.months > 0 && (out.days < 0 || (out.days == 0 && out.micros < 0)) {
        out.days += 30;
        out.months -= 1;
    } else if out.months < 0 && (out.days > 0 || (out.days == 0 && out.micros > 0)) {
        out.days -= 30;
        out.months += 1;
    }
    if out.days > 0 && out.micros < 0 {
        out.micros += DAY;
        out.days -= 1;
    } else if out.days < 0 && out.micros > 0 {
        out.micros -= DAY;
        out.days += 1;
    }
    Ok(out)
}

/// Years, months, weeks, days, hours, minutes, seconds, as many as are given.
fn make(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let field = |i: usize| if i < a.len() { a.int4(i).map(i64::from) } else { Ok(0) };
    let seconds = if a.len() > 6 { a.float8(6)? } else { 0.0 };
    if !seconds.is_finite() {
        return Err(out_of_range());
    }
    let months = i32::try_from(field(0)? * 12 + field(1)?).map_err(|_| out_of_range())?;
    let days = i32::try_from(field(2)? * 7 + field(3)?).map_err(|_| out_of_range())?;
    let whole = field(4)? * calendar::HOUR + field(5)? * calendar::MINUTE;
    let micros = whole.checked_add((seconds * 1e6).round_ties_even() as i64).ok_or_else(out_of_range)?;
    Ok(Datum::Interval(Interval { months, days, micros }))
}
