//! Reading text by a template: what `to_date` and `to_timestamp` do.

use super::to_char::{DAYS, MONTHS, Piece, ROMAN, pieces};
use crate::error::{Result, SqlError, SqlState};
use crate::types::TimeZone;
use crate::types::calendar::{self, DAY, HOUR, JULIAN_EPOCH, MINUTE, SECOND};

/// The fields that were read.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    text: String,
    year: Option<i64>,
    bc: bool,
    century: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    julian: Option<i64>,
    week: Option<i64>,
    week_of_month: Option<i64>,
    quarter: Option<i64>,
    iso_year: Option<i64>,
    iso_week: Option<i64>,
    iso_day: Option<i64>,
    iso_day_of_year: Option<i64>,
    hour: Option<i64>,
    hour12: bool,
    afternoon: Option<bool>,
    minute: i64,
    second: i64,
    millis: i64,
    micros: i64,
    seconds_of_day: Option<i64>,
    offset: Option<i64>,
}

fn invalid(message: String) -> SqlError {
    SqlError::new(SqlState::INVALID_DATETIME_FORMAT, message)
}

/// Reads `text` by `pattern`.
pub(super) fn read(text: &str, pattern: &str) -> Result<Parsed> {
    let pieces = pieces(pattern);
    let mut out = Parsed { text: text.into(), ..Parsed::default() };
    let mut rest = text;
    for (i, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal { c, quoted } => {
                rest = skip_literal(rest, *c, *quoted);
            }
            Piece::Field { keyword, fill, ordinal } => {
                rest = rest.trim_start();
                if rest.is_empty() {
                    break;
                }
                // Digits that are followed by digits have the pattern's width, others as many as there are.
                let bounded = matches!(pieces.get(i + 1), Some(Piece::Field { .. })) && !fill;
                rest = out.field(keyword, rest, bounded)?;
                if ordinal.is_some() {
                    rest = rest.get(2..).unwrap_or("");
                }
            }
        }
    }
    Ok(out)
}

/// A separator of the pattern matches any separator of the text, a blank none or many; others match whatever is there.
fn skip_literal(rest: &str, c: char, quoted: bool) -> &str {
    let first = rest.chars().next();
    let is_separator = |c: char| !c.is_alphanumeric() && !c.is_whitespace();
    if !quoted && c.is_whitespace() {
        return rest.trim_start();
    }
    if !quoted && is_separator(c) {
        let trimmed = rest.trim_start();
        return match trimmed.chars().next() {
            // A sign in front of a number may belong to it.
            Some(found) if is_separator(found) => &trimmed[found.len_utf8()..],
            _ => trimmed,
        };
    }
    match first {
        Some(found) => &rest[found.len_utf8()..],
        None => rest,
    }
}

