//! Operators and comparisons.

use sqlparser::ast::{self, BinaryOperator, Spanned, UnaryOperator};
use sqlparser::tokenizer::Span;

use super::Binder;
use crate::error::{Result, SqlError, SqlState};
use crate::function::resolve;
use crate::ir::{CallKind, Expr};
use crate::types::Type;

/// How PostgreSQL spells an operator; `None` for AND, OR and what isn't PostgreSQL's.
pub(super) fn symbol(op: &BinaryOperator) -> Result<String> {
    Ok(match op {
        BinaryOperator::NotEq => "<>".into(),
        BinaryOperator::Custom(s) => s.clone(),
        BinaryOperator::PGCustomBinaryOperator(parts) => match parts.as_slice() {
            [op] => op.clone(),
            [schema, op] if schema.eq_ignore_ascii_case("pg_catalog") => op.clone(),
            _ => return Err(SqlError::unsupported("an operator of another schema")),
        },
        BinaryOperator::And | BinaryOperator::Or => {
            return Err(SqlError::internal("AND and OR are no operators"));
        }
        BinaryOperator::Xor
        | BinaryOperator::DuckIntegerDivide
        | BinaryOperator::MyIntegerDivide
        | BinaryOperator::Match
        | BinaryOperator::Regexp
        | BinaryOperator::Overlaps
        | BinaryOperator::Assignment
        | BinaryOperator::Spaceship
        | BinaryOperator::BitwiseXor => return Err(SqlError::unsupported(format!("the operator {op}"))),
        op => op.to_string(),
    })
}

pub(super) fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

/// Two values of rows that are compared.
pub(super) struct Pair {
    pub left: Expr,
    pub right: Expr,
    pub positions: [Option<u32>; 2],
}

impl Binder<'_> {
    /// `left op right`
    pub(super) fn binary(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Expr> {
        let symbol = symbol(op)?;
        if is_comparison(op) {
            for side in [left, right] {
                if let ast::Expr::BinaryOp { op: inner, left: l, right: r } = side
                    && is_comparison(inner)
                {
                    // Comparisons don't associate: the second operator is where PostgreSQL stops reading.
                    let second = if std::ptr::eq(side, left) {
                        (left.span(), right.span())
                    } else {
                        (l.span(), r.span())
                    };
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        format!("syntax error at or near \"{op}\""),
                    )
                    .at(self.source.operator(&op.to_string(), second.0, second.1)));
                }
            }
            if let (Some(left_row), Some(right_row)) = (row_of(left), row_of(right)) {
                return self.row_comparison(&left_row, op, &right_row, (left.span(), right.span()));
            }
            if let (Some(row), ast::Expr::Subquery(query)) = (row_of(left), right) {
                let _ = (row, query);
                return Err(SqlError::unsupported("a comparison of a row with a subquery"));
            }
        }
        let position = (left.span(), right.span());
        let l = self.expr(left)?;
        let r = self.expr(right)?;
        self.operator(&symbol, vec![l, r], &[self.position(left), self.position(right)]).map_err(|e| match e
            .position
        {
            Some(_) => e,
            None => {
                let shown = if symbol == "<>" { op.to_string() } else { symbol.clone() };
                let at = self
                    .source
                    .operator(&shown, position.0, position.1)
                    .or_else(|| self.source.operator("!=", position.0, position.1));
                e.at(at)
            }
        })
    }

    /// The call of an operator on bound operands. Errors about the operator itself have no position.
    pub(super) fn operator(
        &mut self,
        symbol: &str,
        args: Vec<Expr>,
        positions: &[Option<u32>],
    ) -> Result<Expr> {
        let types: Vec<Type> = args.iter().map(|a| a.ty().ty).collect();
        let resolved = resolve::operator(symbol, &types)?;
        let mut coerced = Vec::with_capacity(args.len());
        for (i, (arg, ty)) in args.into_iter().zip(resolved.args).enumerate() {
            coerced.push(self.implicit(arg, ty, positions.get(i).copied().flatten())?);
        }
        Ok(self.call(resolved.function, CallKind::Operator, coerced))
    }

    /// The `=` (or another comparison) of two values of one type.
    pub(super) fn comparison_of(&mut self, symbol: &str, ty: Type) -> Result<resolve::Resolved> {
        resolve::operator(symbol, &[ty, ty])
    }

    pub(super) fn unary(&mut self, op: &UnaryOperator, expr: &ast::Expr) -> Result<Expr> {
        let symbol = match op {
            UnaryOperator::Not => {
                let position = self.position(expr);
                let inner = self.expr(expr)?;
                let inner = self.boolean(inner, "NOT", position)?;
                return Ok(not(inner));
            }
            UnaryOperator::Minus => {
                if let Some((digits, position)) = self.digits(expr) {
                    return self.number(&format!("-{digits}"), position);
                }
                "-"
            }
            UnaryOperator::Plus => "+",
            UnaryOperator::BitwiseNot => "~",
            UnaryOperator::PGAbs => "@",
            UnaryOperator::PGSquareRoot => "|/",
            UnaryOperator::PGCubeRoot => "||/",
            UnaryOperator::AtDashAt
            | UnaryOperator::BangNot
            | UnaryOperator::DoubleAt
            | UnaryOperator::Hash
            | UnaryOperator::PGPostfixFactorial
            | UnaryOperator::PGPrefixFactorial
            | UnaryOperator::QuestionDash
            | UnaryOperator::QuestionPipe => {
                return Err(SqlError::unsupported(format!("the operator {op}")).at(self.position(expr)));
            }
        };
        let position = self.position(expr);
        let operand = self.expr(expr)?;
        self.operator(symbol, vec![operand], &[position])
            .map_err(|e| e.at(position.map(|p| p.saturating_sub(symbol.len() as u32).max(1))))
    }

    /// The digits of a number, parenthesised or not.
    fn digits<'e>(&self, expr: &'e ast::Expr) -> Option<(&'e str, Option<u32>)> {
        match expr {
            ast::Expr::Nested(inner) => self.digits(inner),
            ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(digits, false), span }) => {
                Some((digits, self.source.start(*span)))
            }
            _ => None,
        }
    }

    /// `(a, b) op (c, d)`
    fn row_comparison(
        &mut self,
        left: &[&ast::Expr],
        op: &BinaryOperator,
        right: &[&ast::Expr],
        spans: (Span, Span),
    ) -> Result<Expr> {
        if left.len() != right.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "unequal number of entries in row expressions",
            )
            .at(self.source.operator(&op.to_string(), spans.0, spans.1)));
        }
        let mut pairs = Vec::with_capacity(left.len());
        for (l, r) in left.iter().zip(right) {
            let positions = [self.position(*l), self.position(*r)];
            pairs.push(Pair { left: self.expr(l)?, right: self.expr(r)?, positions });
        }
        self.compare_rows(op, pairs)
    }

    /// A row-wise comparison of pairs of values.
    pub(super) fn compare_rows(&mut self, op: &BinaryOperator, pairs: Vec<Pair>) -> Result<Expr> {
        if pairs.is_empty() {
            return Err(SqlError::unsupported("a comparison of rows without columns"));
        }
        let compare = |this: &mut Self, symbol: &str, pair: &Pair| {
            this.operator(symbol, vec![pair.left.clone(), pair.right.clone()], &pair.positions)
                .map_err(|e| e.at(pair.positions[0]))
        };
        match op {
            BinaryOperator::Eq => {
                let all = pairs.iter().map(|p| compare(self, "=", p)).collect::<Result<Vec<_>>>()?;
                Ok(and(all))
            }
            BinaryOperator::NotEq => {
                let any = pairs.iter().map(|p| compare(self, "<>", p)).collect::<Result<Vec<_>>>()?;
                Ok(or(any))
            }
            BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
                let strict = if matches!(op, BinaryOperator::Lt | BinaryOperator::LtEq) { "<" } else { ">" };
                let mut pairs = pairs.iter().rev();
                let mut result = match pairs.next() {
                    Some(last) => compare(self, &op.to_string(), last)?,
                    None => return Err(SqlError::internal("a row without columns")),
                };
                for pair in pairs {
                    let less = compare(self, strict, pair)?;
                    let equal = compare(self, "=", pair)?;
                    result = or(vec![less, and(vec![equal, result])]);
                }
                Ok(result)
            }
            _ => Err(SqlError::unsupported(format!("the operator {op} for rows"))),
        }
    }
}

