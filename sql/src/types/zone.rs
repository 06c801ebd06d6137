//! Time zones.

use std::fmt;

use chrono::offset::{LocalResult, Offset, TimeZone as _};
use chrono::{DateTime, NaiveDateTime};

use super::calendar::{DAY, SECOND, UNIX_EPOCH_MICROS};

/// A session's time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeZone {
    /// Seconds east of UTC.
    Fixed(i32),
    /// A zone of the IANA database.
    Named(chrono_tz::Tz),
}

impl Default for TimeZone {
    fn default() -> Self {
        TimeZone::Fixed(0)
    }
}

/// PostgreSQL's default abbreviations (`pg_timezone_abbrevs`), those in wide use; seconds east of UTC.
const ABBREVIATIONS: &[(&str, i32)] = &[
    ("utc", 0),
    ("gmt", 0),
    ("ut", 0),
    ("z", 0),
    ("zulu", 0),
    ("wet", 0),
    ("west", 3600),
    ("bst", 3600),
    ("cet", 3600),
    ("met", 3600),
    ("cest", 7200),
    ("mest", 7200),
    ("eet", 7200),
    ("eest", 10_800),
    ("msk", 10_800),
    ("msd", 14_400),
    ("ist", 7200),
    ("sast", 7200),
    ("jst", 32_400),
    ("kst", 32_400),
    ("awst", 28_800),
    ("acst", 34_200),
    ("aest", 36_000),
    ("aedt", 39_600),
    ("nzst", 43_200),
    ("nzdt", 46_800),
    ("ast", -14_400),
    ("adt", -10_800),
    ("est", -18_000),
    ("edt", -14_400),
    ("cst", -21_600),
    ("cdt", -18_000),
    ("mst", -25_200),
    ("mdt", -21_600),
    ("pst", -28_800),
    ("pdt", -25_200),
    ("akst", -32_400),
    ("akdt", -28_800),
    ("hst", -36_000),
];

/// The farthest offset that PostgreSQL accepts, exclusive.
const OFFSET_MAX: i32 = 16 * 3600;

/// The offset of an abbreviation, in seconds east of UTC; `name` in lower case.
pub(crate) fn abbreviation(name: &str) -> Option<i32> {
    ABBREVIATIONS.iter().find(|(abbreviation, _)| *abbreviation == name).map(|(_, offset)| *offset)
}

/// `+hh`, `+hhmm`, `+hh:mm`, `+hh:mm:ss` in seconds, positive as written.
pub(crate) fn numeric_offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let mut fields = rest.split(':');
    let first = fields.next()?;
    if first.is_empty() || !first.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (mut hours, mut minutes) = (first.parse::<i32>().ok()?, 0);
    let mut seconds = 0;
    match fields.next() {
        None if first.len() > 2 => (hours, minutes) = (hours / 100, hours % 100),
        None => {}
        Some(field) => {
            minutes = field.parse::<u8>().ok()?.into();
            seconds = fields.next().map_or(Some(0), |field| field.parse::<u8>().ok().map(i32::from))?;
        }
    }
    if fields.next().is_some() || minutes > 59 || seconds > 59 || hours > 15 {
        return None;
    }
    Some(sign * (hours * 3600 + minutes * 60 + seconds))
}

impl TimeZone {
    /// The zone that `SET TIME ZONE` and `AT TIME ZONE` mean by `name`: an IANA name, an abbreviation, or a POSIX
    /// offset (`UTC+3`, `+3`), which counts west of UTC.
    pub fn by_name(name: &str) -> Option<TimeZone> {
        let lower = name.trim().to_ascii_lowercase();
        if let Some(offset) = abbreviation(&lower) {
            if offset == 0 {
                return Some(TimeZone::Fixed(0));
            }
            // `EST` and its like are also names in the IANA database, with the same meaning.
            return Some(TimeZone::Fixed(offset));
        }
        let exact = name.trim().parse::<chrono_tz::Tz>().ok();
        let zone = exact.or_else(|| {
            chrono_tz::TZ_VARIANTS.iter().copied().find(|zone| zone.name().eq_ignore_ascii_case(&lower))
        });
        if let Some(zone) = zone {
            return Some(match zone {
                chrono_tz::Tz::UTC | chrono_tz::Tz::Etc__UTC | chrono_tz::Tz::Etc__GMT => TimeZone::Fixed(0),
                zone => TimeZone::Named(zone),
            });
        }
        let digits = lower.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let digits = match digits.as_bytes().first()? {
            b'<' => digits.split_once('>')?.1,
            _ => digits,
        };
        let signed = if digits.starts_with(|c: char| c.is_ascii_digit()) {
            format!("+{digits}")
        } else {
            digits.into()
        };
        numeric_offset(&signed).map(|west| TimeZone::Fixed(-west))
    }

