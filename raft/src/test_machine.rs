//! What tests within this crate run where the state machine does not matter: one that holds nothing. And nobody else is known.

use std::sync::Arc;

use bytes::Bytes;
use storage::ids::{GroupId, KeyRange, NodeId, ReplicaId};
use storage::{Batch, Cf, Engine};

use crate::api::{AddressBook, Applied, Expected, Fatal, Role, StateMachine, StateMachineFactory};

/// Takes every command, and writes nothing. It may rest.
pub(crate) struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: &mut Batch, _: Applied, _: &[u8]) -> Result<Bytes, Fatal> {
        Ok(Bytes::new())
    }
    fn applied(&self, _: Applied) {}
    fn spans(&self) -> Vec<(Cf, KeyRange)> {
        Vec::new()
    }
    fn restored(&self) -> Result<(), Fatal> {
        Ok(())
    }
    fn may_rest(&self) -> bool {
        true
    }
    fn role_changed(&self, _: &Role) {}
}

/// Makes [`Nothing`] for every group, and expects none.
pub(crate) struct Nothings;

impl StateMachineFactory for Nothings {
    fn open(&self, _: GroupId, _: ReplicaId, _: Arc<Engine>) -> Result<Arc<dyn StateMachine>, Fatal> {
        Ok(Arc::new(Nothing))
    }

    fn expected(&self, _: &Arc<Engine>) -> Result<Vec<Expected>, Fatal> {
        Ok(Vec::new())
    }
}

/// No node has an address.
pub(crate) struct Nobody;

impl AddressBook for Nobody {
    fn address(&self, _: NodeId) -> Option<String> {
        None
    }
}
