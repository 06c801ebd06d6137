//! Functions and operators of character strings (PostgreSQL 15, chapter 9.4). Positions count characters.

use std::borrow::Cow;

use super::define::{Args, f};
use super::{EvalContext, Function};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Datum, Type, io};

macro_rules! list {
    ($($name:literal ($($arg:ident),*) -> $ret:ident = $kernel:expr;)*) => {
        &[$(f($name, &[$(Type::$arg),*], Type::$ret, $kernel)),*]
    };
}

/// The longest string that a function builds (PostgreSQL's limit is 1 GB; ours protects the node).
const RESULT_BYTES_MAX: usize = 64 << 20;

pub(super) static OPERATORS: &[Function] = list! {
    "||"(Text, Text) -> Text = |_, a| Ok(Datum::text([a.text(0)?, a.text(1)?].concat()));
    "^@"(Text, Text) -> Bool = |_, a| Ok(Datum::Bool(a.text(0)?.starts_with(a.text(1)?)));
};

/// `||` of a string and anything.
pub(super) static ANY_OPERATORS: &[Function] = &[
    f("||", &[Type::Text, Type::Unknown], Type::Text, join).stable(),
    f("||", &[Type::Unknown, Type::Text], Type::Text, join).stable(),
];

pub(super) static FUNCTIONS: &[Function] = list! {
    "length"(Text) -> Int4 = length;
    "length"(Bpchar) -> Int4 = length;
    "char_length"(Text) -> Int4 = length;
    "char_length"(Bpchar) -> Int4 = length;
    "character_length"(Text) -> Int4 = length;
    "character_length"(Bpchar) -> Int4 = length;
    "octet_length"(Text) -> Int4 = |_, a| Ok(int(a.text(0)?.len()));
    "octet_length"(Bpchar) -> Int4 = |_, a| Ok(int(a.text(0)?.len()));
    "bit_length"(Text) -> Int4 = |_, a| Ok(int(a.text(0)?.len() * 8));
    "lower"(Text) -> Text = |_, a| Ok(Datum::text(lower(a.text(0)?)));
    "upper"(Text) -> Text = |_, a| Ok(Datum::text(a.text(0)?.chars().map(upper_char).collect::<String>()));
    "initcap"(Text) -> Text = |_, a| Ok(Datum::text(initcap(a.text(0)?)));
    "substr"(Text, Int4) -> Text = |_, a| substring(a.text(0)?, a.int4(1)?, None);
    "substr"(Text, Int4, Int4) -> Text = |_, a| substring(a.text(0)?, a.int4(1)?, Some(a.int4(2)?));
    "substring"(Text, Int4) -> Text = |_, a| substring(a.text(0)?, a.int4(1)?, None);
    "substring"(Text, Int4, Int4) -> Text = |_, a| substring(a.text(0)?, a.int4(1)?, Some(a.int4(2)?));
    "overlay"(Text, Text, Int4) -> Text = |_, a| overlay(a, None);
    "overlay"(Text, Text, Int4, Int4) -> Text = |_, a| overlay(a, Some(a.int4(3)?));
    "position"(Text, Text) -> Int4 = position;
    "strpos"(Text, Text) -> Int4 = position;
    "btrim"(Text) -> Text = |_, a| Ok(Datum::text(a.text(0)?.trim_matches(' ')));
    "btrim"(Text, Text) -> Text = |_, a| { let set = a.text(1)?; Ok(Datum::text(a.text(0)?.trim_matches(|c| set.contains(c)))) };
    "ltrim"(Text) -> Text = |_, a| Ok(Datum::text(a.text(0)?.trim_start_matches(' ')));
    "ltrim"(Text, Text) -> Text = |_, a| { let set = a.text(1)?; Ok(Datum::text(a.text(0)?.trim_start_matches(|c| set.contains(c)))) };
    "rtrim"(Text) -> Text = |_, a| Ok(Datum::text(a.text(0)?.trim_end_matches(' ')));
    "rtrim"(Text, Text) -> Text = |_, a| { let set = a.text(1)?; Ok(Datum::text(a.text(0)?.trim_end_matches(|c| set.contains(c)))) };
    "lpad"(Text, Int4) -> Text = |_, a| pad(a, " ", true);
    "lpad"(Text, Int4, Text) -> Text = |_, a| pad(a, a.text(2)?, true);
    "rpad"(Text, Int4) -> Text = |_, a| pad(a, " ", false);
    "rpad"(Text, Int4, Text) -> Text = |_, a| pad(a, a.text(2)?, false);
    "left"(Text, Int4) -> Text = left;
    "right"(Text, Int4) -> Text = right;
    "repeat"(Text, Int4) -> Text = repeat;
    "replace"(Text, Text, Text) -> Text = replace;
    "reverse"(Text) -> Text = |_, a| Ok(Datum::text(a.text(0)?.chars().rev().collect::<String>()));
    "split_part"(Text, Text, Int4) -> Text = split_part;
    "translate"(Text, Text, Text) -> Text = translate;
    "ascii"(Text) -> Int4 = |_, a| Ok(Datum::Int4(a.text(0)?.chars().next().map_or(0, |c| c as i32)));
    "chr"(Int4) -> Text = chr;
    "to_hex"(Int4) -> Text = |_, a| Ok(Datum::text(format!("{:x}", a.int4(0)?)));
    "to_hex"(Int8) -> Text = |_, a| Ok(Datum::text(format!("{:x}", a.int8(0)?)));
    "starts_with"(Text, Text) -> Bool = |_, a| Ok(Datum::Bool(a.text(0)?.starts_with(a.text(1)?)));
    "quote_ident"(Text) -> Text = |_, a| Ok(Datum::text(quote_ident(a.text(0)?)));
    "quote_literal"(Text) -> Text = |_, a| Ok(Datum::text(quote_literal(a.text(0)?)));
};

