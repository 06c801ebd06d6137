//! Queries: SELECT with all its clauses, VALUES, TABLE.

use sqlparser::ast::{self, GroupByExpr, LimitClause, SelectItem, SetExpr};

use super::aggregate::Grouping;
use super::scope::{Named, fold};
use super::{AGGREGATE, Binder, Clause, Level, LevelKind, SERIES, WINDOW, dialect, place, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::function::CastContext;
use crate::ir::{Expr, JoinKind, OutputColumn, Plan, SortKey};
use crate::types::{ColumnType, Datum, Type};

/// An item of a select list.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub expr: Expr,
    pub name: String,
    pub position: Option<u32>,
}

/// A key of ORDER BY or DISTINCT ON: an item of the select list, or something else over the same row.
enum Key {
    Item(usize),
    Other(Expr, Option<u32>),
}

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
        if let Some(lock) = locks.first() {
            let what = match lock.lock_type {
                ast::LockType::Update => "FOR UPDATE",
                ast::LockType::Share => "FOR SHARE",
            };
            return Err(SqlError::unsupported(what));
        }
        refuse(for_clause.is_some(), "FOR XML and FOR JSON")?;
        refuse(settings.is_some(), "SETTINGS")?;
        refuse(format_clause.is_some(), "FORMAT")?;
        refuse(!pipe_operators.is_empty(), "a pipe operator")?;
        let ctes = match with {
            Some(with) => self.with(with, kind)?,
            None => Vec::new(),
        };
        let plan = self.body(body, order_by.as_ref(), kind, resolve)?;
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
                self.set_operation(left, *op, *set_quantifier, right, kind)?
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
            in_aggregate: _,
            mut windows,
            named_windows: _,
            series,
            references,
        } = level;
        self.level().kind = kind;
        let mut having = having;
        if !group_keys.is_empty() || !aggregates.is_empty() || having.is_some() || group_all(group_by) {
            let mut grouping = Grouping::new(group_keys, aggregates, &scope, references);
            for item in &mut items {
                grouping.rewrite(&mut item.expr)?;
            }
            for window in &mut windows {
                super::window::exprs_of(window, &mut |e| grouping.rewrite(e))?;
            }
            if let Some(having) = &mut having {
                grouping.rewrite(having)?;
            }
            plan = grouping.plan(plan);
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
        if on.is_empty() && (plain || sort_keys.is_empty()) {
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

    /// The sort's keys, those of DISTINCT ON first.
    fn directions(
        &self,
        order: &[(usize, &ast::OrderByOptions, Option<u32>)],
        on: &[usize],
    ) -> Result<Vec<(usize, bool, bool)>> {
        let mut keys: Vec<(usize, bool, bool)> = Vec::new();
        let mut left: Vec<usize> = on.to_vec();
        for (index, options, position) in order {
            if !left.is_empty() {
                match left.iter().position(|i| i == index) {
                    Some(at) => {
                        left.remove(at);
                    }
                    None if on.contains(index) => {}
                    None => {
                        return Err(SqlError::new(
                            SqlState::INVALID_COLUMN_REFERENCE,
                            "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                        )
                        .at(*position));
                    }
                }
            }
            let (descending, nulls_first) = direction(options);
            if !keys.iter().any(|(i, _, _)| i == index) {
                keys.push((*index, descending, nulls_first));
            }
        }
        keys.extend(left.into_iter().map(|i| (i, false, false)));
        Ok(keys)
    }

    /// The index of a key among the items, to which it is added if need be.
    fn hidden(&mut self, key: Key, items: &mut Vec<Item>, visible: usize) -> Result<usize> {
        match key {
            Key::Item(i) => Ok(i),
            Key::Other(expr, position) => {
                let expr = self.known(expr, position)?;
                let text = format!("{expr:?}");
                // A volatile call is made once for the select list; a key that looks like it means the same value.
                if let Some(i) = items.iter().position(|item| format!("{:?}", item.expr) == text) {
                    return Ok(i);
                }
                let _ = visible;
                items.push(Item { expr, name: "sort".into(), position });
                Ok(items.len() - 1)
            }
        }
    }

    /// What a key of ORDER BY means: an output column's name or number, or an expression.
    fn sort_key(&mut self, expr: &ast::Expr, items: &[Item], names: bool) -> Result<Key> {
        let position = self.position(expr);
        let clause = self.level().clause.name();
        match expr {
            ast::Expr::Identifier(ident) if names => {
                let name = fold(ident);
                let mut found: Option<usize> = None;
                for (i, item) in items.iter().enumerate().filter(|(_, item)| item.name == name) {
                    match found {
                        None => found = Some(i),
                        Some(first) if format!("{:?}", items[first].expr) == format!("{:?}", item.expr) => {}
                        Some(_) => {
                            return Err(SqlError::new(
                                SqlState::AMBIGUOUS_COLUMN,
                                format!("{clause} \"{name}\" is ambiguous"),
                            )
                            .at(position));
                        }
                    }
                }
                if let Some(i) = found {
                    return Ok(Key::Item(i));
                }
            }
            ast::Expr::Value(value) => return self.ordinal(value, items.len(), clause).map(Key::Item),
            _ => {}
        }
        let bound = self.expr(expr)?;
        Ok(Key::Other(bound, position))
    }

    /// `ORDER BY 1`
    fn ordinal(&self, value: &ast::ValueWithSpan, count: usize, clause: &str) -> Result<usize> {
        let position = self.source.start(value.span);
        match &value.value {
            ast::Value::Number(digits, false) if digits.parse::<i64>().is_ok() => {
                let n: i64 = digits.parse().unwrap_or(0);
                match usize::try_from(n) {
                    Ok(n) if (1..=count).contains(&n) => Ok(n - 1),
                    _ => Err(SqlError::new(
                        SqlState::INVALID_COLUMN_REFERENCE,
                        format!("{clause} position {n} is not in select list"),
                    )
                    .at(position)),
                }
            }
            _ => Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("non-integer constant in {clause}"))
                .at(position)),
        }
    }

    /// The keys of GROUP BY over FROM's row.
    fn group_keys(&mut self, group_by: &GroupByExpr, items: &[Item]) -> Result<Vec<Expr>> {
        let exprs = match group_by {
            GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs,
            GroupByExpr::Expressions(..) => return Err(SqlError::unsupported("a modifier of GROUP BY")),
            GroupByExpr::All(_) => return Err(SqlError::unsupported("GROUP BY ALL")),
        };
        let mut keys: Vec<Expr> = Vec::new();
        for expr in exprs {
            let position = self.position(expr);
            if matches!(expr, ast::Expr::Rollup(_) | ast::Expr::Cube(_) | ast::Expr::GroupingSets(_)) {
                return Err(SqlError::unsupported("GROUPING SETS, ROLLUP and CUBE").at(position));
            }
            if matches!(expr, ast::Expr::Tuple(columns) if columns.is_empty()) {
                continue;
            }
            let several: Vec<&ast::Expr> = match expr {
                ast::Expr::Tuple(columns) => columns.iter().collect(),
                expr => vec![expr],
            };
            for expr in several {
                let key = self.in_clause(Clause::GroupBy, |this| this.group_key(expr, items))?;
                let key = self.known(key, position)?;
                if !keys.iter().any(|k| format!("{k:?}") == format!("{key:?}")) {
                    keys.push(key);
                }
            }
        }
        Ok(keys)
    }

    fn group_key(&mut self, expr: &ast::Expr, items: &[Item]) -> Result<Expr> {
        let check = |item: &Item| {
            let mut found = None;
            item.expr.any(&mut |e| {
                if let Expr::Column(i, _) = e {
                    found = match *i {
                        i if i >= SERIES => {
                            Some((SqlState::FEATURE_NOT_SUPPORTED, "set-returning functions"))
                        }
                        i if i >= WINDOW => Some((SqlState::WINDOWING_ERROR, "window functions")),
                        i if i >= AGGREGATE => Some((SqlState::GROUPING_ERROR, "aggregate functions")),
                        _ => None,
                    };
                }
                found.is_some()
            });
            match found {
                None => Ok(item.expr.clone()),
                Some((state, what)) => {
                    Err(SqlError::new(state, format!("{what} are not allowed in GROUP BY")).at(item.position))
                }
            }
        };
        match expr {
            ast::Expr::Identifier(ident) => {
                // Other than in ORDER BY, a column of FROM goes before one of the select list.
                let name = fold(ident);
                let visible = self.level().scope.visible.iter().filter(|c| c.name == name).count();
                if visible == 0 {
                    let mut found = items.iter().filter(|item| item.name == name);
                    if let Some(item) = found.next() {
                        return check(item);
                    }
                }
                self.expr(expr)
            }
            ast::Expr::Value(value) => {
                let i = self.ordinal(value, items.len(), "GROUP BY")?;
                check(&items[i])
            }
            _ => self.expr(expr),
        }
    }

    /// A select list or RETURNING list.
    pub(super) fn items(&mut self, projection: &[SelectItem], clause: Clause) -> Result<Vec<Item>> {
        let mut items = Vec::with_capacity(projection.len());
        for item in projection {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let position = self.position(expr);
                    let bound = self.in_clause(clause, |this| this.expr(expr))?;
                    let name = match column_name(expr) {
                        Some(name) => name,
                        None => match (&bound, expr) {
                            (
                                Expr::Subquery { plan, kind: crate::ir::SubqueryKind::Scalar, .. },
                                ast::Expr::Subquery(_),
                            ) => plan.columns()[0].name.clone(),
                            _ => "?column?".into(),
                        },
                    };
                    items.push(Item { expr: bound, name, position });
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    let position = self.position(expr);
                    let bound = self.in_clause(clause, |this| this.expr(expr))?;
                    let name = super::scope::alias(alias).map_err(|e| e.at(self.source.start(alias.span)))?;
                    items.push(Item { expr: bound, name, position });
                }
                SelectItem::ExprWithAliases { .. } => {
                    return Err(SqlError::unsupported("several aliases for one expression"));
                }
                SelectItem::Wildcard(options) => {
                    check_wildcard(options)?;
                    let position = self.source.start(options.wildcard_token.0.span);
                    let scope = &self.level().scope;
                    if scope.relations.is_empty() {
                        return Err(SqlError::new(
                            SqlState::SYNTAX_ERROR,
                            "SELECT * with no tables specified is not valid",
                        )
                        .at(position));
                    }
                    let columns = scope.visible.clone();
                    self.expand(columns, position, &mut items);
                }
                SelectItem::QualifiedWildcard(kind, options) => {
                    check_wildcard(options)?;
                    let ast::SelectItemQualifiedWildcardKind::ObjectName(name) = kind else {
                        return Err(SqlError::unsupported("the columns of an expression"));
                    };
                    let position = self.position(name);
                    let (schema, table) = super::scope::table_name(name)?;
                    let found = self.level().scope.relations.iter().find(|r| {
                        r.name == table && schema.as_ref().is_none_or(|s| r.schema.as_ref() == Some(s))
                    });
                    let Some(relation) = found else {
                        return Err(SqlError::new(
                            SqlState::UNDEFINED_TABLE,
                            format!("missing FROM-clause entry for table \"{table}\""),
                        )
                        .at(position));
                    };
                    let columns = relation.columns.clone();
                    self.expand(columns, position, &mut items);
                }
            }
        }
        Ok(items)
    }

    fn expand(&mut self, columns: Vec<Named>, position: Option<u32>, items: &mut Vec<Item>) {
        for column in columns {
            if let (Expr::Column(i, _), Some(at)) = (&column.expr, self.levels.len().checked_sub(1)) {
                self.note_reference(at, *i, position);
            }
            items.push(Item { expr: column.expr, name: column.name, position });
        }
    }

    fn origin(&mut self, expr: &Expr) -> Option<(u32, i16)> {
        match expr {
            Expr::Column(i, _) => self.level().scope.columns.get(*i).and_then(|c| c.origin),
            _ => None,
        }
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

    /// ORDER BY of what is no plain SELECT: only output columns can be named.
    fn sort_output(&mut self, plan: Plan, order_by: &[ast::OrderByExpr], kind: LevelKind) -> Result<Plan> {
        if order_by.is_empty() {
            return Ok(plan);
        }
        let columns = plan.columns().to_vec();
        let items: Vec<Item> = columns
            .iter()
            .enumerate()
            .map(|(i, c)| Item { expr: Expr::Column(i, c.ty), name: c.name.clone(), position: None })
            .collect();
        let keys = self.in_level(kind, |this| {
            this.level().clause = Clause::OrderBy;
            let mut keys = Vec::with_capacity(order_by.len());
            for ast::OrderByExpr { expr, options, with_fill } in order_by {
                refuse(with_fill.is_some(), "WITH FILL")?;
                let position = this.position(expr);
                let found = this.sort_key(expr, &items, true)?;
                let Key::Item(i) = found else {
                    return Err(SqlError::new(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        "invalid UNION/INTERSECT/EXCEPT ORDER BY clause",
                    )
                    .detail("Only result column names can be used, not expressions or functions.")
                    .hint(
                        "Add the expression/function to every SELECT, or move the UNION into a FROM clause.",
                    )
                    .at(position));
                };
                let (descending, nulls_first) = direction(options);
                keys.push(SortKey { expr: Expr::Column(i, columns[i].ty), descending, nulls_first });
            }
            Ok(keys)
        })?;
        Ok(Plan::Sort { input: Box::new(plan), keys })
    }

    /// LIMIT, OFFSET, FETCH FIRST.
    fn limit(
        &mut self,
        plan: Plan,
        clause: Option<&LimitClause>,
        fetch: Option<&ast::Fetch>,
        kind: LevelKind,
    ) -> Result<Plan> {
        let (mut limit, offset) = match clause {
            None => (None, None),
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
                refuse(!limit_by.is_empty(), "LIMIT BY")?;
                (limit.as_ref(), offset.as_ref().map(|o| &o.value))
            }
            Some(LimitClause::OffsetCommaLimit { offset, .. }) => {
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, "LIMIT #,# syntax is not supported")
                    .hint("Use separate LIMIT and OFFSET clauses.")
                    .at(self.position(offset)));
            }
        };
        let one;
        if let Some(ast::Fetch { with_ties, percent, quantity }) = fetch {
            refuse(*with_ties, "WITH TIES")?;
            refuse(*percent, "PERCENT in FETCH FIRST")?;
            if limit.is_some() {
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, "multiple LIMIT clauses not allowed"));
            }
            limit = match quantity {
                Some(quantity) => Some(quantity),
                None => {
                    one = ast::Expr::value(ast::Value::Number("1".into(), false));
                    Some(&one)
                }
            };
        }
        let limit = self.row_count(limit, Clause::Limit, kind)?;
        let offset = self.row_count(offset, Clause::Offset, kind)?;
        Ok(match (&limit, &offset) {
            (None, None) => plan,
            _ => Plan::Limit { input: Box::new(plan), limit, offset },
        })
    }

    fn row_count(
        &mut self,
        expr: Option<&ast::Expr>,
        clause: Clause,
        kind: LevelKind,
    ) -> Result<Option<Expr>> {
        let Some(expr) = expr else { return Ok(None) };
        // LIMIT ALL
        if matches!(expr, ast::Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("all"))
        {
            return Ok(None);
        }
        let position = self.position(expr);
        let kind = if kind == LevelKind::Root { LevelKind::Root } else { kind };
        let count = self.in_level(kind, |this| {
            this.level().clause = clause;
            this.expr(expr)
        });
        let count = count.map_err(|e| match e.state {
            // Of this query's own columns none can be meant.
            SqlState::UNDEFINED_COLUMN => SqlError::new(
                SqlState::INVALID_COLUMN_REFERENCE,
                format!("argument of {} must not contain variables", clause.name()),
            )
            .at(e.position),
            _ => e,
        })?;
        let from = count.ty().ty;
        let count = self.coerce(count, Type::Int8, CastContext::Assignment, position)?.ok_or_else(|| {
            SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("argument of {} must be type bigint, not type {from}", clause.name()),
            )
            .at(position)
        })?;
        if let Expr::Const(Datum::Int8(n), _) = &count
            && *n < 0
        {
            let state = match clause {
                Clause::Limit => SqlState::INVALID_ROW_COUNT_IN_LIMIT_CLAUSE,
                _ => SqlState::INVALID_ROW_COUNT_IN_RESULT_OFFSET_CLAUSE,
            };
            return Err(SqlError::new(state, format!("{} must not be negative", clause.name())));
        }
        Ok(Some(count))
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

