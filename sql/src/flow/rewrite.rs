//! Rewriting the IR before it is lowered: CTEs that are used once are put in their place, filters move towards the
//! scans (where those on key columns become key ranges), inner joins that would multiply are reordered, `EXISTS` and `IN`
//! become semi and anti joins, and columns that nobody asks for are dropped.
//!
//! A rewrite never makes an expression run on a row that PostgreSQL would not run it on: conjuncts move in the direction in
//! which PostgreSQL moves them too, and what is volatile or has a subquery in it stays where it is.

mod order;
mod scalar;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ir::{Cte, Expr, JoinKind, OutputColumn, Plan, SetOp, SubqueryKind, TableScan, walk};
use crate::types::{ColumnType, Type};

pub(super) use order::rows;

/// All rewrites.
pub(super) fn rewrite(plan: &Plan) -> Plan {
    let plan = inline_ctes(plan);
    let plan = order::reorder(push_down(plan, Vec::new()));
    let width = plan.columns().len();
    prune(plan, &(0..width).collect::<Vec<_>>())
}

// ---- CTEs ----

fn inline_ctes(plan: &Plan) -> Plan {
    let Plan::With { ctes, body } = plan else {
        return walk::map_parts(plan, &mut Expr::clone, &mut inline_ctes);
    };
    let mut ctes: Vec<Arc<Cte>> = ctes
        .iter()
        .map(|cte| {
            Arc::new(Cte {
                id: cte.id,
                name: cte.name.clone(),
                plan: inline_ctes(&cte.plan),
                recursive: cte.recursive.as_ref().map(|(term, all)| (Box::new(inline_ctes(term)), *all)),
            })
        })
        .collect();
    let mut body = inline_ctes(body);
    let mut at = 0;
    while at < ctes.len() {
        let cte = Arc::clone(&ctes[at]);
        // A recursive term runs many times; what it refers to must not be computed as often.
        let references: usize = walk::cte_references(&body, cte.id)
            + ctes[at + 1..]
                .iter()
                .map(|later| {
                    let term = later.recursive.as_ref().map_or(0, |(t, _)| walk::cte_references(t, cte.id));
                    walk::cte_references(&later.plan, cte.id) + 2 * term
                })
                .sum::<usize>();
        if references == 0 {
            ctes.remove(at);
        } else if references == 1 && cte.recursive.is_none() {
            body = put_in_place(&body, &cte);
            for later in &mut ctes[at + 1..] {
                *later = Arc::new(Cte {
                    id: later.id,
                    name: later.name.clone(),
                    plan: put_in_place(&later.plan, &cte),
                    recursive: later.recursive.clone(),
                });
            }
            ctes.remove(at);
        } else {
            at += 1;
        }
    }
    if ctes.is_empty() { body } else { Plan::With { ctes, body: Box::new(body) } }
}

fn put_in_place(plan: &Plan, cte: &Cte) -> Plan {
    match plan {
        Plan::CteScan { id, .. } if *id == cte.id => cte.plan.clone(),
        _ => walk::map_parts(plan, &mut Expr::clone, &mut |p| put_in_place(p, cte)),
    }
}

// ---- Filters ----

fn filtered(plan: Plan, conjuncts: Vec<Expr>) -> Plan {
    match walk::conjunction(conjuncts) {
        Some(predicate) => Plan::Filter { input: Box::new(plan), predicate },
        None => plan,
    }
}

fn may_move(conjunct: &Expr) -> bool {
    !conjunct.has_subquery() && !conjunct.is_volatile()
}

/// Which of a join's inputs an expression looks at.
fn sides(expr: &Expr, left_width: usize) -> (bool, bool) {
    let mut used = BTreeSet::new();
    walk::columns_used(expr, &mut used);
    (used.iter().any(|c| *c < left_width), used.iter().any(|c| *c >= left_width))
}

/// `plan` with only those rows for which all `conjuncts`, over its columns, are true.
fn push_down(plan: Plan, conjuncts: Vec<Expr>) -> Plan {
    walk::with_stack(|| push_down_one(plan, conjuncts))
}

