//! Histories as JSON, an array with one object per line, for tools that don't read EDN.
//!
//! The reader takes an array in any form, and one object per line without an array around them.
//!
//! Keywords and texts are both strings; maps have strings as keys. So a history that went through JSON has texts where
//! it had keywords, which the checkers take for the same.

use anyhow::{Context, Result};
use serde_json::{Map, Value as Json};

use super::{Op, Process, Value, edn};

/// What stands before the first operation of an array, between two, and after the last.
pub(super) const OPEN: &str = "[\n";
pub(super) const BETWEEN: &str = ",\n";
pub(super) const CLOSE: &str = "\n]\n";

/// A whole history: an array, in which each operation has a line.
pub fn write_all(ops: &[Op]) -> String {
    let lines: Vec<String> = ops.iter().map(write).collect();
    format!("{OPEN}{}{CLOSE}", lines.join(BETWEEN))
}

/// One operation as a line.
pub fn write(op: &Op) -> String {
    let process = match op.process {
        Process::Client(n) => Json::from(n),
        Process::Nemesis => Json::from("nemesis"),
    };
    let mut object = Map::new();
    object.insert("index".into(), op.index.into());
    object.insert("type".into(), op.kind.name().into());
    object.insert("process".into(), process);
    object.insert("f".into(), op.f.clone().into());
    object.insert("value".into(), json(&op.value));
    object.insert("time".into(), op.time.into());
    if let Some(error) = &op.error {
        object.insert("error".into(), error.clone().into());
    }
    Json::Object(object).to_string()
}

/// All operations of a text.
pub fn read(text: &str) -> Result<Vec<Op>> {
    let whole = text.trim();
    if whole.starts_with('[') && whole.ends_with(']') {
        let items: Vec<Json> = serde_json::from_str(whole).context("an array of operations")?;
        let items = items.into_iter().enumerate();
        return items
            .map(|(n, item)| edn::op(&value(item)).with_context(|| format!("operation {n}")))
            .collect();
    }
    // Lines, or our array of a run that was broken off, which has no end.
    let lines = text.lines().map(|line| line.trim().trim_end_matches(',')).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && *line != OPEN.trim_end())
        .map(|(n, line)| {
            let parsed: Json = serde_json::from_str(line).with_context(|| format!("line {}", n + 1))?;
            edn::op(&value(parsed)).with_context(|| format!("line {}", n + 1))
        })
        .collect()
}

/// A datum as JSON.
pub fn json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(b) => Json::from(*b),
        Value::Int(n) => Json::from(*n),
        Value::Keyword(text) | Value::Text(text) => Json::from(text.clone()),
        Value::Vector(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| {
                    (key.as_name().map_or_else(|| key.to_string(), str::to_owned), json(value))
                })
                .collect(),
        ),
    }
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Text(n.to_string()), Value::Int),
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::Vector(items.into_iter().map(value).collect()),
        Json::Object(entries) => {
            // A number that was a key is one again.
            let key = |text: String| text.parse().map_or(Value::Text(text), Value::Int);
            Value::Map(entries.into_iter().map(|(k, v)| (key(k), value(v))).collect())
        }
    }
}
