//! Intervals as text: PostgreSQL's verbose and ISO 8601 forms are read, style `postgres` is written.

use super::{invalid, push};
use crate::error::{Result, SqlError, SqlState};
use crate::types::calendar::{DAY, HOUR, MINUTE, SECOND};
use crate::types::{Interval, Type};

/// Style `postgres`: `1 year 2 mons -3 days +04:05:06.7`.
pub fn format_interval(interval: Interval) -> String {
    let mut out = String::new();
    // A positive field after a negative one carries a sign, so that it is not read as negative.
    let mut after_negative = false;
    let parts = [
        (i64::from(interval.months / 12), "year"),
        (i64::from(interval.months % 12), "mon"),
        (i64::from(interval.days), "day"),
    ];
    for (value, unit) in parts {
        if value == 0 {
            continue;
        }
        let space = if out.is_empty() { "" } else { " " };
        let sign = if after_negative && value > 0 { "+" } else { "" };
        let plural = if value == 1 { "" } else { "s" };
        push(&mut out, format_args!("{space}{sign}{value} {unit}{plural}"));
        after_negative = value < 0;
    }
    if interval.micros != 0 || out.is_empty() {
        let space = if out.is_empty() { "" } else { " " };
        let sign = match interval.micros {
            m if m < 0 => "-",
            _ if after_negative => "+",
            _ => "",
        };
        let micros = interval.micros.unsigned_abs();
        let (hour, minute, second) = (HOUR as u64, MINUTE as u64, SECOND as u64);
        push(
            &mut out,
            format_args!(
                "{space}{sign}{:02}:{:02}:{:02}",
                micros / hour,
                micros / minute % 60,
                micros / second % 60
            ),
        );
        super::datetime::push_fraction(&mut out, micros % second);
    }
    out
}

/// A sum of fields that notices overflow.
#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    micros: i64,
    overflow: bool,
    /// The units that were given: none may be given twice.
    seen: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
    Decade,
    Century,
    Millennium,
}

impl Unit {
    fn by_name(name: &str) -> Option<Unit> {
        Some(match name {
            "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecon" | "microsecond"
            | "microseconds" => Unit::Microsecond,
            "ms" | "msec" | "msecs" | "mseconds" | "millisecon" | "millisecond" | "milliseconds" => {
                Unit::Millisecond
            }
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
            "d" | "day" | "days" => Unit::Day,
            "w" | "week" | "weeks" => Unit::Week,
            "mon" | "mons" | "month" | "months" => Unit::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
            "dec" | "decs" | "decade" | "decades" => Unit::Decade,
            "c" | "cent" | "century" | "centuries" => Unit::Century,
            "mil" | "mils" | "millennia" | "millennium" => Unit::Millennium,
            _ => return None,
        })
    }
}

impl Sum {
    fn claim(&mut self, units: &[Unit]) -> Option<()> {
        let mask = units.iter().fold(0, |mask, unit| mask | 1 << *unit as u32);
        let free = self.seen & mask == 0;
        self.seen |= mask;
        free.then_some(())
    }

    fn add_to(slot: &mut i64, overflow: &mut bool, value: i64, factor: i64) {
        match value.checked_mul(factor).and_then(|v| slot.checked_add(v)) {
            Some(sum) => *slot = sum,
            None => *overflow = true,
        }
    }

    fn micros(&mut self, value: i64, factor: i64) {
        Self::add_to(&mut self.micros, &mut self.overflow, value, factor);
    }

    fn days(&mut self, value: i64, factor: i64) {
        Self::add_to(&mut self.days, &mut self.overflow, value, factor);
    }

    fn months(&mut self, value: i64, factor: i64) {
        Self::add_to(&mut self.months, &mut self.overflow, value, factor);
    }

    fn fraction_of_micros(&mut self, fraction: f64, factor: i64) {
        let value = (fraction * factor as f64).round_ties_even();
        self.micros(value as i64, 1);
    }

    fn fraction_of_days(&mut self, fraction: f64, factor: i64) {
        let days = fraction * factor as f64;
        let whole = days.trunc();
        self.days(whole as i64, 1);
        self.fraction_of_micros(days - whole, DAY);
    }

    fn fraction_of_years(&mut self, fraction: f64, years: i64) {
        self.months((fraction * (years * 12) as f64).round_ties_even() as i64, 1);
    }

