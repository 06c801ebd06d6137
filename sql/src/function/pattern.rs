//! Pattern matching: LIKE, SIMILAR TO and POSIX regular expressions (PostgreSQL 15, chapter 9.7).
//!
//! Regular expressions run on the `regex` crate, in time linear in the text. Back-references and look-around, which that
//! rules out, are refused (`0A000`). Where alternatives overlap, the leftmost-first match is found, PostgreSQL's is the
//! longest.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use regex::{Regex, RegexBuilder};

use super::define::{Args, f};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Datum, Type};

macro_rules! list {
    ($($name:literal ($($arg:ident),*) -> $ret:ident = $kernel:expr;)*) => {
        &[$(f($name, &[$(Type::$arg),*], Type::$ret, $kernel)),*]
    };
}

pub(super) static OPERATORS: &[Function] = list! {
    "~~"(Text, Text) -> Bool = |_, a| like(a, false, true);
    "~~"(Bpchar, Text) -> Bool = |_, a| like(a, false, true);
    "~~"(Name, Text) -> Bool = |_, a| like(a, false, true);
    "!~~"(Text, Text) -> Bool = |_, a| like(a, false, false);
    "!~~"(Bpchar, Text) -> Bool = |_, a| like(a, false, false);
    "!~~"(Name, Text) -> Bool = |_, a| like(a, false, false);
    "~~*"(Text, Text) -> Bool = |_, a| like(a, true, true);
    "~~*"(Bpchar, Text) -> Bool = |_, a| like(a, true, true);
    "~~*"(Name, Text) -> Bool = |_, a| like(a, true, true);
    "!~~*"(Text, Text) -> Bool = |_, a| like(a, true, false);
    "!~~*"(Bpchar, Text) -> Bool = |_, a| like(a, true, false);
    "!~~*"(Name, Text) -> Bool = |_, a| like(a, true, false);
    "~~"(Bytea, Bytea) -> Bool = |_, a| Ok(Datum::Bool(matches_like(a.bytea(0)?, a.bytea(1)?)?));
    "!~~"(Bytea, Bytea) -> Bool = |_, a| Ok(Datum::Bool(!matches_like(a.bytea(0)?, a.bytea(1)?)?));
    "~"(Text, Text) -> Bool = |_, a| matches_regex(a, "", true);
    "~"(Bpchar, Text) -> Bool = |_, a| matches_regex(a, "", true);
    "~"(Name, Text) -> Bool = |_, a| matches_regex(a, "", true);
    "!~"(Text, Text) -> Bool = |_, a| matches_regex(a, "", false);
    "!~"(Bpchar, Text) -> Bool = |_, a| matches_regex(a, "", false);
    "!~"(Name, Text) -> Bool = |_, a| matches_regex(a, "", false);
    "~*"(Text, Text) -> Bool = |_, a| matches_regex(a, "i", true);
    "~*"(Bpchar, Text) -> Bool = |_, a| matches_regex(a, "i", true);
    "~*"(Name, Text) -> Bool = |_, a| matches_regex(a, "i", true);
    "!~*"(Text, Text) -> Bool = |_, a| matches_regex(a, "i", false);
    "!~*"(Bpchar, Text) -> Bool = |_, a| matches_regex(a, "i", false);
    "!~*"(Name, Text) -> Bool = |_, a| matches_regex(a, "i", false);
};

