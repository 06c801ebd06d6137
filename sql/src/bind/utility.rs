//! Statements that the session carries out itself, and those whose grammar we read ourselves because `sqlparser` does
//! not know it or accepts more than PostgreSQL means by it.

mod command;
mod copy;
mod cursor;
mod table;
mod transaction;

use sqlparser::ast::{self, Ident, ObjectName};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

pub use command::{
    AlterDefaults, Arguments, FetchDirection, Isolation, NewValue, ParsedStatement, Role, Set, TableName,
    Transaction, TransactionModes, Utility,
};
pub(super) use copy::{CopyStatement, CopyWhat};

use super::parse::{Bindable, Cursor, Tree};
use super::scope::fold;
use crate::error::{Result, SqlError, SqlState};

pub(super) fn parse_statement(cursor: &mut Cursor<'_>) -> Result<ParsedStatement> {
    if ["select", "with", "table", "values"].iter().any(|word| cursor.word_is(0, word)) {
        let span = cursor.span();
        cursor.as_of = transaction::take_as_of(&mut cursor.tokens).map(|text| (text, span));
    }
    let mut reader = Reader { cursor, parser: cursor.parser() };
    let Some(Token::Word(first)) = cursor.tokens.first().map(|t| &t.token) else {
        return match cursor.tokens.first() {
            Some(t) if t.token == Token::LParen => reader.general(),
            Some(t) => Err(cursor.syntax_error_at(t.span.start)),
            None => Err(SqlError::internal("an empty statement")),
        };
    };
    let keyword = if first.quote_style.is_some() { String::new() } else { first.value.to_ascii_lowercase() };
    let parsed = match keyword.as_str() {
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
            ParsedStatement::Transaction(reader.transaction(&keyword)?)
        }
        "set" => reader.set()?,
        "reset" => {
            reader.skip(1);
            let name = reader.setting_name()?;
            let name = (name != "all").then_some(name);
            ParsedStatement::Set(Set { name, value: None, local: false, reset: true })
        }
        "show" => {
            reader.skip(1);
            let name = reader.setting_name()?;
            ParsedStatement::Show((name != "all").then_some(name))
        }
        "prepare" | "execute" | "deallocate" | "discard" | "declare" | "fetch" | "move" | "close"
        | "vacuum" | "analyze" | "analyse" | "listen" | "unlisten" | "notify" | "checkpoint" => {
            ParsedStatement::Utility(reader.utility(&keyword)?)
        }
        "copy" => ParsedStatement::Bindable(reader.copy()?),
        "explain" => return reader.explain(),
        "truncate" => ParsedStatement::Bindable(reader.truncate()?),
        "create" if cursor.word_is(1, "database") => {
            reader.skip(2);
            let name = reader.identifier()?;
            if reader.parser.peek_token().token != Token::EOF {
                return Err(SqlError::unsupported("an option of CREATE DATABASE").at(reader.position()));
            }
            ParsedStatement::Bindable(cursor.bindable(Tree::CreateDatabase { name }))
        }
        "create" if reader.create_table_as().is_some() => {
            let Some((names, tokens)) = reader.create_table_as() else {
                return Err(SqlError::internal("CREATE TABLE AS"));
            };
            let rest = cursor.with_tokens(tokens);
            let mut parser = rest.parser();
            let statement = parser.parse_statement().map_err(|e| cursor.error(e))?;
            rest.expect_end(&parser)?;
            let tree = Tree::CreateTableAs { names, statement };
            return Ok(ParsedStatement::Bindable(cursor.bindable(tree)));
        }
        "alter" if ["system", "role", "user", "database"].iter().any(|kind| cursor.word_is(1, kind)) => {
            match reader.alter_defaults()? {
                Some(alter) => ParsedStatement::Utility(Utility::AlterDefaults(alter)),
                None => {
                    let other = Reader { cursor, parser: cursor.parser() };
                    return Err(other
                        .unsupported_kind()
                        .unwrap_or_else(|| SqlError::unsupported("ALTER SYSTEM")));
                }
            }
        }
        "alter" if cursor.word_is(1, "table") && reader.is_split() => {
            ParsedStatement::Bindable(reader.split_at()?)
        }
        "table" => {
            let query = reader.parser.parse_query().map_err(|e| cursor.error(e))?;
            let tree = Tree::Statement(ast::Statement::Query(query));
            ParsedStatement::Bindable(cursor.bindable(tree))
        }
        "alter" | "create" | "delete" | "drop" | "insert" | "select" | "update" | "values" | "with"
        | "call" | "comment" | "grant" | "revoke" | "lock" | "merge" => return reader.general(),
        "cluster" | "do" | "import" | "load" | "reassign" | "refresh" | "reindex" | "security" => {
            return Err(SqlError::unsupported(keyword.to_uppercase()));
        }
        _ => {
            let at = cursor.tokens.first().map_or(Location { line: 0, column: 0 }, |t| t.span.start);
            return Err(cursor.syntax_error_at(at));
        }
    };
    cursor.expect_end(&reader.parser)?;
    Ok(parsed)
}

