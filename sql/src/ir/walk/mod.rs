//! Walks over expressions and plans, for those who look at them and those who rewrite them. What stands below a node is
//! written down here and nowhere else.
//!
//! ```text
//!   here    what stands directly below a node, to look at or to change in place; questions answered by looking
//!   map     a node rebuilt from what a function makes of the parts below it
//!   outer   references across the borders of subqueries: finding, replacing, renumbering
//!   cte     references to CTEs
//! ```

mod cte;
mod map;
mod outer;

use super::{Expr, FrameBound, Plan, SubqueryKind};
use crate::function::Volatility;

pub use cte::{cte_references, has_free_cte, reads_cte};
pub use map::{map_aggregate, map_children, map_keys, map_parts, map_window};
pub use outer::{
    bind_outer, columns_used, is_correlated, lift, outer_references, refers_out, renumber, substitute,
};

/// Left on the stack at each level of a walk; a new piece is taken when it runs out.
const STACK_RED_ZONE_BYTES: usize = 256 << 10;
const STACK_PIECE_BYTES: usize = 4 << 20;

/// Runs one level of a walk. The binder bounds how deep a plan is, not how much stack each level takes.
pub fn with_stack<T>(f: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_RED_ZONE_BYTES, STACK_PIECE_BYTES, f)
}

/// An expression's operands. Written once for `&` with `iter` and once for `&mut` with `iter_mut`, as are the next two.
macro_rules! operands {
    ($expr:expr, $f:ident, $iter:ident) => {
        match $expr {
            Expr::Const(..) | Expr::Column(..) | Expr::Outer { .. } | Expr::Param(..) => {}
            Expr::Call { args, .. }
            | Expr::And(args)
            | Expr::Or(args)
            | Expr::Coalesce(args, _)
            | Expr::Extreme { args, .. } => args.$iter().for_each($f),
            Expr::Coerce { input, .. } | Expr::Not(input) | Expr::IsNull { input, .. } => $f(input),
            Expr::IsDistinct { left, right, .. } => {
                $f(left);
                $f(right);
            }
            Expr::Case { branches, otherwise, .. } => {
                for (condition, value) in branches {
                    $f(condition);
                    $f(value);
                }
                $f(otherwise);
            }
            Expr::InList { input, list, .. } => {
                $f(input);
                list.$iter().for_each($f);
            }
            Expr::Subquery { kind, .. } => {
                if let SubqueryKind::Quantified { left, .. } = kind {
                    left.$iter().for_each($f);
                }
            }
        }
    };
}

/// A plan's own expressions.
macro_rules! exprs {
    ($plan:expr, $f:ident, $iter:ident, $($borrow:tt)+) => {
        match $plan {
            Plan::Values { rows, .. } => rows.$iter().flatten().for_each($f),
            Plan::Scan(scan) => scan.filters.$iter().for_each($f),
            Plan::Series { args, .. } => args.$iter().for_each($f),
            Plan::Project { exprs, .. } => exprs.$iter().for_each($f),
            Plan::Filter { predicate, .. } => $f(predicate),
            Plan::Join { on, .. } => on.$iter().for_each($f),
            Plan::Aggregate { group_by, aggregates, .. } => {
                group_by.$iter().for_each(&mut *$f);
                for call in aggregates {
                    call.args.$iter().for_each(&mut *$f);
                    call.filter.$iter().for_each(&mut *$f);
                    call.order_by.$iter().for_each(|key| $f($($borrow)+ key.expr));
                }
            }
            Plan::Window { calls, .. } => {
                for call in calls {
                    call.args.$iter().for_each(&mut *$f);
                    call.filter.$iter().for_each(&mut *$f);
                    call.partition_by.$iter().for_each(&mut *$f);
                    call.order_by.$iter().for_each(|key| $f($($borrow)+ key.expr));
                    for bound in [$($borrow)+ call.frame.start, $($borrow)+ call.frame.end] {
                        if let FrameBound::Preceding(offset) | FrameBound::Following(offset) = bound {
                            $f(offset);
                        }
                    }
                }
            }
            Plan::Sort { keys, .. } => keys.$iter().for_each(|key| $f($($borrow)+ key.expr)),
            Plan::Limit { limit, offset, .. } => {
                limit.$iter().for_each(&mut *$f);
                offset.$iter().for_each($f);
            }
            Plan::DistinctOn { keys, .. } => keys.$iter().for_each($f),
            Plan::LockRows(node) => {
                node.limit.$iter().for_each(&mut *$f);
                node.offset.$iter().for_each($f);
            }
            Plan::VirtualScan { .. }
            | Plan::CteScan { .. }
            | Plan::With { .. }
            | Plan::Distinct { .. }
            | Plan::SetOp { .. } => {}
        }
    };
}

