//! Asynchronous commits, beside others and beside each other.

use crate::protocol::Protocol;
use crate::{A, B, C, calm, holds, latest, txn};

/// The same, with asynchronous commits.
pub fn quick(scripts: &[crate::Script]) -> Protocol {
    Protocol { asynchronous: true, ..calm(scripts) }
}

#[test]
fn async_commit_with_all_that_can_go_wrong() {
    let scripts = [txn(A, A | C), txn(C, C)];
    let quick = quick(&scripts);
    let taken = holds(&Protocol { leader_changes: [1, 1], crashes: 1, lapses: 1, losses: 1, ..quick });
    // A step that is never taken proves nothing about itself.
    let all =
        ["Inquire", "Probe", "Conclude", "GiveUp", "Abort", "LatePrewrite", "Decide", "LateDecide", "Crash"];
    let missing: Vec<_> = all.into_iter().filter(|kind| !taken.contains(*kind)).collect();
    assert!(missing.is_empty(), "never taken: {missing:?}");
}

#[test]
fn two_async_commits_and_a_reader() {
    let scripts = [txn(A, A | C), txn(0, A | C), txn(A | C, 0)];
    holds(&Protocol { leader_changes: [1, 0], ..quick(&scripts) });
}

#[test]
fn async_commit_beside_one_in_two_rounds_and_a_reader_of_the_latest() {
    let scripts = [txn(0, A | C), txn(A, C), latest(C)];
    holds(&Protocol { leader_changes: [1, 0], ..quick(&scripts) });
}

#[test]
fn coordinator_dies_while_others_read_and_write() {
    let scripts = [txn(0, A | C), txn(A | C, 0), txn(C, C)];
    holds(&Protocol { crashes: 1, lapses: 1, ..quick(&scripts) });
}

#[test]
fn copies_of_an_async_commits_requests_come_late() {
    let scripts = [txn(C, A | C), txn(C, C)];
    holds(&Protocol { leader_changes: [0, 1], lapses: 1, losses: 2, ..quick(&scripts) });
}

#[test]
fn copies_come_late_to_an_async_commit_and_a_third_looks() {
    let scripts = [txn(0, A | C), txn(0, C), latest(C)];
    holds(&Protocol { lapses: 1, losses: 2, ..quick(&scripts) });
}

#[test]
fn async_commit_of_three_keys() {
    let scripts = [txn(B, A | B | C), txn(A | B | C, 0)];
    holds(&Protocol { leader_changes: [1, 0], lapses: 1, losses: 1, ..quick(&scripts) });
}

#[test]
fn readers_look_late_while_an_async_commit_is_under_way() {
    let scripts = [txn(0, A | C), txn(0, C), txn(A | C, 0)];
    holds(&Protocol { leader_changes: [1, 1], slow_reads: true, ..quick(&scripts) });
}

/// Records are swept while it still lays its intents.
#[test]
fn coordinator_that_takes_a_minute() {
    let scripts = [txn(C, A | C), txn(C, C)];
    holds(&Protocol { losses: 2, lapses: 1, sweeps: 1, ..quick(&scripts) });
}
