//! Where conditions stand: as low in a plan as they mean the same.

use crate::function::Volatility;
use crate::ir::{Expr, JoinKind, OutputColumn, Plan};
use crate::types::{ColumnType, Datum, Type};

use super::operator::and;

/// The conjuncts of a condition.
fn conjuncts(predicate: Expr) -> Vec<Expr> {
    match predicate {
        Expr::And(operands) => operands,
        Expr::Const(Datum::Bool(true), _) => Vec::new(),
        other => vec![other],
    }
}

/// Rows of `plan` for which the predicate is true.
pub(super) fn filter(plan: Plan, predicate: Expr) -> Plan {
    push(plan, conjuncts(predicate))
}

/// A conjunct that may be moved: without subqueries (they are run by whoever stands above) and the same whenever it
/// is evaluated.
fn movable(expr: &Expr) -> bool {
    !expr.any(&mut |e| match e {
        Expr::Subquery { .. } => true,
        Expr::Call { function, .. } => function.volatility == Volatility::Volatile,
        _ => false,
    })
}

/// Which sides of a join an expression looks at.
fn sides(expr: &Expr, left_width: usize) -> (bool, bool) {
    let (mut left, mut right) = (false, false);
    expr.any(&mut |e| {
        if let Expr::Column(i, _) = e {
            if *i < left_width {
                left = true;
            } else {
                right = true;
            }
        }
        false
    });
    (left, right)
}

fn shift_left(mut expr: Expr, by: usize) -> Expr {
    expr.replace_columns(&mut |i, ty| Expr::Column(i - by, ty));
    expr
}

fn push(plan: Plan, predicates: Vec<Expr>) -> Plan {
    if predicates.is_empty() {
        return plan;
    }
    match plan {
        Plan::Scan(mut scan) => {
            let (low, high): (Vec<_>, Vec<_>) = predicates.into_iter().partition(movable);
            scan.filters.extend(low);
            above(Plan::Scan(scan), high)
        }
        Plan::Filter { input, predicate } => {
            // What was there first stays in front.
            let mut all = conjuncts(predicate);
            all.extend(predicates);
            push(*input, all)
        }
        Plan::Join { kind, left, right, on, columns } => {
            let width = left.columns().len();
            let (mut to_left, mut to_right, mut to_on, mut stay) = (vec![], vec![], vec![], vec![]);
            for predicate in predicates {
                if !movable(&predicate) {
                    stay.push(predicate);
                    continue;
                }
                match (sides(&predicate, width), kind) {
                    ((true, false), JoinKind::Inner | JoinKind::Left | JoinKind::Semi | JoinKind::Anti) => {
                        to_left.push(predicate);
                    }
                    ((false, true), JoinKind::Inner | JoinKind::Right) => {
                        to_right.push(shift_left(predicate, width))
                    }
                    ((true, true), JoinKind::Inner) => to_on.push(predicate),
                    _ => stay.push(predicate),
                }
            }
            let left = Box::new(push(*left, to_left));
            let right = Box::new(push(*right, to_right));
            let on = conjoin(on, to_on);
            above(Plan::Join { kind, left, right, on, columns }, stay)
        }
        Plan::Project { input, exprs, columns } => {
            // Through plain columns only: nothing is computed twice.
            let passes = |predicate: &Expr| {
                movable(predicate)
                    && !predicate.any(&mut |e| match e {
                        Expr::Column(i, _) => {
                            !matches!(exprs.get(*i), Some(Expr::Column(..) | Expr::Const(..)))
                        }
                        _ => false,
                    })
                    && predicate.any(&mut |e| matches!(e, Expr::Column(..)))
            };
            let (low, high): (Vec<_>, Vec<_>) = predicates.into_iter().partition(passes);
            let low = low
                .into_iter()
                .map(|mut predicate| {
                    predicate.replace_columns(&mut |i, _| exprs[i].clone());
                    predicate
                })
                .collect();
            above(Plan::Project { input: Box::new(push(*input, low)), exprs, columns }, high)
        }
        other => above(other, predicates),
    }
}

fn above(plan: Plan, predicates: Vec<Expr>) -> Plan {
    match predicates.is_empty() {
        true => plan,
        false => Plan::Filter { input: Box::new(plan), predicate: and(predicates) },
    }
}

fn conjoin(on: Option<Expr>, more: Vec<Expr>) -> Option<Expr> {
    let mut all: Vec<Expr> = on.into_iter().flat_map(conjuncts).collect();
    all.extend(more);
    match all.is_empty() {
        true => None,
        false => Some(and(all)),
    }
}

/// A join, with those conjuncts of its condition pushed down that look at the side whose rows may be left out.
pub(super) fn join(kind: JoinKind, left: Plan, right: Plan, on: Option<Expr>) -> Plan {
    let width = left.columns().len();
    let columns: Vec<OutputColumn> = match kind {
        JoinKind::Semi | JoinKind::Anti => left.columns().to_vec(),
        _ => left.columns().iter().chain(right.columns()).cloned().collect(),
    };
    let (mut to_left, mut to_right, mut stay) = (vec![], vec![], vec![]);
    for predicate in on.into_iter().flat_map(conjuncts) {
        match (movable(&predicate), sides(&predicate, width), kind) {
            (true, (true, false), JoinKind::Inner | JoinKind::Right | JoinKind::Semi) => {
                to_left.push(predicate)
            }
            (true, (false, true), JoinKind::Inner | JoinKind::Left | JoinKind::Semi | JoinKind::Anti) => {
                to_right.push(shift_left(predicate, width));
            }
            _ => stay.push(predicate),
        }
    }
    // A condition that was there and is now always true is not the same as none for an outer join's reader.
    let on = conjoin(None, stay);
    let on = match (on, kind) {
        (None, JoinKind::Left | JoinKind::Right | JoinKind::Full) => {
            Some(Expr::Const(Datum::Bool(true), ColumnType::plain(Type::Bool)))
        }
        (on, _) => on,
    };
    Plan::Join {
        kind,
        left: Box::new(push(left, to_left)),
        right: Box::new(push(right, to_right)),
        on,
        columns,
    }
}
