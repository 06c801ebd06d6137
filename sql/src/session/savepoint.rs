//! Savepoints of a transaction block.

use super::Session;
use super::block::{Block, State, in_failed_block};
use super::settings::Settings;
use crate::catalog::CatalogMark;
use crate::error::{Result, SqlError, SqlState};

/// Savepoints that a transaction may have open.
const SAVEPOINTS_MAX: usize = 1_000;

/// What ROLLBACK TO goes back to.
pub(super) struct Savepoint {
    name: String,
    writes: u64,
    catalog: CatalogMark,
    settings: Settings,
    kept: Option<Settings>,
    read_only: bool,
    advisory: usize,
}

impl Block {
    /// Whatever is written from now on can be undone up to the first savepoint.
    fn keep_marks(&self) {
        self.transaction.keep_marks(self.savepoints.first().map(|point| point.writes));
    }
}

impl Session {
    /// SAVEPOINT.
    pub(super) fn savepoint(&mut self, name: String) -> Result<()> {
        let (settings, advisory) = (self.settings.clone(), self.advisory.mark());
        let block = self.explicit_block("SAVEPOINT")?;
        if block.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a transaction cannot have more than {SAVEPOINTS_MAX} savepoints"),
            ));
        }
        let (writes, catalog) = (block.transaction.savepoint(), block.catalog.mark());
        let (kept, read_only) = (block.kept.clone(), block.read_only);
        block.savepoints.push(Savepoint { name, writes, catalog, settings, kept, read_only, advisory });
        block.keep_marks();
        Ok(())
    }

    /// RELEASE SAVEPOINT.
    pub(super) fn release(&mut self, name: &str) -> Result<()> {
        let block = self.explicit_block("RELEASE SAVEPOINT")?;
        let at = find(&block.savepoints, name)?;
        block.savepoints.truncate(at);
        block.keep_marks();
        Ok(())
    }

    /// ROLLBACK TO SAVEPOINT.
    pub(super) async fn rollback_to(&mut self, name: &str) -> Result<()> {
        let mut block = match std::mem::replace(&mut self.state, State::Idle) {
            State::Open(block) | State::Failed(block) if block.explicit => block,
            other => {
                self.state = other;
                return Err(outside_block("ROLLBACK TO SAVEPOINT"));
            }
        };
        let result = match find(&block.savepoints, name) {
            Ok(at) => {
                let point = &block.savepoints[at];
                block.catalog.rollback_to(&point.catalog);
                let settings = point.settings.clone();
                block.kept.clone_from(&point.kept);
                block.read_only = point.read_only;
                self.advisory.rollback_to(point.advisory).await;
                let undone = block.transaction.rollback_to(point.writes).await;
                block.savepoints.truncate(at + 1);
                block.keep_marks();
                undone.map(|()| settings).map_err(SqlError::from)
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(settings) => {
                self.state = State::Open(block);
                self.restore_settings(settings);
                Ok(())
            }
            Err(error) => {
                self.state = State::Failed(block);
                Err(error)
            }
        }
    }

    fn explicit_block(&mut self, what: &str) -> Result<&mut Block> {
        match &mut self.state {
            State::Open(block) if block.explicit => Ok(block),
            State::Failed(_) => Err(in_failed_block()),
            _ => Err(outside_block(what)),
        }
    }
}

fn find(savepoints: &[Savepoint], name: &str) -> Result<usize> {
    savepoints.iter().rposition(|s| s.name == name).ok_or_else(|| {
        SqlError::new(
            SqlState::INVALID_SAVEPOINT_SPECIFICATION,
            format!("savepoint \"{name}\" does not exist"),
        )
    })
}

fn outside_block(what: &str) -> SqlError {
    SqlError::new(
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
        format!("{what} can only be used in transaction blocks"),
    )
}
