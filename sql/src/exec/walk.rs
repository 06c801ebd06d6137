//! Walking over expressions and plans, to see what they contain.

use crate::ir::{Expr, FrameBound, Plan, SubqueryKind};

/// Visits an expression, those below it, and the plans of its subqueries.
pub fn visit_expr(expr: &Expr, on_expr: &mut dyn FnMut(&Expr), on_plan: &mut dyn FnMut(&Plan)) {
    on_expr(expr);
    match expr {
        Expr::Const(..) | Expr::Column(..) | Expr::Outer { .. } | Expr::Param(..) => {}
        Expr::Call { args, .. }
        | Expr::And(args)
        | Expr::Or(args)
        | Expr::Coalesce(args, _)
        | Expr::Extreme { args, .. } => args.iter().for_each(|e| visit_expr(e, on_expr, on_plan)),
        Expr::Coerce { input, .. } | Expr::Not(input) | Expr::IsNull { input, .. } => {
            visit_expr(input, on_expr, on_plan);
        }
        Expr::IsDistinct { left, right, .. } => {
            visit_expr(left, on_expr, on_plan);
            visit_expr(right, on_expr, on_plan);
        }
        Expr::Case { branches, otherwise, .. } => {
            for (condition, value) in branches {
                visit_expr(condition, on_expr, on_plan);
                visit_expr(value, on_expr, on_plan);
            }
            visit_expr(otherwise, on_expr, on_plan);
        }
        Expr::InList { input, list, .. } => {
            visit_expr(input, on_expr, on_plan);
            list.iter().for_each(|e| visit_expr(e, on_expr, on_plan));
        }
        Expr::Subquery { kind, plan, .. } => {
            visit_plan(plan, on_expr, on_plan);
            if let SubqueryKind::Quantified { left, compare, .. } = kind {
                left.iter().for_each(|e| visit_expr(e, on_expr, on_plan));
                visit_expr(compare, on_expr, on_plan);
            }
        }
    }
}

/// Visits a plan, those below it, and all their expressions.
pub fn visit_plan(plan: &Plan, on_expr: &mut dyn FnMut(&Expr), on_plan: &mut dyn FnMut(&Plan)) {
    on_plan(plan);
    expressions(plan, &mut |expr| visit_expr(expr, on_expr, on_plan));
    inputs(plan, &mut |input| visit_plan(input, on_expr, on_plan));
}

/// The expressions of a plan's root.
pub fn expressions(plan: &Plan, f: &mut dyn FnMut(&Expr)) {
    match plan {
        Plan::Values { rows, .. } => rows.iter().flatten().for_each(f),
        Plan::Scan(scan) => scan.filters.iter().for_each(f),
        Plan::Series { args, .. } => args.iter().for_each(f),
        Plan::Project { exprs, .. } => exprs.iter().for_each(f),
        Plan::Filter { predicate, .. } => f(predicate),
        Plan::Join { on, .. } => on.iter().for_each(f),
        Plan::Aggregate { group_by, aggregates, .. } => {
            group_by.iter().for_each(&mut *f);
            for call in aggregates {
                call.args.iter().chain(&call.filter).for_each(&mut *f);
                call.order_by.iter().for_each(|key| f(&key.expr));
            }
        }
        Plan::Window { calls, .. } => {
            for call in calls {
                call.args.iter().chain(&call.filter).chain(&call.partition_by).for_each(&mut *f);
                call.order_by.iter().for_each(|key| f(&key.expr));
                for bound in [&call.frame.start, &call.frame.end] {
                    if let FrameBound::Preceding(n) | FrameBound::Following(n) = bound {
                        f(n);
                    }
                }
            }
        }
        Plan::Sort { keys, .. } => keys.iter().for_each(|key| f(&key.expr)),
        Plan::Limit { limit, offset, .. } => limit.iter().chain(offset).for_each(f),
        Plan::DistinctOn { keys, .. } => keys.iter().for_each(f),
        Plan::VirtualScan { .. }
        | Plan::CteScan { .. }
        | Plan::With { .. }
        | Plan::Distinct { .. }
        | Plan::SetOp { .. } => {}
    }
}

/// The inputs of a plan's root.
pub fn inputs(plan: &Plan, f: &mut dyn FnMut(&Plan)) {
    match plan {
        Plan::Values { .. }
        | Plan::Scan(_)
        | Plan::VirtualScan { .. }
        | Plan::Series { .. }
        | Plan::CteScan { .. } => {}
        Plan::With { ctes, body } => {
            for cte in ctes {
                f(&cte.plan);
                if let Some((recursive, _)) = &cte.recursive {
                    f(recursive);
                }
            }
            f(body);
        }
        Plan::Join { left, right, .. } | Plan::SetOp { left, right, .. } => {
            f(left);
            f(right);
        }
        Plan::Project { input, .. }
        | Plan::Filter { input, .. }
        | Plan::Aggregate { input, .. }
        | Plan::Window { input, .. }
        | Plan::Sort { input, .. }
        | Plan::Limit { input, .. }
        | Plan::Distinct { input }
        | Plan::DistinctOn { input, .. } => f(input),
    }
}

/// Whether an expression asks a subquery or refers to an enclosing query.
pub fn has_subquery(expr: &Expr) -> bool {
    let mut found = false;
    let mut see = |e: &Expr| found |= matches!(e, Expr::Subquery { .. } | Expr::Outer { .. });
    visit_expr(expr, &mut see, &mut |_| {});
    found
}

/// Whether a plan scans a table anywhere, subqueries included.
pub fn reads(plan: &Plan, table: u32) -> bool {
    let mut found = false;
    visit_plan(plan, &mut |_| {}, &mut |p| {
        found |= matches!(p, Plan::Scan(scan) if scan.table.id == table);
    });
    found
}
