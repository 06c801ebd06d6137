//! The binder: from syntax to the typed [`ir`](crate::ir), by PostgreSQL's rules.
//!
//! ```text
//!   text ── parse ──▶ ParsedStatement ── bind(catalog, parameter types) ──▶ Bound { ir::Statement, parameter types }
//!                          └─▶ what the session does itself (BEGIN, SET, PREPARE …)
//! ```
//!
//! It is an **allow-list**. Syntax trees are taken apart field by field, without `..`, wherever a field changes the
//! meaning; what is not known here is `0A000`, naming it. An answer that ignores a clause is worse than none.
//!
//! How names become columns: each SELECT is a [`Level`] with a [`scope::Scope`], the names over the row that its FROM
//! puts out. A subquery in an expression sees the levels around it (as [`Expr::Outer`]), a query in FROM does not see
//! its own siblings. Aggregates, window calls and set-returning functions are collected while the select list is
//! bound and leave placeholders, columns far beyond any row ([`AGGREGATE`], [`WINDOW`], [`SERIES`]); when the
//! whole SELECT is known, the placeholders are replaced by columns of the plan nodes that compute them
//! (`aggregate`, `window`, `select`).
//!
//! How types are found: literals and parameters begin as [`Type::Unknown`]; whoever uses one says what it must be
//! (`coerce`). What nobody decided is `text` in a select list, and `42P18` for a parameter elsewhere.
//!
//! Invariants: an expression that leaves the binder has no unknown type, no placeholder, and arguments of exactly the
//! types that its functions declare. WHERE's conjuncts stand as low in the plan as they may (`place`), so that
//! [`TableScan::filters`](crate::ir::TableScan) shows the executor all that is known about a key.
//!
//! Where to start: [`bind`], then `select::Binder::select`. Where to add: an expression in `expr`, a statement in
//! the file of its name, something that the parser can't read in `utility`.

mod aggregate;
mod coerce;
mod copy;
mod cte;
mod data_type;
mod ddl;
mod delete;
mod dialect;
mod expr;
mod from;
mod function;
mod index;
mod insert;
mod literal;
mod lock_tokens;
mod locking;
mod operator;
mod params;
mod parse;
mod place;
mod scope;
mod select;
mod set_op;
mod source;
mod subquery;
mod update;
mod utility;
mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use sqlparser::ast;

pub use params::ParamTypes;
pub use parse::{Bindable, parse};
pub use utility::{
    AlterDefaults, Arguments, FetchDirection, Isolation, NewValue, ParsedStatement, Role, Set, TableName,
    Transaction, TransactionModes, Utility,
};

use crate::catalog::{CatalogReader, TableDescriptor};
use crate::error::{Result, SqlError, SqlState};
use crate::eval::Env;
use crate::function::EvalContext;
use crate::ir::{AggregateCall, Expr, OutputColumn, Plan, RowLock, Statement, WindowCall};

use crate::types::{ColumnType, Datum, Type};
pub(crate) use locking::shown as shown_lock;

use parse::Tree;
use scope::Scope;
use source::Source;

/// How deep expressions and plans may become; chains of AND and OR don't count. Everything that walks over the
/// intermediate representation may recurse that deep.
const DEPTH_MAX: usize = 500;
/// Left on the stack at each level; a new piece of this many bytes is taken when it runs out.
const STACK_RED_ZONE_BYTES: usize = 256 << 10;
const STACK_PIECE_BYTES: usize = 4 << 20;

/// The first placeholder for an aggregate.
const AGGREGATE: usize = 1 << 40;
/// The first placeholder for a call of GROUPING.
const GROUPING: usize = AGGREGATE + (1 << 39);
/// The first placeholder for a window call.
const WINDOW: usize = 1 << 41;
/// The first placeholder for a set-returning function.
const SERIES: usize = 1 << 42;

/// A bound statement.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What to run.
    pub statement: Statement,
    /// The parameters' types.
    pub params: Vec<Type>,
    /// Whether the same text means the same later on: false where a literal was read by the session's settings or the
    /// clock (`'now'::timestamp`, a `timestamptz` without a zone).
    pub cacheable: bool,
}

