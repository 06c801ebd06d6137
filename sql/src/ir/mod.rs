//! The typed intermediate representation: what the binder makes and what the direct path and DataFusion run.
//!
//! Everything in here is resolved: names are column indexes, operators and casts are functions of the catalogue,
//! literals have types. An [`Expr`] is evaluated against one input row; a [`Plan`] produces rows.
//!
//! Invariants: `plan.columns().len()` is the width of each of its rows; an `Expr::Column` index is below the width of the
//! input it is evaluated against; the two inputs of a join are seen as one row, left columns first.

mod display;
mod expr;
mod plan;
mod statement;
pub mod walk;

pub use expr::{
    AggregateCall, CallKind, Expr, FrameBound, FrameUnits, SubqueryKind, WindowCall, WindowFrame,
    WindowFunctionRef,
};
pub use plan::{
    Cte, JoinKind, LockRows, LockTarget, OutputColumn, Plan, Rivals, RowLock, SetOp, SortKey, TableScan,
};
pub use statement::*;
pub use walk::lift;
