//! DISTINCT, DISTINCT ON, INTERSECT and EXCEPT, by counting rows of equal keys.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_plan::{ExecutionPlanProperties, SendableRecordBatchStream};
use futures::{StreamExt, stream};

use super::expr;
use super::lower::{Lowering, Physical, hashed, single};
use super::operator::{Batches, Node, Operator};
use super::stream::from_datafusion;
use super::types::{arrow_type, key_array, types_of};
use crate::error::{Result, SqlError};
use crate::ir::{OutputColumn, SetOp};
use crate::types::Type;

/// Turns rows of columns into byte strings that are equal where the rows are. NULLs are equal to each other.
pub(super) struct Keys {
    converter: RowConverter,
    types: Vec<Type>,
}

impl Keys {
    pub(super) fn new(types: &[Type]) -> Result<Self> {
        let fields = types.iter().map(|ty| SortField::new(arrow_type(*ty))).collect();
        Ok(Self { converter: RowConverter::new(fields).map_err(arrow_error)?, types: types.to_vec() })
    }

    pub(super) fn rows(&mut self, columns: &[ArrayRef]) -> Result<Rows> {
        let keys =
            columns.iter().zip(&self.types).map(|(c, ty)| key_array(c, *ty)).collect::<Result<Vec<_>>>()?;
        self.converter.convert_columns(&keys).map_err(arrow_error)
    }
}

pub(super) fn arrow_error(error: arrow::error::ArrowError) -> SqlError {
    from_datafusion(error.into())
}

/// Rows of equal keys and how many; its memory is reserved.
struct Counts {
    keys: Keys,
    counts: HashMap<Box<[u8]>, u64>,
    reservation: MemoryReservation,
}

/// A map's entry beyond the key's bytes.
const ENTRY_BYTES: usize = 48;

impl Counts {
    fn new(name: &str, types: &[Type], task: &TaskContext) -> Result<Self> {
        let reservation = MemoryConsumer::new(name).register(task.memory_pool());
        Ok(Self { keys: Keys::new(types)?, counts: HashMap::new(), reservation })
    }

    /// The keys of a batch. Without columns all rows are equal.
    fn of(&mut self, batch: &RecordBatch) -> Result<Vec<Box<[u8]>>> {
        if batch.num_columns() == 0 {
            return Ok(vec![Box::default(); batch.num_rows()]);
        }
        let rows = self.keys.rows(batch.columns())?;
        Ok(rows.iter().map(|row| Box::from(row.as_ref())).collect())
    }

    fn add(&mut self, key: Box<[u8]>) -> Result<bool> {
        match self.counts.entry(key) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                Ok(false)
            }
            Entry::Vacant(entry) => {
                self.reservation.try_grow(entry.key().len() + ENTRY_BYTES).map_err(from_datafusion)?;
                entry.insert(1);
                Ok(true)
            }
        }
    }

    fn keep(&self, batch: &RecordBatch, keep: Vec<bool>) -> Result<RecordBatch> {
        filter_record_batch(batch, &BooleanArray::from(keep)).map_err(arrow_error)
    }
}

// ---- DISTINCT ----

/// The first row of each set of equal ones. Streams.
pub(super) fn distinct(lowering: &Lowering, input: Physical, types: &[Type]) -> Result<Physical> {
    let schema = input.schema();
    let input = match input.output_partitioning().partition_count() {
        1 => input,
        _ => hashed(lowering, input, key_columns(&schema, types)?)?,
    };
    Ok(Node::over(Distinct { types: types.to_vec() }, vec![input], schema))
}

fn key_columns(schema: &arrow::datatypes::Schema, types: &[Type]) -> Result<Vec<PhysicalExprRef>> {
    types.iter().enumerate().map(|(i, ty)| expr::key_of(expr::column(i, schema)?, *ty)).collect()
}

#[derive(Debug)]
struct Distinct {
    types: Vec<Type>,
}

impl Operator for Distinct {
    fn name(&self) -> &'static str {
        "Distinct"
    }

    fn run(
        &self,
        _: usize,
        mut inputs: Vec<SendableRecordBatchStream>,
        task: &Arc<TaskContext>,
    ) -> Result<Batches> {
        let seen = Seen::new(&self.types, task)?;
        let input = inputs.remove(0);
        Ok(stream::try_unfold((input, seen), |(mut input, mut seen)| async move {
            while let Some(batch) = input.next().await {
                let fresh = seen.fresh(&batch.map_err(from_datafusion)?)?;
                if fresh.num_rows() > 0 {
                    return Ok(Some((fresh, (input, seen))));
                }
            }
            Ok(None)
        })
        .boxed())
    }
}

/// Rows that have been seen, also for UNION in recursion.
pub(super) struct Seen(Counts);

impl Seen {
    pub(super) fn new(types: &[Type], task: &TaskContext) -> Result<Self> {
        Ok(Self(Counts::new("Distinct", types, task)?))
    }

    /// The rows of a batch that were not seen before.
    pub(super) fn fresh(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let keys = self.0.of(batch)?;
        let keep = keys.into_iter().map(|key| self.0.add(key)).collect::<Result<_>>()?;
        self.0.keep(batch, keep)
    }
}

// ---- DISTINCT ON ----

