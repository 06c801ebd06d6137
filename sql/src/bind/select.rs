//! Queries: SELECT with all its clauses, VALUES, TABLE.

mod group;
mod list;
mod order;

use sqlparser::ast::{self, SetExpr};

pub(super) use list::Item;
pub(super) use order::direction;

use super::aggregate::Grouping;
use super::{AGGREGATE, Binder, Clause, Level, LevelKind, SERIES, WINDOW, dialect, place, refuse};
use group::group_all;
use order::{Key, sort_keys};

use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Expr, JoinKind, OutputColumn, Plan, SortKey};
use crate::types::{ColumnType, Datum, Type};

impl Binder<'_> {
    /// Binds a query whose columns all have known types.
    pub(super) fn query(&mut self, query: &ast::Query, kind: LevelKind) -> Result<Plan> {
        self.query_with(query, kind, true)
    }

    /// Binds a query. Without `resolve`, columns of untyped literals stay unknown: the caller says what they are.
    pub(super) fn query_with(&mut self, query: &ast::Query, kind: LevelKind, resolve: bool) -> Result<Plan> {
        self.deeper(|this| {
            let ctes = this.ctes.len();
            let result = this.query_here(query, kind, resolve);
            this.ctes.truncate(ctes);
            result
        })
    }

    fn query_here(&mut self, query: &ast::Query, kind: LevelKind, resolve: bool) -> Result<Plan> {
        let ast::Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        refuse(for_clause.is_some(), "FOR XML and FOR JSON")?;
        refuse(settings.is_some(), "SETTINGS")?;
        refuse(format_clause.is_some(), "FORMAT")?;
        refuse(!pipe_operators.is_empty(), "a pipe operator")?;
        let inherited = self.inherited.take();
        let ctes = match with {
            Some(with) => self.in_part(|this| this.with(with, kind))?,
            None => Vec::new(),
        };
        self.enter_locking(locks, inherited)?;
        let plan = self.body(body, order_by.as_ref(), kind, resolve);
        let plan = self.leave_locking(body, plan)?;
        let plan = self.limit(plan, limit_clause.as_ref(), fetch.as_ref(), kind)?;
        Ok(match ctes.is_empty() {
            true => plan,
            false => Plan::With { ctes, body: Box::new(plan) },
        })
    }

    fn body(
        &mut self,
        body: &SetExpr,
        order_by: Option<&ast::OrderBy>,
        kind: LevelKind,
        resolve: bool,
    ) -> Result<Plan> {
        let plan = match body {
            SetExpr::Select(select) => {
                let keys = sort_keys(order_by)?;
                return self.in_level(kind, |this| this.select(select, keys, resolve));
            }
            SetExpr::Query(query) => self.query_with(query, kind, resolve)?,
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                self.in_part(|this| this.set_operation(left, *op, *set_quantifier, right, kind))?
            }
            SetExpr::Values(values) => self.values(values, kind, resolve)?,
            SetExpr::Table(table) => {
                let ast::Table { table_name, schema_name } = table.as_ref();
                let Some(name) = table_name else { return Err(SqlError::internal("TABLE without a name")) };
                if name
                    .bytes()
                    .chain(schema_name.iter().flat_map(|s| s.bytes()))
                    .any(|b| b.is_ascii_uppercase())
                {
                    // The tree does not say whether it was quoted.
                    return Err(
                        SqlError::unsupported("TABLE with a name in upper case").hint("Write SELECT * FROM.")
                    );
                }
                let parts = schema_name.iter().chain([name]).map(|n| ast::Ident::new(n.clone()));
                let name = ast::ObjectName::from(parts.collect::<Vec<_>>());
                self.in_level(kind, |this| Ok(this.table(&name, None)?.0))?
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return Err(SqlError::unsupported("a data-modifying statement in WITH"));
            }
        };
        self.sort_output(plan, sort_keys(order_by)?, kind)
    }

    /// The body of a set operation's side, without ORDER BY.
    pub(super) fn side(&mut self, body: &SetExpr, kind: LevelKind) -> Result<Plan> {
        self.deeper(|this| this.body(body, None, kind, false))
    }

    /// `SELECT …` in a level of its own.
    fn select(&mut self, select: &ast::Select, order_by: &[ast::OrderByExpr], resolve: bool) -> Result<Plan> {
        let ast::Select {
            select_token: _,
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        refuse(select_modifiers.is_some(), "a modifier of SELECT")?;
        refuse(top.is_some(), "TOP")?;
        refuse(exclude.is_some(), "EXCLUDE")?;
        if let Some(into) = into {
            return Err(SqlError::unsupported("SELECT INTO")
                .hint("Use CREATE TABLE AS.")
                .at(self.position(&into.name)));
        }
        refuse(!lateral_views.is_empty(), "LATERAL VIEW")?;
        refuse(prewhere.is_some(), "PREWHERE")?;
        refuse(!connect_by.is_empty(), "CONNECT BY")?;
        refuse(!cluster_by.is_empty(), "CLUSTER BY")?;
        refuse(!distribute_by.is_empty(), "DISTRIBUTE BY")?;
        refuse(!sort_by.is_empty(), "SORT BY")?;
        refuse(qualify.is_some(), "QUALIFY")?;
        refuse(value_table_mode.is_some(), "SELECT AS STRUCT")?;
        refuse(!matches!(flavor, ast::SelectFlavor::Standard), "FROM before SELECT")?;

        let (mut plan, scope) = self.from(from)?;
        self.level().scope = scope;
        self.define_windows(named_window)?;
        // In this order errors are met as PostgreSQL meets them.
        let projection = match dialect::is_empty_list(projection) {
            // DISTINCT is only there with a list.
            true if matches!(distinct, Some(ast::Distinct::Distinct | ast::Distinct::On(_))) => {
                let near = if from.is_empty() { ";" } else { "FROM" };
                return Err(self.syntax_error(near, None));
            }
            true => &[],
            false => projection.as_slice(),
        };
        let mut items = self.items(projection, Clause::Select)?;
        let origins: Vec<_> = items.iter().map(|item| self.origin(&item.expr)).collect();
        if let Some(condition) = selection {
            let condition = self.in_clause(Clause::Where, |this| this.condition(condition, "WHERE"))?;
            plan = place::filter(plan, condition);
        }
        let having = match having {
            Some(having) => Some(self.in_clause(Clause::Having, |this| this.condition(having, "HAVING"))?),
            None => None,
        };
        let mut keys = Vec::with_capacity(order_by.len());
        for key in order_by {
            let ast::OrderByExpr { expr, options, with_fill } = key;
            refuse(with_fill.is_some(), "WITH FILL")?;
            let found = self.in_clause(Clause::OrderBy, |this| this.sort_key(expr, &items, true))?;
            keys.push((found, options, expr));
        }
        let group_keys = self.group_keys(group_by, &items)?;
        let (is_distinct, distinct_on) = match distinct {
            None | Some(ast::Distinct::All) => (false, Vec::new()),
            Some(ast::Distinct::Distinct) => (true, Vec::new()),
            Some(ast::Distinct::On(exprs)) => {
                let mut on = Vec::with_capacity(exprs.len());
                for expr in exprs {
                    on.push(self.in_clause(Clause::DistinctOn, |this| this.sort_key(expr, &items, true))?);
                }
                (false, on)
            }
        };
        // What sorts, or tells rows apart, has to have an order.
        for key in keys.iter().map(|(k, _, _)| k).chain(&distinct_on) {
            if let Key::Item(i) = key {
                let item = &mut items[*i];
                let taken = std::mem::replace(&mut item.expr, placeholder());
                item.expr = self.known(taken, item.position)?;
            }
        }
        if resolve || is_distinct {
            for item in &mut items {
                let taken = std::mem::replace(&mut item.expr, placeholder());
                item.expr = self.known(taken, item.position)?;
            }
        }

        // Hidden columns: keys that are not in the select list.
        let visible = items.len();
        let mut order: Vec<(usize, &ast::OrderByOptions, Option<u32>)> = Vec::new();
        for (key, options, expr) in keys {
            let position = self.position(expr);
            let index = self.hidden(key, &mut items, visible)?;
            if is_distinct && index >= visible {
                return Err(SqlError::new(
                    SqlState::INVALID_COLUMN_REFERENCE,
                    "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                )
                .at(position));
            }
            order.push((index, options, position));
        }
        let mut on = Vec::new();
        for key in distinct_on {
            let index = self.hidden(key, &mut items, visible)?;
            if !on.contains(&index) {
                on.push(index);
            }
        }

        // The row changes: FROM → GROUP BY → window calls → set-returning functions → the select list.
        let level = std::mem::replace(self.level(), Level::new(LevelKind::Root));
        let Level {
            kind,
            scope,
            clause: _,
            aggregates,
            groupings,
            in_aggregate: _,
            mut windows,
            named_windows: _,
            series,
            references,
        } = level;
        self.level().kind = kind;
        let mut having = having;
        let grouped = !group_keys.keys.is_empty() || group_all(group_by);
        if grouped || !aggregates.is_empty() || !groupings.is_empty() || having.is_some() {
            let mut grouping = Grouping::new(group_keys.keys, aggregates, &scope, references);
            grouping.in_sets(group_keys.sets, groupings)?;
            for item in &mut items {
                grouping.rewrite(&mut item.expr)?;
            }
            for window in &mut windows {
                super::window::exprs_of(window, &mut |e| grouping.rewrite(e))?;
            }
            if let Some(having) = &mut having {
                grouping.rewrite(having)?;
            }
            plan = grouping.plan(plan, &mut self.next_cte);
            if let Some(having) = having {
                plan = Plan::Filter { input: Box::new(plan), predicate: having };
            }
        }
        if !windows.is_empty() {
            let width = plan.columns().len();
            let mut columns = plan.columns().to_vec();
            for window in &windows {
                columns.push(OutputColumn { name: "window".into(), ty: window.ty, origin: None });
            }
            plan = Plan::Window { input: Box::new(plan), calls: windows, columns };
            for item in &mut items {
                replace_from(&mut item.expr, WINDOW, width);
            }
        }
        for (i, series) in series.into_iter().enumerate() {
            let width = plan.columns().len();
            plan = place::join(JoinKind::Inner, plan, series, None);
            for item in &mut items {
                replace_from(&mut item.expr, SERIES + i, width);
            }
        }

        let sort_keys: Vec<(usize, bool, bool)> = self.directions(&order, &on)?;
        let columns: Vec<OutputColumn> = items
            .iter()
            .enumerate()
            .map(|(i, item)| OutputColumn {
                name: item.name.clone(),
                ty: item.expr.ty(),
                origin: origins.get(i).copied().flatten(),
            })
            .collect();
        for item in &items {
            if item.expr.any(&mut |e| matches!(e, Expr::Column(i, _) if *i >= AGGREGATE)) {
                return Err(SqlError::internal("a placeholder is left"));
            }
        }
        let exprs: Vec<Expr> = items.into_iter().map(|item| item.expr).collect();
        let plain = sort_keys.iter().all(|(i, _, _)| matches!(exprs[*i], Expr::Column(..)));
        // What has an effect has it for the rows that are asked for, in their order; if rows are not sorted by what it gives.
        let late =
            exprs.iter().any(Expr::has_effect) && !sort_keys.iter().any(|(i, _, _)| exprs[*i].is_volatile());
        let finish = |plan: Plan, exprs: Vec<Expr>, n: usize| Plan::Project {
            input: Box::new(plan),
            exprs: exprs.into_iter().take(n).collect(),
            columns: columns.iter().take(n).cloned().collect(),
        };
        let sort = |plan: Plan, key: &dyn Fn(usize) -> Expr| match sort_keys.is_empty() {
            true => plan,
            false => Plan::Sort {
                input: Box::new(plan),
                keys: sort_keys
                    .iter()
                    .map(|(i, descending, nulls_first)| SortKey {
                        expr: key(*i),
                        descending: *descending,
                        nulls_first: *nulls_first,
                    })
                    .collect(),
            },
        };
        if is_distinct {
            let plan = Plan::Distinct { input: Box::new(finish(plan, exprs, visible)) };
            return Ok(sort(plan, &|i| Expr::Column(i, columns[i].ty)));
        }
        if on.is_empty() && (plain || late) {
            // Sorted by stored columns: below the projection, where an order that a key has already is seen.
            let plan = sort(plan, &|i| exprs[i].clone());
            return Ok(finish(plan, exprs, visible));
        }
        let width = exprs.len();
        let mut plan = sort(finish(plan, exprs, width), &|i| Expr::Column(i, columns[i].ty));
        if !on.is_empty() {
            let keys = on.iter().map(|i| Expr::Column(*i, columns[*i].ty)).collect();
            plan = Plan::DistinctOn { input: Box::new(plan), keys };
        }
        if width > visible {
            let exprs =
                columns.iter().take(visible).enumerate().map(|(i, c)| Expr::Column(i, c.ty)).collect();
            plan = finish(plan, exprs, visible);
        }
        Ok(plan)
    }

    /// `VALUES (…), (…)`
    fn values(&mut self, values: &ast::Values, kind: LevelKind, resolve: bool) -> Result<Plan> {
        let ast::Values { explicit_row, value_keyword: _, rows } = values;
        refuse(*explicit_row, "ROW in VALUES")?;
        let width = rows.first().map_or(0, |row| row.content.len());
        let mut columns: Vec<(Vec<Expr>, Vec<Option<u32>>)> = vec![Default::default(); width];
        self.in_level(kind, |this| {
            this.level().clause = Clause::Values;
            for row in rows {
                if row.content.len() != width {
                    let position = row.content.first().and_then(|e| this.position(e));
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "VALUES lists must all be the same length",
                    )
                    .at(position));
                }
                for (expr, column) in row.content.iter().zip(&mut columns) {
                    column.1.push(this.position(expr));
                    column.0.push(this.expr(expr)?);
                }
            }
            Ok(())
        })?;
        let mut out: Vec<Vec<Expr>> = vec![Vec::with_capacity(width); rows.len()];
        let mut names = Vec::with_capacity(width);
        for (i, (exprs, positions)) in columns.into_iter().enumerate() {
            let open = exprs.iter().all(|e| e.ty().ty == Type::Unknown);
            let (exprs, ty) = match open && !resolve {
                true => (exprs, ColumnType::plain(Type::Unknown)),
                false => self.unify("VALUES", exprs, &positions)?,
            };
            names.push(OutputColumn { name: format!("column{}", i + 1), ty, origin: None });
            for (row, expr) in out.iter_mut().zip(exprs) {
                row.push(expr);
            }
        }
        Ok(Plan::Values { rows: out, columns: names })
    }
}

fn placeholder() -> Expr {
    Expr::Const(Datum::Null, ColumnType::plain(Type::Unknown))
}

/// Replaces the placeholders from `base` on by columns from `to` on.
fn replace_from(expr: &mut Expr, base: usize, to: usize) {
    let end = base + (1 << 20);
    expr.replace_columns(&mut |i, ty| match (base..end).contains(&i) {
        true => Expr::Column(i - base + to, ty),
        false => Expr::Column(i, ty),
    });
}
