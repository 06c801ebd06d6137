//! WITH, also RECURSIVE.

use std::sync::Arc;

use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};

use super::scope::fold;
use super::{Binder, LevelKind, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::walk::reads_cte;
use crate::ir::{Cte, JoinKind, OutputColumn, Plan, SetOp};
use crate::types::{ColumnType, Type};

/// A CTE that can be referred to.
pub(super) struct Visible {
    name: String,
    id: usize,
    columns: Vec<OutputColumn>,
    /// How often it was.
    references: usize,
}

impl Binder<'_> {
    /// The CTE of this name, if there is one.
    pub(super) fn cte(&mut self, schema: Option<&str>, name: &str) -> Option<Result<Plan>> {
        if schema.is_some() {
            return None;
        }
        let found = self.ctes.iter_mut().rev().find(|cte| cte.name == name)?;
        found.references += 1;
        Some(Ok(Plan::CteScan { id: found.id, columns: found.columns.clone() }))
    }

    /// Binds WITH. Its names stay visible until the caller takes them away.
    pub(super) fn with(&mut self, with: &ast::With, kind: LevelKind) -> Result<Vec<Arc<Cte>>> {
        let ast::With { with_token: _, recursive, cte_tables } = with;
        let before = self.ctes.len();
        let mut ctes = Vec::with_capacity(cte_tables.len());
        for cte in cte_tables {
            let ast::Cte { alias, query, from, materialized: _, closing_paren_token: _ } = cte;
            refuse(from.is_some(), "FROM after a CTE")?;
            let ast::TableAlias { explicit: _, name, columns: names, at } = alias;
            refuse(at.is_some(), "AT after an alias")?;
            let position = self.source.start(name.span);
            let name = fold(name);
            if self.ctes[before..].iter().any(|c| c.name == name) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_ALIAS,
                    format!("WITH query name \"{name}\" specified more than once"),
                )
                .at(position));
            }
            let id = self.next_cte;
            self.next_cte += 1;
            let mut renamed = Vec::with_capacity(names.len());
            for ast::TableAliasColumnDef { name, data_type } in names {
                refuse(data_type.is_some(), "a column definition list")?;
                renamed.push(fold(name));
            }
            let rename = |columns: &[OutputColumn]| -> Result<Vec<OutputColumn>> {
                if renamed.len() > columns.len() {
                    return Err(SqlError::new(
                        SqlState::INVALID_COLUMN_REFERENCE,
                        format!(
                            "WITH query \"{name}\" has {} columns available but {} columns specified",
                            columns.len(),
                            renamed.len()
                        ),
                    )
                    .at(position));
                }
                let mut columns = columns.to_vec();
                for (column, name) in columns.iter_mut().zip(&renamed) {
                    column.name = name.clone();
                }
                Ok(columns)
            };
            let bound = match (recursive, query.body.as_ref()) {
                (true, SetExpr::SetOperation { left, op: SetOperator::Union, set_quantifier, right })
                    if mentions(right, &name) =>
                {
                    self.recursive(query, left, *set_quantifier, right, kind, (&name, id, position), &rename)?
                }
                (true, body) if mentions(body, &name) => {
                    return Err(SqlError::new(
                        SqlState::INVALID_RECURSION,
                        format!(
                            "recursive query \"{name}\" does not have the form non-recursive-term UNION [ALL] recursive-term"
                        ),
                    )
                    .at(position));
                }
                _ => Cte { id, name: name.clone(), plan: self.query(query, kind)?, recursive: None },
            };
            let columns = rename(bound.plan.columns())?;
            self.ctes.push(Visible { name, id, columns, references: 0 });
            ctes.push(Arc::new(bound));
        }
        Ok(ctes)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one clause")]
    fn recursive(
        &mut self,
        query: &ast::Query,
        left: &SetExpr,
        quantifier: SetQuantifier,
        right: &SetExpr,
        kind: LevelKind,
        (name, id, position): (&str, usize, Option<u32>),
        rename: &dyn Fn(&[OutputColumn]) -> Result<Vec<OutputColumn>>,
    ) -> Result<Cte> {
        refuse(query.with.is_some(), "WITH inside a recursive query")?;
        refuse(query.order_by.is_some(), "ORDER BY in a recursive query")?;
        refuse(query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT in a recursive query")?;
        refuse(!query.locks.is_empty(), "FOR UPDATE")?;
        let distinct = match quantifier {
            SetQuantifier::All => false,
            SetQuantifier::None | SetQuantifier::Distinct => true,
            SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => {
                return Err(SqlError::unsupported("BY NAME"));
            }
        };
        let start = self.side(left, kind)?;
        let types: Vec<ColumnType> = start
            .columns()
            .iter()
            .map(|c| match c.ty.ty {
                Type::Unknown => ColumnType::plain(Type::Text),
                _ => c.ty,
            })
            .collect();
        let start = self.retype(start, &types, "UNION", left)?;
        let columns = rename(start.columns())?;
        self.ctes.push(Visible { name: name.into(), id, columns, references: 0 });
        let step = self.side(right, kind)?;
        let references = self.ctes.pop().map_or(0, |c| c.references);
        let misplaced = |what: &str| {
            let message = format!("recursive reference to query \"{name}\" must not appear {what}");
            SqlError::new(SqlState::INVALID_RECURSION, message)
        };
        match references {
            0 => return Err(misplaced("within a subquery").at(position)),
            // One that is not found here stands in an expression.
            1 if !reads_cte(&step, id) => return Err(misplaced("within a subquery")),
            1 => check_step(&step, id, &misplaced)?,
            _ => return Err(misplaced("more than once")),
        }
        if step.columns().len() != types.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "each UNION query must have the same number of columns",
            ));
        }
        for (i, (column, ty)) in step.columns().iter().zip(&types).enumerate() {
            let common = crate::function::resolve::common_type("UNION", &[ty.ty, column.ty.ty])?;
            if common != ty.ty {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "recursive query \"{name}\" column {} has type {} in non-recursive term but type {common} overall",
                        i + 1,
                        ty.ty
                    ),
                )
                .hint("Cast the output of the non-recursive term to the correct type.")
                .at(super::set_op::item_position(self, left, i)));
            }
        }
        let step = self.retype(step, &types, "UNION", right)?;
        Ok(Cte { id, name: name.into(), plan: start, recursive: Some((Box::new(step), distinct)) })
    }
}