struct Reader<'a, 'c> {
    cursor: &'c Cursor<'a>,
    parser: Parser<'a>,
}

impl Reader<'_, '_> {
    fn err(&self, e: ParserError) -> SqlError {
        self.cursor.error(e)
    }

    fn unexpected(&self) -> SqlError {
        self.cursor.syntax_error_at(self.parser.peek_token().span.start)
    }

    fn position(&self) -> Option<u32> {
        self.cursor.source.start(self.parser.peek_token().span)
    }

    fn skip(&mut self, n: usize) {
        for _ in 0..n {
            self.parser.advance_token();
        }
    }

    /// Whether the `n`th token from here is this word.
    fn is_word(&self, n: usize, word: &str) -> bool {
        is_word(&self.parser.peek_nth_token_ref(n).token, word)
    }

    /// Consumes the words if all of them are next.
    fn words(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(n, word)| self.is_word(n, word));
        if all {
            self.skip(words.len());
        }
        all
    }

    fn word(&mut self, word: &str) -> bool {
        self.words(&[word])
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        if self.word(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn expect_token(&mut self, token: &Token) -> Result<()> {
        self.parser.expect_token(token).map(|_| ()).map_err(|e| self.err(e))
    }

    fn comma(&mut self) -> bool {
        self.parser.consume_token(&Token::Comma)
    }

    fn identifier(&mut self) -> Result<Ident> {
        match &self.parser.peek_token_ref().token {
            Token::Word(_) => self.parser.parse_identifier().map_err(|e| self.cursor.error(e)),
            _ => Err(self.unexpected()),
        }
    }

    fn name(&mut self) -> Result<String> {
        self.identifier().map(|i| fold(&i))
    }

    fn object_name(&mut self) -> Result<ObjectName> {
        self.parser.parse_object_name(false).map_err(|e| self.cursor.error(e))
    }

    fn string(&mut self) -> Result<String> {
        let token = self.parser.peek_token();
        match string_of(&token) {
            Some(s) => {
                self.skip(1);
                Ok(s)
            }
            None => Err(self.unexpected()),
        }
    }

    fn integer(&mut self) -> Result<Option<i64>> {
        let negative = match self.parser.peek_token_ref().token {
            Token::Minus => true,
            Token::Plus | Token::Number(..) => false,
            _ => return Ok(None),
        };
        if !matches!(self.parser.peek_token_ref().token, Token::Number(..)) {
            self.skip(1);
        }
        match &self.parser.peek_token_ref().token {
            Token::Number(digits, _) => {
                let value: i64 = digits.parse().map_err(|_| self.unexpected())?;
                self.skip(1);
                Ok(Some(if negative { -value } else { value }))
            }
            _ => Err(self.unexpected()),
        }
    }

    /// What `sqlparser` reads whole.
    fn general(&mut self) -> Result<ParsedStatement> {
        let statement = self.parser.parse_statement().map_err(|e| self.cursor.error(e));
        let statement = statement.and_then(|s| self.cursor.expect_end(&self.parser).map(|()| s));
        match statement {
            Ok(statement) => Ok(ParsedStatement::Bindable(self.cursor.bindable(Tree::Statement(statement)))),
            Err(e) => Err(self.unsupported_kind().unwrap_or(e)),
        }
    }

    /// `ALTER VIEW …` and the like: what our parser doesn't read need not be wrong.
    fn unsupported_kind(&self) -> Option<SqlError> {
        const KINDS: [&str; 26] = [
            "access",
            "aggregate",
            "cast",
            "collation",
            "conversion",
            "database",
            "default",
            "domain",
            "event",
            "extension",
            "foreign",
            "function",
            "group",
            "index",
            "language",
            "materialized",
            "operator",
            "policy",
            "procedure",
            "publication",
            "role",
            "sequence",
            "trigger",
            "type",
            "user",
            "view",
        ];
        let verb = ["alter", "create", "drop"].into_iter().find(|verb| self.cursor.word_is(0, verb))?;
        let kind = KINDS.into_iter().find(|kind| self.cursor.word_is(1, kind))?;
        Some(SqlError::unsupported(format!("{} {}", verb.to_uppercase(), kind.to_uppercase())))
    }

    /// The rest as a statement of its own.
    fn nested(&self) -> Result<Bindable> {
        let mut rest = self.cursor.rest(self.parser.index());
        if rest.tokens.is_empty() {
            return Err(self.unexpected());
        }
        match parse_statement(&mut rest)? {
            ParsedStatement::Bindable(bindable) => Ok(bindable),
            _ => Err(self.unexpected()),
        }
    }

    /// Leaves nothing to be read, after [`Self::nested`].
    fn finish(&mut self) {
        while self.parser.peek_token_ref().token != Token::EOF {
            self.skip(1);
        }
    }

    fn utility(&mut self, keyword: &str) -> Result<Utility> {
        self.skip(1);
        Ok(match keyword {
            "prepare" => {
                if self.word("transaction") {
                    return Err(SqlError::unsupported("PREPARE TRANSACTION"));
                }
                let name = self.name()?;
                let mut types = Vec::new();
                if self.parser.consume_token(&Token::LParen) {
                    loop {
                        let at = self.position();
                        let ty = self.parser.parse_data_type().map_err(|e| self.cursor.error(e))?;
                        types.push(super::data_type::resolve(&ty).map_err(|e| e.at(at))?.ty);
                        if !self.comma() {
                            break;
                        }
                    }
                    self.expect_token(&Token::RParen)?;
                }
                self.expect("as")?;
                let statement = self.nested()?;
                self.finish();
                Utility::Prepare { name, types, statement }
            }
            "execute" => {
                let name = self.name()?;
                let mut exprs = Vec::new();
                if self.parser.consume_token(&Token::LParen) {
                    exprs = self
                        .parser
                        .parse_comma_separated(Parser::parse_expr)
                        .map_err(|e| self.cursor.error(e))?;
                    self.expect_token(&Token::RParen)?;
                }
                Utility::Execute { name, arguments: Arguments { source: self.cursor.source.clone(), exprs } }
            }
            "deallocate" => {
                self.word("prepare");
                Utility::Deallocate(if self.word("all") { None } else { Some(self.name()?) })
            }
            "discard" => Utility::Discard(if self.word("all") {
                "ALL"
            } else if self.word("plans") {
                "PLANS"
            } else if self.word("sequences") {
                "SEQUENCES"
            } else if self.word("temp") || self.word("temporary") {
                "TEMP"
            } else {
                return Err(self.unexpected());
            }),
            "declare" => self.declare()?,
            "fetch" => self.fetch(false)?,
            "move" => self.fetch(true)?,
            "close" => Utility::Close(if self.word("all") { None } else { Some(self.name()?) }),
            "vacuum" => {
                if self.parser.peek_token_ref().token == Token::LParen {
                    self.parenthesized()?;
                } else {
                    self.word("full");
                    self.word("freeze");
                    self.word("verbose");
                    let _ = self.word("analyze") || self.word("analyse");
                }
                Utility::Vacuum(self.tables()?)
            }
            "analyze" | "analyse" => {
                if self.parser.peek_token_ref().token == Token::LParen {
                    self.parenthesized()?;
                } else {
                    self.word("verbose");
                }
                Utility::Analyze(self.tables()?)
            }
            "listen" => Utility::Listen(self.name()?),
            "unlisten" => Utility::Unlisten(if self.parser.consume_token(&Token::Mul) {
                None
            } else {
                Some(self.name()?)
            }),
            "notify" => {
                let channel = self.name()?;
                let payload = if self.comma() { self.string()? } else { String::new() };
                Utility::Notify { channel, payload }
            }
            _ => Utility::Checkpoint,
        })
    }

    fn explain(mut self) -> Result<ParsedStatement> {
        self.skip(1);
        let mut analyze = false;
        if self.parser.peek_token_ref().token == Token::LParen
            && !matches!(&self.parser.peek_nth_token_ref(1).token,
                Token::Word(w) if matches!(w.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES))
            && self.parser.peek_nth_token_ref(1).token != Token::LParen
        {
            self.skip(1);
            loop {
                let at = self.position();
                let name = self.name()?;
                let value = match self.parser.peek_token_ref().token {
                    Token::Comma | Token::RParen => None,
                    _ => Some(self.value()?),
                };
                let on = !matches!(value.as_deref(), Some("off" | "false" | "0"));
                match name.as_str() {
                    "analyze" => analyze = on,
                    "verbose" | "costs" | "buffers" | "timing" | "summary" | "settings" | "wal" => {}
                    "format" if value.as_deref().is_some_and(|v| v.eq_ignore_ascii_case("text")) => {}
                    "format" => {
                        return Err(SqlError::unsupported("EXPLAIN in a format other than text").at(at));
                    }
                    other => {
                        return Err(SqlError::new(
                            SqlState::SYNTAX_ERROR,
                            format!("unrecognized EXPLAIN option \"{other}\""),
                        )
                        .at(at));
                    }
                }
                if !self.comma() {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        } else {
            analyze = self.word("analyze") || self.word("analyse");
            self.word("verbose");
        }
        if self.word("execute") || self.word("declare") {
            return Err(SqlError::unsupported("EXPLAIN of this statement"));
        }
        let statement = self.nested()?;
        let as_of = statement.as_of().map(str::to_owned);
        let explain = self.cursor.bindable(Tree::Explain { analyze, statement });
        Ok(ParsedStatement::Bindable(explain.read_as_of(as_of)))
    }
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

fn string_of(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) | Token::UnicodeStringLiteral(s) => {
            Some(s.clone())
        }
        Token::DollarQuotedString(s) => Some(s.value.clone()),
        _ => None,
    }
}
