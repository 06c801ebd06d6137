//! Each part of the protocol is there for a reason: without it, the checker finds a history that nothing explains.
//!
//! Each configuration is as small as the violation allows, and the protocol as it is holds in it.

use crate::protocol::{Mutation, Protocol};
use crate::{A, B, C, calm, explore, latest, txn};

/// The checker finds what is wrong, and finds nothing without the mutation.
pub fn is_found(mutation: Mutation, protocol: &Protocol) {
    eprintln!("{mutation:?}");
    let broken = explore(&Protocol { mutation: Some(mutation), ..protocol.clone() });
    let Some((what, trace)) = broken.violation else {
        panic!("{mutation:?} goes unnoticed");
    };
    if std::env::var_os("MODEL_TRACE").is_some() {
        eprintln!("  {what}\n    {}\n", trace.join("\n    "));
    }
    let sound = explore(protocol);
    assert_eq!(sound.violation, None, "without {mutation:?}");
}

#[test]
fn validation_of_reads_is_needed() {
    let skew = calm(&[txn(A | C, C), txn(A | C, A)]);
    is_found(Mutation::SkipValidation, &skew);
    is_found(Mutation::ValidatesBeforeDraw, &skew);
    is_found(Mutation::SkipReadCheck, &calm(&[txn(A, A), txn(A, A)]));
}

#[test]
fn timestamp_is_drawn_when_nobody_can_look_any_more() {
    is_found(Mutation::GatewayDraws, &calm(&[txn(A, A), txn(A, A)]));
    // What `txn/src/lib.rs` tells: nobody here writes what he has read.
    is_found(Mutation::GatewayDraws, &calm(&[txn(0, A), txn(0, C), latest(A), txn(A | C, 0)]));
    is_found(Mutation::DrawsBeforeIntents, &calm(&[txn(0, A | C), txn(A | C, 0)]));
}

#[test]
fn latches_are_needed() {
    is_found(Mutation::NoReadLatches, &calm(&[txn(A | B, A), txn(A | B, B)]));
    is_found(Mutation::ReadsDoNotWait, &calm(&[txn(0, A), txn(A, A)]));
    let two_keys = calm(&[txn(0, A), txn(0, B), latest(A | B), txn(A | B, 0)]);
    is_found(Mutation::LatestDoesNotLatch, &Protocol { slow_reads: true, ..two_keys });
}

#[test]
fn pushes_are_remembered_and_outlive_their_leader() {
    let pushed = Protocol { leader_changes: [1, 1], ..calm(&[txn(B, A | C), txn(A | C, 0)]) };
    is_found(Mutation::ForgetsPushes, &pushed);
    is_found(Mutation::NoFloor, &pushed);
}

#[test]
fn answers_come_from_a_quorum() {
    let one = Protocol { leader_changes: [1, 1], ..calm(&[txn(0, A), latest(A)]) };
    is_found(Mutation::AnswersEarly, &one);
    is_found(Mutation::NoLease, &one);
}

#[test]
fn one_shard_commit_is_never_sent_twice() {
    let lost = Protocol { leader_changes: [1, 1], losses: 1, ..calm(&[txn(0, A), txn(A, A)]) };
    is_found(Mutation::RepeatsCommit, &lost);
}

#[test]
fn records_decide_and_stay_as_long_as_anyone_may_ask() {
    let silent = Protocol { lapses: 1, ..calm(&[txn(0, A | C), txn(A | C, 0)]) };
    is_found(Mutation::AbortsWithoutRecord, &silent);
    is_found(Mutation::ForgetsEarly, &silent);
}

#[test]
fn records_outlive_copies_of_requests() {
    let late = Protocol { losses: 2, ..calm(&[txn(0, A | C), txn(0, A), latest(A)]) };
    is_found(Mutation::ForgetsDespiteCopies, &late);
    let pushed = Protocol { losses: 2, ..calm(&[txn(B, A | C), txn(A | C, 0), txn(0, B)]) };
    is_found(Mutation::AbandonsDespiteCopies, &pushed);
    let overwritten = Protocol { losses: 1, ..calm(&[txn(0, A | C), txn(0, C), txn(C, 0)]) };
    is_found(Mutation::TrustsIntents, &overwritten);
}

#[test]
fn what_is_closed_has_nothing_under_way() {
    let one = Protocol { closes: 1, ..calm(&[txn(0, A), txn(A, 0)]) };
    is_found(Mutation::ClosesAtOnce, &one);
    // One reader sees the one writer and not the other, the other reader the other way round.
    let two = Protocol { closes: 1, ..calm(&[txn(0, A), txn(0, B), txn(A | B, 0), txn(A | B, 0)]) };
    is_found(Mutation::ReadsWhatIsOpen, &two);
    let several = Protocol { closes: 1, ..calm(&[txn(0, A | C), txn(A | C, 0)]) };
    is_found(Mutation::IgnoresIntentsOfThePast, &several);
}
