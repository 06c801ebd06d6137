//! Dates, times and timestamps as text.
//!
//! Input is cut into fields (words, numbers, dates with separators, times with colons, zones), which then fill in what
//! they can be, in the way of PostgreSQL's appendix B. Ambiguous dates are read month first (`DateStyle` MDY).

use super::{invalid, push, trim};
use crate::error::{Result, SqlError, SqlState};
use crate::function::EvalContext;
use crate::types::calendar::{self, DAY, HOUR, JULIAN_EPOCH, MINUTE, SECOND};
use crate::types::zone::{abbreviation, numeric_offset};
use crate::types::{TimeZone, Type};

/// Appends `.ffffff` without trailing zeros.
pub(super) fn push_fraction(out: &mut String, micros: u64) {
    if micros != 0 {
        push(out, format_args!(".{micros:06}"));
        out.truncate(out.trim_end_matches('0').len());
    }
}

fn push_date(out: &mut String, year: i32, month: i32, day: i32) {
    let shown = if year > 0 { year } else { 1 - year };
    push(out, format_args!("{shown:04}-{month:02}-{day:02}"));
}

fn push_time(out: &mut String, micros: i64) {
    push(out, format_args!("{:02}:{:02}:{:02}", micros / HOUR, micros / MINUTE % 60, micros / SECOND % 60));
    push_fraction(out, (micros % SECOND) as u64);
}

fn infinity(negative: bool) -> String {
    if negative { "-infinity" } else { "infinity" }.into()
}

/// `2024-01-31`, `0044-03-15 BC`
pub fn format_date(days: i32) -> String {
    if days == i32::MIN || days == i32::MAX {
        return infinity(days == i32::MIN);
    }
    let (year, month, day) = calendar::civil_from_days(days);
    let mut out = String::with_capacity(10);
    push_date(&mut out, year, month, day);
    if year <= 0 {
        out.push_str(" BC");
    }
    out
}

/// `04:05:06.789`
pub fn format_time(micros: i64) -> String {
    let mut out = String::with_capacity(15);
    push_time(&mut out, micros);
    out
}

fn format_moment(micros: i64, offset: Option<i32>) -> String {
    let fields = calendar::fields(micros);
    let mut out = String::with_capacity(32);
    push_date(&mut out, fields.year, fields.month, fields.day);
    out.push(' ');
    push_time(&mut out, micros.rem_euclid(DAY));
    if let Some(offset) = offset {
        let sign = if offset < 0 { '-' } else { '+' };
        let offset = offset.abs();
        push(&mut out, format_args!("{sign}{:02}", offset / 3600));
        if offset % 3600 != 0 {
            push(&mut out, format_args!(":{:02}", offset / 60 % 60));
        }
        if offset % 60 != 0 {
            push(&mut out, format_args!(":{:02}", offset % 60));
        }
    }
    if fields.year <= 0 {
        out.push_str(" BC");
    }
    out
}

/// `2024-01-31 04:05:06.789`
pub fn format_timestamp(micros: i64) -> String {
    if calendar::is_infinite(micros) {
        return infinity(micros < 0);
    }
    format_moment(micros, None)
}

/// `2024-01-31 04:05:06.789+01`
pub fn format_timestamptz(micros: i64, zone: &TimeZone) -> String {
    if calendar::is_infinite(micros) {
        return infinity(micros < 0);
    }
    let offset = zone.offset_at(micros);
    format_moment(micros.saturating_add(i64::from(offset) * SECOND), Some(offset))
}

/// Why input is refused.
enum Refusal {
    /// 22007
    Malformed,
    /// 22008
    Field,
    /// 22008, with the hint about day and month in the wrong order
    MonthDay,
    /// 22009
    Displacement,
    /// 22023
    UnknownZone(String),
    /// 22008, with the type's name
    Range,
}

