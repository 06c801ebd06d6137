//! The receiving end: requests of one other node, handed to the replicas they are for.

use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};

use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{FuturesUnordered, Stream, StreamExt, unfold};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use prost::Message;
use proto::raft as wire;
use proto::raft::raft_server::{Raft, RaftServer};
use storage::ids::{GroupId, NodeId, ReplicaId};
use tonic::{Request, Response, Status, Streaming};

use super::received::Share;
use super::{MESSAGE_BYTES_MAX, bulk, intake};
use crate::api::Peer;
use crate::group::Group;
use crate::liveness;
use crate::multi::MultiRaft;
use crate::rest::NotAwake;
use crate::types::{
    Malformed, TypeConfig, entry_from_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};

/// Requests of one stream that may be in the hands of replicas; more wait in the stream. Entries are bounded in bytes, too, for all
/// streams of a node ([`super::received`]): what is more is refused, for pulses and votes come behind it.
pub(super) const RUNNING_MAX: usize = 4096;

/// Where a node's consensus layer answers other nodes. The service can be mounted before the layer is started (it
/// refuses everything until then), since a node that is not yet part of a cluster has to listen already.
#[derive(Clone, Default)]
pub struct Mount {
    multi: Arc<OnceLock<Weak<MultiRaft>>>,
}

impl Mount {
    /// A mount with nothing behind it yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The service, to add to a tonic router.
    pub fn service(&self) -> RaftServer<Endpoint> {
        RaftServer::new(Endpoint { mount: self.clone() })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// From now on the service answers for `multi`. Only the first call counts.
    pub fn attach(&self, multi: &Arc<MultiRaft>) {
        let _ = self.multi.set(Arc::downgrade(multi));
    }

    fn multi(&self) -> Result<Arc<MultiRaft>, Status> {
        self.multi
            .get()
            .and_then(Weak::upgrade)
            .ok_or_else(|| Status::unavailable("this node takes part in no group now"))
    }
}

/// The implementation of the tonic service.
pub struct Endpoint {
    mount: Mount,
}

type Answers = Pin<Box<dyn Stream<Item = Result<wire::Answers, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for Endpoint {
    type ExchangeStream = Answers;

    async fn exchange(
        &self,
        request: Request<Streaming<wire::Requests>>,
    ) -> Result<Response<Answers>, Status> {
        self.mount.multi()?;
        let incoming = Incoming {
            mount: self.mount.clone(),
            requests: request.into_inner(),
            running: FuturesUnordered::new(),
        };
        Ok(Response::new(
            unfold(incoming, |mut incoming| async move {
                let item = incoming.next().await?;
                Some((item, incoming))
            })
            .fuse()
            .boxed(),
        ))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPiece>>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        let multi = self.mount.multi()?;
        bulk::receive(multi, request.into_inner()).await.map(Response::new)
    }

    async fn resume_snapshot(
        &self,
        request: Request<wire::SnapshotHeader>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        let multi = self.mount.multi()?;
        bulk::resume(multi, request.into_inner()).await.map(Response::new)
    }
}

/// One stream. It is polled as the stream of its answers, in one task: no hop between tasks on the way of a request
/// to its group's core and back, and answers that are ready together leave together.
struct Incoming {
    mount: Mount,
    requests: Streaming<wire::Requests>,
    running: FuturesUnordered<BoxFuture<'static, wire::Answer>>,
}

impl Incoming {
    async fn next(&mut self) -> Option<Result<wire::Answers, Status>> {
        loop {
            tokio::select! {
                biased;
                Some(answer) = self.running.next(), if !self.running.is_empty() => {
                    let mut answers = vec![answer];
                    while let Some(Some(answer)) = self.running.next().now_or_never() {
                        answers.push(answer);
                    }
                    return Some(Ok(wire::Answers { answers }));
                }
                message = self.requests.message(), if self.running.len() < RUNNING_MAX => match message {
                    Ok(Some(batch)) => {
                        if let Err(status) = self.accept(batch) {
                            return Some(Err(status));
                        }
                    }
                    Ok(None) | Err(_) => return None,
                },
            }
        }
    }