/// The plans directly below a plan. `$cte` opens a CTE, which is shared.
macro_rules! inputs {
    ($plan:expr, $f:ident, $cte:path, $($borrow:tt)+) => {
        match $plan {
            Plan::Values { .. }
            | Plan::Scan(_)
            | Plan::VirtualScan { .. }
            | Plan::Series { .. }
            | Plan::CteScan { .. } => {}
            Plan::With { ctes, body } => {
                for cte in ctes {
                    let cte = $cte(cte);
                    $f($($borrow)+ cte.plan);
                    if let Some((recursive, _)) = $($borrow)+ cte.recursive {
                        $f(recursive);
                    }
                }
                $f(body);
            }
            Plan::Project { input, .. }
            | Plan::Filter { input, .. }
            | Plan::Aggregate { input, .. }
            | Plan::Window { input, .. }
            | Plan::Sort { input, .. }
            | Plan::Limit { input, .. }
            | Plan::Distinct { input }
            | Plan::DistinctOn { input, .. } => $f(input),
            Plan::LockRows(node) => $f($($borrow)+ *node.input),
            Plan::Join { left, right, .. } | Plan::SetOp { left, right, .. } => {
                $f(left);
                $f(right);
            }
        }
    };
}

impl Expr {
    /// Calls `f` on each direct operand that is evaluated against the same row. The plan of a subquery is not entered, its
    /// left side is. (A quantified subquery's `compare` has a row of its own and is not among them.)
    pub fn operands<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        with_stack(|| operands!(self, f, iter));
    }

    /// As [`Expr::operands`], to change them.
    pub fn operands_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        with_stack(|| operands!(self, f, iter_mut));
    }

    /// Whether `test` holds for this expression or one below it; subqueries' plans are not entered.
    pub fn any(&self, test: &mut dyn FnMut(&Expr) -> bool) -> bool {
        if test(self) {
            return true;
        }
        let mut found = false;
        self.operands(&mut |operand| found = found || operand.any(test));
        found
    }

    /// Whether a subquery must be run for it.
    pub fn has_subquery(&self) -> bool {
        self.any(&mut |e| matches!(e, Expr::Subquery { .. }))
    }

    /// Whether its own row is all that it looks at: no subquery, nothing of an enclosing query.
    pub fn is_local(&self) -> bool {
        !self.any(&mut |e| matches!(e, Expr::Subquery { .. } | Expr::Outer { .. }))
    }

    /// Whether evaluating it changes something, or waits.
    pub fn has_effect(&self) -> bool {
        self.any(&mut |e| matches!(e, Expr::Call { function, .. } if function.effect))
    }

    /// Whether evaluating it has the cluster do something.
    pub fn has_order(&self) -> bool {
        self.any(&mut |e| matches!(e, Expr::Call { function, .. } if function.order))
    }

    /// Whether evaluating it twice, or not at all, can be noticed.
    pub fn is_volatile(&self) -> bool {
        self.any(
            &mut |e| matches!(e, Expr::Call { function, .. } if function.volatility == Volatility::Volatile),
        )
    }
}

impl Plan {
    /// Calls `f` on each expression of this node.
    pub fn exprs<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        with_stack(|| exprs!(self, f, iter, &));
    }

    /// As [`Plan::exprs`], to change them.
    pub fn exprs_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        with_stack(|| exprs!(self, f, iter_mut, &mut));
    }

    /// Calls `f` on each plan directly below this node.
    pub fn inputs<'a>(&'a self, f: &mut dyn FnMut(&'a Plan)) {
        with_stack(|| inputs!(self, f, std::convert::identity, &));
    }

    /// As [`Plan::inputs`], to change them.
    pub fn inputs_mut(&mut self, f: &mut dyn FnMut(&mut Plan)) {
        with_stack(|| inputs!(self, f, std::sync::Arc::make_mut, &mut));
    }

    /// Whether `test` holds for this plan or one below it, the plans of subqueries included.
    pub fn any(&self, test: &mut dyn FnMut(&Plan) -> bool) -> bool {
        if test(self) {
            return true;
        }
        let mut found = false;
        self.exprs(&mut |expr| {
            found = found || expr.any(&mut |e| matches!(e, Expr::Subquery { plan, .. } if plan.any(test)));
        });
        self.inputs(&mut |input| found = found || input.any(test));
        found
    }
}

impl Plan {
    /// Whether the cluster is to do something when it is run.
    pub fn has_order(&self) -> bool {
        self.any(&mut |plan| {
            let mut found = false;
            plan.exprs(&mut |expr| found = found || expr.has_order());
            found
        })
    }

    /// Whether something is changed, or waited for, when it is run.
    pub fn has_effect(&self) -> bool {
        self.any(&mut |plan| {
            let mut found = false;
            plan.exprs(&mut |expr| found = found || expr.has_effect());
            found
        })
    }
}

/// Appends the conjuncts of `expr`.
pub fn conjuncts(expr: Expr, out: &mut Vec<Expr>) {
    match expr {
        Expr::And(args) => args.into_iter().for_each(|arg| conjuncts(arg, out)),
        other => out.push(other),
    }
}

/// The conjunction of `exprs`; `None` of nothing.
pub fn conjunction(mut exprs: Vec<Expr>) -> Option<Expr> {
    match exprs.len() {
        0 | 1 => exprs.pop(),
        _ => Some(Expr::And(exprs)),
    }
}
