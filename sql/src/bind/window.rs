//! Window calls.

use sqlparser::ast::{self, NamedWindowExpr, WindowFrameBound, WindowFrameUnits, WindowType};

use super::function::Call;
use super::scope::fold;
use super::{Binder, Clause, WINDOW};
use crate::error::{Result, SqlError, SqlState};
use crate::function::{self, CastContext, WindowKind, resolve};
use crate::ir::{Expr, FrameBound, FrameUnits, SortKey, WindowCall, WindowFrame, WindowFunctionRef};
use crate::types::{ColumnType, Datum, Type};

/// Calls `f` on each expression of a window call.
pub(super) fn exprs_of(call: &mut WindowCall, f: &mut dyn FnMut(&mut Expr) -> Result<()>) -> Result<()> {
    for expr in call.args.iter_mut().chain(&mut call.filter).chain(&mut call.partition_by) {
        f(expr)?;
    }
    for key in &mut call.order_by {
        f(&mut key.expr)?;
    }
    for bound in [&mut call.frame.start, &mut call.frame.end] {
        if let FrameBound::Preceding(offset) | FrameBound::Following(offset) = bound {
            f(offset)?;
        }
    }
    Ok(())
}

fn windowing(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::WINDOWING_ERROR, message.into())
}

impl Binder<'_> {
    /// WINDOW name AS (…)
    pub(super) fn define_windows(&mut self, definitions: &[ast::NamedWindowDefinition]) -> Result<()> {
        for ast::NamedWindowDefinition(name, definition) in definitions {
            let position = self.source.start(name.span);
            let name = fold(name);
            if self.level().named_windows.iter().any(|(n, _)| *n == name) {
                return Err(windowing(format!("window \"{name}\" is already defined")).at(position));
            }
            let spec = match definition {
                NamedWindowExpr::WindowSpec(spec) => spec.clone(),
                NamedWindowExpr::NamedWindow(_) => {
                    return Err(SqlError::unsupported("a window that is another one").at(position));
                }
            };
            self.level().named_windows.push((name, spec));
        }
        Ok(())
    }

    fn named_window(&mut self, name: &ast::Ident) -> Result<ast::WindowSpec> {
        let wanted = fold(name);
        let found =
            self.level().named_windows.iter().find(|(n, _)| *n == wanted).map(|(_, spec)| spec.clone());
        found.ok_or_else(|| {
            SqlError::new(SqlState::UNDEFINED_OBJECT, format!("window \"{wanted}\" does not exist"))
                .at(self.source.start(name.span))
        })
    }

    /// `f(…) OVER (…)`: collected in the level, which gives a placeholder.
    pub(super) fn window_call(&mut self, call: Call<'_>) -> Result<Expr> {
        let at = call.position;
        let clause = self.level().clause;
        if !clause.windows_allowed() || self.level().in_aggregate {
            return Err(match clause {
                Clause::WindowDefinition => windowing("window function calls cannot be nested"),
                Clause::AggregateArgument => SqlError::new(
                    SqlState::GROUPING_ERROR,
                    "aggregate function calls cannot contain window function calls",
                ),
                clause => windowing(format!("window functions are not allowed in {}", clause.name())),
            }
            .at(at));
        }
        let call = self
            .in_clause(Clause::WindowDefinition, |this| this.window_inner(&call))
            .map_err(|e| e.at(at))?;
        let ty = call.ty;
        let level = self.level();
        level.windows.push(call);
        Ok(Expr::Column(WINDOW + level.windows.len() - 1, ty))
    }

    fn window_inner(&mut self, call: &Call<'_>) -> Result<WindowCall> {
        if call.distinct {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "DISTINCT is not implemented for window functions",
            ));
        }
        if !call.order_by.is_empty() {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "aggregate ORDER BY is not implemented for window functions",
            ));
        }
        let (function, args, ty) = self.window_function(call)?;
        let filter = match call.filter {
            Some(filter) => {
                if matches!(function, WindowFunctionRef::Window(_)) {
                    return Err(SqlError::new(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        "FILTER is not implemented for non-aggregate window functions",
                    ));
                }
                Some(self.condition(filter, "FILTER")?)
            }
            None => None,
        };
        let (partition_by, order_by, frame) = match call.over {
            Some(WindowType::NamedWindow(name)) => {
                let spec = self.named_window(name)?;
                self.window_spec(&spec)?
            }
            Some(WindowType::WindowSpec(spec)) => self.window_spec(spec)?,
            None => return Err(SqlError::internal("a window call without a window")),
        };
        Ok(WindowCall { function, args, filter, partition_by, order_by, frame, ty })
    }

    fn window_function(&mut self, call: &Call<'_>) -> Result<(WindowFunctionRef, Vec<Expr>, ColumnType)> {
        let positions: Vec<Option<u32>> = call.args.iter().map(|a| self.position(*a)).collect();
        let mut args = self.exprs(&call.args)?;
        let types: Vec<Type> = args.iter().map(|a| a.ty().ty).collect();
        let Some(window) = function::window_function(&call.name) else {
            if function::aggregates(&call.name).is_empty() {
                // Is there such a function at all?
                resolve::function(&call.name, &types)?;
                return Err(SqlError::new(
                    SqlState::WRONG_OBJECT_TYPE,
                    format!(
                        "OVER specified, but {} is not a window function nor an aggregate function",
                        call.name
                    ),
                ));
            }
            if args.is_empty() && !call.star {
                return Err(SqlError::new(
                    SqlState::WRONG_OBJECT_TYPE,
                    format!("{}(*) must be used to call a parameterless aggregate function", call.name),
                ));
            }
            let resolved = resolve::aggregate(&call.name, &types)?;
            let args = self.arguments_as(args, &resolved.args, &positions)?;
            let ty = match resolved.function.returns {
                Type::Unknown => args.first().map_or(Type::Text, |a| a.ty().ty),
                ty => ty,
            };
            return Ok((WindowFunctionRef::Aggregate(resolved.function), args, ColumnType::plain(ty)));
        };
        let undefined = || {
            let types: Vec<&str> = types.iter().map(|t| t.name()).collect();
            SqlError::new(
                SqlState::UNDEFINED_FUNCTION,
                format!("function {}({}) does not exist", call.name, types.join(", ")),
            )
            .hint("No function matches the given name and argument types. You might need to add explicit type casts.")
        };
        if call.star {
            return Err(undefined());
        }
        let count = args.len();
        let (ok, returns) = match window.kind {
            WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank => {
                (count == 0, Some(Type::Int8))
            }
            WindowKind::PercentRank | WindowKind::CumeDist => (count == 0, Some(Type::Float8)),
            WindowKind::Ntile => (count == 1, Some(Type::Int4)),
            WindowKind::Lag | WindowKind::Lead => ((1..=3).contains(&count), None),
            WindowKind::FirstValue | WindowKind::LastValue => (count == 1, None),
            WindowKind::NthValue => (count == 2, None),
        };
        if !ok {
            return Err(undefined());
        }
        let whole = |this: &mut Self, args: &mut Vec<Expr>, i: usize| -> Result<()> {
            if let Some(arg) = args.get_mut(i) {
                let taken = std::mem::replace(arg, Expr::Const(Datum::Null, ColumnType::plain(Type::Int4)));
                *arg = this
                    .coerce(taken, Type::Int4, CastContext::Implicit, positions[i])?
                    .ok_or_else(undefined)?;
            }
            Ok(())
        };
        let ty = match returns {
            Some(ty) => {
                whole(self, &mut args, 0)?;
                ColumnType::plain(ty)
            }
            None => {
                whole(self, &mut args, 1)?;
                let mut values = vec![args.remove(0)];
                if count == 3 {
                    // The value and its default have a common type.
                    values.push(args.remove(1));
                }
                let (mut values, ty) =
                    self.unify("lag", values, &[positions[0], positions.get(2).copied().flatten()])?;
                if values.len() == 2
                    && let Some(default) = values.pop()
                {
                    args.push(default);
                }
                args.splice(0..0, values);
                ty
            }
        };
        Ok((WindowFunctionRef::Window(window), args, ty))
    }

    fn window_spec(&mut self, spec: &ast::WindowSpec) -> Result<(Vec<Expr>, Vec<SortKey>, WindowFrame)> {
        let ast::WindowSpec { window_name, partition_by, order_by, window_frame } = spec;
        let base = match window_name {
            Some(name) => {
                let position = self.source.start(name.span);
                let base = self.named_window(name)?;
                if !partition_by.is_empty() {
                    return Err(windowing(format!(
                        "cannot override PARTITION BY clause of window \"{}\"",
                        fold(name)
                    ))
                    .at(position));
                }
                if !base.order_by.is_empty() && !order_by.is_empty() {
                    return Err(windowing(format!(
                        "cannot override ORDER BY clause of window \"{}\"",
                        fold(name)
                    ))
                    .at(position));
                }
                if base.window_frame.is_some() {
                    return Err(windowing(format!(
                        "cannot copy window \"{}\" because it has a frame clause",
                        fold(name)
                    ))
                    .at(position));
                }
                Some(self.window_spec(&base)?)
            }
            None => None,
        };
        let mut partition = Vec::with_capacity(partition_by.len());
        for expr in partition_by {
            let position = self.position(expr);
            let bound = self.expr(expr)?;
            partition.push(self.known(bound, position)?);
        }
        let mut order = self.plain_sort_keys(order_by)?;
        if let Some((base_partition, base_order, _)) = base {
            partition = base_partition;
            if order.is_empty() {
                order = base_order;
            }
        }
        let frame = self.frame(window_frame.as_ref(), &order)?;
        Ok((partition, order, frame))
    }

    fn frame(&mut self, frame: Option<&ast::WindowFrame>, order: &[SortKey]) -> Result<WindowFrame> {
        let Some(ast::WindowFrame { units, start_bound, end_bound }) = frame else {
            return Ok(WindowFrame {
                units: FrameUnits::Range,
                start: FrameBound::UnboundedPreceding,
                end: FrameBound::CurrentRow,
            });
        };
        let units = match units {
            WindowFrameUnits::Rows => FrameUnits::Rows,
            WindowFrameUnits::Range => FrameUnits::Range,
            WindowFrameUnits::Groups => FrameUnits::Groups,
        };
        if units == FrameUnits::Groups && order.is_empty() {
            return Err(windowing("GROUPS mode requires an ORDER BY clause"));
        }
        let start = match start_bound {
            WindowFrameBound::Following(None) => {
                return Err(windowing("frame start cannot be UNBOUNDED FOLLOWING"));
            }
            bound => self.frame_bound(bound, true, units, order)?,
        };
        let end = match end_bound {
            Some(WindowFrameBound::Preceding(None)) => {
                return Err(windowing("frame end cannot be UNBOUNDED PRECEDING"));
            }
            Some(bound) => self.frame_bound(bound, false, units, order)?,
            None => FrameBound::CurrentRow,
        };
        match (&start, &end) {
            (FrameBound::CurrentRow, FrameBound::Preceding(_)) => {
                return Err(windowing("frame starting from current row cannot have preceding rows"));
            }
            (FrameBound::Following(_), FrameBound::Preceding(_)) => {
                return Err(windowing("frame starting from following row cannot have preceding rows"));
            }
            (FrameBound::Following(_), FrameBound::CurrentRow) => {
                return Err(windowing("frame starting from following row cannot end with current row"));
            }
            _ => {}
        }
        Ok(WindowFrame { units, start, end })
    }

    fn frame_bound(
        &mut self,
        bound: &WindowFrameBound,
        start: bool,
        units: FrameUnits,
        order: &[SortKey],
    ) -> Result<FrameBound> {
        Ok(match bound {
            WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
            WindowFrameBound::Preceding(None) if start => FrameBound::UnboundedPreceding,
            WindowFrameBound::Preceding(None) => {
                return Err(windowing("frame end cannot be UNBOUNDED PRECEDING"));
            }
            WindowFrameBound::Following(None) => FrameBound::UnboundedFollowing,
            WindowFrameBound::Preceding(Some(offset)) => {
                FrameBound::Preceding(Box::new(self.frame_offset(offset, units, order)?))
            }
            WindowFrameBound::Following(Some(offset)) => {
                FrameBound::Following(Box::new(self.frame_offset(offset, units, order)?))
            }
        })
    }

    fn frame_offset(&mut self, offset: &ast::Expr, units: FrameUnits, order: &[SortKey]) -> Result<Expr> {
        let position = self.position(offset);
        let name = match units {
            FrameUnits::Rows => "ROWS",
            FrameUnits::Range => "RANGE",
            FrameUnits::Groups => "GROUPS",
        };
        let wanted = match units {
            FrameUnits::Rows | FrameUnits::Groups => Type::Int8,
            FrameUnits::Range => {
                let [key] = order else {
                    return Err(windowing(
                        "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
                    )
                    .at(position));
                };
                match key.expr.ty().ty {
                    ty @ (Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric | Type::Float8) => ty,
                    Type::Float4 => Type::Float8,
                    Type::Date | Type::Timestamp | Type::Timestamptz | Type::Time | Type::Interval => {
                        Type::Interval
                    }
                    ty => {
                        return Err(SqlError::new(
                            SqlState::FEATURE_NOT_SUPPORTED,
                            format!(
                                "RANGE with offset PRECEDING/FOLLOWING is not supported for column type {ty}"
                            ),
                        )
                        .at(position));
                    }
                }
            }
        };
        // The parser takes a string here for an interval.
        let offset = match offset {
            ast::Expr::Interval(ast::Interval { value, leading_field: None, .. }) => value.as_ref(),
            offset => offset,
        };
        let bound = self.expr(offset)?;
        let varies = bound.any(&mut |e| matches!(e, Expr::Column(..)));
        if varies {
            return Err(SqlError::new(
                SqlState::INVALID_COLUMN_REFERENCE,
                format!("argument of {name} must not contain variables"),
            )
            .at(position));
        }
        let from = bound.ty().ty;
        // PostgreSQL has comparisons of each integer type with the wider ones; here the offset takes the key's type.
        let context =
            if units == FrameUnits::Range { CastContext::Assignment } else { CastContext::Implicit };
        self.coerce(bound, wanted, context, position)?.ok_or_else(|| {
            SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("argument of {name} must be type {wanted}, not type {from}"),
            )
            .at(position)
        })
    }
}
