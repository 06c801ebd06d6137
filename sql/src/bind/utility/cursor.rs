//! DECLARE, FETCH and MOVE.

use super::{FetchDirection, Reader, Utility};
use crate::error::Result;

impl Reader<'_, '_> {
    pub(super) fn declare(&mut self) -> Result<Utility> {
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

    pub(super) fn fetch(&mut self, moves: bool) -> Result<Utility> {
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
}
