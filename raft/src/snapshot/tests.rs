//! What becomes of a snapshot that was accepted, and of an import that was begun, when the process ends before they are done.

use proto::raft as wire;
use proto::storage::ImportMarker;
use storage::seam::Seams;
use storage::{Store, StoreOptions};
use tempfile::TempDir;

use super::*;
use crate::keys::{private_key, private_keys};
use crate::spool::SpoolWriter;
use crate::types::{SnapshotMeta, StoredMembership, log_id, meta_to_wire};

const GROUP: GroupId = GroupId(5);
const ME: ReplicaId = ReplicaId(2);

struct Node {
    store: Arc<Store>,
    dir: TempDir,
}

impl Node {
    /// Somebody holds the group's keys there.
    fn with(value: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).expect("a store");
        let node = Self { store, dir };
        node.put(&private_key(GROUP, b"a"), value.as_bytes());
        node
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let mut batch = self.store.engine().batch();
        batch.put(Cf::Group, key, value);
        self.store.engine().write(batch).expect("write");
    }

    fn value(&self) -> Option<String> {
        let value = self.store.engine().get(Cf::Group, &private_key(GROUP, b"a")).expect("get");
        value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
    }

    fn incoming(&self) -> PathBuf {
        self.dir.path().join("incoming")
    }

    /// Has accepted a snapshot for [`ME`], and not begun to import it; the file.
    fn accept(&self) -> PathBuf {
        let leader = Node::with("the snapshot's");
        let (engine, spans) = (leader.store.engine(), spans());
        let last_membership = StoredMembership::default();
        let meta = SnapshotMeta { last_log_id: Some(log_id(3, 40)), last_membership };
        let header = wire::SnapshotHeader {
            group: GROUP.0,
            to_replica: ME.0,
            meta: Some(meta_to_wire(&meta)),
            spans: spans_to_wire(&spans),
            ..wire::SnapshotHeader::default()
        };
        let mut writer = SpoolWriter::create(&self.incoming(), 1, &header).expect("create");
        for chunk in engine.export(Arc::new(engine.snapshot()), &spans) {
            writer.push(&chunk.expect("a chunk").encode_to_vec().into()).expect("push");
        }
        let mut spool = writer.finish().expect("finish");
        spool.kept = true;
        let path = spool.path.with_file_name(format!("{}.{INSTALL}", GROUP.0));
        fs::rename(&spool.path, &path).expect("rename");
        path
    }

    /// Has begun to import one: the marker, which is `storage`'s own, says that the keys are nobody's.
    fn begin_to_import(&self) {
        let marker = ImportMarker { group: GROUP.0, spans: spans_to_wire(&spans()), version: 0 };
        let key = [&0_u64.to_be_bytes()[..], &[1_u8], &GROUP.0.to_be_bytes()].concat();
        self.put(&key, &marker.encode_to_vec());
        assert_eq!(self.store.engine().interrupted_imports().expect("markers").len(), 1);
    }

    /// The process starts, and finds this ballot in the group's log.
    fn resume(&self, ballot: Option<(ReplicaId, bool)>) -> Result<(), Fatal> {
        let mut failed = resume_installs(&self.store.engine(), &self.incoming(), |_| Ok(ballot))?;
        failed.remove(&GROUP).map_or(Ok(()), |torn| Err(torn.why))
    }

    fn is_placed(&self) -> bool {
        Position::load(&self.store.engine(), GROUP).expect("a position").last.is_some()
    }
}

fn spans() -> [(Cf, KeyRange); 1] {
    [(Cf::Group, private_keys(GROUP))]
}

