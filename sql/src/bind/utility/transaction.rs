//! Transaction control, SET and SHOW.

use sqlparser::tokenizer::Token;

use super::{Isolation, ParsedStatement, Reader, Set, Transaction, TransactionModes, string_of};
use crate::error::{Result, SqlError};

impl Reader<'_, '_> {
    pub(super) fn transaction(&mut self, keyword: &str) -> Result<Transaction> {
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

    pub(super) fn chain(&mut self) -> Result<bool> {
        let _ = self.word("transaction") || self.word("work");
        if self.words(&["and", "no", "chain"]) {
            return Ok(false);
        }
        Ok(self.words(&["and", "chain"]))
    }

    pub(super) fn modes(&mut self) -> Result<TransactionModes> {
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

    pub(super) fn set(&mut self) -> Result<ParsedStatement> {
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

    pub(super) fn zone(&mut self) -> Result<String> {
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
    pub(super) fn values(&mut self) -> Result<Option<Vec<String>>> {
        if self.word("default") {
            return Ok(None);
        }
        let mut values = vec![self.value()?];
        while self.comma() {
            values.push(self.value()?);
        }
        Ok(Some(values))
    }

    pub(super) fn value(&mut self) -> Result<String> {
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

    pub(super) fn setting_name(&mut self) -> Result<String> {
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
}

fn set(name: Option<&str>, value: Option<Vec<String>>, local: bool) -> ParsedStatement {
    ParsedStatement::Set(Set { name: name.map(Into::into), value, local, reset: false })
}
