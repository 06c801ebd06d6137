//! Transaction control, SET and SHOW.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{
    AlterDefaults, Isolation, NewValue, ParsedStatement, Reader, Role, Set, Transaction, TransactionModes,
    is_word, string_of,
};
use crate::error::{Result, SqlError};

impl Reader<'_, '_> {
    pub(super) fn transaction(&mut self, keyword: &str) -> Result<Transaction> {
        self.skip(1);
        Ok(match keyword {
            "begin" => {
                let _ = self.word("transaction") || self.word("work");
                self.shaped(Transaction::Begin)?
            }
            "start" => {
                self.expect("transaction")?;
                self.shaped(Transaction::Start)?
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

    /// A statement with characteristics of a transaction, among which AS OF SYSTEM TIME may be.
    fn shaped(&mut self, statement: fn(TransactionModes) -> Transaction) -> Result<Transaction> {
        let mut modes = self.modes()?;
        if !self.words(&AS_OF) {
            return match self.parser.peek_token_ref().token {
                Token::EOF => Ok(statement(modes)),
                _ => Err(self.unexpected()),
            };
        }
        let text = self.moment()?;
        let more = self.modes()?;
        modes.isolation = more.isolation.or(modes.isolation);
        modes.read_only = more.read_only.or(modes.read_only);
        modes.deferrable = more.deferrable.or(modes.deferrable);
        match self.parser.peek_token_ref().token {
            Token::EOF => Ok(Transaction::AsOf(text, Box::new(statement(modes)))),
            _ => Err(self.unexpected()),
        }
    }

    /// The constant behind AS OF SYSTEM TIME.
    fn moment(&mut self) -> Result<String> {
        let token = self.parser.peek_token();
        let text = moment_in(&token).ok_or_else(|| self.unexpected())?;
        self.skip(1);
        Ok(text)
    }

    pub(super) fn modes(&mut self) -> Result<TransactionModes> {
        let mut modes = TransactionModes::default();
        while self.parser.peek_token_ref().token != Token::EOF {
            self.comma();
            let as_of = AS_OF.iter().enumerate().all(|(n, word)| self.is_word(n, word));
            if as_of {
                break;
            }
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
            return Ok(ParsedStatement::Transaction(self.shaped(Transaction::SetModes)?));
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

    /// The rest of ALTER {SYSTEM | ROLE | USER | DATABASE} if it is about settings; `None`: about something else.
    pub(super) fn alter_defaults(&mut self) -> Result<Option<AlterDefaults>> {
        let (mut database, mut role) = (None, None);
        let tag = if self.words(&["alter", "system"]) {
            "ALTER SYSTEM"
        } else if self.words(&["alter", "database"]) {
            database = Some(self.name()?);
            "ALTER DATABASE"
        } else if self.words(&["alter", "role"]) || self.words(&["alter", "user"]) {
            if ["current_user", "session_user", "current_role"].iter().any(|word| self.word(word)) {
                role = Some(Role::Current);
            } else if !self.word("all") {
                role = Some(Role::Named(self.name()?));
            }
            if self.words(&["in", "database"]) {
                database = Some(self.name()?);
            }
            "ALTER ROLE"
        } else {
            return Ok(None);
        };
        let altered = |name, value| Ok(Some(AlterDefaults { tag, database, role, name, value }));
        if self.word("reset") {
            let name = self.setting_name()?;
            return altered((name != "all").then_some(name), NewValue::Default);
        }
        // (RENAME TO, OWNER TO, PASSWORD … are others' business; a tablespace we have none.)
        if !self.word("set") || self.word("tablespace") {
            return Ok(None);
        }
        let name = self.setting_name()?;
        if self.words(&["from", "current"]) {
            return altered(Some(name), NewValue::Current);
        }
        if !self.word("to") && !self.parser.consume_token(&Token::Eq) && name != "timezone" {
            return Err(self.unexpected());
        }
        let value = self.values()?.map_or(NewValue::Default, NewValue::Given);
        altered(Some(name), value)
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

/// `AS OF SYSTEM TIME 'constant'` at the end of a query, outside parentheses, or behind its FROM: taken out of the tokens.
pub(super) fn take_as_of(tokens: &mut Vec<TokenWithSpan>) -> Option<String> {
    let mut depth = 0usize;
    let at = tokens.iter().enumerate().position(|(at, token)| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        let words = tokens.get(at..at + AS_OF.len()).unwrap_or_default();
        let all =
            words.len() == AS_OF.len() && words.iter().zip(AS_OF).all(|(t, word)| is_word(&t.token, word));
        depth == 0 && all
    })?;
    let text = moment_in(tokens.get(at + AS_OF.len())?)?;
    tokens.drain(at..=at + AS_OF.len());
    Some(text)
}

const AS_OF: [&str; 4] = ["as", "of", "system", "time"];

fn moment_in(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Number(digits, false) => Some(digits.clone()),
        _ => string_of(token),
    }
}

fn set(name: Option<&str>, value: Option<Vec<String>>, local: bool) -> ParsedStatement {
    ParsedStatement::Set(Set { name: name.map(Into::into), value, local, reset: false })
}
