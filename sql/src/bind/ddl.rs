//! CREATE, DROP, ALTER, TRUNCATE.

mod alter_table;
mod constraint;
mod create_table;
mod drop;
mod reference;

use std::sync::Arc;

use sqlparser::ast;

pub(super) use constraint::fresh;

use super::scope::table_name;
use super::{Binder, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Ddl, Dependent, Statement};

impl Binder<'_> {
    pub(super) fn ddl(&mut self, statement: &ast::Statement) -> Result<Statement> {
        match statement {
            ast::Statement::CreateTable(create) => self.create_table(create, &[]),
            ast::Statement::Drop {
                object_type,
                if_exists,
                names,
                cascade,
                restrict: _,
                purge,
                temporary,
                table,
            } => {
                refuse(*purge || *temporary || table.is_some(), "this form of DROP")?;
                self.drop(*object_type, *if_exists, names, *cascade)
            }
            ast::Statement::AlterTable(alter) => self.alter_table(alter),
            ast::Statement::CreateIndex(create) => self.create_index(create),
            ast::Statement::CreateSchema {
                schema_name,
                if_not_exists,
                with,
                options,
                default_collate_spec,
                clone,
            } => {
                refuse(
                    with.is_some() || options.is_some() || default_collate_spec.is_some() || clone.is_some(),
                    "an option of CREATE SCHEMA",
                )?;
                let ast::SchemaName::Simple(name) = schema_name else {
                    return Err(SqlError::unsupported("AUTHORIZATION in CREATE SCHEMA"));
                };
                let (_, name) = table_name(name)?;
                if name.starts_with("pg_") {
                    return Err(SqlError::new(
                        SqlState("42939"),
                        format!("unacceptable schema name \"{name}\""),
                    )
                    .detail("The prefix \"pg_\" is reserved for system schemas."));
                }
                Ok(Statement::Ddl(Ddl::CreateSchema { name, if_not_exists: *if_not_exists }))
            }
            other => {
                let words = first_words(other);
                let what = if words.is_empty() { "this statement".to_owned() } else { words };
                Err(SqlError::unsupported(what))
            }
        }
    }

    /// Where a new table goes.
    fn new_name(&self, name: &ast::ObjectName) -> Result<(String, String)> {
        let position = self.position(name);
        let (schema, table) = table_name(name).map_err(|e| e.at(position))?;
        let schema = match schema {
            Some(schema) => match self.catalog.has_schema(&schema) {
                true => schema,
                false => {
                    return Err(SqlError::new(
                        SqlState::INVALID_SCHEMA_NAME,
                        format!("schema \"{schema}\" does not exist"),
                    )
                    .at(position));
                }
            },
            None => {
                let path = self.catalog.search_path();
                path.iter().find(|s| self.catalog.has_schema(s) && *s != "pg_catalog").cloned().ok_or_else(
                    || {
                        SqlError::new(
                            SqlState::INVALID_SCHEMA_NAME,
                            "no schema has been selected to create in",
                        )
                        .at(position)
                    },
                )?
            }
        };
        if matches!(schema.as_str(), "pg_catalog" | "information_schema" | "flotilla") {
            return Err(SqlError::new(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("permission denied to create \"{schema}.{table}\""),
            )
            .detail("System catalog modifications are currently disallowed."));
        }
        Ok((schema, table))
    }

    pub(super) fn truncate(&mut self, names: &[ast::ObjectName], cascade: bool) -> Result<Statement> {
        let mut tables: Vec<Arc<TableDescriptor>> = Vec::with_capacity(names.len());
        for name in names {
            // TRUNCATE's errors have no position.
            let table = self.stored_table(name).map_err(|mut e| {
                e.position = None;
                e
            })?;
            if !tables.iter().any(|t| t.id == table.id) {
                tables.push(table);
            }
        }
        let mut notices = Vec::new();
        let mut at = 0;
        while let Some(table) = tables.get(at).cloned() {
            at += 1;
            for Dependent { table: child, .. } in self.dependents(&table, &tables, |_| true) {
                if !cascade {
                    let message = "cannot truncate a table referenced in a foreign key constraint";
                    return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)
                        .detail(format!("Table \"{}\" references \"{}\".", child.name, table.name))
                        .hint(format!(
                            "Truncate table \"{}\" at the same time, or use TRUNCATE ... CASCADE.",
                            child.name
                        )));
                }
                if !tables.iter().any(|other| other.id == child.id) {
                    notices.push(format!("truncate cascades to table \"{}\"", child.name));
                    tables.push(child);
                }
            }
        }
        Ok(Statement::Ddl(Ddl::Truncate { tables, notices }))
    }
}

/// The keywords that a statement, or a part of one, begins with.
fn first_words(what: &impl std::fmt::Display) -> String {
    let text = what.to_string();
    let words: Vec<&str> =
        text.split_whitespace().take_while(|w| w.bytes().all(|b| b.is_ascii_uppercase())).take(3).collect();
    words.join(" ")
}
