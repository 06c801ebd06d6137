//! The select list, and what its columns are called.

use sqlparser::ast::{self, SelectItem};

use crate::bind::scope::{Named, fold};
use crate::bind::{Binder, Clause, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;

/// An item of a select list.
#[derive(Clone, Debug)]
pub(in crate::bind) struct Item {
    pub expr: Expr,
    pub name: String,
    pub position: Option<u32>,
}

impl Binder<'_> {
    /// A select list or RETURNING list.
    pub(in crate::bind) fn items(&mut self, projection: &[SelectItem], clause: Clause) -> Result<Vec<Item>> {
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
                    let name =
                        crate::bind::scope::alias(alias).map_err(|e| e.at(self.source.start(alias.span)))?;
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
                    let (schema, table) = crate::bind::scope::table_name(name)?;
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

    pub(super) fn expand(&mut self, columns: Vec<Named>, position: Option<u32>, items: &mut Vec<Item>) {
        for column in columns {
            if let (Expr::Column(i, _), Some(at)) = (&column.expr, self.levels.len().checked_sub(1)) {
                self.note_reference(at, *i, position);
            }
            items.push(Item { expr: column.expr, name: column.name, position });
        }
    }

    pub(super) fn origin(&mut self, expr: &Expr) -> Option<(u32, i16)> {
        match expr {
            Expr::Column(i, _) => self.level().scope.columns.get(*i).and_then(|c| c.origin),
            _ => None,
        }
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
fn column_name(expr: &ast::Expr) -> Option<String> {
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
            return function.name.0.last().and_then(|part| crate::bind::scope::fold_part(part).ok());
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
        other => crate::bind::data_type::resolve(other).ok().map(|ty| ty.ty.internal_name().into()),
    }
}