/// `GROUP BY ()` groups, though there are no keys.
fn group_all(group_by: &GroupByExpr) -> bool {
    matches!(group_by, GroupByExpr::Expressions(exprs, _) if !exprs.is_empty())
}

/// Descending, nulls first.
pub(super) fn direction(options: &ast::OrderByOptions) -> (bool, bool) {
    let ast::OrderByOptions { asc, nulls_first } = options;
    let descending = *asc == Some(false);
    (descending, nulls_first.unwrap_or(descending))
}

fn sort_keys(order_by: Option<&ast::OrderBy>) -> Result<&[ast::OrderByExpr]> {
    let Some(ast::OrderBy { kind, interpolate }) = order_by else { return Ok(&[]) };
    refuse(interpolate.is_some(), "INTERPOLATE")?;
    match kind {
        ast::OrderByKind::Expressions(exprs) => Ok(exprs),
        ast::OrderByKind::All(_) => Err(SqlError::unsupported("ORDER BY ALL")),
    }
}

fn check_wildcard(options: &ast::WildcardAdditionalOptions) -> Result<()> {
    let ast::WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except,
        opt_replace,
        opt_rename,
        opt_alias,
    } = options;
    refuse(
        opt_ilike.is_some()
            || opt_exclude.is_some()
            || opt_except.is_some()
            || opt_replace.is_some()
            || opt_rename.is_some()
            || opt_alias.is_some(),
        "a modifier of *",
    )
}

