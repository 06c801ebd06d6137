//! Closed timestamps: what a leader closes and when, and what each replica knows to be closed. `txn/PROTOCOL.md` has the promise,
//! and why it holds; [`crate::command`]'s `close.rs` makes it, its `past.rs` lives on it.
//!
//! A replica keeps the closed timestamp under a key of its own, in the batch of the command that brought it. So whoever takes
//! *one* snapshot and finds the timestamp in it has a state for which it was promised (C4): nothing in memory has to be in step.
//!
//! What a leader keeps ([`Closing`]) decides only *when* something is closed, and costs a forgetful one nothing.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft::Fatal;
use storage::ids::{Epoch, GroupId, Timestamp};
use storage::{Batch, Cf, Engine, Snapshot};

use super::Shard;
use crate::keys;

/// How long a shard goes on closing, without writes, after somebody has read its past.
pub const WANTED_FOR: Duration = Duration::from_secs(30);

/// What one leadership has closed, and has to.
#[derive(Debug, Default)]
pub struct Closing(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Something was proposed since the last look.
    written: bool,
    /// Everything that was written before the last look lies below this.
    upto: Timestamp,
    /// May be said with the next command.
    offered: Timestamp,
    /// The newest that was said.
    said: Timestamp,
    wanted_until: Option<Instant>,
}

impl Closing {
    /// Effects are about to be proposed: what is to be said along with them, if anything.
    pub fn with_effects(&self) -> Timestamp {
        let mut inner = self.0.lock();
        inner.written = true;
        match inner.offered > inner.said {
            true => {
                inner.said = inner.offered;
                inner.offered
            }
            false => Timestamp::ZERO,
        }
    }

    /// Somebody reads the past.
    pub fn want(&self, now: Instant) {
        self.0.lock().wanted_until = Some(now + WANTED_FOR);
    }

    /// Whether there is something to close: the shard was written, or its past is read.
    pub fn is_due(&self, now: Instant) -> bool {
        let inner = self.0.lock();
        inner.written || inner.said < inner.upto || inner.is_wanted(now)
    }

    /// `at` can be closed, as of `present`. Whether to say so in a command of its own: if it is wanted, or if it is the last word
    /// about what was written. While a shard is being written its next command says it, for nothing.
    pub fn closable(&self, at: Timestamp, present: Timestamp, now: Instant) -> bool {
        let mut inner = self.0.lock();
        if std::mem::take(&mut inner.written) {
            inner.upto = inner.upto.max(present);
        }
        inner.offered = inner.offered.max(at);
        at > inner.said && (inner.is_wanted(now) || (inner.said < inner.upto && at >= inner.upto))
    }

    /// A command of its own has said it.
    pub fn said(&self, at: Timestamp) {
        let mut inner = self.0.lock();
        inner.said = inner.said.max(at);
    }

    /// The newest that was said in this term.
    pub fn newest(&self) -> Timestamp {
        self.0.lock().said
    }
}

impl Inner {
    fn is_wanted(&self, now: Instant) -> bool {
        self.wanted_until.is_some_and(|until| now < until)
    }
}

/// What a group at rest was found to be closed up to, without a log entry: see `command/past.rs`.
#[derive(Debug, Default)]
pub struct Vouched(Mutex<(Epoch, Timestamp)>);

impl Vouched {
    /// The shard of this epoch is closed up to `at`, in every state that this replica has from now on.
    pub fn note(&self, epoch: Epoch, at: Timestamp) {
        let mut known = self.0.lock();
        if (epoch, at) > *known {
            *known = (epoch, at);
        }
    }

    /// Up to where the shard of this epoch is closed. To be asked before the snapshot is taken.
    pub fn of(&self, epoch: Epoch) -> Timestamp {
        let known = self.0.lock();
        if known.0 == epoch { known.1 } else { Timestamp::ZERO }
    }
}

impl Shard {
    /// Up to where this replica has the shard closed, as far as is applied.
    pub fn closed(&self) -> Timestamp {
        Timestamp(self.closed.load(Ordering::SeqCst))
    }

    /// The same with what was found at rest, for operators; `None`: nothing is closed.
    pub fn known_closed(&self) -> Option<Timestamp> {
        let vouched = self.descriptor().map_or(Timestamp::ZERO, |shard| self.vouched.of(shard.epoch));
        Some(self.closed().max(vouched)).filter(|closed| *closed > Timestamp::ZERO)
    }

    /// What was found about it at rest.
    pub fn vouched(&self) -> &Vouched {
        &self.vouched
    }

