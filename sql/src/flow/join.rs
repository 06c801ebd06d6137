//! Joins: hash joins on what is equal on both sides, nested loops otherwise.
//!
//! DataFusion holds the left input in memory and streams the right one. The inputs are handed over crosswise, so that it
//! is the right side of the SQL join that is held, as in PostgreSQL, and the left one keeps its partitions. A LEFT JOIN thus is a right
//! join to DataFusion, and a semi join a right semi join.

mod outside;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{JoinSide, JoinType, NullEquality};
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_plan::joins::utils::{ColumnIndex, JoinFilter};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};

use super::expr;
use super::lower::{Lowering, Physical, projection, single};
use super::stream::from_datafusion;
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
    let mut probe = lowering.lower(left).await?;
    let mut build = single(lowering.lower(right).await?);
    let (probe_schema, build_schema) = (probe.schema(), build.schema());

    let mut keys: Vec<(PhysicalExprRef, PhysicalExprRef)> = Vec::new();
    let mut residual = Vec::new();
    for conjunct in conjuncts {
        match equi_key(&conjunct, left_width) {
            Some((l, r)) => keys.push((
                expr::lower_key(&r, &build_schema, &lowering.ctx)?,
                expr::lower_key(&l, &probe_schema, &lowering.ctx)?,
            )),
            None => residual.push(conjunct),
        }
    }
    let join_type = match kind {
        JoinKind::Inner => JoinType::Inner,
        JoinKind::Left => JoinType::Right,
        JoinKind::Right => JoinType::Left,
        JoinKind::Full => JoinType::Full,
        JoinKind::Semi => JoinType::RightSemi,
        JoinKind::Anti => JoinType::RightAnti,
    };
    // What is left over of the build side is known when all of the other side has been seen.
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        probe = single(probe);
    }
    let joined: Physical = if keys.is_empty() && residual.is_empty() && kind == JoinKind::Inner {
        build = single(build);
        Arc::new(CrossJoinExec::new(build, probe))
    } else {
        let sides = [(&probe_schema, JoinSide::Right), (&build_schema, JoinSide::Left)];
        let filter = match walk::conjunction(residual) {
            Some(residual) => Some(join_filter(lowering, &residual, left_width, sides)?),
            None => None,
        };
        if keys.is_empty() {
            let join = NestedLoopJoinExec::try_new(build, probe, filter, &join_type, None);
            Arc::new(join.map_err(from_datafusion)?)
        } else {
            let join = HashJoinExec::try_new(
                build,
                probe,
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
    let schema = joined.schema();
    let order: Vec<usize> = match kind {
        JoinKind::Semi | JoinKind::Anti => return Ok(joined),
        _ => {
            let build_width = schema.fields().len() - left_width;
            (build_width..schema.fields().len()).chain(0..build_width).collect()
        }
    };
    let exprs = order.into_iter().map(|i| expr::column(i, &schema)).collect::<Result<Vec<_>>>()?;
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
