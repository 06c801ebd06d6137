//! How large shards are that have just been cut.
//!
//! A shard's size is what its leader has reported last, and that is of the range that it had then; a shard that was split off has
//! no leader yet that could report anything. Whoever looks for the largest shard just after a split must find neither the old
//! size of the one nor nothing of the other. So each is taken to be an equal part until it says itself how large it is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::common::ShardDescriptor;
use proto::meta as pb;
use storage::ids::GroupId;

/// A shard that has not reported for so long will not: it is gone.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// A guess, of a shard as it is from this epoch on.
#[derive(Clone, Copy, Debug)]
struct Guess {
    epoch: u64,
    bytes: u64,
    at: Instant,
}

/// What is guessed of shards' sizes.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    guesses: HashMap<GroupId, Guess>,
}

fn epoch(report: &pb::GroupReport) -> u64 {
    report.descriptor.as_ref().map_or(0, |descriptor| descriptor.epoch)
}

fn bytes(report: &pb::GroupReport) -> Option<u64> {
    report.load.and_then(|load| load.bytes)
}

impl Sizes {
    /// About how large a group is: as it has reported, if that was after it was cut.
    pub fn of(&self, group: GroupId, reported: Option<&pb::GroupReport>) -> Option<u64> {
        let told = reported.and_then(bytes);
        match self.guesses.get(&group) {
            Some(guess) if told.is_none() || reported.is_none_or(|r| epoch(r) < guess.epoch) => {
                Some(guess.bytes)
            }
            _ => told,
        }
    }

    /// A shard of this size was cut into pieces.
    pub fn cut(&mut self, whole: Option<u64>, pieces: &[ShardDescriptor], now: Instant) {
        self.guesses.retain(|_, guess| now.saturating_duration_since(guess.at) < FORGOTTEN);
        let Some(whole) = whole.filter(|_| pieces.len() > 1) else { return };
        for piece in pieces {
            let guess = Guess { epoch: piece.epoch, bytes: whole / pieces.len() as u64, at: now };
            self.guesses.insert(GroupId(piece.group), guess);
        }
    }

    /// A leader has reported.
    pub fn note(&mut self, report: &pb::GroupReport) {
        let group = GroupId(report.group);
        let is_known = |guess: &Guess| epoch(report) >= guess.epoch && bytes(report).is_some();
        if self.guesses.get(&group).is_some_and(is_known) {
            self.guesses.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(group: u64, epoch: u64) -> ShardDescriptor {
        ShardDescriptor { group, epoch, ..Default::default() }
    }

    fn report(group: u64, epoch: u64, bytes: Option<u64>) -> pb::GroupReport {
        let load = Some(pb::GroupLoad { bytes, ..Default::default() });
        pb::GroupReport { group, descriptor: Some(piece(group, epoch)), load, ..Default::default() }
    }

    #[test]
    fn pieces_are_equal_until_they_say_otherwise() {
        let now = storage::seam::Seams::real().clock.now();
        let (mut sizes, old) = (Sizes::default(), report(7, 1, Some(1_000)));
        assert_eq!(sizes.of(GroupId(7), Some(&old)), Some(1_000));
        sizes.cut(Some(1_000), &[piece(7, 2), piece(8, 2)], now);
        // What was reported is of before, and of the other nothing.
        assert_eq!(sizes.of(GroupId(7), Some(&old)), Some(500));
        assert_eq!(sizes.of(GroupId(8), None), Some(500));
        sizes.note(&old);
        assert_eq!(sizes.of(GroupId(7), Some(&old)), Some(500));
        // Cut once more at once.
        sizes.cut(sizes.of(GroupId(7), Some(&old)), &[piece(7, 3), piece(9, 3)], now);
        assert_eq!([7, 8, 9].map(|group| sizes.of(GroupId(group), None)), [Some(250), Some(500), Some(250)]);
        // They report, first without a size.
        let (unsized_yet, own) = (report(8, 2, None), report(8, 2, Some(420)));
        sizes.note(&unsized_yet);
        assert_eq!(sizes.of(GroupId(8), Some(&unsized_yet)), Some(500));
        sizes.note(&own);
        assert_eq!(sizes.of(GroupId(8), Some(&own)), Some(420));
        assert_eq!(sizes.of(GroupId(8), None), None, "the guess is over");
    }

    #[test]
    fn what_is_not_known_is_not_guessed_and_what_is_gone_is_forgotten() {
        let now = storage::seam::Seams::real().clock.now();
        let mut sizes = Sizes::default();
        sizes.cut(None, &[piece(7, 2), piece(8, 2)], now);
        assert_eq!(sizes.of(GroupId(8), None), None);
        // There was nothing to be cut.
        sizes.cut(Some(1_000), &[piece(7, 2)], now);
        assert_eq!(sizes.of(GroupId(7), None), None);
        sizes.cut(Some(1_000), &[piece(7, 2), piece(8, 2)], now);
        sizes.cut(None, &[], now + FORGOTTEN);
        assert!(sizes.guesses.is_empty());
    }
}
