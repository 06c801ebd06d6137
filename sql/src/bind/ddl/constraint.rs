//! Defaults and constraints: PRIMARY KEY, UNIQUE, CHECK, and their names. (Foreign keys: `reference.rs`.)

use sqlparser::ast::{self, TableConstraint};

use super::create_table::NewTable;
use crate::bind::scope::{Scope, fold};
use crate::bind::{Binder, Clause, LevelKind, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Expr, OutputColumn};
use crate::types::ColumnType;

const IDENTIFIER_BYTES_MAX: usize = 63;

impl Binder<'_> {
    /// A default as text and as what it means: both come from the text that is kept.
    pub(super) fn new_default(
        &mut self,
        expr: &ast::Expr,
        column: &str,
        ty: ColumnType,
    ) -> Result<(String, Expr)> {
        let position = self.position(expr);
        // Errors are reported where the statement has them.
        self.default_expr(expr, column, ty)?;
        let text = expr.to_string();
        let bound =
            crate::bind::bind_default(&text, column, ty, self.catalog, self.eval).map_err(|mut e| {
                e.position = None;
                e.at(position)
            })?;
        Ok((text, bound))
    }

    /// Binds a DEFAULT expression.
    pub(in crate::bind) fn default_expr(
        &mut self,
        expr: &ast::Expr,
        column: &str,
        ty: ColumnType,
    ) -> Result<Expr> {
        let position = self.position(expr);
        self.in_level(LevelKind::Root, |this| {
            this.level().clause = Clause::Default;
            let bound = this.expr(expr).map_err(|e| match e.state {
                SqlState::UNDEFINED_COLUMN => SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "cannot use column reference in DEFAULT expression",
                )
                .at(e.position),
                _ => e,
            })?;
            no_subquery(&bound, "DEFAULT expression").map_err(|e| e.at(position))?;
            let from = bound.ty().ty;
            this.assign(bound, column, ty, position).map_err(|e| match e.state {
                SqlState::DATATYPE_MISMATCH => SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "column \"{column}\" is of type {} but default expression is of type {from}",
                        ty.ty
                    ),
                )
                .hint("You will need to rewrite or cast the expression."),
                _ => e,
            })
        })
    }

    /// Binds a CHECK expression over a table's row.
    pub(in crate::bind) fn check_expr(
        &mut self,
        expr: &ast::Expr,
        table: &str,
        columns: &[OutputColumn],
    ) -> Result<Expr> {
        let position = self.position(expr);
        self.in_level(LevelKind::Root, |this| {
            this.level().scope = Scope::of(table, None, columns);
            this.level().clause = Clause::Check;
            let bound = this.condition(expr, "CHECK")?;
            no_subquery(&bound, "check constraint").map_err(|e| e.at(position))?;
            Ok(bound)
        })
    }

    pub(super) fn check(
        &mut self,
        table: &mut NewTable,
        name: &str,
        expr: &ast::Expr,
        given: Option<String>,
    ) -> Result<()> {
        let columns: Vec<OutputColumn> = table
            .columns
            .iter()
            .map(|c| OutputColumn { name: c.name.clone(), ty: c.ty, origin: None })
            .collect();
        let bound = self.check_expr(expr, name, &columns)?;
        let mut used = Vec::new();
        bound.any(&mut |e| {
            if let Expr::Column(i, _) = e
                && !used.contains(i)
            {
                used.push(*i);
            }
            false
        });
        let constraint = match (given, used.as_slice()) {
            (Some(given), _) => given,
            (None, [one]) => fresh(&table.names, &[name, &columns[*one].name, "check"]),
            (None, _) => fresh(&table.names, &[name, "check"]),
        };
        self.new_constraint(table, name, &constraint)?;
        table.checks.push((constraint, expr.to_string(), bound));
        Ok(())
    }

    pub(super) fn new_constraint(&self, table: &mut NewTable, name: &str, constraint: &str) -> Result<()> {
        if table.names.iter().any(|n| n == constraint) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_OBJECT,
                format!("constraint \"{constraint}\" for relation \"{name}\" already exists"),
            ));
        }
        table.names.push(constraint.to_owned());
        Ok(())
    }

    pub(super) fn primary_key(
        &mut self,
        table: &mut NewTable,
        name: &str,
        columns: Vec<usize>,
        given: Option<String>,
    ) -> Result<()> {
        if table.primary_key.is_some() {
            return Err(multiple_keys(name));
        }
        let constraint = given.unwrap_or_else(|| fresh(&table.names, &[name, "pkey"]));
        self.new_constraint(table, name, &constraint)?;
        table.primary_key = Some((columns, constraint));
        Ok(())
    }

    pub(super) fn table_constraint(
        &mut self,
        table: &mut NewTable,
        name: &str,
        constraint: &TableConstraint,
    ) -> Result<()> {
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                let (columns, given) =
                    self.key_parts(key, |column| table.columns.iter().position(|c| c.name == column))?;
                self.primary_key(table, name, columns, given)
            }
            TableConstraint::Unique(key) => {
                let (columns, given) =
                    self.unique_parts(key, |column| table.columns.iter().position(|c| c.name == column))?;
                unique(table, name, columns, given)
            }
            TableConstraint::Check(ast::CheckConstraint { name: given, expr, enforced }) => {
                refuse(enforced.is_some(), "ENFORCED")?;
                self.check(table, name, expr, given.as_ref().map(fold))
            }
            TableConstraint::ForeignKey(key) => {
                table.references.push(key.clone());
                Ok(())
            }
            TableConstraint::Index(_)
            | TableConstraint::FulltextOrSpatial(_)
            | TableConstraint::PrimaryKeyUsingIndex(_)
            | TableConstraint::UniqueUsingIndex(_) => Err(SqlError::unsupported("this constraint")),
        }
    }

    /// The columns and the name of PRIMARY KEY (…).
    pub(super) fn key_parts(
        &self,
        key: &ast::PrimaryKeyConstraint,
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<(Vec<usize>, Option<String>)> {
        let ast::PrimaryKeyConstraint {
            name,
            index_name,
            index_type,
            columns,
            index_options,
            characteristics,
        } = key;
        refuse(index_name.is_some() || index_type.is_some() || !index_options.is_empty(), "an index option")?;
        refuse(characteristics.is_some(), "DEFERRABLE")?;
        Ok((self.key_columns(columns, "primary key", find)?, name.as_ref().map(fold)))
    }

    /// The columns and the name of UNIQUE (…).
    pub(super) fn unique_parts(
        &self,
        key: &ast::UniqueConstraint,
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<(Vec<usize>, Option<String>)> {
        let ast::UniqueConstraint {
            name,
            index_name,
            index_type_display: _,
            index_type,
            columns,
            index_options,
            characteristics,
            nulls_distinct,
        } = key;
        refuse(index_name.is_some() || index_type.is_some() || !index_options.is_empty(), "an index option")?;
        refuse(characteristics.is_some(), "DEFERRABLE")?;
        refuse(!matches!(nulls_distinct, ast::NullsDistinctOption::None), "NULLS NOT DISTINCT")?;
        Ok((self.key_columns(columns, "unique", find)?, name.as_ref().map(fold)))
    }

    /// The columns of a key; `kind` says of what constraint.
    pub(super) fn key_columns(
        &self,
        columns: &[ast::IndexColumn],
        kind: &str,
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<Vec<usize>> {
        let mut out = Vec::with_capacity(columns.len());
        for ast::IndexColumn { column, operator_class } in columns {
            let ast::OrderByExpr { expr, options, with_fill } = column;
            let position = self.position(expr);
            let plain = operator_class.is_none()
                && options.asc.is_none()
                && options.nulls_first.is_none()
                && with_fill.is_none();
            let ast::Expr::Identifier(ident) = expr else {
                return Err(self.syntax_error(&expr.to_string(), position));
            };
            if !plain {
                return Err(self.syntax_error("asc", position));
            }
            let name = fold(ident);
            let index = find(&name).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!("column \"{name}\" named in key does not exist"),
                )
                .at(position)
            })?;
            if out.contains(&index) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column \"{name}\" appears twice in {kind} constraint"),
                )
                .at(position));
            }
            out.push(index);
        }
        Ok(out)
    }
}

