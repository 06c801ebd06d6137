//! Histories as JSON, one object per line, for tools that don't read EDN.
//!
//! Keywords and texts are both strings; maps have strings as keys. So a history that went through JSON has texts where
//! it had keywords, which the checkers take for the same.

use anyhow::{Context, Result};
use serde_json::{Map, Value as Json};

use super::{Op, Process, Value, edn};

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
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
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
