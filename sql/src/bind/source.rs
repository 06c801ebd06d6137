//! A statement's text and the positions in it.

use std::sync::Arc;

use sqlparser::tokenizer::{Location, Span};

/// The text that a client sent. Positions are counted in characters from its start, even where it holds several
/// statements, as PostgreSQL counts them.
#[derive(Clone, Debug)]
pub struct Source {
    text: Arc<str>,
    /// For each line the characters before it.
    lines: Arc<[u32]>,
}

impl Source {
    pub(super) fn new(text: &str) -> Self {
        let mut lines = vec![0];
        // The tokenizer starts a line after each `\n`.
        for (count, c) in text.chars().enumerate() {
            if c == '\n' {
                lines.push(count as u32 + 1);
            }
        }
        Self { text: text.into(), lines: lines.into() }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The 1-based position of a location; `None` for an empty one.
    pub(super) fn position(&self, at: Location) -> Option<u32> {
        if at.line == 0 {
            return None;
        }
        let before = self.lines.get(usize::try_from(at.line).ok()?.checked_sub(1)?)?;
        Some(before + at.column as u32)
    }

    /// The position where a span starts.
    pub(super) fn start(&self, span: Span) -> Option<u32> {
        self.position(span.start)
    }

    /// The position just past the last character.
    pub(super) fn end(&self) -> u32 {
        self.text.chars().count() as u32 + 1
    }

    /// The byte offset of a position.
    pub(super) fn offset(&self, position: u32) -> usize {
        self.text
            .char_indices()
            .nth(position.saturating_sub(1) as usize)
            .map_or(self.text.len(), |(offset, _)| offset)
    }

    /// The text between two locations.
    pub(super) fn slice(&self, span: Span) -> &str {
        match (self.position(span.start), self.position(span.end)) {
            (Some(start), Some(end)) => {
                self.text.get(self.offset(start)..self.offset(end)).unwrap_or_default()
            }
            _ => "",
        }
    }

    /// Where the operator `symbol` stands between two operands. The tree does not say, so it is looked for in
    /// the text between them.
    pub(super) fn operator(&self, symbol: &str, left: Span, right: Span) -> Option<u32> {
        let from = self.position(left.end)?;
        let start = self.offset(from);
        let end = self.position(right.start).map_or(self.text.len(), |p| self.offset(p));
        let between = self.text.get(start..end)?;
        let at = between
            .find(symbol)
            .or_else(|| between.to_ascii_lowercase().find(&symbol.to_ascii_lowercase()))?;
        Some(from + between[..at].chars().count() as u32)
    }
}