/// Those that take values of any type.
pub(super) static ANY_FUNCTIONS: &[Function] = &[
    f("quote_literal", &[Type::Unknown], Type::Text, |c, a| {
        Ok(Datum::text(quote_literal(&io::format_plain(&a[0], &c.time_zone))))
    })
    .stable(),
    f("quote_nullable", &[Type::Unknown], Type::Text, |c, a| {
        Ok(Datum::text(match &a[0] {
            Datum::Null => "NULL".into(),
            value => quote_literal(&io::format_plain(value, &c.time_zone)),
        }))
    })
    .lenient()
    .stable(),
    f("concat", &[], Type::Text, |c, a| concat(c, a, "")).variadic(Type::Unknown).lenient().stable(),
    f("concat_ws", &[Type::Text], Type::Text, |c, a| match &a[0] {
        Datum::Null => Ok(Datum::Null),
        _ => concat(c, &a[1..], a.text(0)?),
    })
    .variadic(Type::Unknown)
    .lenient()
    .stable(),
    f("format", &[Type::Text], Type::Text, format).lenient().stable(),
    f("format", &[Type::Text], Type::Text, format).variadic(Type::Unknown).lenient().stable(),
    f("num_nulls", &[], Type::Int4, |_, a| Ok(int(a.iter().filter(|d| d.is_null()).count())))
        .variadic(Type::Unknown)
        .lenient(),
    f("num_nonnulls", &[], Type::Int4, |_, a| Ok(int(a.iter().filter(|d| !d.is_null()).count())))
        .variadic(Type::Unknown)
        .lenient(),
];

fn int(value: usize) -> Datum {
    Datum::Int4(i32::try_from(value).unwrap_or(i32::MAX))
}

pub(super) fn too_long() -> SqlError {
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "requested length too large")
}

fn join(ctx: &EvalContext, a: &[Datum]) -> Result<Datum> {
    // The other operand is cast to text, which spells booleans out.
    let text = |datum| match datum {
        &Datum::Bool(true) => Cow::Borrowed("true"),
        &Datum::Bool(false) => Cow::Borrowed("false"),
        datum => io::format_plain(datum, &ctx.time_zone),
    };
    Ok(Datum::text([&*text(&a[0]), &*text(&a[1])].concat()))
}

fn length(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    Ok(int(a.text(0)?.chars().count()))
}

/// In lower case: one character for one, whatever stands around it, as C's library does it.
pub(super) fn lower(text: &str) -> String {
    text.chars().map(lower_char).collect()
}

/// Unicode's simple mapping. The standard library has the full one; where that has several characters for one, the simple
/// one leaves the character as it is, except for these.
fn lower_char(c: char) -> char {
    let mut mapped = c.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ if c == 'İ' => 'i',
        _ => c,
    }
}

/// See [`lower_char`].
fn upper_char(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        // Greek vowels with an iota below become those with one beside.
        _ => match u32::from(c) {
            code @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => {
                char::from_u32(code + 8).unwrap_or(c)
            }
            code @ (0x1fb3 | 0x1fc3 | 0x1ff3) => char::from_u32(code + 9).unwrap_or(c),
            _ => c,
        },
    }
}

pub(super) fn initcap(text: &str) -> String {
    let mut inside = false;
    text.chars()
        .map(|c| {
            let mapped = if inside { lower_char(c) } else { upper_char(c) };
            inside = c.is_alphanumeric();
            mapped
        })
        .collect()
}

/// The byte position of the `n`-th character (from 0), or the end.
fn byte_at(text: &str, n: usize) -> usize {
    if text.is_ascii() {
        return n.min(text.len());
    }
    text.char_indices().nth(n).map_or(text.len(), |(at, _)| at)
}

