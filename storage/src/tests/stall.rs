//! Writes that RocksDB holds back.

use std::time::Duration;

use tokio::sync::oneshot;

use super::open;
use crate::engine::handle;
use crate::seam::Seams;
use crate::{Batch, Cf, Engine};

/// More than is ever written on the caller's thread.
const LARGE: usize = 1 << 20;

fn batch(engine: &Engine, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = engine.batch();
    batch.put(Cf::Group, key, value);
    batch
}

/// RocksDB writes nothing while there is a table in level 0, and does nothing about it; or as always.
fn stop(engine: &Engine, stopped: bool) {
    let [compact, slow, stop] = if stopped { ["100", "1", "1"] } else { ["4", "20", "36"] };
    let options = [
        ("level0_file_num_compaction_trigger", compact),
        ("level0_slowdown_writes_trigger", slow),
        ("level0_stop_writes_trigger", stop),
    ];
    let db = engine.database();
    db.set_options_cf(handle(db, Cf::Group), &options).expect("set the options");
}

/// On the one thread of this runtime: a write that kept it would never let the test go on.
#[tokio::test]
async fn writes_that_are_held_back_keep_no_thread_of_their_callers() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, seams) = (open(dir.path()), Seams::real());
    let engine = store.engine();
    engine.write_aside(batch(&engine, b"first", b"1"), &seams).await.expect("written");
    engine.flush().expect("flushed");
    stop(&engine, true);

    let mut waiting = Vec::new();
    let large = vec![7; LARGE];
    for held_back in [batch(&engine, b"small", b"2"), batch(&engine, b"large", &large)] {
        let (done, written) = oneshot::channel();
        let (writer, here) = (engine.clone(), seams.clone());
        seams.spawn("write", async move {
            let _ = done.send(writer.write_aside(held_back, &here).await);
        });
        waiting.push(written);
    }
    // (Time enough to be written.)
    seams.sleep(Duration::from_millis(300)).await;
    for written in &mut waiting {
        assert!(written.try_recv().is_err(), "it is held back");
    }
    assert_eq!(engine.get(Cf::Group, b"small").expect("read"), None);
    assert!(engine.failure().is_none(), "to wait is no failure");

    stop(&engine, false);
    for written in waiting {
        written.await.expect("the task").expect("written");
    }
    assert_eq!(engine.get(Cf::Group, b"small").expect("read").as_deref(), Some(&b"2"[..]));
    assert_eq!(engine.get(Cf::Group, b"large").expect("read").as_deref(), Some(&large[..]));
}
