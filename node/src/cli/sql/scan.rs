//! Where statements end: a semicolon outside of quotes, comments and parentheses.

/// A piece of a script.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A complete statement, without its semicolon.
    Statement(&'a str),
    /// A backslash command: a line of its own.
    Meta(&'a str),
    /// What is left: a statement without its end, or nothing but blanks and comments.
    Rest(&'a str),
}

/// Splits off the first piece of `text`; returns it and what follows.
pub(crate) fn next(text: &str) -> (Piece<'_>, &str) {
    let trimmed = text.trim_start();
    if trimmed.starts_with('\\') {
        let end = trimmed.find('\n').unwrap_or(trimmed.len());
        return (Piece::Meta(trimmed[..end].trim_end()), &trimmed[end..]);
    }
    match statement_end(text) {
        Some(end) => (Piece::Statement(&text[..end]), &text[end + 1..]),
        None => (Piece::Rest(text), ""),
    }
}

/// Whether there is nothing to run in `text`.
pub(crate) fn is_blank(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match skip_comment(bytes, at) {
            Some(next) => at = next,
            None if bytes[at].is_ascii_whitespace() => at += 1,
            None => return false,
        }
    }
    true
}

fn statement_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        if let Some(next) = skip_comment(bytes, at).or_else(|| skip_quoted(text, at)) {
            at = next;
            continue;
        }
        match bytes[at] {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn skip_comment(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes[at..].starts_with(b"--") {
        return Some(bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n));
    }
    if !bytes[at..].starts_with(b"/*") {
        return None;
    }
    // Block comments nest in SQL.
    let (mut at, mut depth) = (at + 2, 1);
    while at < bytes.len() && depth > 0 {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
    }
    Some(at)
}

fn skip_quoted(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let rest = &text[at..];
    match bytes[at] {
        quote @ (b'\'' | b'"') => {
            // In E'…' a backslash escapes the next character.
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let word = at >= 2 && (bytes[at - 2].is_ascii_alphanumeric() || bytes[at - 2] == b'_');
            let escapes = quote == b'\'' && matches!(before, Some(b'e' | b'E')) && !word;
            let mut at = at + 1;
            while at < bytes.len() {
                match bytes[at] {
                    b'\\' if escapes => at += 2,
                    b if b == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
                    b if b == quote => return Some(at + 1),
                    _ => at += 1,
                }
            }
            Some(bytes.len())
        }
        b'$' => {
            let inside_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
            let end = rest[1..].find('$')? + 2;
            let tag = &rest[..end];
            let name = &tag[1..tag.len() - 1];
            let proper = name.chars().all(|c| c.is_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if inside_word || !proper {
                return None;
            }
            Some(rest[end..].find(tag).map_or(text.len(), |n| at + end + n + tag.len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn split(mut text: &str) -> Vec<String> {
        let mut out = Vec::new();
        while !text.is_empty() {
            let (piece, rest) = next(text);
            match piece {
                Piece::Statement(s) => out.push(format!("S {}", s.trim())),
                Piece::Meta(m) => out.push(format!("M {m}")),
                Piece::Rest(r) if is_blank(r) => {}
                Piece::Rest(r) => out.push(format!("R {}", r.trim())),
            }
            text = rest;
        }
        out
    }

    #[test]
    fn semicolons_in_quotes_comments_and_parentheses_end_nothing() {
        assert_eq!(split("SELECT ';'; SELECT 2"), ["S SELECT ';'", "R SELECT 2"]);
        assert_eq!(split("SELECT $a$;$a$; -- ; \n"), ["S SELECT $a$;$a$"]);
        assert_eq!(split("SELECT /* ; /* ; */ ; */ 1;"), ["S SELECT /* ; /* ; */ ; */ 1"]);
        assert_eq!(split("SELECT E'\\';';"), ["S SELECT E'\\';'"]);
        assert_eq!(split("SELECT 'it''s;';"), ["S SELECT 'it''s;'"]);
        assert_eq!(split("SELECT $1; x"), ["S SELECT $1", "R x"]);
    }

    #[test]
    fn meta_commands_stand_on_lines_of_their_own() {
        assert_eq!(split("\\dt\nSELECT 1;\n\\q"), ["M \\dt", "S SELECT 1", "M \\q"]);
    }

    #[test]
    fn an_unfinished_quote_is_a_rest() {
        assert_eq!(split("SELECT 'abc; "), ["R SELECT 'abc;"]);
    }
}
