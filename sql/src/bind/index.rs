//! CREATE UNIQUE INDEX, and UNIQUE constraints that are added to a table.
//!
//! Both keep rows apart in the same way, by an index of the constraint's own; an index without a constraint goes by DROP INDEX. Other
//! indexes are not there yet, nor are indexes over expressions, parts of a table (WHERE), or descending ones.

use std::sync::Arc;

use sqlparser::ast;

use super::ddl::fresh;
use super::scope::{fold, table_name};
use super::{Binder, refuse};
use crate::catalog::{TableDescriptor, duplicate_table};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Ddl, Statement};

impl Binder<'_> {
    pub(super) fn create_index(&mut self, create: &ast::CreateIndex) -> Result<Statement> {
        let ast::CreateIndex {
            name,
            table_name: target,
            using,
            columns,
            unique,
            concurrently,
            if_not_exists,
            include,
            nulls_distinct,
            with,
            predicate,
            index_options,
            alter_options,
        } = create;
        refuse(!unique, "CREATE INDEX that is not UNIQUE")?;
        refuse(*concurrently, "CONCURRENTLY")?;
        refuse(!matches!(using, None | Some(ast::IndexType::BTree)), "an index that is no btree")?;
        refuse(!include.is_empty(), "INCLUDE")?;
        refuse(*nulls_distinct == Some(false), "NULLS NOT DISTINCT")?;
        refuse(
            !with.is_empty() || !index_options.is_empty() || !alter_options.is_empty(),
            "an index option",
        )?;
        refuse(predicate.is_some(), "an index of a part of a table")?;
        let table = self.stored_table(target)?;
        let name = match name {
            Some(name) => {
                let (schema, name) = table_name(name)?;
                refuse(schema.is_some(), "a schema in an index's name")?;
                Some(name)
            }
            None => None,
        };
        let mut places = Vec::with_capacity(columns.len());
        for ast::IndexColumn { column, operator_class } in columns {
            let ast::OrderByExpr { expr, options, with_fill } = column;
            let ascending = options.asc != Some(false) && options.nulls_first != Some(true);
            refuse(operator_class.is_some() || with_fill.is_some(), "an operator class")?;
            refuse(!ascending, "a descending index")?;
            let ast::Expr::Identifier(ident) = expr else {
                return Err(SqlError::unsupported("an index over an expression").at(self.position(expr)));
            };
            let column = fold(ident);
            let place = table.columns.iter().position(|c| c.name == column).ok_or_else(|| {
                SqlError::new(SqlState::UNDEFINED_COLUMN, format!("column \"{column}\" does not exist"))
            })?;
            places.push(place);
        }
        if let Some(name) = &name
            && self.is_taken(&table, name)
        {
            if !*if_not_exists {
                return Err(duplicate_table(name));
            }
            let notice = Some(format!("relation \"{name}\" already exists, skipping"));
            return Ok(Statement::Ddl(Ddl::Nothing { tag: "CREATE INDEX", notice }));
        }
        add_unique(table, places, name, true).map(Statement::Ddl)
    }

    /// Whether an index of `table` cannot have this name.
    fn is_taken(&self, table: &TableDescriptor, name: &str) -> bool {
        let schema = Some(table.schema.as_str());
        let is_relation =
            self.catalog.table(schema, name).is_some() || !self.catalog.indexed_by(schema, name).is_empty();
        is_relation || taken(table).iter().any(|taken| taken == name)
    }
}

/// The names that a table's constraints and indexes have.
pub(super) fn taken(table: &TableDescriptor) -> Vec<String> {
    let keys = table.primary_key.iter().map(|key| &key.name);
    let unique = table.unique.iter().map(|unique| &unique.name);
    let foreign = table.foreign_keys.iter().map(|key| &key.name);
    keys.chain(unique).chain(table.checks.iter().map(|check| &check.name)).chain(foreign).cloned().collect()
}

/// A UNIQUE constraint for a table that is there, or a unique index; an unnamed one is called `<table>_<columns>_key` or `…_idx`.
pub(super) fn add_unique(
    table: Arc<TableDescriptor>,
    columns: Vec<usize>,
    name: Option<String>,
    index_only: bool,
) -> Result<Ddl> {
    let taken = taken(&table);
    let name = match name {
        Some(name) if taken.contains(&name) => return Err(duplicate_table(&name)),
        Some(name) => name,
        None => {
            let mut parts = vec![table.name.as_str()];
            parts.extend(columns.iter().map(|&i| table.columns[i].name.as_str()));
            parts.push(if index_only { "idx" } else { "key" });
            fresh(&taken, &parts)
        }
    };
    Ok(Ddl::AddUnique { table, columns, name, index_only })
}
