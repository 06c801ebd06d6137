//! Export and import. (What a crash within an import leaves: `import.rs`.)

use std::sync::Arc;

use proto::storage::SnapshotChunk;

use super::{crash_image, open};
use crate::engine::{Cf, Engine};
use crate::ids::{GroupId, KeyRange, Timestamp};
use crate::snapshot::Spans;
use crate::{Error, intents, mvcc};

pub(super) const GROUP: GroupId = GroupId(5);

pub(super) fn spans() -> Spans {
    vec![
        (Cf::Data, KeyRange::new(&b"b"[..], &b"m"[..])),
        (Cf::Intents, KeyRange::new(&b"b"[..], &b"m"[..])),
        (Cf::Group, KeyRange::prefix(&GROUP.0.to_be_bytes())),
    ]
}

pub(super) fn fill(engine: &Engine, text: &str, rows: usize) {
    let mut batch = engine.batch();
    for row in 0..rows {
        let value = format!("{text} {row} {}", "x".repeat(500));
        for prefix in ["a", "c", "n"] {
            mvcc::put_version(
                &mut batch,
                format!("{prefix}{row}").as_bytes(),
                Timestamp(7),
                Some(value.as_bytes()),
            );
        }
    }
    batch.put(Cf::Group, &[&GROUP.0.to_be_bytes()[..], b"x"].concat(), text.as_bytes());
    batch.put(Cf::Group, &[&6u64.to_be_bytes()[..], b"x"].concat(), text.as_bytes());
    engine.write(batch).expect("write");
}

pub(super) fn chunks(engine: &Engine) -> Vec<SnapshotChunk> {
    let chunks = engine.export(Arc::new(engine.snapshot()), &spans());
    chunks.collect::<Result<_, Error>>().expect("export")
}

pub(super) fn row(engine: &Engine, key: &str) -> Option<String> {
    let version = mvcc::newest(&engine.snapshot(), key.as_bytes()).expect("read")?;
    let value = version.value.expect("a value");
    Some(String::from_utf8_lossy(value.split(|b| *b == b' ').next().expect("a word")).into_owned())
}

#[test]
fn import_replaces_its_spans_and_nothing_else() {
    let dir = tempfile::tempdir().expect("dir");
    let (from, to) = (open(&dir.path().join("from")), open(&dir.path().join("to")));
    fill(&from.engine(), "new", 6000);
    fill(&to.engine(), "old", 7000);
    to.engine().flush().expect("flush");

    let engine = to.engine();
    let chunks = chunks(&from.engine());
    assert!(chunks.len() > 3, "3 MB make several chunks");
    let mut import = engine.import(GROUP, &spans()).expect("import");
    for chunk in &chunks {
        import.put(chunk).expect("chunk");
    }
    let mut batch = engine.batch();
    batch.put(Cf::Group, b"applied", b"9");
    import.finish(batch).expect("finish");

    crash_image(&dir.path().join("to"), &dir.path().join("crashed"));
    let crashed = open(&dir.path().join("crashed"));
    for engine in [engine, crashed.engine()] {
        assert_eq!(row(&engine, "c17").as_deref(), Some("new"));
        assert_eq!(row(&engine, "c6500"), None);
        assert_eq!(row(&engine, "a17").as_deref(), Some("old"));
        assert_eq!(row(&engine, "n6500").as_deref(), Some("old"));
        assert_eq!(engine.get(Cf::Group, b"applied").expect("get").as_deref(), Some(&b"9"[..]));
        let other = engine.get(Cf::Group, &[&6u64.to_be_bytes()[..], b"x"].concat()).expect("get");
        assert_eq!(other.as_deref(), Some(&b"old"[..]));
        assert_eq!(engine.interrupted_imports().expect("imports"), []);
    }
}

#[test]
fn damaged_or_misplaced_chunks_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let engine = store.engine();
    fill(&engine, "x", 10);
    let mut chunks = chunks(&engine);
    let mut import = engine.import(GROUP, &spans()).expect("import");
    assert!(matches!(import.put(&chunks[1]), Err(Error::BadChunk(_))), "out of order");
    let mut flipped = chunks[0].payload.to_vec();
    flipped[100] ^= 1;
    let whole = std::mem::replace(&mut chunks[0].payload, flipped.into());
    assert!(matches!(import.put(&chunks[0]), Err(Error::BadChunk(_))), "flipped");
    chunks[0].payload = whole;
    chunks[0].last = true;
    assert!(matches!(import.put(&chunks[0]), Err(Error::BadChunk(_))), "not the last one");
    chunks[0].last = false;
    import.put(&chunks[0]).expect("chunk");
    assert!(matches!(import.finish(engine.batch()), Err(Error::BadChunk(_))), "incomplete");

    let elsewhere = vec![(Cf::Data, KeyRange::new(&b"x"[..], &b"y"[..]))];
    let mut import = engine.import(GROUP, &elsewhere).expect("import");
    assert!(matches!(import.put(&chunks[0]), Err(Error::BadChunk(_))), "outside");
    drop(import);
    assert_eq!(engine.interrupted_imports().expect("imports"), []);
    assert_eq!(row(&engine, "c7").as_deref(), Some("x"), "what is refused has changed nothing");
}

#[test]
fn export_goes_on_where_it_was_told_to() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let engine = store.engine();
    fill(&engine, "x", 6000);
    let whole = chunks(&engine);
    let total = whole.len() as u64;
    let mut export = engine.export(Arc::new(engine.snapshot()), &spans());
    assert!(export.seek(0) && !export.seek(1), "nobody knows yet where the second one begins");
    for _ in 0..2 {
        assert!(export.next().is_some());
    }
    assert!(!export.seek(3));
    for from in [2, 0, 1] {
        assert!(export.seek(from));
        let rest: Vec<_> = export.by_ref().collect::<Result<_, Error>>().expect("export");
        assert_eq!(rest, whole[from as usize..], "from {from}");
    }
    assert!(export.seek(total) && export.next().is_none(), "to the end of what is complete");
    assert!(!export.seek(total + 1));
}

#[test]
fn cleared_rows_stay_cleared_under_bloom_filters() {
    // A range deletion lies in another table than the rows that it hides, whose filter is all a point read asks.
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let engine = store.engine();
    fill(&engine, "x", 100);
    engine.flush().expect("flush");
    let mut batch = engine.batch();
    batch.delete_range(Cf::Data, &KeyRange::new(&b"b"[..], &b"m"[..]));
    engine.write(batch).expect("write");
    for _ in 0..2 {
        assert_eq!((row(&engine, "c17"), row(&engine, "a17").as_deref()), (None, Some("x")));
        engine.flush().expect("flush");
    }
    let mut batch = engine.batch();
    mvcc::put_version(&mut batch, b"c17", Timestamp(8), Some(b"y 1"));
    engine.write(batch).expect("write");
    engine.flush().expect("flush");
    assert_eq!((row(&engine, "c18"), row(&engine, "c17").as_deref()), (None, Some("y")));
    assert_eq!(intents::get_intent(&engine.snapshot(), b"c17").expect("get"), None);
}
