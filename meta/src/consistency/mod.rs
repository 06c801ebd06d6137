//! Do the replicas of a group hold the same? The gRPC service `Consistency`.
//!
//! ```text
//!   operator ── Compare ──▶ any node
//!                             │ 1. Advance(0) ───────▶ the group's leader: how far is the log, and who has it?
//!                             │ 2. Digest(index) ────▶ each replica: waits for an index a little further
//!                             │ 3. Advance(index) ───▶ the leader: barriers, if nobody else writes
//!                             │ ◀─ digests, when all have applied it and read their rows
//!                             ▼
//!                           whoever is not as most are *differs*
//! ```
//!
//! All replicas are thus looked at after the same entry of the log, while clients work, and none of them waits for another: each
//! takes a view when it gets there ([`raft::Group::view_at`]) and reads it in steps, at a bounded rate. A replica that is away,
//! behind for long or being moved is *unknown*, which is neither; one that has stopped by itself has *failed*. It reads everything, so it also meets what a disk has altered
//! since it was written.
//!
//! Operators ask for it, and [`periodic`] does it by itself, and replaces what differs.
//!
//! Each replica also says what it knows of its shard: the operator's command holds that against the meta-group's map, which is
//! told of it and decides nothing.
//!
//! A group at rest wakes for it, and rests again as soon as the entry is in: its rows are read from a view, which needs no leader.
//! (There may be ten thousand, each of which would otherwise stay awake until it counts as unused.)
//!
//! What it can't see: a write that all replicas lack. (Where that breaks a constraint or an index, the service `Inspection` does, which
//! looks at tables; it lives with SQL.)

mod conduct;
mod digest;
mod judge;
mod periodic;
pub(crate) mod suspects;

pub use periodic::Periodic;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::common::Replica;
use proto::consistency as pb;
use proto::consistency::consistency_server as service;
use raft::{Group, MultiRaft};
use storage::ids::{GroupId, LogIndex, ReplicaId};
use storage::seam::Seams;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status};

use crate::MetaClient;
use crate::rpc::Channels;

/// How much a replica reads unless the operator says otherwise.
pub const BYTES_PER_SECOND: u64 = 64 << 20;
/// Digests that a node makes, or waits to make, at a time: each holds a view.
const DIGESTS_MAX: usize = 4;
/// What a replica says that was found to differ.
const QUARANTINED: &str = "it is in quarantine";
/// How a replica begins to say why it has failed.
const FAILED: &str = "the replica has failed: ";
/// Answers that wait for a slow reader.
const ANSWERS_AHEAD: usize = 4;

/// The service.
pub struct Consistency {
    cluster_id: u128,
    multi: Arc<MultiRaft>,
    client: Arc<MetaClient>,
    channels: Arc<Channels>,
    turns: Arc<Semaphore>,
    seams: Seams,
}

impl Consistency {
    /// The tonic service to mount.
    pub fn service(
        cluster_id: u128,
        multi: Arc<MultiRaft>,
        client: Arc<MetaClient>,
        seams: Seams,
    ) -> service::ConsistencyServer<Self> {
        let channels = Arc::new(Channels::new(&seams));
        let turns = Arc::new(Semaphore::new(DIGESTS_MAX));
        service::ConsistencyServer::new(Self { cluster_id, multi, client, channels, turns, seams })
    }

    async fn group(&self, cluster_id: &[u8], id: u64) -> Result<Arc<Group>, Status> {
        if cluster_id != self.cluster_id.to_be_bytes() {
            return Err(Status::failed_precondition("this node belongs to another cluster"));
        }
        let id = GroupId(id);
        let group = self.multi.group(id);
        let group = group.ok_or_else(|| Status::not_found(format!("{id} has no replica on this node")))?;
        group.touch();
        group.rouse(crate::control::ROUSE_MAX).await;
        Ok(group)
    }
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn answers<T: Send + 'static>(receiver: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    futures::stream::unfold(receiver, async |mut receiver| {
        let answer = receiver.recv().await?;
        Some((answer, receiver))
    })
    .boxed()
}

