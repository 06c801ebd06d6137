//! References across the borders of subqueries.
//!
//! An expression's *level* says how many subquery expressions stand around it, seen from where the walk began: at level
//! n, `Outer { depth: n + 1, .. }` leads to the row around the beginning's plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{map_children, map_parts};
use crate::ir::{Expr, Plan, SubqueryKind};
use crate::types::{ColumnType, Datum};

impl Expr {
    /// Calls `f` on every column of the row that this expression is evaluated against, wherever it is referred to:
    /// here, or from a subquery as [`Expr::Outer`]. `f` gets the index and says what to put in its place.
    pub fn replace_columns(&mut self, f: &mut dyn FnMut(usize, ColumnType) -> Expr) {
        replace_in_expr(self, 0, f);
    }
}

/// `depth`: how many subqueries are between here and the row in question.
fn replace_in_expr(expr: &mut Expr, depth: usize, f: &mut dyn FnMut(usize, ColumnType) -> Expr) {
    match expr {
        Expr::Column(index, ty) if depth == 0 => *expr = f(*index, *ty),
        Expr::Outer { depth: d, index, ty } if *d == depth && depth > 0 => {
            let mut new = f(*index, *ty);
            lift(&mut new, depth);
            *expr = new;
        }
        _ => {
            if let Expr::Subquery { plan, .. } = expr {
                replace_in_plan(Arc::make_mut(plan), depth + 1, f);
            }
            expr.operands_mut(&mut |operand| replace_in_expr(operand, depth, f));
        }
    }
}

fn replace_in_plan(plan: &mut Plan, depth: usize, f: &mut dyn FnMut(usize, ColumnType) -> Expr) {
    plan.exprs_mut(&mut |expr| replace_in_expr(expr, depth, f));
    plan.inputs_mut(&mut |input| replace_in_plan(input, depth, f));
}

/// Turns an expression over a row into one over that row from `depth` subqueries below.
pub fn lift(expr: &mut Expr, depth: usize) {
    match expr {
        Expr::Column(index, ty) => *expr = Expr::Outer { depth, index: *index, ty: *ty },
        Expr::Outer { depth: d, .. } => *d += depth,
        _ => expr.operands_mut(&mut |operand| lift(operand, depth)),
    }
}

/// The references that lead to the row around `plan`: column and type.
pub fn outer_references(plan: &Plan) -> Vec<(usize, ColumnType)> {
    let mut found: Vec<(usize, ColumnType)> = Vec::new();
    outer_in_plan(plan, 1, &mut |index, ty| {
        if !found.iter().any(|(known, _)| *known == index) {
            found.push((index, ty));
        }
    });
    found
}

fn outer_in_plan(plan: &Plan, depth: usize, found: &mut dyn FnMut(usize, ColumnType)) {
    plan.exprs(&mut |e| outer_in_expr(e, depth, found));
    plan.inputs(&mut |p| outer_in_plan(p, depth, found));
}

/// Finds `Outer` references of `depth`, counted from `expr`'s own level, within `expr`.
fn outer_in_expr(expr: &Expr, depth: usize, found: &mut dyn FnMut(usize, ColumnType)) {
    match expr {
        Expr::Outer { depth: d, index, ty } if *d == depth => found(*index, *ty),
        Expr::Subquery { kind, plan, .. } => {
            if let SubqueryKind::Quantified { compare, .. } = kind {
                outer_in_expr(compare, depth, found);
            }
            outer_in_plan(plan, depth + 1, found);
        }
        _ => {}
    }
    expr.operands(&mut |child| outer_in_expr(child, depth, found));
}

/// Whether anything in `plan` leads out of it.
pub fn is_correlated(plan: &Plan) -> bool {
    let mut found = false;
    outer_in_plan(plan, 1, &mut |_, _| found = true);
    found
}

/// Whether `expr`, taken as part of a subquery's plan, refers to the row around it.
pub fn refers_out(expr: &Expr) -> bool {
    let mut found = false;
    outer_in_expr(expr, 1, &mut |_, _| found = true);
    found
}

