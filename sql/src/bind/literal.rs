//! Literals.

use sqlparser::ast::{self, DateTimeField, Value, ValueWithSpan};

use super::Binder;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;
use crate::types::{self, ColumnType, Datum, Type};

/// An untyped string.
pub(super) fn unknown(text: &str) -> Expr {
    Expr::Const(Datum::text(text), ColumnType::plain(Type::Unknown))
}

impl Binder<'_> {
    pub(super) fn value(&mut self, value: &ValueWithSpan) -> Result<Expr> {
        let position = self.source.start(value.span);
        match &value.value {
            Value::Number(digits, false) => self.number(digits, position),
            Value::SingleQuotedString(s)
            | Value::EscapedStringLiteral(s)
            | Value::UnicodeStringLiteral(s) => {
                if s.contains('\0') {
                    return Err(SqlError::new(
                        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                        "invalid byte sequence for encoding \"UTF8\": 0x00",
                    )
                    .at(position));
                }
                Ok(unknown(s))
            }
            Value::DollarQuotedString(s) => Ok(unknown(&s.value)),
            Value::Boolean(b) => Ok(Expr::Const(Datum::Bool(*b), ColumnType::plain(Type::Bool))),
            Value::Null => Ok(Expr::Const(Datum::Null, ColumnType::plain(Type::Unknown))),
            Value::Placeholder(text) => self.param(text, position),
            Value::HexStringLiteral(_) | Value::SingleQuotedByteStringLiteral(_) => {
                Err(SqlError::unsupported("a bit string").at(position))
            }
            Value::NationalStringLiteral(_) => {
                Err(SqlError::unsupported("a national character string").at(position))
            }
            Value::Number(_, true)
            | Value::TripleSingleQuotedString(_)
            | Value::TripleDoubleQuotedString(_)
            | Value::DoubleQuotedByteStringLiteral(_)
            | Value::TripleSingleQuotedByteStringLiteral(_)
            | Value::TripleDoubleQuotedByteStringLiteral(_)
            | Value::SingleQuotedRawStringLiteral(_)
            | Value::DoubleQuotedRawStringLiteral(_)
            | Value::TripleSingleQuotedRawStringLiteral(_)
            | Value::TripleDoubleQuotedRawStringLiteral(_)
            | Value::QuoteDelimitedStringLiteral(_)
            | Value::NationalQuoteDelimitedStringLiteral(_)
            | Value::DoubleQuotedString(_) => Err(SqlError::unsupported("this kind of literal").at(position)),
        }
    }

    /// An integer is the smallest of `integer`, `bigint` and `numeric` that holds it; with a point or an exponent it
    /// is `numeric`.
    pub(super) fn number(&mut self, digits: &str, position: Option<u32>) -> Result<Expr> {
        if let Ok(n) = digits.parse::<i32>() {
            return Ok(Expr::Const(Datum::Int4(n), ColumnType::plain(Type::Int4)));
        }
        if let Ok(n) = digits.parse::<i64>() {
            return Ok(Expr::Const(Datum::Int8(n), ColumnType::plain(Type::Int8)));
        }
        let ty = ColumnType::plain(Type::Numeric);
        let datum = types::io::parse(digits, ty, self.eval).map_err(|e| e.at(position))?;
        Ok(Expr::Const(datum, ty))
    }

    /// `interval '1 day'`, `interval '1' day`.
    pub(super) fn interval(&mut self, interval: &ast::Interval) -> Result<Expr> {
        let ast::Interval {
            value,
            leading_field,
            leading_precision,
            last_field,
            fractional_seconds_precision,
        } = interval;
        let position = self.position(value.as_ref());
        if leading_precision.is_some() || last_field.is_some() || fractional_seconds_precision.is_some() {
            return Err(SqlError::unsupported("an interval literal with a range of fields").at(position));
        }
        let ast::Expr::Value(ValueWithSpan { value: literal, .. }) = value.as_ref() else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error after INTERVAL").at(position));
        };
        let (Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text)) = literal else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error after INTERVAL").at(position));
        };
        let text = match leading_field {
            None => text.clone(),
            Some(field) => {
                let unit = match field {
                    DateTimeField::Year => "year",
                    DateTimeField::Month => "month",
                    DateTimeField::Day => "day",
                    DateTimeField::Hour => "hour",
                    DateTimeField::Minute => "minute",
                    DateTimeField::Second => "second",
                    _ => return Err(SqlError::unsupported("this interval field").at(position)),
                };
                let digits = text.trim().trim_start_matches(['+', '-']);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(SqlError::unsupported("an interval literal with a field").at(position));
                }
                format!("{text} {unit}")
            }
        };
        self.cast_to(unknown(&text), ColumnType::plain(Type::Interval), position)
    }
}
