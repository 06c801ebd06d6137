//! DROP of tables, indexes, schemas and databases.

use std::sync::Arc;

use sqlparser::ast::{self, ObjectType};

use super::reference::dropping;
use crate::bind::scope::table_name;
use crate::bind::{Binder, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Cascade, Ddl, Dependent, Statement};

impl Binder<'_> {
    pub(super) fn drop(
        &self,
        object_type: ObjectType,
        if_exists: bool,
        names: &[ast::ObjectName],
        cascade: bool,
    ) -> Result<Statement> {
        let one = || match names {
            [name] => table_name(name),
            _ => Err(SqlError::unsupported("DROP of several at once")),
        };
        let ddl = match object_type {
            ObjectType::Table => self.drop_tables(names, if_exists, cascade)?,
            ObjectType::Index => {
                let (schema, name) = one()?;
                self.drop_index(schema.as_deref(), &name, if_exists, cascade)?
            }
            ObjectType::Database => {
                refuse(cascade, "CASCADE in DROP DATABASE")?;
                Ddl::DropDatabase { name: one()?.1, if_exists }
            }
            ObjectType::Schema => {
                refuse(cascade, "CASCADE in DROP SCHEMA")?;
                Ddl::DropSchema { name: one()?.1, if_exists }
            }
            // What cannot be created cannot be there.
            ObjectType::View | ObjectType::Sequence | ObjectType::MaterializedView if if_exists => {
                let (word, tag) = match object_type {
                    ObjectType::View => ("view", "DROP VIEW"),
                    ObjectType::Sequence => ("sequence", "DROP SEQUENCE"),
                    _ => ("materialized view", "DROP MATERIALIZED VIEW"),
                };
                let (schema, name) = one()?;
                self.must_be_free(schema.as_deref(), &name, &format!("a {word}"))?;
                Ddl::Nothing { tag, notice: Some(format!("{word} \"{name}\" does not exist, skipping")) }
            }
            other => return Err(SqlError::unsupported(format!("DROP {other}"))),
        };
        Ok(Statement::Ddl(ddl))
    }

    fn drop_tables(&self, names: &[ast::ObjectName], if_exists: bool, cascade: bool) -> Result<Ddl> {
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
                None => {
                    self.must_be_free(schema.as_deref(), &table, "a table")?;
                    let message = format!("table \"{table}\" does not exist");
                    if !if_exists {
                        return Err(SqlError::new(SqlState::UNDEFINED_TABLE, message));
                    }
                    notice = Some(format!("{message}, skipping"));
                }
            }
        }
        if tables.is_empty() {
            return Ok(Ddl::Nothing { tag: "DROP TABLE", notice });
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
        let mut refused = dropping(&what, &dependents, cascade);
        if let (Err(error), true) = (&mut refused, tables.len() > 1) {
            error.message = "cannot drop desired object(s) because other objects depend on them".into();
        }
        let mut notices = refused?;
        notices.extend(notice);
        let keys = dependents.into_iter().map(|(dependent, _)| dependent).collect();
        Ok(Ddl::DropTable { tables, cascade: Cascade { keys, notices } })
    }

    fn drop_index(&self, schema: Option<&str>, name: &str, if_exists: bool, cascade: bool) -> Result<Ddl> {
        let mut tables = self.catalog.indexed_by(schema, name);
        if tables.len() > 1 {
            // (Two who made them at the same time could not see each other's.)
            return Err(SqlError::unsupported(format_args!(
                "DROP of the index \"{name}\", which several tables have,"
            )));
        }
        let Some(table) = tables.pop() else {
            self.must_be_free(schema, name, "an index")?;
            let message = format!("index \"{name}\" does not exist");
            if !if_exists {
                return Err(SqlError::new(SqlState::UNDEFINED_OBJECT, message));
            }
            return Ok(Ddl::Nothing { tag: "DROP INDEX", notice: Some(format!("{message}, skipping")) });
        };
        let Some(at) = table.unique.iter().position(|unique| unique.index_only && unique.name == name) else {
            let constraint = format!("constraint {name} on table {}", table.name);
            let message = format!("cannot drop index {name} because {constraint} requires it");
            return Err(SqlError::new(SqlState::DEPENDENT_OBJECTS_STILL_EXIST, message)
                .hint(format!("You can drop {constraint} instead.")));
        };
        let what = format!("index {name}");
        let rests = |columns: &[usize]| table.key_over(columns).is_some_and(|key| key.unique == Some(at));
        let dependents = self.dependents(&table, &[], rests).into_iter();
        let dependents: Vec<_> = dependents.map(|dependent| (dependent, what.clone())).collect();
        let notices = dropping(&what, &dependents, cascade)?;
        let keys = dependents.into_iter().map(|(dependent, _)| dependent).collect();
        Ok(Ddl::DropUnique { table, at, tag: "DROP INDEX", cascade: Cascade { keys, notices } })
    }

    /// Fails if the name is a table's or an index's, and so not that of `wanted`, which was not found.
    fn must_be_free(&self, schema: Option<&str>, name: &str, wanted: &str) -> Result<()> {
        let hint = if self.catalog.table(schema, name).is_some() {
            "Use DROP TABLE to remove a table."
        } else if !self.catalog.indexed_by(schema, name).is_empty() {
            "Use DROP INDEX to remove an index."
        } else {
            return Ok(());
        };
        let message = format!("\"{name}\" is not {wanted}");
        Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message).hint(hint))
    }
}
