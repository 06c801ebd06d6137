//! Prepared statements and portals.

use std::sync::Arc;

use parking_lot::Mutex;

use super::response::{Response, Rows};
use super::{KEPT_MAX, Session};
use crate::bind::{Bound, ParamTypes, ParsedStatement};
use crate::catalog::CatalogImage;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::OutputColumn;
use crate::protocol::output::Format;
use crate::types::{Datum, Type};

/// A prepared statement.
pub struct Prepared {
    /// What was parsed; `None` for an empty string.
    pub statement: Option<ParsedStatement>,
    /// The parameters' types.
    pub params: Vec<Type>,
    /// The columns of its rows, for a statement that has some.
    pub columns: Option<Vec<OutputColumn>>,
    /// Whether running it has the cluster do something.
    pub(super) orders: bool,
    /// What it was last bound to.
    pub(super) bound: Mutex<Option<LastBound>>,
}

/// What a statement was bound to, and against which image of the catalog and which search path.
pub(super) struct LastBound {
    pub image: Arc<CatalogImage>,
    pub path: Vec<String>,
    pub bound: Arc<Bound>,
}

/// A prepared statement with parameters, ready to run or running.
pub struct Portal {
    pub(super) prepared: Arc<Prepared>,
    pub(super) params: Vec<Datum>,
    /// One for each column.
    pub formats: Vec<Format>,
    run: Run,
}

enum Run {
    New,
    /// Has sent some rows and waits to be asked for more.
    Suspended(Box<Rows>),
    Done,
}

/// What Execute gives.
pub struct PortalRun {
    /// The response.
    pub response: Response,
    /// The formats of its columns.
    pub formats: Vec<Format>,
}

impl Portal {
    /// The columns of its rows, for a statement that has some.
    pub fn columns(&self) -> Option<&[OutputColumn]> {
        self.prepared.columns.as_deref()
    }

    /// A cursor: rows that wait to be fetched.
    pub(super) fn suspended(prepared: Arc<Prepared>, rows: Rows) -> Self {
        Self { prepared, params: Vec::new(), formats: Vec::new(), run: Run::Suspended(Box::new(rows)) }
    }

    /// The rows that wait to be fetched.
    pub(super) fn rows(&mut self) -> Option<&mut Rows> {
        match &mut self.run {
            Run::Suspended(rows) => Some(rows),
            _ => None,
        }
    }

    pub(super) fn started(&self) -> bool {
        !matches!(self.run, Run::New)
    }
}

impl Session {
    /// Parse.
    pub async fn prepare(&mut self, name: String, text: &str, declared: &[u32]) -> Result<()> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let mut parsed = self.parse(text)?;
        if parsed.len() > 1 {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        let mut types = Vec::with_capacity(declared.len());
        for oid in declared {
            let known = match oid {
                0 => Some(Type::Unknown),
                oid => Type::from_oid(*oid),
            };
            types.push(known.ok_or_else(|| {
                SqlError::new(SqlState::UNDEFINED_OBJECT, format!("type with OID {oid} does not exist"))
            })?);
        }
        let prepared = self.prepare_parsed(parsed.pop(), ParamTypes::Inferred(&types)).await?;
        self.keep_statement(name, prepared)
    }

    pub(super) fn keep_statement(&mut self, name: String, prepared: Prepared) -> Result<()> {
        if self.statements.len() >= KEPT_MAX {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a session cannot keep more than {KEPT_MAX} prepared statements"),
            )
            .hint("DEALLOCATE what is not needed any more."));
        }
        self.statements.insert(name, Arc::new(prepared));
        Ok(())
    }

    /// A prepared statement.
    pub fn prepared(&self, name: &str) -> Result<&Arc<Prepared>> {
        self.statements.get(name).ok_or_else(|| no_statement(name))
    }

    /// Bind.
    pub fn bind_portal(
        &mut self,
        name: String,
        statement: &str,
        params: Vec<Datum>,
        formats: Vec<Format>,
    ) -> Result<()> {
        if !name.is_empty() && self.portals.contains_key(&name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        if self.portals.len() >= KEPT_MAX {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a session cannot have more than {KEPT_MAX} portals"),
            ));
        }
        let prepared = self.prepared(statement)?.clone();
        self.portals.insert(name, Portal { prepared, params, formats, run: Run::New });
        Ok(())
    }

    /// A portal.
    pub fn portal(&self, name: &str) -> Result<&Portal> {
        self.portals.get(name).ok_or_else(|| no_portal(name))
    }

    /// Execute, up to the rows. `alone`: a Sync follows.
    pub async fn execute_portal(&mut self, name: &str, alone: bool) -> Result<PortalRun> {
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let formats = portal.formats.clone();
        match std::mem::replace(&mut portal.run, Run::Done) {
            Run::Suspended(rows) => Ok(PortalRun { response: Response::Rows(*rows), formats }),
            Run::Done => Err(SqlError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("portal \"{name}\" cannot be run"),
            )),
            Run::New => {
                let (prepared, params) = (portal.prepared.clone(), std::mem::take(&mut portal.params));
                self.statement_time = self.now();
                let response = self.run_prepared(&prepared, params, alone).await?;
                // The statement may have described other columns than were known when it was parsed.
                if let (Response::Rows(rows), Some(columns)) = (&response, &prepared.columns)
                    && !rows.columns.iter().map(|c| c.ty).eq(columns.iter().map(|c| c.ty))
                {
                    return Err(SqlError::new(
                        SqlState::FEATURE_NOT_SUPPORTED,
                        "cached plan must not change result type",
                    ));
                }
                Ok(PortalRun { response, formats })
            }
        }
    }

    /// The rows of a portal have all been sent; returns the tag.
    pub async fn finish_portal(&mut self, _name: &str, rows: Rows) -> Result<String> {
        self.finish_rows(rows).await
    }

    /// The client asked for fewer rows than there are.
    pub fn suspend_portal(&mut self, name: &str, rows: Rows) {
        if let Some(portal) = self.portals.get_mut(name) {
            portal.run = Run::Suspended(Box::new(rows));
        }
    }

    /// Close; closing what does not exist is no error.
    pub fn close_statement(&mut self, name: &str) {
        self.statements.remove(name);
    }

    /// Close; closing what does not exist is no error.
    pub fn close_portal(&mut self, name: &str) {
        self.portals.remove(name);
    }
}

/// `26000`.
pub(super) fn no_statement(name: &str) -> SqlError {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    SqlError::new(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}