    fn accept(&mut self, batch: wire::Requests) -> Result<(), Status> {
        let multi = self.mount.multi()?;
        multi.check_sender(&batch.cluster_id, batch.to_node)?;
        let from = NodeId(batch.from_node);
        let received = multi.received().of(from);
        for request in batch.requests {
            let bytes = weight(&request);
            let share = match bytes {
                0 => None,
                _ => received.take(bytes, multi.options().received_bytes_max),
            };
            if bytes > 0 && share.is_none() {
                metrics::counter!("flotilla_raft_appends_refused_total").increment(1);
                let refusal = refusal(wire::refusal::Reason::Overloaded, "too many entries are on their way");
                let body = Some(wire::answer::Body::Refusal(refusal));
                self.running.push(ready(wire::Answer { id: request.id, body }).boxed());
                continue;
            }
            // First polled in this order, which is the order of their turns at their groups.
            self.running.push(answer(multi.clone(), from, request, share).boxed());
        }
        Ok(())
    }
}

/// The bytes that a request keeps until it is worked off; nothing but entries counts.
fn weight(request: &wire::Request) -> usize {
    match &request.body {
        Some(wire::request::Body::Append(append)) if !append.entries.is_empty() => append.encoded_len(),
        _ => 0,
    }
}

async fn answer(
    multi: Arc<MultiRaft>,
    from: NodeId,
    request: wire::Request,
    share: Option<Share>,
) -> wire::Answer {
    let id = request.id;
    if let Some(wire::request::Body::Pulse(pulse)) = request.body {
        let pulsed = liveness::answer(multi.hub(), from, pulse);
        return wire::Answer { id, body: Some(wire::answer::Body::Pulsed(pulsed)) };
    }
    let from = Peer { replica: ReplicaId(request.from_replica), node: from };
    let body = match multi.addressed(GroupId(request.group), ReplicaId(request.to_replica), from) {
        Ok(group) => handle(&group, from, request.body, share).await,
        Err(refusal) => Err(refusal),
    };
    wire::Answer { id, body: Some(body.unwrap_or_else(wire::answer::Body::Refusal)) }
}

/// A refusal in words.
pub(crate) fn refusal(reason: wire::refusal::Reason, detail: impl ToString) -> wire::Refusal {
    wire::Refusal { reason: reason as i32, detail: detail.to_string() }
}

pub(crate) fn malformed(error: Malformed) -> wire::Refusal {
    refusal(wire::refusal::Reason::Malformed, error)
}

pub(crate) fn stopped(error: impl ToString) -> wire::Refusal {
    refusal(wire::refusal::Reason::Stopped, error)
}

pub(crate) fn asleep(error: NotAwake) -> wire::Refusal {
    let reason = match &error {
        NotAwake::Stopped(_) => wire::refusal::Reason::Stopped,
        NotAwake::Crowded => wire::refusal::Reason::Overloaded,
    };
    refusal(reason, error)
}

async fn handle(
    group: &Arc<Group>,
    from: Peer,
    body: Option<wire::request::Body>,
    share: Option<Share>,
) -> Result<wire::answer::Body, wire::Refusal> {
    use wire::request::Body;
    match body {
        Some(Body::Append(append)) => handle_append(group, append, share).await,
        Some(Body::Vote(vote)) => handle_vote(group, vote, false).await,
        Some(Body::PreVote(vote)) => handle_vote(group, vote, true).await,
        Some(Body::TransferLeader(transfer)) => handle_transfer(group, transfer).await,
        Some(Body::Rest(rest)) => handle_rest(group, from, rest).await,
        Some(Body::Vouch(vouch)) => {
            let vote = vote_from_wire(vouch.vote).map_err(malformed)?;
            Ok(wire::answer::Body::Vouched(wire::Vouched { holds: group.vouches_for(&vote) }))
        }
        Some(Body::Pulse(_)) | None => Err(malformed(Malformed { what: "request" })),
    }
}

async fn handle_append(
    group: &Arc<Group>,
    append: wire::Append,
    share: Option<Share>,
) -> Result<wire::answer::Body, wire::Refusal> {
    let rpc = AppendEntriesRequest::<TypeConfig> {
        vote: vote_from_wire(append.vote).map_err(malformed)?,
        prev_log_id: append.previous.map(log_id_from_wire),
        entries: append
            .entries
            .into_iter()
            .map(entry_from_wire)
            .collect::<Result<_, _>>()
            .map_err(malformed)?,
        leader_commit: append.committed.map(log_id_from_wire),
    };
    let consecutive = rpc.entries.windows(2).all(|pair| pair[0].log_id.index + 1 == pair[1].log_id.index);
    let first = rpc.prev_log_id.map_or(0, |id| id.index + 1);
    if !consecutive || rpc.entries.first().is_some_and(|entry| entry.log_id.index != first) {
        return Err(malformed(Malformed { what: "sequence of entries" }));
    }
    group.heard();
    use wire::appended::Result as Appended;
    let result = match intake::append(group, rpc, share).await? {
        AppendEntriesResponse::Success => Appended::Success(true),
        AppendEntriesResponse::Conflict => Appended::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote_to_wire(&vote)),
        // Only networks make this one.
        AppendEntriesResponse::PartialSuccess(_) => return Err(stopped("a partial success")),
    };
    Ok(wire::answer::Body::Appended(wire::Appended { result: Some(result) }))
}

