//! Partitions, peers and frames.

use std::cmp::Ordering;

use super::Spec;
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{Row, StatementContext};
use crate::function::{cast, resolve};
use crate::ir::FrameUnits;
use crate::types::{Datum, Interval, Numeric, Type, compare};

/// One end of a frame; an offset is a computed column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    UnboundedPreceding,
    Preceding(usize),
    CurrentRow,
    Following(usize),
    UnboundedFollowing,
}

/// A frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) units: FrameUnits,
    pub(super) start: Bound,
    pub(super) end: Bound,
}

/// The rows of one partition, in order.
pub(super) struct Partition<'a> {
    /// The computed columns.
    pub(super) rows: &'a [Row],
    /// For each row, its peer group.
    pub(super) group: Vec<usize>,
    /// For each peer group, its first row; then the number of rows.
    pub(super) starts: Vec<usize>,
    spec: &'a Spec,
}

impl<'a> Partition<'a> {
    pub(super) fn new(rows: &'a [Row], spec: &'a Spec) -> Self {
        let mut group = Vec::with_capacity(rows.len());
        let mut starts = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let peer = at > 0
                && spec.order.iter().all(|key| compare(&row[*key], &rows[at - 1][*key]) == Ordering::Equal);
            if !peer {
                starts.push(at);
            }
            group.push(starts.len() - 1);
        }
        starts.push(rows.len());
        Self { rows, group, starts, spec }
    }

    pub(super) fn ctx(&self) -> &StatementContext {
        &self.spec.ctx
    }

    /// The peers of a row: first and one past the last.
    pub(super) fn peers(&self, at: usize) -> (usize, usize) {
        let group = self.group[at];
        (self.starts[group], self.starts[group + 1])
    }

    /// The frame of a row: first and one past the last; empty if the first is not below the second.
    pub(super) fn frame(&self, frame: Frame, at: usize) -> Result<(usize, usize)> {
        let start = self.edge(frame.units, frame.start, at, true)?;
        let end = self.edge(frame.units, frame.end, at, false)?;
        Ok((start.min(end), end))
    }

    /// Where a bound lies: the first row of the frame, or one past its last.
    fn edge(&self, units: FrameUnits, bound: Bound, at: usize, is_start: bool) -> Result<usize> {
        let rows = self.rows.len();
        let side = |first: usize, end: usize| if is_start { first } else { end };
        Ok(match (bound, units) {
            (Bound::UnboundedPreceding, _) => 0,
            (Bound::UnboundedFollowing, _) => rows,
            (Bound::CurrentRow, FrameUnits::Rows) => side(at, at + 1),
            (Bound::CurrentRow, _) => {
                let (first, end) = self.peers(at);
                side(first, end)
            }
            (Bound::Preceding(column), FrameUnits::Rows) => {
                let n = self.count(column, at, is_start)?;
                side(at.saturating_sub(n), (at + 1).saturating_sub(n))
            }
            (Bound::Following(column), FrameUnits::Rows) => {
                let n = self.count(column, at, is_start)?;
                side(at.saturating_add(n).min(rows), (at + 1).saturating_add(n).min(rows))
            }
            (Bound::Preceding(column), FrameUnits::Groups) => {
                let n = self.count(column, at, is_start)?;
                match self.group[at].checked_sub(n) {
                    Some(group) => side(self.starts[group], self.starts[group + 1]),
                    None => 0,
                }
            }
            (Bound::Following(column), FrameUnits::Groups) => {
                let n = self.count(column, at, is_start)?;
                match self.group[at].checked_add(n) {
                    Some(group) if group + 1 < self.starts.len() => {
                        side(self.starts[group], self.starts[group + 1])
                    }
                    _ => rows,
                }
            }
            (Bound::Preceding(column), FrameUnits::Range) => self.range(column, at, is_start, true)?,
            (Bound::Following(column), FrameUnits::Range) => self.range(column, at, is_start, false)?,
        })
    }

    fn count(&self, column: usize, at: usize, is_start: bool) -> Result<usize> {
        let word = if is_start { "starting" } else { "ending" };
        match &self.rows[at][column] {
            Datum::Null => Err(SqlError::new(
                SqlState::NULL_VALUE_NOT_ALLOWED,
                format!("frame {word} offset must not be null"),
            )),
            Datum::Int8(n) if *n < 0 => {
                Err(invalid_size(format!("frame {word} offset must not be negative")))
            }
            Datum::Int4(n) if *n < 0 => {
                Err(invalid_size(format!("frame {word} offset must not be negative")))
            }
            Datum::Int2(n) if *n < 0 => {
                Err(invalid_size(format!("frame {word} offset must not be negative")))
            }
            Datum::Int8(n) => Ok(usize::try_from(*n).unwrap_or(usize::MAX)),
            Datum::Int4(n) => Ok(usize::try_from(*n).unwrap_or(usize::MAX)),
            Datum::Int2(n) => Ok(usize::try_from(*n).unwrap_or(usize::MAX)),
            other => Err(SqlError::internal(format!("a frame's offset is {other:?}"))),
        }
    }

    /// RANGE with an offset: rows whose key lies at most `offset` before (`preceding`) or after this row's. NULLs are near
    /// each other and far from everything else.
    fn range(&self, column: usize, at: usize, is_start: bool, preceding: bool) -> Result<usize> {
        let ([key], [(descending, nulls_first)]) = (&self.spec.order[..], &self.spec.directions[..]) else {
            return Err(SqlError::new(
                SqlState::WINDOWING_ERROR,
                "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
            ));
        };
        let word = if is_start { "starting" } else { "ending" };
        let offset = &self.rows[at][column];
        if offset.is_null() {
            return Err(SqlError::new(
                SqlState::NULL_VALUE_NOT_ALLOWED,
                format!("frame {word} offset must not be null"),
            ));
        }
        if is_negative(offset) {
            return Err(invalid_size("invalid preceding or following size in window function".to_owned()));
        }
        let value = &self.rows[at][*key];
        if value.is_null() {
            let (first, end) = self.peers(at);
            return Ok(if is_start { first } else { end });
        }
        // Towards smaller values when looking back along an ascending order or ahead along a descending one.
        let down = preceding != *descending;
        let edge = self.shifted(value, *key, offset, column, down)?;
        let before = |row: &Row| -> Ordering {
            let value = &row[*key];
            match (value.is_null(), &edge) {
                (true, _) if *nulls_first => Ordering::Less,
                (true, _) => Ordering::Greater,
                // Beyond the type's end nothing lies: all values are on this side of the edge.
                (false, None) if preceding => Ordering::Greater,
                (false, None) => Ordering::Less,
                (false, Some(edge)) if *descending => compare(edge, value),
                (false, Some(edge)) => compare(value, edge),
            }
        };
        Ok(match is_start {
            true => self.rows.partition_point(|row| before(row) == Ordering::Less),
            false => self.rows.partition_point(|row| before(row) != Ordering::Greater),
        })
    }

    /// `value ± offset`; `None` past the end of the type.
    fn shifted(
        &self,
        value: &Datum,
        key: usize,
        offset: &Datum,
        column: usize,
        down: bool,
    ) -> Result<Option<Datum>> {
        let (key_type, offset_type) = (self.spec.types[key], self.spec.types[column]);
        let symbol = if down { "-" } else { "+" };
        let chosen = resolve::operator(symbol, &[key_type, offset_type]).map_err(|_| {
            SqlError::unsupported(format!(
                "RANGE with offset PRECEDING/FOLLOWING for column type {key_type} and offset type {offset_type}"
            ))
        })?;
        let eval = &self.spec.ctx.eval;
        let mut args = Vec::with_capacity(2);
        for ((datum, from), to) in [(value, key_type), (offset, offset_type)].into_iter().zip(&chosen.args) {
            args.push(match cast(from, *to).and_then(|c| c.function) {
                Some(function) => (function.kernel)(eval, std::slice::from_ref(datum))?,
                None => datum.clone(),
            });
        }
        let shifted = match (chosen.function.kernel)(eval, &args) {
            Ok(shifted) => shifted,
            Err(e)
                if [SqlState::NUMERIC_VALUE_OUT_OF_RANGE, SqlState::DATETIME_FIELD_OVERFLOW]
                    .contains(&e.state) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        // A wider result (date - interval is a timestamp, real + double a double) is compared with in the key's own type.
        let returns = chosen.function.returns;
        if returns == key_type {
            return Ok(Some(shifted));
        }
        narrowed(shifted, key_type, down)
            .map(Some)
            .ok_or_else(|| SqlError::unsupported(format!("RANGE over {key_type} by {offset_type}")))
    }
}

