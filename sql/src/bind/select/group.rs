//! GROUP BY.

use sqlparser::ast::{self, GroupByExpr};

use super::Item;
use crate::bind::function::Call;
use crate::bind::scope::{fold, fold_part};
use crate::bind::{AGGREGATE, Binder, Clause, GROUPING, SERIES, WINDOW};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;
use crate::types::{ColumnType, Type};

/// Grouping sets of one query; each is an aggregation of its own.
const SETS_MAX: usize = 64;
const GROUPING_ARGS_MAX: usize = 31;

/// What a query is grouped by.
pub(super) struct GroupKeys {
    /// Every key once.
    pub keys: Vec<Expr>,
    /// With GROUPING SETS, ROLLUP or CUBE: the keys of each set.
    pub sets: Option<Vec<Vec<usize>>>,
}

impl Binder<'_> {
    /// The keys of GROUP BY over FROM's row, and the sets of them that are grouped by.
    pub(super) fn group_keys(&mut self, group_by: &GroupByExpr, items: &[Item]) -> Result<GroupKeys> {
        let exprs = match group_by {
            GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs,
            GroupByExpr::Expressions(..) => return Err(SqlError::unsupported("a modifier of GROUP BY")),
            GroupByExpr::All(_) => return Err(SqlError::unsupported("GROUP BY ALL")),
        };
        let mut keys: Vec<Expr> = Vec::new();
        // Several items mean every combination of their sets.
        let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
        let mut plain = true;
        for expr in exprs {
            let alternatives = match expr {
                ast::Expr::Tuple(columns) => vec![self.group_set(columns, items, &mut keys)?],
                ast::Expr::GroupingSets(elements) => self.group_sets(elements, items, &mut keys)?,
                ast::Expr::Rollup(elements) => {
                    let elements = self.group_sets(elements, items, &mut keys)?;
                    (0..=elements.len()).rev().map(|n| elements[..n].concat()).collect()
                }
                ast::Expr::Cube(elements) => {
                    let elements = self.group_sets(elements, items, &mut keys)?;
                    if 1_usize.checked_shl(elements.len() as u32).is_none_or(|n| n > SETS_MAX) {
                        return Err(too_many_sets().at(self.position(expr)));
                    }
                    let chosen = |bits: usize| {
                        let set = elements.iter().enumerate().filter(|(i, _)| bits & (1 << i) == 0);
                        set.flat_map(|(_, element)| element.iter().copied()).collect()
                    };
                    (0..1 << elements.len()).map(chosen).collect()
                }
                other => vec![self.group_set(std::slice::from_ref(other), items, &mut keys)?],
            };
            plain &= !matches!(expr, ast::Expr::GroupingSets(_) | ast::Expr::Rollup(_) | ast::Expr::Cube(_));
            if sets.len().saturating_mul(alternatives.len()) > SETS_MAX {
                return Err(too_many_sets().at(self.position(expr)));
            }
            sets = sets
                .iter()
                .flat_map(|set| alternatives.iter().map(move |more| [set.as_slice(), more].concat()))
                .collect();
        }
        for set in &mut sets {
            set.sort_unstable();
            set.dedup();
        }
        Ok(GroupKeys { keys, sets: (!plain).then_some(sets) })
    }

    fn group_sets(
        &mut self,
        elements: &[Vec<ast::Expr>],
        items: &[Item],
        keys: &mut Vec<Expr>,
    ) -> Result<Vec<Vec<usize>>> {
        elements.iter().map(|element| self.group_set(element, items, keys)).collect()
    }

    /// The keys, to which new ones are added, that these expressions are.
    fn group_set(&mut self, exprs: &[ast::Expr], items: &[Item], keys: &mut Vec<Expr>) -> Result<Vec<usize>> {
        let mut set = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let position = self.position(expr);
            if let ast::Expr::Function(function) = expr
                && let Some(name) = function.name.0.last()
                && matches!(fold_part(name).as_deref(), Ok("rollup" | "cube"))
            {
                return Err(SqlError::unsupported("ROLLUP or CUBE within GROUPING SETS").at(position));
            }
            let key = self.in_clause(Clause::GroupBy, |this| this.group_key(expr, items))?;
            let key = self.known(key, position)?;
            let text = format!("{key:?}");
            set.push(match keys.iter().position(|k| format!("{k:?}") == text) {
                Some(index) => index,
                None => {
                    keys.push(key);
                    keys.len() - 1
                }
            });
        }
        Ok(set)
    }

    /// `GROUPING(a, b)`: which of these keys a row is not grouped by, as bits. A placeholder, as for aggregates.
    pub(in crate::bind) fn grouping_call(&mut self, call: &Call<'_>) -> Result<Expr> {
        let clause = self.level().clause;
        if !clause.aggregates_allowed() || self.level().in_aggregate {
            return Err(SqlError::new(
                SqlState::GROUPING_ERROR,
                format!("grouping operations are not allowed in {}", clause.name()),
            )
            .at(call.position));
        }
        if call.args.len() > GROUPING_ARGS_MAX {
            return Err(SqlError::new(
                SqlState::TOO_MANY_ARGUMENTS,
                "GROUPING must have fewer than 32 arguments",
            )
            .at(call.position));
        }
        let positions: Vec<Option<u32>> = call.args.iter().map(|a| self.position(*a)).collect();
        let args = self.exprs(&call.args)?.into_iter().zip(positions).collect();
        let groupings = &mut self.level().groupings;
        groupings.push(args);
        Ok(Expr::Column(GROUPING + groupings.len() - 1, ColumnType::plain(Type::Int4)))
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
                        i if i >= GROUPING => Some((SqlState::GROUPING_ERROR, "grouping operations")),
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

fn too_many_sets() -> SqlError {
    SqlError::unsupported(format_args!("a query with more than {SETS_MAX} grouping sets"))
}
