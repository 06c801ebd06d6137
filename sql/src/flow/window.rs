//! Window calls.
//!
//! Calls over the same window (PARTITION BY and ORDER BY) are computed by one operator over sorted input, which holds one
//! partition at a time. Frames follow PostgreSQL (chapter 4.2.8) to the letter; what is computed is in [`frame`].

mod call;
mod frame;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::{PhysicalExprRef, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use futures::{StreamExt, stream};

use super::lower::{Lowering, Physical, hashed, projection, sorted};
use super::operator::{Batches, Node, Operator};
use super::set_op::arrow_error;
use super::stream::{canceled, from_datafusion};
use super::types::{ColumnReader, arrow_type, batch_with_rows};
use super::{BATCH_ROWS, expr};
use crate::error::Result;
use crate::exec::{Row, StatementContext};
use crate::ir::{Expr, FrameBound, OutputColumn, Plan, SortKey, WindowCall, walk};
use crate::types::{Type, equal};
use call::Call;
use frame::{Bound, Frame};

/// Lowers window calls.
pub(super) async fn lower(
    lowering: &Lowering,
    input: &Plan,
    calls: &[WindowCall],
    columns: &[OutputColumn],
) -> Result<Physical> {
    let width = input.columns().len();
    let mut exprs: Vec<Expr> = Vec::new();
    for call in calls {
        walk::map_window(call, &mut |e| {
            exprs.push(e.clone());
            e.clone()
        });
    }
    let (mut physical, exprs) = lowering.prepare(input, exprs.iter()).await?;
    let mut exprs = exprs.into_iter();
    let calls: Vec<WindowCall> = calls
        .iter()
        .map(|call| walk::map_window(call, &mut |e| exprs.next().unwrap_or_else(|| e.clone())))
        .collect();

    // Calls over one window are computed together; the columns come in the order of the windows.
    let mut windows: Vec<(String, Vec<usize>)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        let window = format!("{:?} {:?}", call.partition_by, call.order_by);
        match windows.iter_mut().find(|(known, _)| *known == window) {
            Some((_, members)) => members.push(at),
            None => windows.push((window, vec![at])),
        }
    }
    let prepared_width = physical.schema().fields().len();
    let mut place = vec![0; calls.len()];
    let mut next = prepared_width;
    for (_, members) in &windows {
        let of_window: Vec<&WindowCall> = members.iter().map(|at| &calls[*at]).collect();
        physical = window(lowering, physical, &of_window)?;
        for at in members {
            place[*at] = next;
            next += 1;
        }
    }
    let schema = physical.schema();
    let exprs = (0..width).chain(place).map(|i| expr::column(i, &schema)).collect::<Result<Vec<_>>>()?;
    projection(physical, exprs, columns)
}

