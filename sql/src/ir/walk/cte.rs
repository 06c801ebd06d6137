//! References to CTEs.

use crate::ir::{Expr, Plan};

/// How often a plan refers to a CTE; a reference from within a subquery counts as many, since it may be run often.
pub fn cte_references(plan: &Plan, id: usize) -> usize {
    if let Plan::CteScan { id: other, .. } = plan {
        return usize::from(*other == id);
    }
    let mut count = 0;
    plan.exprs(&mut |e| count += cte_references_in_expr(e, id));
    plan.inputs(&mut |p| count += cte_references(p, id));
    count
}

fn cte_references_in_expr(expr: &Expr, id: usize) -> usize {
    let mut count = match expr {
        Expr::Subquery { plan, .. } => 2 * cte_references(plan, id),
        _ => 0,
    };
    expr.operands(&mut |child| count += cte_references_in_expr(child, id));
    count
}

/// Whether a plan refers to a CTE that it does not define.
pub fn has_free_cte(plan: &Plan) -> bool {
    fn visit(plan: &Plan, defined: &mut Vec<usize>) -> bool {
        match plan {
            Plan::CteScan { id, .. } => return !defined.contains(id),
            Plan::With { ctes, .. } => defined.extend(ctes.iter().map(|cte| cte.id)),
            _ => {}
        }
        let mut found = false;
        plan.inputs(&mut |p| found = found || visit(p, defined));
        plan.exprs(&mut |e| found = found || visit_expr(e, defined));
        found
    }
    fn visit_expr(expr: &Expr, defined: &mut Vec<usize>) -> bool {
        if let Expr::Subquery { plan, .. } = expr
            && visit(plan, defined)
        {
            return true;
        }
        let mut found = false;
        expr.operands(&mut |child| found = found || visit_expr(child, defined));
        found
    }
    visit(plan, &mut Vec::new())
}

/// Whether a plan reads a CTE, other than from a subquery in an expression.
pub fn reads_cte(plan: &Plan, id: usize) -> bool {
    let mut found = matches!(plan, Plan::CteScan { id: other, .. } if *other == id);
    plan.inputs(&mut |p| found = found || reads_cte(p, id));
    found
}
