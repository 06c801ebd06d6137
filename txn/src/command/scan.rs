//! One page of a range. For why it misses nothing see `read.rs`.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::Snapshot;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::intents::Intent;
use storage::mvcc::{self, Limits};

use super::intents::intents_in;
use super::read::{timestamp, view_at};
use super::rules::{self, MET_MAX, Sight};
use super::{Context, Fates, Outcome, PAGE_BYTES_MAX, Refusal, is_inner_fence};
use crate::descriptor::{range_from_pb, range_to_pb};
use crate::latch::{Mode, Span};
use crate::wire::parse_txn_opt;

pub async fn scan(cx: &Context<'_>, request: pb::Scan) -> Outcome {
    let own = parse_txn_opt(&request.txn)?;
    let at = timestamp(request.at);
    let fates = Fates::from_pb(&request.fates)?;
    let range = range_from_pb(request.range.clone().unwrap_or_default());
    cx.must_hold(&range)?;
    let fences = cx.fences(&request.fences);
    let mut spans = vec![(Span::Range(range.clone()), Mode::Shared)];
    spans.extend(fences.iter().map(|(key, _)| (Span::Key(key.clone()), Mode::Shared)));
    let view = view_at(cx, at, true, spans).await?;
    cx.must_reach(at)?;
    let unknown = rules::check_fences(&view.snapshot, own, at, &fates, &fences)?;
    if !unknown.is_empty() {
        return Err(Refusal::Blocked { intents: unknown, in_reads: true });
    }
    let limits = limits(&request);
    let mut page = evaluate(&view.snapshot, own, at, &fates, &range, request.reverse, limits)?;
    page.rows.retain(|row| !is_inner_fence(&cx.descriptor.range, &row.key));
    cx.confirm().await?;
    Ok(Answer::Page(page))
}

/// How large a page may get.
pub fn limits(request: &pb::Scan) -> Limits {
    Limits {
        rows: usize::try_from(request.rows_max).unwrap_or(usize::MAX).max(1),
        bytes: usize::try_from(request.bytes_max).unwrap_or(usize::MAX).clamp(1, PAGE_BYTES_MAX),
    }
}

/// One page of the rows of `range` as of `at`, if no intents of unknown fate are in the way.
pub fn evaluate(
    snapshot: &Snapshot,
    own: Option<TxnId>,
    at: Timestamp,
    fates: &Fates,
    range: &KeyRange,
    reverse: bool,
    limits: Limits,
) -> Result<pb::Page, Refusal> {
    let data = mvcc::scan(snapshot, range, at, reverse, limits)?;
    let covered = without(range, data.rest.as_ref(), reverse);
    // The intents of what the page covers. If there are too many, the page covers less.
    let intents = intents_in(snapshot, &covered, reverse, limits.rows, limits.bytes)?;
    let mut rest = data.rest;
    let mut covered = covered;
    if let Some(stopped_at) = intents.stopped_at {
        let left = match reverse {
            false => KeyRange { start: stopped_at, end: range.end.clone() },
            true => KeyRange { start: range.start.clone(), end: KeyRange::point(&stopped_at).end },
        };
        covered = without(range, Some(&left), reverse);
        rest = Some(left);
    }
    let mut seen: Vec<(Bytes, Intent)> = Vec::with_capacity(intents.intents.len());
    let mut unknown = Vec::new();
    let mut points = None;
    for (key, intent) in intents.intents {
        match fates.sight_of(
            points.get_or_insert_with(|| mvcc::PointReader::new(snapshot)),
            &key,
            &intent,
            own,
            at,
        )? {
            Sight::Counts => seen.push((key, intent)),
            Sight::Ignored => {}
            Sight::Unknown if unknown.len() < MET_MAX => unknown.push(rules::met(&key, &intent)),
            Sight::Unknown => break,
        }
    }
    if !unknown.is_empty() {
        return Err(Refusal::Blocked { intents: unknown, in_reads: true });
    }
    let mut rows = merge(data.rows, seen, &covered, reverse);
    if rows.len() > limits.rows {
        rows.truncate(limits.rows);
        let last = KeyRange::point(&rows[limits.rows - 1].key);
        rest = Some(match reverse {
            false => KeyRange { start: last.end, end: range.end.clone() },
            true => KeyRange { start: range.start.clone(), end: last.start },
        });
    }
    Ok(pb::Page { rows, rest: rest.as_ref().map(range_to_pb) })
}

/// What a page covers: the range without the rest.
fn without(range: &KeyRange, rest: Option<&KeyRange>, reverse: bool) -> KeyRange {
    match (rest, reverse) {
        (None, _) => range.clone(),
        (Some(rest), false) => KeyRange { start: range.start.clone(), end: rest.start.clone() },
        (Some(rest), true) => KeyRange { start: rest.end.clone(), end: range.end.clone() },
    }
}

/// Rows with the intents that count laid over them, both in the order of the scan.
fn merge(
    rows: Vec<(Bytes, Bytes)>,
    intents: Vec<(Bytes, Intent)>,
    covered: &KeyRange,
    reverse: bool,
) -> Vec<pb::KeyValue> {
    let before = |a: &Bytes, b: &Bytes| if reverse { a > b } else { a < b };
    let mut merged = Vec::with_capacity(rows.len() + intents.len());
    let mut intents = intents.into_iter().peekable();
    let push_intent = |merged: &mut Vec<pb::KeyValue>, (key, intent): (Bytes, Intent)| {
        if let Some(value) = intent.value {
            merged.push(pb::KeyValue { key, value });
        }
    };
    for (key, value) in rows.into_iter().filter(|(key, _)| covered.contains(key)) {
        while let Some(intent) = intents.next_if(|(at, _)| before(at, &key)) {
            push_intent(&mut merged, intent);
        }
        match intents.next_if(|(at, _)| *at == key) {
            Some(intent) => push_intent(&mut merged, intent),
            None => merged.push(pb::KeyValue { key, value }),
        }
    }
    for intent in intents {
        push_intent(&mut merged, intent);
    }
    merged
}
