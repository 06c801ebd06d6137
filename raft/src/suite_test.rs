//! openraft's own suite of storage tests, over our log store and state machine.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};
use prost::Message;
use proto::raft as wire;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Identity, Store, StoreOptions};
use tempfile::TempDir;

use crate::fault::Fault;
use crate::log_room::LogRoom;
use crate::log_store::LogStore;
use crate::snapshot::SnapshotData;
use crate::spool::SpoolWriter;
use crate::state_machine::{Adapter, Position, Shared};
use crate::test_machine::Nothing;
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig, meta_to_wire};

/// The suite purges what it has applied, so here every apply counts as flushed.
struct Flushing {
    adapter: Adapter,
    shared: Arc<Shared>,
}

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

impl RaftStateMachine<TypeConfig> for Flushing {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = <Adapter as RaftStateMachine<TypeConfig>>::SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.adapter.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let shared = self.shared.clone();
        // The suite leaves entries out.
        let entries = entries.inspect_ok(move |(entry, _)| shared.skip_to(entry.log_id.index));
        self.adapter.apply(entries).await?;
        self.shared.set_flushed(self.shared.applied());
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.adapter.get_snapshot_builder().await
    }

    /// The suite hands over what the other one's `get_current_snapshot` answered; here it takes the way over a file.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _: SnapshotData) -> io::Result<()> {
        let dir = TempDir::new()?;
        let header = wire::SnapshotHeader {
            group: self.shared.group.0,
            meta: Some(meta_to_wire(meta)),
            ..wire::SnapshotHeader::default()
        };
        let mut writer = SpoolWriter::create(dir.path(), 1, &header)?;
        for chunk in self.shared.engine.export(Arc::new(self.shared.engine.snapshot()), &[]) {
            writer.push(&chunk.map_err(io::Error::other)?.encode_to_vec().into())?;
        }
        self.adapter.install_snapshot(meta, SnapshotData::Spooled(writer.finish()?)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.adapter.get_current_snapshot().await
    }
}

struct Builder;

type Guard = (TempDir, Arc<Store>);

impl StoreBuilder<TypeConfig, LogStore, Flushing, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Flushing), StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).expect("a store");
        store.set_identity(Identity { cluster_id: 1, node_id: NodeId(1) }).expect("identity");
        let (group, replica) = (GroupId(5), ReplicaId(0));
        let log = LogStore::open(store.log(), group, replica, 1 << 20, 1 << 10, LogRoom::new(64 << 20));
        let position = Position::load(&store.engine(), group).expect("position");
        let machine = Arc::new(Nothing);
        let shared =
            Shared::new(group, replica, store.engine(), machine, Seams::real(), Fault::new(), position);
        let machine = Flushing { adapter: Adapter::new(shared.clone()), shared };
        Ok(((dir, store), log.expect("a log"), machine))
    }
}

#[tokio::test]
async fn store_passes_the_suite_of_openraft() {
    Suite::test_all(Builder).await.expect("the suite");
}
