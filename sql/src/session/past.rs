//! AS OF SYSTEM TIME: reading the past.
//!
//! CockroachDB's syntax: `SELECT … FROM t AS OF SYSTEM TIME '-10s' WHERE …`, `BEGIN AS OF SYSTEM TIME …`, `SET TRANSACTION AS OF SYSTEM
//! TIME …`. The moment is a constant: a time stamp, an interval that goes back from now, or a timestamp of ours
//! (`milliseconds.counter`). It is one for the whole statement or transaction, which is read-only, and reads the tables as they were
//! then, their columns included. How far back one can read is for garbage collection to say. What lies a few seconds back is answered by any replica:
//! `docs/closed-timestamps.md`.

use std::time::Duration;

use txn::ids::Timestamp;

use super::run::Runnable;
use super::{EPOCH_OFFSET_MICROS, Session};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Datum, Interval, Type, io};

/// What the oracle said longer ago says too little about the present: monotonic clocks are not that equal.
const RECENT: Duration = Duration::from_secs(30);
/// A month, where an interval has some: the past need not be exact to the day.
const MONTH_DAYS: i64 = 30;
const DAY_MICROS: i64 = 86_400_000_000;

impl Session {
    /// The moment that a constant names, and how long ago that was.
    ///
    /// The oracle is asked only if what this node has heard of it lately doesn't tell that the moment is over: so reading the past goes on
    /// while nobody leads the meta-group, and costs no round trip.
    pub(super) async fn moment(&mut self, text: &str) -> Result<(Timestamp, Duration)> {
        if let Some((known, age)) = self.shared.database.recent().filter(|(_, age)| *age <= RECENT) {
            let passed = u64::try_from(age.as_millis()).unwrap_or(0) << Timestamp::COUNTER_BITS;
            let (at, ago) = self.moment_from(text, Timestamp(known.0.saturating_add(passed)))?;
            if at <= known {
                return Ok((at, ago));
            }
        }
        let now = self.shared.database.timestamp().await?;
        let (at, ago) = self.moment_from(text, now)?;
        match at > now {
            true => Err(refused(text, "is in the future")),
            false => Ok((at, ago)),
        }
    }

    fn moment_from(&self, text: &str, now: Timestamp) -> Result<(Timestamp, Duration)> {
        let at = match own_timestamp(text) {
            Some(at) => at,
            None => self.wall_moment(text, now)?,
        };
        if at == Timestamp::ZERO {
            return Err(refused(text, "is before all time"));
        }
        let ago = Duration::from_millis(now.physical_ms().saturating_sub(at.physical_ms()));
        Ok((at, ago))
    }

    fn wall_moment(&self, text: &str, now: Timestamp) -> Result<Timestamp> {
        let zone = self.settings.time_zone().clone();
        let context = self.eval_context(&zone);
        let back = text.trim_start().starts_with('-');
        let micros = if back {
            match io::parse(text, Type::Interval.into(), &context)? {
                Datum::Interval(Interval { months, days, micros }) => {
                    let days = i64::from(months) * MONTH_DAYS + i64::from(days);
                    let by = days.saturating_mul(DAY_MICROS).saturating_add(micros);
                    (now.physical_ms() as i64).saturating_mul(1000).saturating_add(by)
                }
                _ => return Err(SqlError::internal("an interval is none")),
            }
        } else {
            match io::parse(text, Type::Timestamptz.into(), &context)? {
                Datum::Timestamptz(micros) => micros.saturating_add(EPOCH_OFFSET_MICROS),
                _ => return Err(SqlError::internal("a time stamp is none")),
            }
        };
        let millis = u64::try_from(micros.div_euclid(1000)).unwrap_or(0);
        // Everything that was committed within that millisecond counts as later.
        Ok(Timestamp(millis.saturating_mul(1 << Timestamp::COUNTER_BITS)))
    }

    /// A statement's AS OF SYSTEM TIME in a block: it holds for the block.
    pub(super) async fn read_as_of(&mut self, runnable: &Runnable<'_>) -> Result<()> {
        let Some(text) = runnable.statement.as_of() else { return Ok(()) };
        let (at, ago) = self.moment(text).await?;
        self.read_block_as_of(text, at, ago).await
    }
}

/// `milliseconds.counter`, or milliseconds alone.
fn own_timestamp(text: &str) -> Option<Timestamp> {
    let (millis, counter) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let (millis, counter): (u64, u64) = (millis.parse().ok()?, counter.parse().ok()?);
    // (A date like 20260101 is none of ours.)
    let ours = millis >= 1 << 33 && counter < 1 << Timestamp::COUNTER_BITS;
    let base = ours.then(|| millis.checked_mul(1 << Timestamp::COUNTER_BITS)).flatten()?;
    Some(Timestamp(base + counter))
}

fn refused(text: &str, why: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("AS OF SYSTEM TIME: \"{text}\" {why}"))
        .hint("Give a time stamp in the past, or an interval that goes back from now, as in '-10s'.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_timestamps_are_milliseconds_and_a_counter() {
        let at = Timestamp((1_795_283_743_000 << Timestamp::COUNTER_BITS) + 7);
        assert_eq!(own_timestamp(&at.to_string()), Some(at));
        assert_eq!(own_timestamp("20260101"), None);
        assert_eq!(own_timestamp("-10s"), None);
        assert_eq!(own_timestamp("2026-01-01 00:00:00.5"), None);
    }
}
