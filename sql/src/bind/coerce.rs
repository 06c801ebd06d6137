//! Bringing values to the types that are wanted, and folding what is constant.

use super::Binder;
use crate::error::{Result, SqlError, SqlState};
use crate::function::{CastContext, Function, Volatility, cast, resolve};
use crate::ir::{CallKind, Expr};
use crate::types::{self, ColumnType, Datum, Type};

impl Binder<'_> {
    /// The value as one of type `to`, without regard to modifiers. `None`: there is no such cast in this context.
    pub(super) fn coerce(
        &mut self,
        expr: Expr,
        to: Type,
        context: CastContext,
        position: Option<u32>,
    ) -> Result<Option<Expr>> {
        let from = expr.ty().ty;
        if from == to {
            return Ok(Some(expr));
        }
        match expr {
            Expr::Const(Datum::Null, ColumnType { ty: Type::Unknown, .. }) => {
                Ok(Some(Expr::Const(Datum::Null, ColumnType::plain(to))))
            }
            Expr::Const(Datum::Text(text), ColumnType { ty: Type::Unknown, .. }) => {
                self.literal(&text, to, position).map(Some)
            }
            Expr::Param(index, ColumnType { ty: Type::Unknown, .. }) => {
                self.decide_param(index, to, position).map(Some)
            }
            expr => {
                // A value that is unknown and not a literal is a string.
                let from = if from == Type::Unknown { Type::Text } else { from };
                let Some(found) = cast(from, to) else { return Ok(None) };
                if found.context > context {
                    return Ok(None);
                }
                let kind = if context == CastContext::Explicit { CallKind::Cast } else { CallKind::Implicit };
                Ok(Some(match found.function {
                    Some(function) => self.call(function, kind, vec![expr]),
                    None => relabel(expr, to),
                }))
            }
        }
    }

    /// As [`Self::coerce`], where the caller knows that it is possible.
    pub(super) fn implicit(&mut self, expr: Expr, to: Type, position: Option<u32>) -> Result<Expr> {
        let from = expr.ty().ty;
        self.coerce(expr, to, CastContext::Implicit, position)?
            .ok_or_else(|| cannot_cast(from, to).at(position))
    }

    /// An explicit cast, modifier included.
    pub(super) fn cast_to(&mut self, expr: Expr, to: ColumnType, position: Option<u32>) -> Result<Expr> {
        let from = expr.ty().ty;
        let value = self
            .coerce(expr, to.ty, CastContext::Explicit, position)?
            .ok_or_else(|| cannot_cast(from, to.ty).at(position))?;
        self.modifier(value, to, true).map_err(|e| e.at(position))
    }

    /// A value for a column: an assignment cast, modifier included. `42804` where there is none.
    pub(super) fn assign(
        &mut self,
        expr: Expr,
        column: &str,
        to: ColumnType,
        position: Option<u32>,
    ) -> Result<Expr> {
        let from = expr.ty().ty;
        let value = self.coerce(expr, to.ty, CastContext::Assignment, position)?.ok_or_else(|| {
            SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("column \"{column}\" is of type {} but expression is of type {from}", to.ty),
            )
            .hint("You will need to rewrite or cast the expression.")
            .at(position)
        })?;
        self.modifier(value, to, false)
    }

    /// Applies the type's modifier.
    pub(super) fn modifier(&mut self, expr: Expr, ty: ColumnType, explicit: bool) -> Result<Expr> {
        if ty.typmod == -1 || expr.ty() == ty {
            return Ok(expr);
        }
        if let Expr::Const(datum, _) = &expr {
            // A value that does not fit fails when, and if, it is evaluated.
            if let Ok(datum) = types::coerce(datum.clone(), ty, explicit) {
                return Ok(Expr::Const(datum, ty));
            }
        }
        Ok(Expr::Coerce { input: Box::new(expr), ty, explicit })
    }

    /// All values as one type.
    pub(super) fn unify(
        &mut self,
        what: &str,
        exprs: Vec<Expr>,
        positions: &[Option<u32>],
    ) -> Result<(Vec<Expr>, ColumnType)> {
        let types: Vec<Type> = exprs.iter().map(|e| e.ty().ty).collect();
        let common = resolve::common_type(what, &types).map_err(|e| {
            // The one that differs from those before it is where PostgreSQL points to.
            let first = types.iter().position(|t| *t != Type::Unknown).unwrap_or(0);
            let odd = types
                .iter()
                .position(|t| *t != Type::Unknown && t.category() != types[first].category())
                .unwrap_or(first);
            e.at(positions.get(odd).copied().flatten())
        })?;
        let typmod = common_typmod(exprs.iter().map(Expr::ty), common);
        let mut out = Vec::with_capacity(exprs.len());
        for (i, expr) in exprs.into_iter().enumerate() {
            let position = positions.get(i).copied().flatten();
            let from = expr.ty().ty;
            let expr = self.coerce(expr, common, CastContext::Implicit, position)?.ok_or_else(|| {
                SqlError::new(
                    SqlState::CANNOT_COERCE,
                    format!("{what} could not convert type {from} to {common}"),
                )
                .at(position)
            })?;
            out.push(expr);
        }
        Ok((out, ColumnType { ty: common, typmod }))
    }

    /// A condition: `42804` unless it is a boolean.
    pub(super) fn boolean(&mut self, expr: Expr, what: &str, position: Option<u32>) -> Result<Expr> {
        let from = expr.ty().ty;
        self.coerce(expr, Type::Bool, CastContext::Assignment, position)?
            .filter(|_| matches!(from, Type::Bool | Type::Unknown))
            .ok_or_else(|| {
                SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("argument of {what} must be type boolean, not type {from}"),
                )
                .at(position)
            })
    }

    /// Whatever is still unknown becomes text.
    pub(super) fn known(&mut self, expr: Expr, position: Option<u32>) -> Result<Expr> {
        match expr.ty().ty {
            Type::Unknown => self.implicit(expr, Type::Text, position),
            _ => Ok(expr),
        }
    }

    /// A call whose arguments have the right types; folded where it may be.
    pub(super) fn call(&mut self, function: &'static Function, kind: CallKind, args: Vec<Expr>) -> Expr {
        let ty = ColumnType::plain(function.returns);
        let args = match SEES_BLANKS.contains(&function.name) {
            true => args.into_iter().map(padded).collect(),
            false => args,
        };
        if function.volatility == Volatility::Immutable && args.iter().all(|a| matches!(a, Expr::Const(..))) {
            let values: Vec<Datum> = args
                .iter()
                .filter_map(|a| match a {
                    Expr::Const(datum, _) => Some(datum.clone()),
                    _ => None,
                })
                .collect();
            if function.strict && values.iter().any(Datum::is_null) {
                return Expr::Const(Datum::Null, ty);
            }
            // An error belongs to the row that needs the value: it is met again at run time.
            if let Ok(datum) = (function.kernel)(self.eval, &values) {
                return Expr::Const(datum, ty);
            }
        }
        Expr::Call { function, kind, args, ty }
    }

    /// Reads an untyped literal as a value of a type.
    fn literal(&mut self, text: &str, to: Type, position: Option<u32>) -> Result<Expr> {
        let ty = ColumnType::plain(to);
        if to.is_string() && to != Type::Bpchar && to != Type::Name {
            return Ok(Expr::Const(Datum::text(text), ty));
        }
        if reads_session(text, to) {
            self.cacheable = false;
        }
        let datum = types::io::parse(text, ty, self.eval).map_err(|e| e.at(position))?;
        Ok(Expr::Const(datum, ty))
    }
}

