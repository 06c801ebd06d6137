//! The snapshots that come to a node: of each group one at a time, and what is kept of those that broke off.
//!
//! Two streams for one group may meet here: a connection that is dead, of which only the sender knows, and the one that
//! takes its place; or those of two leaders. The later one goes on, once the earlier one has let go of its file; one of
//! an earlier term is turned away.
//!
//! What has broken off is kept for [`KEPT_FOR`], which is longer than a sender goes on trying, also over a restart of
//! this node. It goes when another snapshot of the group comes, when the group leaves the node, or when too many are
//! kept. So the disk holds no more than [`KEPT_MAX`] of them, besides those that are arriving.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use proto::raft as wire;
use storage::ids::GroupId;
use storage::seam::Seams;
use tokio::sync::{Notify, watch};

use crate::spool::{PARTIAL, SpoolWriter};

const KEPT_FOR: Duration = Duration::from_secs(600);
const KEPT_MAX: usize = 8;

/// See the module.
pub(crate) struct Arrivals {
    dir: PathBuf,
    seams: Seams,
    state: Mutex<State>,
    /// Somebody's turn is over.
    freed: Notify,
}

#[derive(Default)]
struct State {
    turns: u64,
    active: HashMap<GroupId, Active>,
    kept: HashMap<GroupId, Kept>,
}

struct Active {
    turn: u64,
    term: u64,
    /// It is all here: nobody takes its place any more.
    installs: bool,
    stop: watch::Sender<bool>,
}

struct Kept {
    since: Instant,
    what: What,
}

enum What {
    /// Suspended.
    Open(Box<SpoolWriter>),
    /// Found at start, and not read yet.
    Found(PathBuf),
}

