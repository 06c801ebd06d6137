//! UNION, INTERSECT, EXCEPT.

use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};

use super::{Binder, LevelKind};
use crate::error::{Result, SqlError, SqlState};
use crate::function::{CastContext, resolve};
use crate::ir::{Expr, OutputColumn, Plan, SetOp};
use crate::types::{ColumnType, Datum, Type};

impl Binder<'_> {
    pub(super) fn set_operation(
        &mut self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
        kind: LevelKind,
    ) -> Result<Plan> {
        let (op, word) = match op {
            SetOperator::Union => (SetOp::Union, "UNION"),
            SetOperator::Intersect => (SetOp::Intersect, "INTERSECT"),
            SetOperator::Except => (SetOp::Except, "EXCEPT"),
            SetOperator::Minus => return Err(SqlError::unsupported("MINUS")),
        };
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::None | SetQuantifier::Distinct => false,
            SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => {
                return Err(SqlError::unsupported("BY NAME"));
            }
        };
        let l = self.side(left, kind)?;
        let r = self.side(right, kind)?;
        let position = |this: &Self, i: usize| item_position(this, right, i);
        if l.columns().len() != r.columns().len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("each {word} query must have the same number of columns"),
            )
            .at(position(self, 0)));
        }
        let mut types = Vec::with_capacity(l.columns().len());
        for (i, (a, b)) in l.columns().iter().zip(r.columns()).enumerate() {
            let common =
                resolve::common_type(word, &[a.ty.ty, b.ty.ty]).map_err(|e| e.at(position(self, i)))?;
            let typmod = super::coerce::common_typmod([a.ty, b.ty].into_iter(), common);
            types.push(ColumnType { ty: common, typmod });
        }
        let columns: Vec<OutputColumn> = l
            .columns()
            .iter()
            .zip(&types)
            .map(|(c, ty)| OutputColumn { name: c.name.clone(), ty: *ty, origin: None })
            .collect();
        let left = Box::new(self.retype(l, &types, word, left)?);
        let right = Box::new(self.retype(r, &types, word, right)?);
        Ok(Plan::SetOp { op, all, left, right, columns })
    }

    /// The plan with columns of these types: untyped literals become values of them, others are cast implicitly.
    pub(super) fn retype(
        &mut self,
        mut plan: Plan,
        types: &[ColumnType],
        what: &str,
        body: &SetExpr,
    ) -> Result<Plan> {
        for (i, ty) in types.iter().enumerate() {
            if plan.columns()[i].ty.ty == Type::Unknown {
                self.decide(&mut plan, i, ty.ty).map_err(|e| e.at(item_position(self, body, i)))?;
            }
        }
        if plan.columns().iter().zip(types).all(|(c, ty)| c.ty.ty == ty.ty) {
            return Ok(plan);
        }
        if let Plan::Project { exprs, columns, .. } = &mut plan {
            for ((expr, column), ty) in exprs.iter_mut().zip(columns).zip(types) {
                let from = expr.ty().ty;
                let taken = std::mem::replace(expr, Expr::Const(Datum::Null, *ty));
                *expr = self
                    .coerce(taken, ty.ty, CastContext::Implicit, None)?
                    .ok_or_else(|| not_converted(what, from, ty.ty))?;
                column.ty = expr.ty();
                if from != ty.ty {
                    column.origin = None;
                }
            }
            return Ok(plan);
        }
        let mut exprs = Vec::with_capacity(types.len());
        let mut columns = plan.columns().to_vec();
        for (i, (column, ty)) in columns.iter_mut().zip(types).enumerate() {
            let expr = Expr::Column(i, column.ty);
            let from = column.ty.ty;
            let expr = self
                .coerce(expr, ty.ty, CastContext::Implicit, None)?
                .ok_or_else(|| not_converted(what, from, ty.ty))?;
            column.ty = expr.ty();
            exprs.push(expr);
        }
        Ok(Plan::Project { input: Box::new(plan), exprs, columns })
    }

    /// Says what type the untyped literals in a plan's column have.
    pub(super) fn decide(&mut self, plan: &mut Plan, index: usize, ty: Type) -> Result<()> {
        let unknown = Expr::Const(Datum::Null, ColumnType::plain(Type::Unknown));
        match plan {
            Plan::Project { exprs, columns, input } => {
                if let Expr::Column(inner, _) = exprs[index] {
                    self.decide(input, inner, ty)?;
                    exprs[index] = Expr::Column(inner, input.columns()[inner].ty);
                } else {
                    let expr = std::mem::replace(&mut exprs[index], unknown);
                    exprs[index] = self.implicit(expr, ty, None)?;
                }
                columns[index].ty = exprs[index].ty();
            }
            Plan::Values { rows, columns } => {
                for row in rows {
                    let expr = std::mem::replace(&mut row[index], unknown.clone());
                    row[index] = self.implicit(expr, ty, None)?;
                }
                columns[index].ty = ColumnType::plain(ty);
            }
            Plan::Filter { input, .. } | Plan::Limit { input, .. } => self.decide(input, index, ty)?,
            Plan::Sort { input, keys } => {
                self.decide(input, index, ty)?;
                for key in keys {
                    if let Expr::Column(i, column) = &mut key.expr {
                        *column = input.columns()[*i].ty;
                    }
                }
            }
            Plan::With { body, .. } => self.decide(body, index, ty)?,
            _ => return Err(SqlError::internal("a column of unknown type")),
        }
        Ok(())
    }
}

fn not_converted(what: &str, from: Type, to: Type) -> SqlError {
    SqlError::new(SqlState::CANNOT_COERCE, format!("{what} could not convert type {from} to {to}"))
}

/// Where the `i`th column of a query stands.
pub(super) fn item_position(binder: &Binder<'_>, body: &SetExpr, i: usize) -> Option<u32> {
    match body {
        SetExpr::Select(select) => match select.projection.get(i)? {
            ast::SelectItem::UnnamedExpr(expr) | ast::SelectItem::ExprWithAlias { expr, .. } => {
                binder.position(expr)
            }
            _ => None,
        },
        SetExpr::Values(values) => binder.position(values.rows.first()?.content.get(i)?),
        SetExpr::SetOperation { left, .. } => item_position(binder, left, i),
        SetExpr::Query(query) => item_position(binder, &query.body, i),
        _ => None,
    }
}
