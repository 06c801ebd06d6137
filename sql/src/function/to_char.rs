//! `to_char`, `to_date` and `to_timestamp` of moments: template patterns (PostgreSQL 15, table 9.27).

use super::Function;
use super::define::{Args, f};
use super::template_date::read;
use crate::error::Result;
use crate::types::calendar::{self, DAY, HOUR, JULIAN_EPOCH, MINUTE, SECOND};
use crate::types::{Datum, Interval, TimeZone, Type};

pub(super) static FUNCTIONS: &[Function] = &[
    f("to_char", &[Type::Timestamp, Type::Text], Type::Text, |_, a| {
        let moment = a.timestamp(0)?;
        Ok(shown(moment, || format(a.text(1).unwrap_or(""), &Moment::of(moment, None))))
    })
    .stable(),
    f("to_char", &[Type::Timestamptz, Type::Text], Type::Text, |c, a| {
        let moment = a.timestamptz(0)?;
        let pattern = a.text(1)?;
        Ok(shown(moment, || zoned(moment, pattern, &c.time_zone).unwrap_or_default()))
    })
    .stable(),
    f("to_char", &[Type::Interval, Type::Text], Type::Text, |_, a| {
        Ok(Datum::text(format(a.text(1)?, &Moment::of_interval(a.interval(0)?))))
    })
    .stable(),
    f("to_date", &[Type::Text, Type::Text], Type::Date, |_, a| {
        read(a.text(0)?, a.text(1)?).and_then(|parsed| parsed.date()).map(Datum::Date)
    })
    .stable(),
    f("to_timestamp", &[Type::Text, Type::Text], Type::Timestamptz, |c, a| {
        read(a.text(0)?, a.text(1)?).and_then(|parsed| parsed.instant(&c.time_zone)).map(Datum::Timestamptz)
    })
    .stable(),
];

/// Infinite moments have no text.
fn shown(moment: i64, text: impl FnOnce() -> String) -> Datum {
    if calendar::is_infinite(moment) { Datum::Null } else { Datum::text(text()) }
}

pub(super) fn zoned(utc: i64, pattern: &str, zone: &TimeZone) -> Result<String> {
    let offset = zone.offset_at(utc);
    let name = zone.abbreviation_at(utc);
    Ok(format(pattern, &Moment::of(zone.to_local(utc), Some((offset, name)))))
}

/// What a template shows.
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// Since 2000-01-01; `None` for an interval.
    days: Option<i32>,
    zone: Option<(i32, String)>,
}

impl Moment {
    fn of(local: i64, zone: Option<(i32, String)>) -> Self {
        let fields = calendar::fields(local);
        Self {
            year: fields.year.into(),
            month: fields.month.into(),
            day: fields.day.into(),
            hour: fields.hour.into(),
            minute: fields.minute.into(),
            second: fields.second.into(),
            micros: fields.micros.into(),
            days: Some(local.div_euclid(DAY) as i32),
            zone,
        }
    }

    fn of_interval(v: Interval) -> Self {
        Self {
            year: i64::from(v.months / 12),
            month: i64::from(v.months % 12),
            day: v.days.into(),
            hour: v.micros / HOUR,
            minute: v.micros / MINUTE % 60,
            second: v.micros / SECOND % 60,
            micros: v.micros % SECOND,
            days: None,
            zone: None,
        }
    }

    /// The year as it is counted: without a year 0.
    fn shown_year(&self) -> i64 {
        if self.days.is_some() && self.year <= 0 { 1 - self.year } else { self.year }
    }

    fn day_of_year(&self) -> i64 {
        match self.days {
            Some(days) => calendar::day_of_year(days).into(),
            None => self.year * 360 + self.month * 30 + self.day,
        }
    }
}

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
pub(super) const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
pub(super) const ROMAN: [&str; 12] =
    ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// The patterns, longer ones before their prefixes. Words come in three cases.
pub(super) const KEYWORDS: &[&str] = &[
    "A.D.", "A.M.", "AD", "AM", "a.d.", "a.m.", "ad", "am", "B.C.", "BC", "b.c.", "bc", "CC", "cc", "DAY",
    "Day", "day", "DDD", "ddd", "DD", "dd", "DY", "Dy", "dy", "D", "d", "FF1", "FF2", "FF3", "FF4", "FF5",
    "FF6", "ff1", "ff2", "ff3", "ff4", "ff5", "ff6", "HH24", "hh24", "HH12", "hh12", "HH", "hh", "IDDD",
    "iddd", "ID", "id", "IW", "iw", "IYYY", "iyyy", "IYY", "iyy", "IY", "iy", "I", "i", "J", "j", "MI", "mi",
    "MM", "mm", "MONTH", "Month", "month", "MON", "Mon", "mon", "MS", "ms", "OF", "P.M.", "PM", "p.m.", "pm",
    "Q", "q", "RM", "rm", "SSSSS", "sssss", "SSSS", "ssss", "SS", "ss", "TZH", "TZM", "TZ", "tzh", "tzm",
    "tz", "US", "us", "WW", "ww", "W", "w", "Y,YYY", "y,yyy", "YYYY", "yyyy", "YYY", "yyy", "YY", "yy", "Y",
    "y",
];

