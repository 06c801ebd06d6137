//! Statements that the session carries out itself, and those whose grammar we read ourselves because `sqlparser` does
//! not know it or accepts more than PostgreSQL means by it.

use sqlparser::ast::{self, Ident, ObjectName};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::parse::{Bindable, Cursor, Tree};
use super::scope::fold;
use crate::error::{Result, SqlError, SqlState};
use crate::types::Type;

/// A parsed statement.
#[derive(Debug)]
pub enum ParsedStatement {
    /// BEGIN, COMMIT, SAVEPOINT …
    Transaction(Transaction),
    /// SET, RESET.
    Set(Set),
    /// SHOW; `None`: ALL.
    Show(Option<String>),
    /// PREPARE, EXECUTE, cursors, VACUUM …
    Utility(Utility),
    /// What the binder binds.
    Bindable(Bindable),
}

/// Transaction control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// BEGIN
    Begin(TransactionModes),
    /// START TRANSACTION
    Start(TransactionModes),
    /// COMMIT or END.
    Commit {
        /// AND CHAIN
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT name
    Savepoint(String),
    /// RELEASE [SAVEPOINT] name
    Release(String),
    /// ROLLBACK TO [SAVEPOINT] name
    RollbackTo(String),
    /// SET TRANSACTION
    SetModes(TransactionModes),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION
    SetSessionModes(TransactionModes),
}

/// What a transaction is asked to be; `None`: not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// ISOLATION LEVEL
    pub isolation: Option<Isolation>,
    /// READ ONLY, READ WRITE
    pub read_only: Option<bool>,
    /// [NOT] DEFERRABLE
    pub deferrable: Option<bool>,
}

/// SQL's isolation levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "SQL's own names")]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    const ALL: [Isolation; 4] = [
        Isolation::ReadUncommitted,
        Isolation::ReadCommitted,
        Isolation::RepeatableRead,
        Isolation::Serializable,
    ];

    /// The name as settings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadUncommitted => "read uncommitted",
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        }
    }

    /// The level of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// SET and RESET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The setting's name in lower case (`time zone` is `timezone`); `None`: RESET ALL.
    pub name: Option<String>,
    /// The values, as text without quotes; `None`: DEFAULT or RESET.
    pub value: Option<Vec<String>>,
    /// SET LOCAL
    pub local: bool,
    /// RESET
    pub reset: bool,
}

/// Which rows FETCH and MOVE want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchDirection {
    /// NEXT, FORWARD [n], n: the next n rows; negative: backwards.
    Forward(i64),
    /// ALL, FORWARD ALL
    All,
    /// BACKWARD ALL
    BackwardAll,
    /// FIRST is 1, LAST is -1.
    Absolute(i64),
    /// RELATIVE n
    Relative(i64),
}