pub(super) static FUNCTIONS: &[Function] = list! {
    "like_escape"(Text, Text) -> Text = like_escape;
    "similar_to_escape"(Text) -> Text = |_, a| similar_to_regex(a.text(0)?, Some('\\')).map(Datum::text);
    "similar_to_escape"(Text, Text) -> Text = |_, a| similar_to_regex(a.text(0)?, escape_char(a.text(1)?)?).map(Datum::text);
    "substring"(Text, Text) -> Text = |_, a| {
        let regex = compile(a.text(1)?, "")?;
        Ok(find(&regex, a.text(0)?, 1, None))
    };
    "regexp_replace"(Text, Text, Text) -> Text = |_, a| regexp_replace(a, 0, Some(1), "");
    "regexp_replace"(Text, Text, Text, Text) -> Text = |_, a| {
        let flags = a.text(3)?;
        let global = flags.contains('g');
        regexp_replace(a, 0, if global { None } else { Some(1) }, &flags.replace('g', ""))
    };
    "regexp_replace"(Text, Text, Text, Int4) -> Text = |_, a| regexp_replace(a, start(a, 3)?, Some(1), "");
    "regexp_replace"(Text, Text, Text, Int4, Int4) -> Text = |_, a| regexp_replace(a, start(a, 3)?, nth(a, 4)?, "");
    "regexp_replace"(Text, Text, Text, Int4, Int4, Text) -> Text = |_, a| regexp_replace(a, start(a, 3)?, nth(a, 4)?, a.text(5)?);
    "regexp_like"(Text, Text) -> Bool = |_, a| matches_regex(a, "", true);
    "regexp_like"(Text, Text, Text) -> Bool = |_, a| matches_regex(a, a.text(2)?, true);
    "regexp_count"(Text, Text) -> Int4 = |_, a| regexp_count(a, 0, "");
    "regexp_count"(Text, Text, Int4) -> Int4 = |_, a| regexp_count(a, start(a, 2)?, "");
    "regexp_count"(Text, Text, Int4, Text) -> Int4 = |_, a| regexp_count(a, start(a, 2)?, a.text(3)?);
    "regexp_substr"(Text, Text) -> Text = |_, a| Ok(find(&*compile(a.text(1)?, "")?, a.text(0)?, 1, Some(0)));
    "regexp_substr"(Text, Text, Int4) -> Text = |_, a| regexp_substr(a, 1, "");
    "regexp_substr"(Text, Text, Int4, Int4) -> Text = |_, a| regexp_substr(a, a.int4(3)?, "");
    "regexp_substr"(Text, Text, Int4, Int4, Text) -> Text = |_, a| regexp_substr(a, a.int4(3)?, a.text(4)?);
    "regexp_instr"(Text, Text) -> Int4 = |_, a| {
        let (text, regex) = (a.text(0)?, compile(a.text(1)?, "")?);
        Ok(Datum::Int4(regex.find(text).map_or(0, |m| text[..m.start()].chars().count() as i32 + 1)))
    };
};

fn escape_error() -> SqlError {
    SqlError::new(SqlState::INVALID_ESCAPE_SEQUENCE, "LIKE pattern must not end with escape character")
}

fn like(a: &[Datum], fold: bool, wanted: bool) -> Result<Datum> {
    let (text, pattern) = (a.text(0)?, a.text(1)?);
    let matched = if fold {
        matches_like(super::string::lower(text).as_bytes(), super::string::lower(pattern).as_bytes())?
    } else {
        matches_like(text.as_bytes(), pattern.as_bytes())?
    };
    Ok(Datum::Bool(matched == wanted))
}

/// The length of the character that begins with this byte.
fn width(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0.. => 4,
        _ => 1,
    }
}

/// LIKE with the escape character `\`, on UTF-8. A mismatch goes back to the last `%` only, so the time is at most the
/// product of both lengths.
fn matches_like(text: &[u8], pattern: &[u8]) -> Result<bool> {
    let (mut t, mut p) = (0, 0);
    // Where to go on after a mismatch: behind the last `%`, one character further in the text.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'%') => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            Some(b'_') if t < text.len() => Some((1, width(text[t]).min(text.len() - t))),
            Some(b'\\') => match pattern.get(p + 1) {
                None if t < text.len() => return Err(escape_error()),
                Some(literal) if text.get(t) == Some(literal) => Some((2, 1)),
                _ => None,
            },
            Some(literal) if text.get(t) == Some(literal) => Some((1, 1)),
            None if t == text.len() => return Ok(true),
            _ => None,
        };
        match (step, retry) {
            (Some((pattern_step, text_step)), _) => {
                p += pattern_step;
                t += text_step;
            }
            (None, Some((after, from))) if from < text.len() => {
                let from = from + width(text[from]).min(text.len() - from);
                retry = Some((after, from));
                (p, t) = (after, from);
            }
            _ => return Ok(false),
        }
    }
}

fn escape_char(text: &str) -> Result<Option<char>> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (escape, None) => Ok(escape),
        _ => Err(SqlError::new(SqlState::INVALID_ESCAPE_SEQUENCE, "invalid escape string")
            .hint("Escape string must be empty or one character.")),
    }
}

/// Rewrites a pattern with another escape character (`LIKE … ESCAPE`) to one with `\`.
fn like_escape(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let escape = escape_char(a.text(1)?)?;
    let mut out = String::new();
    let mut chars = a.text(0)?.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            out.push('\\');
            out.extend(chars.next());
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Ok(Datum::text(out))
}

