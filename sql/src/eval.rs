//! The row evaluator: an [`Expr`] over one row.

use crate::error::{Result, SqlError};
use crate::function::EvalContext;
use crate::ir::Expr;
use crate::types::{Datum, equal};

/// What an expression may refer to besides its row.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// What kernels may know.
    pub ctx: &'a EvalContext,
    /// The values of `$1` … .
    pub params: &'a [Datum],
    /// The rows of the enclosing queries: `outer[0]` is that of the directly enclosing one (depth 1).
    pub outer: &'a [&'a [Datum]],
}

/// How deep expressions may nest; the binder's limit is below it.
const DEPTH_MAX: usize = 2000;

/// Evaluates `expr` against `row`.
pub fn eval(expr: &Expr, row: &[Datum], env: &Env<'_>) -> Result<Datum> {
    let _ = (expr, row, env, DEPTH_MAX, equal);
    Err(SqlError::unsupported("evaluation"))
}

/// Whether `expr` is true; NULL is not.
pub fn eval_bool(expr: &Expr, row: &[Datum], env: &Env<'_>) -> Result<bool> {
    Ok(matches!(eval(expr, row, env)?, Datum::Bool(true)))
}
