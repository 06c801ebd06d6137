//! What is said of tables in words that `sqlparser` does not know: CREATE TABLE t (a, b) AS, TRUNCATE, SPLIT AT, lists of tables.

use sqlparser::ast::Ident;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{Reader, TableName};
use crate::bind::parse::{Bindable, Tree};
use crate::error::Result;

impl Reader<'_, '_> {
    /// `CREATE TABLE t (a, b) AS …`: the names, and the statement without them.
    pub(super) fn create_table_as(&self) -> Option<(Vec<Ident>, Vec<TokenWithSpan>)> {
        let tokens = &self.cursor.tokens;
        let open = tokens.iter().take(10).position(|t| t.token == Token::LParen)?;
        // Past AS, it is the query that has parentheses.
        if (0..open).any(|n| self.cursor.word_is(n, "as")) {
            return None;
        }
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

    /// Skips `( … )`.
    pub(super) fn parenthesized(&mut self) -> Result<()> {
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
    pub(super) fn tables(&mut self) -> Result<Vec<TableName>> {
        let mut tables = Vec::new();
        while self.parser.peek_token_ref().token != Token::EOF {
            let position = self.position();
            let name = self.object_name()?;
            let (schema, name) = crate::bind::scope::table_name(&name).map_err(|e| e.at(position))?;
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

    pub(super) fn truncate(&mut self) -> Result<Bindable> {
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
        // There are no sequences that belong to columns.
        let _ = self.words(&["restart", "identity"]) || self.words(&["continue", "identity"]);
        let cascade = self.word("cascade");
        let _ = !cascade && self.word("restrict");
        Ok(self.cursor.bindable(Tree::Truncate { tables, cascade }))
    }

    pub(super) fn is_split(&self) -> bool {
        (3..6).any(|n| self.cursor.word_is(n, "split") && self.cursor.word_is(n + 1, "at"))
    }

    pub(super) fn split_at(&mut self) -> Result<Bindable> {
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