fn push_down_one(plan: Plan, conjuncts: Vec<Expr>) -> Plan {
    match plan {
        Plan::Filter { input, predicate } => {
            let mut all = Vec::new();
            walk::conjuncts(predicate, &mut all);
            all.extend(conjuncts);
            push_down(*input, all)
        }
        Plan::Scan(mut scan) => {
            let (moved, mut stay): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(may_move);
            let (kept, odd): (Vec<_>, Vec<_>) =
                std::mem::take(&mut scan.filters).into_iter().partition(may_move);
            scan.filters = kept;
            scan.filters.extend(moved);
            stay.splice(0..0, odd);
            finish_filter(Plan::Scan(scan), stay)
        }
        Plan::Project { input, exprs, columns } => {
            let mut stay = Vec::new();
            let mut moved = Vec::new();
            for conjunct in conjuncts {
                let mut used = BTreeSet::new();
                walk::columns_used(&conjunct, &mut used);
                let plain = used.iter().all(|i| exprs.get(*i).is_some_and(may_move));
                match walk::substitute(&conjunct, &exprs) {
                    Some(below) if plain && may_move(&conjunct) => moved.push(below),
                    _ => stay.push(conjunct),
                }
            }
            let (input, exprs) = scalar::lift(push_down(*input, moved), exprs);
            finish_filter(Plan::Project { input: Box::new(input), exprs, columns }, stay)
        }
        Plan::Join { kind, left, right, on, columns } => {
            push_into_join(kind, *left, *right, on, columns, conjuncts)
        }
        Plan::Aggregate { input, group_by, aggregates, columns } if !group_by.is_empty() => {
            let mut stay = Vec::new();
            let mut moved = Vec::new();
            for conjunct in conjuncts {
                // What looks at keys only can be asked before grouping: it is the same for all rows of a group.
                match walk::substitute(&conjunct, &group_by) {
                    Some(below) if may_move(&conjunct) && may_move(&below) => moved.push(below),
                    _ => stay.push(conjunct),
                }
            }
            let input = Box::new(push_down(*input, moved));
            finish_filter(Plan::Aggregate { input, group_by, aggregates, columns }, stay)
        }
        Plan::Sort { input, keys } => {
            let (moved, stay) = conjuncts.into_iter().partition(may_move);
            finish_filter(Plan::Sort { input: Box::new(push_down(*input, moved)), keys }, stay)
        }
        Plan::Distinct { input } => {
            let (moved, stay) = conjuncts.into_iter().partition(|c| {
                // Of values that are equal but differ (1.0 and 1.00) an expression could tell which one it sees.
                may_move(c)
                    && !c.any(&mut |e| matches!(e, Expr::Column(_, ty) if super::types::is_keyed(ty.ty)))
            });
            finish_filter(Plan::Distinct { input: Box::new(push_down(*input, moved)) }, stay)
        }
        Plan::SetOp { op: SetOp::Union, all, left, right, columns } => {
            let (moved, stay): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(may_move);
            let left = Box::new(push_down(*left, moved.clone()));
            let right = Box::new(push_down(*right, moved));
            finish_filter(Plan::SetOp { op: SetOp::Union, all, left, right, columns }, stay)
        }
        Plan::With { ctes, body } => {
            let ctes = ctes
                .iter()
                .map(|cte| {
                    Arc::new(Cte {
                        id: cte.id,
                        name: cte.name.clone(),
                        plan: rewrite(&cte.plan),
                        recursive: cte.recursive.as_ref().map(|(term, all)| (Box::new(rewrite(term)), *all)),
                    })
                })
                .collect();
            Plan::With { ctes, body: Box::new(push_down(*body, conjuncts)) }
        }
        other => {
            let inner = walk::map_parts(&other, &mut Expr::clone, &mut |p| push_down(p.clone(), Vec::new()));
            finish_filter(inner, conjuncts)
        }
    }
}

