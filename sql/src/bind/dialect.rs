//! PostgreSQL's grammar on top of `sqlparser`'s dialect of it, where that one differs from PostgreSQL 15, chapter 4.1.6.

use sqlparser::ast::{Expr, Ident, SelectItem, TrimWhereField, UnaryOperator, Value};
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// The name under which `BETWEEN SYMMETRIC` marks its lower bound: `Expr::Prefixed { prefix: SYMMETRIC, .. }`. A user
/// can't write that: the parser makes `Prefixed` for `_charset 'x'` of MySQL only.
pub(super) const SYMMETRIC: &str = "between symmetric";

/// The name under which an empty select list is marked, in the same way.
const NOTHING: &str = "nothing";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Postgres(PostgreSqlDialect);

/// Binds tighter than every infix operator but `::`, `[]` and `.`: the sign of a number.
const UNARY_SIGN: u8 = 125;
const OTHER: u8 = 70;

macro_rules! delegate {
    ($($name:ident),* $(,)?) => { $(fn $name(&self) -> bool { self.0.$name() })* };
}

/// `TRIM([BOTH | LEADING | TRAILING] [characters FROM] string)` and its other spellings, after the parenthesis.
fn parse_trim(parser: &mut Parser) -> Result<Expr, ParserError> {
    let trim_where = match parser.parse_one_of_keywords(&[Keyword::BOTH, Keyword::LEADING, Keyword::TRAILING])
    {
        Some(Keyword::LEADING) => Some(TrimWhereField::Leading),
        Some(Keyword::TRAILING) => Some(TrimWhereField::Trailing),
        Some(_) => Some(TrimWhereField::Both),
        None => None,
    };
    let mut list = Vec::new();
    let mut trim_what = None;
    if !parser.parse_keyword(Keyword::FROM) {
        let first = parser.parse_expr()?;
        if parser.parse_keyword(Keyword::FROM) {
            trim_what = Some(Box::new(first));
        } else {
            list.push(first);
        }
    }
    if list.is_empty() {
        list.push(parser.parse_expr()?);
    }
    while parser.consume_token(&Token::Comma) {
        list.push(parser.parse_expr()?);
    }
    parser.expect_token(&Token::RParen)?;
    let expr = Box::new(list.remove(0));
    Ok(Expr::Trim { trim_where, trim_what, expr, trim_characters: (!list.is_empty()).then_some(list) })
}

/// `SUBSTRING(string [FROM start] [FOR length])` in either order, or with commas, after the parenthesis.
fn parse_substring(parser: &mut Parser) -> Result<Expr, ParserError> {
    let expr = Box::new(parser.parse_expr()?);
    let (mut substring_from, mut substring_for) = (None, None);
    let special = parser.consume_token(&Token::Comma);
    if special {
        substring_from = Some(Box::new(parser.parse_expr()?));
        if parser.consume_token(&Token::Comma) {
            substring_for = Some(Box::new(parser.parse_expr()?));
        }
    } else {
        for _ in 0..2 {
            if substring_from.is_none() && parser.parse_keyword(Keyword::FROM) {
                substring_from = Some(Box::new(parser.parse_expr()?));
            } else if substring_for.is_none() && parser.parse_keyword(Keyword::FOR) {
                substring_for = Some(Box::new(parser.parse_expr()?));
            }
        }
    }
    parser.expect_token(&Token::RParen)?;
    Ok(Expr::Substring { expr, substring_from, substring_for, special, shorthand: false })
}

/// Whether a select list ends before it began: `SELECT`, `(SELECT)`, `SELECT WHERE …`. What may follow is reserved, so it
/// can't be a column. (`SELECT FROM` is seen by `sqlparser` itself.)
fn at_empty_list(parser: &Parser) -> bool {
    let is_select = matches!(&parser.get_current_token().token,
        Token::Word(w) if w.keyword == Keyword::SELECT && w.quote_style.is_none());
    is_select
        && match &parser.peek_token_ref().token {
            Token::EOF | Token::RParen => true,
            Token::Word(w) => {
                w.quote_style.is_none()
                    && matches!(
                        w.keyword,
                        Keyword::WHERE
                            | Keyword::GROUP
                            | Keyword::HAVING
                            | Keyword::UNION
                            | Keyword::INTERSECT
                            | Keyword::EXCEPT
                            | Keyword::ORDER
                            | Keyword::LIMIT
                            | Keyword::OFFSET
                            | Keyword::FETCH
                    )
            }
            _ => false,
        }
}

/// Whether these are the items of a select list that was left empty.
pub(super) fn is_empty_list(items: &[SelectItem]) -> bool {
    match items {
        [] => true,
        [SelectItem::UnnamedExpr(Expr::Prefixed { prefix, .. })] => prefix.value == NOTHING,
        _ => false,
    }
}

impl Dialect for Postgres {
    fn dialect(&self) -> std::any::TypeId {
        self.0.dialect()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        self.0.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.0.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        self.0.is_reserved_for_identifier(kw)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        self.0.is_custom_operator_part(ch)
    }

