//! Joins whose condition asks a subquery about both sides.
//!
//! A subquery is answered outside of the join. For an inner join that is a filter above it; for the others the pairs are found by
//! an inner join first, and the rows are recognised by numbers:
//!
//! ```text
//!   WITH l AS (SELECT *, row_number() OVER () AS n FROM left),
//!        p AS (SELECT * FROM l JOIN right ON … WHERE … (subquery) …)
//!   SELECT … FROM l LEFT JOIN p ON l.n = p.n
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Result, SqlError};
use crate::function::{resolve, window_function};
use crate::ir::{
    CallKind, Cte, Expr, FrameBound, FrameUnits, JoinKind, OutputColumn, Plan, SetOp, WindowCall,
    WindowFrame, WindowFunctionRef, walk,
};
use crate::types::{ColumnType, Datum, Type};

const BIGINT: ColumnType = ColumnType::plain(Type::Int8);

/// CTEs of our own count down, those of the binder up.
fn fresh_id() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(usize::MAX);
    NEXT.fetch_sub(1, Ordering::Relaxed)
}

/// The same join without a subquery in its condition.
pub(super) fn rewritten(
    kind: JoinKind,
    left: &Plan,
    right: &Plan,
    conjuncts: Vec<Expr>,
    columns: &[OutputColumn],
) -> Result<Plan> {
    let (l, r) = (numbered(left)?, numbered(right)?);
    let (width_l, width_r) = (left.columns().len(), right.columns().len());
    // In `p` the left number stands between the sides.
    let place = |i: usize| if i < width_l { i } else { i + 1 };
    let conjuncts: Vec<Expr> = conjuncts.iter().map(|c| walk::renumber(c, &place)).collect();
    let (asked, plain): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(Expr::has_subquery);
    let pairs = join(JoinKind::Inner, scan(&l), scan(&r), walk::conjunction(plain));
    let pairs = match walk::conjunction(asked) {
        Some(predicate) => Plan::Filter { input: Box::new(pairs), predicate },
        None => pairs,
    };
    let p = Arc::new(Cte { id: fresh_id(), name: "pairs".to_owned(), plan: pairs, recursive: None });
    let (left_number, right_number) = (width_l, width_l + 1 + width_r);
    // Over a side (with its number) joined with `p`.
    let left_on = equal(width_l, width_l + 1 + left_number)?;
    let right_on = equal(width_r, width_r + 1 + right_number)?;
    let left_columns = 0..width_l;
    let body = match kind {
        JoinKind::Inner => project(scan(&p), left_columns.chain(left_number + 1..right_number), columns),
        JoinKind::Semi | JoinKind::Anti => {
            project(join(kind, scan(&l), scan(&p), Some(left_on)), left_columns, columns)
        }
        JoinKind::Left => left_joined(&l, &p, left_on, width_l, width_r, columns),
        JoinKind::Right => {
            let joined = join(JoinKind::Left, scan(&r), scan(&p), Some(right_on));
            let start = width_r + 1;
            project(joined, (start..start + width_l).chain(0..width_r), columns)
        }
        JoinKind::Full => {
            let unmatched = join(JoinKind::Anti, scan(&r), scan(&p), Some(right_on));
            let mut exprs: Vec<Expr> =
                columns[..width_l].iter().map(|c| Expr::Const(Datum::Null, c.ty)).collect();
            exprs.extend(columns[width_l..].iter().enumerate().map(|(i, c)| Expr::Column(i, c.ty)));
            let unmatched = Plan::Project { input: Box::new(unmatched), exprs, columns: columns.to_vec() };
            Plan::SetOp {
                op: SetOp::Union,
                all: true,
                left: Box::new(left_joined(&l, &p, left_on, width_l, width_r, columns)),
                right: Box::new(unmatched),
                columns: columns.to_vec(),
            }
        }
    };
    Ok(Plan::With { ctes: vec![l, r, p], body: Box::new(body) })
}

fn left_joined(
    l: &Arc<Cte>,
    p: &Arc<Cte>,
    on: Expr,
    width_l: usize,
    width_r: usize,
    columns: &[OutputColumn],
) -> Plan {
    let joined = join(JoinKind::Left, scan(l), scan(p), Some(on));
    // A side, its number, then `p`: the left side again, its number, the right side.
    let start = (width_l + 1) + (width_l + 1);
    project(joined, (0..width_l).chain(start..start + width_r), columns)
}

fn numbered(plan: &Plan) -> Result<Arc<Cte>> {
    let function = window_function("row_number")
        .ok_or_else(|| SqlError::internal("there is no row_number in the catalogue"))?;
    let call = WindowCall {
        function: WindowFunctionRef::Window(function),
        args: Vec::new(),
        filter: None,
        partition_by: Vec::new(),
        order_by: Vec::new(),
        frame: WindowFrame {
            units: FrameUnits::Range,
            start: FrameBound::UnboundedPreceding,
            end: FrameBound::CurrentRow,
        },
        ty: BIGINT,
    };
    let mut columns = plan.columns().to_vec();
    columns.push(OutputColumn { name: "number".to_owned(), ty: BIGINT, origin: None });
    let plan = Plan::Window { input: Box::new(plan.clone()), calls: vec![call], columns };
    Ok(Arc::new(Cte { id: fresh_id(), name: "side".to_owned(), plan, recursive: None }))
}

fn scan(cte: &Cte) -> Plan {
    Plan::CteScan { id: cte.id, columns: cte.plan.columns().to_vec() }
}

fn join(kind: JoinKind, left: Plan, right: Plan, on: Option<Expr>) -> Plan {
    let mut columns = left.columns().to_vec();
    if !matches!(kind, JoinKind::Semi | JoinKind::Anti) {
        columns.extend(right.columns().iter().cloned());
    }
    Plan::Join { kind, left: Box::new(left), right: Box::new(right), on, columns }
}

fn equal(left: usize, right: usize) -> Result<Expr> {
    let function = resolve::operator("=", &[Type::Int8, Type::Int8])?.function;
    Ok(Expr::Call {
        function,
        kind: CallKind::Operator,
        args: vec![Expr::Column(left, BIGINT), Expr::Column(right, BIGINT)],
        ty: ColumnType::plain(Type::Bool),
    })
}

fn project(input: Plan, which: impl Iterator<Item = usize>, columns: &[OutputColumn]) -> Plan {
    let exprs = which.zip(columns).map(|(i, c)| Expr::Column(i, c.ty)).collect();
    Plan::Project { input: Box::new(input), exprs, columns: columns.to_vec() }
}