fn push_into_join(
    kind: JoinKind,
    left: Plan,
    right: Plan,
    on: Option<Expr>,
    columns: Vec<OutputColumn>,
    conjuncts: Vec<Expr>,
) -> Plan {
    let left_width = left.columns().len();
    let mut on_conjuncts = Vec::new();
    if let Some(on) = on {
        walk::conjuncts(on, &mut on_conjuncts);
    }
    let (mut to_left, mut to_right, mut stay) = (Vec::new(), Vec::new(), Vec::new());
    let shift = |e: &Expr| walk::renumber(e, &|i| i.wrapping_sub(left_width));
    let mut above = Vec::new();
    for conjunct in conjuncts {
        let (uses_left, uses_right) = sides(&conjunct, left_width);
        let movable = may_move(&conjunct);
        match kind {
            _ if !movable => above.push(conjunct),
            JoinKind::Inner if uses_left && uses_right => on_conjuncts.push(conjunct),
            JoinKind::Inner | JoinKind::Left | JoinKind::Semi | JoinKind::Anti if !uses_right => {
                to_left.push(conjunct);
            }
            JoinKind::Inner | JoinKind::Right if !uses_left => to_right.push(shift(&conjunct)),
            _ => above.push(conjunct),
        }
    }
    for conjunct in on_conjuncts {
        let (uses_left, uses_right) = sides(&conjunct, left_width);
        let movable = may_move(&conjunct);
        match kind {
            // An inner join's condition may as well be asked after it, which is where subqueries can be answered.
            JoinKind::Inner if conjunct.has_subquery() => above.push(conjunct),
            JoinKind::Inner | JoinKind::Right | JoinKind::Semi if movable && !uses_right => {
                to_left.push(conjunct);
            }
            JoinKind::Inner | JoinKind::Left | JoinKind::Semi | JoinKind::Anti
                if !uses_left && (movable || uses_right && !conjunct.is_volatile()) =>
            {
                to_right.push(shift(&conjunct));
            }
            _ => stay.push(conjunct),
        }
    }
    let join = Plan::Join {
        kind,
        left: Box::new(push_down(left, to_left)),
        right: Box::new(push_down(right, to_right)),
        on: walk::conjunction(stay),
        columns,
    };
    finish_filter(join, above)
}

/// Puts a filter over `plan`, of which the subqueries that can be joins become joins.
fn finish_filter(mut plan: Plan, conjuncts: Vec<Expr>) -> Plan {
    let mut stay = Vec::new();
    for conjunct in conjuncts {
        match as_join(&plan, &conjunct) {
            Some((kind, right, on)) => {
                let columns = plan.columns().to_vec();
                plan = push_into_join(kind, plan, right, on, columns, Vec::new());
            }
            None => stay.push(conjunct),
        }
    }
    let width = plan.columns().len();
    let (plan, stay) = scalar::lift(plan, stay);
    let plan = filtered(plan, stay);
    project(plan, &(0..width).collect::<Vec<_>>())
}

// ---- EXISTS and IN as joins ----

/// The join that keeps the rows of `left` for which `conjunct` is true.
fn as_join(left: &Plan, conjunct: &Expr) -> Option<(JoinKind, Plan, Option<Expr>)> {
    let (kind, subquery) = match conjunct {
        Expr::Not(inner) => (JoinKind::Anti, &**inner),
        other => (JoinKind::Semi, other),
    };
    let Expr::Subquery { kind: asked, plan, .. } = subquery else { return None };
    let width = left.columns().len();
    match asked {
        SubqueryKind::Exists => {
            let (core, correlated, _) = decorrelate(plan)?;
            // What does not depend on the row is answered once, without a join.
            if correlated.is_empty() {
                return None;
            }
            let on = correlated.iter().map(|e| joined(e, width)).collect();
            Some((kind, core, walk::conjunction(on)))
        }
        // Only `IN` itself: of NOT IN it matters whether it is false or NULL.
        SubqueryKind::Quantified { left: values, compare, all: false } if kind == JoinKind::Semi => {
            if values.iter().any(|e| !may_move(e)) || !may_move(compare) || walk::refers_out(compare) {
                return None;
            }
            let mut inner: Vec<Expr> = values.clone();
            let (core, mut on) = if walk::is_correlated(plan) {
                let (core, correlated, exprs) = decorrelate(plan)?;
                inner.extend(exprs.iter().map(|e| joined(e, width)));
                (core, correlated.iter().map(|e| joined(e, width)).collect::<Vec<_>>())
            } else {
                let columns = plan.columns().iter().enumerate();
                inner.extend(columns.map(|(i, c)| Expr::Column(width + i, c.ty)));
                (Plan::clone(plan), Vec::new())
            };
            on.push(walk::substitute(compare, &inner)?);
            Some((kind, core, walk::conjunction(on)))
        }
        _ => None,
    }
}