/// The input with a column for each call of one window.
fn window(lowering: &Lowering, input: Physical, calls: &[&WindowCall]) -> Result<Physical> {
    let Some(first) = calls.first() else { return Ok(input) };
    let schema = input.schema();
    let width = schema.fields().len();
    let mut layout = Layout { exprs: Vec::new(), types: Vec::new(), schema: Arc::clone(&schema), lowering };
    for i in 0..width {
        layout.exprs.push(expr::column(i, &schema)?);
    }
    let partition = layout.add_all(first.partition_by.iter())?;
    let order = layout.add_all(first.order_by.iter().map(|key| &key.expr))?;
    let directions = first.order_by.iter().map(|key| (key.descending, key.nulls_first)).collect();
    let mut built = Vec::with_capacity(calls.len());
    for call in calls {
        built.push(Call {
            function: call.function,
            args: layout.add_all(call.args.iter())?,
            filter: call.filter.as_ref().map(|f| layout.add(f)).transpose()?,
            frame: Frame {
                units: call.frame.units,
                start: layout.bound(&call.frame.start)?,
                end: layout.bound(&call.frame.end)?,
            },
            ty: call.ty.ty,
        });
    }
    let Layout { exprs, types, .. } = layout;
    let named =
        exprs.into_iter().enumerate().map(|(i, expr)| ProjectionExpr { expr, alias: format!("w{i}") });
    let projected: Physical = Arc::new(ProjectionExec::try_new(named, input).map_err(from_datafusion)?);

    let sort_schema = projected.schema();
    let key = |at: usize, key: Option<&SortKey>| -> Result<PhysicalSortExpr> {
        let options = key.map_or_else(SortOptions::default, |key| SortOptions {
            descending: key.descending,
            nulls_first: key.nulls_first,
        });
        let column = expr::column(width + at, &sort_schema)?;
        Ok(PhysicalSortExpr::new(expr::key_of(column, types[at])?, options))
    };
    let mut keys = Vec::new();
    for at in &partition {
        keys.push(key(*at, None)?);
    }
    let hash: Vec<PhysicalExprRef> = keys.iter().map(|k| Arc::clone(&k.expr)).collect();
    for (at, sort_key) in order.iter().zip(&first.order_by) {
        keys.push(key(*at, Some(sort_key))?);
    }
    let sorted = match projected.output_partitioning().partition_count() {
        1 => sorted(projected, keys, None),
        _ => sorted_partitions(hashed(lowering, projected, hash)?, keys),
    };

    let mut fields: Vec<Field> = schema.fields().iter().map(|f| Field::clone(f)).collect();
    fields.extend(
        built.iter().enumerate().map(|(i, c)| Field::new(format!("window{i}"), arrow_type(c.ty), true)),
    );
    let schema = Arc::new(Schema::new(fields));
    let spec = Spec {
        width,
        types,
        partition,
        order,
        directions,
        calls: built,
        schema: Arc::clone(&schema),
        ctx: Arc::clone(&lowering.ctx),
    };
    Ok(Node::over(Window(Arc::new(spec)), vec![sorted], schema))
}

fn sorted_partitions(input: Physical, keys: Vec<PhysicalSortExpr>) -> Physical {
    use datafusion::physical_expr::LexOrdering;
    use datafusion::physical_plan::sorts::sort::SortExec;
    match LexOrdering::new(keys) {
        Some(order) => Arc::new(SortExec::new(order, input).with_preserve_partitioning(true)),
        None => input,
    }
}

/// The columns computed for a window, after the input's own.
struct Layout<'a> {
    exprs: Vec<PhysicalExprRef>,
    types: Vec<Type>,
    schema: SchemaRef,
    lowering: &'a Lowering,
}

impl Layout<'_> {
    fn add(&mut self, e: &Expr) -> Result<usize> {
        self.exprs.push(expr::lower(e, &self.schema, &self.lowering.ctx)?);
        self.types.push(e.ty().ty);
        Ok(self.types.len() - 1)
    }

    fn add_all<'e>(&mut self, exprs: impl Iterator<Item = &'e Expr>) -> Result<Vec<usize>> {
        exprs.map(|e| self.add(e)).collect()
    }

    fn bound(&mut self, bound: &FrameBound) -> Result<Bound> {
        Ok(match bound {
            FrameBound::UnboundedPreceding => Bound::UnboundedPreceding,
            FrameBound::UnboundedFollowing => Bound::UnboundedFollowing,
            FrameBound::CurrentRow => Bound::CurrentRow,
            FrameBound::Preceding(offset) => Bound::Preceding(self.add(offset)?),
            FrameBound::Following(offset) => Bound::Following(self.add(offset)?),
        })
    }
}

// ---- The operator ----

/// Columns named here are indexes into what was computed, that is, counted after the input's own `width` columns.
struct Spec {
    width: usize,
    types: Vec<Type>,
    partition: Vec<usize>,
    order: Vec<usize>,
    /// Descending, NULLs first.
    directions: Vec<(bool, bool)>,
    calls: Vec<Call>,
    schema: SchemaRef,
    ctx: Arc<StatementContext>,
}

struct Window(Arc<Spec>);