/// A pattern of SIMILAR TO as a regular expression.
fn similar_to_regex(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut out = String::from("^(?:");
    let mut in_class = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some(literal) => out.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4]))),
                None => return Err(escape_error()),
            }
        } else if in_class {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
            in_class = c != ']';
        } else {
            match c {
                '[' => {
                    in_class = true;
                    out.push('[');
                    if chars.peek() == Some(&'^') {
                        out.push('^');
                        chars.next();
                    }
                }
                '%' => out.push_str(".*"),
                '_' => out.push('.'),
                '(' => out.push_str("(?:"),
                '\\' | '.' | '^' | '$' => {
                    out.push('\\');
                    out.push(c);
                }
                c => out.push(c),
            }
        }
    }
    out.push_str(")$");
    Ok(out)
}

/// Compiled expressions that a thread keeps.
const CACHE_MAX: usize = 64;
/// The memory of one compiled expression.
const COMPILED_BYTES_MAX: usize = 2 << 20;

/// By pattern and flags.
type Compiled = HashMap<(Box<str>, Box<str>), Rc<Regex>>;

thread_local! {
    static CACHE: RefCell<Compiled> = RefCell::new(HashMap::new());
}

fn compile(pattern: &str, flags: &str) -> Result<Rc<Regex>> {
    CACHE.with_borrow_mut(|cache| {
        let key = (Box::from(pattern), Box::from(flags));
        if let Some(regex) = cache.get(&key) {
            return Ok(Rc::clone(regex));
        }
        let regex = Rc::new(build(pattern, flags)?);
        // Patterns are few and constant, or many and each used once: starting over suits both.
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(key, Rc::clone(&regex));
        Ok(regex)
    })
}

fn build(pattern: &str, flags: &str) -> Result<Regex> {
    let (mut fold, mut newline, mut anchors, mut extended, mut literal) = (false, true, false, false, false);
    for flag in flags.chars() {
        match flag {
            'i' => fold = true,
            'c' => fold = false,
            's' => (newline, anchors) = (true, false),
            'n' | 'm' => (newline, anchors) = (false, true),
            'p' => (newline, anchors) = (false, false),
            'w' => (newline, anchors) = (true, true),
            'x' => extended = true,
            't' => extended = false,
            'q' => literal = true,
            _ => {
                return Err(SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("invalid regular expression option: \"{flag}\""),
                ));
            }
        }
    }
    let translated = if literal { Cow::Owned(regex::escape(pattern)) } else { translate(pattern)? };
    RegexBuilder::new(&translated)
        .case_insensitive(fold)
        .dot_matches_new_line(newline)
        .multi_line(anchors)
        .ignore_whitespace(extended)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| {
            let text = error.to_string();
            let reason = reason(text.lines().last().unwrap_or("").trim_start_matches("error: "));
            SqlError::new(
                SqlState::INVALID_REGULAR_EXPRESSION,
                format!("invalid regular expression: {reason}"),
            )
        })
}

/// What PostgreSQL calls a mistake.
fn reason(text: &str) -> &str {
    match text {
        "unclosed group" | "unopened group" => "parentheses () not balanced",
        "unclosed character class" => "brackets [] not balanced",
        "repetition operator missing expression" => "quantifier operand invalid",
        "invalid repetition count range, the start must be <= the end"
        | "repetition quantifier expects a valid decimal"
        | "unclosed counted repetition" => "invalid repetition count(s)",
        "invalid character class range, the start must be <= the end" => "invalid character range",
        "unrecognized escape sequence" | "incomplete escape sequence, reached end of pattern prematurely" => {
            "invalid escape \\ sequence"
        }
        other => other,
    }
}