/// An expression of a subquery, over its core, as one over the joined row.
fn joined(expr: &Expr, left_width: usize) -> Expr {
    match expr {
        Expr::Column(index, ty) => Expr::Column(left_width + index, *ty),
        Expr::Outer { depth: 1, index, ty } => Expr::Column(*index, *ty),
        other => walk::map_children(other, &mut |child| joined(child, left_width)),
    }
}

/// Takes a subquery apart: a plan that depends on no row around it, the conjuncts over that plan which do, and the
/// subquery's columns over that plan. Only for what is a filter over something; all else is run row by row.
fn decorrelate(plan: &Plan) -> Option<(Plan, Vec<Expr>, Vec<Expr>)> {
    let identity = |columns: &[OutputColumn]| -> Vec<Expr> {
        columns.iter().enumerate().map(|(i, c)| Expr::Column(i, c.ty)).collect()
    };
    let split = |conjuncts: Vec<Expr>| -> Option<(Vec<Expr>, Vec<Expr>)> {
        let (outer, own): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(walk::refers_out);
        outer.iter().all(may_move).then_some((outer, own))
    };
    match plan {
        Plan::Project { input, exprs, .. } => {
            let (core, correlated, below) = decorrelate(input)?;
            let plain = exprs.iter().all(may_move);
            let exprs: Option<Vec<Expr>> = exprs.iter().map(|e| walk::substitute(e, &below)).collect();
            plain.then_some((core, correlated, exprs?))
        }
        // Neither order nor repetition matters to EXISTS and IN.
        Plan::Sort { input, .. } | Plan::Distinct { input } => decorrelate(input),
        Plan::Filter { input, predicate } => {
            let (core, mut correlated, below) = decorrelate(input)?;
            let mut all = Vec::new();
            walk::conjuncts(predicate.clone(), &mut all);
            let all: Option<Vec<Expr>> = all.iter().map(|e| walk::substitute(e, &below)).collect();
            let (outer, own) = split(all?)?;
            correlated.extend(outer);
            Some((filtered(core, own), correlated, below))
        }
        Plan::Scan(scan) => {
            let (outer, own) = split(scan.filters.clone())?;
            let exprs = identity(&scan.columns);
            let core = Plan::Scan(TableScan {
                table: Arc::clone(&scan.table),
                columns: scan.columns.clone(),
                with_key: scan.with_key,
                filters: own,
                lock: scan.lock,
            });
            Some((core, outer, exprs))
        }
        Plan::Join { kind: JoinKind::Inner, left, right, on, columns } => {
            let (left, mut correlated, left_exprs) = decorrelate(left)?;
            let (right, of_right, right_exprs) = decorrelate(right)?;
            let width = left.columns().len();
            let shift = |e: &Expr| walk::renumber(e, &|i| i + width);
            let mut exprs = left_exprs;
            exprs.extend(right_exprs.iter().map(shift));
            correlated.extend(of_right.iter().map(shift));
            let mut all = Vec::new();
            if let Some(on) = on {
                walk::conjuncts(on.clone(), &mut all);
            }
            let all: Option<Vec<Expr>> = all.iter().map(|e| walk::substitute(e, &exprs)).collect();
            let (outer, own) = split(all?)?;
            correlated.extend(outer);
            let mut joined_columns = left.columns().to_vec();
            joined_columns.extend(right.columns().iter().cloned());
            debug_assert!(columns.len() <= exprs.len());
            let core = Plan::Join {
                kind: JoinKind::Inner,
                left: Box::new(left),
                right: Box::new(right),
                on: walk::conjunction(own),
                columns: joined_columns,
            };
            Some((core, correlated, exprs))
        }
        other if !walk::is_correlated(other) => Some((other.clone(), Vec::new(), identity(other.columns()))),
        _ => None,
    }
}

