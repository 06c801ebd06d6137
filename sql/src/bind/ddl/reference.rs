//! Foreign keys: REFERENCES, FOREIGN KEY, and what depends on them.

use std::sync::Arc;

use sqlparser::ast;

use super::constraint::fresh;
use super::create_table::NewTable;
use crate::bind::scope::{fold, table_name};
use crate::bind::{Binder, no_such_table, refuse};
use crate::catalog::{ReferentialAction, TableDescriptor};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::comparable;
use crate::ir::{Dependent, NewForeignKey};
use crate::types::Type;

/// A table that a foreign key is made for: one that is there, or one that is being made.
pub(super) struct Referring<'a> {
    pub schema: &'a str,
    pub name: &'a str,
    /// Names and types.
    pub columns: Vec<(&'a str, Type)>,
    /// The primary key's columns.
    pub primary: Option<&'a [usize]>,
    /// The columns of UNIQUE constraints.
    pub unique: Vec<&'a [usize]>,
    /// The names that its constraints have.
    pub taken: &'a [String],
    /// It is there.
    pub id: Option<u32>,
}

impl<'a> Referring<'a> {
    pub fn of(table: &'a TableDescriptor, taken: &'a [String]) -> Self {
        Self {
            schema: &table.schema,
            name: &table.name,
            columns: table.columns.iter().map(|c| (c.name.as_str(), c.ty.ty)).collect(),
            primary: table.primary_key.as_ref().map(|key| key.columns.as_slice()),
            unique: table.unique.iter().map(|unique| unique.columns.as_slice()).collect(),
            taken,
            id: Some(table.id),
        }
    }

    pub fn new(schema: &'a str, name: &'a str, table: &'a NewTable) -> Self {
        Self {
            schema,
            name,
            columns: table.columns.iter().map(|c| (c.name.as_str(), c.ty.ty)).collect(),
            primary: table.primary_key.as_ref().map(|(columns, _)| columns.as_slice()),
            unique: table.unique.iter().map(|(columns, _)| columns.as_slice()).collect(),
            taken: &table.names,
            id: None,
        }
    }
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INVALID_FOREIGN_KEY, message.into())
}

fn action(action: Option<ast::ReferentialAction>) -> ReferentialAction {
    match action {
        None | Some(ast::ReferentialAction::NoAction) => ReferentialAction::NoAction,
        Some(ast::ReferentialAction::Restrict) => ReferentialAction::Restrict,
        Some(ast::ReferentialAction::Cascade) => ReferentialAction::Cascade,
        Some(ast::ReferentialAction::SetNull) => ReferentialAction::SetNull,
        Some(ast::ReferentialAction::SetDefault) => ReferentialAction::SetDefault,
    }
}

fn named(columns: &[(&str, Type)], idents: &[ast::Ident]) -> Result<Vec<usize>> {
    let place = |ident: &ast::Ident| {
        let name = fold(ident);
        columns.iter().position(|(column, _)| *column == name).ok_or_else(|| {
            SqlError::new(
                SqlState::UNDEFINED_COLUMN,
                format!("column \"{name}\" referenced in foreign key constraint does not exist"),
            )
        })
    };
    idents.iter().map(place).collect()
}