impl Refusal {
    fn into_error(self, ty: Type, text: &str) -> SqlError {
        let field = |state, hint: bool| {
            let error = SqlError::new(state, format!("date/time field value out of range: \"{text}\""));
            if hint { error.hint("Perhaps you need a different \"datestyle\" setting.") } else { error }
        };
        match self {
            Refusal::Malformed => invalid(ty, text),
            Refusal::Field => field(SqlState::DATETIME_FIELD_OVERFLOW, false),
            Refusal::MonthDay => field(SqlState::DATETIME_FIELD_OVERFLOW, true),
            Refusal::Displacement => SqlError::new(
                SqlState::INVALID_TIME_ZONE_DISPLACEMENT_VALUE,
                format!("time zone displacement out of range: \"{text}\""),
            ),
            Refusal::UnknownZone(name) => SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("time zone \"{name}\" not recognized"),
            ),
            Refusal::Range => {
                let name = if ty == Type::Date { "date" } else { "timestamp" };
                SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, format!("{name} out of range: \"{text}\""))
            }
        }
    }
}

/// A piece of the input.
#[derive(Debug, PartialEq)]
enum Token<'a> {
    /// Digits only, or with a fraction.
    Number(&'a str),
    /// With `-`, `/` or `.` inside: a date.
    Date(&'a str),
    /// With colons.
    Time(&'a str),
    /// Letters.
    Word(&'a str),
    /// A signed number: a zone's offset.
    Offset(&'a str),
}

fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let cut = |accept: &dyn Fn(char) -> bool, from: &str| from.find(|c| !accept(c)).unwrap_or(from.len());
        let digits = cut(&|c| c.is_ascii_digit(), rest);
        let token = if first.is_ascii_digit() {
            match rest[digits..].chars().next() {
                Some(':') => {
                    let end = cut(&|c| c.is_ascii_digit() || c == ':' || c == '.', rest);
                    Token::Time(&rest[..end])
                }
                // Up to two separators; a `+` or a colon belongs to what follows.
                Some('-' | '/' | '.') => {
                    let end = cut(&|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '.'), rest);
                    date_or_number(rest, end)
                }
                _ => Token::Number(&rest[..digits]),
            }
        } else if first.is_ascii_alphabetic() {
            let letters = cut(&|c| c.is_ascii_alphabetic(), rest);
            match rest[letters..].chars().next() {
                Some('/' | '_') => {
                    // A zone's name.
                    let end = cut(&|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'), rest);
                    Token::Word(&rest[..end])
                }
                Some('-' | '.') if rest[letters + 1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    // `Jan-15-2024`
                    let end = cut(&|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'), rest);
                    Token::Date(&rest[..end])
                }
                _ => Token::Word(&rest[..letters]),
            }
        } else if matches!(first, '+' | '-') {
            let tail = &rest[1..];
            if tail.starts_with(|c: char| c.is_ascii_digit()) {
                Token::Offset(&rest[..1 + cut(&|c| c.is_ascii_digit() || c == ':', tail)])
            } else if tail.starts_with(|c: char| c.is_ascii_alphabetic()) {
                Token::Word(&rest[..1 + cut(&|c| c.is_ascii_alphabetic(), tail)])
            } else {
                return None;
            }
        } else if first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            Token::Number(&rest[..1 + cut(&|c| c.is_ascii_digit(), &rest[1..])])
        } else if first.is_ascii_whitespace() || first.is_ascii_punctuation() {
            rest = &rest[1..];
            continue;
        } else {
            return None;
        };
        let (Token::Number(piece)
        | Token::Date(piece)
        | Token::Time(piece)
        | Token::Word(piece)
        | Token::Offset(piece)) = token;
        rest = &rest[piece.len()..];
        out.push(token);
    }
    Some(out)
}

/// Cuts a date off `rest[..end]`: at most three parts, the last of digits; `123456.789` is a number (a time).
fn date_or_number(rest: &str, end: usize) -> Token<'_> {
    let piece = &rest[..end];
    let parts: Vec<&str> = piece.split(['-', '/', '.']).collect();
    if parts.len() == 2 && piece.contains('.') {
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).count();
        let length = parts[0].len() + 1 + digits(parts[1]);
        return Token::Number(&rest[..length]);
    }
    // `20240115-08`: digits with a zone.
    if parts.len() == 2 && parts[0].len() >= 6 {
        return Token::Number(&rest[..parts[0].len()]);
    }
    let mut length = 0;
    for (i, part) in parts.iter().take(3).enumerate() {
        length += part.len() + usize::from(i > 0);
        // A `T` or a zone may follow the last number without a blank.
        if i == 2 {
            let digits = part.chars().take_while(char::is_ascii_digit).count();
            length -= part.len() - digits;
        }
    }
    Token::Date(&rest[..length])
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    year: Option<(i64, usize)>,
    month: Option<i32>,
    day: Option<i32>,
    /// Days, where a Julian day or a day of the year was given.
    days: Option<i32>,
    day_of_year: Option<i32>,
    time: Option<i64>,
    afternoon: Option<bool>,
    bc: bool,
    zone: Option<TimeZone>,
    special: Option<Special>,
    /// The next number is a time (after a `T`).
    time_follows: bool,
    /// … or a Julian day.
    julian_follows: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Special {
    Now,
    Day(i32),
    Epoch,
    Infinity,
    NegInfinity,
}

fn month_by_name(word: &str) -> Option<i32> {
    const NAMES: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    if word == "sept" {
        return Some(9);
    }
    NAMES.iter().position(|name| *name == word || *word == name[..3]).map(|i| i as i32 + 1)
}

fn is_weekday(word: &str) -> bool {
    const NAMES: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    NAMES.iter().any(|name| *name == word || *word == name[..3])
        || matches!(word, "tues" | "wednes" | "weds" | "thur" | "thurs")
}

impl Reading {
    fn has_date(&self) -> bool {
        self.days.is_some()
            || self.day_of_year.is_some()
            || (self.year.is_some() && self.month.is_some() && self.day.is_some())
    }

    fn word(&mut self, word: &str) -> Result<(), Refusal> {
        let lower = word.to_ascii_lowercase();
        match lower.as_str() {
            "now" => self.special = Some(Special::Now),
            "today" => self.special = Some(Special::Day(0)),
            "tomorrow" => self.special = Some(Special::Day(1)),
            "yesterday" => self.special = Some(Special::Day(-1)),
            "epoch" => self.special = Some(Special::Epoch),
            "infinity" | "+infinity" => self.special = Some(Special::Infinity),
            "-infinity" => self.special = Some(Special::NegInfinity),
            "allballs" => self.time = Some(0),
            "am" => self.afternoon = Some(false),
            "pm" => self.afternoon = Some(true),
            "bc" => self.bc = true,
            "ad" | "at" | "on" | "dst" => {}
            "t" => self.time_follows = true,
            "j" | "jd" | "julian" => self.julian_follows = true,
            _ if is_weekday(&lower) => {}
            _ => {
                if let Some(month) = month_by_name(&lower) {
                    // `01 Jan 2024` and `15-Jan`: a number before it was the day.
                    if let Some(number) = self.month.replace(month) {
                        if self.day.is_some() {
                            return Err(Refusal::Malformed);
                        }
                        self.day = Some(number);
                    }
                } else if let Some(offset) = abbreviation(&lower) {
                    self.zone = Some(TimeZone::Fixed(offset));
                } else if let Some(zone) = TimeZone::by_name(word) {
                    self.zone = Some(zone);
                } else if word.contains(['/', '_']) {
                    return Err(Refusal::UnknownZone(lower));
                } else {
                    return Err(Refusal::Malformed);
                }
            }
        }
        Ok(())
    }

    fn time(&mut self, text: &str) -> Result<(), Refusal> {
        if self.time.is_some() {
            return Err(Refusal::Malformed);
        }
        let fields: Vec<&str> = text.split(':').collect();
        let number = |field: &str| field.parse::<i64>().map_err(|_| Refusal::Malformed);
        let (hour, minute, (second, micros)) = match fields[..] {
            [hour, minute] => match minute.split_once('.') {
                // `mm:ss.fraction`
                Some(_) => (0, number(hour)?, seconds(minute)?),
                None => (number(hour)?, number(minute)?, (0, 0)),
            },
            [hour, minute, second] => (number(hour)?, number(minute)?, seconds(second)?),
            _ => return Err(Refusal::Malformed),
        };
        self.time = Some(clock(hour, minute, second, micros)?);
        Ok(())
    }

    /// `hhmmss[.fraction]`, `hhmm`, `hh`
    fn packed_time(&mut self, text: &str) -> Result<(), Refusal> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let number = |range: std::ops::Range<usize>| whole[range].parse::<i64>().unwrap_or(0);
        let (hour, minute, second) = match whole.len() {
            6 => (number(0..2), number(2..4), number(4..6)),
            4 => (number(0..2), number(2..4), 0),
            1 | 2 => (number(0..whole.len()), 0, 0),
            _ => return Err(Refusal::Malformed),
        };
        self.time = Some(clock(hour, minute, second, fraction_micros(fraction))?);
        Ok(())
    }

    fn number(&mut self, text: &str) -> Result<(), Refusal> {
        if std::mem::take(&mut self.julian_follows) {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let day: i64 = whole.parse().map_err(|_| Refusal::Field)?;
            let days = day - i64::from(JULIAN_EPOCH);
            self.days = Some(i32::try_from(days).map_err(|_| Refusal::Field)?);
            if !fraction.is_empty() {
                let part: f64 = format!("0.{fraction}").parse().unwrap_or(0.0);
                self.time = Some((part * DAY as f64).round_ties_even() as i64);
            }
            return Ok(());
        }
        if std::mem::take(&mut self.time_follows) {
            return self.packed_time(text);
        }
        if let Some((whole, fraction)) = text.split_once('.') {
            // `2024.015` is a day of a year, `123456.789` a time.
            if self.year.is_none() && !self.has_date() && whole.len() == 4 && fraction.len() == 3 {
                self.year = Some((whole.parse().unwrap_or(0), 4));
                self.day_of_year = fraction.parse().ok();
                return Ok(());
            }
            if whole.len() == 8 && !self.has_date() {
                return Err(Refusal::Malformed);
            }
            return self.packed_time(text);
        }
        if self.has_date() {
            return if self.time.is_none() && (text.len() == 6 || text.len() == 4) {
                self.packed_time(text)
            } else {
                Err(Refusal::Malformed)
            };
        }
        let part = |range: std::ops::Range<usize>| text[range].parse::<i32>().ok();
        if self.year.is_none() && self.month.is_none() && self.day.is_none() {
            match text.len() {
                8 => {
                    self.year = Some((part(0..4).unwrap_or(0).into(), 4));
                    (self.month, self.day) = (part(4..6), part(6..8));
                    return Ok(());
                }
                6 => {
                    self.year = Some((part(0..2).unwrap_or(0).into(), 2));
                    (self.month, self.day) = (part(2..4), part(4..6));
                    return Ok(());
                }
                7 => {
                    self.year = Some((part(0..4).unwrap_or(0).into(), 4));
                    self.day_of_year = part(4..7);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.date_part(text)
    }

    /// A number of a date: year first if it is long, else month, day, year.
    fn date_part(&mut self, text: &str) -> Result<(), Refusal> {
        let value: i64 = text.parse().map_err(|_| Refusal::Field)?;
        let small = i32::try_from(value).map_err(|_| Refusal::Field)?;
        if self.year.is_none() && text.len() >= 3 {
            if text.len() == 3 && self.month.is_none() && self.day.is_none() {
                return Err(Refusal::Malformed);
            }
            self.year = Some((value, text.len()));
        } else if self.year.is_some() && self.month.is_none() && text.len() == 3 {
            self.day_of_year = Some(small);
        } else if self.month.is_none() {
            self.month = Some(small);
        } else if self.day.is_none() {
            self.day = Some(small);
        } else if self.year.is_none() {
            self.year = Some((value, text.len()));
        } else {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    fn date(&mut self, text: &str) -> Result<(), Refusal> {
        if self.has_date() {
            return Err(Refusal::Malformed);
        }
        let parts: Vec<&str> = text.split(['-', '/', '.']).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(Refusal::Malformed);
        }
        // With a month's name the order of day and year goes by length.
        if let Some(at) = parts.iter().position(|part| part.starts_with(|c: char| c.is_ascii_alphabetic())) {
            let month = month_by_name(&parts[at].to_ascii_lowercase()).ok_or(Refusal::Malformed)?;
            self.month = Some(month);
            for (i, part) in parts.iter().enumerate().filter(|(i, _)| *i != at) {
                let value: i64 = part.parse().map_err(|_| Refusal::Malformed)?;
                let is_year = self.year.is_none() && (part.len() >= 3 || self.day.is_some());
                if is_year {
                    self.year = Some((value, part.len()));
                } else if self.day.is_none() && i < parts.len() {
                    self.day = Some(value as i32);
                } else {
                    return Err(Refusal::Malformed);
                }
            }
            return Ok(());
        }
        for part in parts {
            if !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Refusal::Malformed);
            }
            self.date_part(part)?;
        }
        Ok(())
    }

    /// The day, if a date was given.
    fn resolve_date(&self) -> Result<Option<i32>, Refusal> {
        if let Some(days) = self.days {
            return Ok(Some(days));
        }
        let Some((mut year, digits)) = self.year else {
            let partial = self.month.is_some() || self.day.is_some() || self.day_of_year.is_some();
            return if partial { Err(Refusal::Malformed) } else { Ok(None) };
        };
        if self.bc {
            if year <= 0 {
                return Err(Refusal::Field);
            }
            year = 1 - year;
        } else if digits <= 2 {
            year += if year < 70 { 2000 } else { 1900 };
        } else if year <= 0 {
            return Err(Refusal::Field);
        }
        let short = i32::try_from(year).map_err(|_| Refusal::Field)?;
        if let Some(day) = self.day_of_year {
            if day < 1 || day > 365 + i32::from(calendar::is_leap(short)) {
                return Err(Refusal::Field);
            }
            let days = calendar::days_from_civil(year, 1, 1) + i64::from(day) - 1;
            return i32::try_from(days).map(Some).map_err(|_| Refusal::Range);
        }
        let (Some(month), Some(day)) = (self.month, self.day) else { return Err(Refusal::Malformed) };
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(Refusal::MonthDay);
        }
        if day > calendar::days_in_month(short, month) {
            return Err(Refusal::Field);
        }
        calendar::date(year, month, day).map(Some).ok_or(Refusal::Range)
    }

    /// Microseconds since midnight, which 24:00 exceeds.
    fn resolve_time(&self) -> Result<Option<i64>, Refusal> {
        match (self.time, self.afternoon) {
            (time, None) => Ok(time),
            (None, Some(_)) => Err(Refusal::Malformed),
            (Some(time), Some(afternoon)) => {
                let hour = time / HOUR;
                if hour > 12 {
                    return Err(Refusal::Field);
                }
                Ok(Some(time % (12 * HOUR) + if afternoon { 12 * HOUR } else { 0 }))
            }
        }
    }
}

fn fraction_micros(digits: &str) -> i64 {
    if digits.is_empty() {
        return 0;
    }
    let fraction: f64 = format!("0.{digits}").parse().unwrap_or(0.0);
    (fraction * 1e6).round_ties_even() as i64
}

fn seconds(text: &str) -> Result<(i64, i64), Refusal> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::Malformed);
    }
    let second = whole.parse().map_err(|_| Refusal::Malformed)?;
    Ok((second, fraction_micros(fraction)))
}