/// A piece of a template.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// A pattern, with the modifier FM in front, and TH behind.
    Field { keyword: &'static str, fill: bool, ordinal: Option<&'a str> },
    /// A character that stands for itself; `quoted`: inside quotation marks.
    Literal { c: char, quoted: bool },
}

/// Cuts a template into its pieces.
pub(super) fn pieces(pattern: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let mut rest = pattern;
    let mut fill = false;
    while let Some(c) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            fill = true;
            rest = tail;
            continue;
        }
        if let Some(tail) = rest.strip_prefix("FX").or_else(|| rest.strip_prefix("fx")) {
            rest = tail;
            continue;
        }
        if let Some(keyword) = KEYWORDS.iter().copied().find(|keyword| rest.starts_with(keyword)) {
            rest = &rest[keyword.len()..];
            let ordinal = ["TH", "th"].into_iter().find(|th| rest.starts_with(th));
            rest = &rest[ordinal.map_or(0, str::len)..];
            out.push(Piece::Field { keyword, fill: std::mem::take(&mut fill), ordinal });
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => {
                let mut chars = rest.char_indices();
                let mut end = rest.len();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => {
                            if let Some((_, c)) = chars.next() {
                                out.push(Piece::Literal { c, quoted: true });
                            }
                        }
                        c => out.push(Piece::Literal { c, quoted: true }),
                    }
                }
                rest = &rest[end..];
            }
            '\\' if rest.starts_with('"') => {
                out.push(Piece::Literal { c: '"', quoted: false });
                rest = &rest[1..];
            }
            c => out.push(Piece::Literal { c, quoted: false }),
        }
    }
    out
}

/// `st`, `nd`, `rd`, `th`
pub(super) fn ordinal_suffix(number: i64) -> &'static str {
    let number = number.unsigned_abs();
    if (11..=13).contains(&(number % 100)) {
        return "th";
    }
    match number % 10 {
        1 => "st",
        2 => "nd",
        3 => "rd",
        _ => "th",
    }
}

fn format(pattern: &str, moment: &Moment) -> String {
    let mut out = String::new();
    for piece in pieces(pattern) {
        match piece {
            Piece::Literal { c, .. } => out.push(c),
            Piece::Field { keyword, fill, ordinal } => {
                let (text, number) = field(keyword, fill, moment);
                out.push_str(&text);
                if let (Some(th), Some(number)) = (ordinal, number) {
                    let suffix = ordinal_suffix(number);
                    out.push_str(&if th == "TH" { suffix.to_uppercase() } else { suffix.into() });
                }
            }
        }
    }
    out
}

/// A word in the case of its keyword, padded to nine characters unless FM says otherwise.
fn word(name: &str, keyword: &str, pad: bool) -> String {
    let cased = if keyword.chars().all(|c| !c.is_ascii_lowercase()) {
        name.to_uppercase()
    } else if keyword.starts_with(|c: char| c.is_ascii_uppercase()) {
        name.to_string()
    } else {
        name.to_lowercase()
    };
    if pad { format!("{cased:<9}") } else { cased }
}