    /// Adds `value + fraction` of a unit; a fraction goes down into smaller units.
    fn add(&mut self, value: i64, fraction: f64, unit: Unit) {
        match unit {
            Unit::Microsecond => {
                self.micros(value, 1);
                self.fraction_of_micros(fraction, 1);
            }
            Unit::Millisecond => {
                self.micros(value, 1000);
                self.fraction_of_micros(fraction, 1000);
            }
            Unit::Second => {
                self.micros(value, SECOND);
                self.fraction_of_micros(fraction, SECOND);
            }
            Unit::Minute => {
                self.micros(value, MINUTE);
                self.fraction_of_micros(fraction, MINUTE);
            }
            Unit::Hour => {
                self.micros(value, HOUR);
                self.fraction_of_micros(fraction, HOUR);
            }
            Unit::Day => {
                self.days(value, 1);
                self.fraction_of_micros(fraction, DAY);
            }
            Unit::Week => {
                self.days(value, 7);
                self.fraction_of_days(fraction, 7);
            }
            Unit::Month => {
                self.months(value, 1);
                self.fraction_of_days(fraction, 30);
            }
            Unit::Year => {
                self.months(value, 12);
                self.fraction_of_years(fraction, 1);
            }
            Unit::Decade => {
                self.months(value, 120);
                self.fraction_of_years(fraction, 10);
            }
            Unit::Century => {
                self.months(value, 1200);
                self.fraction_of_years(fraction, 100);
            }
            Unit::Millennium => {
                self.months(value, 12_000);
                self.fraction_of_years(fraction, 1000);
            }
        }
    }
}

fn overflow(text: &str) -> SqlError {
    SqlError::new(SqlState::INTERVAL_FIELD_OVERFLOW, format!("interval field value out of range: \"{text}\""))
}

/// Reads an interval.
pub fn parse_interval(text: &str) -> Result<Interval> {
    let trimmed = super::trim(text);
    let mut sum = Sum::default();
    let read = if let Some(fields) = trimmed.strip_prefix('P') {
        iso(fields, &mut sum)
    } else {
        verbose(&glue_signs(trimmed), &mut sum)
    };
    if read.is_none() {
        return Err(if sum.overflow { overflow(text) } else { invalid(Type::Interval, text) });
    }
    match (i32::try_from(sum.months), i32::try_from(sum.days), sum.overflow) {
        (Ok(months), Ok(days), false) => Ok(Interval { months, days, micros: sum.micros }),
        _ => Err(overflow(text)),
    }
}

/// `[-]digits[.digits]`: the whole part, the fraction with the same sign, the rest.
fn number(text: &str) -> Option<(i64, f64, &str)> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let whole = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    let mut rest = &body[whole..];
    let mut fraction = 0.0;
    let mut digits = whole;
    if let Some(tail) = rest.strip_prefix('.') {
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        fraction = format!("0.{}0", &tail[..end]).parse().ok()?;
        digits += end;
        rest = &tail[end..];
    }
    if digits == 0 {
        return None;
    }
    let value: i64 = if whole == 0 { 0 } else { body[..whole].parse().ok()? };
    Some(if negative { (-value, -fraction, rest) } else { (value, fraction, rest) })
}

/// `hh:mm[:ss[.fraction]]`, of which `hours` has been read.
fn clock(hours: i64, negative: bool, rest: &str, sum: &mut Sum) -> Option<()> {
    sum.claim(&[Unit::Hour, Unit::Minute, Unit::Second, Unit::Millisecond, Unit::Microsecond])?;
    let fields: Vec<&str> = rest.split(':').collect();
    let sign = if negative { -1 } else { 1 };
    let plain = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<i64>().ok())?
    };
    let (hours, minutes, seconds) = match fields[..] {
        // `mm:ss.fraction`
        [field] if field.contains('.') => (0, hours.abs(), Some(field)),
        [field] => (hours.abs(), plain(field)?, None),
        [minutes, seconds] => (hours.abs(), plain(minutes)?, Some(seconds)),
        _ => return None,
    };
    let (seconds, fraction) = match seconds {
        None => (0, 0.0),
        Some(field) => {
            let (seconds, fraction, "") = number(field)? else { return None };
            (seconds, fraction)
        }
    };
    if !(0..60).contains(&minutes) || !(0..=60).contains(&seconds) {
        sum.overflow = true;
        return None;
    }
    sum.micros(sign * hours, HOUR);
    sum.micros(sign * minutes, MINUTE);
    sum.add(sign * seconds, sign as f64 * fraction, Unit::Second);
    Some(())
}