impl Operator for Window {
    fn name(&self) -> &'static str {
        "Window"
    }

    fn detail(&self) -> String {
        self.0.calls.iter().map(Call::name).collect::<Vec<_>>().join(", ")
    }

    fn run(
        &self,
        _: usize,
        mut inputs: Vec<SendableRecordBatchStream>,
        task: &Arc<TaskContext>,
    ) -> Result<Batches> {
        let state = State {
            spec: Arc::clone(&self.0),
            input: Some(inputs.remove(0)),
            pending: Vec::new(),
            last: None,
            ready: Vec::new(),
            memory: MemoryConsumer::new("Window").register(task.memory_pool()),
        };
        Ok(stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        })
        .boxed())
    }
}

struct State {
    spec: Arc<Spec>,
    input: Option<SendableRecordBatchStream>,
    /// Rows from the beginning of a partition that has not ended yet.
    pending: Vec<RecordBatch>,
    /// The partition of the last row.
    last: Option<Row>,
    /// Computed, in reverse.
    ready: Vec<RecordBatch>,
    memory: MemoryReservation,
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop() {
                return Ok(Some(batch));
            }
            if self.spec.ctx.cancel.is_cancelled() {
                return Err(canceled());
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            match input.next().await {
                Some(batch) => self.take(batch.map_err(from_datafusion)?)?,
                None => {
                    self.input = None;
                    self.compute()?;
                }
            }
        }
    }

    /// Takes in a batch; what is before the start of its last partition can be computed.
    fn take(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.memory.try_grow(2 * batch.get_array_memory_size()).map_err(from_datafusion)?;
        let keys = self.spec.rows(&batch, &self.spec.partition)?;
        let mut start = None;
        for (at, key) in keys.iter().enumerate() {
            let before = if at == 0 { self.last.as_ref() } else { Some(&keys[at - 1]) };
            if before.is_some_and(|before| !same(before, key)) {
                start = Some(at);
            }
        }
        self.last = keys.into_iter().next_back();
        match start {
            Some(start) => {
                if start > 0 {
                    self.pending.push(batch.slice(0, start));
                }
                self.compute()?;
                self.pending.push(batch.slice(start, batch.num_rows() - start));
            }
            None => self.pending.push(batch),
        }
        Ok(())
    }

    /// Computes what is pending, which is whole partitions.
    fn compute(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let Some(first) = pending.first() else { return Ok(()) };
        let batch = concat_batches(&first.schema(), &pending).map_err(arrow_error)?;
        drop(pending);
        let out = self.spec.compute(&batch)?;
        self.memory.free();
        let mut at = 0;
        while at < out.num_rows() {
            let rows = BATCH_ROWS.min(out.num_rows() - at);
            self.ready.push(out.slice(at, rows));
            at += rows;
        }
        self.ready.reverse();
        Ok(())
    }
}

fn same(a: &Row, b: &Row) -> bool {
    a.iter().zip(b).all(|(a, b)| equal(a, b))
}

impl Spec {
    /// Some of the computed columns as rows.
    fn rows(&self, batch: &RecordBatch, which: &[usize]) -> Result<Vec<Row>> {
        let readers = which
            .iter()
            .map(|at| ColumnReader::new(batch.column(self.width + at), self.types[*at]))
            .collect::<Result<Vec<_>>>()?;
        (0..batch.num_rows()).map(|row| readers.iter().map(|r| r.get(row)).collect()).collect()
    }

    fn compute(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let all: Vec<usize> = (0..self.types.len()).collect();
        let rows = self.rows(batch, &all)?;
        let mut builders: Vec<_> =
            self.calls.iter().map(|c| super::types::ColumnBuilder::new(c.ty, rows.len())).collect();
        let of = |row: &Row, which: &[usize]| -> Row { which.iter().map(|at| row[*at].clone()).collect() };
        let mut start = 0;
        while start < rows.len() {
            let key = of(&rows[start], &self.partition);
            let mut end = start + 1;
            while end < rows.len() && same(&key, &of(&rows[end], &self.partition)) {
                end += 1;
            }
            let partition = frame::Partition::new(&rows[start..end], self);
            for (call, builder) in self.calls.iter().zip(&mut builders) {
                call.compute(&partition, builder)?;
            }
            start = end;
        }
        let mut columns = batch.columns()[..self.width].to_vec();
        columns.extend(builders.iter_mut().map(super::types::ColumnBuilder::finish));
        batch_with_rows(columns, &self.schema, rows.len())
    }
}