impl Parsed {
    fn field<'a>(&mut self, keyword: &str, rest: &'a str, bounded: bool) -> Result<&'a str> {
        let upper = keyword.to_ascii_uppercase();
        let mut tail = rest;
        let mut number = |width: usize| -> Result<i64> {
            let (value, after) = integer(rest, width, bounded, keyword)?;
            tail = after;
            Ok(value)
        };
        match upper.as_str() {
            "HH24" => (self.hour, self.hour12) = (Some(number(2)?), false),
            "HH" | "HH12" => (self.hour, self.hour12) = (Some(number(2)?), true),
            "MI" => self.minute = number(2)?,
            "SS" => self.second = number(2)?,
            "SSSS" | "SSSSS" => self.seconds_of_day = Some(number(5)?),
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let width = match upper.as_str() {
                    "MS" => 3,
                    "US" => 6,
                    ff => usize::from(ff.as_bytes()[2] - b'0'),
                };
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let used = if bounded { digits.min(width) } else { digits };
                let fraction: f64 =
                    format!("0.{}", &rest[..used]).parse().map_err(|_| bad_value(rest, keyword))?;
                number(width)?;
                let micros = (fraction * 1e6).round() as i64;
                // Both may be given; they add up.
                *(if upper == "MS" { &mut self.millis } else { &mut self.micros }) = micros;
            }
            "AM" | "PM" | "A.M." | "P.M." => {
                (self.afternoon, tail) =
                    pick(rest, &[("a.m.", false), ("p.m.", true), ("am", false), ("pm", true)])
                        .map(|(value, tail)| (Some(value), tail))
                        .ok_or_else(|| bad_value(rest, keyword))?;
            }
            "BC" | "AD" | "B.C." | "A.D." => {
                (self.bc, tail) = pick(rest, &[("b.c.", true), ("a.d.", false), ("bc", true), ("ad", false)])
                    .ok_or_else(|| bad_value(rest, keyword))?;
            }
            "MONTH" | "MON" => {
                let (index, after) =
                    name(rest, &MONTHS, upper == "MON").ok_or_else(|| bad_value(rest, keyword))?;
                (self.month, tail) = (Some(index + 1), after);
            }
            "DAY" | "DY" => {
                let (index, after) =
                    name(rest, &DAYS, upper == "DY").ok_or_else(|| bad_value(rest, keyword))?;
                (self.iso_day, tail) = (Some((index + 6) % 7 + 1), after);
            }
            "RM" => {
                let found = ROMAN.iter().enumerate().rev().find(|(_, roman)| {
                    rest.get(..roman.len()).is_some_and(|head| head.eq_ignore_ascii_case(roman))
                });
                let (index, roman) = found.ok_or_else(|| bad_value(rest, keyword))?;
                (self.month, tail) = (Some(index as i64 + 1), &rest[roman.len()..]);
            }
            "MM" => self.month = Some(number(2)?),
            "DD" => self.day = Some(number(2)?),
            "DDD" => self.day_of_year = Some(number(3)?),
            "IDDD" => self.iso_day_of_year = Some(number(3)?),
            "D" => {
                // 1 is Sunday.
                self.iso_day = Some((number(1)? + 5) % 7 + 1);
            }
            "ID" => self.iso_day = Some(number(1)?),
            "WW" => self.week = Some(number(2)?),
            "IW" => self.iso_week = Some(number(2)?),
            "W" => self.week_of_month = Some(number(1)?),
            "Q" => self.quarter = Some(number(1)?),
            "CC" => self.century = Some(number(2)?),
            "J" => self.julian = Some(number(7)?),
            "YYYY" => self.year = Some(number(4)?),
            "YYY" | "YY" | "Y" => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let value = number(upper.len())?;
                self.year = Some(nearest_year(value, if bounded { digits.min(upper.len()) } else { digits }));
            }
            "Y,YYY" => {
                let (thousands, after) = integer(rest, 3, false, keyword)?;
                let after = after.strip_prefix(',').ok_or_else(|| bad_value(rest, keyword))?;
                let (year, after) = integer(after, 3, true, keyword)?;
                (self.year, tail) = (Some(thousands * 1000 + year), after);
            }
            "IYYY" => self.iso_year = Some(number(4)?),
            "IYY" | "IY" | "I" => {
                let value = number(upper.len())?;
                self.iso_year = Some(nearest_year(value, upper.len()));
            }
            "TZH" => {
                let negative = rest.starts_with('-');
                let unsigned = rest.trim_start_matches(['+', '-']);
                let (hours, after) = integer(unsigned, 2, bounded, keyword)?;
                self.offset = Some(if negative { -hours * 3600 } else { hours * 3600 });
                tail = after;
            }
            "TZM" => {
                let minutes = number(2)?;
                let hours = self.offset.unwrap_or(0);
                self.offset = Some(if hours < 0 { hours - minutes * 60 } else { hours + minutes * 60 });
            }
            _ => {
                return Err(SqlError::unsupported(format!("formatting field \"{keyword}\" in to_date")));
            }
        }
        Ok(tail)
    }

    fn out_of_range(&self) -> SqlError {
        SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("date/time field value out of range: \"{}\"", self.text),
        )
    }

    fn days(&self) -> Result<i32> {
        let error = || self.out_of_range();
        let in_range = |days: i64| {
            let range = i64::from(calendar::DATE_MIN)..i64::from(calendar::DATE_END);
            if range.contains(&days) { Ok(days as i32) } else { Err(error()) }
        };
        if let Some(julian) = self.julian {
            return in_range(julian - i64::from(JULIAN_EPOCH));
        }
        if self.iso_year.is_some() || self.iso_week.is_some() || self.iso_day_of_year.is_some() {
            let year = i32::try_from(self.iso_year.unwrap_or(1)).map_err(|_| error())?;
            let start = calendar::iso_year_start(year);
            if let Some(day) = self.iso_day_of_year {
                return in_range(start + day - 1);
            }
            let day = self.iso_day.unwrap_or(1);
            return in_range(start + (self.iso_week.unwrap_or(1) - 1) * 7 + day - 1);
        }
        let year = match (self.year, self.century) {
            (Some(year), Some(century)) if year < 100 => (century - 1) * 100 + year,
            (Some(year), _) => year,
            (None, Some(century)) => (century - 1) * 100 + 1,
            // Nothing was said: 1 BC, as PostgreSQL has it.
            (None, None) => 0,
        };
        let year = if self.bc && self.year.is_some() { 1 - year } else { year };
        let short = i32::try_from(year).map_err(|_| error())?;
        if let Some(day) = self.day_of_year {
            let days = 365 + i64::from(calendar::is_leap(short));
            return if (1..=days).contains(&day) {
                in_range(calendar::days_from_civil(year, 1, 1) + day - 1)
            } else {
                Err(error())
            };
        }
        if let Some(week) = self.week {
            return in_range(calendar::days_from_civil(year, 1, 1) + (week - 1) * 7);
        }
        let month = self.month.unwrap_or(1);
        let day = match self.week_of_month {
            Some(week) if self.day.is_none() => (week - 1) * 7 + 1,
            _ => self.day.unwrap_or(1),
        };
        if !(1..=12).contains(&month)
            || !(1..=i64::from(calendar::days_in_month(short, month as i32))).contains(&day)
        {
            return Err(error());
        }
        in_range(calendar::days_from_civil(year, month as i32, day as i32))
    }

    fn time(&self) -> Result<i64> {
        if let Some(seconds) = self.seconds_of_day {
            return Ok(seconds * SECOND + self.millis + self.micros);
        }
        let mut hour = self.hour.unwrap_or(0);
        if self.hour12 {
            if !(1..=12).contains(&hour) {
                return Err(invalid(format!("hour \"{hour}\" is invalid for the 12-hour clock"))
                    .hint("Use the 24-hour clock, or give an hour between 1 and 12."));
            }
            match self.afternoon {
                Some(true) if hour < 12 => hour += 12,
                Some(false) if hour == 12 => hour = 0,
                _ => {}
            }
        }
        if !(0..24).contains(&hour) || !(0..60).contains(&self.minute) || !(0..60).contains(&self.second) {
            return Err(self.out_of_range());
        }
        Ok(hour * HOUR + self.minute * MINUTE + self.second * SECOND + self.millis + self.micros)
    }

    /// The date.
    pub(super) fn date(&self) -> Result<i32> {
        self.days()
    }

    /// The instant; in the session's zone, unless the text names one.
    pub(super) fn instant(&self, zone: &TimeZone) -> Result<i64> {
        let local = i64::from(self.days()?)
            .checked_mul(DAY)
            .and_then(|midnight| midnight.checked_add(self.time().ok()?))
            .ok_or_else(|| self.time().err().unwrap_or_else(calendar::timestamp_out_of_range))?;
        let utc = match self.offset {
            Some(offset) => local - offset * SECOND,
            None => zone.to_utc(local),
        };
        calendar::checked(Some(utc))
    }
}