/// What PostgreSQL calls an output column without an alias (`FigureColname`); `None`: `?column?`, or a subquery.
pub(super) fn column_name(expr: &ast::Expr) -> Option<String> {
    strong_name(expr).or_else(|| weak_name(expr))
}

/// Names that win over the name of a type.
fn strong_name(expr: &ast::Expr) -> Option<String> {
    use ast::Expr as E;
    let name = match expr {
        E::Identifier(ident) => return Some(fold(ident)),
        E::CompoundIdentifier(parts) => return parts.last().map(fold),
        E::Nested(inner) => return strong_name(inner),
        E::Collate { expr, .. } => return strong_name(expr),
        E::Cast { expr, .. } => return strong_name(expr),
        E::Function(function) => {
            return function.name.0.last().and_then(|part| super::scope::fold_part(part).ok());
        }
        E::AtTimeZone { .. } => "timezone",
        E::Extract { .. } => "extract",
        E::Ceil { .. } => "ceil",
        E::Floor { .. } => "floor",
        E::Position { .. } => "position",
        E::Substring { shorthand: true, .. } => "substr",
        E::Substring { shorthand: false, .. } => "substring",
        E::Overlay { .. } => "overlay",
        E::Trim { trim_where, .. } => match trim_where {
            None | Some(ast::TrimWhereField::Both) => "btrim",
            Some(ast::TrimWhereField::Leading) => "ltrim",
            Some(ast::TrimWhereField::Trailing) => "rtrim",
        },
        E::Exists { negated: false, .. } => "exists",
        E::Array(_) => "array",
        E::Case { else_result: Some(otherwise), .. } => return strong_name(otherwise),
        _ => return None,
    };
    Some(name.into())
}

fn weak_name(expr: &ast::Expr) -> Option<String> {
    use ast::Expr as E;
    match expr {
        E::Nested(inner) => weak_name(inner),
        E::Collate { expr, .. } => weak_name(expr),
        E::Cast { data_type, .. } => type_name(data_type),
        E::TypedString(ast::TypedString { data_type, .. }) => type_name(data_type),
        E::Interval(_) => Some("interval".into()),
        E::Case { .. } => Some("case".into()),
        _ => None,
    }
}

fn type_name(data_type: &ast::DataType) -> Option<String> {
    match data_type {
        ast::DataType::Regclass => Some("regclass".into()),
        other => super::data_type::resolve(other).ok().map(|ty| ty.ty.internal_name().into()),
    }
}
