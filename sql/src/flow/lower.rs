//! [`Lowering`]: from IR nodes to operators.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator as BinaryOperator;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExprRef, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, SendableRecordBatchStream};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::recursive::{Recursion, Shared, SharedScan};
use super::stream::{Rows, from_datafusion};
use super::subquery::Memo;
use super::types::{schema_of_columns, types_of};
use super::{aggregate, expr, join, lock, recursive, rewrite, scan, series, set_op, subquery, window};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{RowStream, StatementContext};
use crate::ir::{Expr, OutputColumn, Plan, SetOp, SortKey, walk};
use crate::types::{Datum, Type};

/// A node of a physical plan.
pub(super) type Physical = Arc<dyn ExecutionPlan>;

/// What a reference to a CTE reads.
#[derive(Clone)]
pub(super) enum Binding {
    /// Computed once, by whoever needs it first.
    Shared(Arc<Shared>),
    /// A recursive one that is referred to once: computed as it is read.
    Stream(Arc<Recursion>),
    /// The working table, within the recursive term.
    Working(Arc<Vec<RecordBatch>>),
}

/// What is known while a plan is lowered. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Lowering {
    pub(super) ctx: Arc<StatementContext>,
    pub(super) task: Arc<TaskContext>,
    pub(super) partitions: usize,
    pub(super) ctes: Arc<HashMap<usize, Binding>>,
    /// Answers of subqueries that depend on nothing but the statement.
    pub(super) root: Arc<Memo>,
    /// Answers of subqueries that depend on the CTEs in scope, too.
    pub(super) memo: Arc<Memo>,
}

impl std::fmt::Debug for Lowering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lowering")
    }
}

impl Lowering {
    pub(super) fn new(ctx: Arc<StatementContext>, task: Arc<TaskContext>, partitions: usize) -> Self {
        let root = Arc::new(Memo::default());
        Self { ctx, task, partitions, ctes: Arc::default(), memo: Arc::clone(&root), root }
    }

    /// This lowering with another CTE in scope. What subqueries answered without it does not hold with it.
    pub(super) fn with_cte(&self, id: usize, binding: Binding) -> Self {
        let mut ctes = HashMap::clone(&self.ctes);
        ctes.insert(id, binding);
        Self { ctes: Arc::new(ctes), memo: Arc::new(Memo::default()), ..self.clone() }
    }

    /// A plan's rows.
    pub(super) async fn rows(&self, plan: &Plan) -> Result<Box<dyn RowStream>> {
        let types = types_of(plan.columns());
        let batches = Some(self.execute(plan).await?);
        Ok(Box::new(Rows { batches, types, cancel: self.ctx.cancel.clone() }))
    }

    /// Starts a plan.
    pub(super) async fn execute(&self, plan: &Plan) -> Result<SendableRecordBatchStream> {
        let physical = self.physical(plan).await?;
        physical.execute(0, Arc::clone(&self.task)).map_err(from_datafusion)
    }

    /// A plan rewritten and lowered to one partition.
    pub(super) async fn physical(&self, plan: &Plan) -> Result<Physical> {
        Ok(single(self.lower(&rewrite::rewrite(plan)).await?))
    }

    /// Lowers a plan that has been rewritten.
    pub(super) fn lower<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<Physical>> {
        self.lower_some(plan, None)
    }