fn bad_value(rest: &str, keyword: &str) -> SqlError {
    let shown: String = rest.chars().take_while(|c| !c.is_whitespace()).take(keyword.len().max(1)).collect();
    invalid(format!("invalid value \"{shown}\" for \"{keyword}\""))
}

/// An integer, of `width` digits at most where it is bounded.
fn integer<'a>(rest: &'a str, width: usize, bounded: bool, keyword: &str) -> Result<(i64, &'a str)> {
    let sign = usize::from(!bounded && rest.starts_with(['-', '+']));
    let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
    let used = sign + if bounded { digits.min(width) } else { digits };
    let value = rest[..used]
        .parse::<i64>()
        .map_err(|_| bad_value(rest, keyword).detail("Value must be an integer."))?;
    if value.unsigned_abs() > i32::MAX as u64 {
        return Err(SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("value for \"{keyword}\" in source string is out of range"),
        ));
    }
    Ok((value, &rest[used..]))
}

/// A year of less than four digits is the one nearest to 2020.
fn nearest_year(value: i64, digits: usize) -> i64 {
    match digits {
        1 => value + 2000 + if value < 70 { 0 } else { -100 },
        2 if value < 70 => value + 2000,
        2 => value + 1900,
        3 if value < 100 => value + 2000,
        3 if value < 520 => value + 2000,
        3 => value + 1000,
        _ => value,
    }
}

fn pick<'a, T: Copy>(rest: &'a str, words: &[(&str, T)]) -> Option<(T, &'a str)> {
    words.iter().find_map(|(word, value)| {
        let head = rest.get(..word.len())?;
        head.eq_ignore_ascii_case(word).then(|| (*value, &rest[word.len()..]))
    })
}

/// A month's or day's name, in full or its first three letters.
fn name<'a>(rest: &'a str, names: &[&str], short: bool) -> Option<(i64, &'a str)> {
    let matches = |length: usize, name: &str| {
        rest.get(..length).is_some_and(|head| head.eq_ignore_ascii_case(&name[..length]))
    };
    for (i, full) in names.iter().enumerate() {
        if !short && matches(full.len(), full) {
            return Some((i as i64, &rest[full.len()..]));
        }
    }
    let found = names.iter().position(|full| matches(3, full))?;
    Some((found as i64, &rest[3..]))
}
