//! Scalar expressions, aggregate and window calls.

use std::sync::Arc;

use super::{Plan, SortKey};
use crate::function::{Aggregate, Function, WindowFunction};
use crate::types::{ColumnType, Datum, Type};

/// How a call was written; it decides the name of an unnamed output column and EXPLAIN's text, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `f(a, b)`
    Function,
    /// `a + b`
    Operator,
    /// an explicit `CAST` or `::`
    Cast,
    /// a cast that the binder put in
    Implicit,
}

/// A scalar expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A constant.
    Const(Datum, ColumnType),
    /// A column of the input row.
    Column(usize, ColumnType),
    /// A column of the row of an enclosing query: 1 is the directly enclosing one.
    Outer {
        /// How many queries out.
        depth: usize,
        /// The column there.
        index: usize,
        /// Its type.
        ty: ColumnType,
    },
    /// `$n`, counted from 0.
    Param(usize, ColumnType),
    /// A function, operator or cast of the catalogue; its arguments have exactly the types it declares.
    Call {
        /// The kernel.
        function: &'static Function,
        /// How it was written.
        kind: CallKind,
        /// The arguments.
        args: Vec<Expr>,
        /// The result's type.
        ty: ColumnType,
    },
    /// Applies a type modifier (`varchar(n)`, `numeric(p,s)` …) to a value that has the type already.
    /// `explicit`: a string that is too long is cut, otherwise it is `22001` unless only blanks are lost.
    Coerce {
        /// The value.
        input: Box<Expr>,
        /// The type with its modifier.
        ty: ColumnType,
        /// Whether a cast was written out.
        explicit: bool,
    },
    /// Three-valued AND of at least two booleans, evaluated left to right, stopping at the first false.
    And(Vec<Expr>),
    /// Three-valued OR.
    Or(Vec<Expr>),
    /// NOT.
    Not(Box<Expr>),
    /// `IS NULL` / `IS NOT NULL`.
    IsNull {
        /// The value.
        input: Box<Expr>,
        /// IS NOT NULL.
        negated: bool,
    },
    /// `IS [NOT] DISTINCT FROM`; `equals` is the `=` function of the two arguments' common type.
    IsDistinct {
        /// `=`.
        equals: &'static Function,
        /// Left.
        left: Box<Expr>,
        /// Right.
        right: Box<Expr>,
        /// IS NOT DISTINCT FROM.
        negated: bool,
    },
    /// Searched CASE (a simple CASE is bound to one). Branches after the first true one are not evaluated.
    Case {
        /// Condition and value.
        branches: Vec<(Expr, Expr)>,
        /// ELSE; NULL where there is none.
        otherwise: Box<Expr>,
        /// The common type.
        ty: ColumnType,
    },
    /// COALESCE, evaluated left to right.
    Coalesce(Vec<Expr>, ColumnType),
    /// GREATEST / LEAST: NULLs are ignored; `less` is the `<` function of the common type.
    Extreme {
        /// The values.
        args: Vec<Expr>,
        /// `<`.
        less: &'static Function,
        /// GREATEST.
        greatest: bool,
        /// The common type.
        ty: ColumnType,
    },
    /// `input [NOT] IN (list)`; `equals` compares the common type.
    InList {
        /// The value.
        input: Box<Expr>,
        /// `=`.
        equals: &'static Function,
        /// The candidates.
        list: Vec<Expr>,
        /// NOT IN.
        negated: bool,
    },
    /// A subquery; see [`SubqueryKind`]. Its plan may refer to this query's row as `Outer { depth: 1, .. }`.
    Subquery {
        /// What is asked of it.
        kind: SubqueryKind,
        /// The query.
        plan: Arc<Plan>,
        /// The result's type.
        ty: ColumnType,
    },
}

