//! What asynchronous commit is made of, taken away piece by piece.

use crate::async_tests::quick;
use crate::mutations::is_found;
use crate::protocol::{Mutation, Protocol};
use crate::{A, C, txn};

#[test]
fn probes_leave_records_that_prewrites_look_for() {
    let silent = Protocol { lapses: 1, ..quick(&[txn(0, A | C), txn(A | C, 0)]) };
    is_found(Mutation::ProbesWithoutRecord, &silent);
    is_found(Mutation::IgnoresProbes, &silent);
}

#[test]
fn async_commit_is_at_the_highest_timestamp() {
    is_found(Mutation::CommitsAtPrimary, &quick(&[txn(0, A | C), txn(A | C, 0)]));
    is_found(Mutation::AsyncGatewayDraws, &quick(&[txn(0, A | C), txn(A | C, 0)]));
    let lost = Protocol { losses: 1, ..quick(&[txn(0, A | C), txn(A | C, 0)]) };
    is_found(Mutation::RedrawsForCopies, &lost);
}

#[test]
fn record_comes_before_the_versions() {
    is_found(Mutation::ResolvesBeforeRecord, &quick(&[txn(0, A | C), txn(A | C, 0)]));
}

#[test]
fn what_an_async_commit_has_read_is_covered_and_checked() {
    is_found(Mutation::AsyncDespiteReads, &quick(&[txn(A, C), txn(C, A)]));
    is_found(Mutation::PrewritesUnchecked, &quick(&[txn(A | C, A | C), txn(A, A)]));
}

#[test]
fn async_commit_has_happened_when_all_lies_and_not_before() {
    let silent = Protocol { lapses: 1, ..quick(&[txn(0, A | C), txn(A, A)]) };
    is_found(Mutation::AnswersBeforeAll, &silent);
    is_found(Mutation::AbortsAsync, &silent);
    is_found(Mutation::DefersAsync, &quick(&[txn(0, A | C), txn(A | C, 0)]));
    let lost = Protocol { losses: 1, lapses: 1, ..quick(&[txn(0, A | C), txn(A | C, 0)]) };
    is_found(Mutation::FailsWithoutAsking, &lost);
}

#[test]
fn records_outlive_copies_of_an_async_commits_requests() {
    let late = Protocol { losses: 2, lapses: 1, ..quick(&[txn(0, A | C), txn(0, C)]) };
    is_found(Mutation::ForgetsDespiteCopies, &late);
}

#[test]
fn what_is_old_is_not_trusted() {
    let old = Protocol { losses: 1, lapses: 1, sweeps: 1, ..quick(&[txn(0, A | C), txn(A, A)]) };
    is_found(Mutation::TrustsOldAnswers, &old);
    is_found(Mutation::TrustsOldSilence, &old);
}
