//! Names: what a column or table name stands for.

use std::sync::Arc;

use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};

use super::{Binder, LevelKind};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Expr, OutputColumn, lift};

/// PostgreSQL's NAMEDATALEN - 1.
const IDENTIFIER_BYTES_MAX: usize = 63;

/// An identifier as it is compared: folded unless quoted, cut to 63 bytes.
pub(super) fn fold(ident: &Ident) -> String {
    let mut name = match ident.quote_style {
        Some(_) => ident.value.clone(),
        // Only ASCII is folded, as PostgreSQL does in UTF-8 databases.
        None => ident.value.to_ascii_lowercase(),
    };
    if name.len() > IDENTIFIER_BYTES_MAX {
        let mut end = IDENTIFIER_BYTES_MAX;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
    }
    name
}

/// An alias. The parser also takes a string for one.
pub(super) fn alias(ident: &Ident) -> Result<String> {
    match ident.quote_style {
        None | Some('"') => Ok(fold(ident)),
        Some(_) => {
            let near = format!("syntax error at or near \"'{}'\"", ident.value);
            Err(SqlError::new(SqlState::SYNTAX_ERROR, near))
        }
    }
}

pub(super) fn fold_part(part: &ObjectNamePart) -> Result<String> {
    match part {
        ObjectNamePart::Identifier(ident) => Ok(fold(ident)),
        ObjectNamePart::Function(_) => Err(SqlError::unsupported("a computed name")),
    }
}

/// Schema and name of a table. A database in front is refused.
pub(super) fn table_name(name: &ObjectName) -> Result<(Option<String>, String)> {
    match name.0.as_slice() {
        [name] => Ok((None, fold_part(name)?)),
        [schema, name] => Ok((Some(fold_part(schema)?), fold_part(name)?)),
        parts => {
            let parts: Vec<String> = parts.iter().map(fold_part).collect::<Result<_>>()?;
            Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("cross-database references are not implemented: \"{}\"", parts.join(".")),
            ))
        }
    }
}

/// A column that can be named.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub name: String,
    /// Its value over the scope's row.
    pub expr: Expr,
}

/// A table, or what looks like one, in FROM.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    /// Only where it can be named with its schema.
    pub schema: Option<String>,
    pub name: String,
    pub columns: Vec<Named>,
    /// For a stored table: its descriptor, and where its columns start in the row.
    pub table: Option<(Arc<TableDescriptor>, usize)>,
}

/// The names that a FROM clause makes, over the row that it puts out.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub relations: Vec<Relation>,
    /// What `*` stands for and what an unqualified name may mean. USING has merged columns.
    pub visible: Vec<Named>,
    /// The row.
    pub columns: Vec<OutputColumn>,
}

impl Scope {
    /// A scope of one relation, whose columns are the row's.
    pub fn of(relation: &str, schema: Option<String>, columns: &[OutputColumn]) -> Self {
        let named: Vec<Named> = columns
            .iter()
            .enumerate()
            .map(|(i, c)| Named { name: c.name.clone(), expr: Expr::Column(i, c.ty) })
            .collect();
        Self {
            relations: vec![Relation { schema, name: relation.into(), columns: named.clone(), table: None }],
            visible: named,
            columns: columns.to_vec(),
        }
    }

    /// Moves all columns `by` to the right.
    pub fn shift(&mut self, by: usize) {
        let shift = |named: &mut Named| named.expr.replace_columns(&mut |i, ty| Expr::Column(i + by, ty));
        self.visible.iter_mut().for_each(shift);
        for relation in &mut self.relations {
            relation.columns.iter_mut().for_each(shift);
            if let Some((_, first)) = &mut relation.table {
                *first += by;
            }
        }
    }

    /// `t.x` for a column of the row, for messages.
    pub fn label(&self, index: usize) -> String {
        for relation in &self.relations {
            for column in &relation.columns {
                if matches!(column.expr, Expr::Column(i, _) if i == index) {
                    return format!("{}.{}", relation.name, column.name);
                }
            }
        }
        self.columns.get(index).map(|c| c.name.clone()).unwrap_or_default()
    }
}

/// What a lookup in one scope gives.
enum Found {
    Column(Expr),
    No,
}

