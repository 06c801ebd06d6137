//! The log engine over RocksDB, with one writer thread for all groups.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use rocksdb::{DB, ReadOptions};

use super::group::Group;
use super::record::{self, Kind};
use super::writer::{self, Op};
use super::{Done, LogEngine, LogState};
use crate::Error;
use crate::ids::{GroupId, LogIndex};
use crate::options::{self, StoreOptions};
use crate::seam::Seams;
use crate::verify;

/// The shared log in a RocksDB of its own.
pub(crate) struct RocksLog {
    shared: Arc<Shared>,
    /// Disconnected when the writer thread has ended.
    writer_ended: Mutex<mpsc::Receiver<()>>,
    writer: OnceLock<std::thread::ThreadId>,
}

/// What callers and the writer thread share. Locks are taken in the order: `groups`, one group, `queue`.
pub(super) struct Shared {
    pub db: DB,
    pub seams: Seams,
    groups: RwLock<HashMap<GroupId, Arc<Mutex<Group>>>>,
    pub queue: Mutex<Queue>,
    /// Something was queued, or the log was closed.
    pub arrived: Condvar,
    /// When the write that is under way began.
    pub writing: Mutex<Option<Instant>>,
    /// The first failed write. Set once, before any caller hears of that failure.
    pub failed: OnceLock<Error>,
    pub cached_bytes: std::sync::atomic::AtomicUsize,
    pub cache_bytes_max: usize,
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    pub ops: VecDeque<Op>,
    /// Committed positions, newest only: written along with the next batch, for they need no sync of their own.
    pub committed: HashMap<GroupId, Bytes>,
    pub closed: bool,
}

impl RocksLog {
    pub(crate) fn open(dir: &Path, options: &StoreOptions, seams: Seams) -> Result<Self, Error> {
        let db = verify::open(dir, options::log, options.verify_bytes_max)?;
        let groups = load_groups(&db)?;
        let shared = Arc::new(Shared {
            db,
            seams: seams.clone(),
            groups: RwLock::new(groups),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            writing: Mutex::default(),
            failed: OnceLock::new(),
            cached_bytes: Default::default(),
            cache_bytes_max: options.log_cache_bytes,
        });

        let (ended, writer_ended) = mpsc::channel();
        let (started, writer_started) = mpsc::channel();
        let for_writer = shared.clone();
        let body = Box::new(move || {
            // The receiver lives until this thread has reported.
            let _ = started.send(std::thread::current().id());
            writer::run(for_writer);
            drop(ended);
        });
        seams.tasks.thread("raft-log", body).map_err(|e| Error::io("start the writer of", dir, e))?;
        let log = Self { shared, writer_ended: Mutex::new(writer_ended), writer: OnceLock::new() };
        if let Ok(id) = writer_started.recv() {
            let _ = log.writer.set(id);
        }
        Ok(log)
    }
}

impl Drop for RocksLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub fn dir(&self) -> &Path {
        self.db.path()
    }

    /// The failure as every later operation reports it.
    pub fn check(&self) -> Result<(), Error> {
        match self.failed.get() {
            Some(source) => Err(Error::LogFailed { source: Arc::new(source.clone()) }),
            None => Ok(()),
        }
    }

    fn existing(&self, group: GroupId) -> Option<Arc<Mutex<Group>>> {
        self.groups.read().get(&group).cloned()
    }

    fn group(&self, group: GroupId) -> Arc<Mutex<Group>> {
        if let Some(found) = self.existing(group) {
            return found;
        }
        self.groups.write().entry(group).or_default().clone()
    }

    /// Changes a group in memory and queues what makes the change durable, as one step.
    fn submit(
        &self,
        group: GroupId,
        done: Done,
        change: impl FnOnce(&Arc<Mutex<Group>>, &mut Group, Done) -> Result<Op, (Error, Done)>,
    ) {
        if let Err(error) = self.check() {
            return done(Err(error));
        }
        let handle = self.group(group);
        let mut locked = handle.lock();
        if locked.removed {
            drop(locked);
            return done(Err(Error::Misuse(format!("the log of {group} is being removed"))));
        }
        let before = locked.tail_bytes;
        let op = change(&handle, &mut locked, done);
        self.account(before, locked.tail_bytes);
        let rejected = match op {
            Ok(op) => {
                let mut queue = self.queue.lock();
                if queue.closed {
                    Some((Error::Closed, op.into_done()))
                } else {
                    queue.ops.push_back(op);
                    None
                }
            }
            Err((error, done)) => Some((error, Some(done))),
        };
        drop(locked);
        match rejected {
            Some((error, Some(done))) => done(Err(error)),
            Some((_, None)) => {}
            None => _ = self.arrived.notify_one(),
        }
    }

    /// Keeps the sum of all caches, after one group's went from `before` to `after`.
    pub fn account(&self, before: usize, after: usize) {
        use std::sync::atomic::Ordering::Relaxed;
        if after >= before {
            self.cached_bytes.fetch_add(after - before, Relaxed);
        } else {
            self.cached_bytes.fetch_sub(before - after, Relaxed);
        }
    }

    fn corrupt(&self, detail: String) -> Error {
        Error::corrupt(self.dir(), detail)
    }

    fn read_one(&self, group: GroupId, index: LogIndex) -> Result<Bytes, Error> {
        let key = record::entry_key(group, index);
        read_sealed(&self.db, &key)?
            .ok_or_else(|| self.corrupt(format!("entry {index} of {group} is missing")))
    }
}

