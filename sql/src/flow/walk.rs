//! Walking over and rewriting expressions and plans.
//!
//! An expression's *level* says how many subquery expressions stand around it, seen from where the walk began: at level
//! n, `Outer { depth: n + 1, .. }` leads to the row around the beginning's plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::function::Volatility;
use crate::ir::{AggregateCall, Cte, Expr, FrameBound, Plan, SortKey, SubqueryKind, TableScan, WindowCall};
use crate::types::{ColumnType, Datum};

/// Left on the stack at each level of a walk; a new piece is taken when it runs out.
const STACK_RED_ZONE_BYTES: usize = 256 << 10;
const STACK_PIECE_BYTES: usize = 4 << 20;

/// Runs one level of a walk. The binder bounds how deep a plan is, not how much stack each level takes.
pub(super) fn with_stack<T>(f: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_RED_ZONE_BYTES, STACK_PIECE_BYTES, f)
}

/// Calls `f` on each direct child expression that is evaluated against the same row. (A quantified subquery's `compare` has a row
/// of its own and is not among them.)
pub(super) fn children<'a>(expr: &'a Expr, f: &mut dyn FnMut(&'a Expr)) {
    with_stack(|| children_of(expr, f));
}

fn children_of<'a>(expr: &'a Expr, f: &mut dyn FnMut(&'a Expr)) {
    match expr {
        Expr::Const(..) | Expr::Column(..) | Expr::Outer { .. } | Expr::Param(..) => {}
        Expr::Call { args, .. } | Expr::Extreme { args, .. } => args.iter().for_each(f),
        Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args, _) => args.iter().for_each(f),
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

/// Rebuilds an expression from its children, which `f` maps; see [`children`] for what they are.
pub(super) fn map_children(expr: &Expr, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
    with_stack(|| map_children_of(expr, f))
}

fn map_children_of(expr: &Expr, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
    match expr {
        Expr::Const(..) | Expr::Column(..) | Expr::Outer { .. } | Expr::Param(..) => expr.clone(),
        Expr::Call { function, kind, args, ty } => {
            Expr::Call { function, kind: *kind, args: args.iter().map(f).collect(), ty: *ty }
        }
        Expr::Extreme { args, less, greatest, ty } => {
            Expr::Extreme { args: args.iter().map(f).collect(), less, greatest: *greatest, ty: *ty }
        }
        Expr::And(args) => Expr::And(args.iter().map(f).collect()),
        Expr::Or(args) => Expr::Or(args.iter().map(f).collect()),
        Expr::Coalesce(args, ty) => Expr::Coalesce(args.iter().map(f).collect(), *ty),
        Expr::Coerce { input, ty, explicit } => {
            Expr::Coerce { input: Box::new(f(input)), ty: *ty, explicit: *explicit }
        }
        Expr::Not(input) => Expr::Not(Box::new(f(input))),
        Expr::IsNull { input, negated } => Expr::IsNull { input: Box::new(f(input)), negated: *negated },
        Expr::IsDistinct { equals, left, right, negated } => {
            Expr::IsDistinct { equals, left: Box::new(f(left)), right: Box::new(f(right)), negated: *negated }
        }
        Expr::Case { branches, otherwise, ty } => Expr::Case {
            branches: branches.iter().map(|(condition, value)| (f(condition), f(value))).collect(),
            otherwise: Box::new(f(otherwise)),
            ty: *ty,
        },
        Expr::InList { input, equals, list, negated } => Expr::InList {
            input: Box::new(f(input)),
            equals,
            list: list.iter().map(f).collect(),
            negated: *negated,
        },
        Expr::Subquery { kind, plan, ty } => Expr::Subquery {
            kind: match kind {
                SubqueryKind::Quantified { left, compare, all } => SubqueryKind::Quantified {
                    left: left.iter().map(f).collect(),
                    compare: compare.clone(),
                    all: *all,
                },
                other => other.clone(),
            },
            plan: Arc::clone(plan),
            ty: *ty,
        },
    }
}

/// Whether `test` holds for the expression or anything below it (not within subqueries' plans).
pub(super) fn any(expr: &Expr, test: &dyn Fn(&Expr) -> bool) -> bool {
    if test(expr) {
        return true;
    }
    let mut found = false;
    children(expr, &mut |child| found = found || any(child, test));
    found
}

pub(super) fn has_subquery(expr: &Expr) -> bool {
    any(expr, &|e| matches!(e, Expr::Subquery { .. }))
}

/// Whether evaluating the expression twice, or not at all, can be noticed.
pub(super) fn is_volatile(expr: &Expr) -> bool {
    any(expr, &|e| matches!(e, Expr::Call { function, .. } if function.volatility == Volatility::Volatile))
}

/// Appends the conjuncts of `expr`.
pub(super) fn conjuncts(expr: Expr, out: &mut Vec<Expr>) {
    match expr {
        Expr::And(args) => args.into_iter().for_each(|arg| conjuncts(arg, out)),
        other => out.push(other),
    }
}

/// The conjunction of `exprs`; `None` of nothing.
pub(super) fn conjunction(mut exprs: Vec<Expr>) -> Option<Expr> {
    match exprs.len() {
        0 | 1 => exprs.pop(),
        _ => Some(Expr::And(exprs)),
    }
}

/// A plan's own expressions and child plans, in a fixed order.
pub(super) fn parts<'a>(
    plan: &'a Plan,
    on_expr: &mut dyn FnMut(&'a Expr),
    on_plan: &mut dyn FnMut(&'a Plan),
) {
    with_stack(|| parts_of(plan, on_expr, on_plan));
}

fn parts_of<'a>(plan: &'a Plan, on_expr: &mut dyn FnMut(&'a Expr), on_plan: &mut dyn FnMut(&'a Plan)) {
    match plan {
        Plan::Values { rows, .. } => rows.iter().flatten().for_each(on_expr),
        Plan::Scan(scan) => scan.filters.iter().for_each(on_expr),
        Plan::VirtualScan { .. } | Plan::CteScan { .. } => {}
        Plan::Series { args, .. } => args.iter().for_each(on_expr),
        Plan::With { ctes, body } => {
            for cte in ctes {
                on_plan(&cte.plan);
                if let Some((term, _)) = &cte.recursive {
                    on_plan(term);
                }
            }
            on_plan(body);
        }
        Plan::Project { input, exprs, .. } => {
            exprs.iter().for_each(on_expr);
            on_plan(input);
        }
        Plan::Filter { input, predicate } => {
            on_expr(predicate);
            on_plan(input);
        }
        Plan::Join { left, right, on, .. } => {
            on.iter().for_each(on_expr);
            on_plan(left);
            on_plan(right);
        }
        Plan::Aggregate { input, group_by, aggregates, .. } => {
            group_by.iter().for_each(&mut *on_expr);
            for call in aggregates {
                call.args.iter().for_each(&mut *on_expr);
                call.filter.iter().for_each(&mut *on_expr);
                call.order_by.iter().for_each(|key| on_expr(&key.expr));
            }
            on_plan(input);
        }
        Plan::Window { input, calls, .. } => {
            for call in calls {
                call.args.iter().for_each(&mut *on_expr);
                call.filter.iter().for_each(&mut *on_expr);
                call.partition_by.iter().for_each(&mut *on_expr);
                call.order_by.iter().for_each(|key| on_expr(&key.expr));
                for bound in [&call.frame.start, &call.frame.end] {
                    if let FrameBound::Preceding(offset) | FrameBound::Following(offset) = bound {
                        on_expr(offset);
                    }
                }
            }
            on_plan(input);
        }
        Plan::Sort { input, keys } => {
            keys.iter().for_each(|key| on_expr(&key.expr));
            on_plan(input);
        }
        Plan::Limit { input, limit, offset } => {
            limit.iter().for_each(&mut *on_expr);
            offset.iter().for_each(&mut *on_expr);
            on_plan(input);
        }
        Plan::Distinct { input } => on_plan(input),
        Plan::DistinctOn { input, keys } => {
            keys.iter().for_each(on_expr);
            on_plan(input);
        }
        Plan::SetOp { left, right, .. } => {
            on_plan(left);
            on_plan(right);
        }
    }
}

/// Rebuilds a plan from its expressions and child plans, mapped.
pub(super) fn map_parts(
    plan: &Plan,
    on_expr: &mut dyn FnMut(&Expr) -> Expr,
    on_plan: &mut dyn FnMut(&Plan) -> Plan,
) -> Plan {
    with_stack(|| map_parts_of(plan, on_expr, on_plan))
}

fn map_parts_of(
    plan: &Plan,
    on_expr: &mut dyn FnMut(&Expr) -> Expr,
    on_plan: &mut dyn FnMut(&Plan) -> Plan,
) -> Plan {
    match plan {
        Plan::Values { rows, columns } => Plan::Values {
            rows: rows.iter().map(|row| row.iter().map(&mut *on_expr).collect()).collect(),
            columns: columns.clone(),
        },
        Plan::Scan(scan) => Plan::Scan(TableScan {
            table: Arc::clone(&scan.table),
            columns: scan.columns.clone(),
            with_key: scan.with_key,
            filters: scan.filters.iter().map(on_expr).collect(),
        }),
        Plan::VirtualScan { .. } | Plan::CteScan { .. } => plan.clone(),
        Plan::Series { args, columns } => {
            Plan::Series { args: args.iter().map(on_expr).collect(), columns: columns.clone() }
        }
        Plan::With { ctes, body } => Plan::With {
            ctes: ctes
                .iter()
                .map(|cte| {
                    Arc::new(Cte {
                        id: cte.id,
                        name: cte.name.clone(),
                        plan: on_plan(&cte.plan),
                        recursive: cte
                            .recursive
                            .as_ref()
                            .map(|(term, distinct)| (Box::new(on_plan(term)), *distinct)),
                    })
                })
                .collect(),
            body: Box::new(on_plan(body)),
        },
        Plan::Project { input, exprs, columns } => Plan::Project {
            exprs: exprs.iter().map(on_expr).collect(),
            input: Box::new(on_plan(input)),
            columns: columns.clone(),
        },
        Plan::Filter { input, predicate } => {
            Plan::Filter { predicate: on_expr(predicate), input: Box::new(on_plan(input)) }
        }
        Plan::Join { kind, left, right, on, columns } => Plan::Join {
            kind: *kind,
            on: on.as_ref().map(on_expr),
            left: Box::new(on_plan(left)),
            right: Box::new(on_plan(right)),
            columns: columns.clone(),
        },
        Plan::Aggregate { input, group_by, aggregates, columns } => Plan::Aggregate {
            group_by: group_by.iter().map(&mut *on_expr).collect(),
            aggregates: aggregates.iter().map(|call| map_aggregate(call, on_expr)).collect(),
            input: Box::new(on_plan(input)),
            columns: columns.clone(),
        },
        Plan::Window { input, calls, columns } => Plan::Window {
            calls: calls.iter().map(|call| map_window(call, on_expr)).collect(),
            input: Box::new(on_plan(input)),
            columns: columns.clone(),
        },
        Plan::Sort { input, keys } => {
            Plan::Sort { keys: map_keys(keys, on_expr), input: Box::new(on_plan(input)) }
        }
        Plan::Limit { input, limit, offset } => Plan::Limit {
            limit: limit.as_ref().map(&mut *on_expr),
            offset: offset.as_ref().map(&mut *on_expr),
            input: Box::new(on_plan(input)),
        },
        Plan::Distinct { input } => Plan::Distinct { input: Box::new(on_plan(input)) },
        Plan::DistinctOn { input, keys } => {
            Plan::DistinctOn { keys: keys.iter().map(on_expr).collect(), input: Box::new(on_plan(input)) }
        }
        Plan::SetOp { op, all, left, right, columns } => Plan::SetOp {
            op: *op,
            all: *all,
            left: Box::new(on_plan(left)),
            right: Box::new(on_plan(right)),
            columns: columns.clone(),
        },
    }
}

/// An aggregate call over mapped expressions.
pub(super) fn map_aggregate(call: &AggregateCall, f: &mut dyn FnMut(&Expr) -> Expr) -> AggregateCall {
    AggregateCall {
        function: call.function,
        args: call.args.iter().map(&mut *f).collect(),
        distinct: call.distinct,
        filter: call.filter.as_ref().map(&mut *f),
        order_by: map_keys(&call.order_by, f),
        ty: call.ty,
    }
}

/// A window call over mapped expressions.
pub(super) fn map_window(call: &WindowCall, f: &mut dyn FnMut(&Expr) -> Expr) -> WindowCall {
    let bound = |bound: &FrameBound, f: &mut dyn FnMut(&Expr) -> Expr| match bound {
        FrameBound::Preceding(offset) => FrameBound::Preceding(Box::new(f(offset))),
        FrameBound::Following(offset) => FrameBound::Following(Box::new(f(offset))),
        other => other.clone(),
    };
    WindowCall {
        function: call.function,
        args: call.args.iter().map(&mut *f).collect(),
        filter: call.filter.as_ref().map(&mut *f),
        partition_by: call.partition_by.iter().map(&mut *f).collect(),
        order_by: map_keys(&call.order_by, f),
        frame: crate::ir::WindowFrame {
            units: call.frame.units,
            start: bound(&call.frame.start, f),
            end: bound(&call.frame.end, f),
        },
        ty: call.ty,
    }
}

/// Sort keys over mapped expressions.
pub(super) fn map_keys(keys: &[SortKey], f: &mut dyn FnMut(&Expr) -> Expr) -> Vec<SortKey> {
    keys.iter()
        .map(|key| SortKey { expr: f(&key.expr), descending: key.descending, nulls_first: key.nulls_first })
        .collect()
}

/// The references that lead to the row around `plan`: column and type.
pub(super) fn outer_references(plan: &Plan) -> Vec<(usize, ColumnType)> {
    let mut found: Vec<(usize, ColumnType)> = Vec::new();
    outer_in_plan(plan, 1, &mut |index, ty| {
        if !found.iter().any(|(known, _)| *known == index) {
            found.push((index, ty));
        }
    });
    found
}

fn outer_in_plan(plan: &Plan, depth: usize, found: &mut dyn FnMut(usize, ColumnType)) {
    let mut exprs = Vec::new();
    let mut plans = Vec::new();
    parts(plan, &mut |e| exprs.push(e), &mut |p| plans.push(p));
    exprs.into_iter().for_each(|e| outer_in_expr(e, depth, found));
    plans.into_iter().for_each(|p| outer_in_plan(p, depth, found));
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
    children(expr, &mut |child| outer_in_expr(child, depth, found));
}

/// Whether anything in `plan` leads out of it.
pub(super) fn is_correlated(plan: &Plan) -> bool {
    let mut found = false;
    outer_in_plan(plan, 1, &mut |_, _| found = true);
    found
}

/// Whether `expr`, taken as part of a subquery's plan, refers to the row around it.
pub(super) fn refers_out(expr: &Expr) -> bool {
    let mut found = false;
    outer_in_expr(expr, 1, &mut |_, _| found = true);
    found
}

/// Maps the references of a subquery's plan to the row around it. Where they stand in nested subqueries, what `f` gives must
/// not depend on a row (constants), or be an `Outer` of the depth that it is told.
pub(super) fn map_outer(
    plan: &Plan,
    depth: usize,
    f: &mut dyn FnMut(usize, usize, ColumnType) -> Expr,
) -> Plan {
    // Two closures need `f`; a cell lends it to one after the other.
    let f = std::cell::RefCell::new(f);
    map_parts(plan, &mut |e| map_outer_expr(e, depth, &mut **f.borrow_mut()), &mut |p| {
        map_outer(p, depth, &mut **f.borrow_mut())
    })
}

/// [`map_outer`] for an expression.
pub(super) fn map_outer_expr(
    expr: &Expr,
    depth: usize,
    f: &mut dyn FnMut(usize, usize, ColumnType) -> Expr,
) -> Expr {
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
pub(super) fn bind_outer(plan: &Plan, row: &[Datum]) -> Plan {
    map_outer(plan, 1, &mut |_, index, ty| Expr::Const(row.get(index).cloned().unwrap_or(Datum::Null), ty))
}

/// The columns of its row that an expression uses, also from within subqueries.
pub(super) fn columns_used(expr: &Expr, out: &mut BTreeSet<usize>) {
    match expr {
        Expr::Column(index, _) => {
            out.insert(*index);
        }
        Expr::Subquery { plan, .. } => outer_in_plan(plan, 1, &mut |index, _| {
            out.insert(index);
        }),
        _ => {}
    }
    children(expr, &mut |child| columns_used(child, out));
}

/// Renumbers the columns of its row that an expression uses, also within subqueries.
pub(super) fn renumber(expr: &Expr, f: &dyn Fn(usize) -> usize) -> Expr {
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
pub(super) fn substitute(expr: &Expr, columns: &[Expr]) -> Option<Expr> {
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

/// How often a plan refers to a CTE; a reference from within a subquery counts as many, since it may be run often.
pub(super) fn cte_references(plan: &Plan, id: usize) -> usize {
    if let Plan::CteScan { id: other, .. } = plan {
        return usize::from(*other == id);
    }
    let mut exprs = Vec::new();
    let mut plans = Vec::new();
    parts(plan, &mut |e| exprs.push(e), &mut |p| plans.push(p));
    let direct: usize = plans.into_iter().map(|p| cte_references(p, id)).sum();
    direct + exprs.into_iter().map(|e| cte_references_in_expr(e, id)).sum::<usize>()
}

fn cte_references_in_expr(expr: &Expr, id: usize) -> usize {
    let mut count = match expr {
        Expr::Subquery { plan, .. } => 2 * cte_references(plan, id),
        _ => 0,
    };
    children(expr, &mut |child| count += cte_references_in_expr(child, id));
    count
}

/// Whether a plan refers to a CTE that it does not define.
pub(super) fn has_free_cte(plan: &Plan) -> bool {
    fn visit(plan: &Plan, defined: &mut Vec<usize>) -> bool {
        match plan {
            Plan::CteScan { id, .. } => return !defined.contains(id),
            Plan::With { ctes, .. } => defined.extend(ctes.iter().map(|cte| cte.id)),
            _ => {}
        }
        let mut exprs = Vec::new();
        let mut plans = Vec::new();
        parts(plan, &mut |e| exprs.push(e), &mut |p| plans.push(p));
        plans.into_iter().any(|p| visit(p, defined)) || exprs.into_iter().any(|e| visit_expr(e, defined))
    }
    fn visit_expr(expr: &Expr, defined: &mut Vec<usize>) -> bool {
        if let Expr::Subquery { plan, .. } = expr
            && visit(plan, defined)
        {
            return true;
        }
        let mut found = false;
        children(expr, &mut |child| found = found || visit_expr(child, defined));
        found
    }
    visit(plan, &mut Vec::new())
}
