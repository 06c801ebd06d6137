//! Which intents a reader sees, and what keeps a writer from writing.

use std::collections::HashMap;

use bytes::Bytes;
use proto::shard as pb;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::intents::{self, Intent};
use storage::{Snapshot, mvcc};

use super::Refusal;
use super::intents::{context, intents_in};
use crate::wire::{Fate, txn_bytes};
use crate::{Error, shard};

/// How many intents in the way are reported at once. They usually belong to few transactions.
pub const MET_MAX: usize = 64;

/// The fates that the sender of a request has found out.
#[derive(Debug, Default)]
pub struct Fates {
    known: HashMap<TxnId, Fate>,
    /// What an intent says of itself counts, too.
    of_the_past: bool,
}

/// What an intent means to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It counts: the reader's own, or committed at or below the read's timestamp.
    Counts,
    /// It doesn't: it is void, or will be later than the read.
    Ignored,
    /// It depends on a fate that the reader has to find out.
    Unknown,
}

impl Fates {
    /// From a request.
    pub fn from_pb(fates: &[pb::Fate]) -> Result<Self, Error> {
        let known = fates.iter().map(Fate::from_pb).collect::<Result<_, _>>()?;
        Ok(Self { known, of_the_past: false })
    }

    /// None; but intents whose transactions began after the read's timestamp, or were given a later one, are void for it: these
    /// commit above it, if ever (T1, A1). Leaders don't go by that: they tell the primary.
    pub fn of_the_past() -> Self {
        Self { of_the_past: true, ..Self::default() }
    }

    /// What an intent of `holder` means to a read of `own` at `at`. A fate that is pending *up to* a timestamp is good
    /// for reads at or below it.
    pub fn sight(&self, holder: TxnId, own: Option<TxnId>, at: Timestamp) -> Sight {
        if own == Some(holder) {
            return Sight::Counts;
        }
        match self.known.get(&holder) {
            Some(Fate::Committed(when)) if *when <= at => Sight::Counts,
            Some(Fate::Committed(_) | Fate::Aborted) => Sight::Ignored,
            Some(Fate::Pending(upto)) if at <= *upto => Sight::Ignored,
            Some(Fate::Pending(_)) | None => Sight::Unknown,
        }
    }

    /// The same, of an intent under `key`. Nobody writes a version above someone's intent, so one that counts is the
    /// newest that does. Unless it was settled once, and a late copy of its request has laid it again: then others may
    /// have written since, and it counts no more than the version that it became.
    pub fn sight_of(
        &self,
        points: &mut mvcc::PointReader<'_>,
        key: &[u8],
        intent: &Intent,
        own: Option<TxnId>,
        at: Timestamp,
    ) -> Result<Sight, Error> {
        let sight = self.sight(intent.txn, own, at);
        if sight == Sight::Counts
            && own != Some(intent.txn)
            && let Some(when) = self.committed_at(intent.txn)
            && points.get_with(key, at, |newest, _| newest > when)?.unwrap_or(false)
        {
            return Ok(Sight::Ignored);
        }
        if sight == Sight::Unknown
            && self.of_the_past
            && (intent.read_at > at || Timestamp(context(intent)?.at_least) > at)
        {
            return Ok(Sight::Ignored);
        }
        Ok(sight)
    }

    /// When an intent's transaction committed, if it is known to have.
    pub fn committed_at(&self, holder: TxnId) -> Option<Timestamp> {
        match self.known.get(&holder) {
            Some(Fate::Committed(when)) => Some(*when),
            _ => None,
        }
    }
}

/// An intent in the way, as it is reported.
pub fn met(key: &[u8], intent: &Intent) -> pb::MetIntent {
    pb::MetIntent {
        key: Bytes::copy_from_slice(key),
        txn: txn_bytes(intent.txn),
        primary: intent.primary.clone(),
        started: intent.read_at.0,
    }
}

/// What a check of writes found.
pub enum WriteCheck {
    /// All may be written, except for these (by index), of which the transaction has laid newer ones since: a copy of
    /// the request that was late.
    Clear {
        /// In order.
        overtaken: Vec<usize>,
    },
    /// Others' intents lie under some of the keys.
    Blocked(Vec<pb::MetIntent>),
}

