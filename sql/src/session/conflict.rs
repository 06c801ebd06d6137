//! What a client is told about a conflict: who was in the way.

use txn::Error;

use super::Session;
use crate::error::SqlError;

impl Session {
    /// Adds to a conflict's DETAIL the rival, as far as it is known, and this session's statement. What the rival's node
    /// doesn't remember, or doesn't say at once, is left out.
    pub(super) async fn with_rival(&mut self, mut error: SqlError) -> SqlError {
        let Some(Error::Conflict { rival, .. } | Error::Changed { rival, .. }) = &error.source else {
            return error;
        };
        let rival = *rival;
        let mut lines: Vec<String> = error.detail.take().into_iter().collect();
        if let Some(rival) = rival {
            let node = txn::node_of(rival);
            let known = self.shared.database.describe(&[rival]).await.pop().flatten();
            lines.push(match known {
                Some(known) => format!(
                    "The rival is transaction {rival} of session {} at {node}, whose statement was: {}",
                    known.session.pid(),
                    known.statement
                ),
                None => format!("The rival is transaction {rival} at {node}."),
            });
        }
        lines.push(format!("This transaction's statement was: {}", self.ticket.activity.statement()));
        error.detail = Some(lines.join("\n"));
        error
    }
}
