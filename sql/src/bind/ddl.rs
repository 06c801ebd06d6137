//! CREATE, DROP, ALTER, TRUNCATE.

mod alter_table;
mod constraint;
mod create_table;
mod reference;

use std::sync::Arc;

use sqlparser::ast::{self, ObjectType};

pub(super) use constraint::fresh;

use super::scope::table_name;
use super::{Binder, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Cascade, Ddl, Dependent, Statement};

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
                if tables.is_empty() {
                    return Ok(Statement::Ddl(Ddl::Nothing { tag: "DROP TABLE", notice }));
                }
                let of = |table: &Arc<TableDescriptor>| {
                    let dependents = self.dependents(table, &tables, |_| true);
                    let on = format!("table {}", table.name);
                    dependents.into_iter().map(move |dependent| (dependent, on.clone())).collect::<Vec<_>>()
                };
                let dependents: Vec<(Dependent, String)> = tables.iter().flat_map(of).collect();
                let what = match tables.as_slice() {
                    [one] => format!("table {}", one.name),
                    _ => "desired object(s)".to_owned(),
                };
                let mut refused = reference::dropping(&what, &dependents, cascade);
                if let (Err(error), true) = (&mut refused, tables.len() > 1) {
                    error.message =
                        "cannot drop desired object(s) because other objects depend on them".into();
                }
                let mut notices = refused?;
                notices.extend(notice);
                let keys = dependents.into_iter().map(|(dependent, _)| dependent).collect();
                Ok(Statement::Ddl(Ddl::DropTable { tables, cascade: Cascade { keys, notices } }))
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
