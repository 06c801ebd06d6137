//! GROUP BY.

use sqlparser::ast::{self, GroupByExpr};

use super::Item;
use crate::bind::scope::fold;
use crate::bind::{AGGREGATE, Binder, Clause, SERIES, WINDOW};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;

impl Binder<'_> {
    /// The keys of GROUP BY over FROM's row.
    pub(super) fn group_keys(&mut self, group_by: &GroupByExpr, items: &[Item]) -> Result<Vec<Expr>> {
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
}

/// `GROUP BY ()` groups, though there are no keys.
pub(super) fn group_all(group_by: &GroupByExpr) -> bool {
    matches!(group_by, GroupByExpr::Expressions(exprs, _) if !exprs.is_empty())
}
