//! The order of inner joins, and how large plans may be.
//!
//! `FROM a, b, c WHERE a.x = c.x AND b.y = c.y` would multiply `a` by `b` if it were joined as written. Where that happens, each
//! step takes the next relation, in the order written, that an equality connects with what is there. Otherwise the order
//! stays: there are no statistics by which to choose a better one.

use std::collections::BTreeSet;

use crate::flow::expr::as_equality;
use crate::ir::{Expr, JoinKind, OutputColumn, Plan, SetOp, walk};
use crate::types::Datum;

/// Reorders inner joins.
pub(super) fn reorder(plan: Plan) -> Plan {
    if let Plan::Join { kind: JoinKind::Inner, .. } = &plan {
        let mut relations = Vec::new();
        let mut conjuncts = Vec::new();
        flatten(&plan, 0, &mut relations, &mut conjuncts);
        if let Some(reordered) = connected(&relations, &conjuncts, plan.columns()) {
            return reordered;
        }
    }
    walk::map_parts(&plan, &mut Expr::clone, &mut |p| reorder(p.clone()))
}

/// The relations of a tree of inner joins, and its conditions over all their columns in the order written.
fn flatten(plan: &Plan, start: usize, relations: &mut Vec<Plan>, conjuncts: &mut Vec<Expr>) {
    match plan {
        Plan::Join { kind: JoinKind::Inner, left, right, on, .. } => walk::with_stack(|| {
            flatten(left, start, relations, conjuncts);
            flatten(right, start + left.columns().len(), relations, conjuncts);
            if let Some(on) = on {
                walk::conjuncts(walk::renumber(on, &|i| i + start), conjuncts);
            }
        }),
        other => relations.push(other.clone()),
    }
}

fn relations_of(expr: &Expr, starts: &[usize]) -> BTreeSet<usize> {
    let mut used = BTreeSet::new();
    walk::columns_used(expr, &mut used);
    used.into_iter().map(|column| starts.partition_point(|start| *start <= column) - 1).collect()
}

/// The joins in another order, if the order written multiplies where that can be avoided.
fn connected(relations: &[Plan], conjuncts: &[Expr], columns: &[OutputColumn]) -> Option<Plan> {
    if relations.len() < 3 || !conjuncts.iter().all(super::may_move) {
        return None;
    }
    let mut starts = Vec::with_capacity(relations.len());
    let mut width = 0;
    for relation in relations {
        starts.push(width);
        width += relation.columns().len();
    }
    let uses: Vec<BTreeSet<usize>> = conjuncts.iter().map(|c| relations_of(c, &starts)).collect();
    let connects = |next: usize, there: &BTreeSet<usize>| {
        conjuncts.iter().zip(&uses).any(|(conjunct, used)| {
            as_equality(conjunct).is_some()
                && used.len() > 1
                && used.contains(&next)
                && used.iter().all(|u| *u == next || there.contains(u))
        })
    };
    let mut order = vec![0];
    let mut there = BTreeSet::from([0]);
    while order.len() < relations.len() {
        let left: Vec<usize> = (0..relations.len()).filter(|r| !there.contains(r)).collect();
        let next = left.iter().find(|r| connects(**r, &there)).or(left.first()).copied()?;
        order.push(next);
        there.insert(next);
    }
    if order.iter().enumerate().all(|(i, r)| i == *r) {
        return None;
    }
    Some(build(relations, &starts, conjuncts, &uses, &order, columns))
}

fn build(
    relations: &[Plan],
    starts: &[usize],
    conjuncts: &[Expr],
    uses: &[BTreeSet<usize>],
    order: &[usize],
    columns: &[OutputColumn],
) -> Plan {
    // Where each column of the order written stands in the new one.
    let mut place = vec![0; columns.len()];
    let mut next = 0;
    for relation in order {
        for i in 0..relations[*relation].columns().len() {
            place[starts[*relation] + i] = next;
            next += 1;
        }
    }
    let mut there = BTreeSet::new();
    let mut done = vec![false; conjuncts.len()];
    let mut plan: Option<Plan> = None;
    for relation in order {
        there.insert(*relation);
        let right = reorder(relations[*relation].clone());
        let mut on = Vec::new();
        for (i, conjunct) in conjuncts.iter().enumerate() {
            if plan.is_some() && !done[i] && uses[i].is_subset(&there) {
                done[i] = true;
                on.push(walk::renumber(conjunct, &|column| place[column]));
            }
        }
        plan = Some(match plan {
            None => right,
            Some(left) => {
                let mut joined = left.columns().to_vec();
                joined.extend(right.columns().iter().cloned());
                Plan::Join {
                    kind: JoinKind::Inner,
                    left: Box::new(left),
                    right: Box::new(right),
                    on: walk::conjunction(on),
                    columns: joined,
                }
            }
        });
    }
    let exprs = place.iter().zip(columns).map(|(i, c)| Expr::Column(*i, c.ty)).collect();
    let input = Box::new(plan.unwrap_or(Plan::Values { rows: Vec::new(), columns: Vec::new() }));
    Plan::Project { input, exprs, columns: columns.to_vec() }
}

/// A guess at how many rows a plan has, only good for telling a small side from a large one.
pub(in crate::flow) fn rows(plan: &Plan) -> f64 {
    const TABLE: f64 = 1_000_000.0;
    let constant = |expr: &Option<Expr>| match expr {
        Some(Expr::Const(Datum::Int8(n), _)) => Some(*n as f64),
        Some(_) => Some(1000.0),
        None => None,
    };
    match plan {
        Plan::Values { rows, .. } => rows.len() as f64,
        Plan::Scan(scan) => scan.filters.iter().fold(TABLE, |rows, filter| rows * selectivity(filter)),
        Plan::VirtualScan { .. } => 100.0,
        Plan::Series { .. } | Plan::CteScan { .. } => 1000.0,
        Plan::With { body, .. } => rows(body),
        Plan::Project { input, .. } | Plan::Window { input, .. } | Plan::Sort { input, .. } => rows(input),
        Plan::Filter { input, predicate } => rows(input) * selectivity(predicate),
        Plan::Join { kind: JoinKind::Semi | JoinKind::Anti, left, .. } => rows(left) * 0.5,
        Plan::Join { on: None, left, right, .. } => rows(left) * rows(right),
        Plan::Join { left, right, .. } => rows(left).max(rows(right)),
        Plan::Aggregate { group_by, .. } if group_by.is_empty() => 1.0,
        Plan::Aggregate { input, .. } => rows(input) * 0.1,
        Plan::LockRows(node) => rows(&node.input),
        Plan::Distinct { input } | Plan::DistinctOn { input, .. } => rows(input) * 0.5,
        Plan::Limit { input, limit, .. } => constant(limit).map_or(rows(input), |n| rows(input).min(n)),
        Plan::SetOp { op: SetOp::Union, left, right, .. } => rows(left) + rows(right),
        Plan::SetOp { left, .. } => rows(left),
    }
}

fn selectivity(filter: &Expr) -> f64 {
    match filter {
        Expr::And(args) => args.iter().map(selectivity).product(),
        Expr::Or(args) => args.iter().map(selectivity).sum::<f64>().min(1.0),
        filter if as_equality(filter).is_some() => 0.01,
        Expr::InList { negated: false, .. } => 0.05,
        _ => 0.3,
    }
}
