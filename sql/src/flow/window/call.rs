//! What each window call computes.

use super::frame::{Frame, Partition};
use crate::error::{Result, SqlError, SqlState};
use crate::flow::stream::canceled;
use crate::flow::types::ColumnBuilder;
use crate::function::{Accumulator, Aggregate, WindowKind};
use crate::ir::WindowFunctionRef;
use crate::types::{Datum, Type};

/// A window call; its arguments and filter are computed columns.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) function: WindowFunctionRef,
    pub(super) args: Vec<usize>,
    pub(super) filter: Option<usize>,
    pub(super) frame: Frame,
    pub(super) ty: Type,
}

/// How often a long computation looks whether it is still wanted.
const CANCEL_ROWS: usize = 1024;

impl Call {
    pub(super) fn name(&self) -> &'static str {
        match self.function {
            WindowFunctionRef::Window(function) => function.name,
            WindowFunctionRef::Aggregate(function) => function.name,
        }
    }

    /// Appends one value for each row of the partition.
    pub(super) fn compute(&self, partition: &Partition<'_>, out: &mut ColumnBuilder) -> Result<()> {
        match self.function {
            WindowFunctionRef::Aggregate(function) => self.aggregate(function, partition, out),
            WindowFunctionRef::Window(function) => self.rank_or_value(function.kind, partition, out),
        }
    }

    fn arg<'p>(&self, partition: &'p Partition<'_>, at: usize, n: usize) -> Option<&'p Datum> {
        self.args.get(n).map(|column| &partition.rows[at][*column])
    }

    fn rank_or_value(
        &self,
        kind: WindowKind,
        partition: &Partition<'_>,
        out: &mut ColumnBuilder,
    ) -> Result<()> {
        let rows = partition.rows.len();
        if kind == WindowKind::Ntile {
            return self.ntile(partition, out);
        }
        for at in 0..rows {
            check(partition, at)?;
            let (first, end) = partition.peers(at);
            let value = match kind {
                WindowKind::RowNumber => Datum::Int8(at as i64 + 1),
                WindowKind::Rank => Datum::Int8(first as i64 + 1),
                WindowKind::DenseRank => Datum::Int8(partition.group[at] as i64 + 1),
                WindowKind::PercentRank if rows < 2 => Datum::Float8(0.0),
                WindowKind::PercentRank => Datum::Float8(first as f64 / (rows - 1) as f64),
                WindowKind::CumeDist => Datum::Float8(end as f64 / rows as f64),
                WindowKind::Lag => self.neighbour(partition, at, -1)?,
                WindowKind::Lead => self.neighbour(partition, at, 1)?,
                WindowKind::FirstValue | WindowKind::LastValue | WindowKind::NthValue => {
                    self.of_frame(kind, partition, at)?
                }
                WindowKind::Ntile => Datum::Null,
            };
            out.push(&value)?;
        }
        Ok(())
    }

    /// `lag` and `lead`: value, offset (1), default (NULL).
    fn neighbour(&self, partition: &Partition<'_>, at: usize, direction: i64) -> Result<Datum> {
        let offset = match self.arg(partition, at, 1) {
            None => 1,
            Some(Datum::Null) => return Ok(Datum::Null),
            Some(offset) => integer(offset)?,
        };
        let target = offset.checked_mul(direction).and_then(|o| o.checked_add(at as i64));
        let target = target.and_then(|t| usize::try_from(t).ok()).filter(|t| *t < partition.rows.len());
        let value = match target {
            Some(target) => self.arg(partition, target, 0),
            None => self.arg(partition, at, 2),
        };
        Ok(value.cloned().unwrap_or(Datum::Null))
    }

    fn of_frame(&self, kind: WindowKind, partition: &Partition<'_>, at: usize) -> Result<Datum> {
        let nth = match kind {
            WindowKind::NthValue => match self.arg(partition, at, 1) {
                None | Some(Datum::Null) => return Ok(Datum::Null),
                Some(n) => match integer(n)? {
                    n if n < 1 => {
                        return Err(SqlError::new(
                            SqlState("22016"),
                            "argument of nth_value must be greater than zero",
                        ));
                    }
                    n => usize::try_from(n - 1).unwrap_or(usize::MAX),
                },
            },
            _ => 0,
        };
        let (start, end) = partition.frame(self.frame, at)?;
        let target = match kind {
            WindowKind::LastValue => end.checked_sub(1).filter(|t| *t >= start),
            _ => start.checked_add(nth).filter(|t| *t < end),
        };
        Ok(target.and_then(|t| self.arg(partition, t, 0)).cloned().unwrap_or(Datum::Null))
    }

    /// `ntile`: the number of buckets is that of the partition's first row.
    fn ntile(&self, partition: &Partition<'_>, out: &mut ColumnBuilder) -> Result<()> {
        let rows = partition.rows.len() as i64;
        let buckets = match self.arg(partition, 0, 0) {
            None | Some(Datum::Null) => {
                return (0..rows).try_for_each(|_| out.push(&Datum::Null));
            }
            Some(buckets) => integer(buckets)?,
        };
        if buckets < 1 {
            return Err(SqlError::new(SqlState("22014"), "argument of ntile must be greater than zero"));
        }
        // The first buckets take the rows that don't divide evenly.
        let (size, larger) = (rows / buckets, rows % buckets);
        for at in 0..rows {
            let bucket = match at < larger * (size + 1) {
                true => at / (size + 1),
                false => larger + (at - larger * (size + 1)) / size.max(1),
            };
            let bucket = bucket + 1;
            out.push(&match self.ty {
                Type::Int8 => Datum::Int8(bucket),
                _ => Datum::Int4(i32::try_from(bucket).unwrap_or(i32::MAX)),
            })?;
        }
        Ok(())
    }

    // ---- Aggregates over frames ----

    fn aggregate(
        &self,
        function: &'static Aggregate,
        partition: &Partition<'_>,
        out: &mut ColumnBuilder,
    ) -> Result<()> {
        let mut sliding = Sliding { call: self, function, state: (function.new)(), start: 0, end: 0 };
        let mut last: Option<((usize, usize), Datum)> = None;
        for at in 0..partition.rows.len() {
            check(partition, at)?;
            let frame = partition.frame(self.frame, at)?;
            // Peers mostly have one frame.
            let value = match last.take() {
                Some((known, value)) if known == frame => value,
                _ => sliding.move_to(frame, partition)?,
            };
            out.push(&value)?;
            last = Some((frame, value));
        }
        Ok(())
    }

    /// The arguments of a row, unless it does not count.
    fn counted(&self, function: &Aggregate, partition: &Partition<'_>, at: usize) -> Option<Vec<Datum>> {
        let row = &partition.rows[at];
        if let Some(filter) = self.filter
            && !matches!(row[filter], Datum::Bool(true))
        {
            return None;
        }
        let args: Vec<Datum> = self.args.iter().map(|column| row[*column].clone()).collect();
        (!function.strict || !args.iter().any(Datum::is_null)).then_some(args)
    }
}