impl LogEngine for RocksLog {
    fn append(&self, group: GroupId, entries: Vec<(LogIndex, Bytes)>, done: Done) {
        self.shared.submit(group, done, |handle, state, done| {
            let mut next = state.next();
            for (index, _) in &entries {
                if next.is_some_and(|next| next != *index) {
                    let error = Error::Misuse(format!("{group} appends {index} where {next:?} is next"));
                    return Err((error, done));
                }
                next = Some(LogIndex(index.0 + 1));
            }
            state.append(&entries);
            let (incarnation, handle) = (state.incarnation, handle.clone());
            Ok(Op::Append { group, entries, handle, incarnation, done })
        });
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.shared.submit(group, done, |_, state, done| {
            state.vote = Some(vote.clone());
            Ok(Op::Vote { group, vote, done })
        });
    }

    fn save_committed(&self, group: GroupId, committed: Bytes) {
        let handle = self.shared.group(group);
        let mut state = handle.lock();
        if state.removed {
            return;
        }
        state.committed = Some(committed.clone());
        self.shared.queue.lock().committed.insert(group, committed);
    }

    fn truncate_after(&self, group: GroupId, last_kept: Option<LogIndex>, done: Done) {
        self.shared.submit(group, done, |handle, state, done| {
            state.truncate_after(last_kept);
            let (incarnation, handle) = (state.incarnation, handle.clone());
            Ok(Op::Truncate { group, last_kept, handle, incarnation, done })
        });
    }

    fn purge_to(&self, group: GroupId, upto: LogIndex, purged_log_id: Bytes, done: Done) {
        self.shared.submit(group, done, |_, state, done| {
            let from = state.first;
            state.purge_to(upto, purged_log_id);
            // What the group remembers, which is newer if this purge came late.
            let purged = state.purged.clone().unwrap_or_default();
            Ok(Op::Purge { group, from, first: state.first, purged, done })
        });
    }

    fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<(LogIndex, Bytes)>, Error> {
        let shared = &self.shared;
        shared.check()?;
        let Some(handle) = shared.existing(group) else {
            return Ok(Vec::new());
        };
        let state = handle.lock();
        let end = state.last.map_or(LogIndex(0), |last| to.min(LogIndex(last.0 + 1)));
        if from >= end {
            return Ok(Vec::new());
        }
        if from < state.first && state.purged.is_some() {
            return Err(Error::Misuse(format!("{group} reads {from}, its log begins at {}", state.first)));
        }
        let from = from.max(state.first);
        if from >= end {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut index = from;
        // The older part is in the database. The cursor fixes what it will see while the group is still locked; the disk is read when it
        // is not, for whoever appends waits for the lock.
        let stored_end = end.min(state.tail_first);
        let cursor = (index < stored_end).then(|| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(record::entry_key(group, stored_end));
            shared.db.raw_iterator_opt(options)
        });
        let cached: Vec<Bytes> = {
            let mut cached_bytes = 0;
            (from.max(stored_end).0..end.0)
                .map_while(|index| state.cached(LogIndex(index)).cloned())
                .take_while(|entry| {
                    let fits = cached_bytes == 0 || cached_bytes + entry.len() <= bytes_max;
                    cached_bytes += entry.len().max(1);
                    fits
                })
                .collect()
        };
        drop(state);

        if let Some(mut cursor) = cursor {
            cursor.seek(record::entry_key(group, index));
            while index < stored_end {
                let Some((key, stored)) = cursor.item() else {
                    cursor.status().map_err(|e| Error::rocks("read the log", shared.dir(), e))?;
                    return Err(shared.corrupt(format!("entry {index} of {group} is missing")));
                };
                if record::entry_index(key) != Some(index) {
                    return Err(shared.corrupt(format!("entry {index} of {group} is missing")));
                }
                let payload = record::open(key, stored)
                    .ok_or_else(|| shared.corrupt(format!("entry {index} of {group} fails its checksum")))?;
                if !found.is_empty() && bytes + payload.len() > bytes_max {
                    return Ok(found);
                }
                bytes += payload.len();
                found.push((index, Bytes::copy_from_slice(payload)));
                index.0 += 1;
                cursor.next();
            }
        }
        for entry in cached {
            if !found.is_empty() && bytes + entry.len() > bytes_max {
                break;
            }
            bytes += entry.len();
            found.push((index, entry));
            index.0 += 1;
        }
        Ok(found)
    }

