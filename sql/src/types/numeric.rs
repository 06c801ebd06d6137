//! [`Numeric`]: exact decimal numbers.

use bigdecimal::BigDecimal;

/// A `numeric`. A finite value's scale is the number of digits that are shown after the point (`1.50` is not `1.5`, though they are equal).
#[derive(Clone, Debug)]
pub enum Numeric {
    /// `-Infinity`
    NegInf,
    /// A number.
    Finite(BigDecimal),
    /// `Infinity`
    PosInf,
    /// `NaN`: equal to itself and above everything else.
    NaN,
}
