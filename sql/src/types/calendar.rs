//! The proleptic Gregorian calendar on PostgreSQL's time line: days and microseconds since 2000-01-01.
//!
//! Years are astronomical: 0 is 1 BC, -1 is 2 BC.

use crate::error::{Result, SqlError, SqlState};

/// Microseconds in a day.
pub const DAY: i64 = 86_400_000_000;
/// Microseconds in an hour.
pub const HOUR: i64 = 3_600_000_000;
/// Microseconds in a minute.
pub const MINUTE: i64 = 60_000_000;
/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// Days from 1970-01-01 to 2000-01-01.
pub const UNIX_EPOCH_DAYS: i32 = 10_957;
/// Microseconds from the Unix epoch to 2000-01-01.
pub const UNIX_EPOCH_MICROS: i64 = UNIX_EPOCH_DAYS as i64 * DAY;
/// The Julian day of 2000-01-01.
pub const JULIAN_EPOCH: i32 = 2_451_545;

/// 4714-11-24 BC, Julian day 0: the first date.
pub const DATE_MIN: i32 = -JULIAN_EPOCH;
/// One past 5874897-12-31, the last date.
pub const DATE_END: i32 = 2_147_483_494 - JULIAN_EPOCH;
/// 4714-11-24 00:00 BC, the first timestamp.
pub const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
/// 294277-01-01 00:00, one past the last timestamp.
pub const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;

/// A moment taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fields {
    /// Astronomical.
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 59.
    pub second: i32,
    /// 0 to 999999.
    pub micros: i32,
}

/// Whether February has 29 days.
pub fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The number of days in a month (1 to 12).
pub fn days_in_month(year: i32, month: i32) -> i32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The day number of a date; `month` may lie outside 1 to 12 only if it was normalised before.
pub fn days_from_civil(year: i64, month: i32, day: i32) -> i64 {
    // Years that begin in March put the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * i64::from((month + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    // 730425 days lie between 0000-03-01 and 2000-01-01.
    era * 146_097 + day_of_era - 730_425
}

/// Year, month and day of a day number.
pub fn civil_from_days(days: i32) -> (i32, i32, i32) {
    let days = i64::from(days) + 730_425;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as i32, month as i32, day as i32)
}

/// The date with these fields, if it is in range.
pub fn date(year: i64, month: i32, day: i32) -> Option<i32> {
    let days = days_from_civil(year, month, day);
    (i64::from(DATE_MIN)..i64::from(DATE_END)).contains(&days).then_some(days as i32)
}

/// Takes a finite timestamp apart.
pub fn fields(micros: i64) -> Fields {
    let (year, month, day) = civil_from_days(micros.div_euclid(DAY) as i32);
    let time = micros.rem_euclid(DAY);
    Fields {
        year,
        month,
        day,
        hour: (time / HOUR) as i32,
        minute: (time / MINUTE % 60) as i32,
        second: (time / SECOND % 60) as i32,
        micros: (time % SECOND) as i32,
    }
}

impl Fields {
    /// Microseconds since midnight.
    pub fn time(&self) -> i64 {
        i64::from(self.hour) * HOUR
            + i64::from(self.minute) * MINUTE
            + i64::from(self.second) * SECOND
            + i64::from(self.micros)
    }

    /// The timestamp, if it is in range.
    pub fn timestamp(&self) -> Option<i64> {
        let days = days_from_civil(i64::from(self.year), self.month, self.day);
        days.checked_mul(DAY)?.checked_add(self.time()).filter(|t| in_range(*t))
    }
}

/// Whether a finite timestamp is within PostgreSQL's range.
pub fn in_range(micros: i64) -> bool {
    (TIMESTAMP_MIN..TIMESTAMP_END).contains(&micros)
}

/// Whether a timestamp is one of the infinities.
pub fn is_infinite(micros: i64) -> bool {
    micros == i64::MIN || micros == i64::MAX
}

/// 0 is Sunday.
pub fn day_of_week(days: i32) -> i32 {
    (i64::from(days) + 6).rem_euclid(7) as i32
}

/// 1 to 366.
pub fn day_of_year(days: i32) -> i32 {
    let (year, _, _) = civil_from_days(days);
    (i64::from(days) - days_from_civil(i64::from(year), 1, 1)) as i32 + 1
}

/// The day number of the Monday that begins an ISO year.
pub fn iso_year_start(year: i32) -> i64 {
    let fourth = days_from_civil(i64::from(year), 1, 4);
    fourth - (fourth + 5).rem_euclid(7)
}

/// ISO year and week.
pub fn iso_week(days: i32) -> (i32, i32) {
    let (mut year, _, _) = civil_from_days(days);
    let days = i64::from(days);
    if days < iso_year_start(year) {
        year -= 1;
    } else if days >= iso_year_start(year + 1) {
        year += 1;
    }
    (year, ((days - iso_year_start(year)) / 7) as i32 + 1)
}

/// `22008`: a timestamp beyond the calendar.
pub fn timestamp_out_of_range() -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range")
}

/// `22008`: a date beyond the calendar.
pub fn date_out_of_range() -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "date out of range")
}

/// Checks a computed timestamp.
pub fn checked(micros: Option<i64>) -> Result<i64> {
    micros.filter(|t| in_range(*t)).ok_or_else(timestamp_out_of_range)
}

/// A date's midnight; infinities stay what they are.
pub fn date_to_timestamp(days: i32) -> Result<i64> {
    match days {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        days => i64::from(days).checked_mul(DAY).filter(|t| in_range(*t)).ok_or_else(|| {
            SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "date out of range for timestamp")
        }),
    }
}

/// A timestamp's date; infinities stay what they are.
pub fn timestamp_to_date(micros: i64) -> i32 {
    match micros {
        i64::MIN => i32::MIN,
        i64::MAX => i32::MAX,
        micros => micros.div_euclid(DAY) as i32,
    }
}