    /// Changes before and after the state is replaced by another replica's; odd in between, when there is no telling what a snapshot
    /// of the engine holds. Whoever answers from one finds the same even number before and after taking it.
    pub fn imports(&self) -> u64 {
        self.imports.load(Ordering::SeqCst)
    }

    pub(super) fn import_passes(&self) {
        self.imports.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn load_closed(&self) -> Result<(), Fatal> {
        let closed = load_closed(&self.engine, self.group)?;
        self.closed.store(closed.0, Ordering::SeqCst);
        Ok(())
    }

    /// A command says that `at` is closed. (It never goes back; a later command may have been proposed by one who knew less.)
    pub(super) fn close(&self, batch: &mut Batch, at: Timestamp) {
        if at > self.closed() {
            self.set_closed(batch, at);
        }
    }

    pub(super) fn set_closed(&self, batch: &mut Batch, at: Timestamp) {
        store_closed(batch, self.group, at);
        self.closed.store(at.0, Ordering::SeqCst);
    }
}

/// The closed timestamp that the engine holds for `group`.
pub fn load_closed(engine: &Engine, group: GroupId) -> Result<Timestamp, Fatal> {
    decode(engine.get(Cf::Group, &keys::closed(group))?.as_deref())
}

/// … that a snapshot holds: of this very state.
pub fn closed_in(snapshot: &Snapshot, group: GroupId) -> Result<Timestamp, Fatal> {
    decode(snapshot.get(Cf::Group, &keys::closed(group))?.as_deref())
}

pub(super) fn store_closed(batch: &mut Batch, group: GroupId, at: Timestamp) {
    batch.put(Cf::Group, &keys::closed(group), &at.0.to_be_bytes());
}

fn decode(stored: Option<&[u8]>) -> Result<Timestamp, Fatal> {
    let Some(stored) = stored else { return Ok(Timestamp::ZERO) };
    let bytes = stored.try_into().map_err(|_| Fatal::new("a shard's closed timestamp is not 8 bytes"))?;
    Ok(Timestamp(u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use storage::seam::Seams;

    use super::*;

    #[test]
    fn a_shard_that_is_written_says_it_with_its_commands_and_has_one_last_word() {
        let (closing, now) = (Closing::default(), Seams::real().clock.now());
        assert!(!closing.is_due(now), "a shard without writes or readers costs nothing");
        assert_eq!(closing.with_effects(), Timestamp::ZERO, "nothing is known yet");
        assert!(closing.is_due(now));
        assert!(!closing.closable(Timestamp(70), Timestamp(100), now), "the next command may say it");
        assert_eq!(closing.with_effects(), Timestamp(70));
        assert_eq!(closing.with_effects(), Timestamp::ZERO, "once is enough");
        assert!(!closing.closable(Timestamp(90), Timestamp(120), now));
        // Nothing is written any more: one command, when what was written lies below it.
        assert!(!closing.closable(Timestamp(110), Timestamp(140), now));
        assert!(closing.closable(Timestamp(130), Timestamp(160), now));
        assert!(closing.is_due(now), "until that has come through");
        closing.said(Timestamp(130));
        assert!(!closing.is_due(now));
    }

    #[test]
    fn a_shard_whose_past_is_read_goes_on_for_a_while() {
        let (closing, now) = (Closing::default(), Seams::real().clock.now());
        closing.want(now);
        assert!(closing.is_due(now) && closing.closable(Timestamp(5), Timestamp(8), now));
        closing.said(Timestamp(5));
        assert!(!closing.closable(Timestamp(5), Timestamp(8), now), "it was said");
        assert!(closing.closable(Timestamp(6), Timestamp(9), now));
        assert!(!closing.is_due(now + WANTED_FOR));
    }

    #[test]
    fn what_was_vouched_for_is_of_one_epoch() {
        let vouched = Vouched::default();
        vouched.note(Epoch(3), Timestamp(50));
        vouched.note(Epoch(3), Timestamp(40));
        assert_eq!(vouched.of(Epoch(3)), Timestamp(50));
        assert_eq!(vouched.of(Epoch(4)), Timestamp::ZERO);
        vouched.note(Epoch(4), Timestamp(20));
        assert_eq!((vouched.of(Epoch(3)), vouched.of(Epoch(4))), (Timestamp::ZERO, Timestamp(20)));
        vouched.note(Epoch(3), Timestamp(90));
        assert_eq!(vouched.of(Epoch(4)), Timestamp(20), "what comes late of an older epoch");
    }
}
