//! The settings of a node's consensus layer.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use storage::seam::Beat;

use crate::api::Error;
use crate::liveness::Limits;

/// Timings and bounds. The defaults suit nodes in one data centre: a dead leader is replaced in about a second.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// How often a leader shows that it lives: with every other pulse, so that it may leave, and arrive, along with one.
    pub heartbeat: Duration,
    /// How long, after the lease is over, a follower waits at least before it stands for election.
    pub election_min: Duration,
    /// … and at most. It is the length of the leader's lease, too.
    pub election_max: Duration,
    /// How long a request to another node may take.
    pub request_timeout: Duration,
    /// How long a proposal may take before its caller is told that its fate is unknown.
    pub propose_timeout: Duration,
    /// Proposals of one group that may be in flight; more are refused.
    pub proposals_in_flight_max: usize,
    /// … and their bytes; more wait, and are refused after `propose_timeout`.
    pub proposal_bytes_in_flight_max: u32,
    /// The size of one command.
    pub command_bytes_max: usize,
    /// The size of one message with entries, if it holds more than one.
    pub append_bytes_max: usize,
    /// Entries kept in memory per group for followers and for applying.
    pub tail_bytes_max: usize,
    /// Entries of all groups that may be on their way to the log's disk, in bytes; more wait.
    pub log_bytes_in_flight_max: u32,
    /// While so many bytes of appends of one other node are in the hands of replicas here, more are refused, to come again: there are
    /// never more than these and one append, however many streams they have come by.
    pub received_bytes_max: usize,
    /// Messages to one node that may queue, in bytes.
    pub queue_bytes_max: usize,
    /// A write to the log that takes longer says that the disk stalls: this node hands its leaderships over,
    /// where another voter is better.
    pub disk_stall: Duration,
    /// A replica that has committed entries and applies none for so long hands its leadership over.
    pub apply_stall: Duration,
    /// How often the state is flushed and the log cut.
    pub checkpoint_interval: Duration,
    /// … while next to nothing is appended. (If this is shorter, it doesn't count.)
    pub checkpoint_quiet_interval: Duration,
    /// … or earlier, when so much was appended.
    pub checkpoint_bytes: u64,
    /// Entries kept in the log though they are flushed, so that a replica that was away needs no snapshot.
    pub keep_entries: u64,
    /// … unless they take more than this.
    pub keep_bytes: u64,
    /// How fast this node sends snapshots, all of them together.
    pub snapshot_bytes_per_second: u64,
    /// A group that nobody has asked for in so long is laid to rest: see [`crate::rest`].
    pub rest_after: Duration,
    /// … or an eighth of it, if more groups than this are awake.
    pub awake_max: usize,
    /// While so many are awake none wakes for a request: whoever asks is to try again. Of more than half as many, those that
    /// were unused longest are laid to rest at once. (What other nodes need wakes beyond that, up to four times as many.)
    pub awake_limit: usize,
    /// How long a shutdown may take to hand leaderships over.
    pub shutdown_transfer_timeout: Duration,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(550),
            request_timeout: Duration::from_millis(2_000),
            propose_timeout: Duration::from_millis(10_000),
            proposals_in_flight_max: 4096,
            proposal_bytes_in_flight_max: 64 << 20,
            command_bytes_max: 64 << 20,
            append_bytes_max: 1 << 20,
            tail_bytes_max: 2 << 20,
            log_bytes_in_flight_max: 96 << 20,
            received_bytes_max: 64 << 20,
            queue_bytes_max: 128 << 20,
            disk_stall: Duration::from_millis(1_000),
            apply_stall: Duration::from_secs(5),
            checkpoint_interval: Duration::from_secs(10),
            checkpoint_quiet_interval: Duration::from_secs(60),
            checkpoint_bytes: 64 << 20,
            keep_entries: 10_000,
            keep_bytes: 64 << 20,
            snapshot_bytes_per_second: 64 << 20,
            rest_after: Duration::from_secs(40),
            awake_max: 512,
            awake_limit: 2048,
            shutdown_transfer_timeout: Duration::from_millis(1_500),
        }
    }
}

impl RaftOptions {
    /// How long a leader that a quorum has answered may be sure that nobody else leads. A tenth is left to clocks
    /// that run at different rates.
    pub(crate) fn lease(&self) -> Duration {
        self.election_max - self.election_max / 10
    }

    /// So many groups are awake at most, whoever wakes them. Each node wakes `awake_limit` for requests, and with each of them its
    /// replicas on others: on every node, if all do, three times as many as it wakes itself where groups have three members. One more is for
    /// nodes that have more than their share.
    pub(crate) fn awake_most(&self) -> usize {
        4 * self.awake_limit
    }

    /// See [`crate::liveness`].
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            // When the leases of the followers end.
            silent: self.election_max,
            unreachable: self.election_max,
            mute: self.election_max * 7 / 11,
        }
    }

    /// Between two pulses.
    pub(crate) fn pulse(&self) -> Duration {
        self.heartbeat / 2
    }

    pub(crate) fn openraft(&self) -> Result<Config, Error> {
        let ms = |d: Duration| d.as_millis() as u64;
        let heartbeat = ms(self.heartbeat);
        Config {
            cluster_name: "flotilla".to_owned(),
            // openraft's ticks come at every second beat (`runtime.rs`): one that comes a moment too early is to count.
            heartbeat_interval: heartbeat - ms(Beat::EVERY) * 4 / 5,
            // An acknowledged append is as good as a heartbeat.
            heartbeat_min_interval: Some(heartbeat / 4),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            // A leader without a quorum must fall silent, or its heartbeats, which reach some followers, keep them
            // from electing one that has a quorum.
            quorum_loss_probe_interval: Some(2 * ms(self.election_max)),
            enable_pre_vote: Some(true),
            // Restored leadership comes without a lease and without an entry of its own.
            enable_leader_restore: Some(false),
            // The lease of a leader that steps down by itself would still look valid to us: leaders are moved by
            // `Group::transfer_leader` only, which knows.
            removed_leader_step_down: StepDownPolicy::Never,
            // The checkpointer decides: only what is flushed counts as snapshotted.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.keep_entries,
            max_payload_entries: 1024,
            max_append_entries: Some(1024),
            install_snapshot_timeout: 3_600_000,
            // Memory is taken as they fill. The first holds all appends that are let through, so that whoever hands one
            // over never waits (`transport::received`). The second is written to by the state machine's worker, while openraft
            // may be waiting for a place in the third: full, both would wait for ever. What else fills it then is bounded by
            // what is under way, and by a tick per heartbeat: a stall of half an hour is survived.
            api_channel_size: Some(16_384),
            notification_channel_size: Some(16_384),
            state_machine_channel_size: Some(256),
            log_stage_capacity: Some(1),
            backoff: "20ms 40ms 80ms ...300ms".to_owned(),
            ..Config::default()
        }
        .validate()
        .map_err(|e| Error::Options(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_keeps_its_lease_though_a_heartbeat_is_lost() {
        let options = RaftOptions::default();
        let config = options.openraft().expect("openraft takes them");
        let heartbeat = Duration::from_millis(config.heartbeat_interval);
        assert!(options.heartbeat - Beat::EVERY < heartbeat && heartbeat < options.heartbeat);
        // The next one but one leaves a beat late, and takes half a beat there and back.
        assert!(2 * options.heartbeat + Beat::EVERY * 3 / 2 < options.lease());
        // Three pulses are missed before anybody counts as away.
        assert!(3 * options.pulse() < options.limits().mute);
    }
}
