//! Replicas that a start cannot open, or that can't be opened when they are made: their position, their descriptor or the end of
//! their log does not decode or cannot be read, there is a hole between state and log, whether they are in quarantine cannot be
//! read, or a snapshot that they have accepted cannot be installed.
//!
//! One of them is no reason to refuse the whole node, which may hold ten thousand that are well. It is there, and has failed ([`Role::Stopped`]): it
//! answers nobody, takes the place of its keys, and goes the way of one that fails later (`suspects.rs`). It is no
//! reason only as long as it is about that replica: a node whose log or state refuses everything does not start, nor one that lacks a group
//! which it can't do without ([`crate::StateMachineFactory::is_vital`]).

use std::sync::Arc;

use bytes::Bytes;
use storage::ids::{GroupId, KeyRange, ReplicaId};
use storage::{Batch, Cf};

use crate::api::{Applied, Error, Fatal, Role, StateMachine};
use crate::fault::Fault;
use crate::group::Group;
use crate::multi::MultiRaft;
use crate::removal::is_quarantined;
use crate::rest::Rested;
use crate::state_machine::{Position, Shared};

impl MultiRaft {
    /// Opens a replica at the start of the process. `torn`: why the snapshot that it has accepted could not be installed.
    pub(crate) async fn reopen_one(
        &self,
        group: GroupId,
        replica: ReplicaId,
        torn: Option<Fatal>,
    ) -> Result<(), Error> {
        let opened = match torn {
            Some(reason) => Err(reason),
            None => self.try_reopen(group, replica).await,
        };
        let Err(source) = opened else { return Ok(()) };
        if self.fails_all() || self.factory.is_vital(group) {
            return Err(Error::Open { group, replica, source });
        }
        self.admit_failed(group, replica, &source);
        Ok(())
    }

    /// It is one of this node's, and has failed.
    pub(crate) fn admit_failed(&self, group: GroupId, replica: ReplicaId, why: &Fatal) {
        let failed = self.failed(group, replica, why);
        self.groups.write().insert(group, failed);
    }

    async fn try_reopen(&self, group: GroupId, replica: ReplicaId) -> Result<(), Fatal> {
        // First: one of which that is not known does not run.
        let quarantined = is_quarantined(self.engine(), group, replica)?;
        let opened = self.try_open(group, replica, true, true).await?;
        self.admit(opened, quarantined).await;
        Ok(())
    }

    fn failed(&self, group: GroupId, replica: ReplicaId, why: &Fatal) -> Arc<Group> {
        let (machine, position) = (self.machine(group, replica), Position::default());
        let (engine, seams) = (self.engine().clone(), self.seams().clone());
        let shared = Shared::new(group, replica, engine, machine, seams, Fault::new(), position.clone());
        let rested = Rested::opened(&shared, &position, None);
        let reason: Arc<str> = format!("it cannot be opened: {why}").into();
        shared.fault.set(reason.clone());
        let failed = Group::new(shared, self.nursery.clone(), true, rested);
        failed.publish(Role::Stopped { reason });
        failed
    }

    /// The state machine of a replica that does not run. If that cannot be opened, nobody knows which rows are its own: one that
    /// holds nothing takes its place, and the rows stay. They are in nobody's way: whoever gets their keys gets a snapshot, which replaces
    /// what lies there (`storage::import`).
    pub(crate) fn machine(&self, group: GroupId, replica: ReplicaId) -> Arc<dyn StateMachine> {
        self.factory.open(group, replica, self.engine().clone()).unwrap_or_else(|error| {
            tracing::error!(%group, %replica, %error, "which rows are this replica's is not known");
            Arc::new(Unopened)
        })
    }
}

/// What stands for a state machine that could not be opened. Nothing is ever applied to it.
struct Unopened;

impl StateMachine for Unopened {
    fn apply(&self, _: &mut Batch, _: Applied, _: &[u8]) -> Result<Bytes, Fatal> {
        Err(Fatal::new("the state machine could not be opened"))
    }

    fn applied(&self, _: Applied) {}

    fn spans(&self) -> Vec<(Cf, KeyRange)> {
        Vec::new()
    }

    fn restored(&self) -> Result<(), Fatal> {
        Err(Fatal::new("the state machine could not be opened"))
    }

    fn keeps_members(&self) -> bool {
        true
    }

    fn is_retired(&self) -> bool {
        true
    }

    fn role_changed(&self, _: &Role) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use storage::Engine;
    use storage::ids::NodeId;
    use storage::seam::Seams;
    use storage::{Identity, Store, StoreOptions};

    use super::*;
    use crate::api::{Expected, StateMachineFactory};
    use crate::options::RaftOptions;
    use crate::test_machine::{Nobody, Nothing};

    /// The first time, it cannot read.
    struct FailsAtFirst(AtomicBool);

    impl StateMachineFactory for FailsAtFirst {
        fn open(&self, _: GroupId, _: ReplicaId, _: Arc<Engine>) -> Result<Arc<dyn StateMachine>, Fatal> {
            match self.0.swap(false, Ordering::SeqCst) {
                true => Err(Fatal::new("a read error")),
                false => Ok(Arc::new(Nothing)),
            }
        }

        fn expected(&self, _: &Arc<Engine>) -> Result<Vec<Expected>, Fatal> {
            Ok(Vec::new())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_replica_that_cannot_be_opened_is_there_and_can_be_removed() {
        const GROUP: GroupId = GroupId(5);
        let dir = tempfile::TempDir::new().expect("a directory");
        let seams = Seams::real();
        let store = Store::open(dir.path(), StoreOptions::default(), seams.clone()).expect("a store");
        store.set_identity(Identity { cluster_id: 1, node_id: NodeId(1) }).expect("identity");
        let factory = Arc::new(FailsAtFirst(AtomicBool::new(true)));
        let multi = MultiRaft::start(RaftOptions::default(), store.clone(), factory, Arc::new(Nobody), seams);
        let multi = multi.await.expect("start");

        multi.create_replica(GROUP, ReplicaId(4)).await.expect_err("it cannot be opened");
        let failed = multi.group(GROUP).expect("it is there");
        assert!(failed.failed().is_some_and(|reason| reason.contains("a read error")));
        assert_eq!(multi.suspects(), [GROUP]);
        multi.create_replica(GROUP, ReplicaId(5)).await.expect_err("the other one is still there");
        // What whoever looks for replicas that are no members does with it.
        multi.remove_replica(GROUP, failed.replica()).await.expect("remove");
        assert!(multi.suspects().is_empty());
        let next = multi.create_replica(GROUP, ReplicaId(5)).await.expect("there is room");
        assert!(next.failed().is_none());
    }
}
