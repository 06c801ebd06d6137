//! Scalar expressions.

mod predicate;

use sqlparser::ast::{
    self, BinaryOperator, CastKind, CeilFloorKind, DateTimeField, ExtractSyntax, Spanned, TrimWhereField,
};

use predicate::{coalesce, is_null};

use super::operator::{and, not, or};
use super::{Binder, literal};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Expr;
use crate::types::{ColumnType, Datum, Type};

impl Binder<'_> {
    /// Binds an expression in the current clause of the current level.
    pub(super) fn expr(&mut self, expr: &ast::Expr) -> Result<Expr> {
        self.deeper(|this| this.expr_here(expr))
    }

    /// A condition: WHERE, HAVING, ON …
    pub(super) fn condition(&mut self, expr: &ast::Expr, what: &str) -> Result<Expr> {
        let bound = self.expr(expr)?;
        let position = self.position(expr);
        self.boolean(bound, what, position)
    }

    fn expr_here(&mut self, expr: &ast::Expr) -> Result<Expr> {
        use ast::Expr as E;
        match expr {
            E::Identifier(ident) => self.identifier(ident),
            E::CompoundIdentifier(parts) => self.column(parts),
            E::Value(value) => self.value(value),
            E::Nested(inner) => self.expr(inner),
            E::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                self.logical(left, op, right)
            }
            E::BinaryOp { left, op, right } => self.binary(left, op, right),
            E::UnaryOp { op, expr } => self.unary(op, expr),
            E::IsNull(inner) => self.is_null(inner, false),
            E::IsNotNull(inner) => self.is_null(inner, true),
            E::IsTrue(inner) => self.truth(inner, "IS TRUE", |x| coalesce(x, false)),
            E::IsNotTrue(inner) => self.truth(inner, "IS NOT TRUE", |x| not(coalesce(x, false))),
            E::IsFalse(inner) => self.truth(inner, "IS FALSE", |x| coalesce(not(x), false)),
            E::IsNotFalse(inner) => self.truth(inner, "IS NOT FALSE", |x| not(coalesce(not(x), false))),
            E::IsUnknown(inner) => self.truth(inner, "IS UNKNOWN", |x| is_null(x, false)),
            E::IsNotUnknown(inner) => self.truth(inner, "IS NOT UNKNOWN", |x| is_null(x, true)),
            E::IsDistinctFrom(left, right) => self.is_distinct(left, right, false),
            E::IsNotDistinctFrom(left, right) => self.is_distinct(left, right, true),
            E::InList { expr, list, negated } => self.in_list(expr, list, *negated),
            E::InSubquery { expr, subquery, negated } => self.in_subquery(expr, subquery, *negated),
            E::AnyOp { left, compare_op, right, is_some: _ } => {
                self.quantified(left, compare_op, right, false)
            }
            E::AllOp { left, compare_op, right } => self.quantified(left, compare_op, right, true),
            E::Between { expr, negated, low, high } => self.between(expr, *negated, low, high),
            E::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, if *negated { "!~~" } else { "~~" }, pattern, escape_char.as_ref())
            }
            E::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, if *negated { "!~~*" } else { "~~*" }, pattern, escape_char.as_ref())
            }
            E::Like { negated, any: true, expr, pattern, escape_char: None } => {
                let op = if *negated { BinaryOperator::PGNotLikeMatch } else { BinaryOperator::PGLikeMatch };
                self.quantified(expr, &op, pattern, false)
            }
            E::ILike { negated, any: true, expr, pattern, escape_char: None } => {
                let op =
                    if *negated { BinaryOperator::PGNotILikeMatch } else { BinaryOperator::PGILikeMatch };
                self.quantified(expr, &op, pattern, false)
            }
            E::SimilarTo { negated, expr, pattern, escape_char } => {
                let l = self.expr(expr)?;
                let mut args = vec![self.expr(pattern)?];
                if let Some(escape) = escape_char {
                    args.push(self.value(escape)?);
                }
                let regex = self.function_call("similar_to_escape", args, &[])?;
                self.operator(if *negated { "!~" } else { "~" }, vec![l, regex], &[])
                    .map_err(|e| e.at(self.source.operator("similar", expr.span(), pattern.span())))
            }
            E::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                array: false,
                format: None,
            } => self.cast(expr, data_type),
            E::AtTimeZone { timestamp, time_zone } => {
                let positions = [self.position(time_zone.as_ref()), self.position(timestamp.as_ref())];
                let value = self.expr(timestamp)?;
                let zone = self.expr(time_zone)?;
                self.function_call("timezone", vec![zone, value], &positions)
                    .map_err(|e| e.at(self.source.operator("at", timestamp.span(), time_zone.span())))
            }
            E::Extract { field, syntax: ExtractSyntax::From, expr } => {
                let position = self.position(expr.as_ref());
                let value = self.expr(expr)?;
                let field = Expr::Const(Datum::text(field_name(field)), ColumnType::plain(Type::Text));
                self.function_call("extract", vec![field, value], &[None, position])
                    .map_err(|e| e.at(position))
            }
            E::Ceil { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                self.simple_call("ceil", &[expr])
            }
            E::Floor { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                self.simple_call("floor", &[expr])
            }
            E::Position { expr, r#in } => self.simple_call("position", &[r#in, expr]),
            E::Substring { expr, substring_from, substring_for, special: _, shorthand } => {
                // `substr` has no form with a pattern.
                let name = if *shorthand { "substr" } else { "substring" };
                match (substring_from, substring_for) {
                    (Some(from), Some(length)) => self.simple_call(name, &[expr, from, length]),
                    (Some(from), None) => self.simple_call(name, &[expr, from]),
                    (None, Some(length)) => {
                        let value = self.expr(expr)?;
                        let one = Expr::Const(Datum::Int4(1), ColumnType::plain(Type::Int4));
                        let length = self.expr(length)?;
                        let position = self.position(expr.as_ref());
                        self.function_call("substring", vec![value, one, length], &[position])
                            .map_err(|e| e.at(position))
                    }
                    (None, None) => self.simple_call("substring", &[expr]),
                }
            }
            E::Trim { trim_where, trim_what, expr, trim_characters } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "btrim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let mut args: Vec<&ast::Expr> = vec![expr];
                args.extend(trim_what.as_deref());
                args.extend(trim_characters.iter().flatten());
                self.simple_call(name, &args)
            }
            E::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut args: Vec<&ast::Expr> = vec![expr, overlay_what, overlay_from];
                args.extend(overlay_for.as_deref());
                self.simple_call("overlay", &args)
            }
            E::Collate { expr, collation } => {
                let (_, name) = super::scope::table_name(collation)?;
                match name.as_str() {
                    // Strings are compared by their bytes, which is what each of these asks for.
                    "C" | "POSIX" | "default" | "ucs_basic" => {
                        let position = self.position(expr.as_ref());
                        let value = self.expr(expr)?;
                        let value = self.known(value, position)?;
                        match value.ty().ty.is_string() {
                            true => Ok(value),
                            false => Err(SqlError::new(
                                SqlState::DATATYPE_MISMATCH,
                                format!("collations are not supported by type {}", value.ty().ty),
                            )
                            .at(self.position(collation))),
                        }
                    }
                    _ => Err(SqlError::unsupported(format!("the collation \"{name}\""))
                        .at(self.position(collation))),
                }
            }
            E::TypedString(ast::TypedString { data_type, value, uses_odbc_syntax: false }) => {
                let position = self.source.start(value.span);
                let ty = super::data_type::resolve(data_type).map_err(|e| e.at(position))?;
                match &value.value {
                    ast::Value::SingleQuotedString(text)
                    | ast::Value::EscapedStringLiteral(text)
                    | ast::Value::UnicodeStringLiteral(text) => {
                        self.cast_to(literal::unknown(text), ty, position)
                    }
                    ast::Value::DollarQuotedString(text) => {
                        self.cast_to(literal::unknown(&text.value), ty, position)
                    }
                    _ => Err(self.syntax_error(&value.value.to_string(), position)),
                }
            }
            E::Interval(interval) => self.interval(interval),
            E::Function(function) => self.function(function),
            E::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref())
            }
            E::Exists { subquery, negated } => self.exists(subquery, *negated),
            E::Subquery(query) => self.scalar_subquery(query),
            E::Tuple(_) => Err(SqlError::unsupported("a row value").at(self.position(expr))),
            E::Array(_) => Err(SqlError::unsupported("an array").at(self.position(expr))),
            E::GroupingSets(_) | E::Cube(_) | E::Rollup(_) => {
                Err(SqlError::unsupported("GROUPING SETS").at(self.position(expr)))
            }
            E::Wildcard(_) | E::QualifiedWildcard(..) => Err(self.syntax_error("*", self.position(expr))),
            E::CompoundFieldAccess { .. } | E::JsonAccess { .. } => {
                Err(SqlError::unsupported("access to an element or a field").at(self.position(expr)))
            }
            E::IsNormalized { .. } => Err(SqlError::unsupported("IS NORMALIZED").at(self.position(expr))),
            // Of other systems, or forms of the above that PostgreSQL does not have.
            E::InUnnest { .. }
            | E::Like { any: true, .. }
            | E::ILike { any: true, .. }
            | E::RLike { .. }
            | E::Convert { .. }
            | E::Cast { .. }
            | E::Extract { .. }
            | E::Ceil { .. }
            | E::Floor { .. }
            | E::Prefixed { .. }
            | E::TypedString(_)
            | E::Struct { .. }
            | E::Named { .. }
            | E::Dictionary(_)
            | E::Map(_)
            | E::MatchAgainst { .. }
            | E::OuterJoin(_)
            | E::Prior(_)
            | E::Lambda(_)
            | E::MemberOf(_) => Err(SqlError::unsupported("this expression").at(self.position(expr))),
        }
    }

    pub(super) fn syntax_error(&self, near: &str, position: Option<u32>) -> SqlError {
        SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{near}\"")).at(position)
    }

    fn identifier(&mut self, ident: &ast::Ident) -> Result<Expr> {
        let position = self.source.start(ident.span);
        // Functions that are called without parentheses and are no words of their own to the parser.
        if ident.quote_style.is_none() {
            match ident.value.to_ascii_lowercase().as_str() {
                "current_role" => {
                    return self.function_call("current_user", vec![], &[]).map_err(|e| e.at(position));
                }
                "current_schema" => {
                    return self.function_call("current_schema", vec![], &[]).map_err(|e| e.at(position));
                }
                "default" => {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "DEFAULT is not allowed in this context",
                    )
                    .at(position));
                }
                _ => {}
            }
        }
        self.column(std::slice::from_ref(ident))
    }

    /// AND and OR: chains lean to the left and may be long, so their spine is walked in a loop.
    fn logical(&mut self, left: &ast::Expr, op: &BinaryOperator, right: &ast::Expr) -> Result<Expr> {
        let what = if *op == BinaryOperator::And { "AND" } else { "OR" };
        let mut operands = vec![right];
        let mut spine = left;
        while let ast::Expr::BinaryOp { left, op: inner, right } = spine
            && inner == op
        {
            operands.push(right);
            spine = left;
        }
        operands.push(spine);
        let bound =
            operands.iter().rev().map(|operand| self.condition(operand, what)).collect::<Result<Vec<_>>>()?;
        Ok(if *op == BinaryOperator::And { and(bound) } else { or(bound) })
    }

    fn cast(&mut self, expr: &ast::Expr, data_type: &ast::DataType) -> Result<Expr> {
        let position = self.position(expr);
        let ty = super::data_type::resolve(data_type).map_err(|e| e.at(self.type_position(expr)))?;
        let value = self.expr(expr)?;
        if matches!(data_type, ast::DataType::Regclass)
            && let Expr::Const(Datum::Text(name), _) = &value
        {
            return self.regclass(name, position);
        }
        self.cast_to(value, ty, position)
    }

    /// Where the type in `expr::type` or `CAST(expr AS type)` stands.
    fn type_position(&self, expr: &ast::Expr) -> Option<u32> {
        let end = self.source.position(expr.span().end)?;
        let rest = self.source.text().get(self.source.offset(end)..)?;
        let skipped = match rest.find("::") {
            Some(n) if rest[..n].trim_matches(|c: char| c.is_whitespace() || c == ')').is_empty() => n + 2,
            _ => rest.to_ascii_lowercase().find("as ")? + 3,
        };
        let rest = rest.get(skipped..)?;
        Some(end + (skipped + rest.len() - rest.trim_start().len()) as u32)
    }

    /// `'name'::regclass`: the table's OID.
    fn regclass(&mut self, name: &str, position: Option<u32>) -> Result<Expr> {
        let oid = ColumnType::plain(Type::Oid);
        self.cacheable = false;
        if let Ok(number) = name.parse::<u32>() {
            return Ok(Expr::Const(Datum::Oid(number), oid));
        }
        let parts: Vec<String> = name
            .split('.')
            .map(|part| match part.trim().strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
                Some(quoted) => quoted.replace("\"\"", "\""),
                None => part.trim().to_ascii_lowercase(),
            })
            .collect();
        let table = match parts.as_slice() {
            [name] => self.catalog.table(None, name),
            [schema, name] => self.catalog.table(Some(schema), name),
            _ => None,
        };
        match table {
            Some(table) => Ok(Expr::Const(Datum::Oid(table.id), oid)),
            None => {
                Err(SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
                    .at(position))
            }
        }
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Expr> {
        let operand = match operand {
            Some(operand) => {
                let position = self.position(operand);
                let bound = self.expr(operand)?;
                Some((self.known(bound, position)?, position))
            }
            None => None,
        };
        let mut tests = Vec::with_capacity(conditions.len());
        let mut values = Vec::with_capacity(conditions.len() + 1);
        let mut positions = Vec::with_capacity(conditions.len() + 1);
        match otherwise {
            Some(otherwise) => {
                positions.push(self.position(otherwise));
                let bound = self.expr(otherwise)?;
                values.push(bound);
            }
            None => {
                positions.push(None);
                values.push(Expr::Const(Datum::Null, ColumnType::plain(Type::Unknown)));
            }
        }
        for ast::CaseWhen { condition, result } in conditions {
            let position = self.position(condition);
            tests.push(match &operand {
                None => self.condition(condition, "CASE/WHEN")?,
                Some((operand, at)) => {
                    let candidate = self.expr(condition)?;
                    self.operator("=", vec![operand.clone(), candidate], &[*at, position])
                        .map_err(|e| e.at(position))?
                }
            });
            positions.push(self.position(result));
            values.push(self.expr(result)?);
        }
        let (mut values, ty) = self.unify("CASE", values, &positions)?;
        let otherwise = Box::new(values.remove(0));
        Ok(Expr::Case { branches: tests.into_iter().zip(values).collect(), otherwise, ty })
    }

    /// A call of one of the catalogue's functions by a special syntax.
    fn simple_call(&mut self, name: &str, args: &[&ast::Expr]) -> Result<Expr> {
        let positions: Vec<Option<u32>> = args.iter().map(|a| self.position(*a)).collect();
        let bound = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>>>()?;
        let at = positions.iter().flatten().min().copied();
        self.function_call(name, bound, &positions).map_err(|e| e.at(at))
    }
}

/// The field of EXTRACT as the function takes it.
fn field_name(field: &DateTimeField) -> String {
    match field {
        DateTimeField::Custom(ident) => match ident.quote_style {
            Some('\'') => ident.value.clone(),
            _ => super::scope::fold(ident),
        },
        other => other.to_string().to_lowercase(),
    }
}
