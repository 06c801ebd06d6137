//! Rebuilding: a copy of a node, of whose parts a function makes others.

use std::sync::Arc;

use super::with_stack;
use crate::ir::{
    AggregateCall, Cte, Expr, FrameBound, LockRows, Plan, SortKey, SubqueryKind, TableScan, WindowCall,
    WindowFrame,
};

/// Rebuilds an expression from its operands ([`Expr::operands`]), which `f` maps.
pub fn map_children(expr: &Expr, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
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

/// Rebuilds a plan from its expressions and child plans, mapped.
pub fn map_parts(
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
            lock: scan.lock,
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
        Plan::LockRows(node) => Plan::LockRows(Box::new(LockRows {
            input: Box::new(on_plan(&node.input)),
            targets: node.targets.clone(),
            columns: node.columns.clone(),
            limit: node.limit.as_ref().map(&mut *on_expr),
            offset: node.offset.as_ref().map(on_expr),
        })),
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
pub fn map_aggregate(call: &AggregateCall, f: &mut dyn FnMut(&Expr) -> Expr) -> AggregateCall {
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
pub fn map_window(call: &WindowCall, f: &mut dyn FnMut(&Expr) -> Expr) -> WindowCall {
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
        frame: WindowFrame {
            units: call.frame.units,
            start: bound(&call.frame.start, f),
            end: bound(&call.frame.end, f),
        },
        ty: call.ty,
    }
}

/// Sort keys over mapped expressions.
pub fn map_keys(keys: &[SortKey], f: &mut dyn FnMut(&Expr) -> Expr) -> Vec<SortKey> {
    keys.iter()
        .map(|key| SortKey { expr: f(&key.expr), descending: key.descending, nulls_first: key.nulls_first })
        .collect()
}
