//! Correlated scalar aggregates as joins.
//!
//! ```text
//!   … (SELECT sum(b) FROM u WHERE u.k = t.k) …  over t
//!   … #sum …                                    over t LEFT JOIN (SELECT k, sum(b) FROM u GROUP BY k) ON u.k = t.k
//! ```
//!
//! The aggregate is then computed for all keys instead of the ones that are asked for, in one pass. That must not fail where
//! PostgreSQL would not even look: only what cannot fail is taken. It does not pay where `k` is a key of `u`, of which few
//! rows are read at a time.

use std::sync::Arc;

use super::{decorrelate, may_move};
use crate::flow::expr::{as_equality, is_comparison};
use crate::ir::{AggregateCall, CallKind, Expr, JoinKind, OutputColumn, Plan, SubqueryKind, walk};
use crate::types::{ColumnType, Datum, Type};

/// `input` with the scalar aggregates that `exprs` ask for as further columns, and `exprs` over that.
pub(super) fn lift(mut input: Plan, mut exprs: Vec<Expr>) -> (Plan, Vec<Expr>) {
    for expr in &mut exprs {
        while let Some((found, lifted)) = first_candidate(expr) {
            let width = input.columns().len();
            let value = lifted.value(width);
            input = lifted.join(input);
            *expr = replace(expr, found, &value);
        }
    }
    (input, exprs)
}

/// The first subquery in an expression that can be lifted, by the address of its plan.
fn first_candidate(expr: &Expr) -> Option<(*const Plan, Lifted)> {
    if let Expr::Subquery { kind: SubqueryKind::Scalar, plan, .. } = expr {
        return take_apart(plan).map(|lifted| (Arc::as_ptr(plan), lifted));
    }
    let mut found = None;
    expr.operands(&mut |child| {
        if found.is_none() {
            found = first_candidate(child);
        }
    });
    found
}

fn replace(expr: &Expr, found: *const Plan, value: &Expr) -> Expr {
    match expr {
        Expr::Subquery { kind: SubqueryKind::Scalar, plan, .. } if std::ptr::eq(Arc::as_ptr(plan), found) => {
            value.clone()
        }
        other => walk::map_children(other, &mut |child| replace(child, found, value)),
    }
}

struct Lifted {
    core: Plan,
    /// What the core is grouped by, and what the row around must have for it.
    inner: Vec<Expr>,
    outer: Vec<Expr>,
    equals: Vec<&'static crate::function::Function>,
    aggregates: Vec<AggregateCall>,
    /// The subquery's column over the aggregates' values.
    value: Expr,
}

fn take_apart(plan: &Plan) -> Option<Lifted> {
    let (aggregate, value) = match plan {
        Plan::Project { input, exprs, .. } => match exprs.as_slice() {
            [value] => (&**input, Some(value)),
            _ => return None,
        },
        other => (other, None),
    };
    let Plan::Aggregate { input, group_by, aggregates, columns } = aggregate else { return None };
    let value = match value {
        Some(value) => value.clone(),
        None => Expr::Column(0, columns.first()?.ty),
    };
    if !group_by.is_empty() || !harmless(&value) || walk::refers_out(&value) {
        return None;
    }
    let (core, correlated, below) = decorrelate(input)?;
    if correlated.is_empty() || !harmless_plan(&core) {
        return None;
    }
    let mut lifted = Lifted {
        core,
        inner: Vec::new(),
        outer: Vec::new(),
        equals: Vec::new(),
        aggregates: Vec::new(),
        value,
    };
    for conjunct in &correlated {
        let (a, b, _) = as_equality(conjunct)?;
        let Expr::Call { function, .. } = conjunct else { return None };
        let (inner, outer) = match (is_inner(a), is_outer(b), is_outer(a), is_inner(b)) {
            (true, true, _, _) => (a, b),
            (_, _, true, true) => (b, a),
            _ => return None,
        };
        if reads_few(&lifted.core, inner) {
            return None;
        }
        lifted.inner.push(inner.clone());
        lifted.outer.push(outer.clone());
        lifted.equals.push(function);
    }
    for call in aggregates {
        let known = ["count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every"];
        if !known.contains(&call.function.name) || !call.order_by.is_empty() {
            return None;
        }
        let mut fits = true;
        let mapped = walk::map_aggregate(call, &mut |e| match walk::substitute(e, &below) {
            Some(e) if harmless(&e) && !walk::refers_out(&e) => e,
            _ => {
                fits = false;
                e.clone()
            }
        });
        if !fits {
            return None;
        }
        lifted.aggregates.push(mapped);
    }
    Some(lifted)
}

