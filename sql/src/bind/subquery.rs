//! Subqueries in expressions.

use std::sync::Arc;

use sqlparser::ast::{self, BinaryOperator, Spanned};

use super::operator::{Pair, and, not, or, row_of, symbol};
use super::{Binder, LevelKind};
use crate::error::{Result, SqlError, SqlState};
use crate::function::resolve;
use crate::ir::{CallKind, Expr, Plan, SubqueryKind};
use crate::types::{ColumnType, Datum, Type};

impl Binder<'_> {
    /// The plan of a subquery of the current level. Inside, the current row is one level out.
    fn subquery(&mut self, query: &ast::Query) -> Result<Plan> {
        // What the subquery refers to of this level must be grouped like everything else, except inside an aggregate.
        self.query(query, LevelKind::Subquery)
    }

    pub(super) fn scalar_subquery(&mut self, query: &ast::Query) -> Result<Expr> {
        let plan = self.subquery(query)?;
        let [column] = plan.columns() else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "subquery must return only one column")
                .at(self.before(query)));
        };
        let ty = column.ty;
        Ok(Expr::Subquery { kind: SubqueryKind::Scalar, plan: Arc::new(plan), ty })
    }

    pub(super) fn exists(&mut self, query: &ast::Query, negated: bool) -> Result<Expr> {
        let plan = self.subquery(query)?;
        let exists = Expr::Subquery {
            kind: SubqueryKind::Exists,
            plan: Arc::new(plan),
            ty: ColumnType::plain(Type::Bool),
        };
        Ok(if negated { not(exists) } else { exists })
    }

    pub(super) fn in_subquery(
        &mut self,
        left: &ast::Expr,
        query: &ast::Query,
        negated: bool,
    ) -> Result<Expr> {
        let (op, all) = if negated { (BinaryOperator::NotEq, true) } else { (BinaryOperator::Eq, false) };
        let keyword = self.source.operator(if negated { "not" } else { "in" }, left.span(), query.span());
        self.quantified_subquery(left, &op, query, all, keyword)
    }

    /// `left op ANY/ALL (…)`
    pub(super) fn quantified(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        all: bool,
    ) -> Result<Expr> {
        let mut inner = right;
        while let ast::Expr::Nested(nested) = inner {
            inner = nested;
        }
        let keyword = self.source.operator(&op.to_string(), left.span(), right.span());
        match inner {
            ast::Expr::Subquery(query) => self.quantified_subquery(left, op, query, all, keyword),
            ast::Expr::Array(ast::Array { elem, named: _ }) => {
                if elem.is_empty() {
                    return Err(SqlError::new(
                        SqlState::INDETERMINATE_DATATYPE,
                        "cannot determine type of empty array",
                    )
                    .hint("Explicitly cast to the desired type, for example ARRAY[]::integer[].")
                    .at(self.position(inner)));
                }
                let mut positions = vec![self.position(left)];
                let value = self.expr(left)?;
                let mut items = Vec::with_capacity(elem.len());
                for item in elem {
                    positions.push(self.position(item));
                    items.push(self.expr(item)?);
                }
                // The array has a type of its own, before it is compared with anything.
                let (items, _) = self.unify("ARRAY", items, &positions[1..])?;
                let mut values = vec![value];
                values.extend(items);
                match (op, all) {
                    (BinaryOperator::Eq, false) => self.in_values(values, positions, false, keyword),
                    (BinaryOperator::NotEq, true) => self.in_values(values, positions, true, keyword),
                    _ => {
                        let value = values.remove(0);
                        let symbol = symbol(op)?;
                        let tests = values
                            .into_iter()
                            .zip(&positions[1..])
                            .map(|(item, at)| {
                                self.operator(&symbol, vec![value.clone(), item], &[positions[0], *at])
                                    .map_err(|e| e.at(keyword))
                            })
                            .collect::<Result<Vec<_>>>()?;
                        Ok(if all { and(tests) } else { or(tests) })
                    }
                }
            }
            _ => Err(SqlError::unsupported(if all { "ALL of an array" } else { "ANY of an array" })
                .at(self.position(right))),
        }
    }

    fn quantified_subquery(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        query: &ast::Query,
        all: bool,
        keyword: Option<u32>,
    ) -> Result<Expr> {
        let left_columns: Vec<&ast::Expr> = match row_of(left) {
            Some(columns) => columns,
            None => vec![left],
        };
        let positions: Vec<Option<u32>> = left_columns.iter().map(|l| self.position(*l)).collect();
        let mut values = left_columns.iter().map(|l| self.expr(l)).collect::<Result<Vec<_>>>()?;
        let plan = self.subquery(query)?;
        let width = values.len();
        if plan.columns().len() != width {
            let what = if plan.columns().len() > width { "many" } else { "few" };
            return Err(
                SqlError::new(SqlState::SYNTAX_ERROR, format!("subquery has too {what} columns")).at(keyword)
            );
        }
        let right: Vec<ColumnType> = plan.columns().iter().map(|c| c.ty).collect();
        let lexicographic = matches!(
            op,
            BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq
        );
        let symbol = symbol(op)?;
        // The left values get the types that the operator wants; the comparison then sees only columns.
        for (i, value) in values.iter_mut().enumerate() {
            let resolved =
                resolve::operator(&symbol, &[value.ty().ty, right[i].ty]).map_err(|e| e.at(keyword))?;
            let taken = std::mem::replace(value, Expr::Const(Datum::Null, right[i]));
            *value = self.implicit(taken, resolved.args[0], positions[i])?;
        }
        let pair = |i: usize| (Expr::Column(i, values[i].ty()), Expr::Column(width + i, right[i]));
        let compare = if width > 1 && lexicographic {
            let pairs = (0..width).map(|i| {
                let (left, right) = pair(i);
                Pair { left, right, positions: [positions[i], None] }
            });
            self.compare_rows(op, pairs.collect())?
        } else {
            let mut tests = Vec::with_capacity(width);
            for i in 0..width {
                let (l, r) = pair(i);
                let resolved =
                    resolve::operator(&symbol, &[l.ty().ty, r.ty().ty]).map_err(|e| e.at(keyword))?;
                let args = vec![
                    self.implicit(l, resolved.args[0], None)?,
                    self.implicit(r, resolved.args[1], None)?,
                ];
                if resolved.function.returns != Type::Bool {
                    return Err(SqlError::new(
                        SqlState::WRONG_OBJECT_TYPE,
                        "op ANY/ALL (array) requires operator to yield boolean",
                    )
                    .at(keyword));
                }
                tests.push(self.call(resolved.function, CallKind::Operator, args));
            }
            match (width, op) {
                (1, _) | (_, BinaryOperator::Eq) => and(tests),
                (_, BinaryOperator::NotEq) => or(tests),
                _ => return Err(SqlError::unsupported(format!("the operator {op} for rows")).at(keyword)),
            }
        };
        let kind = SubqueryKind::Quantified { left: values, compare: Box::new(compare), all };
        Ok(Expr::Subquery { kind, plan: Arc::new(plan), ty: ColumnType::plain(Type::Bool) })
    }

    /// The parenthesis before a subquery, which is where PostgreSQL points to.
    fn before(&self, query: &ast::Query) -> Option<u32> {
        let start = self.position(query)?;
        let text = self.source.text().get(..self.source.offset(start))?;
        let back = text.chars().rev().take_while(|c| c.is_whitespace()).count() as u32;
        Some(start.saturating_sub(back + 1).max(1))
    }
}
