//! Queries: which way a plan runs.

use std::sync::Arc;

use super::{RowStream, StatementContext, direct};
use crate::error::Result;
use crate::flow;
use crate::ir::Plan;

/// Runs a plan as part of a statement.
pub async fn rows(plan: &Plan, ctx: &Arc<StatementContext>) -> Result<Box<dyn RowStream>> {
    run(plan, ctx, false).await
}

/// Runs a plan that is a statement.
pub async fn statement(plan: &Plan, ctx: &Arc<StatementContext>) -> Result<Box<dyn RowStream>> {
    run(plan, ctx, ctx.auto_commit).await
}

async fn run(plan: &Plan, ctx: &Arc<StatementContext>, latest: bool) -> Result<Box<dyn RowStream>> {
    if direct::applies(plan) {
        direct::run(plan, ctx, latest).await
    } else {
        flow::run(plan, Arc::clone(ctx)).await
    }
}