fn substring(text: &str, start: i32, length: Option<i32>) -> Result<Datum> {
    let start = i64::from(start);
    let end = match length {
        None => i64::MAX,
        Some(length) if length < 0 => {
            return Err(SqlError::new(SqlState::SUBSTRING_ERROR, "negative substring length not allowed"));
        }
        Some(length) => start + i64::from(length),
    };
    // Positions before the first character count, though nothing is there.
    let (from, to) = (start.max(1) - 1, end.max(1) - 1);
    if to <= from {
        return Ok(Datum::text(""));
    }
    let from_byte = byte_at(text, usize::try_from(from).unwrap_or(usize::MAX));
    let rest = &text[from_byte..];
    let count = usize::try_from(to - from).unwrap_or(usize::MAX);
    Ok(Datum::text(&rest[..byte_at(rest, count)]))
}

fn overlay(a: &[Datum], length: Option<i32>) -> Result<Datum> {
    let (text, new, start) = (a.text(0)?, a.text(1)?, a.int4(2)?);
    let length = length.unwrap_or(i32::try_from(new.chars().count()).unwrap_or(i32::MAX));
    if start <= 0 {
        return Err(SqlError::new(SqlState::SUBSTRING_ERROR, "negative substring length not allowed"));
    }
    let start = start as usize - 1;
    let end = (start as i64 + i64::from(length)).max(0) as usize;
    Ok(Datum::text([&text[..byte_at(text, start)], new, &text[byte_at(text, end)..]].concat()))
}

/// `position(string, substring)`: SQL's `POSITION(substring IN string)`.
fn position(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let text = a.text(0)?;
    Ok(int(text.find(a.text(1)?).map_or(0, |at| text[..at].chars().count() + 1)))
}

fn pad(a: &[Datum], fill: &str, left: bool) -> Result<Datum> {
    let text = a.text(0)?;
    let wanted = a.int4(1)?.max(0) as usize;
    if wanted > RESULT_BYTES_MAX {
        return Err(too_long());
    }
    let have = text.chars().count();
    if have >= wanted || fill.is_empty() {
        return Ok(Datum::text(&text[..byte_at(text, wanted)]));
    }
    let padding: String = fill.chars().cycle().take(wanted - have).collect();
    Ok(Datum::text(if left { [&padding, text].concat() } else { [text, &padding].concat() }))
}

/// How many characters a count means, where a negative one leaves that many out.
fn resolve_count(text: &str, n: i32) -> usize {
    if n >= 0 { n as usize } else { text.chars().count().saturating_sub(n.unsigned_abs() as usize) }
}

fn left(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let text = a.text(0)?;
    Ok(Datum::text(&text[..byte_at(text, resolve_count(text, a.int4(1)?))]))
}

fn right(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let text = a.text(0)?;
    let skipped = text.chars().count().saturating_sub(resolve_count(text, a.int4(1)?));
    Ok(Datum::text(&text[byte_at(text, skipped)..]))
}

fn repeat(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (text, count) = (a.text(0)?, a.int4(1)?.max(0) as usize);
    match text.len().checked_mul(count) {
        Some(bytes) if bytes <= RESULT_BYTES_MAX => Ok(Datum::text(text.repeat(count))),
        _ => Err(too_long()),
    }
}

fn replace(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (text, from, to) = (a.text(0)?, a.text(1)?, a.text(2)?);
    if from.is_empty() {
        return Ok(a[0].clone());
    }
    if to.len() > from.len() && text.len() / from.len() * to.len() > RESULT_BYTES_MAX {
        let occurrences = text.matches(from).count();
        if text.len() + occurrences * (to.len() - from.len()) > RESULT_BYTES_MAX {
            return Err(too_long());
        }
    }
    Ok(Datum::text(text.replace(from, to)))
}

fn split_part(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (text, delimiter, n) = (a.text(0)?, a.text(1)?, a.int4(2)?);
    let index = match n {
        0 => {
            return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "field position must not be zero"));
        }
        n => n.unsigned_abs() as usize - 1,
    };
    if delimiter.is_empty() {
        return Ok(Datum::text(if index == 0 { text } else { "" }));
    }
    let field = if n > 0 { text.split(delimiter).nth(index) } else { text.rsplit(delimiter).nth(index) };
    Ok(Datum::text(field.unwrap_or("")))
}

fn translate(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    let (from, to): (Vec<char>, Vec<char>) = (a.text(1)?.chars().collect(), a.text(2)?.chars().collect());
    let mapped = |c: char| match from.iter().position(|f| *f == c) {
        Some(at) => to.get(at).copied(),
        None => Some(c),
    };
    Ok(Datum::text(a.text(0)?.chars().filter_map(mapped).collect::<String>()))
}

