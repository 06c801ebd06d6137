//! The clock, building dates and times, ages and time zones. `extract` is in [`super::extract`], arithmetic in
//! [`super::interval`].

use super::define::{Args, f};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::calendar::{self, DAY, HOUR, MINUTE, UNIX_EPOCH_MICROS};
use crate::types::{ColumnType, Datum, Interval, TimeZone, Type, coerce};

pub(super) static FUNCTIONS: &[Function] = &[
    f("now", &[], Type::Timestamptz, |c, _| Ok(Datum::Timestamptz(c.transaction_time))).stable(),
    f("transaction_timestamp", &[], Type::Timestamptz, |c, _| Ok(Datum::Timestamptz(c.transaction_time)))
        .stable(),
    f("statement_timestamp", &[], Type::Timestamptz, |c, _| Ok(Datum::Timestamptz(c.statement_time)))
        .stable(),
    f("clock_timestamp", &[], Type::Timestamptz, |c, _| {
        Ok(Datum::Timestamptz(c.seams.clock.wall_ms() as i64 * 1000 - UNIX_EPOCH_MICROS))
    })
    .volatile(),
    f("timeofday", &[], Type::Text, |c, _| {
        let now = c.seams.clock.wall_ms() as i64 * 1000 - UNIX_EPOCH_MICROS;
        super::to_char::zoned(now, "Dy Mon DD HH24:MI:SS.US YYYY TZ", &c.time_zone).map(Datum::text)
    })
    .volatile(),
    // SQL's keywords; the binder calls them with their precision, where there is one.
    f("current_timestamp", &[], Type::Timestamptz, |c, _| Ok(Datum::Timestamptz(c.transaction_time)))
        .stable(),
    f("current_timestamp", &[Type::Int4], Type::Timestamptz, |c, a| {
        precise(Datum::Timestamptz(c.transaction_time), Type::Timestamptz, a)
    })
    .stable(),
    f("localtimestamp", &[], Type::Timestamp, |c, _| Ok(Datum::Timestamp(local_now(c)))).stable(),
    f("localtimestamp", &[Type::Int4], Type::Timestamp, |c, a| {
        precise(Datum::Timestamp(local_now(c)), Type::Timestamp, a)
    })
    .stable(),
    f("localtime", &[], Type::Time, |c, _| Ok(Datum::Time(local_now(c).rem_euclid(DAY)))).stable(),
    f("localtime", &[Type::Int4], Type::Time, |c, a| {
        precise(Datum::Time(local_now(c).rem_euclid(DAY)), Type::Time, a)
    })
    .stable(),
    f("current_date", &[], Type::Date, |c, _| Ok(Datum::Date(calendar::timestamp_to_date(local_now(c)))))
        .stable(),
    f("age", &[Type::Timestamp, Type::Timestamp], Type::Interval, |_, a| {
        age(a.timestamp(0)?, a.timestamp(1)?)
    }),
    f("age", &[Type::Timestamptz, Type::Timestamptz], Type::Interval, |c, a| {
        age(c.time_zone.to_local(a.timestamptz(0)?), c.time_zone.to_local(a.timestamptz(1)?))
    })
    .stable(),
    f("age", &[Type::Timestamp], Type::Interval, |c, a| age(today(c), a.timestamp(0)?)).stable(),
    f("age", &[Type::Timestamptz], Type::Interval, |c, a| {
        age(today(c), c.time_zone.to_local(a.timestamptz(0)?))
    })
    .stable(),
    f("make_date", &[Type::Int4, Type::Int4, Type::Int4], Type::Date, make_date),
    f("make_time", &[Type::Int4, Type::Int4, Type::Float8], Type::Time, |_, a| {
        clock(a.int4(0)?, a.int4(1)?, a.float8(2)?, "time").map(Datum::Time)
    }),
    f("make_timestamp", MOMENT, Type::Timestamp, |_, a| make_timestamp(a).map(Datum::Timestamp)),
    f("make_timestamptz", MOMENT, Type::Timestamptz, |c, a| instant(c.time_zone.to_utc(make_timestamp(a)?)))
        .stable(),
    f(
        "make_timestamptz",
        &[Type::Int4, Type::Int4, Type::Int4, Type::Int4, Type::Int4, Type::Float8, Type::Text],
        Type::Timestamptz,
        |_, a| instant(zone(a.text(6)?)?.to_utc(make_timestamp(a)?)),
    ),
    f("to_timestamp", &[Type::Float8], Type::Timestamptz, from_epoch),
    f("isfinite", &[Type::Date], Type::Bool, |_, a| {
        Ok(Datum::Bool(!matches!(a.date(0)?, i32::MIN | i32::MAX)))
    }),
    f("isfinite", &[Type::Timestamp], Type::Bool, |_, a| {
        Ok(Datum::Bool(!calendar::is_infinite(a.timestamp(0)?)))
    }),
    f("isfinite", &[Type::Timestamptz], Type::Bool, |_, a| {
        Ok(Datum::Bool(!calendar::is_infinite(a.timestamptz(0)?)))
    }),
    f("isfinite", &[Type::Interval], Type::Bool, |_, _| Ok(Datum::Bool(true))),
    // AT TIME ZONE
    f("timezone", &[Type::Text, Type::Timestamp], Type::Timestamptz, |_, a| {
        instant(zone(a.text(0)?)?.to_utc(a.timestamp(1)?))
    }),
    f("timezone", &[Type::Text, Type::Timestamptz], Type::Timestamp, |_, a| {
        Ok(Datum::Timestamp(zone(a.text(0)?)?.to_local(a.timestamptz(1)?)))
    }),
    f("timezone", &[Type::Interval, Type::Timestamp], Type::Timestamptz, |_, a| {
        instant(offset(a.interval(0)?)?.to_utc(a.timestamp(1)?))
    }),
    f("timezone", &[Type::Interval, Type::Timestamptz], Type::Timestamp, |_, a| {
        Ok(Datum::Timestamp(offset(a.interval(0)?)?.to_local(a.timestamptz(1)?)))
    }),
    f("date_bin", &[Type::Interval, Type::Timestamp, Type::Timestamp], Type::Timestamp, |_, a| {
        date_bin(a.interval(0)?, a.timestamp(1)?, a.timestamp(2)?).map(Datum::Timestamp)
    }),
    f("date_bin", &[Type::Interval, Type::Timestamptz, Type::Timestamptz], Type::Timestamptz, |_, a| {
        date_bin(a.interval(0)?, a.timestamptz(1)?, a.timestamptz(2)?).map(Datum::Timestamptz)
    }),
    f("overlaps", &[Type::Timestamp; 4], Type::Bool, overlaps).lenient(),
    f("overlaps", &[Type::Timestamptz; 4], Type::Bool, overlaps).lenient(),
    f("overlaps", &[Type::Time; 4], Type::Bool, overlaps).lenient(),
];

