//! From text to syntax trees: tokens, the split into statements, syntax errors, and how deep a statement may nest.

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

use super::dialect::Postgres;
use super::source::Source;
use super::utility::{self, ParsedStatement};
use crate::error::{Result, SqlError, SqlState};

/// How deeply parentheses, subqueries and CASE may nest.
const NESTING_MAX: usize = 200;
/// How high a syntax tree may become. `a OR b OR …` is as high as it has operands; it is bound flat.
const HEIGHT_MAX: usize = 20_000;
/// What freeing, or walking once over, one level of a tree may take of the stack.
const STACK_BYTES_PER_LEVEL: usize = 16 << 10;

/// A statement that the binder turns into [`crate::ir::Statement`].
#[derive(Debug)]
pub struct Bindable {
    pub(super) source: Source,
    /// Where the statement's own text is in the source, in bytes.
    pub(super) span: std::ops::Range<usize>,
    /// `None` only while it is dropped.
    tree: Option<Box<Tree>>,
    height: usize,
    /// AS OF SYSTEM TIME.
    as_of: Option<String>,
}

/// A syntax tree.
#[derive(Debug)]
pub(super) enum Tree {
    Statement(ast::Statement),
    /// `COPY`, which we parse ourselves.
    Copy(utility::CopyStatement),
    /// `EXPLAIN`.
    Explain {
        analyze: bool,
        statement: Bindable,
    },
    /// `TRUNCATE`.
    Truncate {
        tables: Vec<ast::ObjectName>,
        cascade: bool,
    },
    /// `ALTER TABLE … SPLIT AT VALUES (…), (…)`.
    SplitAt {
        table: ast::ObjectName,
        points: Vec<Vec<ast::Expr>>,
    },
    /// `CREATE TABLE t (a, b) AS …`, without the names.
    CreateTableAs {
        names: Vec<ast::Ident>,
        statement: ast::Statement,
    },
    /// `CREATE DATABASE`.
    CreateDatabase {
        name: ast::Ident,
    },
}

impl Bindable {
    pub(super) fn new(source: Source, span: std::ops::Range<usize>, tree: Tree, height: usize) -> Self {
        Self { source, span, tree: Some(Box::new(tree)), height, as_of: None }
    }

    pub(super) fn read_as_of(mut self, text: Option<String>) -> Self {
        self.as_of = text;
        self
    }

    /// The constant of AS OF SYSTEM TIME.
    pub fn as_of(&self) -> Option<&str> {
        self.as_of.as_deref()
    }

    pub(super) fn tree(&self) -> Result<&Tree> {
        self.tree.as_deref().ok_or_else(|| SqlError::internal("a statement without a tree"))
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// The statement's own text.
    pub fn text(&self) -> &str {
        self.source.text().get(self.span.clone()).unwrap_or_default()
    }

    /// How many characters stand before the statement's own text in the source.
    pub fn offset(&self) -> u32 {
        let before = self.source.text().get(..self.span.start).unwrap_or_default();
        u32::try_from(before.chars().count()).unwrap_or(0)
    }

    /// Whether the statement answers with rows of a query (SELECT, VALUES, TABLE): what DECLARE CURSOR accepts.
    pub fn is_query(&self) -> bool {
        matches!(self.tree.as_deref(), Some(Tree::Statement(ast::Statement::Query(_))))
    }
}

impl Drop for Bindable {
    fn drop(&mut self) {
        if let Some(tree) = self.tree.take() {
            with_stack_for(self.height, || drop(tree));
        }
    }
}

/// Runs `f` with enough stack for a walk over a tree of this height.
pub(super) fn with_stack_for<T>(height: usize, f: impl FnOnce() -> T) -> T {
    if height <= NESTING_MAX {
        return f();
    }
    stacker::grow(height * STACK_BYTES_PER_LEVEL + (1 << 20), f)
}

/// Splits a text into statements and parses each. An error anywhere is an error of the whole text.
pub fn parse(sql: &str) -> Result<Vec<ParsedStatement>> {
    if sql.contains('\0') {
        return Err(SqlError::new(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    let source = Source::new(sql);
    let dialect = Postgres::default();
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|e| lexical_error(&source, &e.message, e.location))?;
    let tokens = join_strings(tokens);
    check_tokens(&source, &tokens)?;
    let mut statements = Vec::new();
    let mut from = 0;
    while from < tokens.len() {
        let to = tokens[from..]
            .iter()
            .position(|t| t.token == Token::SemiColon)
            .map_or(tokens.len(), |n| from + n);
        let part = &tokens[from..to];
        // The semicolon, which is where an unfinished statement fails.
        let next = tokens.get(to);
        from = to + 1;
        if part.iter().all(|t| matches!(t.token, Token::Whitespace(_) | Token::EOF)) {
            continue;
        }
        let significant: Vec<TokenWithSpan> =
            part.iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).cloned().collect();
        let significant = super::lock_tokens::readable(significant);
        let height = height(&significant);
        if height > HEIGHT_MAX {
            return Err(too_deep());
        }
        let mut cursor = Cursor {
            source: &source,
            dialect: &dialect,
            end: next.map(|t| t.span.start),
            height,
            tokens: significant,
            as_of: None,
        };
        statements.push(with_stack_for(height, || utility::parse_statement(&mut cursor))?);
    }
    Ok(statements)
}

/// Parses one scalar expression: a DEFAULT or CHECK as the catalog keeps it.
pub(super) fn parse_expression(sql: &str) -> Result<(Source, ast::Expr)> {
    let source = Source::new(sql);
    let dialect = Postgres::default();
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|e| lexical_error(&source, &e.message, e.location))?;
    let cursor = Cursor {
        height: height(&tokens),
        source: &source,
        dialect: &dialect,
        end: None,
        tokens,
        as_of: None,
    };
    let mut parser = cursor.parser();
    let expr = parser.parse_expr().map_err(|e| cursor.error(e))?;
    cursor.expect_end(&parser)?;
    Ok((source, expr))
}

/// One statement's tokens.
pub(super) struct Cursor<'a> {
    pub(super) source: &'a Source,
    pub(super) dialect: &'a Postgres,
    /// Where the statement ends: its semicolon, if it has one.
    end: Option<Location>,
    pub(super) height: usize,
    pub(super) tokens: Vec<TokenWithSpan>,
    /// AS OF SYSTEM TIME, which is no longer among the tokens, and where the statement with it stands, in bytes.
    pub(super) as_of: Option<(String, std::ops::Range<usize>)>,
}

