//! INSERT.

use std::sync::Arc;

use sqlparser::ast::{self, OnConflictAction, OnInsert, SetExpr};

use super::scope::{Relation, Scope, fold, fold_part};
use super::{Binder, Clause, LevelKind, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Expr, Insert, OnConflict, OutputColumn, Plan, Returning, Statement};
use crate::types::{Datum, Type};

impl Binder<'_> {
    pub(super) fn insert(&mut self, insert: &ast::Insert) -> Result<Statement> {
        let ast::Insert {
            insert_token: _,
            optimizer_hints: _,
            or,
            ignore,
            into,
            table,
            table_alias,
            columns,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword,
            on,
            returning,
            output,
            replace_into,
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        refuse(or.is_some() || *ignore || *replace_into, "INSERT OR")?;
        refuse(*overwrite || *has_table_keyword, "INSERT OVERWRITE")?;
        refuse(!assignments.is_empty(), "INSERT SET")?;
        refuse(partitioned.is_some() || !after_columns.is_empty(), "PARTITION")?;
        refuse(output.is_some(), "OUTPUT")?;
        refuse(priority.is_some() || insert_alias.is_some(), "this form of INSERT")?;
        refuse(settings.is_some() || format_clause.is_some(), "FORMAT")?;
        refuse(
            multi_table_insert_type.is_some()
                || !multi_table_into_clauses.is_empty()
                || !multi_table_when_clauses.is_empty()
                || multi_table_else_clause.is_some(),
            "INSERT into several tables",
        )?;
        let ast::TableObject::TableName(name) = table else {
            return Err(SqlError::unsupported("INSERT into what is no table"));
        };
        if !into {
            return Err(self.syntax_error(&name.to_string(), self.position(name)));
        }
        let table = self.stored_table(name)?;
        let alias = match table_alias {
            Some(alias) => fold(&alias.alias),
            None => table.name.clone(),
        };
        let targets = self.insert_targets(&table, columns)?;
        let source = match source {
            Some(source) => self.insert_source(&table, &targets, columns, source)?,
            None => self.default_row(&table)?,
        };
        let mut arbiters = Vec::new();
        let on_conflict = match on {
            None => None,
            Some(OnInsert::OnConflict(conflict)) => {
                arbiters = self.arbiters(&table, conflict.conflict_target.as_ref())?;
                Some(self.on_conflict(&table, &alias, conflict)?)
            }
            Some(_) => return Err(SqlError::unsupported("ON DUPLICATE KEY UPDATE")),
        };
        let returning = match returning {
            Some(items) => Some(self.returning(table_scope(&table, &alias), items)?),
            None => None,
        };
        Ok(Statement::Insert(Insert { table, source, on_conflict, arbiters, returning }))
    }

    /// The columns that values are given for.
    fn insert_targets(
        &mut self,
        table: &Arc<TableDescriptor>,
        columns: &[ast::ObjectName],
    ) -> Result<Vec<usize>> {
        if columns.is_empty() {
            return Ok((0..table.columns.len()).collect());
        }
        let mut targets = Vec::with_capacity(columns.len());
        for name in columns {
            let position = self.position(name);
            let [part] = name.0.as_slice() else {
                return Err(SqlError::unsupported("a qualified column in INSERT").at(position));
            };
            let column = column_index(table, &fold_part(part)?).map_err(|e| e.at(position))?;
            if targets.contains(&column) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column \"{}\" specified more than once", table.columns[column].name),
                )
                .at(position));
            }
            targets.push(column);
        }
        Ok(targets)
    }

    fn insert_source(
        &mut self,
        table: &Arc<TableDescriptor>,
        targets: &[usize],
        listed: &[ast::ObjectName],
        source: &ast::Query,
    ) -> Result<Plan> {
        let plain = source.with.is_none()
            && source.order_by.is_none()
            && source.limit_clause.is_none()
            && source.fetch.is_none()
            && source.locks.is_empty();
        if let (true, SetExpr::Values(values)) = (plain, source.body.as_ref()) {
            return self.insert_values(table, targets, listed, values);
        }
        let mut plan = self.query_with(source, LevelKind::Root, false)?;
        let width = plan.columns().len();
        self.check_width(targets, listed, width, None)?;
        for (i, target) in targets.iter().enumerate().take(width) {
            if plan.columns()[i].ty.ty == Type::Unknown {
                self.decide(&mut plan, i, table.columns[*target].ty.ty)
                    .map_err(|e| e.at(super::set_op::item_position(self, &source.body, i)))?;
            }
        }
        let given: Vec<Expr> =
            plan.columns().iter().enumerate().map(|(i, c)| Expr::Column(i, c.ty)).collect();
        let given = given
            .into_iter()
            .enumerate()
            .map(|(i, e)| Some((e, super::set_op::item_position(self, &source.body, i))))
            .collect();
        let exprs = self.insert_row(table, targets, given)?;
        Ok(Plan::Project { input: Box::new(plan), exprs, columns: row_columns(table) })
    }

    fn insert_values(
        &mut self,
        table: &Arc<TableDescriptor>,
        targets: &[usize],
        listed: &[ast::ObjectName],
        values: &ast::Values,
    ) -> Result<Plan> {
        let ast::Values { explicit_row, value_keyword: _, rows } = values;
        refuse(*explicit_row, "ROW in VALUES")?;
        let mut out = Vec::with_capacity(rows.len());
        self.in_level(LevelKind::Root, |this| {
            this.level().clause = Clause::Values;
            let width = rows.first().map_or(0, |row| row.content.len());
            for row in rows {
                let row = &row.content;
                if row.len() != width {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "VALUES lists must all be the same length",
                    )
                    .at(row.first().and_then(|e| this.position(e))));
                }
                let extra = row.get(targets.len()).and_then(|e| this.position(e));
                this.check_width(targets, listed, row.len(), extra)?;
                let mut given = Vec::with_capacity(row.len());
                for expr in row {
                    given.push(match is_default(expr) {
                        true => None,
                        false => {
                            let position = this.position(expr);
                            Some((this.expr(expr)?, position))
                        }
                    });
                }
                out.push(this.insert_row(table, targets, given)?);
            }
            Ok(())
        })?;
        Ok(Plan::Values { rows: out, columns: row_columns(table) })
    }

    fn check_width(
        &self,
        targets: &[usize],
        listed: &[ast::ObjectName],
        width: usize,
        extra: Option<u32>,
    ) -> Result<()> {
        if width > targets.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "INSERT has more expressions than target columns",
            )
            .at(extra));
        }
        if let (Some(missing), true) = (listed.get(width), width < targets.len()) {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "INSERT has more target columns than expressions",
            )
            .at(self.position(missing)));
        }
        Ok(())
    }

    /// A whole row of the table from the values that are given; `None` is DEFAULT.
    fn insert_row(
        &mut self,
        table: &Arc<TableDescriptor>,
        targets: &[usize],
        given: Vec<Option<(Expr, Option<u32>)>>,
    ) -> Result<Vec<Expr>> {
        let mut row: Vec<Option<Expr>> = vec![None; table.columns.len()];
        for (value, target) in given.into_iter().zip(targets) {
            let column = &table.columns[*target];
            row[*target] = match value {
                Some((expr, position)) => Some(self.assign(expr, &column.name, column.ty, position)?),
                None => None,
            };
        }
        row.into_iter()
            .enumerate()
            .map(|(i, value)| match value {
                Some(value) => Ok(value),
                None => self.default_of(table, i),
            })
            .collect()
    }

    fn default_row(&mut self, table: &Arc<TableDescriptor>) -> Result<Plan> {
        let row = (0..table.columns.len()).map(|i| self.default_of(table, i)).collect::<Result<Vec<_>>>()?;
        Ok(Plan::Values { rows: vec![row], columns: row_columns(table) })
    }

    /// A column's default.
    pub(super) fn default_of(&mut self, table: &TableDescriptor, column: usize) -> Result<Expr> {
        let column = &table.columns[column];
        match &column.default {
            None => Ok(Expr::Const(Datum::Null, column.ty)),
            Some(text) => super::bind_default(text, &column.name, column.ty, self.catalog, self.eval),
        }
    }

    /// The constraints that the target of ON CONFLICT names; without one, all.
    fn arbiters(&self, table: &TableDescriptor, target: Option<&ast::ConflictTarget>) -> Result<Vec<usize>> {
        // (A key's place is that of its UNIQUE constraint or index, from 1 on.)
        let mut keys = table.keys().map(|key| (key.unique.map_or(0, |at| at + 1), key));
        match target {
            None => Ok(keys.map(|(at, _)| at).collect()),
            Some(ast::ConflictTarget::Columns(names)) => {
                let mut columns = Vec::with_capacity(names.len());
                for name in names {
                    let position = self.source.start(name.span);
                    columns.push(column_index(table, &fold(name)).map_err(|e| e.at(position))?);
                }
                columns.sort_unstable();
                columns.dedup();
                let sorted = |of: &[usize]| {
                    let mut of = of.to_vec();
                    of.sort_unstable();
                    of
                };
                let found: Vec<usize> =
                    keys.filter(|(_, key)| sorted(key.columns) == columns).map(|(at, _)| at).collect();
                if found.is_empty() {
                    return Err(SqlError::new(
                        SqlState::INVALID_COLUMN_REFERENCE,
                        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                    ));
                }
                Ok(found)
            }
            Some(ast::ConflictTarget::OnConstraint(name)) => {
                let (_, name) = super::scope::table_name(name)?;
                match keys.find(|(_, key)| key.name == name && !key.index_only) {
                    Some((at, _)) => Ok(vec![at]),
                    None => Err(SqlError::new(
                        SqlState::UNDEFINED_OBJECT,
                        format!("constraint \"{name}\" for table \"{}\" does not exist", table.name),
                    )),
                }
            }
        }
    }

    /// What ON CONFLICT does.
    fn on_conflict(
        &mut self,
        table: &Arc<TableDescriptor>,
        alias: &str,
        conflict: &ast::OnConflict,
    ) -> Result<OnConflict> {
        let ast::OnConflict { conflict_target, action } = conflict;
        let ast::DoUpdate { assignments, selection } = match action {
            OnConflictAction::DoNothing => return Ok(OnConflict::Nothing),
            OnConflictAction::DoUpdate(update) => update,
        };
        if conflict_target.is_none() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            )
            .hint("For example, ON CONFLICT (column_name)."));
        }
        // The row is the existing one, followed by the proposed one.
        let mut scope = table_scope(table, alias);
        let mut excluded = table_scope(table, "excluded");
        excluded.shift(scope.columns.len());
        scope.columns.extend(excluded.columns);
        scope.relations.extend(excluded.relations);
        // An unqualified name could mean either.
        scope.visible.extend(excluded.visible);
        self.in_level(LevelKind::Root, |this| {
            this.level().scope = scope;
            this.level().clause = Clause::Update;
            let assignments = this.assignments(table, alias, assignments)?;
            let filter = match selection {
                Some(selection) => {
                    Some(this.in_clause(Clause::Where, |this| this.condition(selection, "WHERE"))?)
                }
                None => None,
            };
            Ok(OnConflict::Update { assignments, filter })
        })
    }

    /// RETURNING over a scope.
    pub(super) fn returning(&mut self, scope: Scope, items: &[ast::SelectItem]) -> Result<Returning> {
        self.in_level(LevelKind::Root, |this| {
            let origins: Vec<_> = scope.columns.iter().map(|c| c.origin).collect();
            this.level().scope = scope;
            let items = this.items(items, Clause::Returning)?;
            let mut exprs = Vec::with_capacity(items.len());
            let mut columns = Vec::with_capacity(items.len());
            for item in items {
                let expr = this.known(item.expr, item.position)?;
                let origin = match &expr {
                    Expr::Column(i, _) => origins.get(*i).copied().flatten(),
                    _ => None,
                };
                columns.push(OutputColumn { name: item.name, ty: expr.ty(), origin });
                exprs.push(expr);
            }
            Ok(Returning { exprs, columns })
        })
    }
}

/// `DEFAULT` in place of a value.
pub(super) fn is_default(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

/// The index of a table's column, or `42703`.
pub(super) fn column_index(table: &TableDescriptor, name: &str) -> Result<usize> {
    table.columns.iter().position(|c| c.name == name).ok_or_else(|| {
        SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" of relation \"{}\" does not exist", table.name),
        )
    })
}

fn row_columns(table: &TableDescriptor) -> Vec<OutputColumn> {
    table.columns.iter().map(|c| OutputColumn { name: c.name.clone(), ty: c.ty, origin: None }).collect()
}

/// The names of a table's row.
pub(super) fn table_scope(table: &Arc<TableDescriptor>, alias: &str) -> Scope {
    let scan = super::from::scan_of(table, false);
    let schema = (alias == table.name).then(|| table.schema.clone());
    let mut scope = Scope::of(alias, schema, &scan.columns);
    for Relation { table: stored, .. } in &mut scope.relations {
        *stored = Some((table.clone(), 0));
    }
    scope
}
