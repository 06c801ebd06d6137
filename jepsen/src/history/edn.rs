//! Histories as EDN, one map per line, as Jepsen writes them.
//!
//! The reader takes what other tools write: any order of keys, a vector around the whole, tagged literals (the tag is
//! dropped), lists and sets (read as vectors), symbols (read as texts), comments and discarded forms.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use super::{Kind, Op, Process, Value};

/// Deeper nesting is refused: the reader calls itself.
const DEPTH_MAX: usize = 64;

/// One operation as a line.
pub fn write(out: &mut impl fmt::Write, op: &Op) -> fmt::Result {
    write!(
        out,
        "{{:index {}, :type :{}, :process {}, :f :{}, :value {}, :time {}",
        op.index,
        op.kind.name(),
        op.process,
        op.f,
        op.value,
        op.time
    )?;
    if let Some(error) = &op.error {
        out.write_str(", :error ")?;
        quote(out, error)?;
    }
    out.write_str("}")
}

/// A text with what needs it escaped.
pub(super) fn quote(out: &mut (impl fmt::Write + ?Sized), text: &str) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

/// All operations of a text.
pub fn read(text: &str) -> Result<Vec<Op>> {
    let mut reader = Reader { text, at: 0 };
    let mut ops = Vec::new();
    while reader.skip()? {
        match reader.value(0)? {
            Value::Vector(items) => {
                for item in &items {
                    ops.push(op(item)?);
                }
            }
            item => ops.push(op(&item).with_context(|| format!("line {}", reader.line()))?),
        }
    }
    Ok(ops)
}

/// One datum.
pub fn value(text: &str) -> Result<Value> {
    let mut reader = Reader { text, at: 0 };
    ensure!(reader.skip()?, "nothing but space");
    let value = reader.value(0)?;
    ensure!(!reader.skip()?, "something follows {value}");
    Ok(value)
}

/// An operation from its map.
pub(super) fn op(map: &Value) -> Result<Op> {
    let kind = map.get("type").and_then(Value::as_name).and_then(Kind::of);
    let process = match map.get("process") {
        Some(Value::Int(n)) if *n >= 0 => Process::Client(n.unsigned_abs()),
        Some(name) if name.as_name() == Some("nemesis") => Process::Nemesis,
        other => bail!("no process, but {other:?}"),
    };
    let number = |name| map.get(name).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
    Ok(Op {
        index: number("index").unwrap_or_default() as usize,
        process,
        kind: kind.with_context(|| format!("no type in {map}"))?,
        f: map.get("f").and_then(Value::as_name).unwrap_or_default().to_owned(),
        value: map.get("value").cloned().unwrap_or_default(),
        time: number("time").unwrap_or_default(),
        error: match map.get("error") {
            None | Some(Value::Nil) => None,
            Some(Value::Text(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        },
    })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    /// Skips what means nothing; whether anything follows.
    fn skip(&mut self) -> Result<bool> {
        loop {
            match self.peek() {
                None => return Ok(false),
                Some(c) if c.is_whitespace() || c == ',' => self.at += c.len_utf8(),
                Some(';') => while self.next().is_some_and(|c| c != '\n') {},
                Some('#') if self.text[self.at..].starts_with("#_") => {
                    self.at += 2;
                    ensure!(self.skip()?, "line {}: nothing to discard", self.line());
                    self.value(0)?;
                }
                Some(_) => return Ok(true),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        ensure!(depth < DEPTH_MAX, "line {}: nested too deeply", self.line());
        match self.peek().context("the text ends within a form")? {
            '[' => self.items(']', depth).map(Value::Vector),
            '(' => self.items(')', depth).map(Value::Vector),
            '{' => {
                let items = self.items('}', depth)?;
                ensure!(items.len() % 2 == 0, "line {}: a map with an odd number of forms", self.line());
                let mut items = items.into_iter();
                let mut entries = Vec::new();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    entries.push((key, value));
                }
                Ok(Value::Map(entries))
            }
            '"' => self.quoted(),
            '#' => {
                self.next();
                if self.peek() == Some('{') {
                    return self.items('}', depth).map(Value::Vector);
                }
                // A tagged literal: what it is tagged with doesn't matter here.
                self.token();
                ensure!(self.skip()?, "line {}: a tag without a form", self.line());
                self.value(depth + 1)
            }
            ':' => {
                self.next();
                Ok(Value::Keyword(self.token().to_owned()))
            }
            _ => {
                let token = self.token();
                Ok(match token {
                    "" => bail!("line {}: a form was expected", self.line()),
                    "nil" => Value::Nil,
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    number if number.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') => {
                        match number.trim_end_matches(['N', 'M']).parse() {
                            Ok(n) => Value::Int(n),
                            Err(_) => Value::Text(number.to_owned()),
                        }
                    }
                    symbol => Value::Text(symbol.to_owned()),
                })
            }
        }
    }

    fn items(&mut self, end: char, depth: usize) -> Result<Vec<Value>> {
        self.next();
        let mut items = Vec::new();
        loop {
            ensure!(self.skip()?, "the text ends before {end}");
            if self.peek() == Some(end) {
                self.next();
                return Ok(items);
            }
            items.push(self.value(depth + 1)?);
        }
    }

    fn token(&mut self) -> &str {
        let from = self.at;
        while self.peek().is_some_and(|c| {
            !c.is_whitespace() && !matches!(c, ',' | '[' | ']' | '(' | ')' | '{' | '}' | '"' | ';')
        }) {
            self.next();
        }
        &self.text[from..self.at]
    }

    fn quoted(&mut self) -> Result<Value> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next().context("the text ends within quotes")? {
                '"' => return Ok(Value::Text(text)),
                '\\' => text.push(match self.next().context("the text ends within quotes")? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    c => c,
                }),
                c => text.push(c),
            }
        }
    }
}