/// What is asked of a subquery.
#[derive(Clone, Debug)]
pub enum SubqueryKind {
    /// `(SELECT …)`: NULL where there is no row, `21000` where there are several.
    Scalar,
    /// `EXISTS (SELECT …)`; NOT EXISTS is a NOT around it.
    Exists,
    /// `(a, b) op ANY/ALL (SELECT …)`, of which `IN` is `= ANY`, `NOT IN` is `<> ALL`: each `compare[i]` is a boolean over the row made
    /// of `left` values followed by the subquery's columns (so index `left.len() + i` is the subquery's i-th column);
    /// their AND is one row's verdict; `all` combines verdicts by three-valued AND, otherwise by OR.
    Quantified {
        /// The left side, evaluated against the outer row.
        left: Vec<Expr>,
        /// The comparison of one row.
        compare: Box<Expr>,
        /// ALL instead of ANY.
        all: bool,
    },
}

impl Expr {
    /// The expression's type.
    pub fn ty(&self) -> ColumnType {
        match self {
            Expr::Const(_, ty)
            | Expr::Column(_, ty)
            | Expr::Outer { ty, .. }
            | Expr::Param(_, ty)
            | Expr::Call { ty, .. }
            | Expr::Coerce { ty, .. }
            | Expr::Case { ty, .. }
            | Expr::Coalesce(_, ty)
            | Expr::Extreme { ty, .. }
            | Expr::Subquery { ty, .. } => *ty,
            Expr::And(_)
            | Expr::Or(_)
            | Expr::Not(_)
            | Expr::IsNull { .. }
            | Expr::IsDistinct { .. }
            | Expr::InList { .. } => ColumnType::plain(Type::Bool),
        }
    }
}

/// An aggregate in the list of [`Plan::Aggregate`].
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// The aggregate.
    pub function: &'static Aggregate,
    /// Its arguments over the aggregate's input; empty for `count(*)`.
    pub args: Vec<Expr>,
    /// DISTINCT.
    pub distinct: bool,
    /// FILTER (WHERE …).
    pub filter: Option<Expr>,
    /// ORDER BY inside the call.
    pub order_by: Vec<SortKey>,
    /// The result's type.
    pub ty: ColumnType,
}

/// A window call in the list of [`Plan::Window`].
#[derive(Clone, Debug)]
pub struct WindowCall {
    /// A pure window function, or an aggregate over the frame.
    pub function: WindowFunctionRef,
    /// Its arguments.
    pub args: Vec<Expr>,
    /// FILTER, for aggregates.
    pub filter: Option<Expr>,
    /// PARTITION BY.
    pub partition_by: Vec<Expr>,
    /// ORDER BY.
    pub order_by: Vec<SortKey>,
    /// The frame; the default one is already filled in.
    pub frame: WindowFrame,
    /// The result's type.
    pub ty: ColumnType,
}

/// What a window call computes.
#[derive(Clone, Copy, Debug)]
pub enum WindowFunctionRef {
    /// `row_number`, `rank`, `lag` …
    Window(&'static WindowFunction),
    /// `sum`, `count` … over the frame.
    Aggregate(&'static Aggregate),
}

/// ROWS, RANGE or GROUPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameUnits {
    /// Counts rows.
    Rows,
    /// Compares values of the one ORDER BY key.
    Range,
    /// Counts peer groups.
    Groups,
}

/// One end of a frame.
#[derive(Clone, Debug)]
pub enum FrameBound {
    /// UNBOUNDED PRECEDING
    UnboundedPreceding,
    /// n PRECEDING
    Preceding(Box<Expr>),
    /// CURRENT ROW
    CurrentRow,
    /// n FOLLOWING
    Following(Box<Expr>),
    /// UNBOUNDED FOLLOWING
    UnboundedFollowing,
}

/// A window's frame.
#[derive(Clone, Debug)]
pub struct WindowFrame {
    /// The units.
    pub units: FrameUnits,
    /// The first row.
    pub start: FrameBound,
    /// The last row.
    pub end: FrameBound,
}
