//! Row locks within a query: the rows of an input are locked as they are asked for.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{StreamExt, stream};
use txn::api::{Fence, Isolation, Key, LockWait, LockedRow, Locking};

use super::lower::{Lowering, Physical, single};
use super::operator::{Batches, Node, Operator};
use super::stream::from_datafusion;
use super::types::{ColumnReader, batch_with_rows, schema_of_columns};
use crate::error::{Result, SqlError};
use crate::exec::{StatementContext, count, key};
use crate::ir::{LockRows, Rivals};
use crate::types::{Datum, Type};

/// Rows locked by one call.
const CHUNK_ROWS_MAX: usize = 500;

/// Locks the rows of one table.
struct Target {
    key_at: usize,
    how: Locking,
    fences: Vec<Fence>,
}

struct Locker {
    targets: Vec<Target>,
    /// No more rows than this are wanted.
    rows_max: usize,
    schema: SchemaRef,
    ctx: Arc<StatementContext>,
}

/// Lowers the node.
pub(super) async fn lower(scope: &Lowering, node: &LockRows) -> Result<Physical> {
    let ctx = &scope.ctx;
    let input = single(scope.lower(&node.input).await?);
    let skip = count(node.offset.as_ref(), "OFFSET", ctx)?.unwrap_or(0);
    let take = count(node.limit.as_ref(), "LIMIT", ctx)?.unwrap_or(usize::MAX);
    let target = |target: &crate::ir::LockTarget| Target {
        key_at: target.key,
        how: Locking {
            mode: target.lock.mode,
            wait: match target.lock.rivals {
                Rivals::Wait => LockWait::For(ctx.lock_timeout),
                Rivals::Fail => LockWait::Never,
                Rivals::Skip => LockWait::Skip,
            },
        },
        fences: ctx.fences(&target.table),
    };
    let schema = schema_of_columns(&node.columns);
    let locker = Locker {
        targets: node.targets.iter().map(target).collect(),
        rows_max: take.saturating_add(skip),
        schema: Arc::clone(&schema),
        ctx: Arc::clone(ctx),
    };
    Ok(Node::over(LockOperator(Arc::new(locker)), vec![input], schema))
}

struct LockOperator(Arc<Locker>);

/// What is left of an input.
struct State {
    locker: Arc<Locker>,
    input: SendableRecordBatchStream,
    batch: Option<RecordBatch>,
    wanted: usize,
}

impl Operator for LockOperator {
    fn name(&self) -> &'static str {
        "LockRows"
    }

    fn run(&self, _: usize, inputs: Vec<SendableRecordBatchStream>, _: &Arc<TaskContext>) -> Result<Batches> {
        let input = inputs.into_iter().next().ok_or_else(|| SqlError::internal("nothing to be locked"))?;
        let locker = Arc::clone(&self.0);
        let state = State { wanted: locker.rows_max, locker, input, batch: None };
        let batches = stream::try_unfold(state, |mut state| async move {
            let batch = state.next().await?;
            Ok::<_, SqlError>(batch.map(|batch| (batch, state)))
        });
        Ok(batches.boxed())
    }
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.wanted > 0 {
            let batch = match self.batch.take() {
                Some(batch) => batch,
                None => match self.input.next().await {
                    Some(batch) => batch.map_err(from_datafusion)?,
                    None => return Ok(None),
                },
            };
            let rows = batch.num_rows().min(self.wanted).min(CHUNK_ROWS_MAX);
            if rows < batch.num_rows() {
                self.batch = Some(batch.slice(rows, batch.num_rows() - rows));
            }
            let locked = self.locker.lock(&batch.slice(0, rows)).await?;
            if locked.num_rows() > 0 {
                self.wanted -= locked.num_rows();
                return Ok(Some(locked));
            }
        }
        Ok(None)
    }
}

impl Locker {
    /// Locks the rows of a batch, and leaves those out that are not to be waited for.
    async fn lock(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut stays = vec![true; batch.num_rows()];
        for target in &self.targets {
            let keys = ColumnReader::new(batch.column(target.key_at), Type::Bytea)?;
            let (mut asked, mut at): (Vec<Key>, Vec<usize>) = Default::default();
            for (row, _) in stays.iter().enumerate().filter(|(_, stays)| **stays) {
                if let Datum::Bytea(key) = keys.get(row)? {
                    asked.push(key);
                    at.push(row);
                }
            }
            if asked.is_empty() {
                continue;
            }
            let locked = self.ctx.transaction.lock(&asked, target.how, &target.fences).await;
            let locked = locked.map_err(|error| key::explain(error, self.ctx.catalog.image()))?;
            if self.ctx.transaction.isolation() == Isolation::ReadCommitted {
                self.unchanged(&asked, &locked, &target.fences).await?;
            }
            for (row, locked) in at.into_iter().zip(locked) {
                stays[row] = locked != LockedRow::Skipped;
            }
        }
        let rows = stays.iter().filter(|stays| **stays).count();
        let stays = BooleanArray::from(stays);
        let columns = batch.columns().iter().take(self.schema.fields().len());
        let columns = columns
            .map(|column| filter(column, &stays))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| SqlError::internal(error.to_string()))?;
        batch_with_rows(columns, &self.schema, rows)
    }

    /// READ COMMITTED locks the newest versions. If one is not what the query has read, the statement runs again, with the locks
    /// that it has.
    async fn unchanged(&self, keys: &[Key], locked: &[LockedRow], fences: &[Fence]) -> Result<()> {
        let found = self.ctx.transaction.get(keys, fences).await;
        let found = found.map_err(|error| key::explain(error, self.ctx.catalog.image()))?;
        for ((at, locked), found) in keys.iter().zip(locked).zip(found) {
            if matches!(locked, LockedRow::Held(newest) if *newest != found) {
                let conflict = txn::Error::Conflict { key: at.clone(), rival: None };
                return Err(key::explain(conflict, self.ctx.catalog.image()));
            }
        }
        Ok(())
    }
}
