//! What the families' lists are written with: constructors of [`Function`] and typed access to arguments.

use std::sync::Arc;

use bytes::Bytes;

use super::{Function, Kernel, Volatility};
use crate::error::{Result, SqlError};
use crate::types::{Datum, Interval, Numeric, Type};

/// An immutable, strict function.
pub(super) const fn f(name: &'static str, args: &'static [Type], returns: Type, kernel: Kernel) -> Function {
    Function {
        name,
        args,
        variadic: None,
        returns,
        strict: true,
        volatility: Volatility::Immutable,
        effect: false,
        order: false,
        kernel,
    }
}

impl Function {
    /// Depends on the transaction or on settings.
    pub(super) const fn stable(mut self) -> Self {
        self.volatility = Volatility::Stable;
        self
    }

    /// Differs from call to call.
    pub(super) const fn volatile(mut self) -> Self {
        self.volatility = Volatility::Volatile;
        self
    }

    /// Changes something, or waits: see [`super::effect`].
    pub(super) const fn effect(mut self) -> Self {
        self.effect = true;
        self.volatile()
    }

    /// Has the cluster do something: see [`super::operate`].
    pub(super) const fn order(mut self) -> Self {
        self.order = true;
        self.effect()
    }

    /// Is called with NULLs, too.
    pub(super) const fn lenient(mut self) -> Self {
        self.strict = false;
        self
    }

    /// Takes further arguments.
    pub(super) const fn variadic(mut self, ty: Type) -> Self {
        self.variadic = Some(ty);
        self
    }
}

#[cold]
fn mismatch(wanted: &str, got: Option<&Datum>) -> SqlError {
    SqlError::internal(format!("a kernel expected {wanted} and got {got:?}"))
}

/// Typed access to a kernel's arguments. A mismatch is a bug of the binder, reported as such and not by a panic.
pub(super) trait Args {
    fn boolean(&self, i: usize) -> Result<bool>;
    fn int2(&self, i: usize) -> Result<i16>;
    fn int4(&self, i: usize) -> Result<i32>;
    fn int8(&self, i: usize) -> Result<i64>;
    fn float4(&self, i: usize) -> Result<f32>;
    fn float8(&self, i: usize) -> Result<f64>;
    fn numeric(&self, i: usize) -> Result<&Numeric>;
    fn text(&self, i: usize) -> Result<&str>;
    fn shared_text(&self, i: usize) -> Result<&Arc<str>>;
    fn bytea(&self, i: usize) -> Result<&Bytes>;
    fn date(&self, i: usize) -> Result<i32>;
    fn time(&self, i: usize) -> Result<i64>;
    fn timestamp(&self, i: usize) -> Result<i64>;
    fn timestamptz(&self, i: usize) -> Result<i64>;
    fn interval(&self, i: usize) -> Result<Interval>;
    /// Any of the integer types, widened.
    fn int(&self, i: usize) -> Result<i64>;
    /// Any of the float types, widened.
    fn float(&self, i: usize) -> Result<f64>;
}

macro_rules! access {
    ($self:ident, $i:ident, $pattern:pat => $value:expr, $wanted:literal) => {
        match $self.get($i) {
            Some($pattern) => Ok($value),
            other => Err(mismatch($wanted, other)),
        }
    };
}

impl Args for [Datum] {
    fn boolean(&self, i: usize) -> Result<bool> {
        access!(self, i, Datum::Bool(v) => *v, "boolean")
    }
    fn int2(&self, i: usize) -> Result<i16> {
        access!(self, i, Datum::Int2(v) => *v, "smallint")
    }
    fn int4(&self, i: usize) -> Result<i32> {
        access!(self, i, Datum::Int4(v) => *v, "integer")
    }
    fn int8(&self, i: usize) -> Result<i64> {
        access!(self, i, Datum::Int8(v) => *v, "bigint")
    }
    fn float4(&self, i: usize) -> Result<f32> {
        access!(self, i, Datum::Float4(v) => *v, "real")
    }
    fn float8(&self, i: usize) -> Result<f64> {
        access!(self, i, Datum::Float8(v) => *v, "double precision")
    }
    fn numeric(&self, i: usize) -> Result<&Numeric> {
        access!(self, i, Datum::Numeric(v) => v, "numeric")
    }
    fn text(&self, i: usize) -> Result<&str> {
        access!(self, i, Datum::Text(v) => v, "text")
    }
    fn shared_text(&self, i: usize) -> Result<&Arc<str>> {
        access!(self, i, Datum::Text(v) => v, "text")
    }
    fn bytea(&self, i: usize) -> Result<&Bytes> {
        access!(self, i, Datum::Bytea(v) => v, "bytea")
    }
    fn date(&self, i: usize) -> Result<i32> {
        access!(self, i, Datum::Date(v) => *v, "date")
    }
    fn time(&self, i: usize) -> Result<i64> {
        access!(self, i, Datum::Time(v) => *v, "time")
    }
    fn timestamp(&self, i: usize) -> Result<i64> {
        access!(self, i, Datum::Timestamp(v) => *v, "timestamp")
    }
    fn timestamptz(&self, i: usize) -> Result<i64> {
        access!(self, i, Datum::Timestamptz(v) => *v, "timestamptz")
    }
    fn interval(&self, i: usize) -> Result<Interval> {
        access!(self, i, Datum::Interval(v) => *v, "interval")
    }
    fn int(&self, i: usize) -> Result<i64> {
        match self.get(i) {
            Some(Datum::Int8(v)) => Ok(*v),
            Some(Datum::Int4(v)) => Ok(i64::from(*v)),
            Some(Datum::Int2(v)) => Ok(i64::from(*v)),
            Some(Datum::Oid(v)) => Ok(i64::from(*v)),
            other => Err(mismatch("an integer", other)),
        }
    }
    fn float(&self, i: usize) -> Result<f64> {
        match self.get(i) {
            Some(Datum::Float8(v)) => Ok(*v),
            Some(Datum::Float4(v)) => Ok(f64::from(*v)),
            other => Err(mismatch("a float", other)),
        }
    }
}

/// A numeric result.
pub(super) fn numeric(value: Numeric) -> Datum {
    Datum::Numeric(Arc::new(value))
}
