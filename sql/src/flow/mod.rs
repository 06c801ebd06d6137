//! Queries on DataFusion: from a bound [`Plan`] to a stream of rows.
//!
//! ```text
//! ir::Plan ──rewrite──▶ ir::Plan ──lower──▶ DataFusion's operators and ours ──execute──▶ RowStream
//! ```
//!
//! **What DataFusion does here, and what it doesn't.** We use its vectorised operators (hash and nested-loop joins, hash aggregation,
//! sorts, merges, repartitioning), its memory accounting and its streams. Its planner, its logical and physical optimizer rules
//! and its scalar functions are not used: the operators are put together here. The optimizer reorders, duplicates and folds
//! expressions under the assumption that they can't fail, and knows nothing of PostgreSQL's types; the few rewrites that
//! matter (filters towards the scans, semi joins, columns) are made on the IR in [`rewrite`], where they are also what turns
//! filters into key ranges. It is the cheaper way, too: lowering a small query takes microseconds, so that the *bound*
//! plan is what is worth caching, with its parameters still open.
//!
//! **Rooms.** [`types`]: values as Arrow columns, and *keys*, by which types are compared whose equal values differ
//! (`1.0`, `1.00`). [`expr`]: scalar expressions, native or row by row with the one evaluator. [`rewrite`]: of the IR,
//! with the walks of [`crate::ir::walk`].
//! [`lower`]: one IR node to operators. [`subquery`]: expressions with subqueries in them, computed by an operator of its own
//! before the node that needs them. [`operator`]: how an operator of ours is a node among DataFusion's.
//! The others are operators.
//!
//! **Invariants.** A lowered plan has the columns of its IR plan, in order, with the types of [`types`]. Values of a keyed
//! type are never compared, hashed or sorted but by their key. An expression that can fail runs for no row for which
//! PostgreSQL would not run it. A [`SqlError`](crate::SqlError) comes out as it went in.
//!
//! **Caveats.** Nothing spills: an operator that would hold more than the statement may fails with `53200`. Without
//! statistics, joins are made in the order that was written, and the right side is the one that is held in memory.

mod aggregate;
mod expr;
mod join;
mod lock;
mod lower;
mod operator;
mod recursive;
mod rewrite;
mod scan;
mod series;
mod set_op;
mod stream;
mod subquery;
mod types;
mod window;

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use datafusion::execution::TaskContext;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::displayable;

use crate::error::{Result, SqlError};
use crate::exec::{RowStream, StatementContext};
use crate::ir::Plan;
use lower::Lowering;

/// Rows in a batch.
const BATCH_ROWS: usize = 8192;

/// What all statements share. Each has a memory pool of its own.
struct Shared {
    config: SessionConfig,
    runtime: RuntimeEnv,
    partitions: usize,
}

static SHARED: LazyLock<std::result::Result<Shared, String>> = LazyLock::new(|| {
    let partitions = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .build()
        .map_err(|error| error.to_string())?;
    // What a sort sets aside for merging spilled runs is of no use here.
    let config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_target_partitions(partitions)
        .with_sort_spill_reservation_bytes(0);
    Ok(Shared { config, runtime, partitions })
});

fn lowering(ctx: Arc<StatementContext>) -> Result<Lowering> {
    let shared = SHARED.as_ref().map_err(|error| SqlError::internal(error.clone()))?;
    let runtime = RuntimeEnv {
        memory_pool: Arc::new(GreedyMemoryPool::new(ctx.memory_bytes_max)),
        ..shared.runtime.clone()
    };
    let task = TaskContext::new(
        None,
        String::new(),
        shared.config.clone(),
        Default::default(),
        Default::default(),
        Default::default(),
        Default::default(),
        Arc::new(runtime),
    );
    Ok(Lowering::new(ctx, Arc::new(task), shared.partitions))
}

/// Runs a query. Rows are computed as they are asked for; dropping the stream stops everything that runs for it.
pub async fn run(plan: &Plan, ctx: Arc<StatementContext>) -> Result<Box<dyn RowStream>> {
    stream::guarded(lowering(ctx)?.rows(plan)).await?
}

/// The operators that [`run`] would start, one to a line, for EXPLAIN.
pub async fn explain(plan: &Plan, ctx: Arc<StatementContext>) -> Result<String> {
    let physical = lowering(ctx)?.physical(plan).await?;
    Ok(displayable(physical.as_ref()).indent(false).to_string())
}