    /// `SET TIME ZONE <number of hours>`; east of UTC.
    pub fn from_hours(hours: f64) -> Option<TimeZone> {
        let seconds = hours * 3600.0;
        (seconds.abs() < f64::from(OFFSET_MAX)).then_some(TimeZone::Fixed(seconds as i32))
    }

    /// The offset, in seconds east of UTC, at an instant (microseconds since 2000-01-01 UTC).
    pub fn offset_at(&self, utc: i64) -> i32 {
        match self {
            TimeZone::Fixed(offset) => *offset,
            TimeZone::Named(zone) => zone.offset_from_utc_datetime(&naive(utc)).fix().local_minus_utc(),
        }
    }

    /// The zone's name for its offset at an instant (`CET`); empty for a fixed offset other than UTC.
    pub fn abbreviation_at(&self, utc: i64) -> String {
        match self {
            TimeZone::Fixed(0) => "UTC".into(),
            TimeZone::Fixed(_) => String::new(),
            TimeZone::Named(zone) => zone.offset_from_utc_datetime(&naive(utc)).to_string(),
        }
    }

    /// The offset that holds for a local time. A time that a spring transition skips is read with the offset before
    /// it, one that occurs twice with the offset after: both are standard time.
    pub fn offset_for_local(&self, local: i64) -> i32 {
        match self {
            TimeZone::Fixed(offset) => *offset,
            TimeZone::Named(zone) => match zone.offset_from_local_datetime(&naive(local)) {
                LocalResult::Single(offset) => offset.fix().local_minus_utc(),
                LocalResult::Ambiguous(_, after) => after.fix().local_minus_utc(),
                LocalResult::None => self.offset_at(local.saturating_sub(DAY)),
            },
        }
    }

    /// An instant's local time; infinities stay what they are.
    pub fn to_local(&self, utc: i64) -> i64 {
        if utc == i64::MIN || utc == i64::MAX {
            return utc;
        }
        utc.saturating_add(i64::from(self.offset_at(utc)) * SECOND)
    }

    /// A local time's instant; infinities stay what they are.
    pub fn to_utc(&self, local: i64) -> i64 {
        if local == i64::MIN || local == i64::MAX {
            return local;
        }
        local.saturating_sub(i64::from(self.offset_for_local(local)) * SECOND)
    }
}

/// A calendar's date and time. The calendar library reaches a quarter of a million years: what lies beyond gets the
/// offset at its end.
fn naive(micros: i64) -> NaiveDateTime {
    let unix = micros.saturating_add(UNIX_EPOCH_MICROS);
    match DateTime::from_timestamp_micros(unix) {
        Some(instant) => instant.naive_utc(),
        None if micros < 0 => NaiveDateTime::MIN,
        None => NaiveDateTime::MAX,
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeZone::Fixed(0) => f.write_str("UTC"),
            TimeZone::Named(zone) => f.write_str(zone.name()),
            TimeZone::Fixed(offset) => {
                let sign = if *offset < 0 { ('-', '+') } else { ('+', '-') };
                let (hours, minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
                let text =
                    if minutes == 0 { format!("{hours:02}") } else { format!("{hours:02}:{minutes:02}") };
                write!(f, "<{}{text}>{}{text}", sign.0, sign.1)
            }
        }
    }
}
