//! The order-preserving encoding of primary keys.

use super::{Datum, Type};
use crate::error::{Result, SqlError};

/// Appends the encoding of a value: encodings compare bytewise as [`super::compare`] compares values (NULL last), no
/// encoding is a prefix of another, and none begins with 0x00.
pub fn encode(datum: &Datum, out: &mut Vec<u8>) {
    let _ = (datum, out);
}

/// Reads one value of type `ty` off the front of `input`.
pub fn decode(input: &mut &[u8], ty: Type) -> Result<Datum> {
    let _ = (input, ty);
    Err(SqlError::unsupported("key decoding"))
}