const MOMENT: &[Type] = &[Type::Int4, Type::Int4, Type::Int4, Type::Int4, Type::Int4, Type::Float8];

fn local_now(ctx: &EvalContext) -> i64 {
    ctx.time_zone.to_local(ctx.transaction_time)
}

fn today(ctx: &EvalContext) -> i64 {
    let now = local_now(ctx);
    now - now.rem_euclid(DAY)
}

fn precise(datum: Datum, ty: Type, a: &[Datum]) -> Result<Datum> {
    coerce(datum, ColumnType { ty, typmod: a.int4(0)?.clamp(0, 6) }, true)
}

/// The zone that `AT TIME ZONE` names.
pub(super) fn zone(name: &str) -> Result<TimeZone> {
    TimeZone::by_name(name).ok_or_else(|| {
        SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("time zone \"{name}\" not recognized"))
    })
}

fn offset(v: Interval) -> Result<TimeZone> {
    if v.months != 0 || v.days != 0 {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!(
                "interval time zone \"{}\" must not include months or days",
                crate::types::io::format_interval(v)
            ),
        ));
    }
    Ok(TimeZone::Fixed((v.micros / calendar::SECOND) as i32))
}

fn instant(utc: i64) -> Result<Datum> {
    if calendar::is_infinite(utc) || calendar::in_range(utc) {
        Ok(Datum::Timestamptz(utc))
    } else {
        Err(calendar::timestamp_out_of_range())
    }
}

fn field_overflow(what: String) -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, what)
}

/// A date with these fields as a user counts them: negative years are BC.
fn civil(year: i32, month: i32, day: i32) -> Result<i32> {
    let error = || field_overflow(format!("date field value out of range: {year}-{month:02}-{day:02}"));
    let astronomical = if year < 0 { year.checked_add(1).ok_or_else(error)? } else { year };
    let valid = year != 0
        && (1..=12).contains(&month)
        && day >= 1
        && day <= calendar::days_in_month(astronomical, month);
    if !valid {
        return Err(error());
    }
    calendar::date(i64::from(astronomical), month, day)
        .ok_or_else(|| field_overflow(format!("date out of range: {year}-{month:02}-{day:02}")))
}

fn make_date(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    civil(a.int4(0)?, a.int4(1)?, a.int4(2)?).map(Datum::Date)
}

fn clock(hour: i32, minute: i32, second: f64, what: &str) -> Result<i64> {
    let micros = (second * 1e6).round_ties_even();
    let valid = (0..=24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..=60.0).contains(&second)
        && (hour < 24 || (minute == 0 && micros == 0.0));
    if !valid {
        return Err(field_overflow(format!(
            "{what} field value out of range: {hour}:{minute:02}:{}",
            padded_seconds(second)
        )));
    }
    Ok(i64::from(hour) * HOUR + i64::from(minute) * MINUTE + micros as i64)
}

