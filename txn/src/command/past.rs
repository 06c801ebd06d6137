//! Reads of the past, at any replica: what is closed needs no leader.
//!
//! Everything that the answer is concluded from comes out of *one* snapshot of the engine: the closed timestamp, the shard's descriptor, rows and
//! intents. So there is no lease to look at, no latch to wait for, and nothing that another thread could have changed in between; but for
//! the safe point, which is never below the snapshot's, and imports, during which there is no telling what a snapshot holds.
//!
//! An intent that may be committed at or below the read's timestamp is nobody's to judge here: the leader is asked, as before. Most say themselves that they are not
//! ([`Fates::of_the_past`]): their transactions began later.
//!
//! A group at rest closes nothing. When its past is read, a majority is asked whether anybody has led it since ([`raft::Group::is_unled`]):
//! if not, it is closed up to a timestamp that was drawn before the question (C6).
//!
//! `None` always means the same: the leader is to be asked.

use std::sync::Arc;

use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use raft::Group;
use storage::Snapshot;
use storage::ids::Timestamp;

use super::rules::Fates;
use super::{Outcome, Refusal, fences_in, is_inner_fence, read, scan};
use crate::descriptor::{ShardDescriptor, range_from_pb};
use crate::server::ShardServer;
use crate::shard::{Shard, closing, descriptor_in};
use crate::{Error, Oracle};

/// The answer of this replica, if it can give one.
pub async fn answer(server: &ShardServer, shard: &Shard, group: &Arc<Group>, ask: &Ask) -> Option<Outcome> {
    let at = timestamp_of(ask)?;
    match evaluate(shard, at, ask) {
        Found::Outcome(outcome) => {
            count("closed", &outcome);
            return Some(outcome);
        }
        Found::Open if group.rests() => {}
        Found::Open => return refused("open"),
        Found::Undecided => return refused("intent"),
        Found::Elsewhere => return refused("moved"),
    }
    if !close_at_rest(server.oracle(), shard, group, at).await {
        return refused("open");
    }
    match evaluate(shard, at, ask) {
        Found::Outcome(outcome) => {
            count("rest", &outcome);
            Some(outcome)
        }
        _ => refused("open"),
    }
}

/// The timestamp of a read that any replica may answer: not the latest, and not a transaction's that has intents of its own, or has learned of
/// others' fates.
fn timestamp_of(ask: &Ask) -> Option<Timestamp> {
    let (at, plain) = match ask {
        Ask::Read(r) => (r.at, r.txn.is_empty() && r.fates.is_empty()),
        Ask::Scan(r) => (r.at, r.txn.is_empty() && r.fates.is_empty()),
        _ => return None,
    };
    (plain && at > 0 && at < u64::MAX).then_some(Timestamp(at))
}

/// What a replica finds about a read.
#[derive(Debug)]
pub enum Found {
    /// It can tell: the answer, or an error that is as true at the leader.
    Outcome(Outcome),
    /// The timestamp is not closed here yet.
    Open,
    /// An intent is in the way.
    Undecided,
    /// These keys are not, or not for certain, this shard's.
    Elsewhere,
}

/// What this replica finds.
pub fn evaluate(shard: &Shard, at: Timestamp, ask: &Ask) -> Found {
    let imports = shard.imports();
    let Some(known) = shard.descriptor() else { return Found::Elsewhere };
    // Before the snapshot: what was vouched for holds of states from then on.
    let vouched = shard.vouched().of(known.epoch);
    let snapshot = shard.engine().snapshot();
    let whole = imports.is_multiple_of(2) && shard.imports() == imports;
    if !whole || shard.frozen().is_some() || shard.is_absorbed() {
        return Found::Elsewhere;
    }
    let stored = closing::closed_in(&snapshot, shard.group())
        .and_then(|closed| Ok((closed, descriptor_in(&snapshot, shard.group())?)));
    let (closed, descriptor) = match stored {
        Ok((closed, Some(descriptor))) if descriptor.epoch == known.epoch => (closed, descriptor),
        Ok(_) => return Found::Elsewhere,
        Err(error) => return Found::Outcome(Err(Error::Corruption(error.to_string()).into())),
    };
    if at > closed.max(vouched) {
        return Found::Open;
    }
    // After the snapshot: see the invariant on `Shard`.
    let safe_point = shard.safe_point();
    if at < safe_point {
        return Found::Outcome(Err(Error::SnapshotTooOld { at, safe_point }.into()));
    }
    match read_at(&snapshot, &descriptor, at, ask) {
        Ok(answer) => Found::Outcome(Ok(answer)),
        Err(Refusal::Blocked { .. }) => Found::Undecided,
        Err(Refusal::WrongShard) => Found::Elsewhere,
        Err(refusal) => Found::Outcome(Err(refusal)),
    }
}

fn read_at(snapshot: &Snapshot, descriptor: &ShardDescriptor, at: Timestamp, ask: &Ask) -> Outcome {
    let fates = Fates::of_the_past();
    let range = &descriptor.range;
    match ask {
        Ask::Read(r) if r.keys.iter().all(|key| range.contains(key)) => {
            let fences = fences_in(range, &r.fences);
            let values = read::evaluate(snapshot, None, at, &fates, &fences, &r.keys)?;
            Ok(Answer::Values(pb::Values { values }))
        }
        Ask::Scan(r) => {
            let wanted = range_from_pb(r.range.clone().unwrap_or_default());
            if !range.contains_range(&wanted) {
                return Err(Refusal::WrongShard);
            }
            let unknown =
                super::rules::check_fences(snapshot, None, at, &fates, &fences_in(range, &r.fences))?;
            if !unknown.is_empty() {
                return Err(Refusal::Blocked { intents: unknown, in_reads: true });
            }
            let mut page = scan::evaluate(snapshot, None, at, &fates, &wanted, r.reverse, scan::limits(r))?;
            page.rows.retain(|row| !is_inner_fence(range, &row.key));
            Ok(Answer::Page(page))
        }
        _ => Err(Refusal::WrongShard),
    }
}

/// Asks whether a group at rest was led since it went to rest; if not, it is closed up to a timestamp that existed before the question. (One that this
/// node was given lately will do, if `at` is not above it.)
async fn close_at_rest(oracle: &dyn Oracle, shard: &Shard, group: &Arc<Group>, at: Timestamp) -> bool {
    let Some(descriptor) = shard.descriptor() else { return false };
    let present = match oracle.recent() {
        Some((known, _)) if at <= known => Ok(known),
        _ => oracle.timestamp().await,
    };
    let Ok(present) = present else { return false };
    // After that, so that whoever is elected later draws above it: C6.
    if !group.is_unled().await {
        return false;
    }
    shard.vouched().note(descriptor.epoch, present);
    true
}

fn count(how: &'static str, outcome: &Outcome) {
    if outcome.is_ok() {
        metrics::counter!("flotilla_past_reads_total", "by" => how).increment(1);
    }
}

fn refused(why: &'static str) -> Option<Outcome> {
    metrics::counter!("flotilla_past_reads_passed_on_total", "why" => why).increment(1);
    None
}

#[cfg(test)]
mod tests;