/// A shifted value in the type of the key, where that is exact for comparing.
fn narrowed(value: Datum, key: Type, down: bool) -> Option<Datum> {
    const DAY: i64 = 86_400_000_000;
    Some(match (value, key) {
        (Datum::Int4(v), Type::Int2) => Datum::Int2(v.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16),
        (Datum::Int8(v), Type::Int2) => Datum::Int2(v.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16),
        (Datum::Int8(v), Type::Int4) => Datum::Int4(v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32),
        (Datum::Timestamp(v), Type::Date) => {
            // The first date not before, or the last one not after.
            let days = if down { -(-v).div_euclid(DAY) } else { v.div_euclid(DAY) };
            Datum::Date(i32::try_from(days).ok()?)
        }
        _ => return None,
    })
}

fn invalid_size(message: String) -> SqlError {
    SqlError::new(SqlState("22013"), message)
}

fn is_negative(offset: &Datum) -> bool {
    match offset {
        Datum::Int2(v) => *v < 0,
        Datum::Int4(v) => *v < 0,
        Datum::Int8(v) => *v < 0,
        Datum::Float4(v) => *v < 0.0,
        Datum::Float8(v) => *v < 0.0,
        Datum::Numeric(v) => {
            compare(&Datum::Numeric(v.clone()), &Datum::Numeric(Numeric::zero().into())).is_lt()
        }
        Datum::Interval(v) => v.span() < Interval::default().span(),
        _ => false,
    }
}
