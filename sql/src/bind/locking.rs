//! SELECT … FOR UPDATE and FOR SHARE.
//!
//! The query is bound as if nothing were locked. Then the row's storage key is put behind its columns, all the way from the
//! scan up; that is possible where each row comes from one row of one table. PostgreSQL locks below LIMIT, so the limit is
//! taken off and left to the execution.

use sqlparser::ast;
use txn::LockMode;

use super::from::scan_of;
use super::{Binder, LevelKind};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError};
use crate::ir::{Expr, OutputColumn, Plan, Rivals, SelectLocked, Statement};
use crate::types::{ColumnType, Type};

impl Binder<'_> {
    /// Binds a query with a locking clause.
    pub(super) fn select_locked(&mut self, query: &ast::Query) -> Result<Statement> {
        let [clause] = &query.locks[..] else {
            return Err(SqlError::unsupported("more than one locking clause"));
        };
        let (mode, what) = match clause.lock_type {
            ast::LockType::Update => (LockMode::Update, "FOR UPDATE"),
            ast::LockType::Share => (LockMode::Share, "FOR SHARE"),
        };
        if clause.of.is_some() {
            return Err(SqlError::unsupported(format!("{what} OF")));
        }
        let rivals = match clause.nonblock {
            None => Rivals::Wait,
            Some(ast::NonBlock::Nowait) => Rivals::Fail,
            Some(ast::NonBlock::SkipLocked) => Rivals::Skip,
        };
        let mut unlocked = query.clone();
        unlocked.locks.clear();
        let plan = self.query(&unlocked, LevelKind::Root)?;
        let columns = plan.columns().to_vec();
        let (plan, limit, offset) = match plan {
            Plan::Limit { input, limit, offset } => (*input, limit, offset),
            plan => (plan, None, None),
        };
        let Some((source, table)) = with_row_key(plan) else {
            return Err(SqlError::unsupported(format!(
                "{what} where a row is not one row of one table (joins, aggregates, DISTINCT, UNION …)"
            )));
        };
        Ok(Statement::SelectLocked(SelectLocked { table, source, columns, limit, offset, mode, rivals }))
    }
}

/// The plan with the row's key as a further column at the end.
fn with_row_key(plan: Plan) -> Option<(Plan, std::sync::Arc<TableDescriptor>)> {
    Some(match plan {
        Plan::Scan(scan) => {
            let table = scan.table.clone();
            let mut keyed = scan_of(&table, true);
            keyed.filters = scan.filters;
            (Plan::Scan(keyed), table)
        }
        Plan::Filter { input, predicate } => {
            let (input, table) = with_row_key(*input)?;
            (Plan::Filter { input: Box::new(input), predicate }, table)
        }
        Plan::Sort { input, keys } => {
            let (input, table) = with_row_key(*input)?;
            (Plan::Sort { input: Box::new(input), keys }, table)
        }
        Plan::Project { input, mut exprs, mut columns } => {
            let (input, table) = with_row_key(*input)?;
            let ty = ColumnType::plain(Type::Bytea);
            exprs.push(Expr::Column(input.columns().len() - 1, ty));
            columns.push(OutputColumn { name: String::new(), ty, origin: None });
            (Plan::Project { input: Box::new(input), exprs, columns }, table)
        }
        _ => return None,
    })
}
