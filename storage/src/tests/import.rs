//! Imports over all sorts of old state, and what a crash at each of their steps leaves.

use std::path::PathBuf;
use std::sync::Arc;

use proto::storage::SnapshotChunk;

use super::snapshot::{GROUP, chunks, fill, row, spans};
use super::{crash_image, open};
use crate::engine::{Cf, Engine};
use crate::fail_point::{FailPoint, observed};
use crate::ids::Timestamp;
use crate::{Error, Store, mvcc};

/// A store to be exported from, and one to import into.
struct Stores {
    from: Arc<Store>,
    to: Arc<Store>,
    /// Where they are, and what else a test makes. (Dropped last.)
    dir: tempfile::TempDir,
}

impl Stores {
    fn empty() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        Self { from: open(&dir.path().join("from")), to: open(&dir.path().join("to")), dir }
    }

    /// Of so many rows of "new" to be exported.
    fn with(rows: usize) -> Self {
        let stores = Self::empty();
        fill(&stores.from.engine(), "new", rows);
        stores
    }

    /// What is exported.
    fn chunks(&self) -> Vec<SnapshotChunk> {
        chunks(&self.from.engine())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn import(engine: &Arc<Engine>, chunks: &[SnapshotChunk]) {
    let mut import = engine.import(GROUP, &spans()).expect("import");
    chunks.iter().for_each(|chunk| import.put(chunk).expect("chunk"));
    let mut batch = engine.batch();
    batch.put(Cf::Group, b"applied", b"9");
    import.finish(batch).expect("finish");
}

/// 6000 rows of "new" have taken the place of 7000 of "old", and of nothing else.
fn assert_new(engine: &Engine, a17: &str) {
    assert_eq!(engine.interrupted_imports().expect("imports"), []);
    assert_eq!(engine.get(Cf::Group, b"applied").expect("get").as_deref(), Some(&b"9"[..]));
    for n in [0, 17, 2999, 3100, 5100, 5999] {
        assert_eq!(row(engine, &format!("c{n}")).as_deref(), Some("new"), "c{n}");
    }
    assert_eq!((row(engine, "c6000"), row(engine, "c6500")), (None, None));
    assert_eq!(row(engine, "a17").as_deref(), Some(a17));
    assert_eq!((row(engine, "a18").as_deref(), row(engine, "n6500").as_deref()), (Some("old"), Some("old")));
    let mine = engine.get(Cf::Group, &[&GROUP.0.to_be_bytes()[..], b"x"].concat()).expect("get");
    assert_eq!(mine.as_deref(), Some(&b"new"[..]));
    let other = engine.get(Cf::Group, &[&6u64.to_be_bytes()[..], b"x"].concat()).expect("get");
    assert_eq!(other.as_deref(), Some(&b"old"[..]));
}

#[test]
fn crash_at_any_step_leaves_the_old_state_or_the_new_or_a_marker() {
    let stores = Stores::with(6000);
    let (chunks, engine) = (stores.chunks(), stores.to.engine());
    fill(&engine, "old", 7000);
    engine.flush().expect("flush");
    // (This row only in memory: what was written before the import and what came with it survive in that order.)
    let mut batch = engine.batch();
    mvcc::put_version(&mut batch, b"a17", Timestamp(8), Some(b"later 1"));
    engine.write(batch).expect("write");

    let image = |point: FailPoint| stores.path(point.name());
    let (source, root) = (stores.path("to"), stores.dir.path().to_owned());
    let observer = move |point: FailPoint| crash_image(&source, &root.join(point.name()));
    observed::observe(observer, || import(&engine, &chunks));
    assert_new(&engine, "later");

    for point in [
        FailPoint::ImportBuilt,
        FailPoint::ImportMarked,
        FailPoint::ImportCleared,
        FailPoint::ImportIngested,
        FailPoint::ImportFilled,
    ] {
        let crashed = open(&image(point));
        let engine = crashed.engine();
        let interrupted = engine.interrupted_imports().expect("imports");
        let is_marked = match point {
            FailPoint::ImportBuilt => false,
            // As RocksDB likes.
            FailPoint::ImportMarked => !interrupted.is_empty(),
            _ => true,
        };
        if is_marked {
            assert_eq!(interrupted, [(GROUP, spans())], "{point:?}");
            assert_eq!(engine.get(Cf::Group, b"applied").expect("get"), None, "{point:?}");
            assert_eq!(row(&engine, "a17").as_deref(), Some("later"), "{point:?}: it came before the marker");
        } else {
            assert_eq!(interrupted, [], "{point:?}");
            assert_eq!(row(&engine, "c6500").as_deref(), Some("old"), "{point:?}");
            // As the log would.
            let mut batch = engine.batch();
            mvcc::put_version(&mut batch, b"a17", Timestamp(8), Some(b"later 1"));
            engine.write(batch).expect("write");
        }
        import(&engine, &chunks);
        assert_new(&engine, "later");
        let again = stores.path("again");
        crash_image(&image(point), &again);
        assert_new(&open(&again).engine(), "later");
    }
}

#[test]
fn interrupted_import_can_be_given_up() {
    let stores = Stores::with(10);
    fill(&stores.to.engine(), "old", 10);
    let (source, target) = (stores.path("to"), stores.path("crashed"));
    let image = target.clone();
    let observer = move |point: FailPoint| {
        if point == FailPoint::ImportFilled {
            crash_image(&source, &image);
        }
    };
    observed::observe(observer, || import(&stores.to.engine(), &stores.chunks()));
    let crashed = open(&target);
    let engine = crashed.engine();
    assert_eq!(engine.interrupted_imports().expect("imports").len(), 1);
    engine.discard_import(GROUP).expect("discard");
    assert_eq!(engine.interrupted_imports().expect("imports"), []);
    assert_eq!(row(&engine, "c1"), None);
    assert_eq!(row(&engine, "a1").as_deref(), Some("old"));
}

#[test]
fn import_hides_old_rows_and_tombstones_wherever_they_are() {
    let stores = Stores::with(6000);
    let (chunks, engine) = (stores.chunks(), stores.to.engine());
    // In the last level, above it, and in memory: rows of the same versions, of newer ones, and deletions of either.
    fill(&engine, "old", 7000);
    engine.flush().expect("flush");
    engine.compact();
    let deletes = |rows: std::ops::Range<usize>| {
        let mut batch = engine.batch();
        for n in rows {
            batch.delete(Cf::Data, &crate::keys::encode_version(format!("c{n}").as_bytes(), Timestamp(7)));
            mvcc::put_version(&mut batch, format!("c{n}").as_bytes(), Timestamp(9), Some(b"newer 1"));
        }
        engine.write(batch).expect("write");
    };
    deletes(0..3000);
    engine.flush().expect("flush");
    deletes(2500..3500);
    let mut batch = engine.batch();
    batch.delete_range(Cf::Data, &crate::ids::KeyRange::new(&b"c5"[..], &b"c6"[..]));
    engine.write(batch).expect("write");

    let before = engine.snapshot();
    let seen = |key: &str| mvcc::newest(&before, key.as_bytes()).expect("read").and_then(|v| v.value);
    import(&engine, &chunks);
    assert_new(&engine, "old");
    assert_eq!(seen("c17").as_deref(), Some(&b"newer 1"[..]), "a view goes on seeing what it saw");
    assert_eq!(seen("c5100"), None);
    assert!(seen("c6500").is_some_and(|value| value.starts_with(b"old")));
    drop(before);
    crash_image(&stores.path("to"), &stores.path("crashed"));
    assert_new(&open(&stores.path("crashed")).engine(), "old");
    // And again over what was imported.
    import(&engine, &chunks);
    assert_new(&engine, "old");
    engine.compact();
    assert_new(&engine, "old");
}

#[test]
fn rows_that_are_large_and_families_that_are_empty_arrive() {
    let stores = Stores::empty();
    let large = vec![b'l'; 3 << 20];
    let mut batch = stores.from.engine().batch();
    for key in ["c1", "c2", "c3"] {
        mvcc::put_version(&mut batch, key.as_bytes(), Timestamp(7), Some(&large));
    }
    stores.from.engine().write(batch).expect("write");
    let engine = stores.to.engine();
    import(&engine, &stores.chunks());
    for key in ["c1", "c2", "c3"] {
        let version = mvcc::newest(&engine.snapshot(), key.as_bytes()).expect("read").expect("a row");
        assert_eq!(version.value.map(|value| value.len()), Some(large.len()));
    }
    // Nothing at all is a state, too.
    let nothing = open(&stores.path("nothing"));
    import(&engine, &chunks(&nothing.engine()));
    assert_eq!(row(&engine, "c1"), None);
}

#[test]
fn tables_are_bounded_and_lie_in_the_last_level_where_nothing_was() {
    let stores = Stores::with(6000);
    let engine = stores.to.engine();
    let mut import = engine.import(GROUP, &spans()).expect("import");
    import.tables().set_bytes_max(4_000);
    for chunk in stores.chunks() {
        import.put(&chunk).expect("chunk");
    }
    import.tables().end().expect("end");
    let files = import.tables().files().to_vec();
    let tables = |cf| files.iter().filter(|(of, _)| *of == cf).count();
    assert!(tables(Cf::Data) > 2, "{files:?}");
    assert_eq!((tables(Cf::Intents), tables(Cf::Group)), (0, 1));
    import.finish(engine.batch()).expect("finish");
    assert!(files.iter().all(|(_, path)| !path.exists()), "they have moved");
    let live = engine.database().live_files().expect("files");
    let levels: Vec<_> =
        live.iter().filter(|file| file.column_family_name == "data").map(|file| file.level).collect();
    assert_eq!(levels, vec![6; tables(Cf::Data)]);
    assert_eq!(row(&engine, "c5999").as_deref(), Some("new"));
}

#[test]
fn damaged_table_is_refused_and_the_import_begun_again() {
    let stores = Stores::with(6000);
    let (chunks, engine) = (stores.chunks(), stores.to.engine());
    fill(&engine, "old", 10);
    let mut damaged = engine.import(GROUP, &spans()).expect("import");
    chunks.iter().for_each(|chunk| damaged.put(chunk).expect("chunk"));
    damaged.tables().end().expect("end");
    let files: Vec<PathBuf> = damaged.tables().files().iter().map(|(_, path)| path.clone()).collect();
    let data = files.iter().find(|path| path.to_string_lossy().contains("data")).expect("a table");
    let mut bytes = std::fs::read(data).expect("read");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x40;
    std::fs::write(data, bytes).expect("write");
    let refused = damaged.finish(engine.batch());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(engine.interrupted_imports().expect("imports"), [(GROUP, spans())]);
    assert_eq!(row(&engine, "c1"), None, "nothing of it is served");
    import(&engine, &chunks);
    assert_eq!(engine.interrupted_imports().expect("imports"), []);
    assert_eq!(row(&engine, "c5999").as_deref(), Some("new"));
    assert_eq!(row(&engine, "a7").as_deref(), Some("old"));
}
