//! COPY, with its options in either syntax.

use sqlparser::ast::{self, Ident, ObjectName};
use sqlparser::tokenizer::Token;

use super::{Reader, string_of};
use crate::bind::parse::{Bindable, Tree};
use crate::error::{Result, SqlError};

/// `COPY`, with its options in either syntax.
#[derive(Debug)]
pub(in crate::bind) struct CopyStatement {
    pub from: bool,
    pub what: CopyWhat,
    pub options: Vec<(Ident, Option<String>)>,
}

#[derive(Debug)]
pub(in crate::bind) enum CopyWhat {
    Table { table: ObjectName, columns: Vec<Ident> },
    Query(Box<ast::Query>),
}

impl Reader<'_, '_> {
    pub(super) fn copy(&mut self) -> Result<Bindable> {
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
}
