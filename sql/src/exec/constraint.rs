//! NOT NULL and CHECK: what must hold of each row before it is written.

use std::sync::Arc;

use super::key::display;
use super::{Row, StatementContext};
use crate::bind;
use crate::catalog::TableDescriptor;
use crate::error::{ErrorObject, Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::Expr;
use crate::types::Datum;

/// A value longer than this is cut in `Failing row contains (…)`, as PostgreSQL does.
const FAILING_VALUE_BYTES_MAX: usize = 64;

/// The constraints of one table, ready to be checked.
pub struct Constraints {
    table: Arc<TableDescriptor>,
    /// Columns that must not be NULL: those that say so and those of the primary key.
    not_null: Vec<usize>,
    checks: Vec<(String, Expr)>,
}

/// What a row violates.
pub struct Violation<'a> {
    /// The constraint's name; of NOT NULL, the column's.
    pub of: &'a str,
    /// What whoever writes such a row is told. (A CHECK that can't be evaluated holds of nothing.)
    pub error: SqlError,
}

impl Constraints {
    /// Binds a table's constraints.
    pub fn new(table: &Arc<TableDescriptor>, ctx: &StatementContext) -> Result<Self> {
        let checks = table
            .checks
            .iter()
            .map(|check| {
                let expr = bind::bind_check(&check.expr, table, &*ctx.catalog, &ctx.eval)?;
                Ok((check.name.clone(), expr))
            })
            .collect::<Result<_>>()?;
        Ok(Self::with_checks(table, checks))
    }

    /// A table's constraints, with CHECK expressions that are bound already.
    pub fn with_checks(table: &Arc<TableDescriptor>, checks: Vec<(String, Expr)>) -> Self {
        let in_key = |i: &usize| table.primary_key.as_ref().is_some_and(|k| k.columns.contains(i));
        let not_null = (0..table.columns.len()).filter(|i| table.columns[*i].not_null || in_key(i)).collect();
        Self { table: Arc::clone(table), not_null, checks }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        (self.not_null.len() + self.checks.len()) as u64
    }

    /// Checks one row: the first violation.
    pub fn check(&self, row: &[Datum], env: &Env<'_>) -> Result<()> {
        match self.violations(row, env).next() {
            Some(violation) => Err(violation.error),
            None => Ok(()),
        }
    }

    /// All that a row violates, NOT NULL first. What nobody asks for isn't evaluated.
    pub fn violations<'a>(
        &'a self,
        row: &'a [Datum],
        env: &'a Env<'_>,
    ) -> impl Iterator<Item = Violation<'a>> {
        let nulls = self.not_null.iter().filter(move |&&column| row[column].is_null());
        let nulls = nulls.map(move |&column| Violation {
            of: &self.table.columns[column].name,
            error: self.null_violation(column, row),
        });
        let checks = self.checks.iter().filter_map(move |(name, expr)| {
            let error = match eval::eval(expr, row, env) {
                // A CHECK is violated by false; NULL passes.
                Ok(Datum::Bool(false)) => self.check_violation(name, row),
                Ok(_) => return None,
                Err(error) => error,
            };
            Some(Violation { of: name, error })
        });
        nulls.chain(checks)
    }

    fn null_violation(&self, column: usize, row: &[Datum]) -> SqlError {
        let name = &self.table.columns[column].name;
        SqlError::new(
            SqlState::NOT_NULL_VIOLATION,
            format!(
                "null value in column \"{name}\" of relation \"{}\" violates not-null constraint",
                self.table.name
            ),
        )
        .detail(failing_row(&self.table, row))
        .object(ErrorObject {
            schema: Some(self.table.schema.clone()),
            table: Some(self.table.name.clone()),
            column: Some(name.clone()),
            constraint: None,
        })
    }

    fn check_violation(&self, name: &str, row: &[Datum]) -> SqlError {
        SqlError::new(
            SqlState::CHECK_VIOLATION,
            format!("new row for relation \"{}\" violates check constraint \"{name}\"", self.table.name),
        )
        .detail(failing_row(&self.table, row))
        .object(ErrorObject {
            schema: Some(self.table.schema.clone()),
            table: Some(self.table.name.clone()),
            column: None,
            constraint: Some(name.to_owned()),
        })
    }
}

/// PostgreSQL's `Failing row contains (1, null, abc).`
fn failing_row(table: &TableDescriptor, row: &[Datum]) -> String {
    let values: Vec<String> = table
        .columns
        .iter()
        .zip(row)
        .map(|(column, value)| {
            let mut text = display(value, column.ty);
            if text.len() > FAILING_VALUE_BYTES_MAX {
                let cut = text.floor_char_boundary(FAILING_VALUE_BYTES_MAX);
                text.truncate(cut);
                text.push_str("...");
            }
            text
        })
        .collect();
    format!("Failing row contains ({}).", values.join(", "))
}

/// `23502` when a constraint is added to a table that has NULLs.
pub fn contains_nulls(table: &TableDescriptor, column: usize) -> SqlError {
    let name = &table.columns[column].name;
    SqlError::new(
        SqlState::NOT_NULL_VIOLATION,
        format!("column \"{name}\" of relation \"{}\" contains null values", table.name),
    )
    .object(ErrorObject {
        schema: Some(table.schema.clone()),
        table: Some(table.name.clone()),
        column: Some(name.clone()),
        constraint: None,
    })
}

/// About how many bytes a row holds in memory.
pub fn row_bytes(row: &Row) -> usize {
    let inside = |datum: &Datum| match datum {
        Datum::Text(s) => s.len(),
        Datum::Bytea(b) => b.len(),
        Datum::Numeric(_) => 32,
        _ => 0,
    };
    std::mem::size_of::<Row>()
        + row.len() * std::mem::size_of::<Datum>()
        + row.iter().map(inside).sum::<usize>()
}