    /// [`Self::lower`], of which only the first `fetch` rows are asked for. More may come.
    fn lower_some<'a>(&'a self, plan: &'a Plan, fetch: Option<usize>) -> BoxFuture<'a, Result<Physical>> {
        let mut lowered = async move {
            match plan {
                Plan::Values { rows, columns } => Ok(scan::values(self, rows, columns)),
                Plan::Scan(table) => scan::lower(self, table, None, fetch).await,
                Plan::VirtualScan { name, columns } => scan::lower_virtual(self, name, columns).await,
                Plan::Series { args, columns } => series::lower(self, args, columns).await,
                Plan::CteScan { id, columns } => self.cte_scan(*id, columns),
                Plan::With { ctes, body } => {
                    let mut scope = self.clone();
                    for cte in ctes {
                        let streamed = walk::cte_references(body, cte.id) == 1
                            && !ctes.iter().any(|c| c.id != cte.id && recursive::refers(c, cte.id));
                        let binding = recursive::bind(&scope, cte, streamed).await?;
                        scope = scope.with_cte(cte.id, binding);
                    }
                    scope.lower_some(body, fetch).await
                }
                Plan::Project { input, exprs, columns } => self.project(input, exprs, columns, fetch).await,
                Plan::Filter { input, predicate } => self.filter(input, predicate).await,
                Plan::Join { kind, left, right, on, columns } => {
                    join::lower(self, *kind, left, right, on.as_ref(), columns).await
                }
                Plan::Aggregate { input, group_by, aggregates, columns } => {
                    aggregate::lower(self, input, group_by, aggregates, columns).await
                }
                Plan::Window { input, calls, columns } => window::lower(self, input, calls, columns).await,
                Plan::LockRows(node) => lock::lower(self, node).await,
                Plan::Sort { input, keys } => self.sort(input, keys, fetch).await,
                Plan::Limit { input, limit, offset } => {
                    self.limit(input, limit.as_ref(), offset.as_ref(), fetch).await
                }
                Plan::Distinct { input } => {
                    let types = types_of(input.columns());
                    set_op::distinct(self, self.lower(input).await?, &types)
                }
                Plan::DistinctOn { input, keys } => {
                    let (physical, keys) = self.prepare(input, keys.iter()).await?;
                    let physical = single(physical);
                    let types = keys.iter().map(|k| k.ty().ty).collect();
                    let keys = self.lower_all(&keys, &physical.schema())?;
                    let distinct = set_op::distinct_on(physical, keys, types);
                    self.cut(distinct, input.columns())
                }
                Plan::SetOp { op: SetOp::Union, all, left, right, columns } => {
                    self.union(*all, left, right, columns).await
                }
                Plan::SetOp { op, all, left, right, columns } => {
                    let left = self.lower(left).await?;
                    let right = self.lower(right).await?;
                    set_op::lower(self, *op, *all, left, right, columns)
                }
            }
        }
        .boxed();
        futures::future::poll_fn(move |cx| walk::with_stack(|| lowered.poll_unpin(cx))).boxed()
    }