// ---- Columns ----

/// The plan that puts out exactly the columns `need` (ascending) of `plan`.
fn prune(plan: Plan, need: &[usize]) -> Plan {
    walk::with_stack(|| prune_one(plan, need))
}

fn prune_one(plan: Plan, need: &[usize]) -> Plan {
    match plan {
        Plan::Project { input, exprs, columns } => {
            let exprs: Vec<Expr> = need.iter().map(|i| exprs[*i].clone()).collect();
            let columns = pick(&columns, need);
            let below = used_by(exprs.iter(), &[], input.columns());
            let exprs = renumbered(&exprs, &below);
            Plan::Project { input: Box::new(prune(*input, &below)), exprs, columns }
        }
        Plan::Filter { input, predicate } => {
            let below = used_by([&predicate].into_iter(), need, input.columns());
            let predicate = renumbered(std::slice::from_ref(&predicate), &below).remove(0);
            let plan = Plan::Filter { input: Box::new(prune(*input, &below)), predicate };
            project(plan, &positions(need, &below))
        }
        Plan::Sort { input, keys } => {
            let below = used_by(keys.iter().map(|k| &k.expr), need, input.columns());
            let keys = walk::map_keys(&keys, &mut |e| renumber_one(e, &below));
            let plan = Plan::Sort { input: Box::new(prune(*input, &below)), keys };
            project(plan, &positions(need, &below))
        }
        Plan::Limit { input, limit, offset } => {
            Plan::Limit { input: Box::new(prune(*input, need)), limit, offset }
        }
        Plan::Join { kind, left, right, on, columns } => prune_join(kind, *left, *right, on, columns, need),
        Plan::Aggregate { input, group_by, aggregates, columns } => {
            let keys = group_by.len();
            let wanted: Vec<usize> = need.iter().filter(|i| **i >= keys).map(|i| i - keys).collect();
            let aggregates: Vec<_> = wanted.iter().map(|i| aggregates[*i].clone()).collect();
            let kept: Vec<usize> = (0..keys).chain(wanted.iter().map(|i| i + keys)).collect();
            let columns = pick(&columns, &kept);
            let mut exprs: Vec<&Expr> = group_by.iter().collect();
            for call in &aggregates {
                exprs.extend(call.args.iter().chain(&call.filter));
                exprs.extend(call.order_by.iter().map(|k| &k.expr));
            }
            let below = used_by(exprs.into_iter(), &[], input.columns());
            let aggregates =
                aggregates.iter().map(|c| walk::map_aggregate(c, &mut |e| renumber_one(e, &below))).collect();
            let group_by = renumbered(&group_by, &below);
            let plan =
                Plan::Aggregate { input: Box::new(prune(*input, &below)), group_by, aggregates, columns };
            project(plan, &positions(need, &kept))
        }
        Plan::Window { input, calls, columns } => {
            let width = input.columns().len();
            let wanted: Vec<usize> = need.iter().filter(|i| **i >= width).map(|i| i - width).collect();
            let calls: Vec<_> = wanted.iter().map(|i| calls[*i].clone()).collect();
            let through: Vec<usize> = need.iter().copied().filter(|i| *i < width).collect();
            if calls.is_empty() {
                return prune(*input, &through);
            }
            let mut exprs: Vec<Expr> = Vec::new();
            for call in &calls {
                walk::map_window(call, &mut |e| {
                    exprs.push(e.clone());
                    e.clone()
                });
            }
            let below = used_by(exprs.iter(), &through, input.columns());
            let calls = calls.iter().map(|c| walk::map_window(c, &mut |e| renumber_one(e, &below))).collect();
            let kept: Vec<usize> = below.iter().copied().chain(wanted.iter().map(|i| i + width)).collect();
            let columns = pick(&columns, &kept);
            let plan = Plan::Window { input: Box::new(prune(*input, &below)), calls, columns };
            project(plan, &positions(need, &kept))
        }
        Plan::SetOp { op: SetOp::Union, all: true, left, right, columns } => Plan::SetOp {
            op: SetOp::Union,
            all: true,
            left: Box::new(prune(*left, need)),
            right: Box::new(prune(*right, need)),
            columns: pick(&columns, need),
        },
        Plan::With { ctes, body } => Plan::With { ctes, body: Box::new(prune(*body, need)) },
        other => {
            let whole = walk::map_parts(&other, &mut Expr::clone, &mut |p| {
                let width = p.columns().len();
                prune(p.clone(), &(0..width).collect::<Vec<_>>())
            });
            project(whole, need)
        }
    }
}

