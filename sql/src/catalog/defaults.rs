//! Settings that sessions begin with: ALTER SYSTEM, ALTER ROLE and ALTER DATABASE … SET.
//!
//! Kept by database and role (PostgreSQL's `pg_db_role_setting`), in rows of the system database, and read when a session opens.
//! Roles are names: whoever connects under one has its settings.

use std::collections::BTreeMap;

use bytes::Bytes;
use txn::api::{Database, Expect, Key, Transaction, Write};

use super::{layout, stored};
use crate::error::Result;

/// Whose sessions begin with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// All: ALTER SYSTEM.
    System,
    /// Those of a database and a role.
    Sessions {
        /// The database's id; `None`: any.
        database: Option<u32>,
        /// The role; `None`: any.
        role: Option<String>,
    },
}

/// What becomes of an owner's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// SET
    Set(String, String),
    /// RESET
    Reset(String),
    /// RESET ALL
    ResetAll,
}

type Values = BTreeMap<String, String>;

fn key_of(owner: &Owner) -> Key {
    match owner {
        Owner::System => layout::settings_key(true, 0, ""),
        Owner::Sessions { database, role } => {
            layout::settings_key(false, database.unwrap_or(0), role.as_deref().unwrap_or_default())
        }
    }
}

fn decode(value: Option<&Bytes>) -> Result<Values> {
    value.map_or_else(|| Ok(Values::new()), |value| stored::decode("setting", value))
}

/// The settings with which a session of a role in a database begins; later ones win.
pub async fn of_session(cluster: &dyn Database, database: u32, role: &str) -> Result<Vec<(String, String)>> {
    let sessions = |database: Option<u32>, role: Option<&str>| Owner::Sessions {
        database,
        role: role.map(str::to_owned),
    };
    let owners = [
        Owner::System,
        sessions(None, None),
        sessions(Some(database), None),
        sessions(None, Some(role)),
        sessions(Some(database), Some(role)),
    ];
    let keys: Vec<Key> = owners.iter().map(key_of).collect();
    let mut all = Vec::new();
    for value in cluster.get_latest(&keys, &[]).await? {
        all.extend(decode(value.as_ref())?);
    }
    Ok(all)
}

/// Changes settings within a transaction.
pub async fn change(transaction: &dyn Transaction, owner: &Owner, change: Change) -> Result<()> {
    let key = key_of(owner);
    let found = transaction.get(std::slice::from_ref(&key), &[]).await?;
    let mut values = decode(found.first().and_then(Option::as_ref))?;
    match change {
        Change::Set(name, value) => _ = values.insert(name, value),
        Change::Reset(name) => _ = values.remove(&name),
        Change::ResetAll => values.clear(),
    }
    let value = if values.is_empty() { None } else { Some(stored::encode("setting", &values)?) };
    Ok(transaction.write(vec![Write { key, value, expect: Expect::Any }], &[]).await?)
}