fn clock(hour: i64, minute: i64, second: i64, micros: i64) -> Result<i64, Refusal> {
    let last = hour == 24 && (minute > 0 || second > 0 || micros > 0);
    if !(0..=24).contains(&hour) || !(0..60).contains(&minute) || !(0..=60).contains(&second) || last {
        return Err(Refusal::Field);
    }
    Ok(hour * HOUR + minute * MINUTE + second * SECOND + micros)
}

fn read(text: &str) -> Result<Reading, Refusal> {
    let trimmed = trim(text);
    if trimmed.len() > 128 {
        return Err(Refusal::Malformed);
    }
    let mut reading = Reading::default();
    let tokens = tokens(trimmed).ok_or(Refusal::Malformed)?;
    if tokens.is_empty() {
        return Err(Refusal::Malformed);
    }
    for token in tokens {
        match token {
            Token::Word(word) => reading.word(word)?,
            Token::Time(text) => reading.time(text)?,
            Token::Number(text) => reading.number(text)?,
            Token::Date(text) => reading.date(text)?,
            Token::Offset(text) => {
                let offset = numeric_offset(text).ok_or(Refusal::Displacement)?;
                // `UTC+3` in a literal: the offset counts from the zone.
                reading.zone = Some(match reading.zone.take() {
                    Some(TimeZone::Fixed(base)) => TimeZone::Fixed(base - offset),
                    Some(TimeZone::Named(_)) => return Err(Refusal::Malformed),
                    None => TimeZone::Fixed(offset),
                });
            }
        }
    }
    Ok(reading)
}

