//! The meta-group's state machine on one node, and what this node derives from being its leader.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use proto::meta as pb;
use raft::{Applied, Fatal, Role, StateMachine};
use raft::{private_key, private_keys};
use storage::ids::{KeyRange, META_GROUP, Term, Timestamp};
use storage::sabotage::{self, Sabotage};
use storage::{Batch, Cf, Engine};
use tokio::sync::watch;

use crate::oracle::Window;
use crate::state::State;
use crate::{Error, command};

/// The meta-group's replica on this node. It exists from the start of the node, also where there is no replica (yet):
/// then the state is empty and nobody leads here.
pub struct MetaReplica {
    /// What is applied.
    pub(crate) state: RwLock<State>,
    /// Where the oracle is in its window, while this replica leads, and in which term.
    pub(crate) window: Mutex<Option<(Term, Window)>>,
    /// The term this replica leads in.
    leading: watch::Sender<Option<Term>>,
    /// The map's version, raised with every change that routing can see.
    version: watch::Sender<u64>,
}

impl MetaReplica {
    /// No state yet.
    #[allow(clippy::new_without_default, reason = "there is one per node, made on purpose")]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State::default()),
            window: Mutex::new(None),
            leading: watch::Sender::new(None),
            version: watch::Sender::new(0),
        })
    }

    /// The state machine for raft, over what the engine holds.
    pub fn open(self: &Arc<Self>, engine: Arc<Engine>) -> Result<Arc<dyn StateMachine>, Error> {
        let machine = MetaStateMachine { replica: self.clone(), engine };
        machine.load()?;
        Ok(Arc::new(machine))
    }

    /// The term in which this node leads the meta-group, as a value to wait on.
    pub fn leading(&self) -> watch::Receiver<Option<Term>> {
        self.leading.subscribe()
    }

    /// The map's version here, as a value to wait on.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Reads the state.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read())
    }

    /// Where a leader of this term begins to hand out timestamps: the end of the oracle's window that was replicated last.
    pub(crate) fn oracle_end(&self, term: Term) -> Timestamp {
        let end = self.read(State::oracle_end);
        if sabotage::is(Sabotage::OracleGoesBack) {
            // By a minute, in every other term: more than the clocks have gone on since.
            let minute = (term.0 % 2 * 60_000) << Timestamp::COUNTER_BITS;
            return Timestamp(end.0.saturating_sub(minute));
        }
        end
    }
}

struct MetaStateMachine {
    replica: Arc<MetaReplica>,
    engine: Arc<Engine>,
}

impl MetaStateMachine {
    fn load(&self) -> Result<(), Error> {
        let range = private_keys(META_GROUP);
        let snapshot = self.engine.snapshot();
        let mut rows = snapshot.iter(Cf::Group, &range);
        let mut records = Vec::new();
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            records.push((Bytes::copy_from_slice(&key[range.start.len()..]), Bytes::copy_from_slice(value)));
            rows.next();
        }
        rows.check()?;
        let state = State::load(records)?;
        let version = state.map_version();
        *self.replica.state.write() = state;
        self.replica.version.send_replace(version);
        Ok(())
    }
}

impl StateMachine for MetaStateMachine {
    fn apply(&self, batch: &mut Batch, at: Applied, command: &[u8]) -> Result<Bytes, Fatal> {
        let command = pb::Command::decode(command).map_err(|e| {
            Fatal::new(format!("the command at {} of the meta-group does not decode: {e}", at.index))
        })?;
        let mut state = self.replica.state.write();
        let result = command::apply(&mut state, command).map_err(Fatal::new)?;
        for (record, value) in state.take_dirty() {
            let key = private_key(META_GROUP, &record.key());
            match value {
                Some(value) => batch.put(Cf::Group, &key, &value),
                None => batch.delete(Cf::Group, &key),
            }
        }
        Ok(result.encode_to_vec().into())
    }

    fn applied(&self, _: Applied) {
        let version = self.replica.state.read().map_version();
        self.replica.version.send_if_modified(|known| std::mem::replace(known, version) != version);
    }

    fn spans(&self) -> Vec<(Cf, KeyRange)> {
        vec![(Cf::Group, private_keys(META_GROUP))]
    }

    fn restored(&self) -> Result<(), Fatal> {
        self.load().map_err(Fatal::new)
    }

    fn role_changed(&self, role: &Role) {
        let term = role.leads();
        // Everything a predecessor handed out is below the end that is replicated, and therefore applied here by now.
        let window = term.map(|term| (term, Window::empty(self.replica.oracle_end(term))));
        *self.replica.window.lock() = window;
        self.replica.leading.send_if_modified(|known| std::mem::replace(known, term) != term);
    }
}