    fn prec_value(&self, prec: Precedence) -> u8 {
        self.0.prec_value(prec)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            // "Any other operator" has one precedence, above comparisons and below `+`.
            Token::Tilde
            | Token::TildeAsterisk
            | Token::ExclamationMarkTilde
            | Token::ExclamationMarkTildeAsterisk
            | Token::DoubleTilde
            | Token::DoubleTildeAsterisk
            | Token::ExclamationMarkDoubleTilde
            | Token::ExclamationMarkDoubleTildeAsterisk => Some(Ok(OTHER)),
            Token::Word(w) => match w.keyword {
                Keyword::OPERATOR => Some(Ok(OTHER)),
                // Other systems' operators.
                Keyword::XOR | Keyword::DIV | Keyword::REGEXP | Keyword::RLIKE | Keyword::MEMBER => {
                    Some(Ok(self.prec_unknown()))
                }
                // `a ISNULL`; sqlparser has no keyword for it.
                _ if w.quote_style.is_none() && w.value.eq_ignore_ascii_case("isnull") => {
                    Some(Ok(self.prec_value(Precedence::Is)))
                }
                _ => self.0.get_next_precedence(parser),
            },
            _ => self.0.get_next_precedence(parser),
        }
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if let Token::Word(word) = &parser.peek_token_ref().token
            && matches!(word.keyword, Keyword::TRIM | Keyword::SUBSTRING)
            && word.quote_style.is_none()
            && parser.peek_nth_token_ref(1).token == Token::LParen
        {
            let trim = word.keyword == Keyword::TRIM;
            parser.advance_token();
            parser.advance_token();
            return Some(if trim { parse_trim(parser) } else { parse_substring(parser) });
        }
        if at_empty_list(parser) {
            let value = Box::new(Expr::value(Value::Null));
            return Some(Ok(Expr::Prefixed { prefix: Ident::new(NOTHING), value }));
        }
        let (op, precedence) = match &parser.peek_token_ref().token {
            Token::Minus => (UnaryOperator::Minus, UNARY_SIGN),
            Token::Plus => (UnaryOperator::Plus, UNARY_SIGN),
            Token::Tilde => (UnaryOperator::BitwiseNot, OTHER),
            Token::AtSign => (UnaryOperator::PGAbs, OTHER),
            Token::PGSquareRoot => (UnaryOperator::PGSquareRoot, OTHER),
            Token::PGCubeRoot => (UnaryOperator::PGCubeRoot, OTHER),
            _ => return None,
        };
        parser.advance_token();
        Some(parser.parse_subexpr(precedence).map(|expr| Expr::UnaryOp { op, expr: Box::new(expr) }))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let Token::Word(word) = &parser.peek_token_ref().token else { return None };
        match word.keyword {
            Keyword::IS => {
                let not = matches!(&parser.peek_nth_token_ref(1).token, Token::Word(w) if w.keyword == Keyword::NOT);
                let at = |n: usize, kw: Keyword| matches!(&parser.peek_nth_token_ref(n).token, Token::Word(w) if w.keyword == kw);
                let first = 1 + usize::from(not);
                if !(at(first, Keyword::DISTINCT) && at(first + 1, Keyword::FROM)) {
                    return None;
                }
                for _ in 0..first + 2 {
                    parser.advance_token();
                }
                let left = Box::new(expr.clone());
                let right = parser.parse_subexpr(self.prec_value(Precedence::Is)).map(Box::new);
                Some(right.map(|right| match not {
                    true => Expr::IsNotDistinctFrom(left, right),
                    false => Expr::IsDistinctFrom(left, right),
                }))
            }
            Keyword::BETWEEN | Keyword::NOT => {
                let negated = word.keyword == Keyword::NOT;
                let first = usize::from(negated);
                let is = |n: usize, kw: Keyword| matches!(&parser.peek_nth_token_ref(n).token, Token::Word(w) if w.keyword == kw);
                let symmetric = is(first + 1, Keyword::SYMMETRIC);
                if !is(first, Keyword::BETWEEN) || !(symmetric || is(first + 1, Keyword::ASYMMETRIC)) {
                    return None;
                }
                for _ in 0..first + 2 {
                    parser.advance_token();
                }
                Some(parser.parse_between(expr.clone(), negated).map(|between| match between {
                    Expr::Between { expr, negated, low, high } if symmetric => {
                        let low = Box::new(Expr::Prefixed { prefix: Ident::new(SYMMETRIC), value: low });
                        Expr::Between { expr, negated, low, high }
                    }
                    other => other,
                }))
            }
            _ if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("isnull") => {
                parser.advance_token();
                Some(Ok(Expr::IsNull(Box::new(expr.clone()))))
            }
            _ => None,
        }
    }

    fn supports_named_fn_args_with_assignment_operator(&self) -> bool {
        true
    }

    delegate!(
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_array_typedef_with_brackets,
        supports_geometric_types,
        supports_set_names,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_comma_separated_trim,
    );
}