fn parse_moment(text: &str, ctx: &EvalContext, with_zone: bool) -> Result<i64, Refusal> {
    let reading = read(text)?;
    let time = reading.resolve_time()?;
    let zone = reading.zone.as_ref();
    let local = match reading.special {
        Some(Special::Infinity) => return Ok(i64::MAX),
        Some(Special::NegInfinity) => return Ok(i64::MIN),
        Some(Special::Now) => {
            let now = ctx.transaction_time;
            return Ok(if with_zone { now } else { ctx.time_zone.to_local(now) });
        }
        Some(Special::Epoch) => return Ok(-calendar::UNIX_EPOCH_MICROS),
        Some(Special::Day(offset)) => {
            let today = ctx.time_zone.to_local(ctx.transaction_time).div_euclid(DAY);
            (today + i64::from(offset)) * DAY + time.unwrap_or(0)
        }
        None => {
            let days = reading.resolve_date()?.ok_or(Refusal::Malformed)?;
            i64::from(days)
                .checked_mul(DAY)
                .and_then(|midnight| midnight.checked_add(time.unwrap_or(0)))
                .ok_or(Refusal::Range)?
        }
    };
    let result = if with_zone { zone.unwrap_or(&ctx.time_zone).to_utc(local) } else { local };
    if calendar::in_range(result) { Ok(result) } else { Err(Refusal::Range) }
}

