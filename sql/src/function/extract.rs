//! `extract`, `date_part` and `date_trunc`.

use super::define::{Args, f, numeric};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::calendar::{self, DAY, Fields, HOUR, JULIAN_EPOCH, MINUTE, SECOND};
use crate::types::{Datum, Interval, Numeric, TimeZone, Type};

pub(super) static FUNCTIONS: &[Function] = &[
    f("extract", &[Type::Text, Type::Date], Type::Numeric, |c, a| exact(part(c, a)?)),
    f("extract", &[Type::Text, Type::Time], Type::Numeric, |c, a| exact(part(c, a)?)),
    f("extract", &[Type::Text, Type::Timestamp], Type::Numeric, |c, a| exact(part(c, a)?)),
    f("extract", &[Type::Text, Type::Timestamptz], Type::Numeric, |c, a| exact(part(c, a)?)).stable(),
    f("extract", &[Type::Text, Type::Interval], Type::Numeric, |c, a| exact(part(c, a)?)),
    f("date_part", &[Type::Text, Type::Date], Type::Float8, |c, a| float(part(c, a)?)),
    f("date_part", &[Type::Text, Type::Time], Type::Float8, |c, a| float(part(c, a)?)),
    f("date_part", &[Type::Text, Type::Timestamp], Type::Float8, |c, a| float(part(c, a)?)),
    f("date_part", &[Type::Text, Type::Timestamptz], Type::Float8, |c, a| float(part(c, a)?)).stable(),
    f("date_part", &[Type::Text, Type::Interval], Type::Float8, |c, a| float(part(c, a)?)),
    f("date_trunc", &[Type::Text, Type::Timestamp], Type::Timestamp, |_, a| {
        trunc_timestamp(a.text(0)?, a.timestamp(1)?, Type::Timestamp).map(Datum::Timestamp)
    }),
    f("date_trunc", &[Type::Text, Type::Timestamptz], Type::Timestamptz, |c, a| {
        trunc_zoned(a.text(0)?, a.timestamptz(1)?, &c.time_zone)
    })
    .stable(),
    f("date_trunc", &[Type::Text, Type::Timestamptz, Type::Text], Type::Timestamptz, |_, a| {
        trunc_zoned(a.text(0)?, a.timestamptz(1)?, &super::datetime::zone(a.text(2)?)?)
    }),
    f("date_trunc", &[Type::Text, Type::Interval], Type::Interval, |_, a| {
        trunc_interval(a.text(0)?, a.interval(1)?).map(Datum::Interval)
    }),
];

/// A field of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Microseconds,
    Milliseconds,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    Decade,
    Century,
    Millennium,
    Epoch,
    Julian,
    IsoYear,
    Dow,
    IsoDow,
    Doy,
    Zone,
    ZoneHour,
    ZoneMinute,
}

impl Unit {
    fn by_name(name: &str) -> Option<Unit> {
        Some(match name.to_ascii_lowercase().as_str() {
            "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecon" | "microsecond"
            | "microseconds" => Unit::Microseconds,
            "ms" | "msec" | "msecs" | "mseconds" | "millisecon" | "millisecond" | "milliseconds" => {
                Unit::Milliseconds
            }
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
            "d" | "day" | "days" => Unit::Day,
            "w" | "week" | "weeks" => Unit::Week,
            "mon" | "mons" | "month" | "months" => Unit::Month,
            "qtr" | "quarter" => Unit::Quarter,
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
            "dec" | "decs" | "decade" | "decades" => Unit::Decade,
            "c" | "cent" | "century" | "centuries" => Unit::Century,
            "mil" | "mils" | "millennia" | "millennium" => Unit::Millennium,
            "epoch" => Unit::Epoch,
            "j" | "jd" | "julian" => Unit::Julian,
            "isoyear" => Unit::IsoYear,
            "dow" => Unit::Dow,
            "isodow" => Unit::IsoDow,
            "doy" => Unit::Doy,
            "timezone" => Unit::Zone,
            "timezone_h" | "timezone_hour" => Unit::ZoneHour,
            "timezone_m" | "timezone_minute" => Unit::ZoneMinute,
            _ => return None,
        })
    }
}

fn not_recognized(unit: &str, ty: Type) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("unit \"{}\" not recognized for type {ty}", unit.to_ascii_lowercase()),
    )
}