pub(super) fn no_subquery(expr: &Expr, what: &str) -> Result<()> {
    match expr.any(&mut |e| matches!(e, Expr::Subquery { .. })) {
        true => Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("cannot use subquery in {what}"))),
        false => Ok(()),
    }
}

pub(super) fn multiple_keys(name: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_TABLE_DEFINITION,
        format!("multiple primary keys for table \"{name}\" are not allowed"),
    )
}

pub(super) fn unique(
    table: &mut NewTable,
    name: &str,
    columns: Vec<usize>,
    given: Option<String>,
) -> Result<()> {
    let constraint = match given {
        Some(given) if table.names.contains(&given) => return Err(crate::catalog::duplicate_table(&given)),
        Some(given) => given,
        None => {
            let mut parts = vec![name];
            parts.extend(columns.iter().map(|i| table.columns[*i].name.as_str()));
            parts.push("key");
            fresh(&table.names, &parts)
        }
    };
    table.names.push(constraint.clone());
    table.unique.push((columns, constraint));
    Ok(())
}

/// A constraint's name that is not taken yet: `t_a_check`, `t_a_check1` …
pub(in crate::bind) fn fresh(taken: &[String], parts: &[&str]) -> String {
    let mut base = parts.join("_");
    while base.len() > IDENTIFIER_BYTES_MAX {
        base.pop();
    }
    let mut name = base.clone();
    let mut n = 0;
    while taken.contains(&name) {
        n += 1;
        name = format!("{base}{n}");
    }
    name
}
