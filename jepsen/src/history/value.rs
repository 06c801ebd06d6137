//! The data of operations: the part of EDN that histories use.

use std::fmt;

/// A datum.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Value {
    /// `nil`
    #[default]
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// `42`
    Int(i64),
    /// `:read`
    Keyword(String),
    /// `"text"`
    Text(String),
    /// `[1 2]`; lists and sets are read as vectors, too.
    Vector(Vec<Value>),
    /// `{:a 1}`, in the order of writing.
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// A keyword.
    pub fn keyword(name: &str) -> Self {
        Value::Keyword(name.to_owned())
    }

    /// A vector.
    pub fn vector<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Self {
        Value::Vector(items.into_iter().map(Into::into).collect())
    }

    /// A vector of two.
    pub fn pair(a: impl Into<Value>, b: impl Into<Value>) -> Self {
        Value::Vector(vec![a.into(), b.into()])
    }

    /// The number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The items, if it is a vector.
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self {
            Value::Vector(items) => Some(items),
            _ => None,
        }
    }

    /// Both, if it is a vector of two.
    pub fn as_pair(&self) -> Option<(&Value, &Value)> {
        match self.as_slice() {
            Some([a, b]) => Some((a, b)),
            _ => None,
        }
    }

    /// The name, if it is a keyword or a text (JSON has no keywords).
    pub fn as_name(&self) -> Option<&str> {
        match self {
            Value::Keyword(name) | Value::Text(name) => Some(name),
            _ => None,
        }
    }

    /// What a map has under a keyword.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.as_name() == Some(name)).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Numbers, if all are.
    pub fn as_ints(&self) -> Option<Vec<i64>> {
        self.as_slice()?.iter().map(Value::as_int).collect()
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Value::Int(n)
    }
}

impl From<i32> for Value {
    fn from(n: i32) -> Self {
        Value::Int(n.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Nil, Into::into)
    }
}

/// As EDN.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil => f.write_str("nil"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Keyword(name) => write!(f, ":{name}"),
            Value::Text(text) => super::edn::quote(f, text),
            Value::Vector(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { " " })?;
                }
                f.write_str("]")
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key} {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}