/// PostgreSQL's escapes to those of the `regex` crate.
fn translate(pattern: &str) -> Result<Cow<'_, str>> {
    if let Some(literal) = pattern.strip_prefix("***=") {
        return Ok(Cow::Owned(regex::escape(literal)));
    }
    let pattern = pattern.strip_prefix("***:").unwrap_or(pattern);
    let unsupported = |what: &str| Err(SqlError::unsupported(format!("{what} in a regular expression")));
    if pattern.contains("(?=") || pattern.contains("(?!") || pattern.contains("(?<") {
        return unsupported("look-around");
    }
    let mut out = String::with_capacity(pattern.len());
    let mut in_class = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('y') => out.push_str("\\b"),
                Some('Y') => out.push_str("\\B"),
                Some('m') => out.push_str("\\b{start}"),
                Some('M') => out.push_str("\\b{end}"),
                Some('Z') => out.push_str("\\z"),
                Some('e') => out.push_str("\\x1b"),
                Some('1'..='9') if !in_class => return unsupported("a back-reference"),
                // A letter that escapes nothing stands for itself.
                Some(c) if c.is_alphabetic() && !"dDwWsSbBAnrtfvxuUp".contains(c) => out.push(c),
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
                None => {
                    return Err(SqlError::new(
                        SqlState::INVALID_REGULAR_EXPRESSION,
                        "invalid regular expression: invalid escape \\ sequence",
                    ));
                }
            },
            // `[[:<:]]` is a word boundary; a `[` inside a class is itself, unless it begins `[:alpha:]`.
            '[' if in_class && !matches!(chars.peek(), Some(':' | '.' | '=')) => out.push_str("\\["),
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.push('^');
                    chars.next();
                }
                if chars.peek() == Some(&']') {
                    out.push_str("\\]");
                    chars.next();
                }
            }
            '[' => {
                // `[:alpha:]`: copied whole.
                out.push('[');
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            // Set operations of the `regex` crate don't exist here.
            '&' | '~' | '-' if in_class && chars.peek() == Some(&c) => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    Ok(Cow::Owned(out))
}

fn matches_regex(a: &[Datum], flags: &str, wanted: bool) -> Result<Datum> {
    let regex = compile(a.text(1)?, flags)?;
    Ok(Datum::Bool(regex.is_match(a.text(0)?) == wanted))
}

/// The `n`-th match: the given group, or the first one where there are groups.
fn find(regex: &Regex, text: &str, n: usize, group: Option<usize>) -> Datum {
    let Some(captures) = regex.captures_iter(text).nth(n - 1) else { return Datum::Null };
    let group = group.unwrap_or(usize::from(captures.len() > 1));
    captures.get(group).map_or(Datum::Null, |found| Datum::text(found.as_str()))
}

/// A start position as a byte offset.
fn start(a: &[Datum], i: usize) -> Result<usize> {
    let start = a.int4(i)?;
    if start <= 0 {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"start\": {start}"),
        ));
    }
    let text = a.text(0)?;
    Ok(text.char_indices().nth(start as usize - 1).map_or(text.len(), |(at, _)| at))
}

/// Which match: 0 is all.
fn nth(a: &[Datum], i: usize) -> Result<Option<usize>> {
    match a.int4(i)? {
        0 => Ok(None),
        n if n > 0 => Ok(Some(n as usize)),
        n => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"n\": {n}"),
        )),
    }
}

fn regexp_count(a: &[Datum], start: usize, flags: &str) -> Result<Datum> {
    let regex = compile(a.text(1)?, flags)?;
    Ok(Datum::Int4(regex.find_iter(&a.text(0)?[start..]).count() as i32))
}

fn regexp_substr(a: &[Datum], n: i32, flags: &str) -> Result<Datum> {
    let regex = compile(a.text(1)?, flags)?;
    let n = usize::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| {
        SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"n\": {n}"))
    })?;
    Ok(find(&regex, &a.text(0)?[start(a, 2)?..], n, Some(0)))
}

/// Replaces the `n`-th match from `start` on, or all. `\1` … `\9` and `\&` in the replacement stand for what matched.
fn regexp_replace(a: &[Datum], start: usize, n: Option<usize>, flags: &str) -> Result<Datum> {
    let (text, regex, replacement) = (a.text(0)?, compile(a.text(1)?, flags)?, a.text(2)?);
    let (head, tail) = text.split_at(start);
    let mut out = String::from(head);
    let mut end = 0;
    for (i, captures) in regex.captures_iter(tail).enumerate() {
        if n.is_some_and(|n| i + 1 != n) {
            continue;
        }
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(&tail[end..whole.start()]);
        let mut chars = replacement.chars();
        while let Some(c) = chars.next() {
            match (c, chars.clone().next()) {
                ('\\', Some('&')) => {
                    chars.next();
                    out.push_str(whole.as_str());
                }
                ('\\', Some(digit @ '1'..='9')) => {
                    chars.next();
                    let group = captures.get(digit as usize - '0' as usize);
                    out.push_str(group.map_or("", |group| group.as_str()));
                }
                ('\\', Some('\\')) => {
                    chars.next();
                    out.push('\\');
                }
                _ => out.push(c),
            }
        }
        end = whole.end();
        if n.is_some() {
            break;
        }
    }
    out.push_str(&tail[end..]);
    Ok(Datum::text(out))
}
