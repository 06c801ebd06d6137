//! Many Raft groups in one node: over one log, one transport and one checkpointer.
//!
//! A shard is a Raft group, and so is the directory of shards. This crate runs a node's replicas of all of them. It
//! is the only one that names openraft, whose version is pinned: all that is particular to that version is in here.
//!
//! # The parts
//!
//! ```text
//!                    propose(term, command)          role, lease, status
//!   txn, meta ───────────────┬───────────────────────────────▲
//!                            ▼                               │
//!   group       ┌─ Group ── openraft's core ── ...one per group... ─┐        multi: opens, creates, removes
//!               │   │ append, vote      │ apply          │ send     │        checkpoint: flush, then purge
//!               ▼   ▼                   ▼                ▼          │
//!   log_store ── LogStore     state_machine ── Adapter   transport ─┴─▶ one stream to each other node
//!                   │                   │                        (snapshots: on connections of their own)
//!                   ▼                   ▼
//!   storage     the node's log      the node's engine
//!               (fsync: all groups  (no log of its own: what is
//!               of a node at once)  not flushed is applied again)
//! ```
//!
//! What a command means is not known here: a [`StateMachine`] turns it into a batch of writes, to which this crate
//! adds the applied index. One batch per command, so that both become durable together, whenever the engine flushes.
//!
//! # What it promises, and by what
//!
//! - **Acknowledged means durable at a majority.** Entries and votes are acknowledged after their fsync (the log
//!   engine calls back), and what was acknowledged is only ever replaced by a snapshot that contains it: an incoming
//!   snapshot is complete in a file before the first byte of the old state goes, and the file survives until the
//!   import is durable (see `snapshot.rs`).
//! - **A leader serves only what includes everything committed before it.** [`Role::Leader`] is published once an
//!   entry of the leader's own term is applied.
//! - **A proposal is fenced by its term.** [`Group::propose`] is refused, for certain, if this replica does not lead
//!   in that term; anything else that goes wrong after openraft has taken the proposal is
//!   [`ProposeError::Ambiguous`].
//! - **A lease is checked after the snapshot is taken.** [`Group::lease`] says that nobody else has led until now;
//!   what was read before is therefore current. It relies on clocks running at rates that differ by less than a
//!   tenth; [`Group::confirm_quorum`] does not, and with [`MultiRaft::set_quorum_reads`] no lease is given.
//! - **Who should not lead does not.** A node whose disk stalls hands its leaderships over ([`stall`]); a replica that was found to
//!   differ from the others goes into quarantine ([`MultiRaft::quarantine`]), and stays there.
//! - **The log goes only when the state is flushed.** Two positions, applied and flushed, are kept apart; openraft's
//!   purges follow the flushed one.
//! - **Large commands are compressed once** ([`MultiRaft::set_log_compression`]): by the leader, before they become entries, for the
//!   logs of all replicas and the wire; each replica expands them as it applies them (`command.rs`).
//! - **A view can be had at a chosen index** ([`Group::view_at`]), the same on every replica: what comparing them needs.
//! - **A group's initial state travels.** Groups start as if they had installed a snapshot at index 0, so a member
//!   that comes later gets a snapshot, not a replay that would lack what a split put there.
//!
//! It must never: acknowledge before the disk has; let a replica that has forgotten its promises vote; replay a
//! split's child before its parent (its state is flushed before its log exists); block the scheduler's threads on an
//! fsync; or hold unbounded messages, entries or proposals.
//!
//! Who lives is known node by node, not group by group: [`liveness`] has the picture. Groups without work are at [`rest`]; whether
//! one has been led since, its replicas can say without waking it (`vouch.rs`).
//!
//! # Traps of openraft 0.10.0-alpha.37, and where each is handled
//!
//! | trap | handled |
//! |---|---|
//! | `stream_append` is sequential by default | `transport/network.rs`: requests are queued as they come, up to 64 under way |
//! | pre-vote is off, and an unimplemented one grants | `options.rs`, `transport/network.rs` |
//! | a leader whose transfer failed refuses all writes until another election, and stands for none | `Group::transfer_leader`: it goes on with a new instance (`rest/renew.rs`) |
//! | voters may elect during a transfer in spite of the lease | `Group::lease` is void from before the transfer begins until the role changes |
//! | a removed leader transfers by itself (`removed_leader_step_down`), of which the lease would not know | off in `options.rs`; `Group::change_voters` refuses to remove the leader |
//! | a restored vote carries no lease: a restarted follower would elect at once | `Group::is_gated`: neither elects nor votes for the longest lease; sole voters need not wait |
//! | heartbeats of a leader without a quorum keep connected followers from electing | `liveness/`: its groups are mute after three missed pulses; `quorum_loss_probe_interval` in `options.rs` |
//! | purges follow the *snapshot's* index | `state_machine.rs`: a "snapshot" is what is flushed; `checkpoint.rs` drives it |
//! | at start the "current snapshot" counts as such a one | `Adapter::get_current_snapshot` tells the flushed position until openraft runs |
//! | the answer to an append counts for later ones without entries, as if these were heard: false leases | `transport/in_step.rs` |
//! | leadership may be restored after a restart, without an entry of its own | `enable_leader_restore` is off |
//! | `save_committed` may name entries that a crash took | `LogStore::open` ignores it then |
//! | a hole between the state and the log goes unnoticed | `MultiRaft::try_open` refuses |
//! | appends are bounded in entries, not in bytes; applying reads any range at once | `LogStore::limited_get_log_entries`, `LogStore::entries_stream` |
//! | several leaders may share a term with the default leader ids | `types.rs`: standard ids |
//! | metrics show the last *flushed* vote | `Group::observe` takes the term from the full metrics |
//! | channels are preallocated for each group | smaller in `options.rs` |
//! | each instance ticks by a timer of its own | `runtime.rs`: at the node's beats |
//!
//! The tests say which remedy they guard, and fail without it: `tests/traps.rs` from outside, `traps_test.rs` from within; those
//! of false leases are in `transport/in_step.rs`, openraft's own suite in `suite_test.rs`.
//!
//! # Caveats
//!
//! A snapshot whose stream breaks goes on where it was, also after a restart of its receiver; after one of its sender it
//! begins anew, for the view that it was made of is gone. A replica that fails stops alone and says so ([`Role::Stopped`], an
//! error in the log, a counter); it is not restarted by itself,
//! but replaced, by whoever is told of it (`suspects.rs`).
//! When the log or the state database fails, all of them do: `broken.rs`.
//!
//! # Where to start
//!
//! `multi.rs` and `create.rs` for the life of a replica, `group.rs` for what is done with it, `rest.rs` for when nothing is, `state_machine.rs` for what an entry
//! goes through, `transport/mod.rs` for the picture of the streams; `tests/cluster.rs` shows it working, `benches/commit.rs` what it
//! costs. What is done when there is too much of something, or something stands still: `log_room.rs`, `crowd.rs`, `stall.rs`,
//! `progress.rs`; `tests/pressure.rs` shows it. Steps after which a crash leaves something half done are named in `storage::fail_point`.