/// The file of an import that is done is removed without a sync, so a power cut may bring it back. By then its replica may have
/// left this node (and its position with it, which says that it was installed) or be about to, and others hold its keys: asked
/// for nothing but its position, a start would import it over them.
#[test]
fn an_accepted_snapshot_is_imported_for_its_own_replica_alone() {
    let another = ReplicaId(7);
    for (ballot, imported) in
        [(Some((ME, false)), true), (Some((ME, true)), false), (Some((another, false)), false), (None, false)]
    {
        let node = Node::with("somebody's");
        let file = node.accept();
        node.resume(ballot).expect("resume");
        assert!(!file.exists(), "{ballot:?}: nobody needs it any more");
        let expected = if imported { "the snapshot's" } else { "somebody's" };
        assert_eq!(node.value().as_deref(), Some(expected), "{ballot:?}");
        assert_eq!(node.is_placed(), imported, "{ballot:?}");
    }
}

/// A removal unlinks the file before it discards the marker. A crash in between must not keep the node from starting, for it is
/// the start that goes on with the removal. Of any other replica a marker without its snapshot says that the state is lost.
#[test]
fn an_import_without_its_snapshot_has_failed_unless_its_replica_leaves() {
    let node = Node::with("somebody's");
    node.begin_to_import();
    for ballot in [Some((ME, false)), None] {
        let error = node.resume(ballot).expect_err("the snapshot is gone");
        assert!(error.to_string().contains("is gone"), "{error}");
    }
    node.resume(Some((ME, true))).expect("the removal goes on");
    // With its snapshot it begins again.
    let file = node.accept();
    node.resume(Some((ME, false))).expect("resume");
    assert!(!file.exists() && node.is_placed());
    assert_eq!(node.value().as_deref(), Some("the snapshot's"));
}

/// An install that fails leaves its file, and perhaps a marker, for the next start to go on with. Once the replica is removed
/// that would be somebody else's keys written over, or a node that does not start: they go with the replica.
#[test]
fn what_a_failed_install_has_left_is_forgotten_with_its_replica() {
    let node = Node::with("half of the snapshot's");
    let file = node.accept();
    node.begin_to_import();
    for _ in 0..2 {
        forget_install(&node.store.engine(), &node.incoming(), GROUP).expect("forget");
        assert!(!file.exists());
        assert!(node.store.engine().interrupted_imports().expect("markers").is_empty());
        assert_eq!(node.value(), None, "what was imported by then");
    }
    // Whatever replica comes next.
    node.put(&private_key(GROUP, b"a"), b"somebody's");
    node.resume(Some((ME, false))).expect("a start");
    assert_eq!(node.value().as_deref(), Some("somebody's"));
    assert!(!node.is_placed());
}

/// Whoever looks into a stopped node's store must not take a replica for whole that the next start will write over.
#[test]
fn an_install_has_not_ended_until_its_state_is_there_or_its_replica_gone() {
    fn mine(_: GroupId) -> Option<(ReplicaId, bool)> {
        Some((ME, false))
    }
    let node = Node::with("somebody's");
    let at = |ballot: fn(GroupId) -> Option<(ReplicaId, bool)>| {
        unfinished(&node.store.engine(), &node.incoming(), ballot).expect("a list")
    };
    assert!(at(mine).is_empty());
    let file = node.accept();
    let awaited = at(mine).remove(&GROUP).expect("it waits").expect("its header can be read");
    assert_eq!(awaited.last, Some(log_id(3, 40)));
    assert!(at(|_| Some((ReplicaId(7), false))).is_empty(), "another replica's");
    assert!(at(|_| Some((ME, true))).is_empty(), "it is being removed");
    node.resume(Some((ME, false))).expect("resume");
    assert!(at(mine).is_empty());
    // Of one that is done a power cut may bring the file back.
    node.accept();
    assert!(at(mine).is_empty());
    node.begin_to_import();
    assert!(at(mine).contains_key(&GROUP));
    fs::write(&file, b"nothing that can be read").expect("write");
    assert_eq!(at(mine).remove(&GROUP), Some(None));
    fs::remove_file(&file).expect("remove");
    assert_eq!(at(mine).remove(&GROUP), Some(None), "the marker says so");
}
