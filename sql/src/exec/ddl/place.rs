//! Where a table's replicas shall be. Not a part of the transaction: the meta-group is told, and shards are split.

use std::sync::Arc;

use txn::ids::prefix_end;

use crate::catalog::{Changes, Placement, TableDescriptor};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{Outcome, StatementContext};

/// Gives a table shards of its own, and says what is wanted of them.
/// Returns notices of what can't be had.
pub async fn place(
    table: &TableDescriptor,
    placement: &Placement,
    ctx: &StatementContext,
) -> Result<Vec<String>> {
    let (prefix, replicas) = (table.prefix(), u32::from(placement.replicas));
    // Said first: if the words make no sense, nothing has been done.
    let told = ctx.database.set_placement(&prefix, replicas, &placement.places).await;
    let mut notices = told.map_err(|error| match error {
        txn::Error::Invalid(why) => SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for \"placement\": \"{}\"", placement.places),
        )
        .detail(why)
        .hint("It is like 'region=eu', 'not zone=a', '2 in region=us' or 'leader in zone=b', or several of these, with semicolons between them."),
        other => other.into(),
    })?;
    ctx.database.split(&[prefix.clone(), prefix_end(&prefix)], false).await?;
    notices.extend(too_few_nodes(placement.replicas, ctx).await);
    Ok(notices)
}

/// What is wanted is kept, and done when there are more nodes.
async fn too_few_nodes(replicas: u16, ctx: &StatementContext) -> Option<String> {
    // It is done; whoever can't be asked now can't tell either.
    let nodes = ctx.database.nodes().await.ok()?;
    let nodes = nodes.iter().filter(|node| matches!(node.duty, "active" | "draining")).count();
    let few = nodes > 0 && usize::from(replicas) > nodes;
    let cluster =
        if nodes == 1 { "the cluster has one node".into() } else { format!("the cluster has {nodes} nodes") };
    few.then(|| format!("{cluster}: there will be {replicas} replicas when it has {replicas}"))
}

/// ALTER TABLE … SET (replication_factor = …, placement = …).
pub async fn set_placement(
    table: &Arc<TableDescriptor>,
    placement: &Placement,
    changes: &Changes<'_>,
    ctx: &StatementContext,
) -> Result<Outcome> {
    changes.check_current(table).await?;
    let notices = place(table, placement, ctx).await?;
    let mut new = TableDescriptor::clone(table);
    new.placement = placement.clone();
    changes.replace_table(table, new).await?;
    Ok(Outcome::Done { tag: "ALTER TABLE".into(), notices })
}