impl<'a> Cursor<'a> {
    pub(super) fn parser(&self) -> Parser<'a> {
        Parser::new(self.dialect)
            .with_recursion_limit(NESTING_MAX)
            .with_tokens_with_locations(self.tokens.clone())
    }

    /// The rest of the statement from token `from` as a statement of its own (EXPLAIN, PREPARE, DECLARE).
    pub(super) fn rest(&self, from: usize) -> Cursor<'a> {
        Cursor {
            source: self.source,
            dialect: self.dialect,
            end: self.end,
            height: self.height,
            tokens: self.tokens.get(from..).unwrap_or_default().to_vec(),
            as_of: None,
        }
    }

    /// The same statement with other tokens.
    pub(super) fn with_tokens(&self, tokens: Vec<TokenWithSpan>) -> Cursor<'a> {
        let (source, dialect, end, height) = (self.source, self.dialect, self.end, self.height);
        Cursor { source, dialect, end, height, tokens, as_of: self.as_of.clone() }
    }

    /// The statement's place in the text, in bytes.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        let at = |location| self.source.position(location).map(|p| self.source.offset(p));
        let start = self.tokens.first().and_then(|t| at(t.span.start)).unwrap_or(0);
        let end = self.tokens.last().and_then(|t| at(t.span.end)).unwrap_or(start);
        start..end.max(start)
    }

    pub(super) fn bindable(&self, tree: Tree) -> Bindable {
        let (as_of, span) = match &self.as_of {
            Some((text, span)) => (Some(text.clone()), span.clone()),
            None => (None, self.span()),
        };
        Bindable::new(self.source.clone(), span, tree, self.height).read_as_of(as_of)
    }

    /// `42601` unless the parser has read everything.
    pub(super) fn expect_end(&self, parser: &Parser<'_>) -> Result<()> {
        let next = parser.peek_token();
        match next.token {
            Token::EOF => Ok(()),
            _ => Err(self.syntax_error_at(next.span.start)),
        }
    }

    /// Whether the `n`th token is this unquoted word.
    pub(super) fn word_is(&self, n: usize, word: &str) -> bool {
        matches!(self.tokens.get(n).map(|t| &t.token),
            Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    /// `syntax error at or near "x"`, where x is the token there.
    pub(super) fn syntax_error_at(&self, at: Location) -> SqlError {
        let token = self.tokens.iter().find(|t| t.span.start == at && t.token != Token::EOF);
        match (token, self.end.filter(|end| end.line != 0)) {
            (Some(token), _) => {
                let text = self.source.slice(token.span);
                SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{text}\""))
                    .at(self.source.position(at))
            }
            (None, Some(end)) => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at or near \";\"")
                .at(self.source.position(end)),
            (None, None) => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input")
                .at(Some(self.source.end())),
        }
    }

    /// What the parser says, in PostgreSQL's words.
    pub(super) fn error(&self, error: ParserError) -> SqlError {
        match error {
            ParserError::RecursionLimitExceeded => too_deep(),
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => {
                match location_in(&message) {
                    Some(at) => self.syntax_error_at(at),
                    // Found: EOF has no location.
                    None if message.contains("found: EOF") => {
                        self.syntax_error_at(Location { line: 0, column: 0 })
                    }
                    None => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error").detail(message),
                }
            }
        }
    }
}

/// `54001`.
pub(super) fn too_deep() -> SqlError {
    SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "stack depth limit exceeded")
        .detail("The statement nests too deeply.")
}

