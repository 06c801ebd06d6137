//! Walks over expressions and plans, for those who rewrite them.

use super::{Expr, FrameBound, Plan, SubqueryKind};

impl Expr {
    /// Calls `f` on each direct operand that is evaluated against the same row. The plan of a subquery is not
    /// entered, its left side is.
    pub fn operands_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        match self {
            Expr::Const(..) | Expr::Column(..) | Expr::Outer { .. } | Expr::Param(..) => {}
            Expr::Call { args, .. }
            | Expr::And(args)
            | Expr::Or(args)
            | Expr::Coalesce(args, _)
            | Expr::Extreme { args, .. } => args.iter_mut().for_each(f),
            Expr::Coerce { input, .. } | Expr::Not(input) | Expr::IsNull { input, .. } => f(input),
            Expr::IsDistinct { left, right, .. } => {
                f(left);
                f(right);
            }
            Expr::Case { branches, otherwise, .. } => {
                for (condition, value) in branches {
                    f(condition);
                    f(value);
                }
                f(otherwise);
            }
            Expr::InList { input, list, .. } => {
                f(input);
                list.iter_mut().for_each(f);
            }
            Expr::Subquery { kind, .. } => {
                if let SubqueryKind::Quantified { left, .. } = kind {
                    left.iter_mut().for_each(f);
                }
            }
        }
    }

    /// As [`Expr::operands_mut`], to look only.
    pub fn operands(&self, f: &mut dyn FnMut(&Expr)) {
        match self {
            Expr::Const(..) | Expr::Column(..) | Expr::Outer { .. } | Expr::Param(..) => {}
            Expr::Call { args, .. }
            | Expr::And(args)
            | Expr::Or(args)
            | Expr::Coalesce(args, _)
            | Expr::Extreme { args, .. } => args.iter().for_each(f),
            Expr::Coerce { input, .. } | Expr::Not(input) | Expr::IsNull { input, .. } => f(input),
            Expr::IsDistinct { left, right, .. } => {
                f(left);
                f(right);
            }
            Expr::Case { branches, otherwise, .. } => {
                for (condition, value) in branches {
                    f(condition);
                    f(value);
                }
                f(otherwise);
            }
            Expr::InList { input, list, .. } => {
                f(input);
                list.iter().for_each(f);
            }
            Expr::Subquery { kind, .. } => {
                if let SubqueryKind::Quantified { left, .. } = kind {
                    left.iter().for_each(f);
                }
            }
        }
    }

    /// Whether `test` holds for this expression or one below it; subqueries' plans are not entered.
    pub fn any(&self, test: &mut dyn FnMut(&Expr) -> bool) -> bool {
        if test(self) {
            return true;
        }
        let mut found = false;
        self.operands(&mut |operand| found = found || operand.any(test));
        found
    }

    /// Calls `f` on every column of the row that this expression is evaluated against, wherever it is referred to:
    /// here, or from a subquery as [`Expr::Outer`]. `f` gets the index and says what to put in its place.
    pub fn replace_columns(&mut self, f: &mut dyn FnMut(usize, crate::types::ColumnType) -> Expr) {
        replace_in_expr(self, 0, f);
    }
}

/// `depth`: how many subqueries are between here and the row in question.
fn replace_in_expr(
    expr: &mut Expr,
    depth: usize,
    f: &mut dyn FnMut(usize, crate::types::ColumnType) -> Expr,
) {
    match expr {
        Expr::Column(index, ty) if depth == 0 => *expr = f(*index, *ty),
        Expr::Outer { depth: d, index, ty } if *d == depth && depth > 0 => {
            let mut new = f(*index, *ty);
            lift(&mut new, depth);
            *expr = new;
        }
        _ => {
            if let Expr::Subquery { plan, .. } = expr {
                replace_in_plan(std::sync::Arc::make_mut(plan), depth + 1, f);
            }
            expr.operands_mut(&mut |operand| replace_in_expr(operand, depth, f));
        }
    }
}

fn replace_in_plan(
    plan: &mut Plan,
    depth: usize,
    f: &mut dyn FnMut(usize, crate::types::ColumnType) -> Expr,
) {
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

impl Plan {
    /// Calls `f` on each expression of this node.
    pub fn exprs_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        match self {
            Plan::Values { rows, .. } => rows.iter_mut().flatten().for_each(f),
            Plan::Scan(scan) => scan.filters.iter_mut().for_each(f),
            Plan::Series { args, .. } => args.iter_mut().for_each(f),
            Plan::Project { exprs, .. } => exprs.iter_mut().for_each(f),
            Plan::Filter { predicate, .. } => f(predicate),
            Plan::Join { on, .. } => on.iter_mut().for_each(f),
            Plan::Aggregate { group_by, aggregates, .. } => {
                group_by.iter_mut().for_each(&mut *f);
                for call in aggregates {
                    call.args.iter_mut().for_each(&mut *f);
                    call.filter.iter_mut().for_each(&mut *f);
                    call.order_by.iter_mut().for_each(|key| f(&mut key.expr));
                }
            }
            Plan::Window { calls, .. } => {
                for call in calls {
                    call.args.iter_mut().for_each(&mut *f);
                    call.filter.iter_mut().for_each(&mut *f);
                    call.partition_by.iter_mut().for_each(&mut *f);
                    call.order_by.iter_mut().for_each(|key| f(&mut key.expr));
                    for bound in [&mut call.frame.start, &mut call.frame.end] {
                        if let FrameBound::Preceding(offset) | FrameBound::Following(offset) = bound {
                            f(offset);
                        }
                    }
                }
            }
            Plan::Sort { keys, .. } => keys.iter_mut().for_each(|key| f(&mut key.expr)),
            Plan::Limit { limit, offset, .. } => {
                limit.iter_mut().for_each(&mut *f);
                offset.iter_mut().for_each(f);
            }
            Plan::DistinctOn { keys, .. } => keys.iter_mut().for_each(f),
            Plan::VirtualScan { .. }
            | Plan::CteScan { .. }
            | Plan::With { .. }
            | Plan::Distinct { .. }
            | Plan::SetOp { .. } => {}
        }
    }

    /// Calls `f` on each plan directly below this node.
    pub fn inputs_mut(&mut self, f: &mut dyn FnMut(&mut Plan)) {
        match self {
            Plan::Values { .. }
            | Plan::Scan(_)
            | Plan::VirtualScan { .. }
            | Plan::Series { .. }
            | Plan::CteScan { .. } => {}
            Plan::With { ctes, body } => {
                for cte in ctes {
                    let cte = std::sync::Arc::make_mut(cte);
                    f(&mut cte.plan);
                    if let Some((recursive, _)) = &mut cte.recursive {
                        f(recursive);
                    }
                }
                f(body);
            }
            Plan::Project { input, .. }
            | Plan::Filter { input, .. }
            | Plan::Aggregate { input, .. }
            | Plan::Window { input, .. }
            | Plan::Sort { input, .. }
            | Plan::Limit { input, .. }
            | Plan::Distinct { input }
            | Plan::DistinctOn { input, .. } => f(input),
            Plan::Join { left, right, .. } | Plan::SetOp { left, right, .. } => {
                f(left);
                f(right);
            }
        }
    }
}