fn is_inner(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(..))
}

fn is_outer(expr: &Expr) -> bool {
    matches!(expr, Expr::Outer { depth: 1, .. })
}

/// Whether an equality with this column makes a range of keys.
fn reads_few(core: &Plan, column: &Expr) -> bool {
    match (core, column) {
        (Plan::Scan(scan), Expr::Column(index, _)) => {
            scan.table.primary_key.as_ref().is_some_and(|key| key.columns.first() == Some(index))
        }
        _ => false,
    }
}

/// Whether an expression can neither fail nor be noticed.
fn harmless(expr: &Expr) -> bool {
    may_move(expr)
        && !expr.any(&mut |e| match e {
            Expr::Call { .. } => !is_comparison(e),
            Expr::Coerce { .. } => true,
            _ => false,
        })
}

fn harmless_plan(plan: &Plan) -> bool {
    match plan {
        Plan::Scan(scan) => scan.filters.iter().all(harmless),
        Plan::Filter { input, predicate } => harmless(predicate) && harmless_plan(input),
        Plan::Project { input, exprs, .. } => exprs.iter().all(harmless) && harmless_plan(input),
        Plan::Join { left, right, on, .. } => {
            on.iter().all(harmless) && harmless_plan(left) && harmless_plan(right)
        }
        Plan::CteScan { .. } => true,
        _ => false,
    }
}

impl Lifted {
    /// The subquery's value over the joined row. Where there is no group, a count is 0 and all else is NULL.
    fn value(&self, width: usize) -> Expr {
        let start = width + self.inner.len();
        let columns: Vec<Expr> = self
            .aggregates
            .iter()
            .enumerate()
            .map(|(i, call)| {
                let column = Expr::Column(start + i, call.ty);
                match call.function.name {
                    "count" => {
                        let zero = Expr::Const(Datum::Int8(0), ColumnType::plain(Type::Int8));
                        Expr::Coalesce(vec![column, zero], call.ty)
                    }
                    _ => column,
                }
            })
            .collect();
        walk::substitute(&self.value, &columns).unwrap_or_else(|| self.value.clone())
    }

    fn join(self, left: Plan) -> Plan {
        let width = left.columns().len();
        let column = |ty: ColumnType| OutputColumn { name: "lifted".to_owned(), ty, origin: None };
        let columns: Vec<OutputColumn> = self
            .inner
            .iter()
            .map(|e| column(e.ty()))
            .chain(self.aggregates.iter().map(|call| column(call.ty)))
            .collect();
        let on = self
            .outer
            .iter()
            .zip(&self.inner)
            .zip(self.equals)
            .enumerate()
            .map(|(i, ((outer, inner), function))| {
                let outer = match outer {
                    Expr::Outer { index, ty, .. } => Expr::Column(*index, *ty),
                    other => other.clone(),
                };
                Expr::Call {
                    function,
                    kind: CallKind::Operator,
                    args: vec![outer, Expr::Column(width + i, inner.ty())],
                    ty: ColumnType::plain(Type::Bool),
                }
            })
            .collect();
        let mut joined = left.columns().to_vec();
        joined.extend(columns.iter().cloned());
        let right = Plan::Aggregate {
            input: Box::new(super::push_down(self.core, Vec::new())),
            group_by: self.inner,
            aggregates: self.aggregates,
            columns,
        };
        Plan::Join {
            kind: JoinKind::Left,
            left: Box::new(left),
            right: Box::new(right),
            on: walk::conjunction(on),
            columns: joined,
        }
    }
}