fn not_supported(unit: &str, ty: Type) -> SqlError {
    SqlError::new(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("unit \"{}\" not supported for type {ty}", unit.to_ascii_lowercase()),
    )
}

fn exact(value: Option<Numeric>) -> Result<Datum> {
    Ok(value.map_or(Datum::Null, numeric))
}

fn float(value: Option<Numeric>) -> Result<Datum> {
    Ok(value.map_or(Datum::Null, |value| Datum::Float8(value.to_f64())))
}

fn part(ctx: &EvalContext, a: &[Datum]) -> Result<Option<Numeric>> {
    let name = a.text(0)?;
    let (value, ty) = match &a[1] {
        Datum::Date(v) => (calendar_part(name, Local::Date(*v))?, Type::Date),
        Datum::Timestamp(v) => (calendar_part(name, Local::Timestamp(*v))?, Type::Timestamp),
        Datum::Timestamptz(v) => (calendar_part(name, Local::Zoned(*v, &ctx.time_zone))?, Type::Timestamptz),
        Datum::Time(v) => (time_part(name, *v), Type::Time),
        _ => (interval_part(name, a.interval(1)?), Type::Interval),
    };
    match value {
        Part::Value(value) => Ok(Some(value)),
        Part::Nothing => Ok(None),
        Part::Unsupported if Unit::by_name(name).is_some() => Err(not_supported(name, ty)),
        Part::Unsupported => Err(not_recognized(name, ty)),
    }
}

enum Part {
    Value(Numeric),
    /// An infinite moment doesn't have such a field.
    Nothing,
    Unsupported,
}

fn whole(value: impl Into<i64>) -> Part {
    Part::Value(Numeric::from(value.into()))
}

fn scaled(value: i128, scale: u16) -> Part {
    Part::Value(Numeric::from_parts(value, scale))
}

enum Local<'a> {
    Date(i32),
    Timestamp(i64),
    Zoned(i64, &'a TimeZone),
}

/// Years as they are counted: there is no year 0.
fn counted(year: i32) -> i32 {
    if year > 0 { year } else { year - 1 }
}

fn decade(year: i32) -> i32 {
    if year >= 0 { year / 10 } else { -((8 - (year - 1)) / 10) }
}

fn century(year: i32) -> i32 {
    if year > 0 { (year + 99) / 100 } else { -((99 - (year - 1)) / 100) }
}

fn millennium(year: i32) -> i32 {
    if year > 0 { (year + 999) / 1000 } else { -((999 - (year - 1)) / 1000) }
}