/// Binds a statement. `eval` is what constants are folded with.
pub fn bind(
    statement: &Bindable,
    catalog: &dyn CatalogReader,
    params: ParamTypes<'_>,
    eval: &EvalContext,
) -> Result<Bound> {
    parse::with_stack_for(statement.height(), || {
        let mut binder = Binder::new(catalog, eval, &statement.source, params);
        let bound = binder.statement(statement)?;
        if matches!(bound, Statement::Ddl(_)) {
            binder.params.refuse()?;
        }
        Ok(Bound { statement: bound, cacheable: binder.cacheable, params: binder.params.finish()? })
    })
}

/// Binds a column's DEFAULT, as the catalog keeps it: an expression without columns, of the column's type.
pub fn bind_default(
    text: &str,
    column: &str,
    ty: ColumnType,
    catalog: &dyn CatalogReader,
    eval: &EvalContext,
) -> Result<Expr> {
    let (source, expr) = parse::parse_expression(text)?;
    let mut binder = Binder::new(catalog, eval, &source, ParamTypes::Fixed(&[]));
    binder.default_expr(&expr, column, ty)
}

/// Binds a CHECK constraint, as the catalog keeps it: a boolean over the table's visible columns.
pub fn bind_check(
    text: &str,
    table: &TableDescriptor,
    catalog: &dyn CatalogReader,
    eval: &EvalContext,
) -> Result<Expr> {
    let (source, expr) = parse::parse_expression(text)?;
    let mut binder = Binder::new(catalog, eval, &source, ParamTypes::Fixed(&[]));
    let columns: Vec<OutputColumn> =
        table.columns.iter().map(|c| OutputColumn { name: c.name.clone(), ty: c.ty, origin: None }).collect();
    binder.check_expr(&expr, &table.name, &columns)
}

/// The values of EXECUTE's arguments, as the prepared statement's parameter types.
pub fn bind_arguments(arguments: &Arguments, types: &[Type], eval: &EvalContext) -> Result<Vec<Datum>> {
    let mut binder = Binder::new(&NoTables, eval, &arguments.source, ParamTypes::Fixed(&[]));
    let env = Env { ctx: eval, params: &[], outer: &[] };
    binder.arguments(&arguments.exprs, types)?.iter().map(|expr| crate::eval::eval(expr, &[], &env)).collect()
}

/// The catalog of expressions that can't refer to tables.
struct NoTables;

impl CatalogReader for NoTables {
    fn table(&self, _schema: Option<&str>, _name: &str) -> Option<Arc<TableDescriptor>> {
        None
    }

    fn has_schema(&self, _name: &str) -> bool {
        false
    }

    fn virtual_table(
        &self,
        _schema: Option<&str>,
        _name: &str,
    ) -> Option<(String, Vec<(String, ColumnType)>)> {
        None
    }

    fn database(&self) -> &str {
        ""
    }

    fn search_path(&self) -> &[String] {
        &[]
    }
}

/// The tables that VACUUM or ANALYZE names must exist: `42P01`.
pub fn check_tables(tables: &[TableName], catalog: &dyn CatalogReader) -> Result<()> {
    for table in tables {
        let schema = table.schema.as_deref();
        if catalog.table(schema, &table.name).is_none()
            && catalog.virtual_table(schema, &table.name).is_none()
        {
            return Err(no_such_table(schema, &table.name).at(table.position));
        }
    }
    Ok(())
}

fn no_such_table(schema: Option<&str>, name: &str) -> SqlError {
    let name = match schema {
        Some(schema) => format!("{schema}.{name}"),
        None => name.to_owned(),
    };
    SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
}

/// The clause that an expression stands in: what may stand there, and what errors call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    Select,
    Where,
    JoinOn,
    GroupBy,
    Having,
    OrderBy,
    DistinctOn,
    Limit,
    Offset,
    Values,
    Returning,
    Update,
    Filter,
    AggregateArgument,
    WindowDefinition,
    From,
    Default,
    Check,
    Execute,
    Split,
}