    fn state(&self, group: GroupId) -> Result<LogState, Error> {
        self.shared.check()?;
        let Some(handle) = self.shared.existing(group) else {
            return Ok(LogState::default());
        };
        let state = handle.lock();
        let last = match state.last {
            None => None,
            Some(index) => Some(match state.cached(index) {
                Some(entry) => (index, entry.clone()),
                None => (index, self.shared.read_one(group, index)?),
            }),
        };
        Ok(LogState {
            first: state.purged.as_ref().map(|_| state.first),
            last,
            vote: state.vote.clone(),
            committed: state.committed.clone(),
            purged: state.purged.clone(),
        })
    }

    fn vote(&self, group: GroupId) -> Result<Option<Bytes>, Error> {
        self.shared.check()?;
        Ok(self.shared.existing(group).and_then(|handle| handle.lock().vote.clone()))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Error> {
        self.shared.check()?;
        let mut groups: Vec<GroupId> = self.shared.groups.read().keys().copied().collect();
        groups.sort();
        Ok(groups)
    }

    fn remove_group(&self, group: GroupId, done: Done) {
        let shared = &self.shared;
        shared.submit(group, done, |_, state, done| {
            state.removed = true;
            state.tail.clear();
            state.tail_bytes = 0;
            // Written after the removal, it would be all that is left of the group.
            shared.queue.lock().committed.remove(&group);
            Ok(Op::Remove { group, done })
        });
        let mut groups = shared.groups.write();
        if groups.get(&group).is_some_and(|handle| handle.lock().removed) {
            groups.remove(&group);
        }
    }

    fn stalled_for(&self) -> Duration {
        let since = *self.shared.writing.lock();
        since.map_or(Duration::ZERO, |at| self.shared.seams.clock.now().saturating_duration_since(at))
    }

    fn failure(&self) -> Option<Error> {
        self.shared.check().err()
    }

    fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.arrived.notify_all();
        // The last owner may be a callback that the writer itself runs: it must not wait for itself.
        if self.writer.get() != Some(&std::thread::current().id()) {
            let _ = self.writer_ended.lock().recv();
        }
    }
}

pub(super) fn read_sealed(db: &DB, key: &[u8]) -> Result<Option<Bytes>, Error> {
    let stored = db.get_pinned(key).map_err(|e| Error::rocks("read the log", db.path(), e))?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    match record::open(key, &stored) {
        Some(payload) => Ok(Some(Bytes::copy_from_slice(payload))),
        None => {
            let dir: PathBuf = db.path().to_owned();
            Err(Error::corrupt(dir, format!("the record {} fails its checksum", key.escape_ascii())))
        }
    }
}

/// Finds every group in the database: one or two seeks each, no entry is read.
pub(super) fn load_groups(db: &DB) -> Result<HashMap<GroupId, Arc<Mutex<Group>>>, Error> {
    let corrupt = |detail: &str| Error::corrupt(db.path(), detail);
    let mut groups = HashMap::new();
    let mut cursor = db.raw_iterator();
    cursor.seek_to_first();
    while let Some(key) = cursor.key() {
        let id = key.first_chunk::<{ record::GROUP_BYTES }>().ok_or_else(|| corrupt("a key is too short"))?;
        let id = GroupId(u64::from_be_bytes(*id));
        let mut group = Group {
            vote: read_sealed(db, &record::key(id, Kind::Vote))?,
            committed: read_sealed(db, &record::key(id, Kind::Committed))?,
            ..Group::default()
        };
        if let Some(purged) = read_sealed(db, &record::key(id, Kind::Purged))? {
            let (first, log_id) =
                purged.split_first_chunk::<8>().ok_or_else(|| corrupt("a purged position is too short"))?;
            group.first = LogIndex(u64::from_be_bytes(*first));
            group.purged = Some(Bytes::copy_from_slice(log_id));
        }
        cursor.seek_for_prev(record::entries_end(id));
        let last =
            cursor.key().filter(|key| key.starts_with(&id.0.to_be_bytes())).and_then(record::entry_index);
        group.last = last.filter(|last| *last >= group.first);
        if group.purged.is_none() && group.last.is_some() {
            cursor.seek(record::key(id, Kind::Entry));
            group.first = cursor.key().and_then(record::entry_index).unwrap_or(group.first);
        }
        let next = group.last.map_or(group.first, |last| LogIndex(last.0 + 1));
        (group.tail_first, group.written_end) = (next, next);
        groups.insert(id, Arc::new(Mutex::new(group)));
        let Some(next) = id.0.checked_add(1) else { break };
        cursor.seek(next.to_be_bytes());
    }
    cursor.status().map_err(|e| Error::rocks("read the log", db.path(), e))?;
    Ok(groups)
}
