//! ORDER BY, DISTINCT ON, LIMIT: keys and counts.

use sqlparser::ast::{self, LimitClause};

use super::Item;
use crate::bind::scope::fold;
use crate::bind::{Binder, Clause, LevelKind, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::function::CastContext;
use crate::ir::{Expr, Plan, SortKey};
use crate::types::{Datum, Type};

/// A key of ORDER BY or DISTINCT ON: an item of the select list, or something else over the same row.
pub(super) enum Key {
    Item(usize),
    Other(Expr, Option<u32>),
}

impl Binder<'_> {
    /// The sort's keys, those of DISTINCT ON first.
    pub(in crate::bind) fn directions(
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
    pub(super) fn hidden(&mut self, key: Key, items: &mut Vec<Item>, visible: usize) -> Result<usize> {
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
    pub(super) fn sort_key(&mut self, expr: &ast::Expr, items: &[Item], names: bool) -> Result<Key> {
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
    pub(super) fn ordinal(&self, value: &ast::ValueWithSpan, count: usize, clause: &str) -> Result<usize> {
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

    /// ORDER BY of what is no plain SELECT: only output columns can be named.
    pub(super) fn sort_output(
        &mut self,
        plan: Plan,
        order_by: &[ast::OrderByExpr],
        kind: LevelKind,
    ) -> Result<Plan> {
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
    pub(super) fn limit(
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
        let mut plan = plan;
        if let Plan::LockRows(node) = &mut plan {
            (node.limit, node.offset) = (limit.clone(), offset.clone());
        }
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

/// Descending, nulls first.
pub(in crate::bind) fn direction(options: &ast::OrderByOptions) -> (bool, bool) {
    let ast::OrderByOptions { asc, nulls_first } = options;
    let descending = *asc == Some(false);
    (descending, nulls_first.unwrap_or(descending))
}

pub(super) fn sort_keys(order_by: Option<&ast::OrderBy>) -> Result<&[ast::OrderByExpr]> {
    let Some(ast::OrderBy { kind, interpolate }) = order_by else { return Ok(&[]) };
    refuse(interpolate.is_some(), "INTERPOLATE")?;
    match kind {
        ast::OrderByKind::Expressions(exprs) => Ok(exprs),
        ast::OrderByKind::All(_) => Err(SqlError::unsupported("ORDER BY ALL")),
    }
}
