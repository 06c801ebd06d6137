//! What openraft sees of the transport: a client per target replica, over the link to its node.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use proto::raft as wire;
use storage::ids::{GroupId, NodeId, ReplicaId};
use tokio::sync::Semaphore;

use super::Hub;
use super::bulk;
use super::in_step::{Sent, in_step};
use super::late_commit::{last, late_commits};
use super::link::{Link, LinkError};
use crate::snapshot::SnapshotData;
use crate::types::{
    Host, Malformed, TypeConfig, Vote, entry_bytes, entry_to_wire, log_id_from_wire, log_id_to_wire,
    vote_from_wire, vote_to_wire,
};

type Rpc = RPCError<TypeConfig>;

/// What a leader is told of its own messages while no majority answers.
const MUTE: &str = "no majority answers: nothing is sent";
/// Appends of one group to one replica that may be under way.
const PIPELINE_MAX: usize = 64;
/// … and their bytes, unless a single one has more: as much as disks and networks take until it is answered. A replica that was away lacks
/// far more, which nobody should have to wait behind.
const PIPELINE_BYTES_MAX: u32 = 4 << 20;
/// A child of a split may be asked for its vote before its node has applied the split.
const UNKNOWN_GROUP_RETRY: Duration = Duration::from_millis(25);

/// Makes the clients of one replica.
pub(crate) struct Factory {
    pub hub: Arc<Hub>,
    pub group: GroupId,
    pub replica: ReplicaId,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, host: &Host) -> Network {
        Network {
            link: self.hub.link(NodeId(host.0)),
            hub: self.hub.clone(),
            group: self.group,
            replica: self.replica,
            target: ReplicaId(target),
        }
    }
}

/// The way from one replica to another.
pub(crate) struct Network {
    hub: Arc<Hub>,
    link: Arc<Link>,
    group: GroupId,
    replica: ReplicaId,
    target: ReplicaId,
}

impl Network {
    fn request(
        &self,
        bytes: usize,
        timeout: Duration,
        body: wire::request::Body,
    ) -> impl Future<Output = Result<wire::answer::Body, LinkError>> + Send + use<> {
        self.link.request(self.group, self.replica, self.target, bytes, timeout, body)
    }

    /// See [`crate::liveness`].
    fn is_mute(&self) -> bool {
        self.hub.liveness.is_mute(self.group)
    }

    fn error(&self, action: RPCTypes, timeout: Duration, error: LinkError) -> Rpc {
        match error {
            LinkError::TimedOut => {
                RPCError::Timeout(Timeout { action, id: self.replica.0, target: self.target.0, timeout })
            }
            // Come back after a pause.
            LinkError::Down(_) | LinkError::Full | LinkError::Refused(_) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
        }
    }

