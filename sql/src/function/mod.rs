//! The one catalogue of functions, operators, casts and aggregates.
//!
//! Each scalar function is a *kernel*: a plain Rust function over [`Datum`]s with PostgreSQL's semantics. The row
//! evaluator calls kernels directly; the DataFusion lowering wraps the same kernels. Nothing else computes values.

mod advisory;
mod aggregate;
mod arithmetic;
mod bytes;
mod cast;
mod catalogue;
mod comparison;
mod datetime;
mod define;
pub mod effect;
mod extract;
mod interval;
mod math;
mod operate;
mod pattern;
pub mod resolve;
mod statistics;
mod string;
mod system;
mod template_date;
mod to_char;
mod to_char_number;

pub use catalogue::{
    Cast, CastContext, PARAMETERS, Parameters, aggregates, all_aggregates, all_functions, all_operators,
    cast, functions, operators, window_function,
};

pub use operate::SCHEMA as OPERATOR_SCHEMA;
pub use string::{quote_ident, quote_literal};

use crate::error::Result;
use crate::types::{Datum, Type};

/// What a kernel may know besides its arguments.
#[derive(Clone, Debug)]
pub struct EvalContext {
    /// When the transaction began: microseconds since 2000-01-01 UTC (`now()`).
    pub transaction_time: i64,
    /// When the statement began.
    pub statement_time: i64,
    /// The session's time zone.
    pub time_zone: crate::types::TimeZone,
    /// The session's user.
    pub user: std::sync::Arc<str>,
    /// The session's database.
    pub database: std::sync::Arc<str>,
    /// The first schema of the search path.
    pub schema: std::sync::Arc<str>,
    /// The session's number, as in BackendKeyData.
    pub pid: i32,
    /// Who carries out what functions want done; none where there is no session.
    pub performer: Option<std::sync::Arc<dyn effect::Performer>>,
    /// Clock and randomness (`clock_timestamp()`, `random()`, `gen_random_uuid()`).
    pub seams: txn::seam::Seams,
}

/// May a call be evaluated early?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// The same arguments always give the same result.
    Immutable,
    /// … within a statement.
    Stable,
    /// Never.
    Volatile,
}

/// The body of a scalar function.
pub type Kernel = fn(&EvalContext, &[Datum]) -> Result<Datum>;

/// A scalar function, operator or cast.
pub struct Function {
    /// The name: `upper`, `+`; casts are called after their target's internal name.
    pub name: &'static str,
    /// The arguments' types; [`Type::Unknown`] stands for any type.
    pub args: &'static [Type],
    /// The type of further arguments, where any number (but at least one) may follow.
    pub variadic: Option<Type>,
    /// The result's type.
    pub returns: Type,
    /// NULL in, NULL out, without calling the kernel.
    pub strict: bool,
    /// See [`Volatility`].
    pub volatility: Volatility,
    /// Calling it changes something, or takes time: see [`effect`].
    pub effect: bool,
    /// It has the cluster do what an operator wants. (Then it has an effect, too.)
    pub order: bool,
    /// The body.
    pub kernel: Kernel,
}

/// The running state of an aggregate over one group.
pub trait Accumulator: Send + Sync + std::fmt::Debug {
    /// Adds a row. For strict aggregates rows with a NULL argument are not passed in.
    fn update(&mut self, args: &[Datum]) -> Result<()>;
    /// Takes a row out again (sliding frames). Returns false where that is not possible.
    fn retract(&mut self, args: &[Datum]) -> Result<bool> {
        let _ = args;
        Ok(false)
    }
    /// The result so far.
    fn finish(&self) -> Result<Datum>;
}

/// An aggregate function.
pub struct Aggregate {
    /// The name.
    pub name: &'static str,
    /// The arguments' types; none for `count(*)`; [`Type::Unknown`] stands for any type.
    pub args: &'static [Type],
    /// The result's type.
    pub returns: Type,
    /// Rows with a NULL argument are skipped.
    pub strict: bool,
    /// A fresh state.
    pub new: fn() -> Box<dyn Accumulator>,
}

/// A pure window function.
pub struct WindowFunction {
    /// The name.
    pub name: &'static str,
    /// Which.
    pub kind: WindowKind,
}

/// The window functions (PostgreSQL 15, table 9.63). `lag`, `lead`, `first_value`, `last_value` and `nth_value` return their first argument's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "SQL's own names")]
pub enum WindowKind {
    RowNumber,
    Rank,
    DenseRank,
    PercentRank,
    CumeDist,
    Ntile,
    Lag,
    Lead,
    FirstValue,
    LastValue,
    NthValue,
}

macro_rules! debug_by_name {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name)
            }
        }
    )*};
}
debug_by_name!(Function, Aggregate, WindowFunction);

#[cfg(test)]
mod tests;