impl Clause {
    /// As in `aggregate functions are not allowed in …`.
    fn name(self) -> &'static str {
        match self {
            Clause::Select => "SELECT",
            Clause::Where => "WHERE",
            Clause::JoinOn => "JOIN conditions",
            Clause::GroupBy => "GROUP BY",
            Clause::Having => "HAVING",
            Clause::OrderBy => "ORDER BY",
            Clause::DistinctOn => "DISTINCT ON",
            Clause::Limit => "LIMIT",
            Clause::Offset => "OFFSET",
            Clause::Values => "VALUES",
            Clause::Returning => "RETURNING",
            Clause::Update => "UPDATE",
            Clause::Filter => "FILTER",
            Clause::AggregateArgument => "aggregate function calls",
            Clause::WindowDefinition => "window definitions",
            Clause::From => "functions in FROM",
            Clause::Default => "DEFAULT expressions",
            Clause::Check => "check constraints",
            Clause::Execute => "EXECUTE parameters",
            Clause::Split => "SPLIT AT",
        }
    }

    fn aggregates_allowed(self) -> bool {
        matches!(
            self,
            Clause::Select | Clause::Having | Clause::OrderBy | Clause::DistinctOn | Clause::WindowDefinition
        )
    }

    fn windows_allowed(self) -> bool {
        matches!(self, Clause::Select | Clause::OrderBy | Clause::DistinctOn)
    }
}

/// How a query stands to the one around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LevelKind {
    /// There is none.
    Root,
    /// It is an operand of one of its expressions.
    Subquery,
    /// It stands in its FROM, or in WITH.
    Derived,
}

/// One SELECT while it is bound.
struct Level {
    kind: LevelKind,
    scope: Scope,
    clause: Clause,
    aggregates: Vec<AggregateCall>,
    /// The arguments of calls of GROUPING, with their places.
    groupings: Vec<Vec<(Expr, Option<u32>)>>,
    /// Inside an aggregate's arguments.
    in_aggregate: bool,
    windows: Vec<WindowCall>,
    named_windows: Vec<(String, ast::WindowSpec)>,
    /// Calls of generate_series in the select list.
    series: Vec<Plan>,
    /// Where each column of the row was first used outside aggregates.
    references: std::collections::HashMap<usize, Option<u32>>,
}

impl Level {
    fn new(kind: LevelKind) -> Self {
        Self {
            kind,
            scope: Scope::default(),
            clause: Clause::Select,
            aggregates: Vec::new(),
            groupings: Vec::new(),
            in_aggregate: false,
            windows: Vec::new(),
            named_windows: Vec::new(),
            series: Vec::new(),
            references: std::collections::HashMap::new(),
        }
    }
}

struct Binder<'a> {
    catalog: &'a dyn CatalogReader,
    eval: &'a EvalContext,
    source: &'a Source,
    params: params::Params,
    levels: Vec<Level>,
    /// The CTEs that can be seen, innermost last.
    ctes: Vec<cte::Visible>,
    next_cte: usize,
    /// The locking clauses of the queries that are being bound, innermost last.
    locking: Vec<locking::Locking>,
    /// How the subquery in FROM that is about to be bound is locked by the query around it.
    inherited: Option<RowLock>,
    /// How deep in the syntax tree we are.
    depth: usize,
    /// The outermost query is being bound, and no part of it that has another one's form: operators' functions may stand in
    /// its select list.
    orders: bool,
    cacheable: bool,
}

impl<'a> Binder<'a> {
    fn new(
        catalog: &'a dyn CatalogReader,
        eval: &'a EvalContext,
        source: &'a Source,
        params: ParamTypes<'_>,
    ) -> Self {
        Self {
            catalog,
            eval,
            source,
            params: params::Params::new(params),
            levels: Vec::new(),
            ctes: Vec::new(),
            next_cte: 0,
            locking: Vec::new(),
            inherited: None,
            depth: 0,
            orders: false,
            cacheable: true,
        }
    }