mod api;
mod arrivals;
mod broken;
mod checkpoint;
mod claims;
mod command;
mod core;
mod create;
mod crowd;
mod fault;
mod gate;
mod gauges;
mod group;
pub mod inspect;
mod keys;
mod liveness;
mod log_room;
mod log_store;
mod members;
mod multi;
mod options;
mod progress;
pub mod recover;
mod removal;
pub mod rest;
mod runtime;
mod served;
mod snapshot;
mod spool;
mod stall;
mod state_machine;
#[cfg(test)]
mod suite_test;
mod suspects;
#[cfg(test)]
mod test_machine;
#[cfg(test)]
mod test_node;
mod transport;
#[cfg(test)]
mod traps_test;
mod types;
mod unopened;
mod view;
mod vouch;

pub use api::{
    AddressBook, Applied, ChangeError, Error, Expected, Fatal, GroupStatus, NotLeader, Peer, Progress,
    ProposeError, Role, StateMachine, StateMachineFactory, UnknownReplica,
};
pub use create::NewGroup;
pub use group::Group;
pub use keys::{private_key, private_keys};
pub use liveness::Reach;
pub use multi::MultiRaft;
pub use options::RaftOptions;
pub use transport::dial::Dialer;
pub use transport::server::{Endpoint, Mount};
pub use view::{GroupView, NoView};
