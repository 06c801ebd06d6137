//! Moments at which a crash must do no harm, by name, so that a test can have a node die at each of them.
//!
//! They exist only in a build with the cargo feature `sabotage`; in every other build [`pass`] does nothing. There,
//! a file is looked at whenever a point is passed: `$FLOTILLA_FAIL_POINT.PID`. Does it say `NAME N` (or `any N`), the process
//! aborts at the Nth passage from then on, leaving the point's name in `$FLOTILLA_FAIL_POINT.PID.died`. `tests/tests/fail_points.rs`
//! has nodes die so at every point there is, and `tests/tests/membership_steps.rs` has each party to a move die at each of its steps. They
//! fail if a point is never passed.

/// A step after which a crash leaves something half done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoint {
    /// A batch for the log is made, and nothing of it written.
    LogUnwritten,
    /// Entries are synced; nobody has been told.
    LogWritten,
    /// A vote is synced; whoever asked for it has not been told.
    VoteSaved,
    /// Entries that are flushed were cut off the log's beginning.
    LogPurged,
    /// A command's batch is in the engine's memory; neither raft nor a client knows.
    ApplyWritten,
    /// The same of an entry with which a group has a learner.
    LearnerWritten,
    /// … of one with which old and new voters vote together.
    JointWritten,
    /// … of one with which only its voters are members.
    UniformWritten,
    /// The state is flushed; the log still has what led to it.
    CheckpointFlushed,
    /// A piece of a snapshot has been read, to be sent to another node.
    SnapshotSending,
    /// An incoming snapshot is complete in a file, and not yet accepted.
    SnapshotSpooled,
    /// It is accepted: from here on each start installs it.
    SnapshotRenamed,
    /// The new state is in tables that the engine does not know.
    ImportBuilt,
    /// The engine says that a group's state is being replaced, and the old state is gone: in memory.
    ImportMarked,
    /// The same on disk; the new state is not there.
    ImportCleared,
    /// One column family of the new state is in the engine, durably; the others are not.
    ImportIngested,
    /// All of the new state is; the marker stands.
    ImportFilled,
    /// The import is durable; the file stands.
    ImportFinished,
    /// A new group's first state is flushed; the log does not know it.
    GroupFlushed,
    /// The log knows the group's replica, not where its log begins.
    GroupBallot,
    /// The log knows both; the group does not run.
    GroupLogged,
    /// The log knows a blank replica, which does not run.
    ReplicaBallot,
    /// A replica that goes says so in its ballot; its state stands.
    RemovalBallot,
    /// Its state is gone and its tombstone is flushed; its log stands.
    RemovalWiped,
    /// Its log is gone, too.
    RemovalDone,
    /// A split is in the engine; its children's groups are not made.
    SplitApplied,
    /// A freeze is in the engine.
    FreezeApplied,
    /// A merge is in the engine; the replica that was absorbed still runs.
    AbsorbApplied,
    /// The merge is durable; the replica that was absorbed is about to be removed.
    AbsorbedFlushed,
    /// At whoever leads the meta-group: a new replica has its id, and nothing else.
    ReplicaAllotted,
    /// … its node has a blank replica, of which its group knows nothing.
    ReplicaMade,
    /// … it is a learner; nobody has noted that it is.
    LearnerAdded,
    /// … a leadership has been handed over.
    LeaderMoved,
    /// … the voters are the new ones; the replica that goes stands.
    VotersChanged,
}

use FailPoint::*;