    /// An input, and `exprs` over it: those with subqueries are computed below and have become columns.
    /// The physical input may have more columns than the plan.
    pub(super) async fn prepare<'a>(
        &self,
        input: &Plan,
        exprs: impl Iterator<Item = &'a Expr>,
    ) -> Result<(Physical, Vec<Expr>)> {
        let physical = self.lower(input).await?;
        subquery::apply(self, physical, &types_of(input.columns()), exprs)
    }

    pub(super) fn lower_all(&self, exprs: &[Expr], schema: &SchemaRef) -> Result<Vec<PhysicalExprRef>> {
        exprs.iter().map(|e| expr::lower(e, schema, &self.ctx)).collect()
    }

    /// Drops the columns that [`Self::prepare`] added.
    pub(super) fn cut(&self, physical: Physical, columns: &[OutputColumn]) -> Result<Physical> {
        let schema = physical.schema();
        if schema.fields().len() == columns.len() {
            return Ok(physical);
        }
        let exprs = (0..columns.len()).map(|i| expr::column(i, &schema)).collect::<Result<Vec<_>>>()?;
        projection(physical, exprs, columns)
    }

    fn cte_scan(&self, id: usize, columns: &[OutputColumn]) -> Result<Physical> {
        let schema = schema_of_columns(columns);
        match self.ctes.get(&id) {
            Some(Binding::Shared(shared)) => Ok(SharedScan::node(Arc::clone(shared), schema)),
            Some(Binding::Stream(recursion)) => Ok(Recursion::node(Arc::clone(recursion), schema)),
            Some(Binding::Working(batches)) => Ok(scan::batches("WorkingTable", Arc::clone(batches), schema)),
            None => Err(SqlError::internal(format!("there is no CTE {id} in scope"))),
        }
    }

    async fn project(
        &self,
        input: &Plan,
        exprs: &[Expr],
        columns: &[OutputColumn],
        fetch: Option<usize>,
    ) -> Result<Physical> {
        let plain: Option<Vec<usize>> = exprs
            .iter()
            .map(|e| match e {
                Expr::Column(index, _) => Some(*index),
                _ => None,
            })
            .collect();
        if let (Plan::Scan(table), Some(plain)) = (input, &plain) {
            return scan::lower(self, table, Some(plain), fetch).await;
        }
        let physical = self.lower_some(input, fetch).await?;
        let (physical, exprs) = subquery::apply(self, physical, &types_of(input.columns()), exprs.iter())?;
        let exprs = self.lower_all(&exprs, &physical.schema())?;
        projection(physical, exprs, columns)
    }

    async fn filter(&self, input: &Plan, predicate: &Expr) -> Result<Physical> {
        let mut physical = self.lower(input).await?;
        let mut conjuncts = Vec::new();
        walk::conjuncts(predicate.clone(), &mut conjuncts);
        let (with_subquery, plain): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(Expr::has_subquery);
        let schema = physical.schema();
        // What can't fail comes first, which only spares the others rows; those keep their order, each seeing only
        // rows that passed the ones before it.
        let mut native: Option<PhysicalExprRef> = None;
        let mut others = Vec::new();
        for conjunct in plain {
            match expr::native(&conjunct, &schema, &self.ctx)? {
                Some(e) => {
                    native = Some(match native {
                        Some(all) => Arc::new(BinaryExpr::new(all, BinaryOperator::And, e)),
                        None => e,
                    });
                }
                None => others.push(conjunct),
            }
        }
        if let Some(native) = native {
            physical = filter_exec(native, physical)?;
        }
        if let Some(others) = walk::conjunction(others) {
            physical = filter_exec(expr::lower(&others, &schema, &self.ctx)?, physical)?;
        }
        if let Some(rest) = walk::conjunction(with_subquery) {
            let types = types_of(input.columns());
            let (applied, exprs) = subquery::apply(self, physical, &types, [&rest].into_iter())?;
            let predicate = self.lower_all(&exprs, &applied.schema())?.remove(0);
            physical = self.cut(filter_exec(predicate, applied)?, input.columns())?;
        }
        Ok(physical)
    }

    async fn sort(&self, input: &Plan, keys: &[SortKey], fetch: Option<usize>) -> Result<Physical> {
        let (physical, exprs) = self.prepare(input, keys.iter().map(|k| &k.expr)).await?;
        let schema = physical.schema();
        let mut order = Vec::with_capacity(keys.len());
        for (key, e) in keys.iter().zip(&exprs) {
            let options = SortOptions { descending: key.descending, nulls_first: key.nulls_first };
            order.push(PhysicalSortExpr::new(expr::lower_key(e, &schema, &self.ctx)?, options));
        }
        self.cut(sorted(physical, order, fetch), input.columns())
    }

    async fn limit(
        &self,
        input: &Plan,
        limit: Option<&Expr>,
        offset: Option<&Expr>,
        fetch: Option<usize>,
    ) -> Result<Physical> {
        let skip = self.count(offset, "OFFSET", SqlState::INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE).await?;
        let take = self.count(limit, "LIMIT", SqlState::INVALID_ROW_COUNT_IN_LIMIT_CLAUSE).await?;
        let skip = skip.unwrap_or(0);
        let take = match (take, fetch) {
            (Some(take), Some(fetch)) => Some(take.min(fetch)),
            (take, fetch) => take.or(fetch),
        };
        if take == Some(0) {
            return Ok(scan::batches("Nothing", Arc::default(), schema_of_columns(input.columns())));
        }
        let wanted = take.map(|take| take.saturating_add(skip));
        let mut physical = self.lower_some(input, wanted).await?;
        if physical.output_partitioning().partition_count() > 1 {
            if let Some(wanted) = wanted {
                physical = Arc::new(LocalLimitExec::new(physical, wanted));
            }
            physical = single(physical);
        }
        if take.is_none() && skip == 0 {
            return Ok(physical);
        }
        Ok(Arc::new(GlobalLimitExec::new(physical, skip, take)))
    }

    async fn count(&self, expr: Option<&Expr>, word: &str, state: SqlState) -> Result<Option<usize>> {
        let Some(expr) = expr else { return Ok(None) };
        match subquery::eval(self, expr, &[]).await? {
            Datum::Null => Ok(None),
            Datum::Int8(n) if n < 0 => Err(SqlError::new(state, format!("{word} must not be negative"))),
            Datum::Int8(n) => Ok(Some(usize::try_from(n).unwrap_or(usize::MAX))),
            other => Err(SqlError::internal(format!("{word} is not a bigint but {other:?}"))),
        }
    }

    async fn union(
        &self,
        all: bool,
        left: &Plan,
        right: &Plan,
        columns: &[OutputColumn],
    ) -> Result<Physical> {
        // A long chain leans to the left.
        let mut branches = vec![right];
        let mut rest = left;
        while let Plan::SetOp { op: SetOp::Union, all: inner, left, right, .. } = rest {
            if *inner != all {
                break;
            }
            branches.push(right);
            rest = left;
        }
        branches.push(rest);
        let mut inputs = Vec::with_capacity(branches.len());
        for branch in branches.into_iter().rev() {
            // All branches have the same names, which a union asks of its inputs.
            let physical = self.lower(branch).await?;
            inputs.push(renamed(physical, columns)?);
        }
        let union = UnionExec::try_new(inputs).map_err(from_datafusion)?;
        match all {
            true => Ok(union),
            false => set_op::distinct(self, union, &types_of(columns)),
        }
    }
}