/// Maps the references of a subquery's plan to the row around it. Where they stand in nested subqueries, what `f` gives must
/// not depend on a row (constants), or be an `Outer` of the depth that it is told.
fn map_outer(plan: &Plan, depth: usize, f: &mut dyn FnMut(usize, usize, ColumnType) -> Expr) -> Plan {
    // Two closures need `f`; a cell lends it to one after the other.
    let f = std::cell::RefCell::new(f);
    map_parts(plan, &mut |e| map_outer_expr(e, depth, &mut **f.borrow_mut()), &mut |p| {
        map_outer(p, depth, &mut **f.borrow_mut())
    })
}

/// [`map_outer`] for an expression.
fn map_outer_expr(expr: &Expr, depth: usize, f: &mut dyn FnMut(usize, usize, ColumnType) -> Expr) -> Expr {
    match expr {
        Expr::Outer { depth: d, index, ty } if *d == depth => f(depth, *index, *ty),
        Expr::Subquery { kind, plan, ty } => {
            let mut inside = false;
            outer_in_plan(plan, depth + 1, &mut |_, _| inside = true);
            // An untouched plan keeps its identity, by which results are remembered.
            let plan = if inside { Arc::new(map_outer(plan, depth + 1, f)) } else { Arc::clone(plan) };
            let kind = match kind {
                SubqueryKind::Quantified { left, compare, all } => SubqueryKind::Quantified {
                    left: left.iter().map(|e| map_outer_expr(e, depth, f)).collect(),
                    compare: Box::new(map_outer_expr(compare, depth, f)),
                    all: *all,
                },
                other => other.clone(),
            };
            Expr::Subquery { kind, plan, ty: *ty }
        }
        other => map_children(other, &mut |child| map_outer_expr(child, depth, f)),
    }
}

/// The subquery's plan for one row around it.
pub fn bind_outer(plan: &Plan, row: &[Datum]) -> Plan {
    map_outer(plan, 1, &mut |_, index, ty| Expr::Const(row.get(index).cloned().unwrap_or(Datum::Null), ty))
}

/// The columns of its row that an expression uses, also from within subqueries.
pub fn columns_used(expr: &Expr, out: &mut BTreeSet<usize>) {
    match expr {
        Expr::Column(index, _) => {
            out.insert(*index);
        }
        Expr::Subquery { plan, .. } => outer_in_plan(plan, 1, &mut |index, _| {
            out.insert(index);
        }),
        _ => {}
    }
    expr.operands(&mut |child| columns_used(child, out));
}

/// Renumbers the columns of its row that an expression uses, also within subqueries.
pub fn renumber(expr: &Expr, f: &dyn Fn(usize) -> usize) -> Expr {
    match expr {
        Expr::Column(index, ty) => Expr::Column(f(*index), *ty),
        Expr::Subquery { plan, .. } if is_correlated(plan) => {
            match map_children(expr, &mut |child| renumber(child, f)) {
                Expr::Subquery { kind, plan, ty } => {
                    let plan = map_outer(&plan, 1, &mut |depth, index, ty| Expr::Outer {
                        depth,
                        index: f(index),
                        ty,
                    });
                    Expr::Subquery { kind, plan: Arc::new(plan), ty }
                }
                other => other,
            }
        }
        other => map_children(other, &mut |child| renumber(child, f)),
    }
}

/// Puts expressions in the place of columns; `None` where that can't be done (a correlated subquery refers to them).
pub fn substitute(expr: &Expr, columns: &[Expr]) -> Option<Expr> {
    let mut fits = true;
    let out = substitute_into(expr, columns, &mut fits);
    fits.then_some(out)
}

fn substitute_into(expr: &Expr, columns: &[Expr], fits: &mut bool) -> Expr {
    match expr {
        Expr::Column(index, _) => match columns.get(*index) {
            Some(column) => column.clone(),
            None => {
                *fits = false;
                expr.clone()
            }
        },
        Expr::Subquery { plan, .. } if is_correlated(plan) => {
            *fits = false;
            expr.clone()
        }
        other => map_children(other, &mut |child| substitute_into(child, columns, fits)),
    }
}
