//! Floating-point numbers: the shortest digits that read back as the same number.

use super::{invalid, trim};
use crate::error::{Result, SqlError, SqlState};
use crate::types::Type;

/// `double precision` as text.
pub fn format_f64(value: f64) -> String {
    if value.is_finite() { layout(&format!("{value:e}"), 15) } else { special(value) }
}

/// `real` as text.
pub fn format_f32(value: f32) -> String {
    if value.is_finite() { layout(&format!("{value:e}"), 6) } else { special(f64::from(value)) }
}

fn special(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN",
        v if v > 0.0 => "Infinity",
        _ => "-Infinity",
    }
    .into()
}

/// Lays shortest digits (`-d.ddde-x`) out like C's `%g` with `digits` significant digits would.
fn layout(scientific: &str, digits: i32) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..digits).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let bare = mantissa.replace('.', "");
    if exponent < 0 {
        return format!("{sign}0.{}{bare}", "0".repeat(exponent.unsigned_abs() as usize - 1));
    }
    let whole = exponent as usize + 1;
    if bare.len() <= whole {
        format!("{sign}{bare:0<whole$}")
    } else {
        format!("{sign}{}.{}", &bare[..whole], &bare[whole..])
    }
}

fn out_of_range(text: &str, ty: Type) -> SqlError {
    SqlError::new(
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        format!("\"{text}\" is out of range for type {}", ty.name()),
    )
}

fn word(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "nan" => Some(f64::NAN),
        "infinity" | "inf" | "+infinity" | "+inf" => Some(f64::INFINITY),
        "-infinity" | "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Decimal digits, at most one point, an optional exponent; Rust's own words for specials are not SQL's.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
}

fn has_nonzero_digit(text: &str) -> bool {
    text.bytes().take_while(|b| !matches!(b, b'e' | b'E')).any(|b| matches!(b, b'1'..=b'9'))
}

pub(super) fn parse_f64(text: &str) -> Result<f64> {
    let trimmed = trim(text);
    if let Some(value) = word(trimmed) {
        return Ok(value);
    }
    match trimmed.parse::<f64>() {
        Ok(value) if is_number(trimmed) => {
            if value.is_infinite() || (value == 0.0 && has_nonzero_digit(trimmed)) {
                return Err(out_of_range(trimmed, Type::Float8));
            }
            Ok(value)
        }
        _ => Err(invalid(Type::Float8, text)),
    }
}

pub(super) fn parse_f32(text: &str) -> Result<f32> {
    let trimmed = trim(text);
    if let Some(value) = word(trimmed) {
        return Ok(value as f32);
    }
    match trimmed.parse::<f32>() {
        Ok(value) if is_number(trimmed) => {
            if value.is_infinite() || (value == 0.0 && has_nonzero_digit(trimmed)) {
                return Err(out_of_range(trimmed, Type::Float4));
            }
            Ok(value)
        }
        _ => Err(invalid(Type::Float4, text)),
    }
}
