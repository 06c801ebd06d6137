//! ALTER TABLE, SPLIT AT with it.

use sqlparser::ast::{self, AlterTableOperation, TableConstraint};

use super::constraint::{multiple_keys, no_subquery};
use super::create_table::{NewTable, option_text, place_option};
use super::first_words;
use super::reference::{Referring, dropping};
use crate::bind::insert::column_index;
use crate::bind::scope::{fold, table_name};
use crate::bind::{Binder, Clause, LevelKind, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Cascade, Ddl, Dependent, Expr, Sharding, Statement};
use crate::types::Type;

impl Binder<'_> {
    pub(super) fn alter_table(&mut self, alter: &ast::AlterTable) -> Result<Statement> {
        let ast::AlterTable {
            name,
            if_exists,
            only: _,
            operations,
            location,
            on_cluster,
            table_type,
            end_token: _,
        } = alter;
        refuse(
            location.is_some() || on_cluster.is_some() || table_type.is_some(),
            "this form of ALTER TABLE",
        )?;
        let (schema, shown) = table_name(name)?;
        if *if_exists && self.catalog.table(schema.as_deref(), &shown).is_none() {
            let notice = Some(format!("relation \"{shown}\" does not exist, skipping"));
            return Ok(Statement::Ddl(Ddl::Nothing { tag: "ALTER TABLE", notice }));
        }
        let table = self.stored_table(name)?;
        let [operation] = operations.as_slice() else {
            return Err(SqlError::unsupported("ALTER TABLE with several actions"));
        };
        let find = |column: &ast::Ident| column_index(&table, &fold(column));
        let ddl = match operation {
            AlterTableOperation::AddConstraint { constraint, not_valid } => {
                refuse(*not_valid, "NOT VALID")?;
                let find = |column: &str| table.columns.iter().position(|c| c.name == column);
                match constraint {
                    TableConstraint::PrimaryKey(key) => {
                        let (columns, name) = self.key_parts(key, find)?;
                        if table.primary_key.is_some() {
                            return Err(multiple_keys(&table.name));
                        }
                        Ddl::AddPrimaryKey { table, columns, name }
                    }
                    TableConstraint::Unique(unique) => {
                        let (columns, name) = self.unique_parts(unique, find)?;
                        crate::bind::index::add_unique(table, columns, name, false)?
                    }
                    TableConstraint::ForeignKey(key) => {
                        let taken = crate::bind::index::taken(&table);
                        let key = self.foreign_key(&Referring::of(&table, &taken), key)?;
                        Ddl::AddForeignKey { table, key }
                    }
                    _ => return Err(SqlError::unsupported("ALTER TABLE ADD of this constraint")),
                }
            }
            AlterTableOperation::AddColumn {
                column_keyword: _,
                if_not_exists,
                column_def,
                column_position,
            } => {
                refuse(column_position.is_some(), "a column's position")?;
                let ast::ColumnDef { name, data_type, options } = column_def;
                let column = self.new_column(name, data_type)?;
                if table.columns.iter().any(|c| c.name == column.name) {
                    let message =
                        format!("column \"{}\" of relation \"{}\" already exists", column.name, table.name);
                    if *if_not_exists {
                        let notice = Some(format!("{message}, skipping"));
                        return Ok(Statement::Ddl(Ddl::Nothing { tag: "ALTER TABLE", notice }));
                    }
                    return Err(SqlError::new(SqlState::DUPLICATE_COLUMN, message));
                }
                let mut new = NewTable { columns: vec![column], ..NewTable::default() };
                self.column_options(&mut new, &table.name, 0, options)?;
                refuse(new.primary_key.is_some() || !new.unique.is_empty(), "a key on an added column")?;
                refuse(!new.checks.is_empty(), "CHECK on an added column")?;
                refuse(!new.references.is_empty(), "REFERENCES on an added column")?;
                Ddl::AddColumn { table, column: new.columns.remove(0), if_not_exists: *if_not_exists }
            }
            AlterTableOperation::DropColumn {
                has_column_keyword: _,
                column_names,
                if_exists,
                drop_behavior,
            } => {
                let [name] = column_names.as_slice() else {
                    return Err(SqlError::unsupported("DROP of several columns"));
                };
                match find(name) {
                    Ok(column) => {
                        if table.primary_key.as_ref().is_some_and(|key| key.columns.contains(&column)) {
                            return Err(SqlError::unsupported("DROP of a primary key's column"));
                        }
                        // The table's own foreign keys go with the column, also those that refer to it.
                        let dependents =
                            self.dependents(&table, &[], |columns| columns.contains(&column)).into_iter();
                        let own = |dependent: &Dependent| {
                            let keys = &dependent.table.foreign_keys;
                            dependent.table.id == table.id
                                && keys
                                    .iter()
                                    .any(|k| k.name == dependent.name && k.columns.contains(&column))
                        };
                        let what = format!("column {} of table {}", table.columns[column].name, table.name);
                        let on = dependents.filter(|dependent| !own(dependent)).map(|d| (d, what.clone()));
                        let cascade = cascade(&what, on.collect(), drop_behavior.as_ref())?;
                        Ddl::DropColumn { table, column, cascade }
                    }
                    Err(e) if *if_exists => {
                        let notice = Some(format!("{}, skipping", e.message));
                        Ddl::Nothing { tag: "ALTER TABLE", notice }
                    }
                    Err(e) => return Err(e),
                }
            }
            AlterTableOperation::DropConstraint { if_exists, name, drop_behavior } => {
                let name = fold(name);
                let is_foreign = table.foreign_keys.iter().any(|key| key.name == name);
                let is_index = table.unique.iter().any(|unique| unique.index_only && unique.name == name);
                match table.unique.iter().position(|unique| unique.name == name && !unique.index_only) {
                    _ if is_foreign => Ddl::DropForeignKey(Dependent { table, name }),
                    Some(at) => {
                        let rests = |columns: &[usize]| {
                            table.key_over(columns).is_some_and(|key| key.unique == Some(at))
                        };
                        let on = format!("index {name}");
                        let dependents = self.dependents(&table, &[], rests).into_iter();
                        let dependents = dependents.map(|dependent| (dependent, on.clone())).collect();
                        let what = format!("constraint {name} on table {}", table.name);
                        let cascade = cascade(&what, dependents, drop_behavior.as_ref())?;
                        Ddl::DropUnique { table, at, tag: "ALTER TABLE", cascade }
                    }
                    None if !is_index && crate::bind::index::taken(&table).contains(&name) => {
                        return Err(SqlError::unsupported("DROP of a constraint that is not UNIQUE"));
                    }
                    None => {
                        let message =
                            format!("constraint \"{name}\" of relation \"{}\" does not exist", table.name);
                        if !*if_exists {
                            return Err(SqlError::new(SqlState::UNDEFINED_OBJECT, message));
                        }
                        let notice = Some(format!("{message}, skipping"));
                        Ddl::Nothing { tag: "ALTER TABLE", notice }
                    }
                }
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                let column = match find(old_column_name) {
                    Ok(column) => column,
                    Err(_) => {
                        return Err(SqlError::new(
                            SqlState::UNDEFINED_COLUMN,
                            format!("column \"{}\" does not exist", fold(old_column_name)),
                        ));
                    }
                };
                let to = fold(new_column_name);
                if table.columns.iter().any(|c| c.name == to) {
                    return Err(SqlError::new(
                        SqlState::DUPLICATE_COLUMN,
                        format!("column \"{to}\" of relation \"{}\" already exists", table.name),
                    ));
                }
                if !table.checks.is_empty() {
                    // Their texts name columns.
                    return Err(SqlError::unsupported(
                        "RENAME of a column of a table with CHECK constraints",
                    ));
                }
                Ddl::RenameColumn { table, column, to }
            }
            AlterTableOperation::RenameTable { table_name: to } => {
                let (ast::RenameTableNameKind::As(to) | ast::RenameTableNameKind::To(to)) = to;
                let (schema, to) = crate::bind::scope::table_name(to)?;
                refuse(schema.is_some(), "a schema in RENAME TO")?;
                Ddl::RenameTable { table, to }
            }
            AlterTableOperation::SetOptionsParens { options } => {
                let mut placement = table.placement.clone();
                let mut wanted = false;
                for option in options {
                    let ast::SqlOption::KeyValue { key, value } = option else {
                        return Err(SqlError::unsupported(format!("the table option {option}")));
                    };
                    let (position, name) = (self.source.start(key.span), fold(key));
                    match name.as_str() {
                        "replication_factor" | "placement" => {
                            wanted = true;
                            place_option(&mut placement, &name, &option_text(value))
                                .map_err(|e| e.at(position))?;
                        }
                        // Of PostgreSQL's storage; there is nothing here that they could change.
                        "fillfactor" | "toast_tuple_target" | "parallel_workers" => {}
                        other if other.starts_with("autovacuum_") => {}
                        "sharding" | "shards" | "shard_key" => {
                            return Err(SqlError::unsupported("another sharding of a table").at(position));
                        }
                        other => {
                            let message = format!("unrecognized parameter \"{other}\"");
                            return Err(
                                SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message).at(position)
                            );
                        }
                    }
                }
                match wanted {
                    true => Ddl::SetPlacement { table, placement },
                    false => Ddl::Nothing { tag: "ALTER TABLE", notice: None },
                }
            }
            other => {
                return Err(SqlError::unsupported(format!("ALTER TABLE {}", first_words(other))));
            }
        };
        Ok(Statement::Ddl(ddl))
    }

    /// ALTER TABLE … SPLIT AT VALUES
    pub(in crate::bind) fn split_at(
        &mut self,
        name: &ast::ObjectName,
        points: &[Vec<ast::Expr>],
    ) -> Result<Statement> {
        let table = self.stored_table(name)?;
        let Some(key) = &table.primary_key else {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("\"{}\" has no primary key to split at", table.name),
            )
            .hint(
                "A table without a primary key is spread by WITH (sharding = 'round_robin', shards = …).",
            ));
        };
        if table.sharding != Sharding::Range {
            return Err(SqlError::unsupported("SPLIT AT for a table that is not sharded by range"));
        }
        let mut out = Vec::with_capacity(points.len());
        for point in points {
            if point.len() > key.columns.len() {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "a split point has more values than the primary key has columns",
                )
                .at(point.first().and_then(|e| self.position(e))));
            }
            let mut values = Vec::with_capacity(point.len());
            for (expr, column) in point.iter().zip(&key.columns) {
                let column = table.columns[*column].clone();
                let position = self.position(expr);
                let value = self.in_level(LevelKind::Root, |this| {
                    this.level().clause = Clause::Split;
                    let bound = this.expr(expr)?;
                    no_subquery(&bound, "SPLIT AT").map_err(|e| e.at(position))?;
                    this.assign(bound, &column.name, column.ty, position)
                })?;
                values.push(value);
            }
            out.push(values);
        }
        Ok(Statement::Ddl(Ddl::SplitAt { table, points: out }))
    }

    /// EXECUTE's arguments.
    pub(in crate::bind) fn arguments(&mut self, exprs: &[ast::Expr], types: &[Type]) -> Result<Vec<Expr>> {
        if exprs.len() != types.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "wrong number of parameters for prepared statement",
            )
            .detail(format!("Expected {} parameters but got {}.", types.len(), exprs.len())));
        }
        let mut out = Vec::with_capacity(exprs.len());
        for (i, (expr, ty)) in exprs.iter().zip(types).enumerate() {
            let position = self.position(expr);
            let value = self.in_level(LevelKind::Root, |this| {
                this.level().clause = Clause::Execute;
                this.expr(expr)
            })?;
            no_subquery(&value, "EXECUTE parameter").map_err(|e| e.at(position))?;
            let from = value.ty().ty;
            let value = self
                .coerce(value, *ty, crate::function::CastContext::Assignment, position)?
                .ok_or_else(|| {
                    SqlError::new(
                        SqlState::DATATYPE_MISMATCH,
                        format!(
                            "parameter ${} of type {from} cannot be coerced to the expected type {ty}",
                            i + 1
                        ),
                    )
                    .hint("You will need to rewrite or cast the expression.")
                    .at(position)
                })?;
            out.push(value);
        }
        Ok(out)
    }
}

/// What goes along with something that is dropped, unless it is refused.
fn cascade(
    what: &str,
    dependents: Vec<(Dependent, String)>,
    behavior: Option<&ast::DropBehavior>,
) -> Result<Cascade> {
    let notices = dropping(what, &dependents, matches!(behavior, Some(ast::DropBehavior::Cascade)))?;
    let keys = dependents.into_iter().map(|(dependent, _)| dependent).collect();
    Ok(Cascade { keys, notices })
}
