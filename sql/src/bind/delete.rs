//! DELETE.

use sqlparser::ast::{self, FromTable};

use super::update::after_target;
use super::{Binder, LevelKind, refuse};
use crate::error::{Result, SqlError};
use crate::ir::{Delete, Statement};

impl Binder<'_> {
    pub(super) fn delete(&mut self, delete: &ast::Delete) -> Result<Statement> {
        let ast::Delete {
            delete_token: _,
            optimizer_hints: _,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        refuse(!tables.is_empty(), "DELETE from several tables")?;
        refuse(output.is_some(), "OUTPUT")?;
        refuse(!order_by.is_empty() || limit.is_some(), "ORDER BY or LIMIT in DELETE")?;
        let from = match from {
            FromTable::WithFromKeyword(from) => from,
            FromTable::WithoutKeyword(from) => {
                let position = from.first().and_then(|t| self.position(&t.relation));
                let name = from.first().map(|t| t.relation.to_string()).unwrap_or_default();
                return Err(self.syntax_error(&name, position));
            }
        };
        let [table] = from.as_slice() else {
            return Err(SqlError::unsupported("DELETE from several tables"));
        };
        refuse(!table.joins.is_empty(), "a join as a target")?;
        self.in_level(LevelKind::Root, |this| {
            let using = using.as_deref().unwrap_or_default();
            let target = this.target(&table.relation, using, selection.as_ref())?;
            let returning = match returning {
                Some(items) => Some(this.returning(after_target(target.scope.clone(), target.width), items)?),
                None => None,
            };
            Ok(Statement::Delete(Delete { table: target.table, source: target.plan, returning }))
        })
    }
}