/// An aggregate's state over a frame that moves.
struct Sliding<'a> {
    call: &'a Call,
    function: &'static Aggregate,
    state: Box<dyn Accumulator>,
    start: usize,
    end: usize,
}

impl Sliding<'_> {
    fn move_to(&mut self, (start, end): (usize, usize), partition: &Partition<'_>) -> Result<Datum> {
        if !self.retract_to(start, end, partition)? {
            self.state = (self.function.new)();
            self.start = start;
            self.end = start;
        }
        for at in self.end..end {
            check(partition, at)?;
            if let Some(args) = self.call.counted(self.function, partition, at) {
                self.state.update(&args)?;
            }
        }
        self.end = self.end.max(end);
        self.state.finish()
    }

    /// Takes out the rows before `start`; false if the frame has to be computed afresh.
    fn retract_to(&mut self, start: usize, end: usize, partition: &Partition<'_>) -> Result<bool> {
        if start < self.start || end < self.end || start > self.end {
            return Ok(false);
        }
        for at in self.start..start {
            if let Some(args) = self.call.counted(self.function, partition, at)
                && !self.state.retract(&args)?
            {
                return Ok(false);
            }
        }
        self.start = start;
        Ok(true)
    }
}

fn check(partition: &Partition<'_>, at: usize) -> Result<()> {
    if at.is_multiple_of(CANCEL_ROWS) && partition.ctx().cancel.is_cancelled() {
        return Err(canceled());
    }
    Ok(())
}

fn integer(datum: &Datum) -> Result<i64> {
    match datum {
        Datum::Int2(v) => Ok(i64::from(*v)),
        Datum::Int4(v) => Ok(i64::from(*v)),
        Datum::Int8(v) => Ok(*v),
        other => Err(SqlError::internal(format!("a window function's argument is {other:?}"))),
    }
}