/// The columns of `(a, b)` and `ROW(a, b)`.
pub(super) fn row_of(expr: &ast::Expr) -> Option<Vec<&ast::Expr>> {
    match expr {
        ast::Expr::Tuple(columns) => Some(columns.iter().collect()),
        ast::Expr::Function(ast::Function {
            name,
            uses_odbc_syntax: false,
            parameters: ast::FunctionArguments::None,
            args:
                ast::FunctionArguments::List(ast::FunctionArgumentList {
                    duplicate_treatment: None,
                    args,
                    clauses,
                }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group,
        }) if clauses.is_empty() && within_group.is_empty() => {
            let [ast::ObjectNamePart::Identifier(name)] = name.0.as_slice() else { return None };
            if name.quote_style.is_some() || !name.value.eq_ignore_ascii_case("row") {
                return None;
            }
            args.iter()
                .map(|arg| match arg {
                    ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Some(expr),
                    _ => None,
                })
                .collect()
        }
        ast::Expr::Nested(inner) => match inner.as_ref() {
            ast::Expr::Tuple(_) | ast::Expr::Nested(_) | ast::Expr::Function(_) => row_of(inner),
            _ => None,
        },
        _ => None,
    }
}

/// AND, flat.
pub(super) fn and(operands: Vec<Expr>) -> Expr {
    flat(operands, true)
}

/// OR, flat.
pub(super) fn or(operands: Vec<Expr>) -> Expr {
    flat(operands, false)
}

fn flat(operands: Vec<Expr>, and: bool) -> Expr {
    let mut out = Vec::with_capacity(operands.len());
    for operand in operands {
        match operand {
            Expr::And(inner) if and => out.extend(inner),
            Expr::Or(inner) if !and => out.extend(inner),
            other => out.push(other),
        }
    }
    match out.len() {
        1 => out.remove(0),
        _ if and => Expr::And(out),
        _ => Expr::Or(out),
    }
}

/// NOT, with the simplest cases folded.
pub(super) fn not(expr: Expr) -> Expr {
    use crate::types::Datum;
    match expr {
        Expr::Const(Datum::Bool(b), ty) => Expr::Const(Datum::Bool(!b), ty),
        Expr::Const(Datum::Null, ty) => Expr::Const(Datum::Null, ty),
        Expr::IsNull { input, negated } => Expr::IsNull { input, negated: !negated },
        other => Expr::Not(Box::new(other)),
    }
}