/// A field's text, and its number for TH.
fn field(keyword: &str, fill: bool, m: &Moment) -> (String, Option<i64>) {
    let number = |value: i64, width: usize| {
        let text = match (fill, value < 0) {
            (true, _) => value.to_string(),
            // The sign doesn't count.
            (false, true) => format!("-{:0width$}", value.unsigned_abs()),
            (false, false) => format!("{value:0width$}"),
        };
        (text, Some(value))
    };
    let plain = |text: String| (text, None);
    let half = |upper: &str| plain(word(upper, keyword, false));
    let afternoon = m.hour.rem_euclid(24) >= 12;
    let bc = m.year <= 0 && m.days.is_some();
    let year = m.shown_year();
    let iso = m.days.map(calendar::iso_week);
    let iso_year = iso.map_or(m.year, |(year, _)| if year <= 0 { 1 - i64::from(year) } else { year.into() });
    let weekday = m.days.map_or(0, calendar::day_of_week) as usize;
    match keyword.to_ascii_uppercase().as_str() {
        "HH24" => number(m.hour, 2),
        "HH" | "HH12" => number(if m.hour % 12 == 0 { 12 } else { m.hour % 12 }, 2),
        "MI" => number(m.minute, 2),
        "SS" => number(m.second, 2),
        "MS" | "FF3" => number(m.micros / 1000, 3),
        "US" | "FF6" => number(m.micros, 6),
        "FF1" => number(m.micros / 100_000, 1),
        "FF2" => number(m.micros / 10_000, 2),
        "FF4" => number(m.micros / 100, 4),
        "FF5" => number(m.micros / 10, 5),
        "SSSS" | "SSSSS" => {
            let seconds = m.hour * 3600 + m.minute * 60 + m.second;
            (seconds.to_string(), Some(seconds))
        }
        "AM" | "PM" => half(if afternoon { "PM" } else { "AM" }),
        "A.M." | "P.M." => half(if afternoon { "P.M." } else { "A.M." }),
        "BC" | "AD" => half(if bc { "BC" } else { "AD" }),
        "B.C." | "A.D." => half(if bc { "B.C." } else { "A.D." }),
        "MONTH" | "MON" if !(1..=12).contains(&m.month) => plain(String::new()),
        "MONTH" => plain(word(MONTHS[m.month as usize - 1], keyword, !fill)),
        "MON" => plain(word(&MONTHS[m.month as usize - 1][..3], keyword, false)),
        "MM" => number(m.month, 2),
        "DAY" => plain(word(DAYS[weekday], keyword, !fill)),
        "DY" => plain(word(&DAYS[weekday][..3], keyword, false)),
        "DDD" => number(m.day_of_year(), 3),
        "IDDD" => {
            let start = iso.map_or(0, |(year, _)| calendar::iso_year_start(year));
            number(i64::from(m.days.unwrap_or(0)) - start + 1, 3)
        }
        "DD" => number(m.day, 2),
        "D" => (format!("{}", weekday + 1), Some(weekday as i64 + 1)),
        "ID" => {
            let day = (weekday + 6) % 7 + 1;
            (day.to_string(), Some(day as i64))
        }
        "WW" => number((m.day_of_year() - 1) / 7 + 1, 2),
        "IW" => number(iso.map_or(0, |(_, week)| week.into()), 2),
        "W" => {
            let week = (m.day - 1) / 7 + 1;
            (week.to_string(), Some(week))
        }
        "Q" if m.month == 0 => plain(String::new()),
        "Q" => {
            let quarter = (m.month - 1) / 3 + 1;
            (quarter.to_string(), Some(quarter))
        }
        "CC" => {
            let year = m.year;
            let century = if m.days.is_none() {
                year / 100
            } else if year > 0 {
                (year - 1) / 100 + 1
            } else {
                year / 100 - 1
            };
            if (-99..=99).contains(&century) {
                number(century, 2)
            } else {
                (century.to_string(), Some(century))
            }
        }
        "RM" if m.month == 0 => plain(String::new()),
        "RM" => {
            let roman = ROMAN[(m.month - 1).rem_euclid(12) as usize];
            let cased = word(roman, keyword, false);
            plain(if fill { cased } else { format!("{cased:<4}") })
        }
        "Y,YYY" => {
            let thousands = year / 1000;
            (format!("{thousands},{:03}", year - thousands * 1000), Some(year))
        }
        "YYYY" => number(year, 4),
        "YYY" => number(year % 1000, 3),
        "YY" => number(year % 100, 2),
        "Y" => number(year % 10, 1),
        "IYYY" => number(iso_year, 4),
        "IYY" => number(iso_year % 1000, 3),
        "IY" => number(iso_year % 100, 2),
        "I" => number(iso_year % 10, 1),
        "J" => {
            let day = i64::from(m.days.unwrap_or(0)) + i64::from(JULIAN_EPOCH);
            (day.to_string(), Some(day))
        }
        "TZ" => plain(match &m.zone {
            Some((_, name)) if keyword == "tz" => name.to_lowercase(),
            Some((_, name)) => name.clone(),
            None => String::new(),
        }),
        "TZH" => plain(m.zone.as_ref().map_or(String::new(), |(offset, _)| {
            format!("{}{:02}", if *offset < 0 { '-' } else { '+' }, offset.abs() / 3600)
        })),
        "TZM" => plain(
            m.zone.as_ref().map_or(String::new(), |(offset, _)| format!("{:02}", offset.abs() / 60 % 60)),
        ),
        "OF" => plain(m.zone.as_ref().map_or(String::new(), |(offset, _)| {
            let sign = if *offset < 0 { '-' } else { '+' };
            let minutes = offset.abs() / 60 % 60;
            if minutes == 0 {
                format!("{sign}{:02}", offset.abs() / 3600)
            } else {
                format!("{sign}{:02}:{minutes:02}", offset.abs() / 3600)
            }
        })),
        _ => plain(keyword.into()),
    }
}