impl Kept {
    fn remove(self) {
        match self.what {
            What::Open(writer) => writer.discard(),
            What::Found(path) => {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Arrivals {
    /// Finds what was kept when the node stopped: of each group the newest.
    pub fn open(dir: PathBuf, seams: Seams) -> io::Result<Arc<Self>> {
        let now = seams.clock.now();
        let mut kept = HashMap::new();
        for (group, path) in partial(&dir)? {
            let what = What::Found(path);
            // In the order of their age.
            if let Some(older) = kept.insert(group, Kept { since: now, what }) {
                older.remove();
            }
        }
        let state = Mutex::new(State { kept, ..State::default() });
        let arrivals = Self { dir, seams, state, freed: Notify::new() };
        arrivals.bound();
        Ok(Arc::new(arrivals))
    }

    /// Whether a snapshot of the group is arriving.
    pub fn is_receiving(&self, group: GroupId) -> bool {
        self.state.lock().active.contains_key(&group)
    }

    /// Waits until nobody else receives a snapshot of the group; an earlier stream is told to stop.
    pub async fn enter(self: &Arc<Self>, group: GroupId, term: u64) -> Result<Turn, &'static str> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            {
                let mut state = self.state.lock();
                match state.active.get(&group) {
                    None => {
                        state.turns += 1;
                        let turn = state.turns;
                        let (stop, stopped) = watch::channel(false);
                        state.active.insert(group, Active { turn, term, installs: false, stop });
                        return Ok(Turn { arrivals: self.clone(), group, turn, stopped });
                    }
                    Some(other) if other.installs => return Err("a snapshot of it is being installed"),
                    Some(other) if other.term > term => return Err("a later leader sends a snapshot of it"),
                    Some(other) => {
                        other.stop.send_replace(true);
                    }
                }
            }
            freed.await;
        }
    }

    /// Opens the file for a stream; what is kept of another snapshot of the group goes. Blocks. None: the stream begins with
    /// a chunk whose predecessors are not here.
    pub fn begin(&self, turn: &Turn, header: &wire::SnapshotHeader) -> io::Result<Option<SpoolWriter>> {
        let kept = self.take(turn.group, header)?;
        if header.first_sequence == 0 {
            if let Some(writer) = kept {
                writer.discard();
            }
            let unique = if header.id == 0 { self.seams.random_u64() } else { header.id };
            return SpoolWriter::create(&self.dir, unique, header).map(Some);
        }
        match kept {
            Some(writer) if writer.next_sequence() == header.first_sequence => Ok(Some(writer)),
            Some(writer) => {
                self.keep(turn, writer);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// How many chunks of a snapshot are here, and how many bytes. Blocks.
    pub fn progress(&self, turn: &Turn, header: &wire::SnapshotHeader) -> io::Result<(u64, u64)> {
        let Some(writer) = self.take(turn.group, header)? else { return Ok((0, 0)) };
        let progress = (writer.next_sequence(), writer.bytes());
        self.keep(turn, writer);
        Ok(progress)
    }

    /// Keeps what has arrived. Blocks.
    pub fn keep(&self, turn: &Turn, mut writer: SpoolWriter) {
        if let Err(error) = writer.suspend() {
            tracing::warn!(group = %turn.group, %error, "cannot keep what has arrived of a snapshot");
            return;
        }
        let what = What::Open(Box::new(writer));
        let kept = Kept { since: self.seams.clock.now(), what };
        let earlier = self.state.lock().kept.insert(turn.group, kept);
        earlier.into_iter().for_each(Kept::remove);
        self.bound();
    }

    /// What is kept of the snapshot of that header; what is kept of another one goes.
    fn take(&self, group: GroupId, header: &wire::SnapshotHeader) -> io::Result<Option<SpoolWriter>> {
        let kept = self.state.lock().kept.remove(&group);
        let writer = match kept.map(|kept| kept.what) {
            None => None,
            Some(What::Open(writer)) => Some(*writer),
            Some(What::Found(path)) => SpoolWriter::reopen(&path)?,
        };
        match writer {
            Some(writer) if writer.is_of(header) => Ok(Some(writer)),
            Some(writer) => {
                writer.discard();
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn bound(&self) {
        let mut removed = Vec::new();
        {
            let mut state = self.state.lock();
            while state.kept.len() > KEPT_MAX {
                let oldest = state.kept.iter().min_by_key(|(group, kept)| (kept.since, group.0));
                let Some(group) = oldest.map(|(group, _)| *group) else { break };
                removed.extend(state.kept.remove(&group));
            }
        }
        removed.into_iter().for_each(Kept::remove);
    }

    /// Removes what nobody came back for.
    pub async fn sweep(&self) {
        let now = self.seams.clock.now();
        let due = |kept: &Kept| now.saturating_duration_since(kept.since) >= KEPT_FOR;
        let removed: Vec<Kept> =
            self.state.lock().kept.extract_if(|_, kept| due(kept)).map(|(_, kept)| kept).collect();
        self.remove(removed).await;
    }

    /// The group leaves this node.
    pub async fn forget(&self, group: GroupId) {
        let kept = {
            let mut state = self.state.lock();
            if let Some(active) = state.active.get(&group) {
                active.stop.send_replace(true);
            }
            state.kept.remove(&group)
        };
        self.remove(kept.into_iter().collect()).await;
    }

    async fn remove(&self, removed: Vec<Kept>) {
        if !removed.is_empty() {
            // Large files take a while. (If there is no thread for it, they go at the next start.)
            let remove = move || removed.into_iter().for_each(Kept::remove);
            let _ = self.seams.blocking("remove-snapshots", remove).await;
        }
    }
}

/// The right to receive a group's snapshot.
pub(crate) struct Turn {
    arrivals: Arc<Arrivals>,
    group: GroupId,
    turn: u64,
    stopped: watch::Receiver<bool>,
}

impl Turn {
    /// Completes when somebody else wants the turn.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.stopped.clone();
        async move {
            // Without its sender, the turn is over anyway.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }

    /// From here on nobody may take over. False: somebody is about to.
    pub fn install(&self) -> bool {
        let mut state = self.arrivals.state.lock();
        match state.active.get_mut(&self.group) {
            Some(active) if active.turn == self.turn && !*active.stop.borrow() => {
                active.installs = true;
                true
            }
            _ => false,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.arrivals.state.lock();
        if state.active.get(&self.group).is_some_and(|active| active.turn == self.turn) {
            state.active.remove(&self.group);
        }
        drop(state);
        self.arrivals.freed.notify_waiters();
    }
}

/// The incomplete snapshots in a directory, the oldest first. Files that are named otherwise are somebody else's.
fn partial(dir: &Path) -> io::Result<Vec<(GroupId, PathBuf)>> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for file in files {
        let file = file?;
        let path = file.path();
        if path.extension().is_none_or(|extension| extension != PARTIAL) {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let group = stem.split_once('-').and_then(|(group, _)| group.parse().ok());
        let Some(group) = group else { continue };
        let changed = file.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push((changed, GroupId(group), path));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, group, path)| (group, path)).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use storage::snapshot::sealed;

    use super::*;

    const GROUP: GroupId = GroupId(5);

    fn header(group: u64, id: u64, first_sequence: u64) -> wire::SnapshotHeader {
        wire::SnapshotHeader { group, id, first_sequence, ..wire::SnapshotHeader::default() }
    }

    fn chunk(sequence: u64) -> Bytes {
        sealed(sequence, false, Bytes::from_static(b"rows")).encode_to_vec().into()
    }

    /// A stream that breaks off.
    async fn broken_off(arrivals: &Arc<Arrivals>, group: u64, id: u64, chunks: u64) {
        let turn = arrivals.enter(GroupId(group), 1).await.expect("a turn");
        let mut writer = arrivals.begin(&turn, &header(group, id, 0)).expect("begin").expect("a writer");
        (0..chunks).for_each(|n| writer.push(&chunk(n)).expect("push"));
        arrivals.keep(&turn, writer);
    }

    async fn progress(arrivals: &Arc<Arrivals>, group: u64, id: u64) -> u64 {
        let turn = arrivals.enter(GroupId(group), 1).await.expect("a turn");
        arrivals.progress(&turn, &header(group, id, 0)).expect("progress").0
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn what_broke_off_is_gone_on_with_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("dir");
        let open = || Arrivals::open(dir.path().to_owned(), Seams::real()).expect("open");
        let arrivals = open();
        broken_off(&arrivals, 5, 77, 3).await;
        assert_eq!(progress(&arrivals, 5, 77).await, 3);
        drop(arrivals);
        let arrivals = open();
        assert_eq!(progress(&arrivals, 5, 77).await, 3);
        let turn = arrivals.enter(GROUP, 1).await.expect("a turn");
        assert!(arrivals.begin(&turn, &header(5, 77, 2)).expect("begin").is_none(), "not from there");
        let writer = arrivals.begin(&turn, &header(5, 77, 3)).expect("begin").expect("a writer");
        arrivals.keep(&turn, writer);
        drop(turn);
        // Another one takes its place.
        assert_eq!(progress(&arrivals, 5, 78).await, 0);
        assert_eq!(progress(&arrivals, 5, 77).await, 0);
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn of_what_is_kept_there_is_not_too_much() {
        let dir = tempfile::tempdir().expect("dir");
        let arrivals = Arrivals::open(dir.path().to_owned(), Seams::real()).expect("open");
        for group in 0..2 * KEPT_MAX as u64 {
            broken_off(&arrivals, group, 1, 1).await;
        }
        assert_eq!(files(dir.path()), KEPT_MAX);
        assert_eq!(progress(&arrivals, 0, 1).await, 0);
        let last = 2 * KEPT_MAX as u64 - 1;
        assert_eq!(progress(&arrivals, last, 1).await, 1);
        arrivals.forget(GroupId(last)).await;
        assert_eq!(progress(&arrivals, last, 1).await, 0);
        assert_eq!(files(dir.path()), KEPT_MAX - 1);
    }

    #[tokio::test]
    async fn later_stream_takes_over_unless_its_leader_is_older() {
        let dir = tempfile::tempdir().expect("dir");
        let arrivals = Arrivals::open(dir.path().to_owned(), Seams::real()).expect("open");
        let first = arrivals.enter(GROUP, 2).await.expect("a turn");
        assert!(arrivals.enter(GROUP, 1).await.is_err(), "a leader of old");
        let taking_over = arrivals.enter(GROUP, 2);
        let letting_go = async {
            first.stopped().await;
            assert!(!first.install(), "too late");
            drop(first);
        };
        let (second, ()) = tokio::join!(taking_over, letting_go);
        let second = second.expect("a turn");
        assert!(second.install());
        assert!(arrivals.enter(GROUP, 3).await.is_err(), "nobody interrupts an install");
        drop(second);
        arrivals.enter(GROUP, 1).await.expect("a turn");
    }
}
