//! Predicates with a syntax of their own: IS …, BETWEEN, LIKE, IN (…).

use sqlparser::ast::{self, BinaryOperator, Spanned};

use crate::bind::operator::{Pair, and, or, row_of};
use crate::bind::{Binder, dialect};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;
use crate::types::{ColumnType, Datum, Type};

impl Binder<'_> {
    pub(super) fn is_null(&mut self, inner: &ast::Expr, negated: bool) -> Result<Expr> {
        if let Some(columns) = row_of(inner) {
            // A row is null if all its columns are, and not null if none is.
            let columns =
                columns.into_iter().map(|c| self.is_null(c, negated)).collect::<Result<Vec<_>>>()?;
            return Ok(and(columns));
        }
        let bound = self.expr(inner)?;
        Ok(is_null(bound, negated))
    }

    pub(super) fn truth(&mut self, inner: &ast::Expr, what: &str, make: fn(Expr) -> Expr) -> Result<Expr> {
        self.condition(inner, what).map(make)
    }

    pub(super) fn is_distinct(&mut self, left: &ast::Expr, right: &ast::Expr, negated: bool) -> Result<Expr> {
        if let (Some(l), Some(r)) = (row_of(left), row_of(right)) {
            if l.len() != r.len() {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "unequal number of entries in row expressions",
                ));
            }
            let columns = l
                .into_iter()
                .zip(r)
                .map(|(l, r)| self.is_distinct(l, r, negated))
                .collect::<Result<Vec<_>>>()?;
            return Ok(if negated { and(columns) } else { or(columns) });
        }
        let l = self.expr(left)?;
        let r = self.expr(right)?;
        let null = |e: &Expr| matches!(e, Expr::Const(Datum::Null, ColumnType { ty: Type::Unknown, .. }));
        if null(&r) {
            return Ok(is_null(l, !negated));
        }
        if null(&l) {
            return Ok(is_null(r, !negated));
        }
        let positions = [self.position(left), self.position(right)];
        let resolved = crate::function::resolve::operator("=", &[l.ty().ty, r.ty().ty])
            .map_err(|e| e.at(self.source.operator("is", left.span(), right.span())))?;
        let l = self.implicit(l, resolved.args[0], positions[0])?;
        let r = self.implicit(r, resolved.args[1], positions[1])?;
        Ok(Expr::IsDistinct { equals: resolved.function, left: Box::new(l), right: Box::new(r), negated })
    }

    pub(super) fn between(
        &mut self,
        expr: &ast::Expr,
        negated: bool,
        low: &ast::Expr,
        high: &ast::Expr,
    ) -> Result<Expr> {
        let (low, symmetric) = match low {
            ast::Expr::Prefixed { prefix, value } if prefix.value == dialect::SYMMETRIC => {
                (value.as_ref(), true)
            }
            low => (low, false),
        };
        let value = self.expr(expr)?;
        let l = self.expr(low)?;
        let h = self.expr(high)?;
        let at = [self.position(expr), self.position(low), self.position(high)];
        let keyword = self.source.operator("between", expr.span(), low.span());
        let compare = |this: &mut Self, symbol: &str, bound: &Expr, position| {
            this.operator(symbol, vec![value.clone(), bound.clone()], &[at[0], position])
                .map_err(|e| e.at(keyword))
        };
        let within = |this: &mut Self, l: &Expr, h: &Expr, at: [Option<u32>; 2]| {
            Ok::<_, SqlError>(match negated {
                false => and(vec![compare(this, ">=", l, at[0])?, compare(this, "<=", h, at[1])?]),
                true => or(vec![compare(this, "<", l, at[0])?, compare(this, ">", h, at[1])?]),
            })
        };
        let plain = within(self, &l, &h, [at[1], at[2]])?;
        if !symmetric {
            return Ok(plain);
        }
        let swapped = within(self, &h, &l, [at[2], at[1]])?;
        Ok(if negated { and(vec![plain, swapped]) } else { or(vec![plain, swapped]) })
    }

    pub(super) fn like(
        &mut self,
        expr: &ast::Expr,
        symbol: &str,
        pattern: &ast::Expr,
        escape: Option<&ast::ValueWithSpan>,
    ) -> Result<Expr> {
        let value = self.expr(expr)?;
        let mut right = self.expr(pattern)?;
        if let Some(escape) = escape {
            let escape = self.value(escape)?;
            right = self.function_call("like_escape", vec![right, escape], &[])?;
        }
        let positions = [self.position(expr), self.position(pattern)];
        let word = if symbol.ends_with('*') { "ilike" } else { "like" };
        self.operator(symbol, vec![value, right], &positions).map_err(|e| {
            let at =
                self.source.operator("not", expr.span(), pattern.span()).filter(|_| symbol.starts_with('!'));
            e.at(at.or_else(|| self.source.operator(word, expr.span(), pattern.span())))
        })
    }

    pub(super) fn in_list(&mut self, expr: &ast::Expr, list: &[ast::Expr], negated: bool) -> Result<Expr> {
        if let Some(left) = row_of(expr) {
            let op = if negated { BinaryOperator::NotEq } else { BinaryOperator::Eq };
            let mut any = Vec::with_capacity(list.len());
            let left = left
                .into_iter()
                .map(|l| Ok((self.expr(l)?, self.position(l))))
                .collect::<Result<Vec<_>>>()?;
            for item in list {
                let Some(right) = row_of(item) else {
                    return Err(
                        SqlError::unsupported("a comparison of a row with this").at(self.position(item))
                    );
                };
                if right.len() != left.len() {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "unequal number of entries in row expressions",
                    )
                    .at(self.position(item)));
                }
                let mut pairs = Vec::with_capacity(right.len());
                for ((l, at), r) in left.iter().zip(right) {
                    let position = self.position(r);
                    pairs.push(Pair { left: l.clone(), right: self.expr(r)?, positions: [*at, position] });
                }
                any.push(self.compare_rows(&op, pairs)?);
            }
            return Ok(if negated { and(any) } else { or(any) });
        }
        let mut positions = vec![self.position(expr)];
        let mut values = vec![self.expr(expr)?];
        for item in list {
            positions.push(self.position(item));
            values.push(self.expr(item)?);
        }
        self.in_values(
            values,
            positions,
            negated,
            list.first().and_then(|item| self.source.operator("in", expr.span(), item.span())),
        )
    }

    /// `values[0] [NOT] IN (values[1..])`
    pub(in crate::bind) fn in_values(
        &mut self,
        mut values: Vec<Expr>,
        positions: Vec<Option<u32>>,
        negated: bool,
        keyword: Option<u32>,
    ) -> Result<Expr> {
        let types: Vec<Type> = values.iter().map(|v| v.ty().ty).collect();
        let common = crate::function::resolve::common_type("IN", &types).ok();
        let resolved = common.and_then(|ty| self.comparison_of("=", ty).ok());
        if let Some(resolved) = resolved.filter(|r| values.len() > 2 && r.args[0] == r.args[1]) {
            let to = resolved.args[0];
            let mut coerced = Vec::with_capacity(values.len());
            for (value, at) in values.into_iter().zip(&positions) {
                coerced.push(self.implicit(value, to, *at)?);
            }
            let input = Box::new(coerced.remove(0));
            return Ok(Expr::InList { input, equals: resolved.function, list: coerced, negated });
        }
        let value = values.remove(0);
        let mut tests = Vec::with_capacity(values.len());
        for (item, at) in values.into_iter().zip(&positions[1..]) {
            let symbol = if negated { "<>" } else { "=" };
            tests.push(
                self.operator(symbol, vec![value.clone(), item], &[positions[0], *at])
                    .map_err(|e| e.at(keyword))?,
            );
        }
        Ok(if negated { and(tests) } else { or(tests) })
    }
}

pub(super) fn coalesce(expr: Expr, otherwise: bool) -> Expr {
    let ty = ColumnType::plain(Type::Bool);
    match expr {
        Expr::Const(Datum::Null, _) => Expr::Const(Datum::Bool(otherwise), ty),
        constant @ Expr::Const(..) => constant,
        expr => Expr::Coalesce(vec![expr, Expr::Const(Datum::Bool(otherwise), ty)], ty),
    }
}

pub(super) fn is_null(input: Expr, negated: bool) -> Expr {
    match &input {
        Expr::Const(datum, _) => {
            Expr::Const(Datum::Bool(datum.is_null() != negated), ColumnType::plain(Type::Bool))
        }
        _ => Expr::IsNull { input: Box::new(input), negated },
    }
}
