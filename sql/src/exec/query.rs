//! Queries: which way a plan runs.

use std::sync::Arc;

use txn::LockMode;

use super::scan::Points;
use super::{RowStream, StatementContext, direct, effect};
use crate::error::Result;
use crate::flow;
use crate::ir::Plan;

/// Runs a plan as part of a statement.
pub async fn rows(plan: &Plan, ctx: &Arc<StatementContext>) -> Result<Box<dyn RowStream>> {
    run(plan, ctx, Points::AtSnapshot).await
}

/// Runs a plan that is a statement.
pub async fn statement(plan: &Plan, ctx: &Arc<StatementContext>) -> Result<Box<dyn RowStream>> {
    let points = if ctx.auto_commit { Points::AtLatest } else { Points::AtSnapshot };
    run(plan, ctx, points).await
}

/// Runs a plan whose rows are to be changed: what it reads by key is locked as it is read.
pub async fn for_change(
    plan: &Plan,
    mode: LockMode,
    ctx: &Arc<StatementContext>,
) -> Result<Box<dyn RowStream>> {
    run(plan, ctx, Points::Locked(mode)).await
}

async fn run(plan: &Plan, ctx: &Arc<StatementContext>, points: Points) -> Result<Box<dyn RowStream>> {
    if direct::applies(plan) {
        direct::run(plan, ctx, points).await
    } else if plan.has_effect() {
        Box::pin(effect::run(plan, ctx)).await
    } else {
        flow::run(plan, Arc::clone(ctx)).await
    }
}