fn prune_join(
    kind: JoinKind,
    left: Plan,
    right: Plan,
    on: Option<Expr>,
    columns: Vec<OutputColumn>,
    need: &[usize],
) -> Plan {
    let width = left.columns().len();
    let mut all: BTreeSet<usize> = need.iter().copied().collect();
    if let Some(on) = &on {
        walk::columns_used(on, &mut all);
    }
    let below_left: BTreeSet<usize> = all.iter().copied().filter(|i| *i < width).collect();
    let below_right: BTreeSet<usize> = all.iter().filter(|i| **i >= width).map(|i| i - width).collect();
    let below_left = at_least_one(below_left, left.columns());
    let below_right = at_least_one(below_right, right.columns());
    let both: Vec<usize> = below_left.iter().copied().chain(below_right.iter().map(|i| i + width)).collect();
    let on = on.map(|on| renumber_one(&on, &both));
    let kept: &[usize] = if matches!(kind, JoinKind::Semi | JoinKind::Anti) { &below_left } else { &both };
    let columns = pick(&columns, kept);
    let plan = Plan::Join {
        kind,
        left: Box::new(prune(left, &below_left)),
        right: Box::new(prune(right, &below_right)),
        on,
        columns,
    };
    let positions = positions(need, kept);
    project(plan, &positions)
}

fn pick<T: Clone>(items: &[T], which: &[usize]) -> Vec<T> {
    which.iter().map(|i| items[*i].clone()).collect()
}

/// Where the columns `need` stand among those that were kept.
fn positions(need: &[usize], kept: &[usize]) -> Vec<usize> {
    need.iter().map(|i| kept.binary_search(i).unwrap_or(usize::MAX)).collect()
}

fn renumber_one(expr: &Expr, kept: &[usize]) -> Expr {
    walk::renumber(expr, &|i| kept.binary_search(&i).unwrap_or(usize::MAX))
}

fn renumbered(exprs: &[Expr], kept: &[usize]) -> Vec<Expr> {
    exprs.iter().map(|e| renumber_one(e, kept)).collect()
}

fn used_by<'a>(
    exprs: impl Iterator<Item = &'a Expr>,
    need: &[usize],
    columns: &[OutputColumn],
) -> Vec<usize> {
    let mut used: BTreeSet<usize> = need.iter().copied().collect();
    exprs.for_each(|e| walk::columns_used(e, &mut used));
    at_least_one(used, columns)
}

/// An operator's input keeps one column, the cheapest, even if none is looked at: rows are counted by it.
fn at_least_one(mut used: BTreeSet<usize>, columns: &[OutputColumn]) -> Vec<usize> {
    if used.is_empty() && !columns.is_empty() {
        let cost = |ty: ColumnType| match ty.ty {
            Type::Bool | Type::Int2 | Type::Int4 | Type::Int8 | Type::Date | Type::Timestamp => 0,
            Type::Float4 | Type::Float8 | Type::Time | Type::Timestamptz | Type::Uuid | Type::Oid => 1,
            _ => 2,
        };
        used.extend((0..columns.len()).min_by_key(|i| cost(columns[*i].ty)));
    }
    used.into_iter().collect()
}

/// A projection to some of a plan's columns, unless those are all.
fn project(plan: Plan, which: &[usize]) -> Plan {
    let width = plan.columns().len();
    if which.len() == width && which.iter().enumerate().all(|(i, w)| i == *w) {
        return plan;
    }
    let columns = pick(plan.columns(), which);
    let exprs = which.iter().zip(&columns).map(|(i, c)| Expr::Column(*i, c.ty)).collect();
    Plan::Project { input: Box::new(plan), exprs, columns }
}
