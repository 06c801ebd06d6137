//! A model of commit and recovery, explored state by state: two shards, up to four transactions, changes of leaders,
//! dying coordinators, lost, late and repeated messages.
//!
//! `protocol.rs` lists the steps and says what is left out; `coordinator.rs` and `leader.rs` say what each does, and where
//! the code does it (`txn/PROTOCOL.md` has the map). What must hold is in `history.rs`: what clients saw is strictly serializable, nothing acknowledged is
//! lost, nothing is there by half; and from every state there is a way to one in which nobody waits and no intent lies.
//!
//! Asynchronous commit is in `asynchronous.rs`, and is explored in `async_tests.rs`; reads at replicas that do not lead, in `closed.rs`.
//!
//! `mutations.rs` and `async_mutations.rs` break the protocol in one way after another, and have the checker find it.
//! `MODEL_TRACE=1 cargo test --workspace --test model -- --nocapture` prints the shortest trace to each.

#![allow(missing_docs, clippy::print_stderr, reason = "tests")]

mod async_mutations;
mod async_tests;
mod asynchronous;
mod checker;
mod closed;
mod coordinator;
mod history;
mod leader;
mod mutations;
mod protocol;
mod state;

use std::collections::HashSet;

use checker::{Report, check};
use protocol::Protocol;
pub use protocol::Script;

/// Keys, as bits. Two lie in the first shard, one in the second.
pub const A: u8 = 0b001;
pub const B: u8 = 0b010;
pub const C: u8 = 0b100;
const SHARD_OF: [usize; 3] = [0, 0, 1];

/// More states are a mistake in a configuration: CI has two minutes for all.
const STATES_MAX: usize = 3_000_000;

/// A transaction that reads, then writes.
pub fn txn(reads: u8, writes: u8) -> Script {
    Script { reads, writes, latest: false }
}

/// A read of the latest of one shard, without the oracle.
pub fn latest(reads: u8) -> Script {
    Script { reads, writes: 0, latest: true }
}

/// The protocol as it is, with nothing going wrong.
pub fn calm(scripts: &[Script]) -> Protocol {
    Protocol { scripts: scripts.to_vec(), shard_of: SHARD_OF, ..Protocol::default() }
}

fn explore(protocol: &Protocol) -> Report {
    let report = check(protocol, STATES_MAX);
    eprintln!(
        "{} states, {} steps, {} deep, {} at rest",
        report.states, report.steps, report.depth, report.at_rest
    );
    report
}

fn holds(protocol: &Protocol) -> HashSet<String> {
    let report = explore(protocol);
    if let Some((what, trace)) = report.violation {
        panic!("{what}:\n  {}", trace.join("\n  "));
    }
    assert!(report.at_rest > 0, "nothing ever comes to rest");
    report.kinds
}

/// The one with everything: three transactions of three kinds, each shard's leader changes, a coordinator dies, one is
/// taken for dead, and an answer is lost.
#[test]
fn three_transactions_with_all_that_can_go_wrong() {
    let scripts = [txn(A, A | C), txn(C, C), latest(A)];
    let calm = calm(&scripts);
    let taken = holds(&Protocol { leader_changes: [1, 1], crashes: 1, lapses: 1, losses: 1, ..calm });
    // A step that is never taken proves nothing about itself.
    let all = [
        "Begin",
        "Read",
        "Push",
        "Draw",
        "Check",
        "DrawAndPropose",
        "Apply",
        "LoseAnswer",
        "FindOut",
        "Prewrite",
        "RepeatPrewrite",
        "Abandon",
        "LatePrewrite",
        "Validate",
        "Decide",
        "RepeatDecide",
        "LateDecide",
        "Abort",
        "Learn",
        "ResolveArrives",
        "Settle",
        "Forget",
        "LeaderChange",
        "Crash",
    ];
    let missing: Vec<_> = all.into_iter().filter(|kind| !taken.contains(*kind)).collect();
    assert!(missing.is_empty(), "never taken: {missing:?}");
}

#[test]
fn write_skew_over_two_shards_beside_a_reader_of_the_latest() {
    let scripts = [txn(A | C, C), txn(A | C, A), latest(A)];
    holds(&Protocol { leader_changes: [1, 0], ..calm(&scripts) });
}

#[test]
fn circle_of_three_readers_and_writers_with_changes_of_both_leaders() {
    let scripts = [txn(A, C), txn(C, A), txn(A, A)];
    holds(&Protocol { leader_changes: [1, 1], ..calm(&scripts) });
}

#[test]
fn two_commits_over_both_shards_and_one_in_one_shard() {
    let scripts = [txn(A, A | C), txn(0, A | C), txn(A, A)];
    holds(&Protocol { leader_changes: [1, 1], ..calm(&scripts) });
}

#[test]
fn three_commits_over_both_shards() {
    let scripts = [txn(A, C), txn(C, A | C), txn(A, A | C)];
    holds(&calm(&scripts));
}

#[test]
fn copies_of_two_requests_come_late() {
    let scripts = [txn(A, A | C), txn(A, A)];
    holds(&Protocol { leader_changes: [1, 1], crashes: 1, lapses: 1, losses: 2, ..calm(&scripts) });
}

#[test]
fn copies_come_late_to_a_commit_that_validates_nothing() {
    let scripts = [txn(0, A | C), txn(C, A | C)];
    holds(&Protocol { leader_changes: [1, 1], lapses: 1, losses: 2, ..calm(&scripts) });
}

#[test]
fn copies_come_late_and_a_third_looks() {
    let scripts = [txn(0, A | C), txn(C, C), latest(C)];
    holds(&Protocol { leader_changes: [0, 1], losses: 2, ..calm(&scripts) });
}

/// A request that reads waits for the latches that it finds, and looks later.
#[test]
fn several_keys_are_read_at_the_latest_while_others_write_them() {
    let scripts = [txn(0, A), txn(0, B), latest(A | B), txn(A | B, 0)];
    holds(&Protocol { leader_changes: [1, 0], slow_reads: true, ..calm(&scripts) });
}

#[test]
fn readers_look_late_while_others_commit() {
    let scripts = [txn(0, A | C), txn(0, C), txn(A | C, 0)];
    holds(&Protocol { leader_changes: [1, 1], slow_reads: true, ..calm(&scripts) });
}
