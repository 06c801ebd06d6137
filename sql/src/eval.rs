//! The row evaluator: an [`Expr`] over one row.

use crate::error::{Result, SqlError, SqlState};
use crate::function::{EvalContext, Function};
use crate::ir::Expr;
use crate::types::{Datum, coerce};

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

/// How deep expressions may nest before the stack of a worker thread (2 MiB) is in danger.
const DEPTH_MAX: usize = 1000;
/// Calls with at most this many arguments keep them on the stack.
const INLINE_ARGS: usize = 3;

/// Evaluates `expr` against `row`.
pub fn eval(expr: &Expr, row: &[Datum], env: &Env<'_>) -> Result<Datum> {
    Evaluator { row, env }.eval(expr, 0)
}

/// Whether `expr` is true; NULL is not.
pub fn eval_bool(expr: &Expr, row: &[Datum], env: &Env<'_>) -> Result<bool> {
    Ok(matches!(eval(expr, row, env)?, Datum::Bool(true)))
}

/// Applies a function of the catalogue to values: NULL in, NULL out where it is strict.
pub fn call(function: &Function, args: &[Datum], ctx: &EvalContext) -> Result<Datum> {
    if function.strict && args.iter().any(Datum::is_null) {
        return Ok(Datum::Null);
    }
    (function.kernel)(ctx, args)
}

struct Evaluator<'a> {
    row: &'a [Datum],
    env: &'a Env<'a>,
}

impl Evaluator<'_> {
    fn eval(&self, expr: &Expr, depth: usize) -> Result<Datum> {
        if depth > DEPTH_MAX {
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "stack depth limit exceeded"));
        }
        let depth = depth + 1;
        match expr {
            Expr::Const(value, _) => Ok(value.clone()),
            Expr::Column(index, _) => fetch(self.row, *index),
            Expr::Param(index, _) => fetch(self.env.params, *index),
            Expr::Outer { depth: level, index, .. } => {
                let row = level.checked_sub(1).and_then(|level| self.env.outer.get(level));
                fetch(row.copied().unwrap_or(&[]), *index)
            }
            Expr::Call { function, args, .. } => self.call(function, args, depth),
            Expr::Coerce { input, ty, explicit } => coerce(self.eval(input, depth)?, *ty, *explicit),
            Expr::And(parts) => self.connective(parts, false, depth),
            Expr::Or(parts) => self.connective(parts, true, depth),
            Expr::Not(input) => match self.eval(input, depth)? {
                Datum::Bool(value) => Ok(Datum::Bool(!value)),
                _ => Ok(Datum::Null),
            },
            Expr::IsNull { input, negated } => {
                Ok(Datum::Bool(self.eval(input, depth)?.is_null() != *negated))
            }
            Expr::IsDistinct { equals, left, right, negated } => {
                let (left, right) = (self.eval(left, depth)?, self.eval(right, depth)?);
                let distinct = match (left.is_null(), right.is_null()) {
                    (true, true) => false,
                    (true, false) | (false, true) => true,
                    (false, false) => {
                        !matches!((equals.kernel)(self.env.ctx, &[left, right])?, Datum::Bool(true))
                    }
                };
                Ok(Datum::Bool(distinct != *negated))
            }
            Expr::Case { branches, otherwise, .. } => {
                for (condition, value) in branches {
                    if matches!(self.eval(condition, depth)?, Datum::Bool(true)) {
                        return self.eval(value, depth);
                    }
                }
                self.eval(otherwise, depth)
            }
            Expr::Coalesce(args, _) => {
                for arg in args {
                    let value = self.eval(arg, depth)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Ok(Datum::Null)
            }
            Expr::Extreme { args, less, greatest, .. } => self.extreme(args, less, *greatest, depth),
            Expr::InList { input, equals, list, negated } => {
                self.in_list(input, equals, list, *negated, depth)
            }
            Expr::Subquery { .. } => Err(SqlError::internal("a subquery reached the row evaluator")),
        }
    }

    fn call(&self, function: &Function, args: &[Expr], depth: usize) -> Result<Datum> {
        // NULL needs no room of its own, so unused places cost nothing.
        let mut inline = [const { Datum::Null }; INLINE_ARGS];
        let mut heap = Vec::new();
        let values = match inline.get_mut(..args.len()) {
            Some(values) => values,
            None => {
                heap.resize(args.len(), Datum::Null);
                &mut heap[..]
            }
        };
        let mut null = false;
        for (value, arg) in values.iter_mut().zip(args) {
            *value = self.eval(arg, depth)?;
            null |= value.is_null();
        }
        if null && function.strict {
            return Ok(Datum::Null);
        }
        (function.kernel)(self.env.ctx, values)
    }

    /// AND (`decides` = false) and OR (`decides` = true): the first operand that decides ends it.
    fn connective(&self, parts: &[Expr], decides: bool, depth: usize) -> Result<Datum> {
        let mut unknown = false;
        for part in parts {
            match self.eval(part, depth)? {
                Datum::Bool(value) if value == decides => return Ok(Datum::Bool(decides)),
                Datum::Bool(_) => {}
                _ => unknown = true,
            }
        }
        Ok(if unknown { Datum::Null } else { Datum::Bool(!decides) })
    }

    fn extreme(&self, args: &[Expr], less: &Function, greatest: bool, depth: usize) -> Result<Datum> {
        let mut best = Datum::Null;
        for arg in args {
            let value = self.eval(arg, depth)?;
            if value.is_null() {
                continue;
            }
            if best.is_null() {
                best = value;
                continue;
            }
            let pair = if greatest { [best, value] } else { [value, best] };
            let replace = matches!((less.kernel)(self.env.ctx, &pair)?, Datum::Bool(true));
            let [first, second] = pair;
            best = if replace == greatest { second } else { first };
        }
        Ok(best)
    }

    fn in_list(
        &self,
        input: &Expr,
        equals: &Function,
        list: &[Expr],
        negated: bool,
        depth: usize,
    ) -> Result<Datum> {
        let input = self.eval(input, depth)?;
        if input.is_null() {
            return Ok(if list.is_empty() { Datum::Bool(negated) } else { Datum::Null });
        }
        let mut pair = [input, Datum::Null];
        let mut unknown = false;
        for candidate in list {
            pair[1] = self.eval(candidate, depth)?;
            if pair[1].is_null() {
                unknown = true;
            } else if matches!((equals.kernel)(self.env.ctx, &pair)?, Datum::Bool(true)) {
                return Ok(Datum::Bool(!negated));
            }
        }
        Ok(if unknown { Datum::Null } else { Datum::Bool(negated) })
    }
}

fn fetch(row: &[Datum], index: usize) -> Result<Datum> {
    row.get(index)
        .cloned()
        .ok_or_else(|| SqlError::internal("an expression refers to a value that isn't there"))
}
