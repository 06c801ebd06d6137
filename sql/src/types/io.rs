//! Text and binary forms of values, as PostgreSQL reads and writes them.

use std::borrow::Cow;

use bytes::BytesMut;

use super::{ColumnType, Datum, TimeZone, Type};
use crate::error::{Result, SqlError};
use crate::function::EvalContext;

/// Reads a value's text form. The type's modifier is applied as an implicit cast would (a string that is too long is
/// refused, a numeric is rounded). The context is needed for `now`, `today` and the session's time zone.
pub fn parse(text: &str, ty: ColumnType, ctx: &EvalContext) -> Result<Datum> {
    let _ = (text, ty, ctx);
    Err(SqlError::unsupported("this type's input"))
}

/// A value's text form; an empty string for NULL (which callers write their own way).
pub fn format<'a>(datum: &'a Datum, ty: ColumnType, zone: &TimeZone) -> Cow<'a, str> {
    let _ = (datum, ty, zone);
    Cow::Borrowed("")
}

/// Appends a value's binary form; nothing for NULL.
pub fn to_binary(datum: &Datum, ty: ColumnType, out: &mut BytesMut) {
    let _ = (datum, ty, out);
}

/// Reads a value's binary form.
pub fn from_binary(bytes: &[u8], ty: Type) -> Result<Datum> {
    let _ = (bytes, ty);
    Err(SqlError::unsupported("this type's binary input"))
}