impl Binder<'_> {
    /// The column that an identifier means, here or in an enclosing query.
    pub(super) fn column(&mut self, parts: &[Ident]) -> Result<Expr> {
        let position = parts.first().and_then(|p| self.source.start(p.span));
        let names: Vec<String> = parts.iter().map(fold).collect();
        self.column_named(&names, position)
    }

    fn column_named(&mut self, names: &[String], position: Option<u32>) -> Result<Expr> {
        let mut depth = 0;
        let mut next = self.levels.len().checked_sub(1);
        while let Some(at) = next {
            match find(&self.levels[at].scope, names).map_err(|e| e.at(position))? {
                Found::Column(mut expr) => {
                    if let Expr::Column(index, _) = &expr {
                        self.note_reference(at, *index, position);
                    }
                    if depth > 0 {
                        lift(&mut expr, depth);
                    }
                    return Ok(expr);
                }
                Found::No => {}
            }
            next = self.enclosing(at).map(|(outer, by)| {
                depth += by;
                outer
            });
        }
        Err(self.no_such_column(names).at(position))
    }

    /// The next level whose names can be seen from `at`, and how many subqueries lie between. The query in whose FROM a
    /// derived table stands can't be seen from it; those around it can.
    fn enclosing(&self, at: usize) -> Option<(usize, usize)> {
        match self.levels[at].kind {
            LevelKind::Root => None,
            LevelKind::Subquery => Some((at.checked_sub(1)?, 1)),
            LevelKind::Derived => self.enclosing(at.checked_sub(1)?),
        }
    }

    fn no_such_column(&self, names: &[String]) -> SqlError {
        match names {
            [name] => {
                let mut error =
                    SqlError::new(SqlState::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist"));
                let mut close = Vec::new();
                for relation in self.levels.last().iter().flat_map(|l| &l.scope.relations) {
                    for column in &relation.columns {
                        let distance = distance(&column.name, name);
                        if distance <= name.chars().count() / 2 && distance <= 3 {
                            close.push((distance, format!("\"{}.{}\"", relation.name, column.name)));
                        }
                    }
                }
                close.sort();
                if let Some((best, _)) = close.first() {
                    let best = *best;
                    let names: Vec<&str> =
                        close.iter().filter(|(d, _)| *d == best).take(2).map(|(_, n)| n.as_str()).collect();
                    error = error.hint(match names.as_slice() {
                        [a, b] => format!("Perhaps you meant to reference the column {a} or the column {b}."),
                        _ => format!("Perhaps you meant to reference the column {}.", names.join("")),
                    });
                }
                error
            }
            [.., table, column] => {
                let here =
                    self.levels.iter().rev().flat_map(|l| &l.scope.relations).find(|r| r.name == *table);
                let visible =
                    self.levels.last().is_some_and(|l| l.scope.relations.iter().any(|r| r.name == *table));
                match here {
                    Some(_) if visible => SqlError::new(
                        SqlState::UNDEFINED_COLUMN,
                        format!("column {table}.{column} does not exist"),
                    ),
                    Some(_) => SqlError::new(
                        SqlState::UNDEFINED_TABLE,
                        format!("invalid reference to FROM-clause entry for table \"{table}\""),
                    )
                    .hint(format!("There is an entry for table \"{table}\", but it cannot be referenced from this part of the query.")),
                    None => SqlError::new(
                        SqlState::UNDEFINED_TABLE,
                        format!("missing FROM-clause entry for table \"{table}\""),
                    ),
                }
            }
            [] => SqlError::internal("a column without a name"),
        }
    }
}

fn find(scope: &Scope, names: &[String]) -> Result<Found> {
    match names {
        [name] => {
            let mut matches = scope.visible.iter().filter(|c| c.name == *name);
            match (matches.next(), matches.next()) {
                (Some(column), None) => Ok(Found::Column(column.expr.clone())),
                (Some(_), Some(_)) => Err(ambiguous(name)),
                (None, _) => match scope.relations.iter().any(|r| r.name == *name) {
                    true => Err(SqlError::unsupported("a whole-row reference")),
                    false => Ok(Found::No),
                },
            }
        }
        [.., table, column] => {
            let schema = match names {
                [schema, _, _] => Some(schema),
                [_, _] => None,
                _ => {
                    return Err(SqlError::new(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        format!("cross-database references are not implemented: {}", names.join(".")),
                    ));
                }
            };
            let Some(relation) = scope
                .relations
                .iter()
                .find(|r| r.name == *table && schema.is_none_or(|schema| r.schema.as_ref() == Some(schema)))
            else {
                return Ok(Found::No);
            };
            let mut matches = relation.columns.iter().filter(|c| c.name == *column);
            match (matches.next(), matches.next()) {
                (Some(column), None) => Ok(Found::Column(column.expr.clone())),
                (Some(_), Some(_)) => Err(ambiguous(column)),
                (None, _) => Err(SqlError::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!("column {table}.{column} does not exist"),
                )),
            }
        }
        [] => Ok(Found::No),
    }
}

fn ambiguous(name: &str) -> SqlError {
    SqlError::new(SqlState::AMBIGUOUS_COLUMN, format!("column reference \"{name}\" is ambiguous"))
}

/// Edit distance, for hints.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (above + 1).min(row[j] + 1).min(diagonal + usize::from(x != *y));
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}
