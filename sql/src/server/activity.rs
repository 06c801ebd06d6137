//! What the sessions of a node are doing: for operators, and for whoever meets their locks or writes at another node.

use std::collections::VecDeque;
use std::sync::Weak;

use parking_lot::Mutex;
use txn::SessionId;
use txn::api::{Activity, Witness};
use txn::ids::TxnId;

use super::Shared;

/// How much of a statement is remembered.
const STATEMENT_BYTES_MAX: usize = 256;
/// Past transactions of a session, of which it is remembered by which statement they wrote last.
const PAST_MAX: usize = 16;

/// What one session is doing.
#[derive(Debug, Default)]
pub struct SessionActivity(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    session: Option<SessionId>,
    application: String,
    statement: String,
    txn: Option<TxnId>,
    wrote: bool,
    past: VecDeque<(TxnId, String)>,
}

fn put(to: &mut String, text: &str) {
    to.clear();
    let mut end = text.len().min(STATEMENT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    to.push_str(&text[..end]);
}

impl SessionActivity {
    /// A statement begins.
    pub fn running(&self, session: SessionId, statement: &str, application: &str) {
        let mut state = self.0.lock();
        state.session = Some(session);
        put(&mut state.application, application);
        let state = &mut *state;
        // What the last transaction has written it has written by then.
        if let (true, Some(txn)) = (std::mem::take(&mut state.wrote), state.txn) {
            state.past.retain(|(past, _)| *past != txn);
            state.past.push_back((txn, state.statement.clone()));
            if state.past.len() > PAST_MAX {
                state.past.pop_front();
            }
        }
        put(&mut state.statement, statement);
    }

    /// It runs in this transaction.
    pub fn transaction(&self, txn: TxnId, writes: bool) {
        let mut state = self.0.lock();
        state.txn = Some(txn);
        state.wrote = writes;
    }

    /// The statement that runs, or ran last.
    pub fn statement(&self) -> String {
        self.0.lock().statement.clone()
    }

    fn describe(&self, id: TxnId) -> Option<Activity> {
        let state = self.0.lock();
        let session = state.session?;
        let found = |txn: Option<TxnId>, statement: &str| Activity {
            session,
            txn,
            statement: statement.to_owned(),
            application: state.application.clone(),
        };
        if session.as_owner() == id || (state.txn == Some(id) && (state.wrote || state.past.is_empty())) {
            return Some(found(state.txn, &state.statement));
        }
        match state.past.iter().rev().find(|(txn, _)| *txn == id) {
            Some((txn, statement)) => Some(found(Some(*txn), statement)),
            None => (state.txn == Some(id)).then(|| found(state.txn, &state.statement)),
        }
    }
}

/// The sessions of a node, as others ask about them.
pub(super) struct Sessions(pub Weak<Shared>);

impl Witness for Sessions {
    fn describe(&self, ids: &[TxnId]) -> Vec<Option<Activity>> {
        let Some(shared) = self.0.upgrade() else { return vec![None; ids.len()] };
        let sessions = shared.sessions.lock();
        let one = |id: &TxnId| sessions.values().find_map(|entry| entry.activity.describe(*id));
        ids.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_known_by_the_statement_that_wrote_last() {
        let activity = SessionActivity::default();
        let session = SessionId(7);
        activity.running(session, "UPDATE a", "psql");
        activity.transaction(TxnId(1), true);
        activity.running(session, "SELECT 1", "psql");
        activity.transaction(TxnId(1), false);
        let known = |id| activity.describe(TxnId(id)).map(|a| a.statement);
        assert_eq!(known(1).as_deref(), Some("UPDATE a"));
        activity.running(session, "SELECT 2", "psql");
        activity.transaction(TxnId(2), false);
        assert_eq!(known(1).as_deref(), Some("UPDATE a"));
        assert_eq!(known(2).as_deref(), Some("SELECT 2"));
        assert_eq!(known(7).as_deref(), Some("SELECT 2"), "the session");
        assert_eq!(known(3), None);
    }

    #[test]
    fn a_long_statement_is_cut_between_characters() {
        let mut text = String::new();
        put(&mut text, &"ä".repeat(STATEMENT_BYTES_MAX));
        assert_eq!(text.len(), STATEMENT_BYTES_MAX);
        put(&mut text, &format!("x{}", "ä".repeat(STATEMENT_BYTES_MAX)));
        assert_eq!(text.len(), STATEMENT_BYTES_MAX - 1);
    }
}