#[async_trait]
impl service::Consistency for Consistency {
    type CompareStream = Answers<pb::GroupComparison>;

    async fn compare(
        &self,
        request: Request<pb::CompareRequest>,
    ) -> Result<Response<Self::CompareStream>, Status> {
        let (sender, receiver) = mpsc::channel(ANSWERS_AHEAD);
        let conductor = conduct::Conductor {
            cluster_id: self.cluster_id,
            client: self.client.clone(),
            channels: self.channels.clone(),
            seams: self.seams.clone(),
        };
        let request = request.into_inner();
        self.seams.spawn("compare replicas", async move { conductor.compare(request, sender).await });
        Ok(Response::new(answers(receiver)))
    }

    async fn advance(
        &self,
        request: Request<pb::AdvanceRequest>,
    ) -> Result<Response<pb::AdvanceResponse>, Status> {
        let request = request.into_inner();
        let rested = self.multi.group(GroupId(request.group)).is_some_and(|group| group.rests());
        let group = self.group(&request.cluster_id, request.group).await?;
        if group.leads().is_none() {
            return Err(Status::unavailable(format!("{} is not led here", group.id())));
        }
        let advanced = group.advance(LogIndex(request.index)).await;
        advanced.map_err(|error| Status::unavailable(error.to_string()))?;
        let status = group.status();
        if request.rest_again {
            group.hurry_to_rest();
        }
        let replica = |(replica, node, learner): (_, _, bool)| {
            let (replica, node): (&storage::ids::ReplicaId, &storage::ids::NodeId) = (replica, node);
            Replica { replica: replica.0, node: node.0, learner }
        };
        let voters = status.members.iter().map(|(r, n)| (r, n, false));
        let learners = status.learners.iter().map(|(r, n)| (r, n, true));
        Ok(Response::new(pb::AdvanceResponse {
            last: status.last.map_or(0, |last| last.0),
            replicas: voters.chain(learners).map(replica).collect(),
            rested,
        }))
    }

    async fn quarantine(
        &self,
        request: Request<pb::QuarantineRequest>,
    ) -> Result<Response<pb::QuarantineResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(&request.cluster_id, request.group).await?;
        let quarantined = self.multi.quarantine(group.id(), ReplicaId(request.replica), &request.why).await;
        quarantined.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(pb::QuarantineResponse {}))
    }

    type DigestStream = Answers<pb::DigestAnswer>;

    async fn digest(
        &self,
        request: Request<pb::DigestRequest>,
    ) -> Result<Response<Self::DigestStream>, Status> {
        let request = request.into_inner();
        let group = self.group(&request.cluster_id, request.group).await?;
        if group.replica().0 != request.replica {
            let text = format!("this node has {} of {}", group.replica(), group.id());
            return Err(Status::not_found(text));
        }
        // First: it may not be able to read the other.
        if let Some(reason) = group.failed() {
            return Err(Status::failed_precondition(format!("{FAILED}{reason}")));
        }
        let quarantined = self.multi.is_quarantined(group.id(), group.replica());
        if quarantined.map_err(|error| Status::unavailable(error.to_string()))? {
            return Err(Status::failed_precondition(QUARANTINED));
        }
        let turn = self.turns.clone().try_acquire_owned();
        let turn =
            turn.map_err(|_| Status::resource_exhausted("this node makes other digests at the moment"))?;
        let view = group.view_at(LogIndex(request.index));
        let view = view.map_err(|error| match error {
            raft::NoView::Missed { .. } => Status::out_of_range(error.to_string()),
            raft::NoView::TooMany => Status::resource_exhausted(error.to_string()),
        })?;
        let (sender, receiver) = mpsc::channel(ANSWERS_AHEAD);
        let seams = self.seams.clone();
        let wanted =
            digest::Wanted { group: group.id(), view, bytes_per_second: rate(request.bytes_per_second) };
        self.seams.spawn("digest of a replica", async move {
            digest::make(wanted, &seams, sender).await;
            drop(turn);
        });
        Ok(Response::new(answers(receiver)))
    }
}

fn rate(asked: u64) -> u64 {
    if asked == 0 { BYTES_PER_SECOND } else { asked }
}
