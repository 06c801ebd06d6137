//! CREATE, DROP, ALTER, TRUNCATE.

mod alter_table;
mod constraint;
mod create_table;

use std::sync::Arc;

use sqlparser::ast::{self, ObjectType};

pub(super) use constraint::fresh;

use super::scope::table_name;
use super::{Binder, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Ddl, Statement};

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
                let text = other.to_string();
                let words: Vec<&str> = text
                    .split_whitespace()
                    .take_while(|w| w.bytes().all(|b| b.is_ascii_uppercase()))
                    .take(3)
                    .collect();
                let what = if words.is_empty() { "this statement".to_owned() } else { words.join(" ") };
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

    fn drop(
        &mut self,
        object_type: ObjectType,
        if_exists: bool,
        names: &[ast::ObjectName],
        cascade: bool,
    ) -> Result<Statement> {
        let one = || -> Result<String> {
            match names {
                [name] => table_name(name).map(|(_, name)| name),
                _ => Err(SqlError::unsupported("DROP of several at once")),
            }
        };
        match object_type {
            ObjectType::Table => {
                let mut tables: Vec<Arc<TableDescriptor>> = Vec::with_capacity(names.len());
                let mut notice = None;
                for name in names {
                    let (schema, table) = table_name(name)?;
                    match self.catalog.table(schema.as_deref(), &table) {
                        Some(found) if tables.iter().any(|t| t.id == found.id) => {}
                        Some(found) => tables.push(found),
                        None if self.catalog.virtual_table(schema.as_deref(), &table).is_some() => {
                            return Err(SqlError::new(
                                SqlState::INSUFFICIENT_PRIVILEGE,
                                format!("permission denied: \"{table}\" is a system catalog"),
                            ));
                        }
                        None if if_exists => {
                            notice = Some(format!("table \"{table}\" does not exist, skipping"));
                        }
                        None => {
                            return Err(SqlError::new(
                                SqlState::UNDEFINED_TABLE,
                                format!("table \"{table}\" does not exist"),
                            ));
                        }
                    }
                }
                Ok(Statement::Ddl(match tables.is_empty() {
                    true => Ddl::Nothing { tag: "DROP TABLE", notice },
                    false => Ddl::DropTable { tables },
                }))
            }
            ObjectType::Database => {
                refuse(cascade, "CASCADE in DROP DATABASE")?;
                Ok(Statement::Ddl(Ddl::DropDatabase { name: one()?, if_exists }))
            }
            ObjectType::Schema => {
                refuse(cascade, "CASCADE in DROP SCHEMA")?;
                Ok(Statement::Ddl(Ddl::DropSchema { name: one()?, if_exists }))
            }
            // What cannot be created cannot be there.
            ObjectType::View | ObjectType::Index | ObjectType::Sequence | ObjectType::MaterializedView
                if if_exists =>
            {
                let (word, tag) = match object_type {
                    ObjectType::View => ("view", "DROP VIEW"),
                    ObjectType::Index => ("index", "DROP INDEX"),
                    ObjectType::Sequence => ("sequence", "DROP SEQUENCE"),
                    _ => ("materialized view", "DROP MATERIALIZED VIEW"),
                };
                let notice = Some(format!("{word} \"{}\" does not exist, skipping", one()?));
                Ok(Statement::Ddl(Ddl::Nothing { tag, notice }))
            }
            other => Err(SqlError::unsupported(format!("DROP {other}"))),
        }
    }

    pub(super) fn truncate(&mut self, names: &[ast::ObjectName]) -> Result<Statement> {
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
        Ok(Statement::Ddl(Ddl::Truncate { tables }))
    }
}