/// One partition.
pub(super) fn single(physical: Physical) -> Physical {
    match physical.output_partitioning().partition_count() {
        1 => physical,
        _ => Arc::new(CoalescePartitionsExec::new(physical)),
    }
}

/// As many partitions as there are cores, rows with equal `keys` together. Within a partition rows keep the order of a single input.
pub(super) fn hashed(
    lowering: &Lowering,
    physical: Physical,
    keys: Vec<PhysicalExprRef>,
) -> Result<Physical> {
    if lowering.partitions == 1 || keys.is_empty() {
        return Ok(single(physical));
    }
    let partitioning = Partitioning::Hash(keys, lowering.partitions);
    Ok(Arc::new(RepartitionExec::try_new(physical, partitioning).map_err(from_datafusion)?))
}

/// One sorted partition.
pub(super) fn sorted(physical: Physical, order: Vec<PhysicalSortExpr>, fetch: Option<usize>) -> Physical {
    let Some(order) = LexOrdering::new(order) else { return single(physical) };
    match physical.output_partitioning().partition_count() {
        1 => Arc::new(SortExec::new(order, physical).with_fetch(fetch)),
        _ => {
            let sort =
                SortExec::new(order.clone(), physical).with_preserve_partitioning(true).with_fetch(fetch);
            Arc::new(SortPreservingMergeExec::new(order, Arc::new(sort)).with_fetch(fetch))
        }
    }
}

fn filter_exec(predicate: PhysicalExprRef, input: Physical) -> Result<Physical> {
    Ok(Arc::new(FilterExec::try_new(predicate, input).map_err(from_datafusion)?))
}

/// A projection to `columns`.
pub(super) fn projection(
    input: Physical,
    exprs: Vec<PhysicalExprRef>,
    columns: &[OutputColumn],
) -> Result<Physical> {
    let exprs = exprs
        .into_iter()
        .zip(columns)
        .map(|(expr, column)| ProjectionExpr { expr, alias: column.name.clone() });
    Ok(Arc::new(ProjectionExec::try_new(exprs, input).map_err(from_datafusion)?))
}

fn renamed(input: Physical, columns: &[OutputColumn]) -> Result<Physical> {
    let schema = input.schema();
    if schema.fields().iter().zip(columns).all(|(f, c)| *f.name() == c.name) {
        return Ok(input);
    }
    let exprs = (0..columns.len()).map(|i| expr::column(i, &schema)).collect::<Result<Vec<_>>>()?;
    projection(input, exprs, columns)
}

/// All batches of a plan, with the memory they take reserved.
pub(super) async fn collect(
    mut stream: SendableRecordBatchStream,
    reservation: &datafusion::execution::memory_pool::MemoryReservation,
) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(from_datafusion)?;
        reservation.try_grow(batch.get_array_memory_size()).map_err(from_datafusion)?;
        if batch.num_rows() > 0 {
            batches.push(batch);
        }
    }
    Ok(batches)
}

/// The types of some expressions.
pub(super) fn types_of_exprs(exprs: &[Expr]) -> Vec<Type> {
    exprs.iter().map(|e| e.ty().ty).collect()
}
