use std::fmt::Debug;

use super::*;
use crate::raft::{
    Answer, Answers, Append, Appended, Entry, LogId, Member, Membership, Pulse, Pulsed, Refusal, Request,
    Requests, Rest, Rested, SnapshotAnswer, SnapshotHeader, SnapshotMeta, SnapshotPiece, StoredMembership,
    TransferAnswer, TransferLeader, Vote, VoteAnswer, VoteRequest, Voters, Vouch, Vouched,
};
use crate::raft::{answer, appended, entry, request, snapshot_piece};
use crate::storage::Span;

const VOTE: Vote = Vote { term: 7, replica: 2, committed: true };
const LAST: LogId = LogId { term: 6, index: 300 };

fn sealed(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    seal(message, &mut bytes).expect("a Vec has room");
    bytes
}

fn received<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    check(Bytes::copy_from_slice(bytes)).map(|message| M::decode(message).expect("a message"))
}

/// Whole it is taken, also by whoever knows of no sums; with any bit flipped, without its end, or without a sum it is not.
fn flips_are_refused<M: Message + Default + PartialEq + Debug>(message: &M) {
    let bytes = sealed(message);
    assert_eq!(M::decode(&bytes[..]).as_ref(), Ok(message), "whoever skips the sum");
    assert_eq!(received(&bytes).as_ref(), Some(message));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(received::<M>(&flipped), None, "bit {bit} of {message:?}");
    }
    for end in 0..bytes.len() {
        assert_eq!(received::<M>(&bytes[..end]), None, "{end} bytes of {message:?}");
    }
    assert_eq!(received::<M>(&message.encode_to_vec()), None, "{message:?} without a sum");
}

fn membership() -> Membership {
    let voters = |replicas: &[u64]| Voters { replicas: replicas.to_vec() };
    let members = (1..=4).map(|n| Member { replica: n, node: n + 10 }).collect();
    Membership { configs: vec![voters(&[1, 2, 3]), voters(&[2, 3, 4])], members }
}

fn requests(body: request::Body) -> Requests {
    let request = Request { id: 41, group: 9, from_replica: 2, to_replica: 3, body: Some(body) };
    let cluster_id = Bytes::from_static(b"sixteen bytes...");
    Requests { cluster_id, from_node: 12, to_node: 13, requests: vec![request] }
}

fn header() -> SnapshotHeader {
    let at = StoredMembership { at: Some(LAST), membership: Some(membership()), version: 0 };
    let span = Span { cf: 1, start: Bytes::from_static(b"a"), end: Bytes::from_static(b"m") };
    SnapshotHeader {
        cluster_id: Bytes::from_static(b"sixteen bytes..."),
        from_node: 12,
        to_node: 13,
        group: 9,
        from_replica: 2,
        to_replica: 3,
        vote: Some(VOTE),
        meta: Some(SnapshotMeta { last: Some(LAST), membership: Some(at) }),
        spans: vec![span],
        id: 0x1234_5678_9abc_def0,
        first_sequence: 312,
        version: 0,
    }
}

#[test]
fn any_flipped_bit_of_any_request_is_refused() {
    let command = entry::Payload::Command(Bytes::from_static(b"key=value"));
    let payloads = [None, Some(command), Some(entry::Payload::Membership(membership()))];
    let entries = payloads.into_iter().zip(301..).map(|(payload, index)| {
        let crc32 = payload.is_some().then_some(0x1234_5678);
        Entry { term: 7, index, payload, compression: 1, crc32 }
    });
    let append =
        Append { vote: Some(VOTE), previous: Some(LAST), entries: entries.collect(), committed: Some(LAST) };
    let vote = VoteRequest { vote: Some(VOTE), last: Some(LAST), leadership_transfer: true };
    let bodies = [
        request::Body::Append(append),
        request::Body::Append(Append { vote: Some(VOTE), ..Append::default() }),
        request::Body::Vote(vote),
        request::Body::PreVote(vote),
        request::Body::TransferLeader(TransferLeader { from: Some(VOTE), to_replica: 3, last: Some(LAST) }),
        request::Body::Pulse(Pulse { incarnation: 99, answered: true, ..Pulse::default() }),
        request::Body::Rest(Rest { vote: Some(VOTE), last: Some(LAST), owed: vec![3] }),
        request::Body::Vouch(Vouch { vote: Some(VOTE) }),
    ];
    bodies.into_iter().for_each(|body| flips_are_refused(&requests(body)));
}

#[test]
fn any_flipped_bit_of_any_answer_is_refused() {
    let appended = |result| answer::Body::Appended(Appended { result: Some(result) });
    let bodies = [
        appended(appended::Result::Success(true)),
        appended(appended::Result::Conflict(true)),
        appended(appended::Result::HigherVote(VOTE)),
        answer::Body::Vote(VoteAnswer { vote: Some(VOTE), granted: true, last: Some(LAST) }),
        answer::Body::Transfer(TransferAnswer { accepted: false, detail: "not there yet".to_owned() }),
        answer::Body::Refusal(Refusal { reason: 2, detail: "restarted".to_owned() }),
        answer::Body::Pulsed(Pulsed { incarnation: 99 }),
        answer::Body::Rested(Rested { rests: true }),
        answer::Body::Vouched(Vouched { holds: true }),
    ];
    for body in bodies {
        flips_are_refused(&Answers { answers: vec![Answer { id: 41, body: Some(body) }] });
    }
}

#[test]
fn any_flipped_bit_around_a_snapshot_is_refused() {
    flips_are_refused(&header());
    let piece = |piece| SnapshotPiece { piece: Some(piece) };
    flips_are_refused(&piece(snapshot_piece::Piece::Header(header())));
    flips_are_refused(&piece(snapshot_piece::Piece::Chunk(Bytes::from_static(b"a chunk"))));
    flips_are_refused(&SnapshotAnswer::default());
    flips_are_refused(&SnapshotAnswer { vote: Some(VOTE), next_sequence: 312, ..SnapshotAnswer::default() });
}
