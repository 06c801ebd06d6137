//! Relational plans.

use std::sync::Arc;

use txn::LockMode;

use super::{AggregateCall, Expr, WindowCall};
use crate::catalog::TableDescriptor;
use crate::types::ColumnType;

/// A column that a plan puts out.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputColumn {
    /// The name a client sees.
    pub name: String,
    /// The type.
    pub ty: ColumnType,
    /// The table's OID and the column's number, where it is a plain column of a table (RowDescription carries them).
    pub origin: Option<(u32, i16)>,
}

/// A stored table, read as of the transaction's snapshot.
#[derive(Clone, Debug)]
pub struct TableScan {
    /// The table.
    pub table: Arc<TableDescriptor>,
    /// All its visible columns in order, followed, where `with_key` is set, by one `bytea` column with the row's storage key.
    pub columns: Vec<OutputColumn>,
    /// See `columns`: what UPDATE and DELETE need.
    pub with_key: bool,
    /// Conjuncts over `columns`; the executor turns those on key columns into key ranges and checks the rest.
    pub filters: Vec<Expr>,
    /// While a query is bound: its rows are to be locked like this. The keys are then put out, and a [`LockRows`] takes them.
    pub lock: Option<RowLock>,
}

/// How rows are locked by a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLock {
    /// How strongly.
    pub mode: LockMode,
    /// What to do about rows that others have locked.
    pub rivals: Rivals,
}

/// NOWAIT, SKIP LOCKED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rivals {
    /// Wait for them.
    Wait,
    /// NOWAIT
    Fail,
    /// SKIP LOCKED
    Skip,
}

/// One table whose rows are locked.
#[derive(Clone, Debug)]
pub struct LockTarget {
    /// The table.
    pub table: Arc<TableDescriptor>,
    /// The column of the input with the row's storage key.
    pub key: usize,
    /// How.
    pub lock: RowLock,
}

/// FOR UPDATE and the like: puts the rows of the input out when they are locked.
#[derive(Clone, Debug)]
pub struct LockRows {
    /// `columns`, followed by the keys.
    pub input: Box<Plan>,
    /// What is locked.
    pub targets: Vec<LockTarget>,
    /// What is put out.
    pub columns: Vec<OutputColumn>,
    /// The LIMIT above: no more rows are locked than it asks for.
    pub limit: Option<Expr>,
    /// Its OFFSET.
    pub offset: Option<Expr>,
}

/// How two inputs are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// INNER (and CROSS, with no condition)
    Inner,
    /// LEFT
    Left,
    /// RIGHT
    Right,
    /// FULL
    Full,
    /// Left rows with at least one match; puts out left columns only.
    Semi,
    /// Left rows without a match; puts out left columns only.
    Anti,
}

/// A key of ORDER BY.
#[derive(Clone, Debug)]
pub struct SortKey {
    /// The value.
    pub expr: Expr,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST (PostgreSQL's default: for DESC).
    pub nulls_first: bool,
}

/// UNION, INTERSECT, EXCEPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOp {
    /// UNION
    Union,
    /// INTERSECT
    Intersect,
    /// EXCEPT
    Except,
}

/// A common table expression; all references share the id.
#[derive(Clone, Debug)]
pub struct Cte {
    /// Unique within the statement.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// Its query. For a recursive one, the non-recursive term.
    pub plan: Plan,
    /// The recursive term, which refers to itself by [`Plan::CteScan`] with this id, and whether it is UNION (distinct).
    pub recursive: Option<(Box<Plan>, bool)>,
}