fn verbose(text: &str, sum: &mut Sum) -> Option<()> {
    let mut rest = text.trim_start_matches('@').trim_start();
    let mut ago = false;
    let mut seen = false;
    while !rest.is_empty() {
        if rest == "ago" && seen {
            ago = true;
            break;
        }
        let negative = rest.starts_with('-');
        rest = field(rest, negative, sum)?;
        seen = true;
    }
    if ago {
        sum.months = -sum.months;
        sum.days = -sum.days;
        sum.micros = sum.micros.checked_neg()?;
    }
    seen.then_some(())
}

/// Lower case, without blanks between a sign and its number.
fn glue_signs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_sign = false;
    for c in text.chars() {
        if after_sign && c.is_ascii_whitespace() {
            continue;
        }
        after_sign = matches!(c, '+' | '-');
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Reads one field and gives the rest.
fn field<'a>(text: &'a str, negative: bool, sum: &mut Sum) -> Option<&'a str> {
    let (value, fraction, rest) = match number(text) {
        Some(read) => read,
        None => {
            // Digits that don't fit are an overflow, everything else is malformed.
            sum.overflow |= text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit());
            return None;
        }
    };
    let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
    if let Some(tail) = rest[..end].strip_prefix(':') {
        clock(value, negative, tail, sum)?;
        return Some(rest[end..].trim_start());
    }
    if let Some(tail) = rest[..end].strip_prefix('-') {
        // `years-months`
        let months: i64 = tail.parse().ok().filter(|_| tail.bytes().all(|b| b.is_ascii_digit()))?;
        if months >= 12 {
            sum.overflow = true;
            return None;
        }
        sum.claim(&[Unit::Year, Unit::Month])?;
        sum.months(value, 12);
        sum.months(if negative { -months } else { months }, 1);
        return Some(rest[end..].trim_start());
    }
    let unit = rest.trim_start();
    let end = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
    match (&unit[..end], Unit::by_name(&unit[..end])) {
        // A bare number counts seconds.
        ("", _) | ("ago", _) if unit.is_empty() || end > 0 => {
            sum.claim(&[Unit::Second])?;
            sum.add(value, fraction, Unit::Second);
            Some(unit)
        }
        // … and in front of a time of day, days.
        ("", _) => {
            sum.claim(&[Unit::Day])?;
            sum.add(value, fraction, Unit::Day);
            Some(unit)
        }
        (_, Some(known)) => {
            sum.claim(&[known])?;
            sum.add(value, fraction, known);
            Some(unit[end..].trim_start_matches(|c: char| c.is_whitespace() || c == ','))
        }
        (_, None) => None,
    }
}

/// ISO 8601 after the `P`: with designators, or in the alternative form `0001-02-03T04:05:06`.
fn iso(text: &str, sum: &mut Sum) -> Option<()> {
    let mut rest = text;
    let mut in_time = false;
    let mut seen = false;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('T') {
            in_time = true;
            rest = tail;
            continue;
        }
        let (value, fraction, tail) = number(rest)?;
        let unit = match (tail.as_bytes().first(), in_time) {
            (Some(b'Y'), false) => Unit::Year,
            (Some(b'M'), false) => Unit::Month,
            (Some(b'W'), false) => Unit::Week,
            (Some(b'D'), false) => Unit::Day,
            (Some(b'H'), true) => Unit::Hour,
            (Some(b'M'), true) => Unit::Minute,
            (Some(b'S'), true) => Unit::Second,
            (Some(b'-') | None, false) => return iso_alternative(rest, sum),
            (Some(b':'), true) => {
                let negative = rest.starts_with('-');
                return clock(value, negative, &tail[1..], sum);
            }
            _ => return None,
        };
        sum.add(value, fraction, unit);
        seen = true;
        rest = &tail[1..];
    }
    (seen || in_time).then_some(())
}

fn iso_alternative(text: &str, sum: &mut Sum) -> Option<()> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let units = [Unit::Year, Unit::Month, Unit::Day];
    let fields: Vec<&str> = date.split('-').collect();
    if fields.len() > units.len() {
        return None;
    }
    for (field, unit) in fields.into_iter().zip(units) {
        sum.add(field.parse().ok()?, 0.0, unit);
    }
    if let Some(time) = time {
        let (hours, _, rest) = number(time)?;
        match rest.strip_prefix(':') {
            Some(rest) => clock(hours, time.starts_with('-'), rest, sum)?,
            None => sum.add(hours, 0.0, Unit::Hour),
        }
    }
    Some(())
}
