//! The encoding of stored rows: column ids with their values, so that columns may come and go.

use super::Datum;
use crate::error::{Result, SqlError};

/// Encodes a row's values with their columns' ids. NULLs are left out.
pub fn encode<'a>(columns: impl IntoIterator<Item = (u32, &'a Datum)>) -> Vec<u8> {
    let _ = columns.into_iter().count();
    Vec::new()
}

/// Decodes the columns with these ids, in this order; a column that the row doesn't have is NULL.
pub fn decode(bytes: &[u8], columns: &[u32]) -> Result<Vec<Datum>> {
    let _ = (bytes, columns);
    Err(SqlError::unsupported("row decoding"))
}
