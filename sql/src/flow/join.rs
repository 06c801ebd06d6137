//! Joins: hash joins on what is equal on both sides, nested loops otherwise.
//!
//! DataFusion holds its left input in memory and streams the right one. The inputs are handed over crosswise, so that it is
//! the right side of the SQL join that is held, as in PostgreSQL (a LEFT JOIN thus is a right join to DataFusion), unless the
//! right side looks much larger than the left one.

mod outside;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{JoinSide, JoinType, NullEquality};
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_plan::joins::utils::{ColumnIndex, JoinFilter};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};

use super::lower::{Lowering, Physical, projection, single};
use super::stream::from_datafusion;
use super::{expr, rewrite};
use crate::error::{Result, SqlError};
use crate::ir::{Expr, JoinKind, OutputColumn, Plan, walk};

/// Lowers a join.
pub(super) async fn lower(
    lowering: &Lowering,
    kind: JoinKind,
    left: &Plan,
    right: &Plan,
    on: Option<&Expr>,
    columns: &[OutputColumn],
) -> Result<Physical> {
    let left_width = left.columns().len();
    let mut conjuncts = Vec::new();
    if let Some(on) = on {
        walk::conjuncts(on.clone(), &mut conjuncts);
    }
    if conjuncts.iter().any(Expr::has_subquery) {
        return lowering.lower(&outside::rewritten(kind, left, right, conjuncts, columns)?).await;
    }
    // The side that is held in memory: the right one, unless it looks much the larger.
    let hold_left = rewrite::rows(left) * 2.0 < rewrite::rows(right);
    let left = lowering.lower(left).await?;
    let right = lowering.lower(right).await?;
    let (left_schema, right_schema) = (left.schema(), right.schema());
    let mut keys: Vec<(PhysicalExprRef, PhysicalExprRef)> = Vec::new();
    let mut residual = Vec::new();
    for conjunct in conjuncts {
        match equi_key(&conjunct, left_width) {
            Some((l, r)) => {
                let l = expr::lower_key(&l, &left_schema, &lowering.ctx)?;
                let r = expr::lower_key(&r, &right_schema, &lowering.ctx)?;
                keys.push(if hold_left { (l, r) } else { (r, l) });
            }
            None => residual.push(conjunct),
        }
    }
    let (held, streamed) = if hold_left { (left, right) } else { (right, left) };
    let held = single(held);
    let join_type = match (kind, hold_left) {
        (JoinKind::Inner, _) => JoinType::Inner,
        (JoinKind::Left, true) | (JoinKind::Right, false) => JoinType::Left,
        (JoinKind::Left, false) | (JoinKind::Right, true) => JoinType::Right,
        (JoinKind::Full, _) => JoinType::Full,
        (JoinKind::Semi, true) => JoinType::LeftSemi,
        (JoinKind::Semi, false) => JoinType::RightSemi,
        (JoinKind::Anti, true) => JoinType::LeftAnti,
        (JoinKind::Anti, false) => JoinType::RightAnti,
    };
    // Which rows of the held side have found a partner is known when all of the other side has been seen.
    let streamed = match join_type {
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => streamed,
        _ => single(streamed),
    };
    let joined: Physical = if keys.is_empty() && residual.is_empty() && kind == JoinKind::Inner {
        Arc::new(CrossJoinExec::new(held, streamed))
    } else {
        let side = |is_held: bool| if is_held { JoinSide::Left } else { JoinSide::Right };
        let sides = [(&left_schema, side(hold_left)), (&right_schema, side(!hold_left))];
        let filter = match walk::conjunction(residual) {
            Some(residual) => Some(join_filter(lowering, &residual, left_width, sides)?),
            None => None,
        };
        if keys.is_empty() {
            let join = NestedLoopJoinExec::try_new(held, streamed, filter, &join_type, None);
            Arc::new(join.map_err(from_datafusion)?)
        } else {
            let join = HashJoinExec::try_new(
                held,
                streamed,
                keys,
                filter,
                &join_type,
                None,
                PartitionMode::CollectLeft,
                NullEquality::NullEqualsNothing,
                false,
            );
            Arc::new(join.map_err(from_datafusion)?)
        }
    };
    if hold_left || matches!(kind, JoinKind::Semi | JoinKind::Anti) {
        return Ok(joined);
    }
    let schema = joined.schema();
    let held_width = schema.fields().len() - left_width;
    let order = (held_width..schema.fields().len()).chain(0..held_width);
    let exprs = order.map(|i| expr::column(i, &schema)).collect::<Result<Vec<_>>>()?;
    projection(joined, exprs, columns)
}

/// The two sides of `left = right`, each over its own input, where one looks at the left input only and the other at the
/// right one only.
fn equi_key(conjunct: &Expr, left_width: usize) -> Option<(Expr, Expr)> {
    let (a, b, _) = expr::as_equality(conjunct)?;
    if a.is_volatile() || b.is_volatile() {
        return None;
    }
    let side = |e: &Expr| {
        let mut used = BTreeSet::new();
        walk::columns_used(e, &mut used);
        (!used.is_empty(), used.iter().all(|i| *i < left_width), used.iter().all(|i| *i >= left_width))
    };
    let right = |e: &Expr| walk::renumber(e, &|i| i - left_width);
    match (side(a), side(b)) {
        ((true, true, _), (true, _, true)) => Some((a.clone(), right(b))),
        ((true, _, true), (true, true, _)) => Some((b.clone(), right(a))),
        _ => None,
    }
}

fn join_filter(
    lowering: &Lowering,
    residual: &Expr,
    left_width: usize,
    [(left, left_side), (right, right_side)]: [(&SchemaRef, JoinSide); 2],
) -> Result<JoinFilter> {
    let mut used = BTreeSet::new();
    walk::columns_used(residual, &mut used);
    if used.is_empty() {
        // A batch without columns would not know how many rows it has.
        used.insert(if left.fields().is_empty() { left_width } else { 0 });
    }
    let used: Vec<usize> = used.into_iter().collect();
    let mut indices = Vec::with_capacity(used.len());
    let mut fields: Vec<Field> = Vec::with_capacity(used.len());
    for index in &used {
        let (schema, index, side) = match index.checked_sub(left_width) {
            None => (left, *index, left_side),
            Some(index) => (right, index, right_side),
        };
        let field = schema.fields().get(index);
        let field = field.ok_or_else(|| SqlError::internal("a join's condition names no column"))?;
        indices.push(ColumnIndex { index, side });
        fields.push(Field::clone(field));
    }
    let schema = Arc::new(Schema::new(fields));
    let residual = walk::renumber(residual, &|i| used.binary_search(&i).unwrap_or(usize::MAX));
    Ok(JoinFilter::new(expr::lower(&residual, &schema, &lowering.ctx)?, indices, schema))
}
