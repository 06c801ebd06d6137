//! `generate_series` in FROM.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::lower::{Lowering, Physical};
use super::operator::{Batches, Node, Operator};
use super::stream::canceled;
use super::types::{ColumnBuilder, batch_with_rows, schema_of_columns};
use super::{BATCH_ROWS, expr, subquery};
use crate::error::{Result, SqlError, SqlState};
use crate::function::{Function, resolve};
use crate::ir::{Expr, OutputColumn};
use crate::types::{Datum, Interval, Numeric, Type, compare};

/// The series' values, computed as they are read.
pub(super) async fn lower(lowering: &Lowering, args: &[Expr], columns: &[OutputColumn]) -> Result<Physical> {
    let operator = Series { lowering: lowering.clone(), args: args.to_vec(), columns: columns.to_vec() };
    Ok(Node::over(operator, Vec::new(), schema_of_columns(columns)))
}

#[derive(Debug)]
struct Series {
    lowering: Lowering,
    args: Vec<Expr>,
    columns: Vec<OutputColumn>,
}

impl Operator for Series {
    fn name(&self) -> &'static str {
        "Series"
    }

    fn detail(&self) -> String {
        self.args.iter().map(|a| expr::Shown(a).to_string()).collect::<Vec<_>>().join(", ")
    }

    fn run(&self, _: usize, _: Vec<SendableRecordBatchStream>, _: &Arc<TaskContext>) -> Result<Batches> {
        let [column] = self.columns.as_slice() else {
            return Err(SqlError::internal("a series has one column"));
        };
        let (lowering, args, ty) = (self.lowering.clone(), self.args.clone(), column.ty.ty);
        let schema = schema_of_columns(&self.columns);
        let begin = async move {
            let mut values = Vec::with_capacity(args.len());
            for arg in &args {
                values.push(subquery::eval(&lowering, arg, &[]).await?);
            }
            let counter = Counter::new(values, ty)?;
            Ok::<_, SqlError>(stream::try_unfold(counter, move |mut counter| {
                let (schema, ctx) = (Arc::clone(&schema), Arc::clone(&lowering.ctx));
                async move {
                    if ctx.cancel.is_cancelled() {
                        return Err(canceled());
                    }
                    let mut builder = ColumnBuilder::new(ty, BATCH_ROWS);
                    let mut rows = 0;
                    while rows < BATCH_ROWS
                        && let Some(value) = counter.next(&ctx.eval)?
                    {
                        builder.push(&value)?;
                        rows += 1;
                    }
                    if rows == 0 {
                        return Ok(None);
                    }
                    Ok(Some((batch_with_rows(vec![builder.finish()], &schema, rows)?, counter)))
                }
            }))
        };
        Ok(stream::once(begin).try_flatten().boxed())
    }
}

enum Counter {
    Done,
    Int {
        next: i64,
        stop: i64,
        step: i64,
        narrow: bool,
    },
    /// By the type's own addition.
    Other {
        next: Datum,
        stop: Datum,
        step: Datum,
        add: &'static Function,
        down: bool,
    },
}

fn invalid(message: &'static str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

impl Counter {
    fn new(values: Vec<Datum>, ty: Type) -> Result<Self> {
        // NULL anywhere: no rows.
        if values.iter().any(Datum::is_null) {
            return Ok(Counter::Done);
        }
        let mut values = values.into_iter();
        let (Some(start), Some(stop)) = (values.next(), values.next()) else {
            return Err(SqlError::internal("a series has two or three arguments"));
        };
        let step = values.next();
        match (start, stop) {
            (Datum::Int4(start), Datum::Int4(stop)) => {
                let step = match step {
                    None => 1,
                    Some(Datum::Int4(step)) => i64::from(step),
                    Some(other) => return Err(mismatch(&other)),
                };
                Self::int(start.into(), stop.into(), step, true)
            }
            (Datum::Int8(start), Datum::Int8(stop)) => {
                let step = match step {
                    None => 1,
                    Some(Datum::Int8(step)) => step,
                    Some(other) => return Err(mismatch(&other)),
                };
                Self::int(start, stop, step, false)
            }
            (start, stop) => Self::other(start, stop, step, ty),
        }
    }

    fn int(next: i64, stop: i64, step: i64, narrow: bool) -> Result<Self> {
        if step == 0 {
            return Err(invalid("step size cannot equal zero"));
        }
        Ok(Counter::Int { next, stop, step, narrow })
    }

    fn other(start: Datum, stop: Datum, step: Option<Datum>, ty: Type) -> Result<Self> {
        let step = step.unwrap_or_else(|| Datum::Numeric(Arc::new(Numeric::from_parts(1, 0))));
        let (zero, step_type) = match &step {
            Datum::Interval(_) => (Datum::Interval(Interval::default()), Type::Interval),
            Datum::Numeric(_) => (Datum::Numeric(Arc::new(Numeric::zero())), Type::Numeric),
            other => return Err(mismatch(other)),
        };
        for (value, not_a_number, infinite) in [
            (&start, "start value cannot be NaN", "start value cannot be infinity"),
            (&stop, "stop value cannot be NaN", "stop value cannot be infinity"),
            (&step, "step size cannot be NaN", "step size cannot be infinity"),
        ] {
            if let Datum::Numeric(value) = value {
                match &**value {
                    Numeric::NaN => return Err(invalid(not_a_number)),
                    Numeric::Finite(_) => {}
                    _ => return Err(invalid(infinite)),
                }
            }
        }
        let down = match compare(&step, &zero) {
            Ordering::Less => true,
            Ordering::Equal => return Err(invalid("step size cannot equal zero")),
            Ordering::Greater => false,
        };
        let add = resolve::operator("+", &[ty, step_type])?.function;
        Ok(Counter::Other { next: start, stop, step, add, down })
    }

    fn next(&mut self, ctx: &crate::function::EvalContext) -> Result<Option<Datum>> {
        match self {
            Counter::Done => Ok(None),
            Counter::Int { next, stop, step, narrow } => {
                let value = *next;
                if (*step > 0 && value > *stop) || (*step < 0 && value < *stop) {
                    return Ok(None);
                }
                let narrow = *narrow;
                // Past the end of the type there is nothing more: PostgreSQL stops there, too.
                match value.checked_add(*step) {
                    Some(after) if !narrow || i32::try_from(after).is_ok() => *next = after,
                    _ => *self = Counter::Done,
                }
                Ok(Some(match narrow {
                    true => Datum::Int4(value as i32),
                    false => Datum::Int8(value),
                }))
            }
            Counter::Other { next, stop, step, add, down } => {
                let past = if *down { Ordering::Less } else { Ordering::Greater };
                if compare(next, stop) == past {
                    return Ok(None);
                }
                let after = (add.kernel)(ctx, &[next.clone(), step.clone()])?;
                Ok(Some(std::mem::replace(next, after)))
            }
        }
    }
}

fn mismatch(datum: &Datum) -> SqlError {
    SqlError::internal(format!("a series cannot step by {datum:?}"))
}
