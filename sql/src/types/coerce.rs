//! Type modifiers.

use std::sync::Arc;

use super::calendar::SECOND;
use super::{ColumnType, Datum, Interval, Numeric, Type};
use crate::error::{Result, SqlError, SqlState};

/// Applies the modifier of `ty` to a value that has the type already. `explicit`: a string that is too long is cut,
/// otherwise it is `22001`, unless only blanks are lost.
pub fn coerce(datum: Datum, ty: ColumnType, explicit: bool) -> Result<Datum> {
    if ty.typmod < 0 {
        return Ok(datum);
    }
    match datum {
        Datum::Text(text) => match ty.length() {
            Some(length) => cut(text, length, ty.ty, explicit),
            None => Ok(Datum::Text(text)),
        },
        Datum::Numeric(value) => match ty.precision_scale() {
            Some((precision, scale)) => fit(&value, precision, scale).map(|v| Datum::Numeric(Arc::new(v))),
            None => Ok(Datum::Numeric(value)),
        },
        Datum::Time(v) => Ok(Datum::Time(round(v, ty))),
        Datum::Timestamp(v) => Ok(Datum::Timestamp(round(v, ty))),
        Datum::Timestamptz(v) => Ok(Datum::Timestamptz(round(v, ty))),
        Datum::Interval(v) => Ok(Datum::Interval(Interval { micros: round(v.micros, ty), ..v })),
        other => Ok(other),
    }
}

fn cut(text: Arc<str>, length: usize, ty: Type, explicit: bool) -> Result<Datum> {
    // No string has more characters than bytes.
    let end = if text.len() <= length { None } else { text.char_indices().nth(length).map(|(at, _)| at) };
    let kept = match end {
        None => &*text,
        Some(end) if explicit || text[end..].bytes().all(|b| b == b' ') => &text[..end],
        Some(_) => {
            return Err(SqlError::new(
                SqlState::STRING_DATA_RIGHT_TRUNCATION,
                format!("value too long for type {}({length})", ty.name()),
            ));
        }
    };
    let kept = if ty == Type::Bpchar { kept.trim_end_matches(' ') } else { kept };
    Ok(if kept.len() == text.len() { Datum::Text(text) } else { Datum::text(kept) })
}

fn fit(value: &Numeric, precision: u32, scale: i32) -> Result<Numeric> {
    let overflow = |detail: String| {
        Err(SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow").detail(detail))
    };
    match value {
        Numeric::NaN => return Ok(Numeric::NaN),
        Numeric::PosInf | Numeric::NegInf => {
            return overflow(format!(
                "A field with precision {precision}, scale {scale} cannot hold an infinite value."
            ));
        }
        Numeric::Finite(_) => {}
    }
    let rounded = value.round(i64::from(scale));
    let whole_max = i64::from(precision) - i64::from(scale);
    let fits = if whole_max >= 0 {
        rounded.whole_digits() as i64 <= whole_max
    } else {
        // A scale above the precision: the value must stay below 10^whole_max.
        let limit = Numeric::from_parts(1, whole_max.unsigned_abs() as u16);
        rounded.abs() < limit
    };
    if fits {
        return Ok(rounded);
    }
    let limit = if whole_max == 0 { "1".to_string() } else { format!("10^{whole_max}") };
    overflow(format!(
        "A field with precision {precision}, scale {scale} must round to an absolute value less than {limit}."
    ))
}

/// Rounds microseconds half away from zero to the type's number of fractional digits.
fn round(micros: i64, ty: ColumnType) -> i64 {
    let Some(precision) = ty.time_precision() else { return micros };
    if micros == i64::MIN || micros == i64::MAX {
        return micros;
    }
    let unit = SECOND / 10_i64.pow(precision);
    let half = unit / 2;
    if micros >= 0 {
        micros.saturating_add(half) / unit * unit
    } else {
        -((-micros).saturating_add(half) / unit * unit)
    }
}