/// A recursive term may use its own rows only where each is looked at once and for itself (`checkWellFormedRecursion`).
fn check_step(plan: &Plan, id: usize, misplaced: &dyn Fn(&str) -> SqlError) -> Result<()> {
    let below = |plan: &Plan| reads_cte(plan, id);
    match plan {
        Plan::Values { .. }
        | Plan::Scan(_)
        | Plan::VirtualScan { .. }
        | Plan::Series { .. }
        | Plan::CteScan { .. } => Ok(()),
        Plan::With { ctes, body } => {
            if ctes.iter().any(|c| below(&c.plan) || c.recursive.as_ref().is_some_and(|(p, _)| below(p))) {
                return Err(SqlError::unsupported("a recursive reference in an inner WITH"));
            }
            check_step(body, id, misplaced)
        }
        Plan::Project { input, .. }
        | Plan::Filter { input, .. }
        | Plan::Window { input, .. }
        | Plan::Distinct { input }
        | Plan::DistinctOn { input, .. } => check_step(input, id, misplaced),
        Plan::LockRows(_) => Err(SqlError::unsupported("a locking clause in a recursive query")),
        Plan::Sort { input, .. } | Plan::Limit { input, .. } if below(input) => {
            Err(SqlError::unsupported("ORDER BY or LIMIT in a recursive query"))
        }
        Plan::Sort { input, .. } | Plan::Limit { input, .. } => check_step(input, id, misplaced),
        Plan::Aggregate { input, .. } if below(input) => Err(SqlError::new(
            SqlState::INVALID_RECURSION,
            "aggregate functions are not allowed in a recursive query's recursive term",
        )),
        Plan::Aggregate { .. } => Ok(()),
        Plan::Join { kind, left, right, .. } => {
            let outer = match kind {
                JoinKind::Inner => false,
                JoinKind::Left | JoinKind::Semi | JoinKind::Anti => below(right),
                JoinKind::Right => below(left),
                JoinKind::Full => below(left) || below(right),
            };
            if outer {
                return Err(misplaced("within an outer join"));
            }
            check_step(left, id, misplaced)?;
            check_step(right, id, misplaced)
        }
        Plan::SetOp { op, left, right, .. } => {
            match op {
                SetOp::Union => {}
                SetOp::Intersect if below(left) || below(right) => return Err(misplaced("within INTERSECT")),
                SetOp::Except if below(right) => return Err(misplaced("within EXCEPT")),
                SetOp::Intersect | SetOp::Except => {}
            }
            check_step(left, id, misplaced)?;
            check_step(right, id, misplaced)
        }
    }
}

/// Whether a query may refer to a table of this name. It looks at the text, so it may say yes where another thing is called so;
/// binding then finds out.
fn mentions(body: &SetExpr, name: &str) -> bool {
    let text = body.to_string();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let lower = text.to_lowercase();
    let name = name.to_lowercase();
    lower.match_indices(&name).any(|(at, _)| {
        let before = lower[..at].chars().next_back();
        let after = lower[at + name.len()..].chars().next();
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}