fn padded_seconds(second: f64) -> String {
    let text = crate::types::io::format_f64(second);
    if (0.0..10.0).contains(&second) { format!("0{text}") } else { text }
}

fn make_timestamp(a: &[Datum]) -> Result<i64> {
    let days = civil(a.int4(0)?, a.int4(1)?, a.int4(2)?)?;
    let time = clock(a.int4(3)?, a.int4(4)?, a.float8(5)?, "time")?;
    let midnight = calendar::date_to_timestamp(days)?;
    calendar::checked(midnight.checked_add(time))
}

fn from_epoch(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let seconds = a.float8(0)?;
    if seconds.is_nan() {
        return Err(field_overflow("timestamp cannot be NaN".into()));
    }
    if seconds.is_infinite() {
        return Ok(Datum::Timestamptz(if seconds > 0.0 { i64::MAX } else { i64::MIN }));
    }
    let micros = ((seconds - 946_684_800.0) * 1e6).round_ties_even();
    let valid = (calendar::TIMESTAMP_MIN as f64..calendar::TIMESTAMP_END as f64).contains(&micros);
    if !valid {
        return Err(field_overflow(format!(
            "timestamp out of range: \"{}\"",
            crate::types::io::format_f64(seconds)
        )));
    }
    Ok(Datum::Timestamptz(micros as i64))
}

/// The difference in years, months, days and time, as one counts it on a calendar.
fn age(a: i64, b: i64) -> Result<Datum> {
    if calendar::is_infinite(a) || calendar::is_infinite(b) {
        return Err(field_overflow("timestamp out of range".into()));
    }
    let negative = a < b;
    let (late, early) = if negative { (b, a) } else { (a, b) };
    let (x, y) = (calendar::fields(late), calendar::fields(early));
    let mut micros = late.rem_euclid(DAY) - early.rem_euclid(DAY);
    let mut days = x.day - y.day;
    let mut months = (x.year - y.year) * 12 + x.month - y.month;
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    while days < 0 {
        // A month that is broken off has the length of the one in which the earlier moment lies.
        days += calendar::days_in_month(y.year, y.month);
        months -= 1;
    }
    let sign = if negative { -1 } else { 1 };
    Ok(Datum::Interval(Interval {
        months: sign * months,
        days: sign * days,
        micros: i64::from(sign) * micros,
    }))
}

fn date_bin(stride: Interval, moment: i64, origin: i64) -> Result<i64> {
    if calendar::is_infinite(moment) {
        return Ok(moment);
    }
    if calendar::is_infinite(origin) {
        return Err(field_overflow("origin out of range".into()));
    }
    if stride.months != 0 {
        return Err(SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            "timestamps cannot be binned into intervals containing months or years",
        ));
    }
    let width = i64::from(stride.days)
        .checked_mul(DAY)
        .and_then(|days| days.checked_add(stride.micros))
        .ok_or_else(|| field_overflow("interval out of range".into()))?;
    if width <= 0 {
        return Err(field_overflow("stride must be greater than zero".into()));
    }
    let distance = moment.checked_sub(origin).ok_or_else(calendar::timestamp_out_of_range)?;
    calendar::checked(origin.checked_add(distance - distance.rem_euclid(width)))
}

/// `(a, b) OVERLAPS (c, d)`: SQL's definition, with the ends in any order and NULLs for unknown ends.
fn overlaps(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    use crate::types::compare;
    let order = |start: &Datum, end: &Datum| -> Option<(Datum, Datum)> {
        match (start.is_null(), end.is_null()) {
            (true, true) => None,
            (true, false) => Some((end.clone(), Datum::Null)),
            (false, false) if compare(start, end).is_gt() => Some((end.clone(), start.clone())),
            _ => Some((start.clone(), end.clone())),
        }
    };
    let (Some((s1, e1)), Some((s2, e2))) = (order(&a[0], &a[1]), order(&a[2], &a[3])) else {
        return Ok(Datum::Null);
    };
    // The period that begins later must begin before the other ends.
    let (later, end) = match compare(&s1, &s2) {
        std::cmp::Ordering::Greater => (s1, e2),
        std::cmp::Ordering::Less => (s2, e1),
        std::cmp::Ordering::Equal if e1.is_null() || e2.is_null() => return Ok(Datum::Null),
        std::cmp::Ordering::Equal => return Ok(Datum::Bool(true)),
    };
    Ok(if end.is_null() { Datum::Null } else { Datum::Bool(compare(&later, &end).is_lt()) })
}