fn calendar_part(name: &str, moment: Local<'_>) -> Result<Part> {
    let Some(unit) = Unit::by_name(name) else { return Ok(Part::Unsupported) };
    let (local, infinite) = match moment {
        Local::Date(days) => match days {
            i32::MIN | i32::MAX => (0, Some(days < 0)),
            days => (i64::from(days).saturating_mul(DAY), None),
        },
        Local::Timestamp(t) => (t, calendar::is_infinite(t).then_some(t < 0)),
        Local::Zoned(t, zone) => (zone.to_local(t), calendar::is_infinite(t).then_some(t < 0)),
    };
    let is_date = matches!(moment, Local::Date(_));
    let zoned = matches!(moment, Local::Zoned(..));
    let of_time =
        matches!(unit, Unit::Microseconds | Unit::Milliseconds | Unit::Second | Unit::Minute | Unit::Hour);
    let of_zone = matches!(unit, Unit::Zone | Unit::ZoneHour | Unit::ZoneMinute);
    if (is_date && of_time) || (!zoned && of_zone) {
        return Ok(Part::Unsupported);
    }
    if let Some(negative) = infinite {
        let grows = matches!(
            unit,
            Unit::Year
                | Unit::Decade
                | Unit::Century
                | Unit::Millennium
                | Unit::Julian
                | Unit::IsoYear
                | Unit::Epoch
        );
        return Ok(match (grows, negative) {
            (false, _) => Part::Nothing,
            (true, true) => Part::Value(Numeric::NegInf),
            (true, false) => Part::Value(Numeric::PosInf),
        });
    }
    // A date may lie beyond what microseconds reach.
    let days = match moment {
        Local::Date(days) => days,
        _ => local.div_euclid(DAY) as i32,
    };
    let (year, month, day) = calendar::civil_from_days(days);
    let time = if is_date { 0 } else { local.rem_euclid(DAY) };
    Ok(match unit {
        Unit::Microseconds => whole(time % MINUTE),
        Unit::Milliseconds => scaled(i128::from(time % MINUTE), 3),
        Unit::Second => scaled(i128::from(time % MINUTE), 6),
        Unit::Minute => whole(time / MINUTE % 60),
        Unit::Hour => whole(time / HOUR),
        Unit::Day => whole(day),
        Unit::Week => whole(calendar::iso_week(days).1),
        Unit::Month => whole(month),
        Unit::Quarter => whole((month - 1) / 3 + 1),
        Unit::Year => whole(counted(year)),
        Unit::Decade => whole(decade(year)),
        Unit::Century => whole(century(year)),
        Unit::Millennium => whole(millennium(year)),
        Unit::Epoch if is_date => whole((i64::from(days) + i64::from(calendar::UNIX_EPOCH_DAYS)) * 86_400),
        Unit::Epoch => {
            let utc = match moment {
                Local::Zoned(utc, _) => utc,
                _ => local,
            };
            scaled(i128::from(utc) + i128::from(calendar::UNIX_EPOCH_MICROS), 6)
        }
        Unit::Julian => {
            let day = Numeric::from(i64::from(days) + i64::from(JULIAN_EPOCH));
            if is_date {
                Part::Value(day)
            } else {
                Part::Value(day.add(&Numeric::from(time).div(&Numeric::from(DAY))?)?)
            }
        }
        Unit::IsoYear => whole(counted(calendar::iso_week(days).0)),
        Unit::Dow => whole(calendar::day_of_week(days)),
        Unit::IsoDow => whole((calendar::day_of_week(days) + 6) % 7 + 1),
        Unit::Doy => whole(calendar::day_of_year(days)),
        Unit::Zone | Unit::ZoneHour | Unit::ZoneMinute => {
            let offset = match moment {
                Local::Zoned(utc, zone) => zone.offset_at(utc),
                _ => 0,
            };
            match unit {
                Unit::Zone => whole(offset),
                Unit::ZoneHour => whole(offset / 3600),
                _ => whole(offset / 60 % 60),
            }
        }
    })
}

fn time_part(name: &str, time: i64) -> Part {
    match Unit::by_name(name) {
        Some(Unit::Microseconds) => whole(time % MINUTE),
        Some(Unit::Milliseconds) => scaled(i128::from(time % MINUTE), 3),
        Some(Unit::Second) => scaled(i128::from(time % MINUTE), 6),
        Some(Unit::Minute) => whole(time / MINUTE % 60),
        Some(Unit::Hour) => whole(time / HOUR),
        Some(Unit::Epoch) => scaled(i128::from(time), 6),
        _ => Part::Unsupported,
    }
}

fn interval_part(name: &str, v: Interval) -> Part {
    let (years, months) = (v.months / 12, v.months % 12);
    match Unit::by_name(name) {
        Some(Unit::Microseconds) => whole(v.micros % MINUTE),
        Some(Unit::Milliseconds) => scaled(i128::from(v.micros % MINUTE), 3),
        Some(Unit::Second) => scaled(i128::from(v.micros % MINUTE), 6),
        Some(Unit::Minute) => whole(v.micros / MINUTE % 60),
        Some(Unit::Hour) => whole(v.micros / HOUR),
        Some(Unit::Day) => whole(v.days),
        Some(Unit::Month) => whole(months),
        Some(Unit::Quarter) => whole(months / 3 + 1),
        Some(Unit::Year) => whole(years),
        Some(Unit::Decade) => whole(years / 10),
        Some(Unit::Century) => whole(years / 100),
        Some(Unit::Millennium) => whole(years / 1000),
        Some(Unit::Epoch) => {
            // A year has 365.25 days here, a month 30.
            let quarter_days = i128::from(years) * 1461 + (i128::from(months) * 30 + i128::from(v.days)) * 4;
            scaled(quarter_days * i128::from(DAY / 4) + i128::from(v.micros), 6)
        }
        _ => Part::Unsupported,
    }
}