/// What tells `char(n)` values with their padding from those without: everywhere else trailing blanks mean nothing, and values
/// are kept without them.
const SEES_BLANKS: &[&str] =
    &["~~", "!~~", "~~*", "!~~*", "~", "!~", "~*", "!~*", "octet_length", "concat", "concat_ws", "format"];

/// A `char(n)` value with its padding, as text; anything else as it is.
fn padded(arg: Expr) -> Expr {
    let ty = arg.ty();
    // A modifier counts from 4.
    let (Type::Bpchar, Some(length)) = (ty.ty, ty.typmod.checked_sub(4).filter(|n| *n > 0)) else {
        return arg;
    };
    let Ok(rpad) = resolve::function("rpad", &[Type::Text, Type::Int4]) else { return arg };
    let length = Expr::Const(Datum::Int4(length), ColumnType::plain(Type::Int4));
    let (function, kind) = (rpad.function, CallKind::Implicit);
    Expr::Call { function, kind, args: vec![arg, length], ty: ColumnType::plain(Type::Text) }
}

/// Whether reading this literal asks for the session's time zone or the clock.
fn reads_session(text: &str, ty: Type) -> bool {
    match ty {
        Type::Timestamptz => true,
        Type::Date | Type::Time | Type::Timestamp => {
            let lower = text.to_ascii_lowercase();
            ["now", "today", "tomorrow", "yesterday"].iter().any(|word| lower.contains(word))
        }
        _ => false,
    }
}

/// The same stored value under another type's name.
pub(super) fn relabel(expr: Expr, to: Type) -> Expr {
    let ty = ColumnType::plain(to);
    match expr {
        Expr::Const(datum, _) => Expr::Const(datum, ty),
        expr => Expr::Coerce { input: Box::new(expr), ty, explicit: false },
    }
}

/// The modifier that all have, if they have the type itself.
pub(super) fn common_typmod(types: impl Iterator<Item = ColumnType>, common: Type) -> i32 {
    let mut typmod = None;
    for ty in types {
        if ty.ty != common {
            return -1;
        }
        match typmod {
            None => typmod = Some(ty.typmod),
            Some(m) if m == ty.typmod => {}
            Some(_) => return -1,
        }
    }
    typmod.unwrap_or(-1)
}

fn cannot_cast(from: Type, to: Type) -> SqlError {
    SqlError::new(SqlState::CANNOT_COERCE, format!("cannot cast type {from} to {to}"))
}