/// The parser puts a location at the end of its messages, and nowhere else.
fn location_in(message: &str) -> Option<Location> {
    let (_, tail) = message.rsplit_once(" at Line: ")?;
    let (line, column) = tail.split_once(", Column: ")?;
    let digits = column.find(|c: char| !c.is_ascii_digit()).unwrap_or(column.len());
    Some(Location { line: line.parse().ok()?, column: column[..digits].parse().ok()? })
}

fn lexical_error(source: &Source, message: &str, at: Location) -> SqlError {
    let position = source.position(at);
    let rest = position.map_or("", |p| source.text().get(source.offset(p)..).unwrap_or_default());
    let what = if message.contains("nterminated string") || message.contains("nterminated encoded") {
        "unterminated quoted string"
    } else if message.contains("comment") {
        "unterminated /* comment"
    } else if message.contains("ollar-quoted") {
        "unterminated dollar-quoted string"
    } else if message.contains("close delimiter") {
        "unterminated quoted identifier"
    } else {
        "syntax error"
    };
    let near: String = rest.chars().take(200).collect();
    SqlError::new(SqlState::SYNTAX_ERROR, format!("{what} at or near \"{near}\"")).at(position)
}

/// String constants with only white space and a newline between are one constant (chapter 4.1.2.1).
fn join_strings(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        if let Token::SingleQuotedString(more) = &token.token {
            let spaces = out.iter().rev().take_while(|t| matches!(t.token, Token::Whitespace(_))).count();
            let at = out.len() - spaces;
            let newline = out[at..].iter().any(|t| {
                matches!(
                    t.token,
                    Token::Whitespace(Whitespace::Newline | Whitespace::SingleLineComment { .. })
                )
            });
            if newline
                && let Some(TokenWithSpan {
                    token: Token::SingleQuotedString(first) | Token::EscapedStringLiteral(first),
                    span,
                }) = out[..at].last_mut()
            {
                first.push_str(more);
                span.end = token.span.end;
                out.truncate(at);
                continue;
            }
        }
        out.push(token);
    }
    out
}

/// What the tokenizer lets through and PostgreSQL does not.
fn check_tokens(source: &Source, tokens: &[TokenWithSpan]) -> Result<()> {
    for pair in tokens.windows(2) {
        let junk = match (&pair[0].token, &pair[1].token) {
            (Token::Number(_, true), _) => true,
            (Token::Number(..) | Token::Placeholder(_), Token::Word(w)) => w.quote_style.is_none(),
            _ => false,
        };
        if junk {
            let text = source.slice(pair[0].span);
            let text: String = text.to_owned() + source.slice(pair[1].span);
            let kind =
                if matches!(pair[0].token, Token::Number(..)) { "numeric literal" } else { "parameter" };
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("trailing junk after {kind} at or near \"{text}\""),
            )
            .at(source.start(pair[0].span)));
        }
    }
    Ok(())
}

/// A bound on the height of the tree that these tokens make: a chain of infix operators leans to the left, one level
/// for each. Parentheses add up, commas don't.
fn height(tokens: &[TokenWithSpan]) -> usize {
    struct Level {
        chain: usize,
        longest: usize,
        inner: usize,
    }
    let mut levels = vec![Level { chain: 0, longest: 0, inner: 0 }];
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket => {
                levels.push(Level { chain: 1, longest: 1, inner: 0 });
            }
            Token::RParen | Token::RBracket if levels.len() > 1 => {
                let Some(done) = levels.pop() else { continue };
                if let Some(outer) = levels.last_mut() {
                    outer.inner = outer.inner.max(done.longest + done.inner);
                }
            }
            token => {
                let Some(level) = levels.last_mut() else { continue };
                match token {
                    Token::Comma => level.chain = 0,
                    Token::Word(w) => {
                        // Only what joins operands, and what opens a nested form without parentheses.
                        if matches!(
                            w.keyword,
                            Keyword::AND
                                | Keyword::OR
                                | Keyword::NOT
                                | Keyword::IS
                                | Keyword::NOTNULL
                                | Keyword::IN
                                | Keyword::LIKE
                                | Keyword::ILIKE
                                | Keyword::SIMILAR
                                | Keyword::BETWEEN
                                | Keyword::AT
                                | Keyword::COLLATE
                                | Keyword::OPERATOR
                                | Keyword::OVERLAPS
                                | Keyword::CASE
                                | Keyword::UNION
                                | Keyword::INTERSECT
                                | Keyword::EXCEPT
                        ) {
                            level.chain += 1;
                        }
                    }
                    Token::Number(..)
                    | Token::SingleQuotedString(_)
                    | Token::EscapedStringLiteral(_)
                    | Token::Placeholder(_)
                    | Token::Whitespace(_)
                    | Token::Period
                    | Token::EOF => {}
                    _ => level.chain += 1,
                }
                level.longest = level.longest.max(level.chain);
            }
        }
    }
    // Unclosed parentheses fail to parse, but only after their trees have been built.
    levels.iter().map(|l| l.longest + l.inner).sum()
}