/// Whether `writes` may be made by `own`, as far as the keys themselves are concerned:
///
/// * no other transaction's intent lies under the key (who laid it must be decided first);
/// * `unchanged_since`: no version is newer (below `Serializable`: the first one to write wins, and a lost lock is found out;
///   and fences);
/// * `absent`: no row stands there at the latest. The transaction's own intent counts as the latest, if it is of an
///   earlier round: one of this round is this very write, which was sent twice.
pub fn check_writes(
    snapshot: &Snapshot,
    own: TxnId,
    round: u64,
    writes: &[pb::Write],
) -> Result<WriteCheck, Refusal> {
    let mut points = mvcc::PointReader::new(snapshot);
    let mut blocked = Vec::new();
    let mut overtaken = Vec::new();
    for (index, write) in writes.iter().enumerate() {
        let intent = intents::get_intent(snapshot, &write.key)?;
        match intent {
            Some(intent) if intent.txn != own => {
                if blocked.len() < MET_MAX {
                    blocked.push(met(&write.key, &intent));
                }
                continue;
            }
            Some(intent) => {
                // What stands below was checked when the intent was laid, and nobody could change it since.
                let laid_in = context(&intent)?.round;
                if laid_in > round {
                    overtaken.push(index);
                } else if laid_in < round && write.absent && intent.value.is_some() {
                    return Err(Error::AlreadyExists { key: write.key.clone() }.into());
                }
                continue;
            }
            None => {}
        }
        if !write.absent && write.unchanged_since == 0 {
            continue;
        }
        let newest = points.get_with(&write.key, Timestamp::MAX, |ts, value| (ts, value.is_some()))?;
        let Some((ts, exists)) = newest else {
            continue;
        };
        // A duplicate is one whenever it was made: that is what the client is told.
        if write.absent && exists {
            return Err(Error::AlreadyExists { key: write.key.clone() }.into());
        }
        if write.unchanged_since != 0 && ts.0 > write.unchanged_since {
            return Err(Error::Conflict { key: write.key.clone(), rival: None }.into());
        }
    }
    Ok(match blocked.is_empty() {
        true => WriteCheck::Clear { overtaken },
        false => WriteCheck::Blocked(blocked),
    })
}

/// Others' intents under `range`; `asynchronous`: only those of asynchronous commits. Such a transaction commits without looking
/// at fences again, so whoever changes one waits until it is decided; and whoever comes later meets the fence.
pub fn others_intents(
    snapshot: &Snapshot,
    own: TxnId,
    range: &KeyRange,
    asynchronous: bool,
) -> Result<Vec<pb::MetIntent>, Refusal> {
    let mut found = Vec::new();
    let mut left = Some(range.clone());
    while let Some(range) = left.take() {
        let page = intents_in(snapshot, &range, false, 1024, 1 << 20)?;
        for (key, intent) in page.intents {
            if intent.txn != own && (!asynchronous || context(&intent)?.at_least > 0) {
                found.push(met(&key, &intent));
                if found.len() >= MET_MAX {
                    return Ok(found);
                }
            }
        }
        left = page.stopped_at.map(|key| KeyRange { start: key, end: range.end });
    }
    Ok(found)
}

/// Whether the fences say as of `at` what they are expected to. Version 0 is a fence that was never set, or removed.
/// Returns others' intents that may change the answer.
pub fn check_fences(
    snapshot: &Snapshot,
    own: Option<TxnId>,
    at: Timestamp,
    fates: &Fates,
    fences: &[(Bytes, &pb::Fence)],
) -> Result<Vec<pb::MetIntent>, Refusal> {
    let mut unknown = Vec::new();
    if fences.is_empty() {
        return Ok(unknown);
    }
    let mut points = mvcc::PointReader::new(snapshot);
    for (key, fence) in fences {
        let mut stored = None;
        if let Some(intent) = intents::get_intent(snapshot, key)? {
            // A transaction's own new version is not what it planned its earlier statements under.
            let others = own != Some(intent.txn);
            match fates.sight_of(&mut points, key, &intent, own, at)? {
                Sight::Counts if others => stored = Some(intent.value.clone()),
                // What stands below says nothing until this fate is known.
                Sight::Unknown => {
                    unknown.push(met(key, &intent));
                    continue;
                }
                Sight::Counts | Sight::Ignored => {}
            }
        }
        let stored = match stored {
            Some(stored) => stored,
            None => points.get(key, at)?.and_then(|version| version.value),
        };
        let version = stored.map(|value| shard::fence_version(&value)).transpose()?.unwrap_or(0);
        if version != fence.version {
            return Err(Error::FenceMismatch { prefix: fence.prefix.clone() }.into());
        }
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sight_depends_on_fate_and_timestamp() {
        let (own, other) = (TxnId(1), TxnId(2));
        let sight = |fate: Option<Fate>, holder, at| {
            let known = fate.map(|f| (other, f)).into_iter().collect();
            let fates = Fates { known, ..Fates::default() };
            fates.sight(holder, Some(own), Timestamp(at))
        };
        assert_eq!(sight(None, own, 5), Sight::Counts);
        assert_eq!(sight(None, other, 5), Sight::Unknown);
        assert_eq!(sight(Some(Fate::Aborted), other, 5), Sight::Ignored);
        assert_eq!(sight(Some(Fate::Committed(Timestamp(5))), other, 5), Sight::Counts);
        assert_eq!(sight(Some(Fate::Committed(Timestamp(6))), other, 5), Sight::Ignored);
        assert_eq!(sight(Some(Fate::Pending(Timestamp(5))), other, 5), Sight::Ignored);
        // It might commit between the push and the read.
        assert_eq!(sight(Some(Fate::Pending(Timestamp(4))), other, 5), Sight::Unknown);
    }
}