/// A relational plan.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Rows of expressions; `SELECT` without FROM is one row of no columns.
    Values {
        /// The rows.
        rows: Vec<Vec<Expr>>,
        /// Their columns.
        columns: Vec<OutputColumn>,
    },
    /// A stored table.
    Scan(TableScan),
    /// A virtual table (`information_schema.tables`, `pg_catalog.pg_class`, `flotilla.shards` …), by its name.
    VirtualScan {
        /// Schema and name.
        name: (String, String),
        /// Its columns.
        columns: Vec<OutputColumn>,
    },
    /// `generate_series(start, stop[, step])` in FROM (or in the select list, which the binder rewrites).
    Series {
        /// Two or three arguments of the same type (for timestamps the step is an interval).
        args: Vec<Expr>,
        /// The one column.
        columns: Vec<OutputColumn>,
    },
    /// A reference to a CTE.
    CteScan {
        /// Which.
        id: usize,
        /// Its columns.
        columns: Vec<OutputColumn>,
    },
    /// WITH: the CTEs, each visible to later ones and to `body`.
    With {
        /// In order.
        ctes: Vec<Arc<Cte>>,
        /// The query.
        body: Box<Plan>,
    },
    /// Expressions over the input.
    Project {
        /// The input.
        input: Box<Plan>,
        /// One for each column.
        exprs: Vec<Expr>,
        /// The columns.
        columns: Vec<OutputColumn>,
    },
    /// WHERE / HAVING.
    Filter {
        /// The input.
        input: Box<Plan>,
        /// Rows for which this is true stay.
        predicate: Expr,
    },
    /// A join.
    Join {
        /// The kind.
        kind: JoinKind,
        /// Left.
        left: Box<Plan>,
        /// Right.
        right: Box<Plan>,
        /// The condition over the concatenated row; `None`: always true. USING and NATURAL are bound to a condition and a projection.
        on: Option<Expr>,
        /// Left columns then right columns (left only for Semi and Anti).
        columns: Vec<OutputColumn>,
    },
    /// GROUP BY: puts out the group keys, then the aggregates. With no keys, exactly one row.
    Aggregate {
        /// The input.
        input: Box<Plan>,
        /// The keys over the input.
        group_by: Vec<Expr>,
        /// The calls over the input.
        aggregates: Vec<AggregateCall>,
        /// The columns.
        columns: Vec<OutputColumn>,
    },
    /// Window calls: puts out the input's columns, then one column for each call.
    Window {
        /// The input.
        input: Box<Plan>,
        /// The calls over the input.
        calls: Vec<WindowCall>,
        /// The columns.
        columns: Vec<OutputColumn>,
    },
    /// ORDER BY.
    Sort {
        /// The input.
        input: Box<Plan>,
        /// The keys over the input.
        keys: Vec<SortKey>,
    },
    /// LIMIT and OFFSET: expressions without columns, of type `bigint`; NULL limit: none.
    Limit {
        /// The input.
        input: Box<Plan>,
        /// LIMIT.
        limit: Option<Expr>,
        /// OFFSET.
        offset: Option<Expr>,
    },
    /// Row locks.
    LockRows(Box<LockRows>),
    /// DISTINCT over all columns.
    Distinct {
        /// The input.
        input: Box<Plan>,
    },
    /// DISTINCT ON: the first row of each group of equal keys, in the input's order (the input is sorted by them first).
    DistinctOn {
        /// The input.
        input: Box<Plan>,
        /// The keys over the input.
        keys: Vec<Expr>,
    },
    /// UNION, INTERSECT, EXCEPT; both sides have the same column types already.
    SetOp {
        /// Which.
        op: SetOp,
        /// ALL.
        all: bool,
        /// Left.
        left: Box<Plan>,
        /// Right.
        right: Box<Plan>,
        /// The columns.
        columns: Vec<OutputColumn>,
    },
}

impl Plan {
    /// The columns of each row.
    pub fn columns(&self) -> &[OutputColumn] {
        match self {
            Plan::Values { columns, .. }
            | Plan::VirtualScan { columns, .. }
            | Plan::Series { columns, .. }
            | Plan::CteScan { columns, .. }
            | Plan::Project { columns, .. }
            | Plan::Join { columns, .. }
            | Plan::Aggregate { columns, .. }
            | Plan::Window { columns, .. }
            | Plan::SetOp { columns, .. } => columns,
            Plan::Scan(scan) => &scan.columns,
            Plan::LockRows(node) => &node.columns,
            Plan::With { body, .. } => body.columns(),
            Plan::Filter { input, .. }
            | Plan::Sort { input, .. }
            | Plan::Limit { input, .. }
            | Plan::Distinct { input }
            | Plan::DistinctOn { input, .. } => input.columns(),
        }
    }
}