    async fn ask_for_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre: bool,
        ttl: Duration,
    ) -> Result<VoteResponse<TypeConfig>, Rpc> {
        let request = wire::VoteRequest {
            vote: Some(vote_to_wire(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(log_id_to_wire),
            leadership_transfer: rpc.leadership_transfer,
        };
        let make = if pre { wire::request::Body::PreVote } else { wire::request::Body::Vote };
        // openraft ends this after `ttl`.
        loop {
            match self.request(64, ttl, make(request)).await {
                Ok(wire::answer::Body::Vote(answer)) => {
                    let vote = vote_from_wire(answer.vote).map_err(strange)?;
                    return Ok(VoteResponse::new(vote, answer.last.map(log_id_from_wire), answer.granted));
                }
                Ok(_) => return Err(strange(Malformed { what: "answer to a vote request" })),
                Err(LinkError::Refused(refusal))
                    if refusal.reason() == wire::refusal::Reason::UnknownGroup =>
                {
                    self.hub.seams.sleep(UNKNOWN_GROUP_RETRY).await;
                }
                Err(error) => return Err(self.error(RPCTypes::Vote, ttl, error)),
            }
        }
    }
}

fn mute() -> Rpc {
    RPCError::Unreachable(Unreachable::from_string(MUTE))
}

fn strange(error: Malformed) -> Rpc {
    RPCError::Network(NetworkError::new(&error))
}

fn append_to_wire(rpc: &AppendEntriesRequest<TypeConfig>) -> (usize, wire::request::Body) {
    let bytes = 64 + rpc.entries.iter().map(entry_bytes).sum::<usize>();
    let append = wire::Append {
        vote: Some(vote_to_wire(&rpc.vote)),
        previous: rpc.prev_log_id.as_ref().map(log_id_to_wire),
        entries: rpc.entries.iter().map(entry_to_wire).collect(),
        committed: rpc.leader_commit.as_ref().map(log_id_to_wire),
    };
    (bytes, wire::request::Body::Append(append))
}

fn appended_from_wire(answer: wire::answer::Body) -> Result<AppendEntriesResponse<TypeConfig>, Rpc> {
    use wire::appended::Result as Appended;
    let wire::answer::Body::Appended(wire::Appended { result: Some(result) }) = answer else {
        return Err(strange(Malformed { what: "answer to an append" }));
    };
    Ok(match result {
        Appended::Success(_) => AppendEntriesResponse::Success,
        Appended::Conflict(_) => AppendEntriesResponse::Conflict,
        Appended::HigherVote(vote) => {
            AppendEntriesResponse::HigherVote(vote_from_wire(Some(vote)).map_err(strange)?)
        }
    })
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Rpc> {
        if self.is_mute() {
            return Err(mute());
        }
        let (bytes, body) = append_to_wire(&rpc);
        let timeout = option.hard_ttl();
        let answer = self.request(bytes, timeout, body).await;
        appended_from_wire(answer.map_err(|e| self.error(RPCTypes::AppendEntries, timeout, e))?)
    }

    /// Pipelined: each request goes out as soon as openraft has it, while earlier ones are on their way.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Rpc>>, Rpc>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // The option's time to live is the heartbeat interval, too short for a disk that stalls for a moment; the
        // heartbeats bring their own.
        let timeout = self.hub.options.request_timeout;
        let network = &*self;
        let sent = Sent::new();
        let room = Arc::new(Semaphore::new(PIPELINE_BYTES_MAX as usize));
        let admitted = late_commits(input, &self.hub.seams, sent.clone()).then(move |rpc| {
            let room = room.clone();
            async move {
                let (bytes, body) = append_to_wire(&rpc);
                let share = u32::try_from(bytes).unwrap_or(PIPELINE_BYTES_MAX).min(PIPELINE_BYTES_MAX);
                // It is never closed.
                let share = room.acquire_many_owned(share).await.ok();
                (rpc, bytes, body, share)
            }
        });
        let answers = Box::pin(admitted)
            .map(move |(rpc, bytes, body, share)| {
                // Queued here and now, so in order.
                let answer = (!network.is_mute()).then(|| network.request(bytes, timeout, body));
                let previous = rpc.prev_log_id;
                let last = last(&rpc);
                async move {
                    let answer = answer.ok_or_else(mute)?;
                    let answer = answer.await;
                    // Whether it is passed on at once or not.
                    drop(share);
                    let answer = answer.map_err(|e| network.error(RPCTypes::AppendEntries, timeout, e))?;
                    match appended_from_wire(answer)? {
                        AppendEntriesResponse::Conflict if previous.is_none() => {
                            Err(strange(Malformed { what: "conflict before the first entry" }))
                        }
                        response => Ok(response.into_stream_result(previous, last)),
                    }
                }
            })
            .buffered(PIPELINE_MAX);
        let output = in_step(answers, sent, |answer| matches!(answer, Ok(Ok(_))));
        Box::pin(async move { Ok(Box::pin(output) as BoxStream<'s, _>) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Rpc> {
        metrics::counter!("flotilla_raft_vote_requests_total", "kind" => "vote").increment(1);
        self.ask_for_vote(rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Rpc> {
        metrics::counter!("flotilla_raft_vote_requests_total", "kind" => "pre-vote").increment(1);
        self.ask_for_vote(rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let route =
            bulk::Route { group: self.group, from: self.replica, to: self.target, node: self.link.node() };
        tokio::select! {
            sent = bulk::send(&self.hub, route, vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::from_string(error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Rpc> {
        let body = wire::request::Body::TransferLeader(wire::TransferLeader {
            from: Some(vote_to_wire(req.from_leader())),
            to_replica: *req.to_node_id(),
            last: req.last_log_id().map(log_id_to_wire),
        });
        let timeout = option.hard_ttl();
        match self.request(64, timeout, body).await {
            Ok(wire::answer::Body::Transfer(answer)) if answer.accepted => Ok(Ok(())),
            Ok(wire::answer::Body::Transfer(answer)) => {
                tracing::info!(group = %self.group, target = %self.target, detail = %answer.detail, "a leader transfer was refused");
                let expected = req.last_log_id().copied();
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None }))
            }
            Ok(_) => Err(strange(Malformed { what: "answer to a leader transfer" })),
            Err(error) => Err(self.error(RPCTypes::TransferLeader, timeout, error)),
        }
    }
}