/// Everything else that the session does.
#[derive(Debug)]
pub enum Utility {
    /// PREPARE name [(types)] AS statement
    Prepare {
        /// The name.
        name: String,
        /// The declared types; [`Type::Unknown`] where it is to be inferred.
        types: Vec<Type>,
        /// The statement.
        statement: Bindable,
    },
    /// EXECUTE name [(values)]: see [`super::bind_arguments`].
    Execute {
        /// The name.
        name: String,
        /// The arguments.
        arguments: Arguments,
    },
    /// DEALLOCATE; `None`: ALL.
    Deallocate(Option<String>),
    /// DISCARD ALL, PLANS, SEQUENCES, TEMP: the word in upper case.
    Discard(&'static str),
    /// DECLARE name CURSOR FOR query
    Declare {
        /// The name.
        name: String,
        /// BINARY
        binary: bool,
        /// SCROLL, NO SCROLL
        scroll: Option<bool>,
        /// WITH HOLD
        hold: bool,
        /// The query.
        query: Bindable,
    },
    /// FETCH, MOVE
    Fetch {
        /// The cursor.
        name: String,
        /// Which rows.
        direction: FetchDirection,
        /// MOVE: no rows are sent.
        moves: bool,
    },
    /// CLOSE; `None`: ALL.
    Close(Option<String>),
    /// VACUUM: there is nothing to vacuum by hand; the tables have yet to exist ([`super::check_tables`]).
    Vacuum(Vec<TableName>),
    /// ANALYZE
    Analyze(Vec<TableName>),
    /// LISTEN channel
    Listen(String),
    /// UNLISTEN; `None`: *.
    Unlisten(Option<String>),
    /// NOTIFY channel [, payload]
    Notify {
        /// The channel.
        channel: String,
        /// The payload.
        payload: String,
    },
    /// CHECKPOINT
    Checkpoint,
}

/// A table as a statement names it.
#[derive(Clone, Debug)]
pub struct TableName {
    /// The schema.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
    /// Where it stands.
    pub position: Option<u32>,
}

/// EXECUTE's arguments.
#[derive(Debug)]
pub struct Arguments {
    pub(super) source: super::source::Source,
    pub(super) exprs: Vec<ast::Expr>,
}

/// `COPY`, with its options in either syntax.
#[derive(Debug)]
pub(super) struct CopyStatement {
    pub from: bool,
    pub what: CopyWhat,
    pub options: Vec<(Ident, Option<String>)>,
}

#[derive(Debug)]
pub(super) enum CopyWhat {
    Table { table: ObjectName, columns: Vec<Ident> },
    Query(Box<ast::Query>),
}

pub(super) fn parse_statement(cursor: &mut Cursor<'_>) -> Result<ParsedStatement> {
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

    /// Consumes the words if all of them are next.
    fn words(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(n, word)| match &self.parser.peek_nth_token_ref(n).token {
            Token::Word(w) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
            _ => false,
        });
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

    /// `CREATE TABLE t (a, b) AS …`: the names, and the statement without them.
    fn create_table_as(&self) -> Option<(Vec<Ident>, Vec<TokenWithSpan>)> {
        let tokens = &self.cursor.tokens;
        let open = tokens.iter().take(10).position(|t| t.token == Token::LParen)?;
        let mut names = Vec::new();
        let mut at = open + 1;
        loop {
            let Token::Word(word) = &tokens.get(at)?.token else { return None };
            names.push(Ident {
                value: word.value.clone(),
                quote_style: word.quote_style,
                span: tokens[at].span,
            });
            match tokens.get(at + 1)?.token {
                Token::Comma => at += 2,
                Token::RParen => break,
                _ => return None,
            }
        }
        if !self.cursor.word_is(at + 2, "as") {
            return None;
        }
        let rest = tokens[..open].iter().chain(&tokens[at + 2..]).cloned().collect();
        Some((names, rest))
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

    fn transaction(&mut self, keyword: &str) -> Result<Transaction> {
        self.skip(1);
        Ok(match keyword {
            "begin" => {
                let _ = self.word("transaction") || self.word("work");
                Transaction::Begin(self.modes()?)
            }
            "start" => {
                self.expect("transaction")?;
                Transaction::Start(self.modes()?)
            }
            "commit" | "end" => {
                if keyword == "commit" && self.word("prepared") {
                    return Err(SqlError::unsupported("COMMIT PREPARED"));
                }
                Transaction::Commit { chain: self.chain()? }
            }
            "rollback" | "abort" => {
                if keyword == "rollback" && self.word("prepared") {
                    return Err(SqlError::unsupported("ROLLBACK PREPARED"));
                }
                let _ = self.word("transaction") || self.word("work");
                if keyword == "rollback" && self.word("to") {
                    self.word("savepoint");
                    return Ok(Transaction::RollbackTo(self.name()?));
                }
                Transaction::Rollback { chain: self.chain()? }
            }
            "savepoint" => Transaction::Savepoint(self.name()?),
            _ => {
                self.word("savepoint");
                Transaction::Release(self.name()?)
            }
        })
    }

    fn chain(&mut self) -> Result<bool> {
        let _ = self.word("transaction") || self.word("work");
        if self.words(&["and", "no", "chain"]) {
            return Ok(false);
        }
        Ok(self.words(&["and", "chain"]))
    }

    fn modes(&mut self) -> Result<TransactionModes> {
        let mut modes = TransactionModes::default();
        while self.parser.peek_token_ref().token != Token::EOF {
            self.comma();
            if self.words(&["isolation", "level"]) {
                modes.isolation = Some(if self.word("serializable") {
                    Isolation::Serializable
                } else if self.words(&["repeatable", "read"]) {
                    Isolation::RepeatableRead
                } else if self.words(&["read", "committed"]) {
                    Isolation::ReadCommitted
                } else if self.words(&["read", "uncommitted"]) {
                    Isolation::ReadUncommitted
                } else {
                    return Err(self.unexpected());
                });
            } else if self.words(&["read", "only"]) {
                modes.read_only = Some(true);
            } else if self.words(&["read", "write"]) {
                modes.read_only = Some(false);
            } else if self.words(&["not", "deferrable"]) {
                modes.deferrable = Some(false);
            } else if self.word("deferrable") {
                modes.deferrable = Some(true);
            } else {
                return Err(self.unexpected());
            }
        }
        Ok(modes)
    }

    fn set(&mut self) -> Result<ParsedStatement> {
        self.skip(1);
        if self.words(&["session", "characteristics", "as", "transaction"]) {
            return Ok(ParsedStatement::Transaction(Transaction::SetSessionModes(self.modes()?)));
        }
        if self.words(&["constraints"]) {
            return Err(SqlError::unsupported("SET CONSTRAINTS"));
        }
        let local = self.word("local");
        let session = !local && self.word("session");
        if self.word("transaction") {
            if self.word("snapshot") {
                return Err(SqlError::unsupported("SET TRANSACTION SNAPSHOT"));
            }
            return Ok(ParsedStatement::Transaction(Transaction::SetModes(self.modes()?)));
        }
        if session && self.word("authorization") {
            let value = self.values()?;
            return Ok(set(Some("session_authorization"), value, local));
        }
        if self.word("names") {
            let value = match self.parser.peek_token_ref().token {
                Token::EOF => None,
                _ => self.values()?,
            };
            return Ok(set(Some("client_encoding"), value, local));
        }
        if self.word("schema") {
            let value = self.string()?;
            return Ok(set(Some("search_path"), Some(vec![value]), local));
        }
        if self.word("role") {
            let value = self.values()?;
            return Ok(set(Some("role"), value, local));
        }
        if self.words(&["time", "zone"]) {
            let value =
                if self.word("local") || self.word("default") { None } else { Some(vec![self.zone()?]) };
            return Ok(set(Some("timezone"), value, local));
        }
        let name = self.setting_name()?;
        if !self.word("to") && !self.parser.consume_token(&Token::Eq) {
            return Err(self.unexpected());
        }
        let value = self.values()?;
        Ok(set(Some(&name), value, local))
    }

    fn zone(&mut self) -> Result<String> {
        if self.word("interval") {
            let hours = self.string()?;
            if self.word("hour") {
                self.expect("to")?;
                self.expect("minute")?;
            }
            return Ok(hours);
        }
        if let Some(hours) = self.integer()? {
            return Ok(hours.to_string());
        }
        self.value()
    }

    /// DEFAULT is `None`.
    fn values(&mut self) -> Result<Option<Vec<String>>> {
        if self.word("default") {
            return Ok(None);
        }
        let mut values = vec![self.value()?];
        while self.comma() {
            values.push(self.value()?);
        }
        Ok(Some(values))
    }

    fn value(&mut self) -> Result<String> {
        let token = self.parser.peek_token();
        let sign = match token.token {
            Token::Minus => "-",
            Token::Plus => "",
            _ => {
                let value = match &token.token {
                    Token::Word(w) => match w.quote_style {
                        Some(_) => w.value.clone(),
                        None => w.value.to_ascii_lowercase(),
                    },
                    Token::Number(n, false) => n.clone(),
                    _ => string_of(&token).ok_or_else(|| self.unexpected())?,
                };
                self.skip(1);
                return Ok(value);
            }
        };
        self.skip(1);
        match self.parser.peek_token().token {
            Token::Number(n, false) => {
                self.skip(1);
                Ok(format!("{sign}{n}"))
            }
            _ => Err(self.unexpected()),
        }
    }

    fn setting_name(&mut self) -> Result<String> {
        if self.words(&["time", "zone"]) {
            return Ok("timezone".into());
        }
        if self.words(&["transaction", "isolation", "level"]) {
            return Ok("transaction_isolation".into());
        }
        if self.words(&["session", "authorization"]) {
            return Ok("session_authorization".into());
        }
        let mut name = self.name()?;
        while self.parser.consume_token(&Token::Period) {
            name = name + "." + &self.name()?;
        }
        Ok(name.to_ascii_lowercase())
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

    /// Skips `( … )`.
    fn parenthesized(&mut self) -> Result<()> {
        let mut depth = 0;
        loop {
            match self.parser.peek_token_ref().token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::EOF => return Err(self.unexpected()),
                _ => {}
            }
            self.skip(1);
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// `a, schema.b (column, …), …`; none: all.
    fn tables(&mut self) -> Result<Vec<TableName>> {
        let mut tables = Vec::new();
        while self.parser.peek_token_ref().token != Token::EOF {
            let position = self.position();
            let name = self.object_name()?;
            let (schema, name) = super::scope::table_name(&name).map_err(|e| e.at(position))?;
            tables.push(TableName { schema, name, position });
            if self.parser.peek_token_ref().token == Token::LParen {
                self.parenthesized()?;
            }
            if !self.comma() {
                break;
            }
        }
        Ok(tables)
    }

    fn declare(&mut self) -> Result<Utility> {
        let name = self.name()?;
        let (mut binary, mut scroll) = (false, None);
        loop {
            if self.word("binary") {
                binary = true;
            } else if self.word("scroll") {
                scroll = Some(true);
            } else if self.words(&["no", "scroll"]) {
                scroll = Some(false);
            } else if !(self.word("insensitive") || self.word("asensitive")) {
                break;
            }
        }
        self.expect("cursor")?;
        let hold = self.words(&["with", "hold"]);
        if !hold {
            self.words(&["without", "hold"]);
        }
        self.expect("for")?;
        let at = self.parser.peek_token().span.start;
        let query = self.nested()?;
        if !query.is_query() {
            return Err(self.cursor.syntax_error_at(at));
        }
        self.finish();
        Ok(Utility::Declare { name, binary, scroll, hold, query })
    }

    fn fetch(&mut self, moves: bool) -> Result<Utility> {
        let direction = if self.word("next") {
            FetchDirection::Forward(1)
        } else if self.word("prior") {
            FetchDirection::Forward(-1)
        } else if self.word("first") {
            FetchDirection::Absolute(1)
        } else if self.word("last") {
            FetchDirection::Absolute(-1)
        } else if self.word("absolute") {
            FetchDirection::Absolute(self.integer()?.ok_or_else(|| self.unexpected())?)
        } else if self.word("relative") {
            FetchDirection::Relative(self.integer()?.ok_or_else(|| self.unexpected())?)
        } else if self.word("all") {
            FetchDirection::All
        } else if self.word("forward") {
            if self.word("all") {
                FetchDirection::All
            } else {
                FetchDirection::Forward(self.integer()?.unwrap_or(1))
            }
        } else if self.word("backward") {
            if self.word("all") {
                FetchDirection::BackwardAll
            } else {
                FetchDirection::Forward(self.integer()?.unwrap_or(1).saturating_neg())
            }
        } else {
            FetchDirection::Forward(self.integer()?.unwrap_or(1))
        };
        let _ = self.word("from") || self.word("in");
        Ok(Utility::Fetch { name: self.name()?, direction, moves })
    }

    fn copy(&mut self) -> Result<Bindable> {
        self.skip(1);
        if self.word("binary") {
            return Err(SqlError::unsupported("COPY BINARY"));
        }
        let what = if self.parser.consume_token(&Token::LParen) {
            let query = self.parser.parse_query().map_err(|e| self.cursor.error(e))?;
            self.expect_token(&Token::RParen)?;
            CopyWhat::Query(query)
        } else {
            let table = self.object_name()?;
            let mut columns = Vec::new();
            if self.parser.consume_token(&Token::LParen) {
                loop {
                    columns.push(self.identifier()?);
                    if !self.comma() {
                        break;
                    }
                }
                self.expect_token(&Token::RParen)?;
            }
            CopyWhat::Table { table, columns }
        };
        let from = self.word("from");
        if !from {
            self.expect("to")?;
        }
        if from && matches!(what, CopyWhat::Query(_)) {
            return Err(self.unexpected());
        }
        if self.word("program") {
            return Err(SqlError::unsupported("COPY with a program").hint("Use STDIN or STDOUT."));
        }
        if string_of(&self.parser.peek_token()).is_some() {
            return Err(SqlError::unsupported("COPY with a file on the server").hint("Use STDIN or STDOUT."));
        }
        // PostgreSQL takes either word in either direction.
        if !self.word("stdin") && !self.word("stdout") {
            return Err(self.unexpected());
        }
        let mut options = Vec::new();
        let with = self.word("with");
        if self.parser.consume_token(&Token::LParen) {
            loop {
                options.push(self.copy_option()?);
                if !self.comma() {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        } else {
            self.copy_options_old(&mut options)?;
            if with && options.is_empty() {
                return Err(self.unexpected());
            }
        }
        if self.word("where") {
            return Err(SqlError::unsupported("WHERE in COPY"));
        }
        Ok(self.cursor.bindable(Tree::Copy(CopyStatement { from, what, options })))
    }

    /// `name [value]` of the syntax since 9.0.
    fn copy_option(&mut self) -> Result<(Ident, Option<String>)> {
        let name = self.identifier()?;
        let token = self.parser.peek_token();
        let value = match &token.token {
            Token::Comma | Token::RParen => None,
            Token::LParen | Token::Mul => {
                return Err(SqlError::unsupported(format!("COPY option {}", name.value.to_uppercase()))
                    .at(self.cursor.source.start(name.span)));
            }
            _ => Some(self.value()?),
        };
        Ok((name, value))
    }

    /// `CSV HEADER DELIMITER AS ','` and so on.
    fn copy_options_old(&mut self, options: &mut Vec<(Ident, Option<String>)>) -> Result<()> {
        loop {
            let token = self.parser.peek_token();
            let Token::Word(w) = &token.token else { return Ok(()) };
            let word = w.value.to_ascii_lowercase();
            let named = |name: &str| Ident { value: name.into(), quote_style: None, span: token.span };
            match word.as_str() {
                "csv" | "binary" => {
                    self.skip(1);
                    options.push((named("format"), Some(word)));
                }
                "header" | "freeze" => {
                    self.skip(1);
                    options.push((named(&word), None));
                }
                "delimiter" | "null" | "quote" | "escape" => {
                    self.skip(1);
                    self.word("as");
                    options.push((named(&word), Some(self.string()?)));
                }
                "encoding" => {
                    self.skip(1);
                    options.push((named(&word), Some(self.string()?)));
                }
                "force" => return Err(SqlError::unsupported("FORCE in COPY").at(self.position())),
                _ => return Ok(()),
            }
        }
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
        Ok(ParsedStatement::Bindable(self.cursor.bindable(Tree::Explain { analyze, statement })))
    }

    fn truncate(&mut self) -> Result<Bindable> {
        self.skip(1);
        self.word("table");
        let mut tables = Vec::new();
        loop {
            self.word("only");
            tables.push(self.object_name()?);
            let _ = self.parser.consume_token(&Token::Mul);
            if !self.comma() {
                break;
            }
        }
        // There are no sequences that belong to columns, and no foreign keys.
        let _ = self.words(&["restart", "identity"]) || self.words(&["continue", "identity"]);
        let _ = self.word("cascade") || self.word("restrict");
        Ok(self.cursor.bindable(Tree::Truncate { tables }))
    }

    fn is_split(&self) -> bool {
        (3..6).any(|n| self.cursor.word_is(n, "split") && self.cursor.word_is(n + 1, "at"))
    }

    fn split_at(&mut self) -> Result<Bindable> {
        self.skip(2);
        let table = self.object_name()?;
        self.expect("split")?;
        self.expect("at")?;
        self.expect("values")?;
        let mut points = Vec::new();
        loop {
            self.expect_token(&Token::LParen)?;
            points.push(
                self.parser.parse_comma_separated(Parser::parse_expr).map_err(|e| self.cursor.error(e))?,
            );
            self.expect_token(&Token::RParen)?;
            if !self.comma() {
                break;
            }
        }
        Ok(self.cursor.bindable(Tree::SplitAt { table, points }))
    }
}

fn set(name: Option<&str>, value: Option<Vec<String>>, local: bool) -> ParsedStatement {
    ParsedStatement::Set(Set { name: name.map(Into::into), value, local, reset: false })
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