pub(super) fn parse_timestamp(text: &str, ctx: &EvalContext) -> Result<i64> {
    parse_moment(text, ctx, false).map_err(|refusal| refusal.into_error(Type::Timestamp, text))
}

pub(super) fn parse_timestamptz(text: &str, ctx: &EvalContext) -> Result<i64> {
    parse_moment(text, ctx, true).map_err(|refusal| refusal.into_error(Type::Timestamptz, text))
}

pub(super) fn parse_date(text: &str, ctx: &EvalContext) -> Result<i32> {
    let parse = || -> Result<i32, Refusal> {
        let reading = read(text)?;
        reading.resolve_time()?;
        let today = || calendar::timestamp_to_date(ctx.time_zone.to_local(ctx.transaction_time));
        match reading.special {
            Some(Special::Infinity) => Ok(i32::MAX),
            Some(Special::NegInfinity) => Ok(i32::MIN),
            Some(Special::Now) => Ok(today()),
            Some(Special::Day(offset)) => Ok(today() + offset),
            Some(Special::Epoch) => Ok(-calendar::UNIX_EPOCH_DAYS),
            None => {
                let days = reading.resolve_date()?.ok_or(Refusal::Malformed)?;
                let valid = (calendar::DATE_MIN..calendar::DATE_END).contains(&days);
                if valid { Ok(days) } else { Err(Refusal::Range) }
            }
        }
    };
    parse().map_err(|refusal| refusal.into_error(Type::Date, text))
}

pub(super) fn parse_time(text: &str, ctx: &EvalContext) -> Result<i64> {
    parse_clock(text, ctx).map_err(|refusal| refusal.into_error(Type::Time, text))
}

/// A time of day; a date in front of it is checked and dropped.
fn parse_clock(text: &str, ctx: &EvalContext) -> Result<i64, Refusal> {
    let trimmed = trim(text);
    // A bare number is a packed time here, never a date.
    if trimmed.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !trimmed.is_empty() {
        let mut reading = Reading::default();
        reading.packed_time(trimmed)?;
        return reading.resolve_time()?.ok_or(Refusal::Malformed);
    }
    let reading = read(trimmed)?;
    if reading.special == Some(Special::Now) {
        return Ok(ctx.time_zone.to_local(ctx.transaction_time).rem_euclid(DAY));
    }
    reading.resolve_date()?;
    if reading.special.is_some() {
        return Err(Refusal::Malformed);
    }
    let time = reading.resolve_time()?.ok_or(Refusal::Malformed)?;
    if time > DAY { Err(Refusal::Field) } else { Ok(time) }
}