/// The first of each run of rows with equal keys.
pub(super) fn distinct_on(input: Physical, keys: Vec<PhysicalExprRef>, types: Vec<Type>) -> Physical {
    let schema = input.schema();
    Node::over(DistinctOn { keys, types }, vec![input], schema)
}

#[derive(Debug)]
struct DistinctOn {
    keys: Vec<PhysicalExprRef>,
    types: Vec<Type>,
}

impl Operator for DistinctOn {
    fn name(&self) -> &'static str {
        "DistinctOn"
    }

    fn run(
        &self,
        _: usize,
        mut inputs: Vec<SendableRecordBatchStream>,
        _: &Arc<TaskContext>,
    ) -> Result<Batches> {
        let mut keys = Keys::new(&self.types)?;
        let exprs = self.keys.clone();
        let mut last: Option<Box<[u8]>> = None;
        let first_of_runs = move |batch: RecordBatch| -> Result<RecordBatch> {
            let columns = exprs
                .iter()
                .map(|e| e.evaluate(&batch)?.into_array(batch.num_rows()))
                .collect::<datafusion::error::Result<Vec<_>>>()
                .map_err(from_datafusion)?;
            let rows = keys.rows(&columns)?;
            let mut keep = Vec::with_capacity(batch.num_rows());
            for row in &rows {
                let fresh = last.as_deref() != Some(row.as_ref());
                if fresh {
                    last = Some(Box::from(row.as_ref()));
                }
                keep.push(fresh);
            }
            filter_record_batch(&batch, &BooleanArray::from(keep)).map_err(arrow_error)
        };
        let input = inputs.remove(0).map(|batch| batch.map_err(from_datafusion));
        let mut first_of_runs = first_of_runs;
        Ok(input.map(move |batch| first_of_runs(batch?)).boxed())
    }
}

// ---- INTERSECT, EXCEPT ----

/// INTERSECT [ALL] and EXCEPT [ALL].
pub(super) fn lower(
    lowering: &Lowering,
    op: SetOp,
    all: bool,
    left: Physical,
    right: Physical,
    columns: &[OutputColumn],
) -> Result<Physical> {
    let types = types_of(columns);
    let schema = left.schema();
    let several = |p: &Physical| p.output_partitioning().partition_count() > 1;
    let (left, right) = if several(&left) || several(&right) {
        let left_keys = key_columns(&left.schema(), &types)?;
        let right_keys = key_columns(&right.schema(), &types)?;
        (hashed(lowering, left, left_keys)?, hashed(lowering, right, right_keys)?)
    } else {
        (single(left), single(right))
    };
    Ok(Node::over(Counted { op, all, types }, vec![left, right], schema))
}

#[derive(Debug)]
struct Counted {
    op: SetOp,
    all: bool,
    types: Vec<Type>,
}

impl Operator for Counted {
    fn name(&self) -> &'static str {
        match (self.op, self.all) {
            (SetOp::Intersect, false) => "Intersect",
            (SetOp::Intersect, true) => "IntersectAll",
            (_, false) => "Except",
            (_, true) => "ExceptAll",
        }
    }

    fn run(
        &self,
        _: usize,
        mut inputs: Vec<SendableRecordBatchStream>,
        task: &Arc<TaskContext>,
    ) -> Result<Batches> {
        let right = inputs.pop();
        let left = inputs.pop();
        let (Some(left), Some(right)) = (left, right) else {
            return Err(SqlError::internal("a set operation has two inputs"));
        };
        let counts = Counts::new(self.name(), &self.types, task)?;
        let (op, all) = (self.op, self.all);
        // The right side is counted when the first row is asked for; the left side streams.
        let state = (left, Some(right), counts);
        Ok(stream::try_unfold(state, move |(mut left, mut right, mut counts)| async move {
            if let Some(mut right) = right.take() {
                while let Some(batch) = right.next().await {
                    for key in counts.of(&batch.map_err(from_datafusion)?)? {
                        counts.add(key)?;
                    }
                }
            }
            while let Some(batch) = left.next().await {
                let batch = batch.map_err(from_datafusion)?;
                let mut keep = Vec::with_capacity(batch.num_rows());
                for key in counts.of(&batch)? {
                    keep.push(verdict(op, all, &mut counts, key)?);
                }
                let kept = counts.keep(&batch, keep)?;
                if kept.num_rows() > 0 {
                    return Ok(Some((kept, (left, None, counts))));
                }
            }
            Ok(None)
        })
        .boxed())
    }
}

/// Whether a row of the left side is put out.
fn verdict(op: SetOp, all: bool, counts: &mut Counts, key: Box<[u8]>) -> Result<bool> {
    let left_over = counts.counts.get_mut(&key);
    Ok(match (op, all, left_over) {
        // Each row on the right lets one on the left through (ALL) or all of them at once.
        (SetOp::Intersect, true, Some(n)) if *n > 0 => {
            *n -= 1;
            true
        }
        (SetOp::Intersect, false, Some(n)) if *n > 0 => {
            *n = 0;
            true
        }
        (SetOp::Intersect, _, _) => false,
        // Each row on the right holds one on the left back (ALL) or all of them.
        (_, true, Some(n)) if *n > 0 => {
            *n -= 1;
            false
        }
        (_, true, _) => true,
        (_, false, Some(_)) => false,
        (_, false, None) => counts.add(key)?,
    })
}
