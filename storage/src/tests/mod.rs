//! Tests against a real store in a temporary directory.

mod damage;
mod format;
mod import;
mod log;
mod model;
mod mvcc;
mod reads;
mod snapshot;
mod stall;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;

use crate::ids::{GroupId, LogIndex, NodeId};
use crate::raft_log::Done;
use crate::seam::Seams;
use crate::{Error, Identity, LogEngine, Store, StoreOptions};

fn options() -> StoreOptions {
    StoreOptions { block_cache_bytes: 8 << 20, memtable_bytes: 8 << 20, ..StoreOptions::default() }
}

/// A store that belongs to someone: one with groups but without an identity is refused.
const IDENTITY: Identity = Identity { cluster_id: 42, node_id: NodeId(3) };

fn open(dir: &Path) -> Arc<Store> {
    open_with(dir, options())
}

fn open_with(dir: &Path, options: StoreOptions) -> Arc<Store> {
    let store = Store::open(dir, options, Seams::real()).expect("the store opens");
    store.set_identity(IDENTITY).expect("identity");
    store
}

/// The error with which a store refuses to open.
fn refused(dir: &Path) -> Error {
    match Store::open(dir, options(), Seams::real()) {
        Ok(_) => panic!("the store opened"),
        Err(error) => error,
    }
}

fn crash_image(from: &Path, to: &Path) {
    crate::crash_image::crash_image(from, to).expect("a copy");
}

/// Runs an operation of the log and waits for its `done`.
fn durably(operation: impl FnOnce(Done)) {
    let (sender, receiver) = mpsc::channel();
    operation(Box::new(move |result| sender.send(result).expect("someone waits")));
    receiver.recv().expect("done is called").expect("the operation succeeds");
}

fn entries(from: u64, to: u64, text: &str) -> Vec<(LogIndex, Bytes)> {
    (from..to).map(|index| (LogIndex(index), Bytes::from(format!("{text} {index}")))).collect()
}

fn append(log: &Arc<dyn LogEngine>, group: u64, entries: Vec<(LogIndex, Bytes)>) {
    durably(|done| log.append(GroupId(group), entries, done));
}

/// Everything a group's log holds, as index and text.
fn content(log: &Arc<dyn LogEngine>, group: u64) -> Vec<(u64, String)> {
    let first = log.state(GroupId(group)).expect("state").first.unwrap_or_default();
    let entries = log.read(GroupId(group), first, LogIndex(u64::MAX), usize::MAX).expect("read");
    entries.into_iter().map(|(i, e)| (i.0, String::from_utf8_lossy(&e).into_owned())).collect()
}