impl FailPoint {
    /// All of them, by the names that the file knows.
    pub const ALL: [(&'static str, FailPoint); 34] = [
        ("log-unwritten", LogUnwritten),
        ("log-written", LogWritten),
        ("vote-saved", VoteSaved),
        ("log-purged", LogPurged),
        ("apply-written", ApplyWritten),
        ("learner-written", LearnerWritten),
        ("joint-written", JointWritten),
        ("uniform-written", UniformWritten),
        ("checkpoint-flushed", CheckpointFlushed),
        ("snapshot-sending", SnapshotSending),
        ("snapshot-spooled", SnapshotSpooled),
        ("snapshot-renamed", SnapshotRenamed),
        ("import-built", ImportBuilt),
        ("import-marked", ImportMarked),
        ("import-cleared", ImportCleared),
        ("import-ingested", ImportIngested),
        ("import-filled", ImportFilled),
        ("import-finished", ImportFinished),
        ("group-flushed", GroupFlushed),
        ("group-ballot", GroupBallot),
        ("group-logged", GroupLogged),
        ("replica-ballot", ReplicaBallot),
        ("removal-ballot", RemovalBallot),
        ("removal-wiped", RemovalWiped),
        ("removal-done", RemovalDone),
        ("split-applied", SplitApplied),
        ("freeze-applied", FreezeApplied),
        ("absorb-applied", AbsorbApplied),
        ("absorbed-flushed", AbsorbedFlushed),
        ("replica-allotted", ReplicaAllotted),
        ("replica-made", ReplicaMade),
        ("learner-added", LearnerAdded),
        ("leader-moved", LeaderMoved),
        ("voters-changed", VotersChanged),
    ];

    /// The name of one.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, point)| *point == self).map_or("", |(name, _)| name)
    }
}

/// Whether this build has fail points at all.
pub const ON: bool = cfg!(feature = "sabotage");

/// The process has come to this point.
#[cfg(not(any(test, feature = "sabotage")))]
#[inline(always)]
pub const fn pass(_: FailPoint) {}

#[cfg(test)]
pub use observed::pass;

#[cfg(all(feature = "sabotage", not(test)))]
pub use armed::pass;

/// For this crate's own tests: a look at the disk at each point.
#[cfg(test)]
pub(crate) mod observed {
    use std::cell::RefCell;

    use super::FailPoint;

    type Observer = Box<dyn FnMut(FailPoint)>;

    thread_local! {
        static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    }

    /// The thread has come to this point.
    pub fn pass(point: FailPoint) {
        OBSERVER.with_borrow_mut(|observer| {
            if let Some(observer) = observer {
                observer(point);
            }
        });
    }

    /// Calls `observer` at each point that this thread passes in `work`.
    pub fn observe<T>(observer: impl FnMut(FailPoint) + 'static, work: impl FnOnce() -> T) -> T {
        OBSERVER.set(Some(Box::new(observer)));
        let done = work();
        OBSERVER.set(None);
        done
    }
}

#[cfg(all(feature = "sabotage", not(test)))]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use parking_lot::Mutex;

    use super::FailPoint;

    struct Trap {
        file: PathBuf,
        /// What the file said, and how many passages that were meant have been counted since.
        passed: Mutex<(String, u64)>,
    }

    static TRAP: LazyLock<Option<Trap>> = LazyLock::new(|| {
        let mut file = std::env::var_os("FLOTILLA_FAIL_POINT")?;
        file.push(format!(".{}", std::process::id()));
        Some(Trap { file: file.into(), passed: Mutex::default() })
    });

    /// The process has come to this point, and may end there.
    pub fn pass(point: FailPoint) {
        let Some(trap) = &*TRAP else { return };
        let Ok(said) = std::fs::read_to_string(&trap.file) else { return };
        let Some((name, number)) = said.trim().split_once(' ') else { return };
        if name != point.name() && name != "any" {
            return;
        }
        let mut passed = trap.passed.lock();
        if passed.0 != said {
            *passed = (said.clone(), 0);
        }
        passed.1 += 1;
        if number.parse() == Ok(passed.1) {
            let mut died = trap.file.clone().into_os_string();
            died.push(".died");
            // Whoever waits for it sees the process end, too.
            let _ = std::fs::write(died, point.name());
            tracing::error!("this process dies at the fail point {}, as it was told", point.name());
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FailPoint;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        for (n, (name, point)) in FailPoint::ALL.iter().enumerate() {
            assert_eq!(*point as usize, n, "{name} is not in the list's order");
            assert_eq!(FailPoint::ALL.iter().filter(|(other, _)| other == name).count(), 1);
        }
    }
}