/// The first year of the period that a year lies in.
fn period_start(year: i32, unit: Unit) -> i32 {
    match unit {
        Unit::Millennium if year > 0 => (year + 999) / 1000 * 1000 - 999,
        Unit::Millennium => -((999 - (year - 1)) / 1000) * 1000 + 1,
        Unit::Century if year > 0 => (year + 99) / 100 * 100 - 99,
        Unit::Century => -((99 - (year - 1)) / 100) * 100 + 1,
        Unit::Decade if year > 0 => year / 10 * 10,
        Unit::Decade => -((8 - (year - 1)) / 10) * 10,
        _ => year,
    }
}

/// A local time at the beginning of its second, day, month … .
fn trunc_local(local: i64, unit: Unit) -> Option<i64> {
    let fields = calendar::fields(local);
    let at = |year, month, day| Fields { year, month, day, ..Fields::default() }.timestamp();
    match unit {
        Unit::Microseconds => Some(local),
        Unit::Milliseconds => Some(local - local.rem_euclid(1000)),
        Unit::Second => Some(local - local.rem_euclid(SECOND)),
        Unit::Minute => Some(local - local.rem_euclid(MINUTE)),
        Unit::Hour => Some(local - local.rem_euclid(HOUR)),
        Unit::Day => Some(local - local.rem_euclid(DAY)),
        Unit::Week => {
            let days = local.div_euclid(DAY);
            // 2000-01-01 was a Saturday.
            (days - (days + 5).rem_euclid(7)).checked_mul(DAY).filter(|t| calendar::in_range(*t))
        }
        Unit::Month => at(fields.year, fields.month, 1),
        Unit::Quarter => at(fields.year, (fields.month - 1) / 3 * 3 + 1, 1),
        _ => at(period_start(fields.year, unit), 1, 1),
    }
}

fn trunc_unit(name: &str, ty: Type) -> Result<Unit> {
    match Unit::by_name(name) {
        None | Some(Unit::Epoch | Unit::Julian | Unit::IsoYear | Unit::Dow | Unit::IsoDow | Unit::Doy) => {
            Err(not_recognized(name, ty))
        }
        Some(Unit::Zone | Unit::ZoneHour | Unit::ZoneMinute) => Err(not_supported(name, ty)),
        Some(unit) => Ok(unit),
    }
}

fn trunc_timestamp(name: &str, local: i64, ty: Type) -> Result<i64> {
    if calendar::is_infinite(local) {
        return Ok(local);
    }
    let unit = trunc_unit(name, ty)?;
    trunc_local(local, unit).ok_or_else(calendar::timestamp_out_of_range)
}

fn trunc_zoned(name: &str, utc: i64, zone: &TimeZone) -> Result<Datum> {
    if calendar::is_infinite(utc) {
        return Ok(Datum::Timestamptz(utc));
    }
    let unit = trunc_unit(name, Type::Timestamptz)?;
    let offset = i64::from(zone.offset_at(utc)) * SECOND;
    let local = trunc_timestamp(name, utc + offset, Type::Timestamptz)?;
    // Within a day the offset stays what it is, so that an hour that occurs twice is not mixed up.
    let within_day =
        matches!(unit, Unit::Microseconds | Unit::Milliseconds | Unit::Second | Unit::Minute | Unit::Hour);
    Ok(Datum::Timestamptz(if within_day { local - offset } else { zone.to_utc(local) }))
}

fn trunc_interval(name: &str, v: Interval) -> Result<Interval> {
    let months = |unit: i32| Interval { months: v.months / unit * unit, days: 0, micros: 0 };
    let time = |unit: i64| Interval { micros: v.micros / unit * unit, ..v };
    Ok(match trunc_unit(name, Type::Interval)? {
        Unit::Millennium => months(12_000),
        Unit::Century => months(1200),
        Unit::Decade => months(120),
        Unit::Year => months(12),
        Unit::Quarter => months(3),
        Unit::Month => months(1),
        Unit::Day => Interval { micros: 0, ..v },
        Unit::Hour => time(HOUR),
        Unit::Minute => time(MINUTE),
        Unit::Second => time(SECOND),
        Unit::Milliseconds => time(1000),
        Unit::Microseconds => v,
        _ => {
            return Err(not_supported(name, Type::Interval).detail("Months usually have fractional weeks."));
        }
    })
}