/// What this replica promised a leader before the restart it has forgotten: until that must have lapsed, it elects nobody. Asked
/// again when the group is awake: while it was on its way to rest and back it may have forgotten more.
fn refuse_gated(group: &Group) -> Result<(), wire::Refusal> {
    match group.is_gated() {
        true => Err(refusal(wire::refusal::Reason::Starting, "restarted a moment ago")),
        false => Ok(()),
    }
}

async fn handle_vote(
    group: &Arc<Group>,
    request: wire::VoteRequest,
    pre_vote: bool,
) -> Result<wire::answer::Body, wire::Refusal> {
    refuse_gated(group)?;
    let mut rpc = VoteRequest::<TypeConfig>::new(
        vote_from_wire(request.vote).map_err(malformed)?,
        request.last.map(log_id_from_wire),
    );
    rpc.leadership_transfer = request.leadership_transfer;
    let core = group.awake().await.map_err(asleep)?;
    refuse_gated(group)?;
    let response = if pre_vote { core.raft.pre_vote(rpc).await } else { core.raft.vote(rpc).await };
    let response = response.map_err(stopped)?;
    Ok(wire::answer::Body::Vote(wire::VoteAnswer {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_wire),
    }))
}

async fn handle_transfer(
    group: &Arc<Group>,
    transfer: wire::TransferLeader,
) -> Result<wire::answer::Body, wire::Refusal> {
    refuse_gated(group)?;
    if group.is_stalled() {
        return Err(refusal(wire::refusal::Reason::Starting, "the disk stalls"));
    }
    if group.is_stuck() {
        return Err(refusal(wire::refusal::Reason::Starting, "its state makes no progress"));
    }
    let rpc = TransferLeaderRequest::<TypeConfig>::new(
        vote_from_wire(transfer.from).map_err(malformed)?,
        transfer.to_replica,
        transfer.last.map(log_id_from_wire),
    );
    let core = group.awake().await.map_err(asleep)?;
    refuse_gated(group)?;
    let result = core.raft.handle_transfer_leader(rpc).await.map_err(stopped)?;
    let (accepted, detail) = match result {
        Ok(()) => (true, String::new()),
        Err(error) => (false, error.to_string()),
    };
    Ok(wire::answer::Body::Transfer(wire::TransferAnswer { accepted, detail }))
}

async fn handle_rest(
    group: &Arc<Group>,
    from: Peer,
    rest: wire::Rest,
) -> Result<wire::answer::Body, wire::Refusal> {
    let vote = vote_from_wire(rest.vote).map_err(malformed)?;
    let last = rest.last.ok_or_else(|| malformed(Malformed { what: "last entry" }))?;
    let owed = rest.owed.into_iter().map(NodeId).collect();
    // In a task of its own: half an end is none.
    let (done, rested) = tokio::sync::oneshot::channel();
    let task = group.clone();
    group.seams.spawn("raft-rest", async move {
        let _ = done.send(task.follow_to_rest(from, vote, last.index, owed).await);
    });
    let rests = rested.await.unwrap_or(false);
    Ok(wire::answer::Body::Rested(wire::Rested { rests }))
}
