//! What sessions begin with: ALTER SYSTEM, ALTER ROLE, ALTER DATABASE … SET.

use std::time::Duration;

use txn::api::BeginOptions;

use super::block::{State, statement_of};
use super::response::Response;
use super::settings::Settings;
use super::utility::join;
use super::{Session, Shared};
use crate::bind::{AlterDefaults, NewValue, Role};
use crate::catalog::defaults::{self, Change, Owner};
use crate::error::{Result, SqlError, SqlState};

/// How long a new session waits to be told its settings. Without a majority there is nothing to be told, and statements will say so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives a new session the settings of its cluster, database and role.
pub(super) async fn apply(
    shared: &Shared,
    settings: &mut Settings,
    database: &str,
    user: &str,
) -> Result<()> {
    let id = shared.catalog.image(database).await?.database().id;
    let reading = defaults::of_session(&*shared.database, id, user);
    let found = tokio::select! {
        found = reading => found,
        () = shared.seams.sleep(PATIENCE) => {
            Err(SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the settings cannot be read in time"))
        }
    };
    match found {
        Ok(found) => {
            for (name, value) in found {
                if let Err(error) = settings.set(&name, &value) {
                    // It was right when it was said; another version of this program knows other settings.
                    tracing::warn!(%name, %value, error = %error.message, "a setting of the session is ignored");
                }
            }
        }
        Err(error) => tracing::warn!(error = %error.message, "a session begins without its settings"),
    }
    Ok(())
}

impl Session {
    pub(super) async fn alter_defaults(&mut self, alter: &AlterDefaults, alone: bool) -> Result<Response> {
        if self.read_only() {
            return Err(SqlError::new(
                SqlState::READ_ONLY_SQL_TRANSACTION,
                format!("cannot execute {} in a read-only transaction", alter.tag),
            ));
        }
        let system = alter.tag == "ALTER SYSTEM";
        if system && matches!(&self.state, State::Open(block) if block.explicit) {
            return Err(SqlError::new(
                SqlState::ACTIVE_SQL_TRANSACTION,
                "ALTER SYSTEM cannot run inside a transaction block",
            ));
        }
        let owner = match system {
            true => Owner::System,
            false => self.owner(alter).await?,
        };
        let change = self.changed_default(alter)?;
        if matches!(self.state, State::Idle) && alone {
            let write = |transaction: std::sync::Arc<dyn txn::api::Transaction>| {
                let (owner, change) = (owner.clone(), change.clone());
                async move { defaults::change(&*transaction, &owner, change).await }
            };
            self.shared.catalog.attempt(BeginOptions::default(), write).await?;
        } else {
            let transaction = self.block().await?.transaction.clone();
            self.use_block();
            defaults::change(&*statement_of(&transaction, true), &owner, change).await?;
        }
        Ok(Response::tag(alter.tag))
    }

    async fn owner(&mut self, alter: &AlterDefaults) -> Result<Owner> {
        let database = match &alter.database {
            None => None,
            Some(name) => {
                let mut image = self.shared.catalog.image(&self.database).await?;
                if image.databases().iter().all(|d| d.name != *name) {
                    image = self.shared.catalog.refresh(&self.database).await?;
                }
                let found = image.databases().iter().find(|d| d.name == *name);
                let missing = || {
                    let message = format!("database \"{name}\" does not exist");
                    SqlError::new(SqlState::INVALID_CATALOG_NAME, message)
                };
                Some(found.ok_or_else(missing)?.id)
            }
        };
        let role = alter.role.as_ref().map(|role| match role {
            Role::Named(name) => name.clone(),
            Role::Current => self.user.to_string(),
        });
        Ok(Owner::Sessions { database, role })
    }

    /// The change, after a look whether a session could begin with it.
    fn changed_default(&self, alter: &AlterDefaults) -> Result<Change> {
        let Some(name) = &alter.name else { return Ok(Change::ResetAll) };
        let of_transaction = ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];
        if of_transaction.contains(&name.as_str())
            || ["session_authorization", "role"].contains(&name.as_str())
        {
            return Err(SqlError::new(
                SqlState::CANT_CHANGE_RUNTIME_PARAM,
                format!("parameter \"{name}\" cannot be changed"),
            ));
        }
        let mut checked = self.settings.clone();
        match &alter.value {
            NewValue::Default => checked.reset(name).map(|_| Change::Reset(name.clone())),
            NewValue::Current => {
                let value = checked.get_any(name).ok_or_else(|| checked.show(name).err());
                let value = value.map_err(|e| e.unwrap_or_else(|| SqlError::internal("no such setting")))?;
                Ok(Change::Set(name.clone(), value))
            }
            NewValue::Given(values) => {
                let value = join(name, values);
                checked.set(name, &value)?;
                Ok(Change::Set(name.clone(), value))
            }
        }
    }
}