fn chr(_: &EvalContext, a: &[Datum]) -> Result<Datum> {
    match a.int4(0)? {
        0 => Err(SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "null character not permitted")),
        code if code < 0 => {
            Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "character number must be positive"))
        }
        code => match char::from_u32(code as u32) {
            Some(c) => Ok(Datum::text(c.to_string())),
            None => Err(SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("requested character too large for encoding: {code}"),
            )),
        },
    }
}

fn concat(ctx: &EvalContext, values: &[Datum], separator: &str) -> Result<Datum> {
    let mut out = String::new();
    let mut first = true;
    for value in values.iter().filter(|value| !value.is_null()) {
        if !std::mem::take(&mut first) {
            out.push_str(separator);
        }
        out.push_str(&io::format_plain(value, &ctx.time_zone));
    }
    Ok(Datum::text(out))
}

/// Key words that an identifier must not be without quotes.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// An identifier as it must be written in SQL.
pub fn quote_ident(name: &str) -> String {
    let safe = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && RESERVED.binary_search(&name).is_err();
    if safe { name.into() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A string as a literal of SQL.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn format_error(message: &'static str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// A field of a format string after the `%`.
#[derive(Default)]
struct Directive {
    position: Option<usize>,
    left: bool,
    width: Option<i64>,
    /// `*` or `*n$`: the width is an argument.
    width_from: Option<Option<usize>>,
    kind: char,
}

fn directive(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Directive> {
    let unterminated =
        || format_error("unterminated format() type specifier").hint("For a single \"%\" use \"%%\".");
    let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<i64> {
        let mut value = None;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
            value = Some(value.unwrap_or(0_i64).saturating_mul(10).saturating_add(i64::from(digit)));
            chars.next();
        }
        value
    };
    let mut out = Directive::default();
    let mut first = number(chars);
    if let (Some(position), Some('$')) = (first, chars.peek()) {
        if position == 0 {
            return Err(format_error("format specifies argument 0, but arguments are numbered from 1"));
        }
        chars.next();
        out.position = Some(position as usize);
        first = None;
    }
    if first.is_none() {
        while chars.peek() == Some(&'-') {
            chars.next();
            out.left = true;
        }
        if chars.peek() == Some(&'*') {
            chars.next();
            let from = number(chars);
            if from.is_some() && chars.next() != Some('$') {
                return Err(format_error("width argument position must be ended by \"$\""));
            }
            out.width_from = Some(from.map(|from| from as usize));
        } else {
            first = number(chars);
        }
    }
    out.width = first;
    out.kind = chars.next().ok_or_else(unterminated)?;
    Ok(out)
}

/// `format(pattern, …)`: `%s`, `%I`, `%L`, `%%`, with positions and widths.
fn format(ctx: &EvalContext, a: &[Datum]) -> Result<Datum> {
    if a[0].is_null() {
        return Ok(Datum::Null);
    }
    let few = || format_error("too few arguments for format()");
    let mut out = String::new();
    let mut next = 1;
    let mut chars = a.text(0)?.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let directive = directive(&mut chars)?;
        if !matches!(directive.kind, 's' | 'I' | 'L') {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("unrecognized format() type specifier \"{}\"", directive.kind),
            )
            .hint("For a single \"%\" use \"%%\"."));
        }
        let mut left = directive.left;
        let width = match directive.width_from {
            None => directive.width.unwrap_or(0),
            Some(from) => {
                let index = from.unwrap_or(next);
                next = index + 1;
                match a.get(index).ok_or_else(few)? {
                    Datum::Null => 0,
                    value => io::format_plain(value, &ctx.time_zone).parse().unwrap_or(0),
                }
            }
        };
        left |= width < 0;
        let index = directive.position.unwrap_or(next);
        next = index + 1;
        let value = a.get(index).ok_or_else(few)?;
        let text = match (directive.kind, value) {
            ('s', Datum::Null) => String::new(),
            ('L', Datum::Null) => "NULL".into(),
            ('I', Datum::Null) => {
                return Err(SqlError::new(
                    SqlState::NULL_VALUE_NOT_ALLOWED,
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            ('I', value) => quote_ident(&io::format_plain(value, &ctx.time_zone)),
            ('L', value) => quote_literal(&io::format_plain(value, &ctx.time_zone)),
            (_, value) => io::format_plain(value, &ctx.time_zone).into_owned(),
        };
        let width = width.unsigned_abs() as usize;
        if width > RESULT_BYTES_MAX {
            return Err(too_long());
        }
        let missing = width.saturating_sub(text.chars().count());
        let blanks = " ".repeat(missing);
        if left {
            out.push_str(&text);
            out.push_str(&blanks);
        } else {
            out.push_str(&blanks);
            out.push_str(&text);
        }
    }
    Ok(Datum::text(out))
}