    fn statement(&mut self, statement: &Bindable) -> Result<Statement> {
        match statement.tree()? {
            Tree::Statement(tree) => self.tree(tree),
            Tree::Copy(copy) => self.copy(copy),
            Tree::Explain { analyze, statement } => {
                let inner = self.statement(statement)?;
                if matches!(
                    inner,
                    Statement::Explain { .. }
                        | Statement::CopyFrom(_)
                        | Statement::CopyTo(_)
                        | Statement::Ddl(_)
                ) {
                    return Err(SqlError::unsupported("EXPLAIN of this statement"));
                }
                Ok(Statement::Explain { statement: Box::new(inner), analyze: *analyze })
            }
            Tree::Truncate { tables, cascade } => self.truncate(tables, *cascade),
            Tree::SplitAt { table, points } => self.split_at(table, points),
            Tree::CreateTableAs { names, statement } => match statement {
                ast::Statement::CreateTable(create) if create.query.is_some() => {
                    let names: Vec<String> = names.iter().map(scope::fold).collect();
                    self.create_table(create, &names)
                }
                _ => Err(SqlError::new(SqlState::SYNTAX_ERROR, "column names without types")),
            },
            Tree::CreateDatabase { name } => {
                Ok(Statement::Ddl(crate::ir::Ddl::CreateDatabase { name: scope::fold(name) }))
            }
        }
    }

    fn tree(&mut self, tree: &ast::Statement) -> Result<Statement> {
        match tree {
            ast::Statement::Query(query) => {
                self.orders = true;
                self.query_statement(query)
            }
            ast::Statement::Insert(insert) => self.insert(insert),
            ast::Statement::Update(update) => self.update(update),
            ast::Statement::Delete(delete) => self.delete(delete),
            other => self.ddl(other),
        }
    }

    /// Runs `f` one level deeper in the syntax tree.
    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH_MAX {
            return Err(parse::too_deep());
        }
        self.depth += 1;
        let result = stacker::maybe_grow(STACK_RED_ZONE_BYTES, STACK_PIECE_BYTES, || f(self));
        self.depth -= 1;
        result
    }

    /// The innermost level. There is one wherever expressions are bound.
    fn level(&mut self) -> &mut Level {
        if self.levels.is_empty() {
            self.levels.push(Level::new(LevelKind::Root));
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    /// Runs `f` with a level of its own.
    fn in_level<T>(&mut self, kind: LevelKind, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        // Around a first level there is nothing.
        let kind = if self.levels.is_empty() { LevelKind::Root } else { kind };
        let height = self.levels.len();
        self.levels.push(Level::new(kind));
        let result = f(self);
        self.levels.truncate(height);
        result
    }

    /// Runs `f` in another clause of the same level.
    fn in_clause<T>(&mut self, clause: Clause, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.level().clause, clause);
        let result = f(self);
        self.level().clause = before;
        result
    }

    /// Runs `f` on a part of a query that is a query itself, though it may have no level around it.
    fn in_part<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.orders, false);
        let result = f(self);
        self.orders = before;
        result
    }

    /// Whether an operator's function may stand here.
    fn may_order(&self) -> bool {
        let [level] = self.levels.as_slice() else { return false };
        self.orders && level.clause == Clause::Select && !level.in_aggregate
    }

    /// Remembers where a column of the row of level `at` was first used.
    fn note_reference(&mut self, at: usize, index: usize, position: Option<u32>) {
        let Some(level) = self.levels.get_mut(at) else { return };
        if !level.in_aggregate {
            level.references.entry(index).or_insert(position);
        }
    }

    /// Where a node of the syntax tree starts.
    fn position(&self, node: &impl ast::Spanned) -> Option<u32> {
        self.source.start(node.span())
    }

    /// A stored table, or `42P01`. Virtual ones can't be written to.
    fn stored_table(&self, name: &ast::ObjectName) -> Result<Arc<TableDescriptor>> {
        let position = self.position(name);
        let (schema, table) = scope::table_name(name).map_err(|e| e.at(position))?;
        self.catalog.table(schema.as_deref(), &table).ok_or_else(|| {
            match self.catalog.virtual_table(schema.as_deref(), &table) {
                Some(_) => SqlError::new(
                    SqlState::INSUFFICIENT_PRIVILEGE,
                    format!("permission denied: \"{table}\" is a system catalog"),
                ),
                None => no_such_table(schema.as_deref(), &table).at(position),
            }
        })
    }
}

/// `0A000` for a clause that is there and not known.
fn refuse(present: bool, what: &str) -> Result<()> {
    if present { Err(SqlError::unsupported(what)) } else { Ok(()) }
}