impl Binder<'_> {
    /// A foreign key. Errors have no positions, as in PostgreSQL.
    pub(super) fn foreign_key(
        &self,
        table: &Referring<'_>,
        constraint: &ast::ForeignKeyConstraint,
    ) -> Result<NewForeignKey> {
        let ast::ForeignKeyConstraint {
            name: given,
            index_name,
            columns,
            foreign_table,
            referred_columns,
            on_delete,
            on_update,
            match_kind,
            characteristics,
        } = constraint;
        refuse(index_name.is_some(), "an index's name")?;
        if let Some(ast::ConstraintCharacteristics { deferrable, initially, enforced }) = characteristics {
            let deferred = matches!(initially, Some(ast::DeferrableInitial::Deferred));
            refuse(*deferrable == Some(true) || deferred, "DEFERRABLE")?;
            refuse(enforced.is_some(), "ENFORCED")?;
        }
        let full = match match_kind {
            None | Some(ast::ConstraintReferenceMatchKind::Simple) => false,
            Some(ast::ConstraintReferenceMatchKind::Full) => true,
            Some(ast::ConstraintReferenceMatchKind::Partial) => {
                return Err(SqlError::unsupported("MATCH PARTIAL"));
            }
        };
        let (schema, parent_name) = table_name(foreign_table)?;
        let is_self =
            parent_name == table.name && schema.as_deref().is_none_or(|schema| schema == table.schema);
        let parent = match self.catalog.table(schema.as_deref(), &parent_name) {
            Some(parent) if Some(parent.id) == table.id => None,
            _ if is_self && table.id.is_none() => None,
            Some(parent) => Some(parent),
            None if self.catalog.virtual_table(schema.as_deref(), &parent_name).is_some() => {
                return Err(SqlError::new(
                    SqlState::INSUFFICIENT_PRIVILEGE,
                    format!("permission denied: \"{parent_name}\" is a system catalog"),
                ));
            }
            None => return Err(no_such_table(schema.as_deref(), &parent_name)),
        };
        let other = parent.as_ref().map(|parent| Referring::of(parent, &[]));
        let target = other.as_ref().unwrap_or(table);
        let columns = named(&table.columns, columns)?;
        let parent_columns = match (referred_columns.as_slice(), target.primary) {
            ([], Some(primary)) => primary.to_vec(),
            ([], None) => {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("there is no primary key for referenced table \"{parent_name}\""),
                ));
            }
            (names, _) => named(&target.columns, names)?,
        };
        for (i, column) in parent_columns.iter().enumerate() {
            if parent_columns[..i].contains(column) {
                return Err(invalid("foreign key referenced-columns list must not contain duplicates"));
            }
        }
        let is_key = |key: &[usize]| {
            key.len() == parent_columns.len() && key.iter().all(|column| parent_columns.contains(column))
        };
        if !target.primary.into_iter().chain(target.unique.iter().copied()).any(is_key) {
            return Err(invalid(format!(
                "there is no unique constraint matching given keys for referenced table \"{parent_name}\""
            )));
        }
        if columns.len() != parent_columns.len() {
            return Err(invalid("number of referencing and referenced columns for foreign key disagree"));
        }
        let name = match given.as_ref().map(fold) {
            Some(name) if table.taken.contains(&name) => {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_OBJECT,
                    format!("constraint \"{name}\" for relation \"{}\" already exists", table.name),
                ));
            }
            Some(name) => name,
            None => {
                let mut parts = vec![table.name];
                parts.extend(columns.iter().map(|&column| table.columns[column].0));
                parts.push("fkey");
                fresh(table.taken, &parts)
            }
        };
        for (&from, &to) in columns.iter().zip(&parent_columns) {
            let ((child, from), (parent, to)) = (table.columns[from], target.columns[to]);
            match comparable(from, to) {
                Some(true) => {}
                Some(false) => {
                    return Err(SqlError::new(
                        SqlState::DATATYPE_MISMATCH,
                        format!("foreign key constraint \"{name}\" cannot be implemented"),
                    )
                    .detail(format!(
                        "Key columns \"{child}\" and \"{parent}\" are of incompatible types: {from} and {to}."
                    )));
                }
                None => {
                    return Err(SqlError::unsupported(format!(
                        "a foreign key from type {from} to type {to}"
                    )));
                }
            }
        }
        let (on_delete, on_update) = (action(*on_delete), action(*on_update));
        Ok(NewForeignKey { name, columns, parent, parent_columns, full, on_delete, on_update })
    }

    /// The foreign keys of a table that is being made, when all its columns and keys are known.
    pub(super) fn foreign_keys(&self, schema: &str, name: &str, table: &mut NewTable) -> Result<()> {
        for constraint in std::mem::take(&mut table.references) {
            let key = self.foreign_key(&Referring::new(schema, name, table), &constraint)?;
            table.names.push(key.name.clone());
            table.foreign_keys.push(key);
        }
        Ok(())
    }

    /// The foreign keys that refer to `table` by a key for which `affected` holds, except those of the tables in `but`.
    pub(super) fn dependents(
        &self,
        table: &TableDescriptor,
        but: &[Arc<TableDescriptor>],
        affected: impl Fn(&[usize]) -> bool,
    ) -> Vec<Dependent> {
        let mut found = Vec::new();
        for (child, at) in self.catalog.referring(table.id) {
            let key = &child.foreign_keys[at];
            let name = key.name.clone();
            let touched = table.referenced_by(key).is_none_or(|columns| affected(&columns));
            if touched && but.iter().all(|other| other.id != child.id) {
                found.push(Dependent { table: child, name });
            }
        }
        found
    }
}

/// What depends on something that is to be dropped: refused, or what is said when it goes along. `what` is dropped, and `on`
/// is what each of `dependents` rests on.
pub(super) fn dropping(what: &str, dependents: &[(Dependent, String)], cascade: bool) -> Result<Vec<String>> {
    let said =
        |dependent: &Dependent| format!("constraint {} on table {}", dependent.name, dependent.table.name);
    match (dependents, cascade) {
        ([], _) => Ok(Vec::new()),
        ([(one, _)], true) => Ok(vec![format!("drop cascades to {}", said(one))]),
        (several, true) => Ok(vec![format!("drop cascades to {} other objects", several.len())]),
        (all, false) => {
            let details: Vec<String> =
                all.iter().map(|(dependent, on)| format!("{} depends on {on}", said(dependent))).collect();
            Err(SqlError::new(
                SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
                format!("cannot drop {what} because other objects depend on it"),
            )
            .detail(details.join("\n"))
            .hint("Use DROP ... CASCADE to drop the dependent objects too."))
        }
    }
}
